"""A fitted scikit-learn tree ensemble as flat arrays: what the forest tasks read, and nothing else does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import AnyArray, Bools, Ints
from prunopt.core.validate import Shown, invalid, require

SUPPORTED = "RandomForest*, ExtraTrees*, Bagging* of decision trees, and single decision or extra trees"


class Trees(NamedTuple):
    """The nodes of trees as kernels read them, of rows of numbers (NaN = missing) or of binned rows (0 = missing).

    Node ids count over all trees: those of tree t are ``offsets[t]`` to ``offsets[t + 1] - 1``, its root the first,
    parents before their children. A value <= ``threshold`` goes left; ``left`` and ``right`` are -1 at leaves.
    """

    offsets: AnyArray
    left: AnyArray
    right: AnyArray
    feature: AnyArray
    threshold: AnyArray
    missing_left: Bools
    missing: float


@dataclass(frozen=True, eq=False)
class TreeEnsemble:
    """All nodes of all trees, one after another; node ids are global, parents come before their children.

    Parameters
    ----------
    offsets : (T + 1,) int64
        Tree t owns the nodes ``offsets[t]`` to ``offsets[t + 1] - 1``; the first of them is its root.
    left, right : (n_nodes,) int64
        Global ids of the children, -1 at leaves.
    feature : (n_nodes,) int64
        Column of X that the node tests (mapped through ``estimators_features_`` for bagging), -1 at leaves.
    threshold : (n_nodes,) float64
        A value goes left when it is <= threshold.
    missing_left : (n_nodes,) bool
        Where NaN goes.
    value : (n_nodes, C) float64
        Class probabilities in the order of ``classes``, or one column with the mean of a regression tree.
    classes : (C,) array or None
        The labels; None for regression.
    n_features : int
        Columns of X.
    feature_names : tuple of str or None
        Names of the columns, where the forest was fitted on named columns.
    precision
        Of the rows: scikit-learn's forests compare float32 values, some boosters float64 ones.
    """

    offsets: Ints
    left: Ints
    right: Ints
    feature: Ints
    threshold: NDArray[np.float64]
    missing_left: NDArray[np.bool_]
    value: NDArray[np.float64]
    classes: NDArray[Any] | None
    n_features: int
    feature_names: tuple[str, ...] | None = None
    precision: type = np.float32

    @property
    def n_trees(self) -> int:
        """Number of trees T."""
        return len(self.offsets) - 1

    @property
    def n_nodes(self) -> int:
        """Number of nodes of all trees, leaves included."""
        return len(self.left)

    @property
    def arrays(self) -> Trees:
        """What the kernels read."""
        return Trees(self.offsets, self.left, self.right, self.feature, self.threshold, self.missing_left, float("nan"))

    @cached_property
    def internal(self) -> Ints:
        """Global ids of the internal nodes, tree by tree in node-id order: what a pruning decides on."""
        return np.flatnonzero(self.left >= 0)

    @cached_property
    def parent(self) -> Ints:
        """Global id of each node's parent, -1 at roots."""
        parent = np.full(self.n_nodes, -1, np.int64)
        parent[self.left[self.internal]] = self.internal
        parent[self.right[self.internal]] = self.internal
        return parent

    @cached_property
    def tree(self) -> Ints:
        """The tree that each node belongs to."""
        return np.repeat(np.arange(self.n_trees), np.diff(self.offsets))

    def leaves(self, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which nodes (all of them, global ids) are leaves once only the internal nodes ``kept`` stay split."""
        split = np.zeros(self.n_nodes, np.bool_)
        split[self.internal] = kept
        reached = split[self.parent] | (self.parent < 0)
        return reached & ~split

    @classmethod
    def from_sklearn(cls, forest: Any) -> TreeEnsemble:
        """Read a fitted forest, bagging ensemble or single tree.

        Raises
        ------
        ValueError
            If it is not fitted, has several outputs, or is not an average of decision trees (boosting).
        """
        trees, columns = _trees_of(forest)
        if getattr(forest, "n_outputs_", getattr(trees[0], "n_outputs_", 1)) != 1:
            raise invalid("forest", "predict one output", Shown("several"), "fit one forest for each output")
        is_classifier = hasattr(trees[0], "classes_")
        classes = np.asarray(forest.classes_) if is_classifier else None
        parts = [_read_tree(t, c, classes) for t, c in zip(trees, columns, strict=True)]
        sizes = np.array([len(p[0]) for p in parts], np.int64)
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        shift = np.repeat(offsets[:-1], sizes)
        left, right, feature, threshold, missing_left, value = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        names = getattr(forest, "feature_names_in_", None)
        return cls(
            offsets=offsets,
            left=np.where(left >= 0, left + shift, -1),
            right=np.where(right >= 0, right + shift, -1),
            feature=feature,
            threshold=threshold,
            missing_left=missing_left,
            value=value,
            classes=classes,
            n_features=int(forest.n_features_in_),
            feature_names=None if names is None else tuple(map(str, names)),
        )

    def rows(self, X: Any, name: str = "X") -> AnyArray:
        """Return ``X`` as the rows that the trees compare with their thresholds, float32 for scikit-learn's forests."""
        found = getattr(X, "columns", None)
        if found is not None and self.feature_names is not None and tuple(map(str, found)) != self.feature_names:
            unlike = [str(c) for c in found if str(c) not in self.feature_names][:3]
            missing = [c for c in self.feature_names if c not in set(map(str, found))][:3]
            given = f"{unlike}" if unlike else f"none called {missing[0]!r}" if missing else "another order"
            raise invalid(name, "have the columns of the forest, in order", Shown(given))
        try:
            # Nullable columns of pandas hold NA, which numpy alone makes no number of.
            table = X.to_numpy(self.precision, na_value=np.nan) if hasattr(X, "columns") else X
            rows: AnyArray = np.ascontiguousarray(np.asarray(table), dtype=self.precision)
        except (TypeError, ValueError) as error:
            raise invalid(name, "hold numbers", Shown(str(error))) from None
        fits = rows.ndim == 2 and rows.shape[1] == self.n_features
        require(fits, name, f"have shape (n, {self.n_features}), as the forest", Shown(f"shape {rows.shape}"))
        require(len(rows) > 0, name, "have at least one row", Shown("none"), "errors and costs are means over rows")
        require(
            not np.any(np.isinf(rows)),
            name,
            f"hold finite {np.dtype(self.precision).name} numbers or NaN",
            Shown("an infinite one"),
        )
        return rows


def refuse_strangers(forest: Any, argument: str = "forest") -> None:
    """Refuse what is not a supported forest, fitted or not, with the way out of what people pass instead."""
    from sklearn.ensemble import BaggingClassifier, BaggingRegressor
    from sklearn.ensemble._forest import ForestClassifier, ForestRegressor
    from sklearn.tree import BaseDecisionTree

    kinds = ForestClassifier, ForestRegressor, BaggingClassifier, BaggingRegressor, BaseDecisionTree
    if isinstance(forest, type):
        raise invalid(argument, "be an instance", Shown(f"the class {forest.__name__}"), f"pass {forest.__name__}()")
    kind = type(forest).__name__
    for base in (k for k in kinds if isinstance(forest, k)):
        own = [n for n in ("predict", "predict_proba") if getattr(type(forest), n, None) is not getattr(base, n, None)]
        if own and (own[0] == "predict" or hasattr(base, own[0])):
            mend = f"{kind} predicts in a way of its own, which a pruning would not keep"
            raise invalid(argument, "predict as scikit-learn's forests do", Shown(kind), mend)
        return
    hint = ""
    if isinstance(forest, str):
        hint = "pass a forest, such as RandomForestClassifier()"
    elif hasattr(forest, "steps"):
        hint = "pass its last step, and the rows as the steps before it leave them"
    elif hasattr(forest, "best_estimator_"):
        hint = "pass search.best_estimator_"
    elif kind.endswith("SearchCV"):
        hint = "pass a forest, and search over this estimator instead"
    elif kind == "FrozenEstimator":
        hint = "pass frozen.estimator"
    elif "Boost" in kind:
        hint = "boosted trees are added, not averaged: no node has an error of its own"
    raise invalid(argument, f"be one of {SUPPORTED}", forest if isinstance(forest, str) else Shown(kind), hint)


def _trees_of(forest: Any) -> tuple[list[Any], list[NDArray[np.int64] | None]]:
    """The fitted trees of a supported estimator, and the columns each of them sees (None = all)."""
    from sklearn.ensemble._forest import ForestClassifier, ForestRegressor
    from sklearn.tree import BaseDecisionTree
    from sklearn.utils.validation import check_is_fitted

    refuse_strangers(forest)
    check_is_fitted(forest)
    if isinstance(forest, BaseDecisionTree):
        return [forest], [None]
    trees = list(forest.estimators_)
    if isinstance(forest, ForestClassifier | ForestRegressor):
        return trees, [None] * len(trees)
    for tree in trees:
        ok = isinstance(tree, BaseDecisionTree)
        require(ok, "forest", "be a bagging ensemble of decision trees", Shown(f"one of {type(tree).__name__}"))
    return trees, [np.asarray(columns, np.int64) for columns in forest.estimators_features_]


def _read_tree(tree: Any, columns: NDArray[np.int64] | None, classes: NDArray[Any] | None) -> tuple[NDArray[Any], ...]:
    t = tree.tree_
    left = t.children_left.astype(np.int64)
    feature = np.where(left >= 0, t.feature, -1).astype(np.int64)
    if columns is not None:
        feature[left >= 0] = columns[feature[left >= 0]]
    missing = getattr(t, "missing_go_to_left", np.zeros(len(left)))
    value = np.asarray(t.value[:, 0, :], np.float64)
    if classes is not None:
        total = value.sum(axis=1, keepdims=True)
        value = value / np.where(total > 0, total, 1.0)
        # The trees of an ensemble carry codes into its classes, and a bagged tree may have missed some of them.
        own = np.asarray(tree.classes_)
        if len(own) != len(classes):
            wide = np.zeros((len(value), len(classes)))
            wide[:, own.astype(np.int64)] = value
            value = wide
    arrays = (
        left,
        t.children_right.astype(np.int64),
        feature,
        t.threshold.astype(np.float64),
        missing.astype(np.bool_),
    )
    return (*arrays, value)
