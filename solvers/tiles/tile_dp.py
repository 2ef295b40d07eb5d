"""Tiles and vectors for every layer, by dynamic programming over its states: a proven optimum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunopt.core.arrays import Floats, Ints
from prunopt.core.certificates import unit_of
from prunopt.core.solution import Solution, Status, relative_gap
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.knapsack.tile_columns import TileColumns
from prunopt.solvers.knapsack._states import multipliers, optimum
from prunopt.solvers.tiles._ratio_rules import infeasible

ROUNDS = 20  # multipliers of the vectors that are tried


@dataclass(frozen=True)
class TileDp(Solver[TileColumns]):
    r"""Solve a `TileColumns` exactly.

    Layer by layer, the states (energy lost, latency used, vectors kept) that no other dominates are carried on. The
    multipliers :math:`\lambda, \mu` of the linear relaxation bound what the layers to come must lose, so states whose
    own loss and that bound exceed a threshold go; the threshold starts at the Lagrangian bound and is raised until an
    answer lies below it, which is then the optimum: no state that could have led to a better one was dropped [1]_.

    Where K can bind it is relaxed first: at a multiplier :math:`\mu` of each vector only latency and tiles are left, an
    exact program of one resource, and bisection finds the best :math:`\mu`. The states of both resources are listed
    only where that leaves a gap, and as far as memory allows; else the answer comes with the bound of the relaxation.
    The form recomputes every bound from the multipliers and the claim.

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
        best = _Best(problem, run)
        if problem.limited:
            best.relax()
            best.whole_tiles()
        if not best.within(limits.gap):
            chosen, weights, complete = optimum(problem.choices, run, best.objective)
            if chosen is None and complete and best.value is None:
                message = "latency and max_kept can be met each by itself, not both together; raise one of them"
                return Solution(Status.INFEASIBLE, None, solver=self.name, message=message)
            if chosen is not None:
                best.offer(chosen)
            if complete:
                duals = {"latency": float(weights[0]), "kept": float(weights[1]), "claim": best.objective}
                best.bound, best.duals = best.objective, duals
        if best.value is None:
            message = "stopped by its limits without an answer; give it more time"
            return Solution(Status.FAILED, None, solver=self.name, message=message)
        done = best.within(limits.gap)
        run.report(best.objective, min(best.bound, best.objective))
        return Solution(
            Status.OPTIMAL if done else Status.FEASIBLE,
            best.value,
            run.objective,
            run.bound,
            best.duals,
            trace=run.trace,
            stats={"states": run.evaluations},
            solver=self.name,
            message="" if done else "too many states for a proof, or out of time: the bound is of K relaxed",
        )


class _Best:
    """The best answer and the best bound so far."""

    def __init__(self, problem: TileColumns, run: Run) -> None:
        self.problem, self.run = problem, run
        self.value: Ints | None = None
        self.objective, self.bound = math.inf, -math.inf
        self.duals: dict[str, float] = {}

    def within(self, gap: float) -> bool:
        """Whether the best answer is proven to a relative gap."""
        return self.value is not None and relative_gap(self.objective, self.bound, unit_of(self.problem)) <= gap

    def offer(self, chosen: Ints) -> None:
        """Keep the value of a choice among the options if it is within the limits, and the best."""
        value = self.problem.value_of(chosen)
        if self.problem.violation(value) == 0 and self.problem.objective(value) < self.objective:
            self.value, self.objective = value, self.problem.objective(value)

    def relax(self) -> None:
        """Relax K: its best multiplier by bisection, the tiles at each multiplier exactly, then vectors to fill K."""
        at = float(multipliers(self.problem.choices)[1])
        low, high = 0.0, math.inf
        for _ in range(ROUNDS):
            kept = self._at(at)
            if kept is None:
                return
            if kept > self.problem.max_kept:
                low = at
            else:
                high = at
            if high <= low * (1 + 1e-9) or high == 0:
                return
            at = (low + high) / 2 if math.isfinite(high) else max(2 * low, 1e-9 * self.problem.objective_unit)

    def whole_tiles(self) -> None:
        """Offer the best answer of whole tiles, which are few enough for both limits at once."""
        options, choices = self.problem.options, self.problem.choices
        fullest = np.zeros_like(options.kept, np.bool_)
        for a, tiles in enumerate(options.tiles):
            for t in np.unique(tiles[tiles >= 0]):
                of_t = np.flatnonzero(tiles == t)
                fullest[a, of_t[np.argmax(options.kept[a, of_t])]] = True
        whole = choices._replace(loss=np.where(fullest, choices.loss, np.inf))
        if np.isfinite(whole.loss).any(axis=1).all():
            chosen, _, _ = optimum(whole, self.run, self.objective)
            if chosen is not None:
                self.offer(chosen)

    def _at(self, multiplier: float) -> float | None:
        """Vectors kept by the best tiles at a multiplier of each vector; None where there are no tiles, or no time."""
        problem = self.problem
        choices = problem.by_tiles(multiplier)
        tiles, weights, _ = optimum(choices, self.run)
        if tiles is None:
            return None
        held = np.where(problem.options.tiles == tiles[:, None], problem.options.loss, np.inf)
        least = math.fsum(choices.loss[np.arange(len(tiles)), tiles]) - multiplier * math.floor(problem.max_kept)
        if least > self.bound:
            self.bound, self.duals = least, {"latency": float(weights[0]), "kept": multiplier, "claim": least}
        chosen = self._filled(held)
        if chosen is not None:
            self.offer(chosen)
        kept = problem.options.kept
        return float(
            kept[np.arange(len(tiles)), (held + multiplier * np.where(np.isfinite(held), kept, 0)).argmin(axis=1)].sum()
        )

    def _filled(self, held: Floats) -> Ints | None:
        """The vectors that lose least within K, for the options of given tiles: nearly, by one multiplier for all."""
        kept, rows = np.where(np.isfinite(held), self.problem.options.kept, 0.0), np.arange(len(held))
        low, high, chosen = 0.0, 2 * self.problem.objective_unit, None
        for _ in range(50):
            middle = (low + high) / 2
            options = (held + middle * kept).argmin(axis=1)
            if kept[rows, options].sum() <= self.problem.max_kept:
                high, chosen = middle, options
            else:
                low = middle
        return chosen
