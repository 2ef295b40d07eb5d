"""Budgets for sizes: every pruning enumerated, one budget and several at once."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pulp
import pytest
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier

import prunopt as po
from prunopt.core.budget import Budget
from prunopt.core.solution import Status
from prunopt.forests.size_budgets import COST, uses_of, within_sizes
from prunopt.problems import ForestBudget, ForestSize, ForestWithin
from prunopt.problems.forest.forest_size import RESOURCES, ForestUses

X, Y = make_classification(160, 5, n_informative=3, random_state=1)
FOREST = RandomForestClassifier(3, max_leaf_nodes=5, random_state=0).fit(X[:80], Y[:80])
TASK = ForestBudget.from_forest(FOREST, X[80:], Y[80:], [3.0, 1.5, 4.0, 2.0, 2.5], 0)


def prunings(task: ForestBudget = TASK) -> list[Any]:
    values = [np.array(v) for v in itertools.product([False, True], repeat=len(task.ensemble.internal))]
    return [v for v in values if task.violation(v) == 0]


EVERY = prunings()
ERROR = np.array([TASK.error(v) for v in EVERY])
USE = {r: np.array([ForestSize.of(TASK, r).cost(v) for v in EVERY]) for r in RESOURCES}
USE[COST] = np.array([TASK.cost(v) for v in EVERY])


@pytest.mark.parametrize("resource", RESOURCES)
def test_one_size_is_met_by_the_best_pruning_of_all(resource: str) -> None:
    use = USE[resource]
    for limit in np.unique(use)[:: max(1, len(np.unique(use)) // 5)]:
        best = ERROR[use <= limit].min()
        found = within_sizes(FOREST, TASK, [Budget(resource, limit=float(limit))])
        assert found.solution.status is Status.OPTIMAL
        assert found.solution.objective == pytest.approx(best, abs=1e-12)
        assert found.uses[0].used <= limit
        assert found.uses[0].unpruned == use.max()
        task = ForestWithin(ForestSize.of(TASK, resource), float(limit))
        po.verify(task, po.solve(task))


def test_several_sizes_at_once() -> None:
    gaps = []
    for pair in itertools.combinations((COST, *RESOURCES), 2):
        for share in (0.3, 0.6):
            limits = [max(share * USE[r].max(), float(USE[r].min())) for r in pair]
            inside = np.all([USE[r] <= limit for r, limit in zip(pair, limits, strict=True)], axis=0)
            best = ERROR[inside].min()
            budgets = [Budget(r, limit=limit) for r, limit in zip(pair, limits, strict=True)]
            found = within_sizes(FOREST, TASK, budgets)
            assert found.solution.bound <= best + 1e-12
            assert found.solution.objective >= best - 1e-12
            assert TASK.error(found.solution.value) == pytest.approx(found.solution.objective, abs=1e-12)
            assert TASK.violation(found.solution.value) == 0
            assert all(use.used <= limit * (1 + 1e-9) for use, limit in zip(found.uses, limits, strict=True))
            gaps.append(found.solution.objective - best)
    assert np.mean(gaps) < 0.02


def test_a_sum_of_costs_is_the_closure_of_all_requirements() -> None:
    parts = [TASK, ForestSize.of(TASK, "nodes"), ForestSize.of(TASK, "features")]
    task = ForestUses.summed(parts, [0.02, 0.01, 0.03])
    cost = np.array([task.cost(v) for v in EVERY])
    assert cost == pytest.approx(0.02 * USE[COST] + 0.01 * USE["nodes"] + 0.03 * USE["features"])
    task = ForestUses.summed([part.at_penalty(0.2) for part in parts], task.factors)
    best = min(task.objective(v) for v in EVERY)
    for solver in ("min-cut", "highs"):
        solution = po.solve(task, solver=solver)
        assert task.objective(solution.value) == pytest.approx(best, abs=1e-9)
        po.verify(task, solution)
    model = task.to_pulp()
    assert model.solve(pulp.HiGHS(msg=False)) == 1
    assert task.objective(task.read_pulp(model)) == pytest.approx(best, abs=1e-9)


def test_what_cannot_be_met_is_refused() -> None:
    with pytest.raises(ValueError, match=r"budget nodes=2 must be at least 3, got 2; with every tree a single leaf"):
        within_sizes(FOREST, TASK, [Budget("nodes", limit=2)])
    with pytest.raises(ValueError, match=r"budget must name each entry once, got 'nodes'"):
        within_sizes(FOREST, TASK, [Budget("nodes", limit=20), Budget("nodes", limit=30)])
    with pytest.raises(ValueError, match="resource must be one of"):
        within_sizes(FOREST, TASK, [Budget("leaves", limit=20)])
    half = within_sizes(FOREST, TASK, [Budget("nodes", share=0.5)])
    assert half.uses == uses_of(TASK, [Budget("nodes", share=0.5)], half.solution.value)
    assert half.uses[0].limit == USE["nodes"].max() / 2
