"""The task in its own terms, its reduction, and its refusal of bad input."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, make_classification
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.tree import DecisionTreeClassifier

import prunopt as po
from prunopt.forms import Closure, LinearProgram
from prunopt.problems import ForestBudget
from prunopt.testing import brute_force_closure

X_CANCER, y_CANCER = load_breast_cancer(return_X_y=True)
X_CANCER = X_CANCER[:, :8].copy()
X_CANCER[::7, 3] = np.nan
LABELS = np.array(["benign", "malignant"])[y_CANCER]
COSTS = np.array([1, 2, 0, 7.25, 3, 2.5, 1, 4])


def random_closed(task: ForestBudget, rng: np.random.Generator) -> NDArray[np.bool_]:
    keep = np.zeros(task.ensemble.n_nodes, np.bool_)
    for h in task.ensemble.internal:
        parent = task.ensemble.parent[h]
        keep[h] = (parent < 0 or keep[parent]) and rng.random() < 0.8
    return keep[task.ensemble.internal]


def walked(task: ForestBudget, forest: Any, X: Any, kept: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Labels of each pruned tree for each row, and the features that each row meets: through decision_path."""
    trees, columns = forest.estimators_, getattr(forest, "estimators_features_", [np.arange(X.shape[1])] * 10**4)
    e, labels = task.ensemble, []
    split = np.zeros(e.n_nodes, np.bool_)
    split[e.internal] = kept
    used = np.zeros(X.shape, np.bool_)
    for t, (tree, cols) in enumerate(zip(trees, columns, strict=False)):
        offset = e.offsets[t]
        path = tree.decision_path(X[:, cols].astype(np.float32)).toarray().astype(bool)
        answer = np.empty(len(X), np.int64)
        for i in range(len(X)):
            for h in np.flatnonzero(path[i]):
                if not split[offset + h]:
                    answer[i] = tree.tree_.value[h, 0].argmax()
                    break
                used[i, cols[tree.tree_.feature[h]]] = True
        labels.append(answer)
    return np.array(labels), used


FORESTS = [
    RandomForestClassifier(6, max_depth=4, random_state=0),
    ExtraTreesClassifier(6, max_depth=4, random_state=0, bootstrap=True),
    RandomForestClassifier(5, max_leaf_nodes=9, random_state=0),
    BaggingClassifier(DecisionTreeClassifier(max_depth=4), 6, max_features=0.5, random_state=0),
]


@pytest.mark.parametrize("forest", FORESTS, ids=lambda f: type(f).__name__)
@pytest.mark.parametrize("weighted", [False, True])
def test_objective_is_error_plus_penalty_times_cost(forest: Any, weighted: bool) -> None:
    forest = forest.fit(X_CANCER[:300], LABELS[:300])
    X, y = X_CANCER[300:], LABELS[300:]
    rng = np.random.default_rng(0)
    weight = rng.integers(0, 4, len(X)) / 2 if weighted else np.ones(len(X))
    task = ForestBudget.from_forest(
        forest, X, y, COSTS, 0.004, sample_weight=weight if weighted else None, errors="holdout"
    )
    for _ in range(3):
        kept = random_closed(task, rng)
        labels, used = walked(task, forest, X, kept)
        wrong = (forest.classes_[labels] != y).astype(float)
        error = np.average(wrong, axis=1, weights=weight).mean()
        cost = np.average(used @ COSTS, weights=weight)
        assert task.objective(kept) == pytest.approx(error + 0.004 * cost, rel=1e-12)
        reduced = task.reduce()
        assert reduced.form.objective(kept) + reduced.shift == pytest.approx(task.objective(kept), rel=1e-12)
        assert task.violation(kept) == 0


@pytest.mark.parametrize(
    "forest",
    [
        RandomForestRegressor(5, max_depth=3, random_state=0),
        ExtraTreesRegressor(5, max_depth=3, random_state=0),
        BaggingRegressor(n_estimators=4, random_state=0),
    ],
    ids=lambda f: type(f).__name__,
)
def test_regression_uses_squared_errors(forest: Any) -> None:
    X, y = load_diabetes(return_X_y=True)
    forest = forest.fit(X[:200], y[:200])
    task = ForestBudget.from_forest(forest, X[200:], y[200:], np.ones(10), 5.0)
    full = np.ones(len(task.ensemble.internal), np.bool_)
    trees = [t.predict(X[200:][:, c]) for t, c in zip(forest.estimators_, _columns(forest, X), strict=True)]
    assert task.error(full) == pytest.approx(np.mean([(p - y[200:]) ** 2 for p in trees]))
    solution = po.solve(task)
    assert solution.status is po.Status.OPTIMAL
    assert solution.objective <= min(task.objective(full), task.objective(~full)) + 1e-9


