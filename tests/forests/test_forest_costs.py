"""Forest estimators and paths under costs as they are in life: what the optimizer says is what rows pay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator

from prunopt.forests import (
    BudgetedForestClassifier,
    CostList,
    CostSum,
    FeatureCosts,
    budget_path,
    predict_on_demand,
)
from prunopt.forests.datasets import load_heart

X, Y = load_breast_cancer(return_X_y=True)
X = X[:, :8]
NAMES = tuple(f"x{k}" for k in range(8))
LISTED = CostList(
    NAMES, np.array([5.0, 2, 5, 6, 1, 1, 3, 3]), {"size": ("x0", "x2", "x3"), "dent": ("x6", "x7")},
    {"size": 4.0, "dent": 2.5}, "EUR",
)  # fmt: skip
RNG = np.random.default_rng(0)
MATRIX = RNG.integers(0, 5, X.shape) / 4
KNOWN = RNG.random(X.shape) < 0.25
SMALL = RandomForestClassifier(12, max_depth=5, max_features=None, random_state=0)


@pytest.mark.parametrize("errors", ["oob", "holdout"])
@pytest.mark.parametrize("choice", [{"budget": 4.0}, {"penalty": 0.002}, {}, {"budget": 3.0, "randomised": True}])
def test_expected_cost_is_what_the_rows_of_the_path_pay(errors: str, choice: dict[str, Any]) -> None:
    options: dict[str, Any] = {"errors": errors, "random_state": 0, **choice}
    model = BudgetedForestClassifier(SMALL, feature_costs=LISTED, **options).fit(X, Y)
    if "budget" in choice:
        assert model.expected_cost_ <= choice["budget"] + 1e-9
    if errors == "oob" and "randomised" not in choice:
        assert model.predict_on_demand(X).cost.mean() == pytest.approx(model.expected_cost_)
    per_row = BudgetedForestClassifier(SMALL, **options).fit(X, Y, feature_costs=MATRIX, known=KNOWN)
    asked = per_row.predict_on_demand(X, feature_costs=MATRIX, known=KNOWN)
    assert asked.cost == pytest.approx((asked.acquired * MATRIX).sum(axis=1))
    assert not np.any(asked.acquired & KNOWN)
    if errors == "oob" and "randomised" not in choice:
        assert asked.cost.mean() == pytest.approx(per_row.expected_cost_)


def test_a_discount_buys_more_for_the_same_money() -> None:
    heart = load_heart()
    full = BudgetedForestClassifier(feature_costs=heart.costs().costs, penalty=0.0, random_state=0).fit(
        heart.X, heart.y
    )
    listed = BudgetedForestClassifier(feature_costs=heart.costs(), penalty=0.0, random_state=0).fit(heart.X, heart.y)
    assert listed.expected_cost_ < 0.6 * full.expected_cost_
    for budget in (110, 200, 300):  # at any budget, discounts allow what full costs allow, and more
        error = listed.path_.solution(budget=budget).bound
        assert error <= full.path_.solution(budget=budget).objective + 1e-9
    frame = heart.frame().drop(columns=heart.target)
    named = BudgetedForestClassifier(feature_costs=heart.costs(), budget=150, random_state=0).fit(frame, heart.y)
    told = named.predict_on_demand(frame)
    assert told.cost == pytest.approx(heart.costs().total(told.acquired))


def test_paths_cost_other_rows() -> None:
    forest = SMALL.fit(X[:300], Y[:300])
    path = budget_path(forest, X[:300], Y[:300], MATRIX[:300], known=KNOWN[:300])
    with pytest.raises(ValueError, match="got costs of 300 rows for 269 rows of X"):
        path.curve(X[300:], Y[300:])
    curve = path.curve(X[300:], Y[300:], feature_costs=MATRIX[300:], known=KNOWN[300:])
    plain = path.curve(X[300:], Y[300:], feature_costs=LISTED)
    for k in range(0, len(path.points), 3):
        pruned = path.at(penalty=path.points[k].penalty)
        asked = predict_on_demand(pruned, X[300:], feature_costs=MATRIX[300:], known=KNOWN[300:])
        assert curve.expected_cost[k] == pytest.approx(asked.cost.mean())
        listed = predict_on_demand(pruned, X[300:], feature_costs=LISTED)
        assert plain.expected_cost[k] == pytest.approx(listed.cost.mean())
    always = budget_path(forest, X[:300], Y[:300], LISTED, known=["x1"])
    assert always.curve(X[300:], Y[300:]).expected_cost == pytest.approx(
        always.curve(X[300:], Y[300:], feature_costs=LISTED, known=["x1"]).expected_cost
    )


def test_groups_keep_their_numbers_when_penalties_change() -> None:
    forest = SMALL.fit(X, Y)
    groups = [[5, 2], [7, 0]]
    path = budget_path(forest, X, Y, [1, 2, 3, 4, 5, 6], feature_groups=groups)
    other = path.costs_for(3, feature_costs=[6, 5, 4, 3, 2, 1])
    assert other.group_names == path.feature_costs.group_names
    assert other.group_cost.tolist() == [6, 5, 4, 3, 2, 1]
    with pytest.raises(ValueError, match="the groups of the forest, got other groups"):
        path.costs_for(3, feature_costs=FeatureCosts.of(None, 8))


def test_currencies_and_frozen_forests_with_names() -> None:
    frame = pd.DataFrame(X, columns=[f"m{k}" for k in range(8)])
    forest = SMALL.fit(frame, Y)
    euros = {f"m{k}": float(k) for k in range(8)}
    both = CostSum({"EUR": euros, "hours": np.ones(8)}, {"EUR": 1, "hours": 10})
    model = BudgetedForestClassifier(FrozenEstimator(forest), feature_costs=both, errors="holdout", budget=20)
    model.fit(frame, Y)
    asked = model.predict_on_demand(frame)
    assert asked.cost == pytest.approx(asked.acquired @ (np.arange(8) + 10.0))
    assert asked.cost.mean() <= 20
    with pytest.raises(ValueError, match="must name features"):
        BudgetedForestClassifier(feature_costs={"m9": 1}).fit(frame, Y)
