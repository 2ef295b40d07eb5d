"""Prune and refit in turn: one objective, computed here from its definition, that never rises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from prunopt.forests import BudgetedForestClassifier, BudgetedForestRegressor, predict_on_demand
from prunopt.forests.alternation import _State, alternate
from prunopt.problems import ForestBudget
from prunopt.problems.forest.node_errors import tree_weights

SETS: dict[str, Any] = {
    "two classes": load_breast_cancer(return_X_y=True),
    "three classes": load_iris(return_X_y=True),
    "numbers": load_diabetes(return_X_y=True),
}


def case(name: str, errors: str = "oob", n_trees: int = 8) -> tuple[ForestBudget, Any, Any, Any]:
    X, y = SETS[name]
    X = X[:, :8]
    kind = RandomForestRegressor if name == "numbers" else RandomForestClassifier
    forest = kind(n_trees, max_depth=4, max_features=None, random_state=0).fit(X, y)
    costs = np.arange(1, X.shape[1] + 1)
    task = ForestBudget.from_forest(forest, X, y, costs, 0.002, errors=errors, loss="gini")
    judges = tree_weights(forest, errors, n_trees, np.ones(len(X))) > 0
    return task, forest, y, judges


def objective(state: _State, y: Any) -> float:
    """F from its definition: rows walked one by one, judging trees only."""
    task, T = state.task, state.task.ensemble.n_trees
    e = task.ensemble
    leaf = e.leaves(state.kept)
    use = state.use
    total = 0.0
    for i, row in enumerate(task.X):
        if not use[i].any():
            continue
        score = np.zeros(state.score.shape[1])
        for t in np.flatnonzero(use[i]):
            h = int(e.offsets[t])
            while not leaf[h]:
                h = int(e.left[h] if row[e.feature[h]] <= e.threshold[h] else e.right[h])
            score += state.score[h]
        score = state.bias + score * T / use[i].sum()
        if e.classes is None:
            total += float((y[i] - score[0]) ** 2) / 2
        else:
            total -= float(log_softmax(score)[np.searchsorted(e.classes, y[i])])
    total += state.ridge / 2 * float(np.square(state.score[leaf] - state.anchor[leaf]).sum())
    return float(total / use.any(axis=1).sum())


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("errors", ["oob", "holdout"])
def test_the_surrogate_lies_above_the_objective_and_touches_it(name: str, errors: str) -> None:
    task, _, y, judges = case(name, errors)
    kept = np.ones(len(task.ensemble.internal), np.bool_)
    state = _State(task, y, judges, kept, 3.0, 0)
    state.refit(kept)
    here = state.objective()
    assert here == pytest.approx(objective(state, y))
    T = task.ensemble.n_trees
    error, score = state.surrogate(float(T))
    surrogate = state.task_with(error, 0.0)
    leaf = np.flatnonzero(task.ensemble.leaves(kept))
    penalty = state.ridge / 2 * np.square(state.score[leaf] - state.anchor[leaf]).sum() / state.total
    # Whoever stays pays the penalty that F has already, and the best scores save some of it.
    assert surrogate.error(kept) <= penalty + 1e-12 * max(1.0, penalty)
    rng = np.random.default_rng(0)
    for _ in range(20):
        split = np.ones(task.ensemble.n_nodes, np.bool_)
        split[task.ensemble.internal] = rng.random(len(kept)) < 0.85
        for h in task.ensemble.internal:
            above = task.ensemble.parent[h]
            split[h] &= above < 0 or split[above]
        other = split[task.ensemble.internal]
        bound = here - penalty + surrogate.error(other)
        assert state.objective(other, score) <= bound + 1e-9 * max(1.0, abs(bound))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("budget", [None, 3.0])
def test_the_objective_never_rises(name: str, budget: float | None) -> None:
    task, forest, y, judges = case(name)
    kept = np.zeros(len(task.ensemble.internal), np.bool_)
    price = {"numbers": 50.0}.get(name, 0.01)
    found = alternate(task.at_price(price), forest, y, kept, judges=judges, budget=budget)
    assert len(found.objectives) >= 3
    assert np.all(np.diff(found.objectives) <= 0)
    assert found.objectives[-1] < found.objectives[0]
    assert task.violation(found.kept) == 0
    assert type(found.forest) is type(forest)
    cost = predict_on_demand(found.forest, task.X, feature_costs=task.prices).cost.mean()
    assert cost == pytest.approx(task.cost(found.kept))
    if budget is not None:
        assert cost <= budget + 1e-9


def test_the_estimators_alternate_within_the_budget() -> None:
    X, y = SETS["two classes"]
    costs = np.arange(1, 31)
    options: dict[str, Any] = {"feature_costs": costs, "budget": 40.0, "random_state": 0}
    forest = RandomForestClassifier(10, max_depth=5, max_features=None)
    model = BudgetedForestClassifier(forest, refit_leaves="alternate", **options).fit(X, y)
    once = BudgetedForestClassifier(forest, refit_leaves=True, **options).fit(X, y)
    assert once.alternation_ is None
    assert np.array_equal(once.solution_.value, model.solution_.value)
    assert np.all(np.diff(model.alternation_.objectives) <= 0)
    assert type(model.estimator_) is RandomForestClassifier
    assert model.expected_cost_ <= 40
    assert model.predict_on_demand(X).cost.mean() == pytest.approx(model.expected_cost_)
    assert np.array_equal(model.predict(X), model.estimator_.predict(X))
    assert np.allclose(model.predict_proba(X).sum(axis=1), 1)
    X, y = SETS["numbers"]
    numbers = RandomForestRegressor(8, max_depth=4, max_features=None)
    regressor = BudgetedForestRegressor(numbers, refit_leaves="alternate", budget=3, random_state=0).fit(X, y)
    assert regressor.expected_cost_ <= 3 + 1e-9
    assert regressor.score(X, y) > 0.4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refit_leaves": "often"}, "refit_leaves='often': give False, True"),
        ({"randomised": True}, "give budget="),
        ({"randomised": True, "budget": 3, "refit_leaves": "alternate"}, "alternating leaves the path"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    X, y = SETS["two classes"]
    with pytest.raises(ValueError, match=message):
        BudgetedForestClassifier(**options).fit(X, y)
