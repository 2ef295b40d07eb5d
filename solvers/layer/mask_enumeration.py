"""Masks chosen block by block, each by looking at all of its patterns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prunopt.core.arrays import Bools
from prunopt.core.solution import Solution
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import whole_number
from prunopt.forms.layer.mask_blocks import MaskBlocks
from prunopt.solvers.layer._mask_sweep import swept


@dataclass(frozen=True)
class MaskEnumeration(Solver[MaskBlocks]):
    r"""The sweep of `sparsegpt`, with the exact joint cost of a block in place of a score for each weight.

    For every block of M consecutive weights the cost of each pattern P of removed ones is
    :math:`w_P (C_{PP})^{-1} w_P^T`, C being the inverse Hessian of this block and all columns after it: the best choice
    for the block, given the blocks before it and that those after it stay dense. Unstructured masks are enumerated in
    blocks of ``block`` columns, in each of which as many weights go as SparseGPT's threshold would take.

    Parameters
    ----------
    block
        Size of the enumerated blocks of unstructured masks, >= 1. N:M masks have blocks of M.
    lazy
        Columns updated lazily together, >= 1.
    """

    name: ClassVar[str] = "mask-enumeration"
    form: ClassVar[type] = MaskBlocks
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 35
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Frantar & Alistarh, ICML 2023, with exact blocks"

    block: int = 4
    lazy: int = 128

    def __post_init__(self) -> None:
        whole_number("block", self.block, low=1)
        whole_number("lazy", self.lazy, low=1)

    def solve(self, problem: MaskBlocks, limits: Limits, seed: int) -> Solution[Bools]:
        """Return the mask of kept weights."""
        return swept(problem, self.name, Run(limits), self.lazy, self.block)
