"""Old names work for one release, with a warning that names the new form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

import prunopt.forests
from prunopt import plots
from prunopt.forests import (
    BudgetedBoostingClassifier,
    BudgetedForestClassifier,
    BudgetedForestRegressor,
    budget_path,
    grow_budgeted_forest,
)
from prunopt.forests.boosting import Shape
from prunopt.forests.datasets import load_heart
from prunopt.problems import ForestBudget
from prunopt.problems.forest import cost_lists, feature_costs

X, Y = load_breast_cancer(return_X_y=True)
X, Y = X[:150, :6], Y[:150]
FOREST = RandomForestClassifier(4, max_depth=3, random_state=0).fit(X, Y)


def old(name: str) -> Any:
    return pytest.warns(DeprecationWarning, match=name)


@pytest.fixture(scope="module")
def path() -> Any:
    return budget_path(FOREST, X, Y, None)


def test_names_of_modules() -> None:
    with old("CostList"):
        assert prunopt.forests.Prices is cost_lists.CostList
    with old("FeatureCosts"):
        assert feature_costs.FeaturePrices is feature_costs.FeatureCosts
    with old("acquired_features"):
        assert plots.features_bought is plots.acquired_features
    with pytest.raises(AttributeError, match="no attribute 'Tariffs'"):
        _ = cost_lists.Tariffs
    heart = load_heart()
    with old("costs"):
        assert np.array_equal(heart.prices().costs, heart.costs().costs)  # type: ignore[attr-defined]


def test_attributes_and_arguments_of_paths(path: Any) -> None:
    point = path.points[1]
    with old("penalty"):
        assert point.price == point.penalty
    with old("acquired"):
        assert point.bought == point.acquired
    with old("penalty="):
        assert path.index(price=point.penalty) == 1
    with old("feature_costs"):
        assert path.prices is path.feature_costs
    with old("penalty"):
        assert np.array_equal(path.curve(X, Y).price, path.curve(X, Y).penalty)
    price: Any = {"price": 0.25}
    with old("penalty="):
        task: Any = ForestBudget.from_forest(FOREST, X, Y, None, **price)
    with old("penalty"):
        assert task.price == task.penalty == 0.25
    with old("at_penalty"):
        assert task.at_price(0.5).penalty == 0.5


def test_the_number_of_jobs_goes_to_joblib(path: Any) -> None:
    jobs: Any = {"n_jobs": 2}
    with old("parallel_config"):
        both = budget_path(FOREST, X, Y, None, **jobs)
    assert np.array_equal(both.lifetime, path.lifetime)


@pytest.mark.parametrize("kind", [BudgetedForestClassifier, BudgetedForestRegressor])
def test_estimators_clone_and_tell_their_old_parameter(kind: Any) -> None:
    assert clone(kind()).get_params()["price"] == "deprecated"
    model = clone(kind(price=0.01, random_state=0))
    assert model.get_params()["price"] == 0.01
    with old("penalty="):
        model.fit(X, Y)
    same = kind(penalty=0.01, random_state=0).fit(X, Y)
    assert np.array_equal(model.predict(X), same.predict(X))
    with old("penalty_"):
        assert model.price_ == same.penalty_ == 0.01


def test_alternating_is_a_refit() -> None:
    with old("refit_leaves=True"):
        model = BudgetedForestClassifier(budget=2, refit_leaves="alternate", random_state=0).fit(X, Y)
    same = BudgetedForestClassifier(budget=2, refit_leaves=True, random_state=0).fit(X, Y)
    assert np.array_equal(model.predict_proba(X), same.predict_proba(X))
    with old("acquisitions"):
        assert len(model.predict_on_demand(X).purchases) == len(model.predict_on_demand(X).acquisitions)


def test_growing() -> None:
    sizes: Any = {"n_trees": 3, "max_leaves": 4}
    with old(r"shape=Shape"):
        grown: Any = grow_budgeted_forest(X, Y, penalty=0.01, **sizes)
    same = grow_budgeted_forest(X, Y, penalty=0.01, shape=Shape(0.3, 4, 3))
    assert np.array_equal(grown.predict_proba(X), same.predict_proba(X))
    with old("acquired_groups"):
        assert np.array_equal(grown.bought, same.acquired_groups)
    options: dict[str, Any] = {"budget": 2, "n_free_trees": 2, "random_state": 0}
    model = clone(BudgetedBoostingClassifier(n_prices=2, **options))
    with old("n_penalties="):
        model.fit(X, Y)
    with old("feature_costs_"):
        assert model.prices_.total == 6.0
