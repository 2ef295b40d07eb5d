"""Kernels of the forest tasks: rows routed through trees, as scikit-learn routes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Bools, Floats, Ints, Singles
from prunopt.core.jit import njit


@njit
def _goes_left(value: np.float32, threshold: float, missing_left: bool) -> bool:
    if np.isnan(value):
        return missing_left
    return bool(value <= threshold)


@njit
def add_losses(
    X: Singles, root: int, left: Ints, right: Ints, feature: Ints, threshold: Floats, missing_left: Bools,
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
    X: Singles, root: int, left: Ints, right: Ints, feature: Ints, threshold: Floats, missing_left: Bools,
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
def first_uses(left: Ints, parent: Ints, feature: Ints, charges_of: Ints, paid: Bools, per_row: bool) -> Bools:
    """Return which internal nodes are the first on their root path to make each charge that costs something, (N, L).

    With ``per_row`` (some rows know some features, so that a later node may be the first to pay), only nodes whose very
    feature was tested above are left out.
    """
    L = charges_of.shape[1]
    first = np.zeros((len(left), L), np.bool_)
    for h in range(len(left)):
        if left[h] < 0:
            continue
        for layer in range(L):
            charge = charges_of[feature[h], layer]
            if charge < 0 or not paid[charge]:
                continue
            fresh = True
            u = parent[h]
            while u >= 0 and fresh:
                if feature[u] == feature[h]:
                    fresh = False
                elif not per_row:
                    for other in range(L):
                        if charges_of[feature[u], other] == charge:
                            fresh = False
                u = parent[u]
            first[h, layer] = fresh
    return first


@njit
def bought_groups(
    X: Singles, offsets: Ints, left: Ints, right: Ints, feature: Ints, threshold: Floats, missing_left: Bools,
    group_of: Ints, known: Bools, split: Bools, out: Bools,
) -> None:  # fmt: skip
    """Set ``out[i, g]`` where row i meets a node of group g among the nodes that stay ``split``, in any tree.

    Features that are ``known`` (0, 1 or n, K) are not bought.
    """
    for t in range(len(offsets) - 1):
        for i in range(len(X)):
            h = offsets[t]
            while left[h] >= 0 and split[h]:
                if len(known) == 0 or not known[i % len(known), feature[h]]:
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
    X: Singles, offsets: Ints, left: Ints, right: Ints, feature: Ints, threshold: Floats, missing_left: Bools,
    charges_of: Ints, first: Bools, known: Bools, low: NDArray[np.uint64], high: NDArray[np.uint64],
) -> None:  # fmt: skip
    """Hash, for every (row, charge), the set of nodes that are the first to make the charge on the row's paths.

    ``low`` and ``high`` (n, C) receive 128 bits, the sums of two hashes of the nodes' ids; 0 = made by no node.
    """
    R, made = len(known), np.full(low.shape[1], -1, np.int64)  # the walk in which a charge was last made
    for layer in range(first.shape[1]):
        asks, charge = first[:, layer].copy(), charges_of[:, layer].copy()
        for t in range(len(offsets) - 1):
            for i in range(len(X)):
                h = offsets[t]
                walk = (layer * len(offsets) + t) * len(X) + i
                while left[h] >= 0:
                    if asks[h]:
                        c = charge[feature[h]]
                        fresh = True
                        if R > 0:
                            fresh = not known[i % R, feature[h]] and made[c] != walk
                            if fresh:
                                made[c] = walk
                        if fresh:
                            low[i, c] += _mix(np.uint64(2 * h))
                            high[i, c] += _mix(np.uint64(2 * h + 1))
                    go = _goes_left(X[i, feature[h]], threshold[h], missing_left[h])
                    h = left[h] if go else right[h]


@njit
def merge_requirements(
    low: NDArray[np.uint64], high: NDArray[np.uint64], weight: Floats, charge_cost: Floats
) -> tuple[NDArray[np.int32], Floats]:
    """Give every (row, charge) that some node makes the number of its requirement, and price the requirements.

    Pairs of one signature, hence of one set of nodes, become one requirement with the sum of their costs: any
    solution pays for all of them or for none. Pairs that cost nothing (``charge_cost`` is (1 or n, C)) are left out.
    Returns the number for the first pair of each requirement (n, C), -1 for all other pairs, and the costs.
    """
    n, C = low.shape
    size = 1024
    while size < 2 * n * C and size < 2**31:
        size *= 2
    mask = np.uint64(size - 1)
    slot = np.full(size, -1, np.int32)
    owner = np.full((n, C), -1, np.int32)
    # A requirement is remembered by its first pair, whose signature the others are compared with.
    first_pair = np.empty(n * C, np.int64)
    cost = np.zeros(n * C, np.float64)
    count = 0
    for i in range(n):
        if weight[i] == 0.0:
            continue
        price = charge_cost[i if len(charge_cost) > 1 else 0]
        for c in range(C):
            if price[c] == 0.0 or (low[i, c] == 0 and high[i, c] == 0):
                continue
            at = low[i, c] & mask
            found = np.int32(-1)
            while slot[at] >= 0:
                pair = first_pair[slot[at]]
                if low[pair // C, pair % C] == low[i, c] and high[pair // C, pair % C] == high[i, c]:
                    found = slot[at]
                    break
                at = (at + np.uint64(1)) & mask
            if found < 0:
                found = np.int32(count)
                count += 1
                first_pair[found] = i * C + c
                owner[i, c] = found
                slot[at] = found
            cost[found] += weight[i] * price[c]
    return owner, cost[:count].copy()


@njit
def fill_edges(
    X: Singles, offsets: Ints, left: Ints, right: Ints, feature: Ints, threshold: Floats, missing_left: Bools,
    charges_of: Ints, first: Bools, known: Bools, owner: NDArray[np.int32], position: Ints,
    indices: NDArray[np.int32],
) -> None:  # fmt: skip
    """Write the requirements (of `merge_requirements`) of every node from ``position[node]`` on, and move it there.

    With no ``indices``, and ``position`` 0, this counts them.
    """
    R, made = len(known), np.full(owner.shape[1], -1, np.int64)  # the walk in which a charge was last made
    for layer in range(first.shape[1]):
        asks, charge = first[:, layer].copy(), charges_of[:, layer].copy()
        for t in range(len(offsets) - 1):
            for i in range(len(X)):
                h = offsets[t]
                walk = (layer * len(offsets) + t) * len(X) + i
                while left[h] >= 0:
                    if asks[h]:
                        c = charge[feature[h]]
                        fresh = True
                        if R > 0:
                            fresh = not known[i % R, feature[h]] and made[c] != walk
                            if fresh:
                                made[c] = walk
                        if fresh and owner[i, c] >= 0:
                            if len(indices) > 0:
                                indices[position[h]] = owner[i, c]
                            position[h] += 1
                    go = _goes_left(X[i, feature[h]], threshold[h], missing_left[h])
                    h = left[h] if go else right[h]
