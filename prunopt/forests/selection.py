"""Which pruning of a path an estimator takes: at a price, within a budget, or the cheapest that is good enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Floats
from prunopt.core.solution import Solution
from prunopt.forests.breakpoints import path_of
from prunopt.forests.path import BudgetPath
from prunopt.problems.forest.forest_budget import ForestBudget
from prunopt.problems.forest.node_errors import tree_weights

Chosen = tuple[Solution[NDArray[np.bool_]], float, float]
# Branch and bound under a budget visits so many nodes that their edges add up to about this, within these numbers.
SEARCH_EDGES, SEARCH_NODES = 1_000_000, (5, 60)
FOLDS = 3


@dataclass(frozen=True, eq=False)
class Judged:
    """The rows that prunings are judged on: the task, the rows as they were given, their targets, and how."""

    task: ForestBudget
    X: Any
    y: Any
    errors: str
    loss: str


def choose(path: BudgetPath, rows: Judged, price: float | None, budget: float | None, solver: Any) -> Chosen:
    """Return the pruning asked for, its price, and its expected cost."""
    if solver is not None:
        import prunopt as po

        assert price is not None
        solution = po.solve(rows.task, solver)
        return solution, float(price), rows.task.cost(solution.value)
    if price is not None:
        solution = path.solution(price=price)
        return solution, float(price), float(solution.stats["expected_cost"])
    if budget is not None:
        return _within_budget(path, rows.task, float(budget))
    at = path.points[within_one_standard_error(path, rows)].price
    solution = path.solution(price=at)
    return solution, at, float(solution.stats["expected_cost"])


def _within_budget(path: BudgetPath, task: ForestBudget, budget: float) -> Chosen:
    """The pruning of least error within the budget, as far as a bounded search proves it."""
    import prunopt as po
    from prunopt.problems.forest.forest_within import ForestWithin
    from prunopt.solvers.closure.budget_branch_and_bound import BudgetBranchAndBound

    hull = path.solution(budget=budget)  # refuses a budget below the cheapest pruning
    edges = task.path_closure().closure.n_edges
    nodes = int(np.clip(SEARCH_EDGES / max(edges, 1), *SEARCH_NODES))
    found = po.solve(ForestWithin(task, budget), BudgetBranchAndBound(nodes=nodes))
    return found, float(hull.stats["price"]), task.cost(found.value)


def within_one_standard_error(path: BudgetPath, rows: Judged) -> int:
    """Return the cheapest point whose vote errs at most one standard error more than the best point's.

    A vote on the very rows that chose the pruning is too good. So the rows are split into folds; the path of each is
    that of the other folds' errors, and at the price of every point of the whole path its vote on the fold counts.
    Trees vote on rows that they did not see.
    """
    error, spread = cross_fitted(path, rows)
    best = int(np.argmin(error))
    return int(np.flatnonzero(error <= error[best] + spread[best])[-1])


def cross_fitted(path: BudgetPath, rows: Judged) -> tuple[Floats, Floats]:
    """Return the error of the vote at the price of every point, and its standard error, each row's path without it."""
    from prunopt.solvers.closure.parametric_cut import closure_path

    n, task = len(rows.task.X), rows.task
    weight = task.weight
    use = tree_weights(path.forest, rows.errors, task.ensemble.n_trees, np.ones(n)) > 0
    folds = np.arange(n) % FOLDS
    np.random.default_rng(0).shuffle(folds)
    votes = use.any(axis=0)
    parts = [(weight * (folds == f), weight * (folds != f)) for f in range(FOLDS)]
    if any(not np.any(inside * votes) or not np.any(outside * votes) for inside, outside in parts):
        curve = path.curve(rows.X, rows.y, sample_weight=weight, use=use)  # too few rows to split
        return curve.error, curve.standard_error
    prices = [p.price if np.isinf(p.price_end) else (p.price + p.price_end) / 2 for p in path.points]
    error, square = np.zeros(len(prices)), np.zeros(len(prices))
    for inside, outside in parts:
        part = ForestBudget.from_forest(
            path.forest, rows.X, rows.y, task.prices, 0, sample_weight=outside, errors=rows.errors, loss=rows.loss
        )
        other = path_of(part, path.forest, closure_path, None)
        curve = other.curve(rows.X, rows.y, sample_weight=inside, use=use)
        at = [other.index(price=price) for price in prices]
        share = (inside * votes).sum() / (weight * votes).sum()
        error += share * curve.error[at]
        square += (share * curve.standard_error[at]) ** 2
    return error, np.sqrt(square)
