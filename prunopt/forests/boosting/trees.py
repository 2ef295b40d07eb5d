"""Grown forests as arrays, and what their trees do with rows: leaves, scores, purchases."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Bools, Bytes, Floats, Ints32
from prunopt.core.jit import njit
from prunopt.forests.boosting._tree_grower import goes_left
from prunopt.problems.forest.feature_costs import FeaturePrices


@dataclass(frozen=True, eq=False)
class GrownForest:
    """An additive forest over binned features.

    The score of a row is ``base`` plus the values of the leaves that it reaches, one a tree.

    Parameters
    ----------
    feature : (N,) int32
        The feature that a node tests, -1 at a leaf.
    code : (N,) int32
        Bytes from 1 to this one go left.
    missing_left : (N,) bool
        Whether missing values (code 0) go left.
    left, right : (N,) int32
        Children, numbered over the whole forest, -1 at a leaf.
    value : (N, C) float64
        Scores, at the nodes inside too: what the node gives when it becomes a leaf.
    offsets : (T + 1,) int32
        Nodes of tree t are ``offsets[t]:offsets[t + 1]``, its root the first; children come after their parents.
    base : (C,) float64
        Scores of no tree at all.
    """

    feature: Ints32
    code: Ints32
    missing_left: Bools
    left: Ints32
    right: Ints32
    value: Floats
    offsets: Ints32
    base: Floats

    @classmethod
    def empty(cls, base: Floats) -> GrownForest:
        """Return a forest of no trees."""
        none, bools = np.zeros(0, np.int32), np.zeros(0, np.bool_)
        return cls(none, none, bools, none, none, np.zeros((0, len(base))), np.zeros(1, np.int32), base)

    @classmethod
    def of(cls, trees: list[tuple[Ints32, Ints32, Bools, Ints32, Ints32, Floats]], base: Floats) -> GrownForest:
        """Join trees whose children are numbered from 0."""
        if not trees:
            return cls.empty(base)
        offsets = np.cumsum([0] + [len(t[0]) for t in trees]).astype(np.int32)
        left = np.concatenate([np.where(t[3] >= 0, t[3] + o, -1) for t, o in zip(trees, offsets, strict=False)])
        right = np.concatenate([np.where(t[4] >= 0, t[4] + o, -1) for t, o in zip(trees, offsets, strict=False)])
        feature, code, missing_left = (np.concatenate([t[k] for t in trees]) for k in range(3))
        value = np.concatenate([t[5] for t in trees])
        return cls(
            feature, code, missing_left, left.astype(np.int32), right.astype(np.int32), value, offsets, base
        )  # fmt: skip

    @property
    def n_trees(self) -> int:
        """Number of trees T."""
        return len(self.offsets) - 1

    @property
    def n_nodes(self) -> int:
        """Number of nodes N."""
        return len(self.feature)

    @property
    def internal(self) -> NDArray[np.intp]:
        """The nodes that are no leaves."""
        return np.flatnonzero(self.feature >= 0)

    def arrays(self) -> tuple[Ints32, Ints32, Bools, Ints32, Ints32, Ints32]:
        """Return what the kernels read."""
        return self.offsets, self.feature, self.code, self.missing_left, self.left, self.right  # type: ignore[return-value]

    def leaves(self, codes: Bytes) -> Ints32:
        """Return the leaf that each row reaches in each tree, (n, T)."""
        out = np.empty((len(codes), self.n_trees), np.int32)
        _leaves(codes, *self.arrays(), out)
        return out

    def scores(self, codes: Bytes, n_trees: int | None = None) -> Floats:
        """Return the scores (n, C) of the first ``n_trees`` trees."""
        out = np.tile(self.base, (len(codes), 1))
        _add_scores(codes, *self.arrays(), self.value, self.n_trees if n_trees is None else n_trees, out)
        return out

    def purchases(self, codes: Bytes, group_of: Ints32, n_groups: int) -> Bools:
        """Return which groups the trees ask for, (n, G)."""
        out = np.zeros((len(codes), n_groups), np.bool_)
        _purchases(codes, *self.arrays(), group_of, out)
        return out

    def family(self, codes: Bytes, lifetime: Ints32, n_points: int, prices: FeaturePrices) -> tuple[Floats, Floats]:
        """Return scores (P, n, C) and costs (P, n) of P nested prunings: point k keeps the nodes of ``lifetime`` > k.

        Trees are walked once for all points.
        """
        scores = np.empty((n_points, len(codes), len(self.base)))
        scores[:] = self.base
        costs = np.zeros((n_points, len(codes)))
        charges = (prices.feature_charges.astype(np.int32), prices.charge_cost, prices.known_mask)
        _family(codes, *self.arrays(), self.value, lifetime, *charges, scores, costs)
        return scores, costs

    def pruned(self, keep: Bools) -> GrownForest:
        """Return the forest in which only the nodes ``keep`` (N,) test; trees without any go into ``base``."""
        offsets, feature, _, _, left, right = self.arrays()
        reached = np.zeros(self.n_nodes, np.bool_)
        reached[offsets[:-1]] = True
        inside = keep & (feature >= 0)
        _mark(inside, left, right, reached)
        inside &= reached
        roots = offsets[:-1]
        alive = inside[roots]
        base = self.base + self.value[roots[~alive]].sum(axis=0)
        tree = np.repeat(np.arange(self.n_trees), np.diff(offsets))
        stays = reached & alive[tree]
        place = np.cumsum(stays, dtype=np.int32) - 1
        old = np.flatnonzero(stays)
        tests = inside[old]
        counts = np.bincount(tree[old], minlength=self.n_trees)[alive]
        return replace(
            self,
            feature=np.where(tests, feature[old], -1).astype(np.int32),
            code=self.code[old],
            missing_left=self.missing_left[old],
            left=np.where(tests, place[left[old]], -1).astype(np.int32),
            right=np.where(tests, place[right[old]], -1).astype(np.int32),
            value=self.value[old],
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
            base=base,
        )


@njit
def _leaves(
    codes: Bytes,
    offsets: Ints32,
    feature: Ints32,
    code: Ints32,
    missing_left: Bools,
    left: Ints32,
    right: Ints32,
    out: Ints32,
) -> None:
    for t in range(len(offsets) - 1):
        for i in range(len(codes)):
            h = offsets[t]
            while feature[h] >= 0:
                go = goes_left(codes[i, feature[h]], code[h], missing_left[h])
                h = left[h] if go else right[h]
            out[i, t] = h


@njit
def _add_scores(
    codes: Bytes, offsets: Ints32, feature: Ints32, code: Ints32, missing_left: Bools, left: Ints32, right: Ints32,
    value: Floats, n_trees: int, out: Floats,
) -> None:  # fmt: skip
    for t in range(n_trees):
        for i in range(len(codes)):
            h = offsets[t]
            while feature[h] >= 0:
                go = goes_left(codes[i, feature[h]], code[h], missing_left[h])
                h = left[h] if go else right[h]
            for c in range(value.shape[1]):
                out[i, c] += value[h, c]


@njit
def _purchases(
    codes: Bytes, offsets: Ints32, feature: Ints32, code: Ints32, missing_left: Bools, left: Ints32, right: Ints32,
    group_of: Ints32, out: Bools,
) -> None:  # fmt: skip
    for t in range(len(offsets) - 1):
        for i in range(len(codes)):
            h = offsets[t]
            while feature[h] >= 0:
                out[i, group_of[feature[h]]] = True
                go = goes_left(codes[i, feature[h]], code[h], missing_left[h])
                h = left[h] if go else right[h]


@njit
def _family(
    codes: Bytes, offsets: Ints32, feature: Ints32, code: Ints32, missing_left: Bools, left: Ints32, right: Ints32,
    value: Floats, lifetime: Ints32, charges_of: Ints32, charge_cost: Floats, known: Bools,
    scores: Floats, costs: Floats,
) -> None:  # fmt: skip
    P, n, C = scores.shape
    needed = np.zeros(charge_cost.shape[1], np.int32)  # points below this one pay the charge for the row
    for i in range(n):
        needed[:] = 0
        for t in range(len(offsets) - 1):
            h = offsets[t]
            alive = P
            while alive > 0:
                life = min(alive, lifetime[h]) if feature[h] >= 0 else 0
                for k in range(life, alive):
                    for c in range(C):
                        scores[k, i, c] += value[h, c]
                alive = life
                if life > 0:
                    if len(known) == 0 or not known[i if len(known) > 1 else 0, feature[h]]:
                        for c in charges_of[feature[h]]:
                            if c >= 0:
                                needed[c] = max(needed[c], life)
                    go = goes_left(codes[i, feature[h]], code[h], missing_left[h])
                    h = left[h] if go else right[h]
        price = charge_cost[i if len(charge_cost) > 1 else 0]
        for c in range(len(price)):
            for k in range(needed[c]):
                costs[k, i] += price[c]


@njit
def _mark(inside: Bools, left: Ints32, right: Ints32, reached: Bools) -> None:
    for h in range(len(inside)):
        if reached[h] and inside[h]:
            reached[left[h]] = True
            reached[right[h]] = True
