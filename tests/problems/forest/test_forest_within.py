"""The best pruning within a hard budget against all prunings, at budgets that some of them meet exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor

import prunopt as po
from prunopt.forests.boosters import booster_of
from prunopt.problems import ForestBudget, ForestWithin

COSTS = [5.0, 3.0, 1.0]


def rows(seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(60, 3))
    return X, 3 * X[:, 0] + X[:, 1] * X[:, 2] + 0.1 * rng.normal(size=60)


def all_prunings(task: ForestBudget) -> Iterator[Any]:
    """Every bool value over the internal nodes whose kept nodes have kept parents."""
    e = task.ensemble
    place = {int(h): k for k, h in enumerate(e.internal)}
    above = [place.get(int(e.parent[h]), -1) for h in e.internal]
    for bits in range(2 ** len(above)):
        kept = np.array([bits >> k & 1 for k in range(len(above))], np.bool_)
        if all(p < 0 or kept[p] or not kept[k] for k, p in enumerate(above)):
            yield kept


def task_of(kind: str, seed: int, **more: Any) -> ForestBudget:
    X, y = rows(seed)
    if kind == "boosting":
        booster = booster_of(HistGradientBoostingRegressor(max_iter=2, max_leaf_nodes=5, min_samples_leaf=3).fit(X, y))
        assert booster is not None
        return booster.task(X, y, COSTS, **more)
    if kind == "regression":
        forest = RandomForestRegressor(2, max_leaf_nodes=5, random_state=seed).fit(X, y)
        return ForestBudget.from_forest(forest, X, y, COSTS, 0, **more)
    labels = (y > 0).astype(int)
    forest = RandomForestClassifier(2, max_leaf_nodes=5, random_state=seed).fit(X, labels)
    errors = "oob" if kind == "out of bag" else "holdout"
    loss = "gini" if kind == "gini" else "misclassification"
    return ForestBudget.from_forest(forest, X, labels, COSTS, 0, errors=errors, loss=loss, **more)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("kind", ["regression", "boosting", "gini", "out of bag", "misclassification"])
def test_the_best_of_all_prunings_at_budgets_that_some_meet_exactly(kind: str, weights: bool) -> None:
    for seed in range(2):
        more = {"sample_weight": np.random.default_rng(seed).random(60)} if weights else {}
        task = task_of(kind, seed, **more)
        every = [(task.cost(kept), task.error(kept)) for kept in all_prunings(task)]
        costs = sorted({cost for cost, _ in every})
        for budget in {0.0, 5.0, *costs[:: max(1, len(costs) // 6)], costs[-1]}:
            within = ForestWithin(task, budget)
            best = min(error for cost, error in every if cost <= budget * (1 + 1e-12))
            found = po.solve(within)
            po.verify(within, found)
            assert found.status is po.Status.OPTIMAL
            assert found.objective == pytest.approx(best, rel=1e-9, abs=1e-12)
            assert found.bound <= best + 1e-9 * max(1.0, abs(best))
            assert task.cost(found.value) <= budget + 1e-9
