"""SparseGPT: single weights removed in one sweep over the columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prunopt.core.arrays import Bools, Floats
from prunopt.core.solution import Solution
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import whole_number
from prunopt.forms.layer.mask_blocks import MaskBlocks
from prunopt.solvers.layer._mask_sweep import sweep, swept


@dataclass(frozen=True)
class SparseGpt(Solver[MaskBlocks]):
    r"""One sweep of optimal brain surgery over the columns, the later ones making up for the earlier [1]_.

    Weights go by :math:`w_{ij}^2 / U_{jj}^2`, :math:`C = U^T U`. Unstructured masks are chosen for ``block`` columns
    at a time (over all rows together with ``scope="layer"`` as published, within each row with ``scope="row"``), N:M
    masks when the first column of a block of M is reached.

    The answer's objective is that of its mask re-solved (``problem.lift(mask)``); the sweep's own weights, which are
    what the published method ends with, are `sparsegpt_weights`, and their undamped error is ``stats["error without
    refit"]``.

    Parameters
    ----------
    block
        Columns updated lazily together, >= 1; 128 as published.

    References
    ----------
    .. [1] E. Frantar, D. Alistarh, "SparseGPT: massive language models can be accurately pruned in one-shot",
       ICML 2023.
    """

    name: ClassVar[str] = "sparsegpt"
    form: ClassVar[type] = MaskBlocks
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 40
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Frantar & Alistarh, ICML 2023"

    block: int = 128

    def __post_init__(self) -> None:
        whole_number("block", self.block, low=1)

    def solve(self, problem: MaskBlocks, limits: Limits, seed: int) -> Solution[Bools]:
        """Return the mask of kept weights."""
        return swept(problem, self.name, Run(limits), self.block, None)


def sparsegpt_weights(problem: MaskBlocks, block: int = 128) -> tuple[Bools, Floats]:
    """Return the mask and the weights of the published method: those of the sweep, not re-solved together."""
    return sweep(problem, SparseGpt(block=block).block, None)
