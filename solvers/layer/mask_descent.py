"""Masks improved block by block together with the weights, from several starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunopt.core.arrays import Bools, Floats
from prunopt.core.solution import Solution
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import whole_number
from prunopt.forms.layer.mask_blocks import MaskBlocks
from prunopt.solvers.layer._answer import answer
from prunopt.solvers.layer._mask_descent_kernel import descend, subsets
from prunopt.solvers.layer._mask_proof import prove
from prunopt.solvers.layer._mask_sweep import sweep
from prunopt.solvers.layer._obc_rows import exchanged

SHAKEN = 0.02  # fraction of the blocks whose mask is redrawn for a restart
TRIAL = 6  # sweeps from each of two starts of an unstructured mask before one of them is taken
STILL = 1e-4  # a sweep that changes fewer blocks than this share, and gains less, ends the descent


@dataclass(frozen=True)
class MaskDescent(Solver[MaskBlocks]):
    r"""Coordinate descent on the joint loss :math:`\operatorname{tr}(W - W') H (W - W')^T` over masks and weights.

    One step takes a block of M consecutive weights of a row, all others fixed, and gives it the best of all its
    patterns with the best weights for it, :math:`v_K = t_K (H_{KK})^{-1}`: the loss never rises. Sweeps go over all
    blocks until the mask rests; then the weights are re-solved together (``problem.lift``). N:M masks have blocks of
    M; unstructured ones blocks of ``block``, shifted by half of it from sweep to sweep, in which the number removed
    stays as SparseGPT's threshold set it.

    An unstructured descent begins at SparseGPT's mask or at Wanda's, whichever is ahead after a few sweeps.

    Parameters
    ----------
    sweeps
        Maximum number of sweeps from one start, >= 0.
    restarts
        Number of restarts: the best mask so far with 2 % of its blocks redrawn. Each keeps the better mask.
    block
        Size of the blocks of unstructured masks, >= 1.
    lazy
        Columns handled with one product, >= 1.
    swaps
        Rounds of exchanges after the descent, >= 0, as in `obc`: of a removed weight for a kept one of the same block
        (of the same row where the mask is unstructured), exact with all kept weights re-solved.
    proof
        Sweeps for a lower bound, >= 0, as in `obc`; 0 for none.
    """

    name: ClassVar[str] = "mask-descent"
    form: ClassVar[type] = MaskBlocks
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 20
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "coordinate descent on masks and weights, from SparseGPT's mask"

    sweeps: int = 16
    restarts: int = 0
    block: int = 4
    lazy: int = 128
    swaps: int = 0
    proof: int = 0

    def __post_init__(self) -> None:
        for name, least in (("sweeps", 0), ("restarts", 0), ("block", 1), ("lazy", 1), ("swaps", 0), ("proof", 0)):
            whole_number(name, getattr(self, name), low=least)

    def solve(self, problem: MaskBlocks, limits: Limits, seed: int) -> Solution[Bools]:
        """Return the mask of kept weights."""
        run = Run(limits)
        rng = np.random.default_rng(seed)
        mask, weights = sweep(problem, self.lazy, None)
        swept = problem.error(weights)
        weights[~mask] = 0
        done = 0
        if problem.pattern is None:  # descent cannot move a block's share of the zeros, so the start settles it
            mask, weights, done = self._better_start(problem, mask, weights, run)
        loss, more = self._descend(problem, mask, weights, run)
        tried, done = 0, done + more
        while tried < self.restarts and not run.out_of_time:
            other, start = self._shaken(problem, mask, weights, rng)
            other_loss, more = self._descend(problem, other, start, run)
            if other_loss < loss:
                mask, weights, loss = other, start, other_loss
            tried, done = tried + 1, done + more
        moved = exchanged(problem, mask, self.swaps, run)
        if moved:
            weights = problem.masked(mask)
        refit = problem.solved(mask, weights)
        stats: dict[str, Any] = {"sweeps": done, "restarts": tried, "error of sparsegpt's weights": swept}
        stats |= {"error without refit": problem.error(weights), "refit residual": refit.residual, "exchanges": moved}
        duals = prove(problem, refit.weight, self.proof, run)
        message = "a heuristic's answer" if duals else "a heuristic's answer, no bound"
        return answer(problem, mask, self.name, run, stats=stats, message=message, duals=duals)

    def _block(self, problem: MaskBlocks) -> int:
        return min(self.block, problem.shape[1]) if problem.pattern is None else int(problem.pattern[1])

    def _better_start(self, problem: MaskBlocks, mask: Bools, weights: Floats, run: Run) -> tuple[Bools, Floats, int]:
        """Return SparseGPT's mask or Wanda's, whichever is ahead after a few sweeps from each."""
        other = problem.cheapest(problem.weight**2 * np.diagonal(problem.hessian))
        start = problem.masked(other)
        loss, done = self._descend(problem, mask, weights, run, TRIAL)
        other_loss, more = self._descend(problem, other, start, run, TRIAL)
        chosen = (other, start) if other_loss < loss else (mask, weights)
        return *chosen, done + more

    def _descend(
        self, problem: MaskBlocks, mask: Bools, weights: Floats, run: Run, most: int | None = None
    ) -> tuple[float, int]:
        """Sweep in place until the mask rests; return the loss and the number of sweeps."""
        block = self._block(problem)
        ways = subsets(block, list(range(block + 1)) if problem.pattern is None else [problem.pattern[0]])
        blocks = mask.size // block
        done = 0
        while done < min(self.sweeps, self.sweeps if most is None else most) and not run.out_of_time:
            shift = block // 2 if problem.pattern is None and done % 2 else 0
            changed, gained = descend(problem.weight, problem.normal, mask, weights, block, ways, shift, self.lazy)
            done += 1
            run.evaluations += 1
            if changed <= STILL * blocks and gained <= STILL * problem.error(weights, damped=True):
                break
        return problem.error(weights, damped=True), done

    def _shaken(
        self, problem: MaskBlocks, mask: Bools, weights: Floats, rng: np.random.Generator
    ) -> tuple[Bools, Floats]:
        """Return a mask with some rows' blocks permuted, and the weights that are left of it."""
        rows, block = len(mask), self._block(problem)
        n = mask.shape[1] // block
        table = mask[:, : n * block].reshape(rows, n, block).copy()
        chosen = rng.random((rows, n)) < SHAKEN
        table[chosen] = rng.permuted(table[chosen], axis=1)
        other = mask.copy()
        other[:, : n * block] = table.reshape(rows, -1)
        return other, np.where(other, np.where(mask, weights, problem.weight), 0.0)
