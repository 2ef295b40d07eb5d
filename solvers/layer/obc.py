"""Optimal brain compression: the weights of every row removed one by one, then exchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from threadpoolctl import threadpool_limits

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.solution import Solution
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import number, require, whole_number
from prunopt.forms.layer.mask_blocks import MaskBlocks
from prunopt.solvers.layer._answer import answer
from prunopt.solvers.layer._mask_proof import prove
from prunopt.solvers.layer._obc_allocation import allocate
from prunopt.solvers.layer._obc_kernel import solve_rows, trace_rows
from prunopt.solvers.layer._obc_rows import BATCH, POOL, REACH, over_rows, tables


@dataclass(frozen=True)
class Obc(Solver[MaskBlocks]):
    r"""Greedy removal by exact costs in every row by itself, then exchanges of a removed weight for a kept one.

    Removing weight j of a row costs :math:`v_j^2 / C'_{jj}`, v being the re-solved weights and C' the inverse of what
    is left [1]_. Of the ``pool`` cheapest, ``batch`` are removed one at a time with exact costs among them. An exchange
    returns one weight and removes another; it is worth, exactly and with all kept weights re-solved,

    .. math:: \frac{(v_t + B_{ts} a_s / A_{ss})^2}{T_{tt} + B_{ts}^2 / A_{ss}} - \frac{a_s^2}{A_{ss}}, \qquad
       A = (C_{SS})^{-1}, \; a = A w_S, \; B = C_{KS} A, \; T = C_{KK} - B C_{SK}

    and the best is taken until none gains, in a pool of the weights cheapest to remove and best to take back. Masks are
    chosen in single precision where the Hessian's condition allows it; the weights are re-solved in double.

    With ``scope="layer"`` every row is first removed whole; the zeros are shared so that the sum of these traces is
    least, exactly. N:M blocks close when enough of them is removed, and exchanges stay within a block. Rows are
    independent, so the answer is the same for any number of threads.

    Parameters
    ----------
    swaps
        Rounds of exchanges, >= 0; each but the first eliminates the row again. A round without an exchange is the last.
    batch
        Weights chosen from one pool, >= 1; 1 is plain greedy.
    pool
        Candidates of a batch, >= ``batch``; half as many on either side of an exchange, which looks for those to take
        back among as many as ``pool`` with the greatest bounds on their gain. N:M: as many in the blocks looked at.
    reach
        In [0, 1]: of the weights beyond the number to remove, the share that is looked at, the cheapest by their first
        costs; 1 for all. Without blocks only.
    proof
        Sweeps for a lower bound, >= 0; 0 for none. A diagonal :math:`D \preceq H` and a point for each row prove it,
        see `MaskBlocks.bound`: the points by coordinate descent on the convex relaxation, D by an interior point
        method.
    n_jobs
        Threads over rows, >= 1; -1 for as many as there are processors.

    References
    ----------
    .. [1] E. Frantar, S. P. Singh, D. Alistarh, "Optimal brain compression: a framework for accurate post-training
       quantization and pruning", NeurIPS 2022.
    """

    name: ClassVar[str] = "obc"
    form: ClassVar[type] = MaskBlocks
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 15
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Frantar, Singh & Alistarh, NeurIPS 2022, with exact exchanges"

    swaps: int = 1
    batch: int = BATCH
    pool: int = POOL
    reach: float = REACH
    proof: int = 20
    n_jobs: int = -1

    def __post_init__(self) -> None:
        whole_number("swaps", self.swaps, low=0)
        whole_number("batch", self.batch, low=1)
        whole_number("pool", self.pool, low=self.batch, mend="pass no less than batch")
        number("reach", self.reach, low=0, high=1)
        whole_number("proof", self.proof, low=0)
        whole_number("n_jobs", self.n_jobs, low=-1)
        require(self.n_jobs != 0, "n_jobs", "be a number of threads, or -1 for all processors", self.n_jobs)

    @classmethod
    def rank_on(cls, problem: Any) -> int:
        """Return the rank: `mask-descent` is ahead at N:M."""
        return cls.rank if problem.pattern is None else 25

    def solve(self, problem: MaskBlocks, limits: Limits, seed: int) -> Solution[Bools]:
        """Return the mask of kept weights."""
        run = Run(limits)
        W, C = tables(problem)
        rows, d = problem.shape
        scores = W**2 / np.diagonal(C)
        removed = ~problem.cheapest(scores)  # for the rows that the limits leave out
        counts: Ints | None = np.count_nonzero(removed, axis=1)
        with threadpool_limits(1, "blas"):  # threads are over rows; one BLAS thread also makes sums the same anywhere
            if problem.scope == "layer" and problem.pattern is None:
                counts = self._shared(W, C, problem.n_removed, run)
                if counts is not None:
                    removed = np.argsort(np.argsort(scores, axis=1, kind="stable"), axis=1) < counts[:, None]
            moved = np.zeros(rows, np.int64)
            block, quota = (d, d) if problem.pattern is None else (problem.pattern[1], problem.n_removed)
            options = (block, quota, self.batch, self.pool, self.reach, self.swaps)

            def work(at: slice) -> None:
                assert counts is not None
                solve_rows(W[at], C, counts[at], *options, removed[at], moved[at])

            done = 0 if counts is None else over_rows(work, rows, self.n_jobs, run)
        stats = {"rows": done, "exchanges": int(moved.sum())}
        message = "a heuristic's answer" if done == rows else "stopped by its limits; a heuristic's answer"
        duals = prove(problem, problem.solved(~removed).weight, self.proof, run, self.n_jobs)
        return answer(problem, ~removed, self.name, run, stats=stats, message=message, duals=duals)

    def _shared(self, W: Floats, C: Floats, count: int, run: Run) -> Ints | None:
        """Return the zeros of every row, None where there is no time for the traces."""
        costs = np.zeros(W.shape)

        def work(at: slice) -> None:
            trace_rows(W[at], C, self.batch, self.pool, costs[at])

        if over_rows(work, len(W), self.n_jobs, run) < len(W):
            return None
        return allocate(costs, count)
