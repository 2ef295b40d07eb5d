"""Sizes of models as costs: every pruning enumerated, the paper's program, and the paths."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pulp
import pytest
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

import prunopt as po
from prunopt.forests import CostList, size_path
from prunopt.problems import ForestBudget, ForestSize
from prunopt.problems.forest.forest_size import RESOURCES

X, Y = make_classification(120, 5, n_informative=3, random_state=0)
FOREST = RandomForestClassifier(3, max_leaf_nodes=4, random_state=0).fit(X[:80], Y[:80])
COSTS = CostList(tuple("abcde"), np.array([3.0, 1.5, 4.0, 2.0, 2.5]), {"g": ("a", "c")}, {"g": 1.0})


def prunings(task: ForestBudget) -> list[Any]:
    m = len(task.ensemble.internal)
    values = [np.array(v) for v in itertools.product([False, True], repeat=m)]
    return [v for v in values if task.violation(v) == 0]


def counted(task: ForestBudget, kept: Any, resource: str) -> float:
    """The cost from the pruned scikit-learn trees themselves."""
    from prunopt.forests import pruned_forest

    trees = [t.tree_ for t in pruned_forest(FOREST, kept).estimators_]
    nodes = sum(t.node_count for t in trees)
    if resource == "nodes":
        return float(nodes)
    if resource == "bytes":
        return float(nodes * (trees[0].__getstate__()["nodes"].itemsize + 8 * trees[0].n_classes[0]))
    if resource == "trees":
        return float(sum(t.node_count > 1 for t in trees))
    used = {int(f) for t in trees for f in t.feature if f >= 0}
    own = [3.0, 1.5, 4.0, 2.0, 2.5]
    return sum(own[f] for f in used) - (1.0 if used >= {0, 2} else 0.0)


@pytest.mark.parametrize("resource", RESOURCES)
def test_no_pruning_is_below_the_path(resource: str) -> None:
    costs = COSTS if resource == "features" else None
    rows = ForestBudget.from_forest(FOREST, X[80:], Y[80:], costs, 0)
    task = ForestSize.of(rows, resource)
    values = prunings(task)
    cost = np.array([task.cost(v) for v in values])
    assert cost.tolist() == [counted(task, v, resource) for v in values]
    error = np.array([task.error(v) for v in values])
    path = size_path(FOREST, X[80:], Y[80:], resource, feature_costs=costs)
    assert len(path.points) > 1
    for point in path.points:
        for penalty in (point.penalty, min(point.penalty_end, 2 * point.penalty + 0.001)):
            best = float((error + penalty * cost).min())
            assert point.training_error + penalty * point.expected_cost == pytest.approx(best, abs=1e-12)
        assert point.gap == 0.0
    assert counted(task, path.kept(budget=cost.max()), resource) == path.points[0].expected_cost
    assert path.at(budget=path.points[-1].expected_cost).get_params() == FOREST.get_params()


@pytest.mark.parametrize("resource", RESOURCES)
def test_cut_and_integer_program_agree(resource: str) -> None:
    rows = ForestBudget.from_forest(FOREST, X[80:], Y[80:], COSTS if resource == "features" else None, 0)
    task = ForestSize.of(rows, resource)
    least = min(c for v in prunings(task) if (c := task.cost(v)) > task.fixed_cost) - task.fixed_cost
    task = ForestSize.of(rows.at_penalty(0.02 / least), resource)
    best = min(task.objective(v) for v in prunings(task))
    for solver in ("min-cut", "highs", "pulp"):
        solution = po.solve(task, solver=solver)
        assert solution.objective == pytest.approx(best, abs=1e-9)
        assert task.objective(solution.value) == pytest.approx(best, abs=1e-9)
        po.verify(task, solution)
    model = task.to_pulp()
    assert model.solve(pulp.HiGHS(msg=False)) == 1
    assert task.objective(task.read_pulp(model)) == pytest.approx(best, abs=1e-9)


def test_known_features_are_free_and_costs_per_row_are_refused() -> None:
    path = size_path(FOREST, X, Y, "features", feature_costs=[1.0] * 5, known=[True, False, False, False, False])
    assert path.points[0].expected_cost == len(set(path.points[0].acquired) - {"x0"})
    with pytest.raises(ValueError, match=r"must be the same for all rows, got costs per row; a model pays once"):
        size_path(FOREST, X, Y, "features", feature_costs=np.ones(X.shape))
    with pytest.raises(ValueError, match="resource must be"):
        size_path(FOREST, X, Y, "leaves")


def test_boosters_have_sizes_too() -> None:
    model = HistGradientBoostingClassifier(max_iter=5, max_leaf_nodes=6, min_samples_leaf=5).fit(X, Y)
    path = size_path(model, X, Y, "nodes")
    small = path.at(budget=20)
    assert sum(len(tree.nodes) for step in small._predictors for tree in step) <= 20
    with pytest.raises(ValueError, match="resource must be nodes, trees or features for boosters"):
        size_path(model, X, Y, "bytes")
