"""What the prunings of a path are worth on rows: the forest's vote, and what the rows cost."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Bools, Floats, Ints, Singles
from prunopt.core.deprecation import renamed_attributes
from prunopt.core.jit import njit
from prunopt.core.validate import Shown, require
from prunopt.core.validate import sample_weight as checked_weight
from prunopt.problems.forest._routing import child
from prunopt.problems.forest.feature_costs import Components, FeatureCosts
from prunopt.problems.forest.node_errors import targets
from prunopt.problems.forest.tree_ensemble import TreeEnsemble, Trees


@renamed_attributes(price="penalty")
class Curve(NamedTuple):
    """What the points of a path are worth on some rows; one entry for each point, by rising penalty.

    Parameters
    ----------
    penalty
        Lowest penalty at which the point is optimal.
    expected_cost
        Mean cost of a row.
    error
        Error of the forest's vote: the share of wrong labels, or the mean squared error.
    standard_error
        Standard error of ``error`` as a mean over rows.
    score
        What ``forest.score`` returns: accuracy, or R^2.
    """

    penalty: Floats
    expected_cost: Floats
    error: Floats
    standard_error: Floats
    score: Floats


class Voters(NamedTuple):
    """Rows to vote on: labels or targets, weights, and which trees vote on each row, ``use`` (T or 1, n)."""

    code: Ints
    target: Floats
    weight: Floats
    use: Bools


def len_of(X: Any) -> int:
    """Return the number of rows of whatever has rows."""
    return int(X.shape[0]) if hasattr(X, "shape") else len(X)


def within_one_standard_error(error: Floats, standard_error: Floats) -> int:
    """Return the last (cheapest) point whose error is at most one standard error above the least."""
    best = int(np.argmin(error))
    return int(np.flatnonzero(error <= error[best] + standard_error[best])[-1])


def votes(
    ensemble: TreeEnsemble,
    penalty: Floats,
    lifetime: Ints,
    X: ArrayLike,
    y: ArrayLike,
    costs: FeatureCosts,
    *,
    sample_weight: ArrayLike | None = None,
    use: Bools | None = None,
) -> Curve:
    """Return the curve of the trees that vote on each row, ``use`` (T or 1, n); None = all.

    ``lifetime`` says at how many of the points, whose penalties are given, each internal node stays.
    """
    e = ensemble
    rows = e.rows(X)
    costs.for_rows(len(rows))
    code, target = targets(e, y, len(rows))
    weight = checked_weight(sample_weight, len(rows))
    voters = np.ones((1, 1), np.bool_) if use is None else use
    voters = np.ascontiguousarray(np.broadcast_to(voters, (len(voters), len(rows))))
    life = np.zeros(e.n_nodes, np.int64)
    life[e.internal] = lifetime
    sums = np.zeros((3, len(penalty)))
    who = Voters(code, target, weight, voters)
    total = path_votes(rows, e.arrays, e.parent, e.value, life, costs.components, who, sums)
    require(total > 0, "errors", "leave each row a tree that may vote on it", Shown("none"))
    error, square, cost = sums[0] / total, sums[1] / total, sums[2] / weight.sum()
    spread = np.sqrt(np.maximum(square - error**2, 0.0) * np.square(weight).sum()) / weight.sum()
    if e.classes is None:
        mean = np.average(target, weights=weight)
        variance = np.average(np.square(target - mean), weights=weight)
        score = 1.0 - error / variance if variance > 0 else np.where(error == 0, 1.0, 0.0)
    else:
        score = 1.0 - error
    return Curve(penalty, cost, error, spread, score)


@njit
def path_votes(
    X: Singles, trees: Trees, parent: Ints, value: Floats, lifetime: Ints, costs: Components, who: Voters, sums: Floats
) -> float:
    """Add, for every point k of a path, the weighted loss, squared loss and cost of every row to ``sums`` (3, B).

    A node is split at the points k < ``lifetime[h]``, and lifetimes do not rise from parents to children, so with
    rising k the leaf of a row moves up its path. The votes are summed again, in the order of the trees, wherever a
    leaf moved: no rounding accumulates, and ties fall as scikit-learn lets them fall. The loss is 0 or 1 for
    classification, the squared error for regression (``who.code`` empty).

    Returns
    -------
    float
        The weight of the rows that some tree voted on; costs count all rows.
    """
    T, C, B = len(trees.offsets) - 1, value.shape[1], sums.shape[1]
    leaf = np.empty(T, np.int64)
    vote = np.empty(C, np.float64)
    until = np.zeros(costs.cost.shape[1], np.int64)  # the row incurs the component at the points k < until[c]
    total = 0.0
    for i in range(len(X)):
        if who.weight[i] == 0.0:
            continue
        until[:] = 0
        voters = 0
        for t in range(T):
            h = trees.offsets[t]
            while trees.left[h] >= 0 and lifetime[h] > 0:
                f = trees.feature[h]
                if len(costs.known) == 0 or not costs.known[i % len(costs.known), f]:
                    for c in costs.of[f]:
                        if c >= 0:
                            until[c] = max(until[c], lifetime[h])
                h = child(X[i, f], h, trees)
            leaf[t] = h
            if who.use[t % len(who.use), i]:
                voters += 1
        cost = costs.cost[i if len(costs.cost) > 1 else 0]
        for c in range(len(until)):
            for k in range(until[c]):
                sums[2, k] += who.weight[i] * cost[c]
        if voters == 0:
            continue
        total += who.weight[i]
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
                    if who.use[t % len(who.use), i]:
                        for c in range(C):
                            vote[c] += value[leaf[t], c]
                if len(who.code) > 0:
                    loss = 0.0 if np.argmax(vote) == who.code[i] else 1.0
                else:
                    loss = (who.target[i] - vote[0] / voters) ** 2
            sums[0, k] += who.weight[i] * loss
            sums[1, k] += who.weight[i] * loss * loss
    return total
