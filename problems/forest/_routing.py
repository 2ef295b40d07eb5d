"""Kernels of the forest tasks: rows routed through trees, as scikit-learn routes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import AnyArray, Bools, Floats, Ints, Ints32, Singles
from prunopt.core.jit import njit
from prunopt.problems.forest.feature_costs import Components
from prunopt.problems.forest.tree_ensemble import TreeEnsemble, Trees

Hashes = NDArray[np.uint64]


def leaves_of(ensemble: TreeEnsemble, rows: Singles) -> Ints32:
    """Return the leaf (global node id) that each row reaches in each tree, shape (n, T)."""
    out = np.empty((len(rows), ensemble.n_trees), np.int32)
    add_leaves(rows, ensemble.arrays, out)
    return out


@njit
def goes_left(value: Any, missing: float, threshold: Any, missing_left: bool) -> bool:
    """Whether a value goes to the left child; ``missing`` is NaN, or the code of missing values."""
    if value == missing or value != value:
        return missing_left
    return bool(value <= threshold)


@njit
def child(value: Any, h: int, trees: Trees) -> int:
    """Return the child of node h that a value goes to."""
    left = goes_left(value, trees.missing, trees.threshold[h], trees.missing_left[h])
    return int(trees.left[h] if left else trees.right[h])


@njit
def add_leaves(X: AnyArray, trees: Trees, out: Ints32) -> None:
    """Write the leaf that each row reaches in each tree, (n, T)."""
    for t in range(len(trees.offsets) - 1):
        for i in range(len(X)):
            h = trees.offsets[t]
            while trees.left[h] >= 0:
                h = child(X[i, trees.feature[h]], h, trees)
            out[i, t] = h


@njit
def add_losses(X: Singles, t: int, trees: Trees, loss: Floats, target: Ints, weight: Floats, out: Floats) -> None:
    """Add, for every node h of tree t on the path of every row i, ``weight[i] * loss[h, target[i]]`` to ``out[h]``."""
    for i in range(len(X)):
        if weight[i] == 0.0:
            continue
        h = trees.offsets[t]
        while True:
            out[h] += weight[i] * loss[h, target[i]]
            if trees.left[h] < 0:
                break
            h = child(X[i, trees.feature[h]], h, trees)


@njit
def add_squares(X: Singles, t: int, trees: Trees, mean: Floats, target: Floats, weight: Floats, out: Floats) -> None:
    """Add, for every node h of tree t on the path of every row i, ``weight[i] * (target[i] - mean[h])^2``."""
    for i in range(len(X)):
        if weight[i] == 0.0:
            continue
        h = trees.offsets[t]
        while True:
            out[h] += weight[i] * (target[i] - mean[h]) ** 2
            if trees.left[h] < 0:
                break
            h = child(X[i, trees.feature[h]], h, trees)


@njit
def first_uses(trees: Trees, parent: AnyArray, components_of: AnyArray, costly: Bools, per_row: bool) -> Bools:
    """Return which nodes are the first on their root path to incur each component that costs something, (N, L).

    With ``per_row`` (some rows know some features, so that a later node may be the first to cost), only nodes whose
    very feature was tested above are left out.
    """
    left, feature = trees.left, trees.feature
    L = components_of.shape[1]
    first = np.zeros((len(left), L), np.bool_)
    for h in range(len(left)):
        if left[h] < 0:
            continue
        for layer in range(L):
            component = components_of[feature[h], layer]
            if component < 0 or not costly[component]:
                continue
            fresh = True
            u = parent[h]
            while u >= 0 and fresh:
                if feature[u] == feature[h]:
                    fresh = False
                elif not per_row:
                    for other in range(L):
                        if components_of[feature[u], other] == component:
                            fresh = False
                u = parent[u]
            first[h, layer] = fresh
    return first


@njit
def acquired_groups(X: AnyArray, trees: Trees, group_of: AnyArray, known: Bools, split: Bools, out: Bools) -> None:
    """Set ``out[i, g]`` where row i meets a node of group g among the nodes that stay ``split``, in any tree.

    Features that are ``known`` (0, 1 or n, K) are not acquired.
    """
    for t in range(len(trees.offsets) - 1):
        for i in range(len(X)):
            h = trees.offsets[t]
            while trees.left[h] >= 0 and split[h]:
                feature = trees.feature[h]
                if len(known) == 0 or not known[i % len(known), feature]:
                    out[i, group_of[feature]] = True
                h = child(X[i, feature], h, trees)


@njit
def _mix(state: np.uint64) -> np.uint64:
    """One step of splitmix64: a well-mixed 64-bit hash of ``state``."""
    z = state + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit
def sign_requirements(X: Singles, trees: Trees, costs: Components, first: Bools, low: Hashes, high: Hashes) -> None:
    """Hash, for every (row, component), the set of nodes that are the first to incur it on the row's paths.

    ``low`` and ``high`` (n, C) receive 128 bits, the sums of two hashes of the nodes' ids; 0 = incurred by no node.
    """
    R, made = len(costs.known), np.full(low.shape[1], -1, np.int64)  # the walk in which a component was last incurred
    for layer in range(first.shape[1]):
        asks, component = first[:, layer].copy(), costs.of[:, layer].copy()
        for t in range(len(trees.offsets) - 1):
            for i in range(len(X)):
                h = trees.offsets[t]
                walk = (layer * len(trees.offsets) + t) * len(X) + i
                while trees.left[h] >= 0:
                    if asks[h]:
                        c = component[trees.feature[h]]
                        fresh = True
                        if R > 0:
                            fresh = not costs.known[i % R, trees.feature[h]] and made[c] != walk
                            if fresh:
                                made[c] = walk
                        if fresh:
                            low[i, c] += _mix(np.uint64(2 * h))
                            high[i, c] += _mix(np.uint64(2 * h + 1))
                    h = child(X[i, trees.feature[h]], h, trees)


@njit
def merge_requirements(low: Hashes, high: Hashes, weight: Floats, component_cost: Floats) -> tuple[Ints32, Floats]:
    """Give every (row, component) that some node incurs the number of its requirement, and cost the requirements.

    Pairs of one signature, hence of one set of nodes, become one requirement with the sum of their costs: any
    solution incurs all of them or none. Pairs that cost nothing (``component_cost`` is (1 or n, C)) are left out.
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
    total = np.zeros(n * C, np.float64)
    count = 0
    # Component by component: what a node needs is of one or two components, and lies close together in memory then.
    for c in range(C):
        for i in range(n):
            cost = component_cost[i if len(component_cost) > 1 else 0, c]
            if weight[i] == 0.0 or cost == 0.0 or (low[i, c] == 0 and high[i, c] == 0):
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
            total[found] += weight[i] * cost
    return owner, total[:count].copy()


@njit
def fill_edges(
    X: Singles, trees: Trees, costs: Components, first: Bools, owner: Ints32, position: Ints, indices: Ints32
) -> None:
    """Write the requirements (of `merge_requirements`) of every node from ``position[node]`` on, and move it there.

    With no ``indices``, and ``position`` 0, this counts them.
    """
    R, made = len(costs.known), np.full(owner.shape[1], -1, np.int64)  # the walk in which a component was last incurred
    for layer in range(first.shape[1]):
        asks, component = first[:, layer].copy(), costs.of[:, layer].copy()
        for t in range(len(trees.offsets) - 1):
            for i in range(len(X)):
                h = trees.offsets[t]
                walk = (layer * len(trees.offsets) + t) * len(X) + i
                while trees.left[h] >= 0:
                    if asks[h]:
                        c = component[trees.feature[h]]
                        fresh = True
                        if R > 0:
                            fresh = not costs.known[i % R, trees.feature[h]] and made[c] != walk
                            if fresh:
                                made[c] = walk
                        if fresh and owner[i, c] >= 0:
                            if len(indices) > 0:
                                indices[position[h]] = owner[i, c]
                            position[h] += 1
                    h = child(X[i, trees.feature[h]], h, trees)
