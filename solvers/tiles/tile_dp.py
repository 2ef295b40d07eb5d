"""Tiles and vectors for every layer, by dynamic programming over its states: a proven optimum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.knapsack.tile_columns import TileColumns
from prunopt.solvers.knapsack._states import best_choice, multipliers, near_choice
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
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Kellerer, Pferschy & Pisinger 2004"

    def solve(self, problem: TileColumns, limits: Limits, seed: int) -> Solution[Any]:
        """Return the optimal number of vectors of every product."""
        run = Run(limits)
        if problem.is_infeasible_by(None):
            return infeasible(problem, self.name)
        choices = problem.choices
        loss = choices.loss
        weights = multipliers(choices)
        duals = {"latency": float(weights[0]), "kept": float(weights[1])}
        lower = problem.bound(duals)
        span = float(sum(row[np.isfinite(row)].max() - row[np.isfinite(row)].min() for row in loss))
        above, rounds = max((1e-6 if problem.limited else 1e-4) * span, 1e-12), 0
        while True:
            most = lower + above if above < 2 * span + 1e-9 else math.inf
            chosen, complete = best_choice(choices, weights, most, run)
            rounds += 1
            if chosen is not None or not complete or math.isinf(most):
                break
            above *= 8
        stats: dict[str, Any] = {"states": run.evaluations, "rounds": rounds}
        if chosen is None:
            return self._stopped(problem, run, stats, duals, complete)
        value = problem.value_of(chosen)
        objective = problem.objective(value)
        run.report(objective, objective)
        duals["claim"] = objective
        return Solution(
            Status.OPTIMAL, value, objective, objective, duals, trace=run.trace, stats=stats, solver=self.name
        )

    def _stopped(
        self, problem: TileColumns, run: Run, stats: dict[str, Any], duals: dict[str, float], complete: bool
    ) -> Solution[Any]:
        if complete:  # every state was looked at, so both limits together cannot be met
            message = "latency and max_kept can be met each by itself, not both together; raise one of them"
            return Solution(Status.INFEASIBLE, None, solver=self.name, stats=stats, message=message)
        why = "stopped by its limits" if run.out_of_time else "stopped, for too many states remain"
        chosen = near_choice(problem.choices, np.array([duals["latency"], duals["kept"]]))
        if chosen is None:
            message = f"{why}, without an answer; give it more time, or raise a limit"
            return Solution(Status.FAILED, None, solver=self.name, stats=stats, message=message)
        value = problem.value_of(chosen)
        run.report(problem.objective(value), problem.bound(duals))
        stats["changed"] = f"{why}: the answer is the one of the Lagrangian relaxation"
        return Solution(
            Status.FEASIBLE,
            value,
            run.objective,
            run.bound,
            duals,
            trace=run.trace,
            stats=stats,
            solver=self.name,
            message=why,
        )
