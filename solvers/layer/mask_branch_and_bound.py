"""Free masks of short rows, each row proven."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from prunopt.core.arrays import Bools
from prunopt.core.solution import Solution
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import whole_number
from prunopt.forms.layer.mask_blocks import MaskBlocks
from prunopt.solvers.layer._answer import answer
from prunopt.solvers.layer.obc import Obc
from prunopt.solvers.layer.obs_branch_and_bound import ObsBranchAndBound


@dataclass(frozen=True)
class MaskBranchAndBound(Solver[MaskBlocks]):
    r"""Prove which weights to remove, row by row, by `obs-branch-and-bound` on single columns.

    The rows of a free mask with as many zeros in each are problems of their own; the leaves of all their trees are the
    certificate. Rows of up to 24 weights mostly end in well under a second. N:M patterns, zeros shared over a layer
    and longer rows are not branched on: the answer is that of `obc`, with its bound, and the message says so.

    Parameters
    ----------
    nodes
        Maximum number of nodes for a row, >= 1.
    largest
        Weights of a row up to which it is branched on, >= 1.
    """

    name: ClassVar[str] = "mask-branch-and-bound"
    form: ClassVar[type] = MaskBlocks
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 60
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Land & Doig, Econometrica 1960, row by row"

    nodes: int = 20_000
    largest: int = 24

    def __post_init__(self) -> None:
        whole_number("nodes", self.nodes, low=1)
        whole_number("largest", self.largest, low=1)

    def solve(self, problem: MaskBlocks, limits: Limits, seed: int) -> Solution[Bools]:
        """Return the mask of kept weights."""
        rows, d = problem.shape
        if problem.pattern is not None or problem.scope != "row" or d > self.largest:
            why = f"only free masks with rows of up to {self.largest} weights are branched on: an answer of obc"
            return replace(Obc().solve(problem, limits, seed), solver=self.name, message=why)
        run, solver = Run(limits), ObsBranchAndBound(nodes=self.nodes)
        mask, owner, proven, nodes = np.ones((rows, d), np.bool_), [], 0, 0
        removed, kept = [], []
        for r in range(rows):
            one = solver.solve(problem.row(r), self._left(limits, run), seed)
            mask[r, one.value] = False
            removed.append(one.duals["removed"])
            kept.append(one.duals["kept"])
            owner += [r] * len(removed[-1])
            proven += one.status.name == "OPTIMAL"
            nodes += one.stats["nodes"]
            run.evaluations += one.stats["nodes"]
        duals = {"rows": np.array(owner), "removed": np.concatenate(removed), "kept": np.concatenate(kept)}
        message = "" if proven == rows else f"{rows - proven} of {rows} rows stopped by their limits"
        stats = {"rows proven": proven, "nodes": nodes}
        return answer(problem, mask, self.name, run, stats=stats, message=message, duals=duals)

    @staticmethod
    def _left(limits: Limits, run: Run) -> Limits:
        seconds = None if limits.seconds is None else max(limits.seconds - run.seconds, 0.0)
        most = None if limits.evaluations is None else max(limits.evaluations - run.evaluations, 0)
        return Limits(seconds=seconds, evaluations=most, gap=limits.gap)
