"""Boosting with a price on features: trees that share what earlier trees bought."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Bools, Bytes, Floats, Ints32
from prunopt.forests.boosting._tree_grower import best_split, grow_tree, histogram
from prunopt.forests.boosting.losses import Loss
from prunopt.forests.boosting.trees import GrownForest
from prunopt.problems.forest.feature_costs import FeaturePrices

POOL_BYTES = 2**29  # beyond this, histograms are built anew instead of subtracted


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
    """

    learning_rate: float = 0.1
    max_leaves: int = 16
    n_trees: int = 96
    max_depth: int = 8
    ridge: float = 0.3
    min_rows: int = 5
    rows: float = 1.0
    features: float = 1.0


@dataclass(frozen=True, eq=False)
class Problem:
    """Binned rows, their targets, and the prices of feature groups.

    Parameters
    ----------
    codes : (n, K) uint8
        Binned features, 0 = missing.
    target : (n,) float64
        Class codes, or numbers.
    weight : (n,) float64
        Weights > 0.
    group_of : (K,) int32
        The purchase group of each feature.
    group_cost : (G,) float64
        Cost of each group.
    loss
        What the scores are judged by.
    n_codes
        One more than the greatest code.
    prices
        What purchases cost, where that is more than one number for each group: charges in common, prices per row,
        known features. None = ``group_cost``.
    """

    codes: Bytes
    target: Floats
    weight: Floats
    group_of: Ints32
    group_cost: Floats
    loss: Loss
    n_codes: int
    prices: FeaturePrices | None = None

    @property
    def tariff(self) -> FeaturePrices:
        """``prices``, or what ``group_cost`` says."""
        if self.prices is not None:
            return self.prices
        names = tuple(map(str, range(len(self.group_cost))))
        return FeaturePrices(self.group_of.astype(np.int64), self.group_cost, names)

    def seen(self, codes: Bytes) -> Problem:
        """Return the problem with other codes, of the same rows."""
        return replace(self, codes=codes)

    def take(self, rows: NDArray[np.intp]) -> Problem:
        """Return the problem on some of its rows."""
        return Problem(
            np.ascontiguousarray(self.codes[rows]), self.target[rows], self.weight[rows],
            self.group_of, self.group_cost, self.loss, self.n_codes,
            None if self.prices is None else self.prices.take(rows),
        )  # fmt: skip


def boost(
    data: Problem,
    shape: Shape,
    price: float,
    seed: int = 0,
    bought: Bools | None = None,
    features: Ints32 | None = None,
) -> tuple[GrownForest, Bools]:
    """Grow trees one after the other; stop where none is worth its price any more.

    Parameters
    ----------
    data
        What is learned from.
    shape
        Size of the forest.
    price
        Price of one unit of cost for one row, in units of loss; infinite: only groups that cost nothing.
    seed
        Seed of the drawn rows and features.
    bought : (n, G) bool or None
        What is known of each row at the start; changed in place.
    features
        The features that may be used; None = all.

    Returns
    -------
    forest
        The trees.
    bought : (n, G) bool
        What has been bought for each row: the union over all trees.
    """
    n, K = data.codes.shape
    rng = np.random.default_rng(seed)
    bought = np.zeros((n, len(data.group_cost)), np.bool_) if bought is None else bought
    allowed = np.arange(K, dtype=np.int32) if features is None else features
    tariff = data.tariff
    known = known_groups(tariff)
    plain = tariff.is_plain
    if plain:
        fee = np.where(data.group_cost > 0, price, 0.0) * np.where(data.group_cost > 0, data.group_cost, 1.0)
        paid = bought
    else:  # what is owed is counted in money then, not in rows
        fee = np.where(free_groups(tariff), 0.0, price)
        paid = tariff.charged(bought)
    charges = (tariff.charges_of.astype(np.int32), tariff.charge_cost, known, paid, plain)
    base = data.loss.start(data.target, data.weight)
    scores = np.tile(base, (n, 1))
    sums = np.ones((n, 2 * len(base) + 1))
    everything = np.arange(n, dtype=np.int32)
    reuse = shape.max_leaves * len(allowed) * data.n_codes * sums.shape[1] * 8 <= POOL_BYTES
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
        tree = grow_tree(
            data.codes, sums, rows, data.weight, bought, *charges, data.group_of, fee, columns,
            shape.ridge, shape.min_rows, shape.max_leaves, shape.max_depth, data.n_codes, reuse,
        )  # fmt: skip
        if len(tree[0]) == 1:
            if len(rows) == n and len(columns) == len(allowed):
                break  # without any drawing, the next tree would fail to split as well
            continue
        tree[5][:] *= shape.learning_rate
        trees.append(tree)
        scores += GrownForest.of([tree], np.zeros(len(base))).scores(data.codes)
    return GrownForest.of(trees, base), bought