def _columns(forest: Any, X: Any) -> list[Any]:
    return list(getattr(forest, "estimators_features_", [slice(None)] * len(forest.estimators_)))


def test_out_of_bag_errors_are_those_of_the_rows_left_out() -> None:
    forest = RandomForestClassifier(12, max_depth=4, random_state=3).fit(X_CANCER, LABELS)
    task = ForestBudget.from_forest(forest, X_CANCER, LABELS, COSTS, 0.0, errors="oob")
    full = np.ones(len(task.ensemble.internal), np.bool_)
    share = []
    for tree, rows in zip(forest.estimators_, forest.estimators_samples_, strict=True):
        out = np.setdiff1d(np.arange(len(X_CANCER)), rows)
        share.append(np.mean(forest.classes_[tree.predict(X_CANCER[out]).astype(int)] != LABELS[out]))
    assert task.error(full) == pytest.approx(np.mean(share), rel=1e-12)


@pytest.mark.parametrize("errors", ["holdout", "oob", "inbag"])
@pytest.mark.parametrize("loss", ["misclassification", "gini", "log"])
def test_every_exact_solver_agrees(errors: str, loss: str) -> None:
    X, y = X_CANCER[:120], LABELS[:120]
    forest = RandomForestClassifier(4, max_depth=3, random_state=1).fit(X, y)
    task = ForestBudget.from_forest(forest, X, y, COSTS, 0.003, errors=errors, loss=loss)
    found = {row.name: po.solve(task, row.name) for row in po.solvers(task) if row.exact}
    assert {"highs", "pulp", "min-cut"} <= set(found)
    best = min(s.objective for s in found.values())
    for name, solution in found.items():
        assert solution.objective == pytest.approx(best, abs=1e-9), name
        assert solution.status is po.Status.OPTIMAL, (name, solution.gap)
        po.verify(task, solution)


@pytest.mark.parametrize("seed", range(12))
def test_reduction_against_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 4, (40, 3)).astype(float)
    y = rng.integers(0, 2, 40)
    forest = RandomForestClassifier(3, max_leaf_nodes=5, random_state=seed).fit(X, y)
    penalty = Fraction(int(rng.integers(0, 9)), 50)
    task = ForestBudget.from_forest(forest, X, rng.permutation(y), rng.integers(0, 5, 3), penalty)
    reduced = task.reduce()
    best = brute_force_closure(reduced.form) + reduced.shift
    assert po.solve(task).objective == pytest.approx(best, rel=1e-12, abs=1e-12)
    assert po.solve(task, "pulp").objective == pytest.approx(best, rel=1e-9, abs=1e-9)


def test_the_papers_program_is_in_its_own_variables() -> None:
    forest = RandomForestClassifier(2, max_depth=2, random_state=0).fit(X_CANCER[:30], LABELS[:30])
    task = ForestBudget.from_forest(forest, X_CANCER[:30], LABELS[:30], COSTS, 0.01)
    names = set(task.to_pulp().variablesDict())
    assert {n[0] for n in names} == {"z", "w"}
    assert sum(n.startswith("z_") for n in names) == task.ensemble.n_nodes


def test_groups_are_bought_together() -> None:
    forest = RandomForestClassifier(5, max_depth=4, random_state=0).fit(X_CANCER, LABELS)
    groups = {"image": [0, 1, 3], "rest": [4, 5]}
    task = ForestBudget.from_forest(forest, X_CANCER, LABELS, COSTS, 0.01, feature_groups=groups)
    assert task.feature_costs.group_cost.tolist() == [10.25, 5.5, 0.0, 1.0, 4.0]
    kept = np.ones(len(task.ensemble.internal), np.bool_)
    _, used = walked(task, forest, X_CANCER, kept)
    by_group = np.column_stack([used[:, [0, 1, 3]].any(1), used[:, [4, 5]].any(1), used[:, [2, 6, 7]]])
    assert np.array_equal(task.acquired(kept), by_group)
    assert task.cost(kept) == pytest.approx((by_group @ task.feature_costs.group_cost).mean())
    for spelled in ([[0, 1, 3], [4, 5]], ["a", "a", "c", "a", "b", "b", "d", "e"]):
        other = ForestBudget.from_forest(forest, X_CANCER, LABELS, COSTS, 0.01, feature_groups=spelled)
        assert po.solve(other).objective == pytest.approx(po.solve(task).objective, rel=1e-12)


