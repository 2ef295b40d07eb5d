"""Channels dealt out to tiles: every way of it, for small layers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.knapsack.tile_partition import TilePartition

MOST = 2_000_000


@dataclass(frozen=True)
class TileEnumeration(Solver[TilePartition]):
    """Look at every assignment of a small `TilePartition`, tiles taken as alike.

    Each free channel of least number opens a tile, and its company is chosen from the rest in every way; what is lost
    by whole tiles already, and at least by the rest, cuts off what cannot be best. More than two million assignments
    are refused.
    """

    name: ClassVar[str] = "tile-enumeration"
    form: ClassVar[type] = TilePartition
    exact: ClassVar[bool] = True
    rank: ClassVar[int] = 20
    reference: ClassVar[str] = "exhaustive search"

    def solve(self, problem: TilePartition, limits: Limits, seed: int) -> Solution[Any]:
        """Return the best assignment; stopped early, the best one so far with the bound of shared places."""
        run = Run(limits)
        count = partitions(problem.n_channels, problem.tile)
        if count > MOST:
            raise ValueError(
                f"problem: {problem.n_channels} channels in tiles of {problem.tile} have {count:.3g} assignments; "
                f"at most {MOST} are looked at, use tile-swap"
            )
        best = np.arange(problem.n_channels, dtype=np.int64) // problem.tile
        least, lower = problem.objective(best), problem.bound({})
        run.report(least, lower)
        complete = True
        for of in assignments(problem.n_channels, problem.tile):
            if run.out_of_time:
                complete = False
                break
            run.evaluations += 1
            value = problem.objective(of)
            if value < least:
                least, best = value, of.copy()
                run.report(least, lower)
        proven = complete or least <= lower
        bound, duals = (least, {"enumerated": True}) if proven else (lower, {"shared places": 0.0})
        run.report(least, bound)
        status = Status.OPTIMAL if proven else Status.FEASIBLE
        stats = {"assignments": run.evaluations}
        return Solution(status, best, least, bound, duals, run.trace, stats, self.name)


def partitions(channels: int, tile: int) -> float:
    """Return the number of ways to fill ceil(channels / tile) tiles, empty places counted as channels."""
    places = -(-channels // tile) * tile
    logs = math.lgamma(places + 1) - (places // tile) * math.lgamma(tile + 1) - math.lgamma(places // tile + 1)
    return math.exp(logs) if logs < 700 else math.inf


def assignments(channels: int, tile: int) -> Iterator[NDArray[np.int64]]:
    """Yield every assignment once, tiles numbered in the order of their first channel (the array is used again)."""
    of, room = np.zeros(channels, np.int64), [tile] * (-(-channels // tile))

    def place(channel: int, opened: int) -> Iterator[NDArray[np.int64]]:
        if channel == channels:
            yield of
            return
        for t in range(min(opened + 1, len(room))):
            if room[t]:
                of[channel] = t
                room[t] -= 1
                yield from place(channel + 1, max(opened, t + 1))
                room[t] += 1

    yield from place(0, 0)
