"""Grown forests as arrays, and what their trees do with rows: leaves, scores, acquired groups."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Bools, Bytes, Floats, Ints32
from prunopt.core.jit import njit
from prunopt.forests.boosting._tree_grower import GrownTree
from prunopt.problems.forest._routing import acquired_groups, add_leaves, child, goes_left
from prunopt.problems.forest.feature_costs import Components, FeatureCosts
from prunopt.problems.forest.tree_ensemble import Trees


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
    def of(cls, trees: list[GrownTree], base: Floats) -> GrownForest:
        """Join trees whose children are numbered from 0."""
        if not trees:
            return cls.empty(base)
        offsets = np.cumsum([0] + [len(t.feature) for t in trees]).astype(np.int32)
        shift = np.repeat(offsets[:-1], np.diff(offsets))
        feature, code, missing_left, left, right, value = (np.concatenate(part) for part in zip(*trees, strict=True))
        left, right = (np.where(side >= 0, side + shift, -1).astype(np.int32) for side in (left, right))
        return cls(feature, code, missing_left, left, right, value, offsets, base)

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
        """The nodes that are not leaves."""
        return np.flatnonzero(self.feature >= 0)

    @property
    def arrays(self) -> Trees:
        """What the kernels read."""
        return Trees(self.offsets, self.left, self.right, self.feature, self.code, self.missing_left, 0)

    def leaves(self, codes: Bytes) -> Ints32:
        """Return the leaf that each row reaches in each tree, (n, T)."""
        out = np.empty((len(codes), self.n_trees), np.int32)
        add_leaves(codes, self.arrays, out)
        return out

    def scores(self, codes: Bytes, n_trees: int | None = None) -> Floats:
        """Return the scores (n, C) of the first ``n_trees`` trees."""
        out = np.tile(self.base, (len(codes), 1))
        _add_scores(codes, self.arrays, self.value, self.n_trees if n_trees is None else n_trees, out)
        return out

    def groups(self, codes: Bytes, costs: FeatureCosts) -> Bools:
        """Return which groups the trees ask for, (n, G); some may be known already."""
        out = np.zeros((len(codes), len(costs.group_cost)), np.bool_)
        nothing = np.zeros((0, codes.shape[1]), np.bool_)
        acquired_groups(codes, self.arrays, costs.group_of, nothing, self.feature >= 0, out)
        return out

    def family(self, codes: Bytes, lifetime: Ints32, n_points: int, costs: FeatureCosts) -> tuple[Floats, Floats]:
        """Return scores (P, n, C) and costs (P, n) of P nested prunings: point k keeps the nodes of ``lifetime`` > k.

        Trees are walked once for all points.
        """
        scores = np.empty((n_points, len(codes), len(self.base)))
        scores[:] = self.base
        spent = np.zeros((n_points, len(codes)))
        _family(codes, self.arrays, self.value, lifetime, costs.components, scores, spent)
        return scores, spent

    def pruned(self, keep: Bools) -> GrownForest:
        """Return the forest in which only the nodes ``keep`` (N,) test; trees without any go into ``base``."""
        offsets, feature, left, right = self.offsets, self.feature, self.left, self.right
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
def _add_scores(codes: Bytes, trees: Trees, value: Floats, n_trees: int, out: Floats) -> None:
    for t in range(n_trees):
        for i in range(len(codes)):
            h = trees.offsets[t]
            while trees.left[h] >= 0:
                h = child(codes[i, trees.feature[h]], h, trees)
            for c in range(value.shape[1]):
                out[i, c] += value[h, c]


@njit
def add_tree(codes: Bytes, tree: GrownTree, out: Floats) -> None:
    """Add the values of the leaves that rows reach in one tree to ``out`` (n, C)."""
    for i in range(len(codes)):
        h = 0
        while tree.left[h] >= 0:
            left = goes_left(codes[i, tree.feature[h]], 0, tree.code[h], tree.missing_left[h])
            h = tree.left[h] if left else tree.right[h]
        for c in range(tree.value.shape[1]):
            out[i, c] += tree.value[h, c]


@njit
def _family(
    codes: Bytes, trees: Trees, value: Floats, lifetime: Ints32, costs: Components, scores: Floats, out: Floats
) -> None:
    P, n, C = scores.shape
    needed = np.zeros(costs.cost.shape[1], np.int32)  # the row incurs the component at the points below this one
    for i in range(n):
        needed[:] = 0
        for t in range(len(trees.offsets) - 1):
            h = trees.offsets[t]
            alive = P
            while alive > 0:
                life = min(alive, lifetime[h]) if trees.left[h] >= 0 else 0
                for k in range(life, alive):
                    for c in range(C):
                        scores[k, i, c] += value[h, c]
                alive = life
                if life > 0:
                    f = trees.feature[h]
                    if len(costs.known) == 0 or not costs.known[i if len(costs.known) > 1 else 0, f]:
                        for c in costs.of[f]:
                            if c >= 0:
                                needed[c] = max(needed[c], life)
                    h = child(codes[i, f], h, trees)
        cost = costs.cost[i if len(costs.cost) > 1 else 0]
        for c in range(len(cost)):
            for k in range(needed[c]):
                out[k, i] += cost[c]


@njit
def _mark(inside: Bools, left: Ints32, right: Ints32, reached: Bools) -> None:
    for h in range(len(inside)):
        if reached[h] and inside[h]:
            reached[left[h]] = True
            reached[right[h]] = True
