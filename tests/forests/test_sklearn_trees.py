"""Pruned forests are genuine, right, and independent of the forest that they were made from."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.exceptions import NotFittedError
from sklearn.tree import DecisionTreeClassifier, ExtraTreeRegressor, export_text

from prunopt.forests import pruned_forest
from prunopt.problems.forest.tree_ensemble import TreeEnsemble

X, CODES = load_breast_cancer(return_X_y=True)
X = X[:, :10].copy()
X[::7, 3] = np.nan
LABELS = np.array(["benign", "malignant"])[CODES]
FORESTS = [
    RandomForestClassifier(6, max_depth=5, random_state=0),
    RandomForestClassifier(5, max_leaf_nodes=12, random_state=0),
    RandomForestRegressor(5, max_depth=4, random_state=0),
    ExtraTreesClassifier(5, max_depth=5, random_state=0),
    ExtraTreesRegressor(5, max_depth=5, random_state=0),
    BaggingClassifier(DecisionTreeClassifier(max_depth=4), 5, max_features=0.5, random_state=0),
    BaggingRegressor(n_estimators=4, max_features=0.6, random_state=0),
    DecisionTreeClassifier(max_leaf_nodes=15, random_state=0),
    ExtraTreeRegressor(max_depth=6, random_state=0),
]


def fitted(forest: Any) -> Any:
    return clone(forest).fit(X, LABELS if hasattr(forest, "predict_proba") else CODES + 0.5 * X[:, 0])


def random_closed(ensemble: TreeEnsemble, seed: int) -> NDArray[np.bool_]:
    rng = np.random.default_rng(seed)
    keep = np.zeros(ensemble.n_nodes, np.bool_)
    for h in ensemble.internal:
        parent = ensemble.parent[h]
        keep[h] = (parent < 0 or keep[parent]) and rng.random() < 0.75
    return keep[ensemble.internal]


def trees_of(forest: Any) -> list[tuple[Any, Any]]:
    trees = getattr(forest, "estimators_", [forest])
    return list(zip(trees, getattr(forest, "estimators_features_", [slice(None)] * len(trees)), strict=True))


def truncated(forest: Any, ensemble: TreeEnsemble, kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean of the trees' values where each row's path ends at the first node that is not kept: read off its path."""
    split = np.zeros(ensemble.n_nodes, np.bool_)
    split[ensemble.internal] = kept
    total = 0.0
    for t, (tree, columns) in enumerate(trees_of(forest)):
        path = tree.tree_.decision_path(X[:, columns].astype(np.float32)).toarray().astype(bool)
        stays = split[ensemble.offsets[t] : ensemble.offsets[t + 1]]
        end = (path & ~stays).argmax(axis=1)  # ids rise along a path
        total = total + tree.tree_.value[end, 0, :]
    return np.asarray(total / len(trees_of(forest)))


@pytest.mark.parametrize("forest", FORESTS, ids=lambda f: type(f).__name__)
def test_predictions_are_those_of_the_truncated_paths(forest: Any) -> None:
    forest = fitted(forest)
    ensemble = TreeEnsemble.from_sklearn(forest)
    for seed in range(3):
        kept = random_closed(ensemble, seed)
        small = pruned_forest(forest, kept)
        assert type(small) is type(forest)
        expected = truncated(forest, ensemble, kept)
        if hasattr(forest, "predict_proba"):
            assert np.allclose(small.predict_proba(X), expected, rtol=0, atol=1e-12)
            assert np.array_equal(small.predict(X), small.classes_[small.predict_proba(X).argmax(1)])
            assert small.score(X, LABELS) > 0.5
        else:
            assert np.allclose(small.predict(X), expected[:, 0], rtol=1e-12)
        left = sum(tree.tree_.node_count for tree, _ in trees_of(small))
        assert left == 2 * kept.sum() + ensemble.n_trees < ensemble.n_nodes


@pytest.mark.parametrize("forest", FORESTS, ids=lambda f: type(f).__name__)
def test_keeping_everything_changes_nothing(forest: Any) -> None:
    forest = fitted(forest)
    ensemble = TreeEnsemble.from_sklearn(forest)
    same = pruned_forest(forest, np.ones(len(ensemble.internal), np.bool_))
    for (a, _), (b, _) in zip(trees_of(forest), trees_of(same), strict=True):
        assert a.tree_ is not b.tree_
        before, after = a.tree_.__getstate__(), b.tree_.__getstate__()
        assert before["max_depth"] == after["max_depth"]
        assert np.array_equal(before["nodes"], after["nodes"])
        assert np.array_equal(before["values"], after["values"])
    assert np.array_equal(forest.predict(X), same.predict(X))
    assert same.get_params().keys() == forest.get_params().keys()


