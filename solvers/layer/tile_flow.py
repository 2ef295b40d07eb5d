"""Transposable N:M masks by shortest augmenting paths, with prices that prove them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from prunopt.core.arrays import Bools, Floats
from prunopt.core.jit import njit
from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.layer.transposable_mask import TransposableMask

TILES = 256  # solved between two looks at the clock


@dataclass(frozen=True)
class TileFlow(Solver[TransposableMask]):
    r"""Minimum-cost flow in every tile by successive shortest paths [1]_, exact.

    Rows of a tile send N units each to its columns, which take N each; entry (r, c) carries one unit at cost
    :math:`-s_{rc}`. Rows join one after another, and every unit goes along a shortest path of the residual network,
    found by Dijkstra's algorithm on costs reduced by potentials; N M paths make a tile. The potentials are the prices
    that `TransposableMask.bound` checks. Where a limit stops it, tiles that are left keep a band of N diagonals, and
    the prices say what that can cost.

    References
    ----------
    .. [1] J. Edmonds, R. M. Karp, "Theoretical improvements in algorithmic efficiency for network flow problems",
       JACM 19 (1972).
    """

    name: ClassVar[str] = "tile-flow"
    form: ClassVar[type] = TransposableMask
    exact: ClassVar[bool] = True
    rank: ClassVar[int] = 10
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Edmonds & Karp, JACM 1972"

    def solve(self, problem: TransposableMask, limits: Limits, seed: int) -> Solution[Bools]:
        """Return the optimal mask; a limit returns the best one yet with the bound of the tiles that are done."""
        run = Run(limits)
        kept, size = problem.pattern
        scores = np.ascontiguousarray(problem.tiles(problem.scores))
        band = (np.arange(size)[None, :] - np.arange(size)[:, None]) % size < kept
        masks = np.broadcast_to(band, scores.shape).copy()
        u = scores.max(axis=2, initial=-np.inf) if scores.size else np.zeros(scores.shape[:2])
        v = np.zeros(scores.shape[:2])
        done = 0
        while done < len(scores) and not run.out_of_time:
            last = min(done + TILES, len(scores))
            _some(scores[done:last], kept, masks[done:last], u[done:last], v[done:last])
            done, run.evaluations = last, run.evaluations + 1
        value: Bools = problem.untiled(masks)
        duals = {"rows": u, "columns": v}
        objective = problem.objective(value)
        run.report(objective, problem.bound(duals))
        whole = done == len(scores)
        return Solution(
            Status.OPTIMAL if whole else Status.FEASIBLE,
            value,
            objective=objective,
            bound=problem.bound(duals),
            trace=run.trace,
            stats={"tiles": done},
            solver=self.name,
            duals=duals,
            message="" if whole else f"stopped by its limits after {done} of {len(scores)} tiles",
        )


@njit
def _tile(s: Floats, kept: int, mask: Bools, u: Floats, v: Floats) -> None:
    """Fill the mask of a tile, and the prices of its rows and columns.

    Nodes are rows 0 to M - 1, columns M to 2M - 1; p are their potentials, 0 at the sink. The residual network has an
    arc from row r to column c of cost -s where the entry is removed, and back of cost s where it is kept.
    """
    size = len(s)
    p = np.zeros(2 * size)
    filled = np.zeros(size, np.int64)
    mask[:] = False
    for row in range(size):
        p[row] = (p[size:] + s[row]).max()
        for _ in range(kept):
            dist = np.full(2 * size, np.inf)
            came = np.full(2 * size, -1)
            final = np.zeros(2 * size, np.bool_)
            dist[row] = 0.0
            end, reach = -1, np.inf
            while True:
                at, near = -1, reach
                for k in range(2 * size):
                    if not final[k] and dist[k] < near:
                        at, near = k, dist[k]
                if at < 0:
                    break
                final[at] = True
                if at < size:
                    for c in range(size):
                        if not mask[at, c] and not final[size + c]:
                            far = near + max(-s[at, c] + p[at] - p[size + c], 0.0)
                            if far < dist[size + c]:
                                dist[size + c], came[size + c] = far, at
                else:
                    c = at - size
                    if filled[c] < kept and near + max(p[at], 0.0) < reach:
                        end, reach = at, near + max(p[at], 0.0)
                    for r in range(size):
                        if mask[r, c] and not final[r]:
                            far = near + max(s[r, c] + p[at] - p[r], 0.0)
                            if far < dist[r]:
                                dist[r], came[r] = far, at
            for k in range(2 * size):
                if dist[k] < reach:
                    p[k] += dist[k] - reach
            filled[end - size] += 1
            at = end
            while at != row:
                before = came[at]
                if before < size:
                    mask[before, at - size] = True
                else:
                    mask[at, before - size] = False
                at = before
    for k in range(size):
        u[k], v[k] = p[k], -p[size + k]


@njit
def _some(scores: Floats, kept: int, masks: Bools, u: Floats, v: Floats) -> None:
    """Fill the masks and prices of some tiles."""
    for t in range(len(scores)):
        _tile(scores[t], kept, masks[t], u[t], v[t])
