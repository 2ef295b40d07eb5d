"""Growing, pruning and policies under costs as they are in life; on demand agrees to the cent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from prunopt.forests import BudgetedBoostingClassifier
from prunopt.forests.boosting import grow_budgeted_forest
from prunopt.forests.boosting.acquisition_policy import AcquisitionPolicy
from prunopt.forests.boosting.binning import QuantileBins
from prunopt.forests.boosting.cost_efficient_boosting import Problem, Shape, boost, largest_penalty
from prunopt.forests.boosting.losses import Classification
from prunopt.forests.boosting.policy_search import _fill
from prunopt.forests.boosting.surrogate_path import surrogate_path
from prunopt.forests.boosting.trees import GrownForest
from prunopt.problems.forest.cost_lists import CostList, CostSum
from prunopt.problems.forest.feature_costs import FeatureCosts

N, K = 300, 5
NAMES = tuple(f"x{k}" for k in range(K))
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, K))
SCORE = X[:, 0] + 0.8 * X[:, 1] * (X[:, 2] > 0) + 0.5 * X[:, 4] + 0.3 * RNG.normal(size=N)
Y = (np.median(SCORE) < SCORE).astype(int)
LISTED = CostList(NAMES, np.array([4.0, 5, 5, 2, 1]), {"blood": ("x0", "x1", "x2")}, {"blood": 3.0})
MATRIX = RNG.integers(1, 6, (N, K)).astype(float)
KNOWN = RNG.random((N, K)) < 0.3
KINDS: dict[str, tuple[Any, Any]] = {
    "discounts": (LISTED, None),
    "per row": (MATRIX, None),
    "known": ([4, 5, 5, 2, 1], ["x1"]),
    "known per row": (LISTED, KNOWN),
    "currencies": (CostSum({"a": LISTED, "b": MATRIX}, {"a": 1, "b": 0.5}), KNOWN),
}


def problem(kind: str) -> Problem:
    given, known = KINDS[kind]
    costs = FeatureCosts.of(given, K, NAMES, None, known)
    bins = QuantileBins.of(X, 32)
    loss = Classification(2)
    return Problem(bins(X), Y.astype(float), np.ones(N), costs, loss, bins.n_codes)


def bill(kind: str, forest: GrownForest, codes: Any, keep: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """What each row pays, from the definition: its paths walked one by one."""
    costs = problem(kind).feature_costs
    paid = np.zeros(N)
    for i in range(N):
        charged: set[int] = set()
        for root in forest.offsets[:-1]:
            h = int(root)
            while forest.feature[h] >= 0 and (keep is None or keep[h]):
                k = int(forest.feature[h])
                if not (len(costs.known_mask) and costs.known_mask[i % len(costs.known_mask), k]):
                    charged |= {int(c) for c in costs.components_of[k] if c >= 0}
                left = bool(forest.missing_left[h]) if codes[i, k] == 0 else codes[i, k] <= forest.code[h]
                h = int(forest.left[h] if left else forest.right[h])
        paid[i] = sum(costs.component_cost[i % len(costs.component_cost), c] for c in charged)
    return paid


@pytest.mark.parametrize("kind", KINDS)
def test_growing_and_the_exact_path_pay_what_the_walk_pays(kind: str) -> None:
    data = problem(kind)
    forest, acquired = boost(data, Shape(0.3, 8, 6), 0.01)
    paid = bill(kind, forest, data.codes)
    assert forest.n_trees > 1
    assert data.feature_costs.of_rows(acquired) == pytest.approx(paid)
    path = surrogate_path(forest, data)
    points = np.unique(np.linspace(0, len(path.cost) - 1, 4).astype(int))
    lifetime = path.lifetimes(points)
    _, costs = forest.family(data.codes, lifetime, len(points), data.feature_costs)
    for k in range(len(points)):
        slow = bill(kind, forest, data.codes, lifetime > k)
        assert costs[k] == pytest.approx(slow)
        assert path.cost[points[::-1][k]] == pytest.approx(slow.mean(), rel=1e-3)


@pytest.mark.parametrize("kind", ["discounts", "per row"])
def test_above_the_largest_penalty_nothing_is_bought(kind: str) -> None:
    data = problem(kind)
    shape = Shape(0.3, 8, 3)
    largest = largest_penalty(data, shape.ridge, shape.min_rows)
    assert boost(data, shape, largest * 0.999)[1].any()
    assert boost(data, shape, largest * 1.001)[0].n_trees == 0


def test_what_is_known_is_used_at_any_penalty() -> None:
    data = problem("known per row")
    forest, acquired = boost(data, Shape(0.3, 8, 3), np.inf)
    assert forest.n_trees == 0  # every feature is unknown for some row
    known = replace(data, feature_costs=data.feature_costs.knowing(np.isin(NAMES, ["x0", "x4"])[None, :]))
    forest, acquired = boost(known, Shape(0.3, 8, 3), np.inf)
    assert set(forest.feature.tolist()) == {-1, 0, 4}
    assert not acquired.any()


def test_a_discount_changes_what_is_grown() -> None:
    plain = grow_budgeted_forest(X, Y, LISTED.costs, penalty=0.02)
    listed = grow_budgeted_forest(X, Y, LISTED, penalty=0.02)
    assert listed.acquired(X).sum() > plain.acquired(X).sum()
    assert listed.expected_cost == pytest.approx(listed.costs(X).mean())
    assert listed.expected_cost < listed.acquired(X) @ LISTED.costs @ np.full(N, 1 / N)


@pytest.mark.parametrize("kind", KINDS)
def test_policies_on_demand_cost_what_they_say(kind: str) -> None:
    given, known = KINDS[kind]
    per_row = not isinstance(given, list) and kind != "discounts"
    options: dict[str, Any] = {"n_free_trees": 6, "n_penalties": 3, "random_state": 0}
    model = BudgetedBoostingClassifier(feature_costs=None if per_row else given, budget=5.0, **options)
    model.fit(X, Y, feature_costs=given if per_row else None, known=known)
    these: dict[str, Any] = {"feature_costs": given, "known": known} if per_row else {"known": known}
    free = np.broadcast_to(KNOWN if known is KNOWN else np.isin(NAMES, known or []), (N, K))
    told = model.predict_on_demand(X, **these)
    assert np.array_equal(told.predictions, model.predict(X, known=known))
    assert 0 < told.cost.mean() < 6.5
    assert not np.any(told.acquired & free)
    costs = FeatureCosts.of(given, K, NAMES, None, known)
    assert told.cost == pytest.approx(costs.of_rows(told.acquired))
    assert sum(p.cost for p in told.acquisitions) == pytest.approx(told.cost.sum())
    asked: list[tuple[int, int]] = []

    def one(row: int, group: int) -> float:
        asked.append((row, group))
        return float(X[row, group])

    def many(rows: NDArray[np.int64], group: int) -> Any:
        asked.extend((int(i), group) for i in rows)
        return X[rows, group]

    for acquire, batch in ((one, False), (many, True)):
        asked.clear()
        values = np.where(free, X, np.nan) if free.any() else None
        same = model.predict_on_demand(acquire, n_rows=N, batch=batch, known_values=values, **these)
        for a, b in zip(told, same, strict=True):
            assert np.array_equal(a, b)
        assert np.array_equal(told.acquisitions.turn, same.acquisitions.turn)
        assert len(asked) == len(set(asked)) == told.acquired.sum()


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_is_filled_by_worth_for_cost(kind: str) -> None:
    data = problem(kind)
    costs = data.feature_costs
    forest, _ = boost(data, Shape(0.3, 4, 2), largest_penalty(data, 0.3, 5) / 4)
    policy = AcquisitionPolicy(forest, costs.free_groups, costs)
    worth = np.array([3.0, 2.0, 5.0, 0.0, 1.0])
    acquired, known = policy.acquired(data.codes, costs), costs.known_groups
    level = data.mean_cost(acquired) + 0.6 * costs.total
    expected: list[int] = []
    while True:
        spent, best = data.mean_cost(acquired), (0.0, -1, acquired)
        for g in np.flatnonzero(worth > 0):
            more = acquired.copy()
            more[:, g] = True if len(known) == 0 else ~known[:, g]
            extra = data.mean_cost(more) - spent
            if g not in expected and 1e-12 < extra <= (level - spent) * (1 - 1e-9) and worth[g] / extra > best[0]:
                best = worth[g] / extra, int(g), more
        if best[1] < 0:
            break
        expected.append(best[1])
        acquired = best[2]
    assert expected
    assert sorted(_fill(policy, worth, level, data).tolist()) == sorted(expected)


def test_costs_per_row_are_needed_for_other_rows() -> None:
    model = BudgetedBoostingClassifier(budget=5.0, n_free_trees=4, n_penalties=2, random_state=0)
    model.fit(X, Y, feature_costs=MATRIX)
    assert model.predict(X[:7]).shape == (7,)
    with pytest.raises(ValueError, match="got costs of 300 rows for 7 rows of X"):
        model.predict_on_demand(X[:7])
    assert model.predict_on_demand(X[:7], feature_costs=MATRIX[:7]).cost.shape == (7,)
    assert model.predict_on_demand(X[:7], feature_costs=np.ones(K)).cost.max() <= K


def test_a_group_known_in_part_is_refused() -> None:
    with pytest.raises(ValueError, match="got a part of 'x0"):
        grow_budgeted_forest(X, Y, feature_groups=[[0, 1]], known=[True, False, False, False, False])