@pytest.mark.parametrize("forest", FORESTS, ids=lambda f: type(f).__name__)
def test_the_rest_of_scikit_learn_works_on_it(forest: Any) -> None:
    forest = fitted(forest)
    small = pruned_forest(forest, random_closed(TreeEnsemble.from_sklearn(forest), 1))
    assert np.array_equal(pickle.loads(pickle.dumps(small)).predict(X), small.predict(X))
    for (tree, columns), (whole, _) in zip(trees_of(small), trees_of(forest), strict=True):
        t = tree.tree_
        assert "|--- " in export_text(tree)
        path = tree.decision_path(X[:, columns].astype(np.float32))
        leaves = tree.apply(X[:, columns].astype(np.float32))
        assert path.shape == (len(X), t.node_count)
        assert np.all(t.children_left[leaves] < 0)
        assert np.asarray(path.sum(axis=1)).max() == tree.get_depth() + 1 <= whole.get_depth() + 1
        assert tree.get_n_leaves() == np.sum(t.children_left < 0) == np.sum(t.feature == -2)
        is_leaf = t.children_left < 0
        assert t.n_node_samples[is_leaf].sum() == t.n_node_samples[0] == whole.tree_.n_node_samples[0]
        assert t.weighted_n_node_samples[is_leaf].sum() == pytest.approx(whole.tree_.weighted_n_node_samples[0])
        if t.node_count > 1:
            assert tree.feature_importances_.sum() == pytest.approx(1)
    if hasattr(forest, "estimators_samples_"):
        assert all(map(np.array_equal, forest.estimators_samples_, small.estimators_samples_))


@pytest.mark.parametrize("forest", FORESTS, ids=lambda f: type(f).__name__)
def test_the_forest_given_is_not_changed_and_shares_no_state(forest: Any) -> None:
    forest = fitted(forest)
    before = pickle.dumps(forest)
    small = pruned_forest(forest, random_closed(TreeEnsemble.from_sklearn(forest), 2))
    for a, b in [(forest, small), *((a, b) for (a, _), (b, _) in zip(trees_of(forest), trees_of(small), strict=True))]:
        for name, value in vars(a).items():
            other = vars(b).get(name)
            if isinstance(value, np.ndarray):
                assert not np.shares_memory(value, other), name
                other.fill(other.ravel()[0])
            elif isinstance(value, list | dict) or hasattr(value, "get_params"):
                assert value is not other, name
    assert pickle.dumps(forest) == before


def test_rows_without_a_value_still_go_where_they_went() -> None:
    forest = fitted(FORESTS[0])
    ensemble = TreeEnsemble.from_sklearn(forest)
    left = [np.isin(3, t.tree_.feature[t.tree_.missing_go_to_left == 1]) for t in forest.estimators_]
    assert any(left), "the case is not tested otherwise"
    kept = random_closed(ensemble, 0)
    small = pruned_forest(forest, kept)
    blind = X.copy()
    blind[:, 3] = np.nan
    assert not np.array_equal(small.predict_proba(blind), small.predict_proba(X))
    for tree, _ in trees_of(small):
        assert not np.any(tree.tree_.missing_go_to_left[tree.tree_.children_left < 0])


def test_out_of_bag_figures_of_the_unpruned_forest_are_left_out() -> None:
    forest = RandomForestClassifier(30, oob_score=True, random_state=0).fit(X, LABELS)
    small = pruned_forest(forest, np.zeros(len(TreeEnsemble.from_sklearn(forest).internal), np.bool_))
    assert forest.oob_score_ > 0.9
    assert not hasattr(small, "oob_score_")
    assert not hasattr(small, "oob_decision_function_")
    assert set(small.predict(X)) == {"malignant"}
    assert small.feature_importances_.sum() == 0


def test_monotonic_constraints_hold_after_pruning() -> None:
    rows = np.random.default_rng(0).random((300, 3))
    y = (rows[:, 0] + 0.3 * rows[:, 1] > 0.6).astype(int)
    forest = RandomForestClassifier(8, max_depth=6, monotonic_cst=[1, 0, 0], random_state=0).fit(rows, y)
    small = pruned_forest(forest, random_closed(TreeEnsemble.from_sklearn(forest), 0))
    grid = np.tile(rows[:1], (50, 1))
    grid[:, 0] = np.linspace(0, 1, 50)
    assert np.all(np.diff(small.predict_proba(grid)[:, 1]) >= -1e-12)
    assert small.monotonic_cst == [1, 0, 0]


def test_bad_values_are_refused() -> None:
    forest = fitted(FORESTS[0])
    ensemble = TreeEnsemble.from_sklearn(forest)
    kept = np.ones(len(ensemble.internal), np.bool_)
    with pytest.raises(ValueError, match="must hold a bool for each of"):
        pruned_forest(forest, kept[:-1])
    with pytest.raises(ValueError, match="int64 of shape"):
        pruned_forest(forest, kept.astype(np.int64))
    second_root = int(np.searchsorted(ensemble.internal, ensemble.offsets[1]))
    kept[second_root] = False
    with pytest.raises(ValueError, match="hold the parent of every kept node, got node 1 of tree 1"):
        pruned_forest(forest, kept)
    with pytest.raises(NotFittedError):
        pruned_forest(RandomForestClassifier(), kept)
    with pytest.raises(ValueError, match="boosted trees"):
        pruned_forest(GradientBoostingClassifier(n_estimators=2).fit(np.nan_to_num(X), LABELS), kept)
