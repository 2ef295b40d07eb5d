"""A forest within budgets for its size: one by branch and bound, several by paths of weighted sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunopt.core.arrays import Bools, Floats
from prunopt.core.budget import Budget
from prunopt.core.solution import Solution, Status, relative_gap
from prunopt.core.validate import require, unique
from prunopt.forests.breakpoints import path_of
from prunopt.forests.path import TOLERANCE, BudgetPath
from prunopt.forests.selection import within_budget
from prunopt.problems.forest.forest_budget import ForestBudget
from prunopt.problems.forest.forest_size import RESOURCES, ForestSize, ForestUses

COST = "cost"  # the mean cost of a row, beside the sizes
ROUNDS = 8  # weightings tried after the equal one and those of one budget alone


@dataclass(frozen=True)
class SizeUse:
    """What a budget measures: its resource, its limit, what the chosen pruning uses, and the unpruned forest."""

    resource: str
    limit: float
    used: float
    unpruned: float


@dataclass(frozen=True)
class WithinSizes:
    """The pruning within all budgets, its certificate, and the path that it comes from.

    Parameters
    ----------
    path
        Of the one size; of several budgets, of the sum of their shares used, by the weights of the best bound.
    solution
        The pruning: objective = mean tree error, bound = no pruning within all budgets has less.
    uses
        One for each budget.
    """

    path: BudgetPath
    solution: Solution[Bools]
    uses: tuple[SizeUse, ...]


def within_sizes(forest: Any, task: ForestBudget, budgets: Sequence[Budget]) -> WithinSizes:
    r"""Return the pruning of least error that a search finds within all budgets, and what is proven about it.

    .. math:: \min_{\text{prunings}} \; \text{error} \quad \text{s.t.} \quad c_j \le B_j \quad \text{for all budgets } j

    One budget is met by branch and bound. For several, every pruning within all of them has
    :math:`\sum_j w_j c_j / B_j \le 1` for weights that add up to 1: the exact path of that sum gives a bound, and
    its first point within all budgets an answer; weights move to the budgets that are exceeded most.

    Parameters
    ----------
    forest
        The forest or booster of the task.
    task
        Its pruning; for ``"features"`` costs must be the same for all rows.
    budgets
        Of ``"nodes"``, ``"trees"``, ``"bytes"``, ``"features"`` (see `ForestSize`), or ``"cost"``, the mean cost of
        a row.

    Raises
    ------
    ValueError
        For a resource named twice, and a budget below what the forest uses when it is all leaves.
    """
    unique("budget", [budget.resource for budget in budgets])
    parts = _parts(task, budgets)
    limits = [use.limit for use in uses_of(task, budgets, np.zeros(len(task.ensemble.internal), np.bool_))]
    for budget, part, limit in zip(budgets, parts, limits, strict=True):
        mend = f"with every tree a single leaf it is {part.fixed_cost:g}"
        require(limit >= part.fixed_cost, f"budget {budget}", f"be at least {part.fixed_cost:g}", limit, mend)
    if len(parts) == 1:
        path = _path(parts[0], forest)
        solution: Solution[Bools] = within_budget(path, parts[0], limits[0])[0]
    else:
        for budget, limit in zip(budgets, limits, strict=True):
            require(limit > 0, f"budget {budget}", "be above 0 beside other budgets", limit)
        path, solution = _several(forest, parts, np.array(limits))
    return WithinSizes(path, solution, uses_of(task, budgets, solution.value))


def uses_of(task: ForestBudget, budgets: Sequence[Budget], kept: Bools) -> tuple[SizeUse, ...]:
    """Return what a pruning uses of every budget."""
    out = []
    for budget, part in zip(budgets, _parts(task, budgets), strict=True):
        total = part.cost(np.ones_like(kept))
        out.append(SizeUse(budget.resource, budget.allowed(total), part.cost(kept), total))
    return tuple(out)


def _parts(task: ForestBudget, budgets: Sequence[Budget]) -> list[ForestBudget]:
    return [task if b.resource == COST else ForestSize.of(task, b.resource) for b in budgets]


def _path(task: ForestBudget, forest: Any) -> BudgetPath:
    from prunopt.solvers.closure.parametric_cut import closure_path

    return path_of(task, forest, closure_path, None)


def _several(forest: Any, parts: list[ForestBudget], limits: Floats) -> tuple[BudgetPath, Solution[Bools]]:
    """The path of the best bound, and the best pruning of all paths that is within all limits."""
    J = len(parts)
    queue = [np.full(J, 1 / J), *np.eye(J)]
    best: tuple[float, Bools] | None = None
    found: tuple[float, BudgetPath, Floats] | None = None
    for tries in range(len(queue) + ROUNDS):
        weight = queue[tries] if tries < len(queue) else _moved(parts, limits, found)
        path = _path(ForestUses.summed(parts, weight / limits), forest)
        bound = float(path.solution(budget=max(1.0, path.points[-1].expected_cost)).bound)
        k = _first_within(path, parts, limits)
        kept = path.lifetime > k
        if np.all(_use(kept, parts) <= limits * (1 + 1e-12)) and (
            best is None or path.points[k].training_error < best[0]
        ):
            best = path.points[k].training_error, kept
        if found is None or bound > found[0]:
            found = bound, path, weight
        elif tries >= len(queue):
            break  # the weights have come to rest
    assert best is not None
    assert found is not None
    objective, bound = best[0], min(found[0], best[0])
    optimal = relative_gap(objective, bound) <= TOLERANCE
    status = Status.OPTIMAL if optimal else Status.FEASIBLE
    solution: Solution[Bools] = Solution(status, best[1], objective=objective, bound=bound, solver="min-cut paths")
    return found[1], solution


def _first_within(path: BudgetPath, parts: list[ForestBudget], limits: Floats) -> int:
    """The first point within all limits, else the last one: prunings are nested, so every use falls along the path."""
    low, high = 0, len(path.points) - 1
    while low < high:
        middle = (low + high) // 2
        if np.all(_use(path.lifetime > middle, parts) <= limits * (1 + 1e-12)):
            high = middle
        else:
            low = middle + 1
    return low


def _use(kept: Bools, parts: list[ForestBudget]) -> Floats:
    return np.array([part.cost(kept) for part in parts])


def _moved(parts: list[ForestBudget], limits: Floats, found: tuple[float, BudgetPath, Floats] | None) -> Floats:
    """Weights moved towards the budgets that the last point over the sum of shares exceeds."""
    assert found is not None
    _, path, weight = found
    k = max(path.index(budget=max(1.0, path.points[-1].expected_cost)) - 1, 0)
    share = np.maximum(weight, 0.01) * (_use(path.lifetime > k, parts) / limits) ** 2
    return np.asarray(share / share.sum())


__all__ = ["COST", "RESOURCES", "SizeUse", "WithinSizes", "uses_of", "within_sizes"]