def dearest_price(data: Problem, ridge: float, min_rows: int) -> float:
    r"""Return the highest price at which the first tree still buys something, :math:`\max_k gain_k / cost_k`."""
    base = data.loss.start(data.target, data.weight)
    slope, curvature = data.loss.derivatives(np.tile(base, (len(data.target), 1)), data.target)
    w = data.weight[:, None]
    sums = np.column_stack([slope * w, curvature * w, np.ones(len(data.target))])
    rows = np.arange(len(data.target), dtype=np.int32)
    best = 0.0
    free = np.zeros(len(data.group_cost))
    alone = costs_alone(data)
    hist = np.empty((1, data.n_codes, sums.shape[1]))
    for k in range(data.codes.shape[1]):
        cost = alone[data.group_of[k]]
        if cost > 0:
            column = np.array([k], np.int32)
            histogram(data.codes, rows, 0, len(rows), sums, column, hist)
            gain, feature, _, _ = best_split(hist, column, data.group_of, free, free, ridge, min_rows)
            if feature >= 0:
                best = max(best, gain / (cost * data.weight.sum()))
    return best


def known_groups(prices: FeaturePrices) -> Bools:
    """Return which groups are known, (0, 1 or n, G)."""
    mask, group_of, G = prices.known_mask, prices.group_of, len(prices.group_cost)
    whole, part = np.ones((len(mask), G), np.bool_), np.zeros((len(mask), G), np.bool_)
    for k in range(mask.shape[1]):
        whole[:, group_of[k]] &= mask[:, k]
        part[:, group_of[k]] |= mask[:, k]
    if np.any(part & ~whole):
        i, g = (int(a[0]) for a in np.nonzero(part & ~whole))
        raise ValueError(
            f"known: row {i} knows a part of the group {prices.group_names[g]!r}; a policy buys whole groups, so give "
            "all of its features as known, or none"
        )
    return whole


def free_groups(prices: FeaturePrices) -> Bools:
    """Return which groups cost no row anything, (G,)."""
    dear = np.append(np.any(prices.charge_cost > 0, axis=0), False)  # the charge -1 is no charge
    known = known_groups(prices)
    everywhere = known.all(axis=0) if len(known) else np.zeros(len(prices.group_cost), np.bool_)
    return np.asarray(~dear[prices.charges_of].any(axis=1) | everywhere)


def costs_alone(data: Problem) -> Floats:
    """Return the mean cost over the rows of each group, were nothing else bought."""
    tariff = data.tariff
    if tariff.is_plain:
        return data.group_cost
    n, G = len(data.target), len(data.group_cost)
    share, known = data.weight / data.weight.sum(), known_groups(tariff)
    out = np.zeros(G)
    for g in range(G):
        bought = np.zeros((n, G), np.bool_)
        bought[:, g] = True if len(known) == 0 else ~np.broadcast_to(known[:, g], n)
        out[g] = share @ tariff.bill(bought)
    return out
