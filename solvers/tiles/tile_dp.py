"""Whole tiles for every layer, by dynamic programming over its states: a proven optimum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.knapsack.tile_columns import TileColumns
from prunopt.solvers.knapsack._states import best_choice, multipliers
from prunopt.solvers.tiles._ratio_rules import infeasible


@dataclass(frozen=True)
class TileDp(Solver[TileColumns]):
    r"""Solve a `TileColumns` exactly.

    Layer by layer, the states (energy lost, latency used, vectors kept) that no other dominates are carried on. The
    multipliers :math:`\lambda, \mu` of the linear relaxation bound what the layers to come must lose, so states whose
    own loss and that bound exceed a threshold go; the threshold starts at the Lagrangian bound and is raised until an
    answer lies below it, which is then the optimum: no state that could have led to a better one was dropped [1]_.
    The bound of a finished run is that enumeration's; one that is stopped reports the Lagrangian bound, which the form
    recomputes from the multipliers.

    References
    ----------
    .. [1] H. Kellerer, U. Pferschy, D. Pisinger, "Knapsack problems", Springer 2004, chapter 11.
    """

    name: ClassVar[str] = "tile-dp"
    form: ClassVar[type] = TileColumns
    exact: ClassVar[bool] = True
    rank: ClassVar[int] = 10
    reference: ClassVar[str] = "Kellerer, Pferschy & Pisinger 2004"

    def solve(self, problem: TileColumns, limits: Limits, seed: int) -> Solution[Any]:
        """Return the optimal number of tiles of every layer."""
        run = Run(limits)
        if problem.is_infeasible_by(None):
            return infeasible(problem, self.name)
        loss, costs = problem.loss, np.array([problem.cost, problem.kept])
        costs = np.where(np.isfinite(loss), costs, 0.0)
        ends = np.array([problem.budget, problem.max_kept])
        weights = multipliers(loss, costs, ends)
        duals = {"latency": float(weights[0]), "kept": float(weights[1])}
        lower = problem.bound(duals)
        span = float(sum(row[np.isfinite(row)].max() - row[np.isfinite(row)].min() for row in loss))
        above, looked, rounds = max(1e-4 * span, 1e-12), 0, 0
        while True:
            most = lower + above if above < 2 * span + 1e-9 else math.inf
            tiles, seen, complete = best_choice(loss, costs, ends, weights, most, lambda: run.out_of_time)
            looked, rounds = looked + seen, rounds + 1
            run.evaluations += seen
            if tiles is not None or not complete or math.isinf(most):
                break
            above *= 8
        stats = {"states": looked, "rounds": rounds}
        if tiles is None:
            return self._stopped(problem, run, stats, duals, complete and math.isinf(most))
        value = problem.filled(tiles)
        objective = problem.objective(value)
        run.report(objective, objective)
        return Solution(
            Status.OPTIMAL,
            value,
            objective,
            objective,
            {**duals, "claim": objective},
            trace=run.trace,
            stats=stats,
            solver=self.name,
        )

    def _stopped(
        self, problem: TileColumns, run: Run, stats: dict[str, Any], duals: dict[str, float], complete: bool
    ) -> Solution[Any]:
        if complete:  # every state was looked at, so both limits together cannot be met
            message = "latency and max_kept can be met each by itself, not both together; raise one of them"
            return Solution(Status.INFEASIBLE, None, solver=self.name, stats=stats, message=message)
        value = problem.filled(problem.cost.argmin(axis=1))
        if problem.violation(value) > 0:
            message = "stopped by its limits without an answer; give it more time"
            return Solution(Status.FAILED, None, solver=self.name, stats=stats, message=message)
        run.report(problem.objective(value), problem.bound(duals))
        stats["changed"] = "stopped by its limits: every layer takes its cheapest number of tiles"
        return Solution(
            Status.FEASIBLE,
            value,
            run.objective,
            run.bound,
            duals,
            trace=run.trace,
            stats=stats,
            solver=self.name,
            message="stopped by its limits",
        )
