"""The estimators: scikit-learn's conventions, the pruning asked for, refusals that say what to do."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import (
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

import prunopt as po
from prunopt.forests import BudgetedForestClassifier, BudgetedForestRegressor, pruned_forest
from prunopt.problems import ForestBudget

X, CODES = load_breast_cancer(return_X_y=True)
X = X[:, :10]
LABELS = np.array(["benign", "malignant"])[CODES]
COSTS = np.array([1, 2, 0, 7.25, 3, 2.5, 1, 4, 1.5, 2])
NAMES = [f"measure {k}" for k in range(10)]
X_DIABETES, y_DIABETES = load_diabetes(return_X_y=True)

RANDOM_ROWS = (
    "the forest draws bootstrap samples (or rows to hold out): a weight of 2 and a repeated row lead to other draws; "
    "scikit-learn's own random forests fail this check for the same reason"
)
WITH_DRAWS = {"check_sample_weight_equivalence_on_dense_data": RANDOM_ROWS}


def expected_failures(model: Any) -> dict[str, str]:
    return {} if isinstance(model.estimator, DecisionTreeClassifier | DecisionTreeRegressor) else WITH_DRAWS


@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [
        BudgetedForestClassifier(),
        BudgetedForestRegressor(),
        BudgetedForestClassifier(errors="holdout", refit_leaves=True),
        BudgetedForestRegressor(refit_leaves=True),
        BudgetedForestClassifier(DecisionTreeClassifier(random_state=0), errors="inbag", penalty=0.001),
        BudgetedForestRegressor(DecisionTreeRegressor(random_state=0), errors="inbag", penalty=0.001),
    ],
    expected_failed_checks=expected_failures,
)
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def small() -> RandomForestClassifier:
    return RandomForestClassifier(12, max_depth=5, max_features=None, random_state=0)


def test_a_budget_is_kept() -> None:
    model = BudgetedForestClassifier(small(), feature_costs=COSTS, budget=5, random_state=0).fit(X, LABELS)
    assert model.expected_cost_ <= 5
    assert type(model.estimator_) is RandomForestClassifier
    assert model.classes_.tolist() == ["benign", "malignant"]
    assert model.score(X, LABELS) > 0.85
    task = ForestBudget.from_forest(model.path_.forest, X, LABELS, COSTS, 0, errors="oob")
    solution = model.solution_
    assert task.error(solution.value) == pytest.approx(solution.objective)
    assert task.cost(solution.value) == pytest.approx(model.expected_cost_)
    assert solution.bound <= solution.objective
    hull = next(p for p in model.path_.points if p.expected_cost <= 5)
    assert solution.objective <= hull.training_error + 1e-12
    assert model.penalty_ == hull.penalty
    labels, acquired, cost = model.predict_on_demand(X)
    assert np.array_equal(labels, model.predict(X))
    assert np.allclose(acquired @ COSTS, cost)
    assert cost.mean() == pytest.approx(model.expected_cost_)


def test_on_demand_asks_for_what_it_needs() -> None:
    groups = {"size": [0, 2, 3], "texture": [1, 4]}
    model = BudgetedForestClassifier(small(), feature_costs=COSTS, feature_groups=groups, penalty=0.002).fit(X, LABELS)
    members = [[0, 2, 3], [1, 4], *([k] for k in range(5, 10))]
    asked = []

    def acquire(row: int, group: int) -> Any:
        asked.append((row, group))
        return X[row, members[group]]

    labels, acquired, cost = model.predict_on_demand(acquire, n_rows=20)
    assert np.array_equal(labels, model.predict(X[:20]))
    assert len(asked) == len(set(asked))
    assert sum(len(members[g]) for _, g in asked) == acquired.sum()
    early = model.predict_on_demand(X[:20], stop_early=True)
    assert np.array_equal(early.predictions, labels)
    assert np.all(early.cost <= cost)


@pytest.mark.parametrize("solver", ["min-cut", "highs"])
def test_a_penalty_is_solved_by_the_solver_asked_for(solver: str) -> None:
    options: dict[str, Any] = {"feature_costs": COSTS, "penalty": 0.003, "random_state": 0}
    model = BudgetedForestClassifier(small(), **options).fit(X[:200], LABELS[:200])
    other = BudgetedForestClassifier(small(), solver=solver, **options).fit(X[:200], LABELS[:200])
    assert other.solution_.solver == solver
    assert other.solution_.status is model.solution_.status is po.Status.OPTIMAL
    assert other.solution_.objective == pytest.approx(model.solution_.objective, abs=1e-9)
    assert model.penalty_ == other.penalty_ == 0.003
    task = ForestBudget.from_forest(other.path_.forest, X[:200], LABELS[:200], COSTS, 0.003, errors="oob")
    assert other.expected_cost_ == pytest.approx(task.cost(other.solution_.value))


def test_without_budget_and_penalty_the_cheapest_within_one_standard_error() -> None:
    forest = RandomForestClassifier(40, max_depth=6, max_features=None, random_state=0)
    model = BudgetedForestClassifier(forest, feature_costs=COSTS).fit(X, LABELS)
    # The same by hand: each third of the rows is judged by prunings of the other two thirds, by trees that missed it.
    unseen = np.stack([~np.isin(np.arange(len(X)), rows) for rows in model.path_.forest.estimators_samples_])
    fold = np.arange(len(X)) % 3
    np.random.default_rng(0).shuffle(fold)
    errors, spreads = [], []
    for point in model.path_.points:
        at = point.penalty if np.isinf(point.penalty_end) else (point.penalty + point.penalty_end) / 2
        wrong = np.zeros(len(X))
        for f in range(3):
            part = ForestBudget.from_forest(
                model.path_.forest, X, LABELS, COSTS, at, errors="oob", sample_weight=(fold != f).astype(float)
            )
            kept = po.solve(part).value
            pruned = pruned_forest(model.path_.forest, kept)
            votes = np.stack([tree.predict_proba(X) for tree in pruned.estimators_])
            vote = (votes * unseen[:, :, None]).sum(axis=0).argmax(axis=1)
            wrong[fold == f] = (pruned.classes_[vote] != LABELS)[fold == f]
        errors.append(wrong.mean())
        spreads.append(np.sqrt(sum((wrong[fold == f].std() ** 2) * (fold == f).sum() for f in range(3))) / len(X))
    best = int(np.argmin(errors))
    allowed = np.flatnonzero(np.array(errors) <= errors[best] + spreads[best])
    assert model.path_.index(penalty=model.penalty_) == allowed[-1]


def test_a_frozen_forest_is_used_as_it_is() -> None:
    forest = small().fit(X[:300], LABELS[:300])
    before = pickle.dumps(forest)
    model = BudgetedForestClassifier(FrozenEstimator(forest), feature_costs=COSTS, budget=4, errors="holdout")
    model.fit(X[300:], LABELS[300:])
    assert pickle.dumps(forest) == before
    assert model.path_.forest is forest
    expected = model.path_.at(budget=4)
    assert np.array_equal(model.predict(X), expected.predict(X))
    same = BudgetedForestClassifier(FrozenEstimator(forest), budget=4).fit(X[:300], LABELS[:300])
    assert same.errors == "oob"
    with pytest.raises(ValueError, match="the rows that the forest was fitted on"):
        BudgetedForestClassifier(FrozenEstimator(forest), budget=4).fit(X[100:], LABELS[100:])


def test_names_of_columns_are_known_throughout() -> None:
    frame = pd.DataFrame(X, columns=NAMES)
    costs = dict(zip(NAMES, COSTS.tolist(), strict=True))
    model = BudgetedForestClassifier(small(), feature_costs=costs, budget=5, errors="holdout", random_state=0)
    model.fit(frame, pd.Series(LABELS))
    assert model.feature_names_in_.tolist() == model.estimator_.feature_names_in_.tolist() == NAMES
    assert set(model.path_.points[0].acquired) <= set(NAMES)
    assert model.predict(frame).shape == (len(X),)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame.rename(columns={"measure 0": "colour"}))
    with pytest.raises(ValueError, match="did you mean 'measure"):
        model.set_params(feature_costs={"mesure 0": 1, **costs}).fit(frame, LABELS)


def test_held_out_rows_judge_and_all_rows_refit() -> None:
    model = BudgetedForestClassifier(small(), feature_costs=COSTS, errors="holdout", budget=6, random_state=0)
    model.fit(X, LABELS)
    grown_on = model.path_.forest.estimators_[0].tree_.weighted_n_node_samples[0]
    assert grown_on == np.floor(0.75 * len(X))
    assert model.temperature_ is None
    assert np.array_equal(model.predict_proba(X), model.estimator_.predict_proba(X))
    refitted = clone(model).set_params(refit_leaves=True).fit(X, LABELS)
    assert refitted.expected_cost_ == model.expected_cost_
    assert np.array_equal(refitted.solution_.value, model.solution_.value)
    assert np.array_equal(refitted.predict_on_demand(X).cost, model.predict_on_demand(X).cost)
    probability = refitted.predict_proba(X)
    assert np.allclose(probability.sum(axis=1), 1)
    assert np.array_equal(refitted.classes_[probability.argmax(axis=1)], refitted.predict(X))
    truth = (np.arange(len(X)), CODES)
    assert -np.log(probability[truth]).mean() < -np.log(np.maximum(model.predict_proba(X)[truth], 1e-3)).mean()


def test_regression() -> None:
    model = BudgetedForestRegressor(budget=3, random_state=0).fit(X_DIABETES, y_DIABETES)
    assert model.expected_cost_ <= 3
    assert type(model.estimator_) is RandomForestRegressor
    assert model.score(X_DIABETES, y_DIABETES) > 0.4
    predictions, _, cost = model.predict_on_demand(X_DIABETES)
    assert np.array_equal(predictions, model.predict(X_DIABETES))
    assert cost.mean() == pytest.approx(model.expected_cost_)
    with pytest.raises(ValueError, match=r"loss must be one of .*'squared', got 'gini'"):
        BudgetedForestRegressor(loss="gini").fit(X_DIABETES, y_DIABETES)


def test_weights_scale_errors_and_costs() -> None:
    weight = np.where(X[:, 0] > np.median(X[:, 0]), 3.0, 0.0)
    tree = DecisionTreeClassifier(max_depth=5, random_state=0)
    options: dict[str, Any] = {"feature_costs": COSTS, "errors": "inbag", "penalty": 0.002}
    model = BudgetedForestClassifier(tree, **options).fit(X, LABELS, sample_weight=weight)
    part = BudgetedForestClassifier(tree, **options).fit(X[weight > 0], LABELS[weight > 0])
    assert model.expected_cost_ == pytest.approx(part.expected_cost_)
    assert model.solution_.objective == pytest.approx(part.solution_.objective)
    assert np.array_equal(model.predict(X), part.predict(X))


def test_missing_values_go_through() -> None:
    rows = X.copy()
    rows[::5, 7] = np.nan
    model = BudgetedForestClassifier(budget=5, random_state=0).fit(rows, LABELS)
    assert model.score(rows, LABELS) > 0.85


@pytest.mark.parametrize("labels", [CODES.astype(bool), CODES * 2.0 - 7, LABELS.astype(object)], ids=str)
def test_labels_of_any_type(labels: Any) -> None:
    model = BudgetedForestClassifier(small(), budget=5, refit_leaves=True).fit(X, labels)
    assert set(model.predict(X)) == set(labels)
    assert model.score(X, labels) > 0.85


def test_it_works_inside_scikit_learn() -> None:
    model = make_pipeline(StandardScaler(), BudgetedForestClassifier(small(), budget=5))
    assert cross_val_score(model, X, LABELS, cv=3).mean() > 0.85
    search = GridSearchCV(BudgetedForestClassifier(small()), {"budget": [0, 4], "estimator__max_depth": [3]}, cv=3)
    search.fit(X, LABELS)
    assert search.best_params_ == {"budget": 4, "estimator__max_depth": 3}
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    assert np.array_equal(again.predict(X), search.predict(X))


def test_the_same_seed_gives_the_same_model() -> None:
    fits = [
        BudgetedForestClassifier(errors="holdout", refit_leaves=True, random_state=5).fit(X, LABELS).predict_proba(X)
        for _ in range(2)
    ]
    assert np.array_equal(*fits)


BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"budget": 1, "penalty": 1}, {}, "give one of the two"),
    ({"errors": "test"}, {}, "errors must be one of .*, got 'test'"),
    ({"errors": "inbag"}, {}, "give budget or penalty"),
    ({"solver": "highs", "budget": 3}, {}, "solver must be None without penalty"),
    ({"estimator": RandomForestClassifier}, {}, "estimator must be an instance"),
    ({"estimator": RandomForestRegressor()}, {}, "must be a forest classifier"),
    ({"estimator": ExtraTreesClassifier(5)}, {}, "for ExtraTreesClassifier without bootstrap"),
    ({"estimator": GradientBoostingClassifier(n_estimators=2), "errors": "holdout"}, {}, "boosted trees"),
    (
        {"estimator": BaggingClassifier(RandomForestClassifier(2), 2)},
        {},
        "a bagging ensemble of decision trees",
    ),
    ({"budget": -1}, {}, "budget must be a finite number >= 0, got -1"),
    ({"penalty": -1}, {}, "penalty must be a.* number >= 0, got -1"),
    ({"feature_costs": [1, 2]}, {}, r"got shape \(2,\)"),
    ({"feature_costs": -COSTS}, {}, r"feature_costs\['x0'\] must be a finite number >= 0, got -1"),
    ({"feature_costs": COSTS * np.nan}, {}, "finite number"),
    ({"feature_costs": {"colour": 1}}, {}, "name features, got 'colour'"),
    ({"loss": "hinge"}, {}, "loss must be one of .*, got 'hinge'"),
    (
        {"errors": "holdout", "validation_fraction": 2},
        {},
        "validation_fraction must be .* > 0 and < 1, got 2",
    ),
    ({}, {"y": np.c_[CODES, CODES]}, "fit one model for each output"),
    ({}, {"X": np.full_like(X, np.inf)}, "infinity"),
    ({}, {"sample_weight": -np.ones(len(X))}, "Negative values"),
]


@pytest.mark.parametrize(("parameters", "data", "message"), BAD, ids=[m for _, _, m in BAD])
def test_bad_input(parameters: dict[str, Any], data: dict[str, Any], message: str) -> None:
    model = BudgetedForestClassifier(**{"estimator": small(), "random_state": 0, **parameters})
    with pytest.raises(ValueError, match=message):
        model.fit(data.get("X", X), data.get("y", LABELS), data.get("sample_weight"))


def test_a_model_or_forest_that_is_not_fitted() -> None:
    with pytest.raises(NotFittedError):
        BudgetedForestClassifier().predict(X)
    with pytest.raises(NotFittedError):
        BudgetedForestClassifier().predict_on_demand(X)
    with pytest.raises(NotFittedError):
        BudgetedForestClassifier(FrozenEstimator(small())).fit(X, LABELS)


def test_rows_with_other_features() -> None:
    forest = small().fit(X, LABELS)
    with pytest.raises(ValueError, match="must have shape \\(n, 10\\)"):
        BudgetedForestClassifier(FrozenEstimator(forest), errors="holdout").fit(X[:, :4], LABELS)
    model = BudgetedForestClassifier(small(), budget=3).fit(X, LABELS)
    with pytest.raises(ValueError, match="expecting 10 features"):
        model.predict(X[:, :4])
