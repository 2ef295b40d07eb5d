r"""An additive model of trees, by whatever library it was fitted, and its pruning as a `ForestBudget`.

The score of a row is :math:`b + \sum_t v_{\ell_t}`, with the leaf that it reaches in each tree. A node that becomes a
leaf takes the mean of the leaf values below it, weighted by covers (sums of second derivatives where the library has
them, else numbers of rows).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.files import write_atomically
from prunopt.core.validate import Shown, invalid, require
from prunopt.core.validate import sample_weight as checked_weight
from prunopt.forests.boosting.losses import Classification, Loss, Squares
from prunopt.problems.forest._cost_parsing import of_rows
from prunopt.problems.forest.feature_costs import FeatureCosts
from prunopt.problems.forest.forest_budget import ForestBudget
from prunopt.problems.forest.node_errors import targets
from prunopt.problems.forest.tree_ensemble import TreeEnsemble


class Tree(NamedTuple):
    """One tree as its library numbers the nodes: the root is node 0, children are -1 at leaves."""

    left: Ints
    right: Ints
    feature: Ints
    threshold: Floats
    missing_left: Bools
    value: Floats  # read at leaves
    cover: Floats  # read at leaves


class Model(NamedTuple):
    """What the trees of a library's model mean.

    Parameters
    ----------
    base : (C,) float
        Scores of no tree.
    output : (T,) int
        The score that each tree adds to.
    loss
        Of the scores.
    slope
        What scores are multiplied by before the link (LightGBM's ``sigmoid``).
    classes
        Labels, None for regression.
    names
        Columns, None where the model has none.
    precision
        Of the numbers that thresholds are compared with.
    """

    base: Floats
    output: Ints
    loss: Loss
    slope: float
    classes: NDArray[Any] | None
    n_features: int
    names: tuple[str, ...] | None
    precision: type = np.float64


class Booster(ABC):
    """A boosted model: its trees as arrays, and the document that it was read from.

    Subclasses know one library's format: how to write what a pruning keeps.
    """

    def __init__(self, trees: Sequence[Tree], model: Model) -> None:
        require(len(trees) > 0, "model", "have trees", Shown("none"))
        self.model = model
        self.node: Ints  # the number, in its library's tree, of each node of the ensemble
        parts = [_preorder(tree) for tree in trees]
        self.node = np.concatenate([order for order, _ in parts])
        sizes = np.array([len(order) for order, _ in parts])
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        place, value = [], []
        for t, (tree, (order, rank)) in enumerate(zip(trees, parts, strict=True)):
            inner = tree.left[order] >= 0
            at = offsets[t]
            left, right = (np.where(inner, rank[side[order]] + at, -1) for side in (tree.left, tree.right))
            place.append((left, right, np.where(inner, tree.feature[order], -1)))
            value.append(_means(tree, order))
        left, right, feature = (np.concatenate(part).astype(np.int64) for part in zip(*place, strict=True))
        threshold = np.concatenate([tree.threshold[order] for tree, (order, _) in zip(trees, parts, strict=True)])
        missing = np.concatenate([tree.missing_left[order] for tree, (order, _) in zip(trees, parts, strict=True)])
        fits = bool(np.all(feature < model.n_features))
        require(fits, "a tree", f"test features below {model.n_features}", int(feature.max()))
        self.value: Floats = np.concatenate(value)  # (n_nodes,) of each node, were it a leaf
        require(np.all(feature[left >= 0] >= 0), "a tree", "test a feature at each split", Shown("another thing"))
        require(np.all(np.isfinite(self.value)), "model", "have finite leaves", Shown("one that is not"))
        outputs, C = model.output, len(model.base)
        known = outputs.shape == (len(trees),) and np.all((outputs >= 0) & (outputs < C))
        require(known, "each tree", f"add to one of {C} scores", Shown(outputs.tolist()[:5]))
        tree_of = np.repeat(np.arange(len(trees)), sizes)
        self.output: Ints = model.output[tree_of]
        self.ensemble = TreeEnsemble(
            offsets=offsets,
            left=left,
            right=right,
            feature=feature,
            threshold=threshold.astype(np.float64),
            missing_left=missing.astype(np.bool_),
            value=self._votes(len(trees)),
            classes=model.classes,
            n_features=model.n_features,
            feature_names=model.names,
            precision=model.precision,
        )

    def _votes(self, n_trees: int) -> Floats:
        """Values whose mean over the trees is the score (regression), or whose sum has its order (classes)."""
        C = len(self.model.base)
        wide = np.tile(self.model.base, (len(self.value), 1)).astype(np.float64)
        wide[np.arange(len(self.value)), self.output] += n_trees * self.value
        if self.model.classes is not None and C == 1:
            return np.column_stack([np.zeros(len(wide)), wide])
        return wide

    # Predictions.

    def scores(self, X: ArrayLike) -> Floats:
        """Return the scores (n, C), before the link."""
        from prunopt.problems.forest._routing import leaves_of

        rows = self.ensemble.rows(X)
        out = np.tile(self.model.base, (len(rows), 1)).astype(np.float64)
        leaves = leaves_of(self.ensemble, rows)
        for t in range(self.ensemble.n_trees):
            out[:, self.output[self.ensemble.offsets[t]]] += self.value[leaves[:, t]]
        return out

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Return class probabilities (n, classes)."""
        require(self.model.classes is not None, "model", "predict classes", Shown("a regression"))
        return self.model.loss.predictions(self.model.slope * self.scores(X))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return labels, or predicted numbers."""
        if self.model.classes is None:
            return self.scores(X)[:, 0]
        return np.asarray(self.model.classes[self.predict_proba(X).argmax(axis=1)])

    def rename(self, labels: ArrayLike) -> None:
        """Give the classes 0, 1, ... their labels."""
        classes = np.asarray(labels)
        known = 0 if self.model.classes is None else len(self.model.classes)
        require(classes.shape == (known,), "labels", f"name {known} classes", classes)
        self.model = self.model._replace(classes=classes)
        self.ensemble = replace(self.ensemble, classes=classes)

    def acquired(self, X: ArrayLike, costs: FeatureCosts) -> Bools:
        """Return which groups of features each row acquires in some tree, (n, G)."""
        from prunopt.problems.forest._routing import acquired_groups

        rows, e = self.ensemble.rows(X), self.ensemble
        out = np.zeros((len(rows), len(costs.group_cost)), np.bool_)
        acquired_groups(rows, e.arrays, costs.group_of, costs.known_mask, e.left >= 0, out)
        return out

    # Pruning.

    def task(
        self,
        X: ArrayLike,
        y: ArrayLike,
        feature_costs: Any,
        *,
        feature_groups: Any = None,
        known: Any = None,
        sample_weight: ArrayLike | None = None,
    ) -> ForestBudget:
        r"""Return the pruning of this model as a `ForestBudget`, exact for a second-order surrogate of the loss.

        With first and second derivatives g, s of the loss at the scores of the trees before t, and v_h the value of
        node h,

        .. math:: e_h = \sum_{i \in h} w_i \bigl( g_i v_h + \tfrac12 s_i v_h^2 \bigr)

        is the change of the loss that node h brings as a leaf. Predecessors are frozen as they were fitted.
        """
        e, model = self.ensemble, self.model
        rows = e.rows(X)
        given = of_rows(feature_costs, X)
        costs = FeatureCosts.of(given, e.n_features, e.feature_names, feature_groups, known).for_rows(len(rows))
        weight = checked_weight(sample_weight, len(rows))
        code, number = targets(e, y, len(rows))
        if model.classes is not None:
            strange = np.unique(np.asarray(y)[code == len(model.classes)]).tolist()
            require(not strange, "y", f"hold labels of {model.classes.tolist()}", Shown(str(strange[:5])))
        error = self._losses(rows, number if model.classes is None else code.astype(np.float64), weight)
        share = np.full(e.n_trees, weight.sum() / e.n_trees)
        return ForestBudget(e, rows, costs, Fraction(0), weight, error, share, "surrogate")

    def _losses(self, rows: NDArray[Any], target: Floats, weight: Floats) -> Floats:
        """The weighted surrogate loss of every node as a leaf; the loss of no tree is shared among the trees."""
        from prunopt.problems.forest._routing import leaves_of

        e, model, value = self.ensemble, self.model, self.value
        leaves = leaves_of(e, rows)
        scores = np.tile(model.slope * model.base, (len(rows), 1)).astype(np.float64)
        nothing = weight * model.loss.rows(scores, target) / e.n_trees
        out = np.zeros(e.n_nodes)
        for t in range(e.n_trees):
            first, second = model.loss.derivatives(scores, target)
            c, h = int(self.output[e.offsets[t]]), leaves[:, t].astype(np.int64)
            parts = np.stack([weight * first[:, c] * model.slope, weight * second[:, c] * model.slope**2, nothing])
            start, end = e.offsets[t], e.offsets[t + 1]
            while len(h):  # up the paths of all rows, a level at a time
                v = value[h]
                losses = parts[0] * v + 0.5 * parts[1] * v * v + parts[2]
                out[start:end] += np.bincount(h - start, losses, end - start)
                above = e.parent[h]
                parts, h = parts[:, above >= 0], above[above >= 0]
            scores[:, c] += model.slope * value[leaves[:, t]]
        return out

    def pruned(self, kept: ArrayLike) -> Any:
        """Return the model in which only the internal nodes ``kept`` stay split, as its own library has it."""
        keep = np.asarray(kept, np.bool_)
        e = self.ensemble
        split = np.zeros(e.n_nodes, np.bool_)
        split[e.internal] = keep
        live = np.ones(e.n_nodes, np.bool_)
        for h in range(e.n_nodes):  # parents come before their children
            above = e.parent[h]
            live[h] = above < 0 or (live[above] and split[above])
        return self._written(live, split & live)

    @abstractmethod
    def _written(self, live: Bools, split: Bools) -> Any:
        """Return the model of the nodes ``live``, of which those of ``split`` are internal."""

    @abstractmethod
    def text(self) -> str:
        """Return the model in its library's text format."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model in its library's text format, whole or not at all."""
        with write_atomically(Path(path)) as temporary:
            temporary.write_text(self.text(), "utf-8")


def numbers(what: str, values: Any, kind: type) -> NDArray[Any]:
    """Return what a file says as an array of numbers."""
    try:
        return np.asarray(values, kind)
    except (TypeError, ValueError, OverflowError) as error:
        raise invalid(what, "hold numbers", Shown(str(error)), "is the file damaged?") from None


def loss_of(n_classes: int) -> Loss:
    """Return the loss of ``n_classes`` classes, 0 for squared errors."""
    return Classification(n_classes) if n_classes else Squares()


def _preorder(tree: Tree) -> tuple[Ints, Ints]:
    """The nodes that the root leads to, parents first, and the place of each node in that order."""
    n, order, stack = len(tree.left), [], [0]
    seen = np.zeros(n, np.bool_)
    while stack:
        h = stack.pop()
        require(0 <= h < n and not seen[h], "a tree", "have nodes whose children exist once", Shown(f"node {h}"))
        seen[h] = True
        order.append(h)
        if tree.left[h] >= 0 or tree.right[h] >= 0:  # a negative one of the two is refused in the next turn
            stack += [int(tree.right[h]), int(tree.left[h])]
    rank = np.full(n + 1, -1, np.int64)
    rank[order] = np.arange(len(order))
    return np.array(order, np.int64), rank


def _means(tree: Tree, order: Ints) -> Floats:
    """The mean of the leaf values below each node, weighted by covers, in the order given."""
    cover = np.where(tree.left >= 0, 0.0, np.maximum(tree.cover, 1e-12))
    total = cover * np.where(tree.left >= 0, 0.0, tree.value)
    for h in order[::-1]:
        if tree.left[h] >= 0:
            cover[h] = cover[tree.left[h]] + cover[tree.right[h]]
            total[h] = total[tree.left[h]] + total[tree.right[h]]
    value = np.where(tree.left >= 0, total / np.maximum(cover, 1e-300), tree.value)
    return value[order]
