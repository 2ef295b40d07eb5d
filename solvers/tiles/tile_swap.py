"""Channels dealt out to tiles: even counts of large vectors, then swaps that lose less energy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.knapsack.tile_partition import TilePartition
from prunopt.solvers.tiles._tile_counts import evened


@dataclass(frozen=True)
class TileSwap(Solver[TilePartition]):
    """Answer a `TilePartition` by local search.

    The layer's largest K * tiles vectors are spread so that every tile holds K of them; where that succeeds the answer
    is optimal and the bound proves it. Otherwise random pairs of channels change places where less is lost.

    Parameters
    ----------
    swaps
        Pairs tried after the even deal, or after the order as given where that loses less.
    """

    name: ClassVar[str] = "tile-swap"
    form: ClassVar[type] = TilePartition
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 30
    reference: ClassVar[str] = "Graham, SIAM J. Appl. Math. 1969 (longest processing time first)"

    swaps: int = 2000

    def __post_init__(self) -> None:
        if self.swaps < 0:
            raise ValueError(f"swaps={self.swaps!r}: give a number >= 0")

    def solve(self, problem: TilePartition, limits: Limits, seed: int) -> Solution[Any]:
        """Return the best assignment found, and the bound of a layer whose tiles share their places."""
        run, rng = Run(limits), np.random.default_rng(seed)
        given = np.arange(problem.n_channels) // problem.tile
        of = min(evened(problem, lambda: run.out_of_time), given, key=problem.objective)
        lower = problem.bound({})
        lost = [problem.lost(np.flatnonzero(of == g)) for g in range(problem.n_tiles)]
        run.report(problem.objective(of), lower)
        while run.evaluations < self.swaps and problem.n_tiles > 1 and not run.expired:
            run.evaluations += 1
            i, j = rng.choice(problem.n_channels, 2, replace=False)
            a, b = int(of[i]), int(of[j])
            if a == b:
                continue
            of[i], of[j] = b, a
            new = [problem.lost(np.flatnonzero(of == g)) for g in (a, b)]
            if sum(new) < (lost[a] + lost[b]) * (1 - 1e-12):
                lost[a], lost[b] = new
                run.report(problem.objective(of), lower)
            else:
                of[i], of[j] = a, b
        objective = problem.objective(of)
        proven = objective <= lower + 1e-12 * max(1.0, abs(objective))
        status = Status.OPTIMAL if proven else Status.FEASIBLE
        duals = {"shared places": 0.0}
        stats = {"swaps tried": run.evaluations}
        return Solution(status, of, objective, lower, duals, run.trace, stats, self.name)
