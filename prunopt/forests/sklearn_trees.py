"""A pruning carried back onto the forest: genuine scikit-learn objects with fewer nodes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunopt.core.arrays import Bools
from prunopt.core.validate import Shown, invalid, require
from prunopt.problems.forest.tree_ensemble import TreeEnsemble

LEAF, UNDEFINED = -1, -2  # what scikit-learn writes into the children, and into feature and threshold, of a leaf
# Figures measured on the rows left out of the unpruned trees say nothing about the pruned ones.
OUT_OF_BAG = ("oob_score_", "oob_decision_function_", "oob_prediction_")
PLAIN = bool, int, float, str, type(None)  # what cannot be changed needs no copy


def pruned_forest(forest: Any, kept: ArrayLike) -> Any:
    """Return a copy of a fitted forest in which only the internal nodes ``kept`` stay split.

    The result is an object of the same class, with the same parameters, classes and feature names, whose trees hold
    the remaining nodes and nothing else: prediction, ``apply``, ``decision_path``, ``export_text``,
    ``feature_importances_``, ``estimators_samples_`` and pickling work as on any fitted forest. A node that becomes
    a leaf predicts what scikit-learn noted for it when the tree was grown. With every node kept, predictions are
    the same to the last bit. The out-of-bag figures of the unpruned forest (``oob_score_`` and its like) are
    dropped. ``forest`` is not changed and shares nothing that could be changed with the result.

    Parameters
    ----------
    forest
        A fitted random forest, extra trees, bagging of trees, or single tree of scikit-learn.
    kept : (m,) bool
        For each internal node, tree by tree in node-id order, whether it stays internal. Closed upwards: the parent
        of a kept node is kept.

    Raises
    ------
    ValueError
        If the forest is not fitted or not supported, or ``kept`` is of another shape or not closed upwards.
    """
    ensemble = TreeEnsemble.from_sklearn(forest)
    return compacted(forest, ensemble, checked(ensemble, kept))


def checked(ensemble: TreeEnsemble, kept: ArrayLike) -> Bools:
    """Return ``kept`` as a bool array over the internal nodes; refuse one that is not closed upwards."""
    value = np.asarray(kept)
    fits = value.shape == ensemble.internal.shape and value.dtype == np.bool_
    given = Shown(f"{value.dtype} of shape {value.shape}")
    require(fits, "kept", f"hold a bool for each of {len(ensemble.internal)} internal nodes", given)
    split = np.zeros(ensemble.n_nodes, np.bool_)
    split[ensemble.internal] = value
    parent = ensemble.parent[ensemble.internal]
    alone = value & (parent >= 0) & ~split[parent]
    if np.any(alone):
        h = int(ensemble.internal[alone][0])
        t = int(ensemble.tree[h])
        given = Shown(f"node {h - ensemble.offsets[t]} of tree {t} without it")
        raise invalid("kept", "hold the parent of every kept node", given)
    return value


def compacted(forest: Any, ensemble: TreeEnsemble, kept: Bools) -> Any:
    """Do the work of `pruned_forest` for a forest that was read, and a value that was checked."""
    split = np.zeros(ensemble.n_nodes, np.bool_)
    split[ensemble.internal] = kept
    per_tree = np.split(split, ensemble.offsets[1:-1])
    if not hasattr(forest, "estimators_"):
        return _with_tree(forest, _compact(forest.tree_, per_tree[0]))
    trees = [_with_tree(t, _compact(t.tree_, s)) for t, s in zip(forest.estimators_, per_tree, strict=True)]
    return _copied(forest, estimators_=trees)


def with_values(forest: Any, values: list[NDArray[np.float64]]) -> Any:
    """Return a copy of a fitted forest whose trees predict other values.

    Parameters
    ----------
    forest
        A fitted forest or single tree.
    values
        For each tree, the values of its nodes, shape (n_nodes, 1, number of classes, or 1 for regression).
    """
    if not hasattr(forest, "estimators_"):
        return _with_tree(forest, _revalued(forest.tree_, values[0]))
    trees = [_with_tree(t, _revalued(t.tree_, v)) for t, v in zip(forest.estimators_, values, strict=True)]
    return _copied(forest, estimators_=trees)


def on_columns(forest: Any, columns: NDArray[np.int64], n_features: int) -> Any:
    """Return a forest that was fitted on some columns as one on all ``n_features``, which never reads the others.

    Parameters
    ----------
    forest
        A fitted random forest or extra trees, on columns without names.
    columns
        The column of the whole table that each of its features is.
    n_features
        Columns of the whole table.
    """
    trees = []
    for estimator in forest.estimators_:
        tree = estimator.tree_
        state = tree.__getstate__()
        nodes = state["nodes"].copy()
        inner = nodes["left_child"] >= 0
        nodes["feature"][inner] = columns[nodes["feature"][inner]]
        wide = _tree(tree, state | {"nodes": nodes}, n_features)
        trees.append(_copied(estimator, tree_=wide, n_features_in_=n_features))
    return _copied(forest, estimators_=trees, n_features_in_=n_features)


def _compact(tree: Any, split: Bools) -> Any:
    """Return a scikit-learn `Tree` with the nodes that are reached when only the nodes ``split`` stay split."""
    reached = np.zeros(tree.node_count, np.bool_)
    level = np.array([0])
    depth = -1
    while len(level):
        depth += 1
        reached[level] = True
        inner = level[split[level]]
        level = np.concatenate([tree.children_left[inner], tree.children_right[inner]])
    new_id = np.cumsum(reached) - 1
    state = tree.__getstate__()
    nodes = state["nodes"][reached]  # a copy: ids stay in their order, so parents stay before their children
    inner = split[reached]
    turned = ~inner & (nodes["left_child"] >= 0)
    for side in ("left_child", "right_child"):
        nodes[side] = np.where(inner, new_id[nodes[side]], LEAF)
    nodes["feature"][turned] = UNDEFINED
    nodes["threshold"][turned] = UNDEFINED
    if "missing_go_to_left" in nodes.dtype.names:
        nodes["missing_go_to_left"][turned] = 0
    state |= {
        "max_depth": depth,
        "node_count": len(nodes),
        "nodes": nodes,
        "values": np.ascontiguousarray(state["values"][reached]),
    }
    return _tree(tree, state)


def _revalued(tree: Any, values: NDArray[np.float64]) -> Any:
    state = tree.__getstate__()
    require(values.shape == state["values"].shape, "values", f"have shape {state['values'].shape}", values)
    return _tree(tree, {**state, "values": np.ascontiguousarray(values, np.float64)})


def _tree(like: Any, state: dict[str, Any], n_features: int | None = None) -> Any:
    """Build a `Tree` the way scikit-learn itself copies one; the arrays of ``state`` are copied into it."""
    make, (width, *others), _ = like.__reduce__()
    tree = make(width if n_features is None else n_features, *others)
    tree.__setstate__(state)
    return tree


def _with_tree(estimator: Any, tree: Any) -> Any:
    return _copied(estimator, tree_=tree)


def _copied(estimator: Any, **replaced: Any) -> Any:
    """A fresh object of the same class: ``replaced`` attributes as given, all others copied, out-of-bag figures left.

    Everything but the trees is small, and copied deeply, so that the two objects share no mutable state.
    """
    fresh = object.__new__(type(estimator))
    memo: dict[int, Any] = {}
    for name, value in vars(estimator).items():
        if name in replaced:
            fresh.__dict__[name] = replaced[name]
        elif name not in OUT_OF_BAG:
            fresh.__dict__[name] = value if isinstance(value, PLAIN) else copy.deepcopy(value, memo)
    return fresh