def test_irrational_costs_weights_and_penalty_are_rounded_within_the_gap() -> None:
    rng = np.random.default_rng(5)
    forest = RandomForestClassifier(20, max_depth=6, random_state=0).fit(X_CANCER, LABELS)
    weight = rng.random(len(LABELS))
    task = ForestBudget.from_forest(forest, X_CANCER, LABELS, rng.random(8), np.pi / 1000, sample_weight=weight)
    reduced = task.reduce()
    assert 0 < reduced.slack < 1e-12
    kept = random_closed(task, rng)
    assert abs(reduced.form.objective(kept) + reduced.shift - task.objective(kept)) <= reduced.slack
    solution = po.solve(task)
    assert solution.status is po.Status.OPTIMAL
    po.verify(task, solution)


def test_forms() -> None:
    forest = RandomForestClassifier(3, max_depth=3, random_state=0).fit(X_CANCER, LABELS)
    task = ForestBudget.from_forest(forest, X_CANCER, LABELS, COSTS, 0.01)
    assert isinstance(task.reduce().form, Closure)
    assert isinstance(task.reduce(LinearProgram).form, LinearProgram)
    with pytest.raises(ValueError, match="must be Closure or LinearProgram, got str"):
        task.reduce(str)
    assert task.at_penalty(0.5).penalty == Fraction(1, 2)
    assert po.solve(task.at_penalty(1000)).value is not None


def _fitted() -> RandomForestClassifier:
    return RandomForestClassifier(3, max_depth=3, random_state=0).fit(X_CANCER, LABELS)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"forest": RandomForestClassifier()}, "not fitted"),
    ({"forest": RandomForestClassifier}, "got the class RandomForestClassifier"),
    ({"forest": GradientBoostingClassifier(n_estimators=2).fit(np.nan_to_num(X_CANCER), LABELS)}, "boosted trees"),
    ({"forest": RandomForestClassifier(2).fit(X_CANCER, np.c_[y_CANCER, y_CANCER])}, "must predict one output"),
    ({"feature_costs": [1, 2]}, r"given for 8 features, got shape \(2,\)"),
    ({"feature_costs": -COSTS}, r"feature_costs\['x0'\] must be a finite number >= 0, got -1"),
    ({"feature_costs": COSTS * np.nan}, "finite number"),
    ({"feature_costs": {"x0": 1, "colour": 2}}, "name features, got 'colour'"),
    ({"feature_costs": {"x0": 1}}, "give x1"),
    ({"X": X_CANCER[:, :5]}, "must have shape \\(n, 8\\)"),
    ({"X": X_CANCER[:0], "y": LABELS[:0]}, "at least one row, got none"),
    ({"y": LABELS[:-1]}, "y must have shape"),
    ({"y": np.full(len(LABELS), "cat")}, "y must hold classes of the forest"),
    ({"errors": "test"}, "errors must be one of .*, got 'test'"),
    ({"loss": "hinge"}, "loss must be one of .*, got 'hinge'"),
    ({"loss": "squared"}, "for a classifier, got 'squared'"),
    ({"penalty": -1}, "penalty must be a.* number >= 0, got -1"),
    ({"penalty": float("nan")}, "penalty must be a finite number >= 0, got nan"),
    ({"sample_weight": np.zeros(len(LABELS))}, "must hold a weight above 0"),
    ({"sample_weight": np.ones(3)}, "sample_weight must have shape"),
    ({"feature_groups": {"a": [0, 1], "b": [1]}}, "hold each feature once"),
    ({"feature_groups": {"a": ["colour"]}}, "must name features"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=lambda v: v if isinstance(v, str) else "")
def test_bad_input(change: dict[str, Any], message: str) -> None:
    given = {"forest": _fitted(), "X": X_CANCER, "y": LABELS, "feature_costs": COSTS, "penalty": 0.1, **change}
    with pytest.raises(ValueError, match=message):
        ForestBudget.from_forest(**given)


def test_oob_needs_bootstrap() -> None:
    X, y = make_classification(60, random_state=0)
    forest = ExtraTreesClassifier(3, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="without bootstrap"):
        ForestBudget.from_forest(forest, X, y, None, 0.1, errors="oob")
