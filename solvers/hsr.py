"""Hardware-aware structured recalibration (HSR), as published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from prunopt.core.solution import Solution
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.tile_columns import TileColumns
from prunopt.solvers.kernels.tile_rules import check_ratio, follow, recalibrated


@dataclass(frozen=True)
class Hsr(Solver[TileColumns]):
    """Balance the products of each layer, then round to whole tiles: half of the layers down, half of them up [1]_.

    Layers whose last tile is not full are ranked by the latency saved per vector in it; the better half (of an odd
    number, the larger half) drops it, the others fill it. Aligned layers stay as they are.

    Parameters
    ----------
    ratio
        The fraction of each layer's vectors to be removed, as published; an answer beyond the problem's limits is a
        failure. None takes the ratio, in steps of 1/400, that loses least within the limits.

    References
    ----------
    .. [1] C. Park, M. Park, H. J. Moon, M.-K. Kim, S. Go, S. Kim, W. W. Ro, "DEPrune: depth-wise separable convolution
       pruning for maximizing GPU parallelism", NeurIPS 2024.
    """

    name: ClassVar[str] = "hsr"
    form: ClassVar[type] = TileColumns
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 40
    reference: ClassVar[str] = "Park et al., NeurIPS 2024"

    ratio: float | None = None

    def __post_init__(self) -> None:
        check_ratio(self.ratio)

    def solve(self, problem: TileColumns, limits: Limits, seed: int) -> Solution[Any]:
        """Return the rule's answer, without a bound."""
        return follow(problem, recalibrated, self.ratio, self.name, Run(limits))
