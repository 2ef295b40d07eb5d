"""Mixtures of two neighbors on a path: the budget is met exactly, on the hull."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

from prunopt.forests import BudgetedForestClassifier, BudgetedForestRegressor, budget_path
from prunopt.forests.mixture import mixture

X, y = load_breast_cancer(return_X_y=True)
FOREST = RandomForestClassifier(15, max_depth=4, random_state=0).fit(X[:300], y[:300])
PATH = budget_path(FOREST, X[300:], y[300:], np.arange(1, 31))


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_the_budget_is_met_exactly_and_the_error_is_lagranges_bound(share: float) -> None:
    low, high = PATH.points[3], PATH.points[2]
    budget = low.expected_cost + share * (high.expected_cost - low.expected_cost)
    found = mixture(PATH, budget)
    assert found.expected_cost == pytest.approx(budget, rel=1e-12)
    assert found.share == pytest.approx(share)
    assert found.error == pytest.approx(PATH.solution(budget=budget).bound, abs=1e-12)


def test_the_coin_is_fair_and_seeded() -> None:
    budget = 0.5 * (PATH.points[0].expected_cost + PATH.points[-1].expected_cost)
    found = mixture(PATH, budget)
    first, second = found.predict(X, 0), found.predict(X, 0)
    assert np.array_equal(first, second)
    answers = found.cheaper.predict(X), found.costlier.predict(X)
    assert np.all((first == answers[0]) | (first == answers[1]))
    apart = answers[0] != answers[1]
    draws = np.concatenate([found.predict(X, s)[apart] == answers[1][apart] for s in range(200)])
    if len(draws):
        assert draws.mean() == pytest.approx(found.share, abs=0.05)


def test_ends() -> None:
    assert mixture(PATH, 1e6).share == 0.0
    assert mixture(PATH, 1e6).expected_cost == PATH.points[0].expected_cost
    with pytest.raises(ValueError, match="the prunings of the path cost"):
        mixture(PATH, -1)


@pytest.mark.parametrize("refit", [False, True])
def test_the_estimator_mixes_to_the_budget(refit: bool) -> None:
    options: dict[str, Any] = {
        "feature_costs": np.arange(1, 31),
        "random_state": 3,
        "randomised": True,
        "refit_leaves": refit,
    }
    pure = BudgetedForestClassifier(FOREST, feature_costs=np.arange(1, 31), penalty=0, random_state=3).fit(X, y)
    low, high = pure.path_.points[2], pure.path_.points[1]
    budget = (2 * low.expected_cost + high.expected_cost) / 3
    model = BudgetedForestClassifier(FOREST, budget=budget, **options).fit(X, y)
    assert model.expected_cost_ == pytest.approx(budget, rel=1e-12)
    assert model.mixture_.share == pytest.approx(1 / 3)
    assert model.solution_.objective == pytest.approx(low.training_error)
    assert model.mixture_.error == pytest.approx(model.solution_.bound)
    labels, _, cost = model.predict_on_demand(X)
    assert np.array_equal(labels, model.predict(X))
    assert np.array_equal(model.predict(X), model.predict(X))
    assert np.array_equal(model.predict(X[:50]), model.predict(X)[:50])
    probability = model.predict_proba(X)
    assert np.array_equal(model.classes_[probability.argmax(axis=1)], labels)
    coin = model.mixture_.coins(len(X), 3)
    assert np.array_equal(labels[coin], model.mixture_.costlier.predict(X[coin]))
    # Over many coins, what is paid for these rows is the budget.
    paid = [model.set_params(random_state=s).predict_on_demand(X).cost.mean() for s in range(30)]
    assert np.mean(paid) == pytest.approx(budget, rel=0.02)
    asked = []

    def acquire(row: int, group: int) -> float:
        asked.append((row, group))
        return float(X[row, group])

    model.set_params(random_state=3)
    same = model.predict_on_demand(acquire, n_rows=60)
    assert np.array_equal(same.predictions, labels[:60])
    assert same.cost == pytest.approx(cost[:60])
    assert len(asked) == len(set(asked)) == same.acquired.sum()
    rounds = model.predict_on_demand(lambda rows, group: X[rows, group], n_rows=60, batch=True)
    assert np.array_equal(rounds.acquired, same.acquired)


def test_a_regressor_mixes_too() -> None:
    rng = np.random.default_rng(0)
    Z = rng.random((200, 4))
    target = Z @ [1, 2, 3, 4] + 0.1 * rng.random(200)
    model = BudgetedForestRegressor(budget=1.5, randomised=True, random_state=0).fit(Z, target)
    assert model.expected_cost_ == pytest.approx(1.5)
    assert np.array_equal(model.predict(Z), model.predict_on_demand(Z).predictions)
