"""Which pruning an estimator takes: at a penalty, within a budget, or the cheapest within one standard error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from prunopt.core.arrays import Bools, Floats
from prunopt.core.solution import Solution
from prunopt.forests._votes import within_one_standard_error
from prunopt.forests.breakpoints import path_of
from prunopt.forests.path import BudgetPath
from prunopt.forests.scoring import RARE
from prunopt.problems.forest.forest_budget import ForestBudget
from prunopt.problems.forest.node_errors import tree_weights

Chosen = tuple[Solution[Bools], float, float]
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


def choose(path: BudgetPath, rows: Judged, penalty: float | None, budget: float | None, solver: Any) -> Chosen:
    """Return the pruning asked for, its penalty, and its expected cost."""
    if solver is not None:
        import prunopt as po

        assert penalty is not None
        solution = po.solve(rows.task, solver)
        return solution, float(penalty), rows.task.cost(solution.value)
    if penalty is not None:
        solution = path.solution(penalty=penalty)
        return solution, float(penalty), float(solution.stats["expected_cost"])
    if budget is not None:
        return within_budget(path, rows.task, float(budget))
    at = path.points[within_one_standard_error(*cross_fitted(path, rows))].penalty
    solution = path.solution(penalty=at)
    return solution, at, float(solution.stats["expected_cost"])


def within_budget(path: BudgetPath, task: ForestBudget, budget: float) -> Chosen:
    """The pruning of least error within the budget, as far as a bounded search proves it."""
    import prunopt as po
    from prunopt.problems.forest.forest_within import ForestWithin
    from prunopt.solvers.closure.budget_branch_and_bound import BudgetBranchAndBound

    hull = path.solution(budget=budget)  # refuses a budget below the cheapest pruning
    edges = task.path_closure().closure.n_edges
    nodes = int(np.clip(SEARCH_EDGES / max(edges, 1), *SEARCH_NODES))
    found = po.solve(ForestWithin(task, budget), BudgetBranchAndBound(nodes=nodes))
    return found, float(hull.stats["penalty"]), task.cost(found.value)


def cross_fitted(path: BudgetPath, rows: Judged) -> tuple[Floats, Floats]:
    """Return the error of the vote at every point's penalty and its standard error, each row's path without that row.

    A vote on the very rows that chose the pruning is too good. So the rows are split into folds; the path of each is
    that of the other folds' errors, and at the penalty of every point of the whole path its vote on the fold counts.
    Trees vote on rows that they did not see. Where a label is rare, every label counts the same: saying the other one
    for every row would be hard to beat.
    """
    from prunopt.solvers.closure.parametric_cut import closure_path

    n, task = len(rows.task.X), rows.task
    weight = task.weight
    use = tree_weights(path.forest, rows.errors, task.ensemble.n_trees, np.ones(n)) > 0
    folds = np.arange(n) % FOLDS
    np.random.default_rng(0).shuffle(folds)
    votes = use.any(axis=0)
    counts = _balancing(rows.y, weight) if task.ensemble.classes is not None else np.ones(n)
    parts = [(weight * counts * (folds == f), weight * (folds != f)) for f in range(FOLDS)]
    if any(not np.any(inside * votes) or not np.any(outside * votes) for inside, outside in parts):
        curve = path.curve(rows.X, rows.y, sample_weight=weight * counts, use=use)  # too few rows to split
        return curve.error, curve.standard_error
    penalties = [p.penalty if np.isinf(p.penalty_end) else (p.penalty + p.penalty_end) / 2 for p in path.points]
    error, square = np.zeros(len(penalties)), np.zeros(len(penalties))
    for inside, outside in parts:
        part = ForestBudget.from_forest(
            path.forest,
            rows.X,
            rows.y,
            task.feature_costs,
            0,
            sample_weight=outside,
            errors=rows.errors,
            loss=rows.loss,
        )
        other = path_of(part, path.forest, closure_path, None)
        curve = other.curve(rows.X, rows.y, sample_weight=inside, use=use)
        at = [other.index(penalty=penalty) for penalty in penalties]
        share = (inside * votes).sum() / (weight * counts * votes).sum()
        error += share * curve.error[at]
        square += (share * curve.standard_error[at]) ** 2
    return error, np.sqrt(square)


def _balancing(y: Any, weight: Floats) -> Floats:
    """What rows count so that every label counts the same, where one is rare; else 1."""
    code = np.unique(np.asarray(y), return_inverse=True)[1].ravel()
    total = np.bincount(code, weights=weight)
    rare = has_rare_label(y, weight)
    return np.asarray((total.sum() / (len(total) * np.maximum(total, 1e-300)))[code]) if rare else np.ones(len(code))


def has_rare_label(y: Any, weight: Floats) -> bool:
    """Return whether some label has less than `RARE` of the weight."""
    total = np.bincount(np.unique(np.asarray(y), return_inverse=True)[1].ravel(), weights=weight)
    return bool(0 < total.min() < RARE * total.sum())
