"""Cost-efficient gradient boosting (CEGB-like growing): splits are penalized for features that rows have to acquire."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Bools, Bytes, Floats, Ints32
from prunopt.core.validate import number, whole_number
from prunopt.forests.boosting._tree_grower import BinnedRows, RowCosts, TreeSize, best_split, grow_tree, histogram
from prunopt.forests.boosting.losses import Loss
from prunopt.forests.boosting.trees import GrownForest, add_tree
from prunopt.problems.forest.feature_costs import FeatureCosts

POOL_BYTES = 2**29  # beyond this, histograms are rebuilt instead of subtracted


@dataclass(frozen=True)
class Shape:
    """The size of a boosted forest.

    Parameters
    ----------
    learning_rate
        Factor on the values of each tree.
    max_leaves, max_depth
        Greatest number of leaves and of tests on a path, a tree.
    n_trees
        Number of trees.
    ridge
        L2 penalty on the values, in units of second derivatives.
    min_rows
        Least number of rows in a leaf.
    rows, features
        Fractions of the rows and features that each tree sees, drawn at random.
    max_bins
        Most bins a feature, where the features are not binned yet.
    """

    learning_rate: float = 0.1
    max_leaves: int = 16
    n_trees: int = 96
    max_depth: int = 8
    ridge: float = 0.3
    min_rows: int = 5
    rows: float = 1.0
    features: float = 1.0
    max_bins: int = 128

    def __post_init__(self) -> None:
        for name in ("n_trees", "max_leaves", "max_depth", "min_rows"):
            whole_number(name, getattr(self, name), low=1)
        for name in ("learning_rate", "ridge"):
            number(name, getattr(self, name), low=0, open_ends="(")


@dataclass(frozen=True, eq=False)
class Problem:
    """Binned rows, their targets, and the costs of features.

    Parameters
    ----------
    codes : (n, K) uint8
        Binned features, 0 = missing.
    target : (n,) float64
        Class codes, or numbers.
    weight : (n,) float64
        Weights > 0.
    feature_costs
        Groups of features, and their costs for these rows.
    loss
        What the scores are judged by.
    n_codes
        One more than the greatest code.
    """

    codes: Bytes
    target: Floats
    weight: Floats
    feature_costs: FeatureCosts
    loss: Loss
    n_codes: int

    def seen(self, codes: Bytes) -> Problem:
        """Return the problem with other codes, of the same rows."""
        return replace(self, codes=codes)

    def take(self, rows: NDArray[np.intp]) -> Problem:
        """Return the problem on some of its rows."""
        codes, costs = np.ascontiguousarray(self.codes[rows]), self.feature_costs.take(rows)
        return replace(self, codes=codes, target=self.target[rows], weight=self.weight[rows], feature_costs=costs)

    def mean_cost(self, acquired: Bools) -> float:
        """Return the weighted mean cost of the rows for the ``acquired`` groups (n, G)."""
        return float(self.weight / self.weight.sum() @ self.feature_costs.of_rows(acquired))


def boost(
    data: Problem,
    shape: Shape,
    penalty: float,
    seed: int = 0,
    acquired: Bools | None = None,
    features: Ints32 | None = None,
) -> tuple[GrownForest, Bools]:
    """Grow trees one after the other; stop where no split is worth its penalized cost any more.

    Parameters
    ----------
    data
        What is learned from.
    shape
        Size of the forest.
    penalty
        Multiplier of the cost of a row, in units of loss; infinite: only groups that cost nothing.
    seed
        Seed of the drawn rows and features.
    acquired : (n, G) bool or None
        What is known of each row at the start; changed in place.
    features
        The features that may be used; None = all.

    Returns
    -------
    forest
        The trees.
    acquired : (n, G) bool
        What has been acquired for each row: the union over all trees.
    """
    n, K = data.codes.shape
    rng = np.random.default_rng(seed)
    costs = data.feature_costs
    acquired = np.zeros((n, len(costs.group_cost)), np.bool_) if acquired is None else acquired
    allowed = np.arange(K, dtype=np.int32) if features is None else features
    plain = costs.is_plain
    if plain:
        costly = costs.group_cost > 0
        penalties = np.where(costly, penalty, 0.0) * np.where(costly, costs.group_cost, 1.0)
        incurred = acquired
    else:
        penalties = np.where(costs.free_groups, 0.0, penalty)
        incurred = costs.incurred(acquired)
    asked = np.flatnonzero(penalties > 0).astype(np.int32)
    known = costs.known_groups
    spent = RowCosts(plain, penalties, asked, costs.components_of, costs.component_cost, known, acquired, incurred)
    base = data.loss.start(data.target, data.weight)
    scores = np.tile(base, (n, 1))
    sums = np.ones((n, 2 * len(base) + 1))
    everything = np.arange(n, dtype=np.int32)
    reuse = shape.max_leaves * len(allowed) * data.n_codes * sums.shape[1] * 8 <= POOL_BYTES
    size = TreeSize(shape.ridge, shape.min_rows, shape.max_leaves, shape.max_depth, data.n_codes, reuse)
    binned = BinnedRows(data.codes, sums, data.weight, costs.group_of)
    trees = []
    for _ in range(shape.n_trees if len(allowed) else 0):
        slope, curvature = data.loss.derivatives(scores, data.target)
        sums[:, : len(base)] = slope * data.weight[:, None]
        sums[:, len(base) : -1] = curvature * data.weight[:, None]
        rows, columns = everything, allowed
        if shape.rows < 1.0:
            rows = np.flatnonzero(rng.random(n) < shape.rows).astype(np.int32)
        if shape.features < 1.0:
            some = rng.permutation(len(allowed))[: max(1, round(shape.features * len(allowed)))]
            columns = allowed[np.sort(some)]
        if not len(rows):
            continue
        tree = grow_tree(binned, rows, columns, spent, size)
        if len(tree.feature) == 1:
            if len(rows) == n and len(columns) == len(allowed):
                break  # without any drawing, the next tree would fail to split as well
            continue
        tree.value[:] *= shape.learning_rate
        trees.append(tree)
        add_tree(data.codes, tree, scores)
    return GrownForest.of(trees, base), acquired


def largest_penalty(data: Problem, ridge: float, min_rows: int) -> float:
    r"""Return the highest penalty at which the first tree still acquires something, :math:`\max_k gain_k / cost_k`."""
    base = data.loss.start(data.target, data.weight)
    slope, curvature = data.loss.derivatives(np.tile(base, (len(data.target), 1)), data.target)
    w = data.weight[:, None]
    sums = np.column_stack([slope * w, curvature * w, np.ones(len(data.target))])
    rows = np.arange(len(data.target), dtype=np.int32)
    best = 0.0
    group_of = data.feature_costs.group_of
    free = np.zeros(len(data.feature_costs.group_cost))
    alone = costs_alone(data)
    hist = np.empty((1, data.n_codes, sums.shape[1]))
    for k in range(data.codes.shape[1]):
        cost = alone[group_of[k]]
        if cost > 0:
            column = np.array([k], np.int32)
            histogram(data.codes, rows, 0, len(rows), sums, column, hist)
            gain, feature, _, _ = best_split(hist, column, group_of, free, free, ridge, min_rows)
            if feature >= 0:
                best = max(best, gain / (cost * data.weight.sum()))
    return best


def costs_alone(data: Problem) -> Floats:
    """Return the mean cost over the rows of each group, were nothing else acquired."""
    costs = data.feature_costs
    if costs.is_plain:
        return costs.group_cost
    n, G = len(data.target), len(costs.group_cost)
    known = costs.known_groups
    out = np.zeros(G)
    for g in range(G):
        acquired = np.zeros((n, G), np.bool_)
        acquired[:, g] = True if len(known) == 0 else ~np.broadcast_to(known[:, g], n)
        out[g] = data.mean_cost(acquired)
    return out
