"""Kernels of the forest tasks: rows routed through trees, as scikit-learn routes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunopt.core.jit import njit

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Rows = NDArray[np.float32]
Bools = NDArray[np.bool_]


@njit
def _goes_left(value: np.float32, threshold: float, missing_left: bool) -> bool:
    if np.isnan(value):
        return missing_left
    return bool(value <= threshold)


@njit
def add_losses(
    X: Rows, root: int, left: Ints, right: Ints, feature: Ints, threshold: Floats, missing_left: Bools,
    loss: Floats, target: Ints, weight: Floats, out: Floats,
) -> None:  # fmt: skip
    """Add, for every node h on the path of every row i, ``weight[i] * loss[h, target[i]]`` to ``out[h]``."""
    for i in range(len(X)):
        if weight[i] == 0.0:
            continue
        h = root
        while True:
            out[h] += weight[i] * loss[h, target[i]]
            if left[h] < 0:
                break
            go = _goes_left(X[i, feature[h]], threshold[h], missing_left[h])
            h = left[h] if go else right[h]


@njit
def add_squares(
    X: Rows, root: int, left: Ints, right: Ints, feature: Ints, threshold: Floats, missing_left: Bools,
    mean: Floats, target: Floats, weight: Floats, out: Floats,
) -> None:  # fmt: skip
    """Add, for every node h on the path of every row i, ``weight[i] * (target[i] - mean[h])^2`` to ``out[h]``."""
    for i in range(len(X)):
        if weight[i] == 0.0:
            continue
        h = root
        while True:
            out[h] += weight[i] * (target[i] - mean[h]) ** 2
            if left[h] < 0:
                break
            go = _goes_left(X[i, feature[h]], threshold[h], missing_left[h])
            h = left[h] if go else right[h]


@njit
def first_uses(offsets: Ints, left: Ints, parent: Ints, feature: Ints, group_of: Ints, paid: Bools) -> Bools:
    """Return which internal nodes are the first on their root path to use a group that costs something."""
    first = np.zeros(len(left), np.bool_)
    for h in range(len(left)):
        if left[h] < 0 or not paid[group_of[feature[h]]]:
            continue
        group = group_of[feature[h]]
        u = parent[h]
        while u >= 0 and group_of[feature[u]] != group:
            u = parent[u]
        first[h] = u < 0
    return first


@njit
def bought_groups(
    X: Rows, offsets: Ints, left: Ints, right: Ints, feature: Ints, threshold: Floats, missing_left: Bools,
    group_of: Ints, split: Bools, out: Bools,
) -> None:  # fmt: skip
    """Set ``out[i, g]`` where row i meets a node of group g among the nodes that stay ``split``, in any tree."""
    for t in range(len(offsets) - 1):
        for i in range(len(X)):
            h = offsets[t]
            while left[h] >= 0 and split[h]:
                out[i, group_of[feature[h]]] = True
                go = _goes_left(X[i, feature[h]], threshold[h], missing_left[h])
                h = left[h] if go else right[h]


@njit
def _mix(state: np.uint64) -> np.uint64:
    """One step of splitmix64: a well-mixed 64-bit hash of ``state``."""
    z = state + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit
def sign_requirements(
    X: Rows, offsets: Ints, left: Ints, right: Ints, feature: Ints, threshold: Floats, missing_left: Bools,
    group_of: Ints, first: Bools, low: NDArray[np.uint64], high: NDArray[np.uint64],
) -> None:  # fmt: skip
    """Hash, for every (row, group), the set of nodes that first use the group on the row's paths.

    ``low`` and ``high`` (n, G) receive 128 bits, the sums of two hashes of the nodes' ids; 0 = needed by no node.
    """
    for t in range(len(offsets) - 1):
        for i in range(len(X)):
            h = offsets[t]
            while left[h] >= 0:
                if first[h]:
                    g = group_of[feature[h]]
                    low[i, g] += _mix(np.uint64(2 * h))
                    high[i, g] += _mix(np.uint64(2 * h + 1))
                go = _goes_left(X[i, feature[h]], threshold[h], missing_left[h])
                h = left[h] if go else right[h]


@njit
def merge_requirements(
    low: NDArray[np.uint64], high: NDArray[np.uint64], weight: Floats, group_cost: Floats
) -> tuple[NDArray[np.int32], Floats]:
    """Give every (row, group) that some node needs the number of its requirement, and price the requirements.

    Pairs of one signature, hence of one set of nodes, become one requirement with the sum of their costs: any
    solution pays for all of them or for none. Returns the number for the first pair of each requirement (n, G), -1
    for all other pairs, and the costs.
    """
    n, G = low.shape
    size = 1024
    while size < 2 * n * G and size < 2**31:
        size *= 2
    mask = np.uint64(size - 1)
    slot = np.full(size, -1, np.int32)
    owner = np.full((n, G), -1, np.int32)
    # A requirement is remembered by its first pair, whose signature the others are compared with.
    first_pair = np.empty(n * G, np.int64)
    cost = np.zeros(n * G, np.float64)
    count = 0
    for i in range(n):
        if weight[i] == 0.0:
            continue
        for g in range(G):
            if low[i, g] == 0 and high[i, g] == 0:
                continue
            at = low[i, g] & mask
            found = np.int32(-1)
            while slot[at] >= 0:
                pair = first_pair[slot[at]]
                if low[pair // G, pair % G] == low[i, g] and high[pair // G, pair % G] == high[i, g]:
                    found = slot[at]
                    break
                at = (at + np.uint64(1)) & mask
            if found < 0:
                found = np.int32(count)
                count += 1
                first_pair[found] = i * G + g
                owner[i, g] = found
                slot[at] = found
            cost[found] += weight[i] * group_cost[g]
    return owner, cost[:count].copy()


@njit
def count_edges(
    X: Rows, offsets: Ints, left: Ints, right: Ints, feature: Ints, threshold: Floats, missing_left: Bools,
    group_of: Ints, first: Bools, owner: NDArray[np.int32], count: Ints,
) -> None:  # fmt: skip
    """Count, for every node, the requirements of `merge_requirements` that it needs."""
    for t in range(len(offsets) - 1):
        for i in range(len(X)):
            h = offsets[t]
            while left[h] >= 0:
                if first[h] and owner[i, group_of[feature[h]]] >= 0:
                    count[h] += 1
                go = _goes_left(X[i, feature[h]], threshold[h], missing_left[h])
                h = left[h] if go else right[h]


@njit
def fill_edges(
    X: Rows, offsets: Ints, left: Ints, right: Ints, feature: Ints, threshold: Floats, missing_left: Bools,
    group_of: Ints, first: Bools, owner: NDArray[np.int32], position: Ints, indices: NDArray[np.int32],
) -> None:  # fmt: skip
    """Write the requirements of every node from ``position[node]`` on."""
    for t in range(len(offsets) - 1):
        for i in range(len(X)):
            h = offsets[t]
            while left[h] >= 0:
                if first[h]:
                    j = owner[i, group_of[feature[h]]]
                    if j >= 0:
                        indices[position[h]] = j
                        position[h] += 1
                go = _goes_left(X[i, feature[h]], threshold[h], missing_left[h])
                h = left[h] if go else right[h]
