"""Hardware-aware structured recalibration (HSR), as published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prunopt.solvers.tiles._ratio_rules import RatioRule, recalibrated


@dataclass(frozen=True)
class Hsr(RatioRule):
    """Balance the products of each layer, then round to whole tiles: half of the layers down, half of them up [1]_.

    Layers whose last tile is not full are ranked by the latency saved per vector in it; the better half (of an odd
    number, the larger half) drops it, the others fill it. Aligned layers stay as they are.

    Its option is ``ratio``, see `RatioRule`.

    References
    ----------
    .. [1] C. Park, M. Park, H. J. Moon, M.-K. Kim, S. Go, S. Kim, W. W. Ro, "DEPrune: depth-wise separable convolution
       pruning for maximizing GPU parallelism", NeurIPS 2024.
    """

    name: ClassVar[str] = "hsr"
    rank: ClassVar[int] = 40
    rule = staticmethod(recalibrated)
