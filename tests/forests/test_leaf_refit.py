"""Leaf refit: the optimum that it says it is, a genuine forest, the same cost, better predictions."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.datasets import load_diabetes, load_digits
from sklearn.ensemble import BaggingClassifier, ExtraTreesRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.tree import DecisionTreeClassifier

from prunopt.forests import budget_path, predict_on_demand, refit_leaves
from prunopt.forests.leaf_refit import as_fractions

X, y = load_digits(return_X_y=True)
X_DIABETES, y_DIABETES = load_diabetes(return_X_y=True)


def small_forest(n_classes: int = 3) -> tuple[Any, NDArray[np.float64], NDArray[np.str_]]:
    rows = y < n_classes
    labels = np.array([f"digit {k}" for k in y[rows]])
    forest = RandomForestClassifier(6, max_depth=3, max_features=None, random_state=0).fit(X[rows][:150], labels[:150])
    return forest, X[rows], labels


def indicators(forest: Any, rows: Any) -> NDArray[np.float64]:
    return np.hstack(
        [
            (leaves[:, None] == np.flatnonzero(tree.tree_.children_left < 0)).astype(float)
            for tree, leaves in zip(forest.estimators_, forest.apply(rows).T, strict=True)
        ]
    )


def leaf_values(forest: Any) -> NDArray[np.float64]:
    return np.vstack([tree.tree_.value[tree.tree_.children_left < 0, 0, :] for tree in forest.estimators_])


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_classification_is_a_stationary_point_of_the_penalised_likelihood(n_classes: int, weighted: bool) -> None:
    forest, rows, labels = small_forest(n_classes)
    weight = np.random.default_rng(0).integers(0, 3, len(rows)).astype(float) if weighted else np.ones(len(rows))
    ridge = 2.0
    refit = refit_leaves(forest, rows, labels, sample_weight=weight if weighted else None, ridge=ridge)
    assert refit.temperature is not None
    assert refit.ridge == ridge
    assert np.isnan(refit.loss_after)
    Z, target = indicators(forest, rows), labels[:, None] == forest.classes_
    residual = (refit.predict_proba(rows) - target) * weight[:, None]
    # d/d bias = 0; and with v = v0 + moved the gradient says moved = -Z' residual / ridge. v0 is a multiple of the
    # votes, so the scores of the refit minus Z moved must be a multiple of the votes plus the bias.
    assert np.allclose(residual.sum(axis=0), 0, atol=1e-2)
    scores = refit.forest.predict_proba(rows) / refit.temperature
    rest = scores + Z @ (Z.T @ residual) / ridge
    rest -= rest.mean(axis=1, keepdims=True)
    votes = forest.predict_proba(rows) - 1 / n_classes
    columns = np.hstack([votes.reshape(-1, 1), np.tile(np.eye(n_classes), (len(rows), 1))])
    coefficients, *_ = np.linalg.lstsq(columns, rest.ravel(), rcond=None)
    assert np.allclose(columns @ coefficients, rest.ravel(), atol=2e-2)
    assert coefficients[0] > 0


def test_regression_solves_the_normal_equations() -> None:
    forest = RandomForestRegressor(5, max_depth=3, random_state=0).fit(X_DIABETES, y_DIABETES)
    weight = np.random.default_rng(0).integers(0, 3, len(y_DIABETES)).astype(float)
    refit = refit_leaves(forest, X_DIABETES, y_DIABETES, sample_weight=weight, ridge=3.0)
    assert refit.temperature is None
    Z, v0 = indicators(forest, X_DIABETES), leaf_values(forest)[:, 0] / 5
    A = np.hstack([Z, np.ones((len(Z), 1))])
    penalty = 3.0 * np.eye(A.shape[1])
    penalty[-1, -1] = 0
    moved = np.linalg.solve(A.T @ (A * weight[:, None]) + penalty, A.T @ (weight * (y_DIABETES - Z @ v0)))
    assert refit.forest.predict(X_DIABETES) == pytest.approx(Z @ v0 + A @ moved, rel=1e-5)


def test_fractions_are_fractions_and_average_to_the_scores() -> None:
    rng = np.random.default_rng(0)
    for C, T in [(2, 1), (2, 7), (3, 4), (10, 30)]:
        tree = np.concatenate([np.arange(T), rng.integers(0, T, 5 * T)])
        scores = rng.normal(size=(len(tree), C)) * rng.exponential(3, (len(tree), 1))
        fractions, temperature = as_fractions(scores, tree, T)
        assert fractions.min() >= 0
        assert np.allclose(fractions.sum(axis=1), 1)
        assert temperature > 0
        for _ in range(20):
            pick = [rng.choice(np.flatnonzero(tree == t)) for t in range(T)]
            total = scores[pick].sum(axis=0)
            expected = 1 / C + temperature * (total - total.mean())
            assert np.allclose(fractions[pick].mean(axis=0), expected, atol=1e-12)
        # No larger factor is possible: some tree or some class has no slack left.
        least = np.zeros((T, C))
        np.maximum.at(least, tree, -(scores - scores.mean(1, keepdims=True)))
        tight = max(least.sum(axis=1).max(), least.sum(axis=0).max() * C / T)
        assert temperature * T * tight == pytest.approx(1)


def test_constant_scores_become_even_fractions() -> None:
    fractions, temperature = as_fractions(np.full((2, 4), 7.0), np.array([0, 1]), 2)
    assert np.allclose(fractions, 0.25)
    assert temperature > 0


def test_the_forest_stays_genuine_and_costs_the_same() -> None:
    forest, rows, labels = small_forest()
    before = pickle.dumps(forest)
    refit = refit_leaves(forest, rows, labels)
    new = refit.forest
    assert pickle.dumps(forest) == before
    assert type(new) is RandomForestClassifier
    assert refit.temperature is not None
    probability = new.predict_proba(rows)
    assert probability.min() >= 0
    assert np.allclose(probability.sum(axis=1), 1)
    assert np.array_equal(new.predict(rows), new.classes_[softmax(probability / refit.temperature, axis=1).argmax(1)])
    for a, b in zip(forest.estimators_, new.estimators_, strict=True):
        assert np.array_equal(a.tree_.threshold, b.tree_.threshold)
        assert b.tree_.value.min() >= 0
        assert np.allclose(b.tree_.value.sum(axis=2), 1)
        root = b.tree_.weighted_n_node_samples[:, None] * b.tree_.value[:, 0]
        assert np.allclose(root[b.tree_.children_left < 0].sum(axis=0), root[0])
    again = pickle.loads(pickle.dumps(new))
    assert np.array_equal(again.predict(rows), new.predict(rows))
    old_cost, new_cost = (predict_on_demand(f, rows, feature_costs=None).acquired for f in (forest, new))
    assert np.array_equal(old_cost, new_cost)


def test_it_helps_pruned_forests_on_rows_they_never_saw() -> None:
    order = np.random.default_rng(0).permutation(len(y))
    train, test = order[:1000], order[1000:]
    forest = RandomForestClassifier(30, max_depth=6, max_features=None, random_state=0).fit(X[train], y[train])
    path = budget_path(forest, X[train], y[train], None, errors="oob")
    at, gain = (np.arange(len(test)), y[test]), []
    for budget in (8, 14, 20):
        pruned = path.at(budget=budget)
        refit = refit_leaves(pruned, X[train], y[train])
        gain.append(refit.forest.score(X[test], y[test]) - pruned.score(X[test], y[test]))
        assert refit.loss_after < refit.loss_before
        after = -np.log(refit.predict_proba(X[test])[at]).mean()
        assert after < -np.log(np.maximum(pruned.predict_proba(X[test])[at], 1e-3)).mean()
    assert np.mean(gain) > 0.02


def test_it_helps_a_shallow_regression_forest() -> None:
    rng = np.random.default_rng(0)
    rows = rng.random((1500, 6))
    target = 10 * np.sin(np.pi * rows[:, 0] * rows[:, 1]) + 20 * (rows[:, 2] - 0.5) ** 2 + 10 * rows[:, 3]
    target += rng.normal(size=1500)
    forest = ExtraTreesRegressor(30, max_depth=5, random_state=0).fit(rows[:1000], target[:1000])
    refit = refit_leaves(forest, rows[:1000], target[:1000])
    assert refit.forest.score(rows[1000:], target[1000:]) > forest.score(rows[1000:], target[1000:]) + 0.05
    again = refit_leaves(refit.forest, rows[:1000], target[:1000])
    assert again.forest.score(rows[1000:], target[1000:]) > forest.score(rows[1000:], target[1000:]) + 0.05


def test_a_stiff_ridge_leaves_the_labels() -> None:
    forest, rows, labels = small_forest()
    refit = refit_leaves(forest, rows, labels, ridge=1e9)
    assert np.mean(refit.forest.predict(rows) == forest.predict(rows)) > 0.98
    plain = RandomForestRegressor(5, max_depth=3, random_state=0).fit(X_DIABETES, y_DIABETES - y_DIABETES.mean())
    stiff = refit_leaves(plain, X_DIABETES, y_DIABETES - y_DIABETES.mean(), ridge=1e12).forest
    shift = stiff.predict(X_DIABETES) - plain.predict(X_DIABETES)
    assert np.ptp(shift) < 1e-3


def test_forests_pruned_to_their_roots_predict_the_frequencies() -> None:
    forest, rows, labels = small_forest()
    stump = budget_path(forest, rows, labels, None).at(penalty=1e6)
    refit = refit_leaves(stump, rows, labels)
    expected = [np.mean(labels == c) for c in forest.classes_]
    assert np.allclose(refit.predict_proba(rows), expected, atol=1e-3)


def test_bagging_and_single_trees() -> None:
    for forest in (
        BaggingClassifier(DecisionTreeClassifier(max_depth=3), 5, max_features=0.5, random_state=0),
        DecisionTreeClassifier(max_depth=4, random_state=0),
    ):
        forest.fit(X, y)
        refit = refit_leaves(forest, X, y, ridge=3.0)
        assert type(refit.forest) is type(forest)
        assert refit.forest.score(X, y) >= forest.score(X, y)


def test_bad_input() -> None:
    forest, rows, labels = small_forest()
    with pytest.raises(ValueError, match="must hold classes of the forest"):
        refit_leaves(forest, rows, np.full(len(rows), "digit 7"))
    with pytest.raises(ValueError, match="ridge must be a finite number > 0, got 0"):
        refit_leaves(forest, rows, labels, ridge=0)
    with pytest.raises(ValueError, match="sample_weight"):
        refit_leaves(forest, rows, labels, sample_weight=-np.ones(len(rows)))
    with pytest.raises(ValueError, match="y must have shape"):
        refit_leaves(forest, rows, labels[:-1])
    tree = RandomForestRegressor(2, max_depth=2, random_state=0).fit(X_DIABETES, y_DIABETES)
    refit = refit_leaves(tree, X_DIABETES, y_DIABETES, ridge=1.0)
    with pytest.raises(AttributeError, match="regressor"):
        refit.predict_proba(X_DIABETES)


def test_rows_are_fitted_by_the_trees_that_judge_them() -> None:
    rng = np.random.default_rng(0)
    forest = RandomForestRegressor(8, max_depth=3, random_state=0).fit(X_DIABETES, y_DIABETES)
    judges = rng.random((8, len(y_DIABETES))) < 0.4
    judges[:, 0] = False  # a row without judges plays no part
    ridge = 3.0
    done = refit_leaves(forest, X_DIABETES, y_DIABETES, ridge=ridge, judges=judges)
    Z, counts = indicators(forest, X_DIABETES), [int((t.tree_.children_left < 0).sum()) for t in forest.estimators_]
    voters = judges.sum(axis=0)
    Z *= np.repeat(judges, counts, axis=0).T * np.where(voters > 0, 8 / np.maximum(voters, 1), 0.0)[:, None]
    used, before = np.flatnonzero(voters), leaf_values(forest)[:, 0] / 8
    # Ridge regression of what is left, with a bias that is not penalized and is spread over the trees.
    A = np.hstack([Z[used], np.ones((len(used), 1))])
    pull = np.diag([ridge] * Z.shape[1] + [0.0])
    moved = np.linalg.solve(A.T @ A + pull, A.T @ (y_DIABETES[used] - Z[used] @ before))
    assert np.allclose(leaf_values(done.forest)[:, 0] / 8, before + moved[:-1] + moved[-1] / 8, rtol=1e-5)
    everything = np.ones((1, len(y_DIABETES)), bool)
    same, plain = (refit_leaves(forest, X_DIABETES, y_DIABETES, judges=j) for j in (everything, None))
    assert np.array_equal(same.forest.predict(X_DIABETES), plain.forest.predict(X_DIABETES))
