"""Kernels that send rows through the trees of an ensemble: leaves of rows, and votes along a whole path."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Bools, Floats, Ints, Singles
from prunopt.core.jit import njit
from prunopt.problems.forest.tree_ensemble import TreeEnsemble


def leaves_of(ensemble: TreeEnsemble, rows: Singles) -> NDArray[np.int32]:
    """Return the leaf (global node id) that each row reaches in each tree, shape (n, T)."""
    e = ensemble
    out = np.empty((len(rows), e.n_trees), np.int32)
    _leaves(rows, e.offsets, e.left, e.right, e.feature, e.threshold, e.missing_left, out)
    return out


@njit
def _child(
    value: np.float32, h: int, left: Ints, right: Ints, threshold: Floats, missing_left: Bools
) -> int:  # fmt: skip
    if np.isnan(value):
        return int(left[h] if missing_left[h] else right[h])
    return int(left[h] if value <= threshold[h] else right[h])


@njit
def _leaves(
    X: Singles, offsets: Ints, left: Ints, right: Ints, feature: Ints, threshold: Floats, missing_left: Bools,
    out: NDArray[np.int32],
) -> None:  # fmt: skip
    for t in range(len(offsets) - 1):
        for i in range(len(X)):
            h = offsets[t]
            while left[h] >= 0:
                h = _child(X[i, feature[h]], h, left, right, threshold, missing_left)
            out[i, t] = h


@njit
def path_votes(
    X: Singles, offsets: Ints, left: Ints, right: Ints, parent: Ints, feature: Ints, threshold: Floats,
    missing_left: Bools, value: Floats, lifetime: Ints, charges_of: Ints, charge_cost: Floats, known: Bools, code: Ints,
    target: Floats, weight: Floats, use: Bools, error: Floats, square: Floats, cost: Floats,
) -> float:  # fmt: skip
    """Add, for every point k of a path, the weighted loss, squared loss and cost of every row.

    A node is split at the points k < ``lifetime[h]``, and lifetimes do not rise from parents to children, so with
    rising k the leaf of a row moves up its path. The votes are summed anew, in the order of the trees, wherever a
    leaf moved: no rounding accumulates, and ties fall as scikit-learn lets them fall.

    Parameters
    ----------
    charges_of : (K, L)
        The charges that each feature makes, -1 = none.
    charge_cost : (1 or n, C)
        What each costs.
    known : (0, 1 or n, K)
        Features that cost a row nothing.
    code, target : (n,)
        For classification, the class of each row (``target`` is not read); for regression ``code`` is empty.
    use : (T or 1, n)
        Which rows each tree votes on.
    error, square, cost : (B,)
        Receive the sums. The loss is 0 or 1 for classification, the squared error for regression.

    Returns
    -------
    float
        The weight of the rows that some tree voted on; ``cost`` counts all rows.
    """
    T, C, B = len(offsets) - 1, value.shape[1], len(error)
    leaf = np.empty(T, np.int64)
    vote = np.empty(C, np.float64)
    until = np.zeros(charge_cost.shape[1], np.int64)  # the row pays the charge at the points k < until[c]
    total = 0.0
    for i in range(len(X)):
        if weight[i] == 0.0:
            continue
        until[:] = 0
        voters = 0
        for t in range(T):
            h = offsets[t]
            while left[h] >= 0 and lifetime[h] > 0:
                if len(known) == 0 or not known[i % len(known), feature[h]]:
                    for c in charges_of[feature[h]]:
                        if c >= 0:
                            until[c] = max(until[c], lifetime[h])
                h = _child(X[i, feature[h]], h, left, right, threshold, missing_left)
            leaf[t] = h
            if use[t % len(use), i]:
                voters += 1
        price = charge_cost[i if len(charge_cost) > 1 else 0]
        for c in range(len(until)):
            for k in range(until[c]):
                cost[k] += weight[i] * price[c]
        if voters == 0:
            continue
        total += weight[i]
        loss = 0.0
        for k in range(B):
            moved = k == 0
            for t in range(T):
                while parent[leaf[t]] >= 0 and lifetime[parent[leaf[t]]] <= k:
                    leaf[t] = parent[leaf[t]]
                    moved = True
            if moved:
                vote[:] = 0.0
                for t in range(T):
                    if use[t % len(use), i]:
                        for c in range(C):
                            vote[c] += value[leaf[t], c]
                if len(code) > 0:
                    loss = 0.0 if np.argmax(vote) == code[i] else 1.0
                else:
                    loss = (target[i] - vote[0] / voters) ** 2
            error[k] += weight[i] * loss
            square[k] += weight[i] * loss * loss
    return total
