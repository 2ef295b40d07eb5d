"""From the price path of a closure to the points of a budget path: numbers, proofs, and a check from scratch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prunopt.core.solution import CertificateError, relative_gap
from prunopt.core.solver import Limits
from prunopt.forests.path import TOLERANCE, BudgetPath, PathPoint
from prunopt.problems.forest.forest_budget import ForestBudget

if TYPE_CHECKING:
    from prunopt.forms.closure.parametric_closure import PenaltyPath


def path_of(task: ForestBudget, forest: Any, closure_path: Any, limits: Limits | None) -> BudgetPath:
    """Compute the path of a task, and check it in the task's own terms."""
    closure, price_unit, error_slack, cost_slack = task.path_closure()
    found: PenaltyPath = closure_path(closure, limits)
    # Blocks leave by rising price. One that costs without gaining (price 0), or whose gain is no more than what
    # rounding may have made of nothing, is never worth having.
    noise = Fraction(error_slack) / closure.unit
    worth = [block.penalty for block, profit in zip(found.blocks, found.profits, strict=True) if profit > noise]
    leaving = sorted(set(worth))
    starts = [Fraction(0), *leaving]
    rank = {price: r for r, price in enumerate(leaving, start=1)}
    lifetime = np.zeros(closure.n_items, np.int64)
    lifetime[found.always] = len(starts)
    gained, spent = np.zeros(len(starts), object), np.zeros(len(starts), object)
    gained[:] = int(closure.profit[found.always].sum())
    for block, profit, cost in zip(found.blocks, found.profits, found.costs, strict=True):
        stays = rank.get(block.penalty, 0)
        lifetime[block.items] = stays
        gained[:stays] += profit
        spent[:stays] += cost
    nothing = Fraction(task.error(np.zeros(closure.n_items, np.bool_)))
    errors = [float(nothing - closure.unit * int(a)) for a in gained]
    costs = [float(closure.unit / price_unit * int(c)) for c in spent]
    shift = float(nothing)

    proofs = [shift - float(closure.unit * a) for a in found.proven_profits(starts)]

    def proven(k: int, start: int) -> tuple[float, float]:
        """The certified bound on the task's optimum where point ``start`` begins, and the gap of point k there."""
        price = float(starts[start] * price_unit)
        bound = proofs[start] - error_slack - price * cost_slack
        objective = errors[k] + price * costs[k]
        # Sums of rationals were rounded to floats on both sides: within that, a proven optimum has gap 0.
        rounding = 1e-13 * max(1.0, abs(objective))
        return min(bound, objective), relative_gap(objective, bound + rounding)

    at_start = [proven(k, k) for k in range(len(starts))]
    at_end = [proven(k, min(k + 1, len(starts) - 1)) for k in range(len(starts))]
    bought = _asked_groups(task, lifetime, len(starts))
    points = tuple(
        PathPoint(
            price=float(p * price_unit),
            price_exact=p * price_unit,
            price_end=math.inf if k + 1 == len(starts) else float(starts[k + 1] * price_unit),
            expected_cost=costs[k],
            training_error=errors[k],
            n_nodes=int(np.count_nonzero(lifetime > k)),
            gap=max(at_start[k][1], at_end[k][1]),
            bought=bought[k],
        )
        for k, p in enumerate(starts)
    )
    _recheck(task, points, lifetime, error_slack, cost_slack)
    bounds = np.array([bound for bound, _ in at_start])
    return BudgetPath(forest, task.ensemble, task.prices, points, lifetime, bounds, found.complete, dict(found.stats))


def _asked_groups(task: ForestBudget, lifetime: NDArray[np.int64], n_points: int) -> list[tuple[str, ...]]:
    """The names of the groups that the nodes of each point ask for."""
    group = task.prices.group_of[task.ensemble.feature[task.ensemble.internal]]
    until = np.zeros(len(task.prices.group_cost), np.int64)
    np.maximum.at(until, group, lifetime)
    names = task.prices.group_names
    return [tuple(name for name, u in zip(names, until, strict=True) if u > k) for k in range(n_points)]


def _recheck(
    task: ForestBudget, points: Sequence[PathPoint], lifetime: NDArray[np.int64], error_slack: float, cost_slack: float
) -> None:
    """Evaluate the first, middle and last point from scratch: trees walked row by row."""
    for k in sorted({0, len(points) // 2, len(points) - 1}):
        kept, point = lifetime > k, points[k]
        if task.violation(kept) > 0:
            raise CertificateError(f"point {k} of the path keeps nodes whose parent it drops")
        for what, stated, found, slack in (
            ("error", point.training_error, task.error(kept), error_slack),
            ("cost", point.expected_cost, task.cost(kept), cost_slack),
        ):
            if abs(stated - found) > TOLERANCE * max(1.0, abs(found)) + slack:
                raise CertificateError(f"point {k} of the path states the {what} {stated}, it is {found}")
