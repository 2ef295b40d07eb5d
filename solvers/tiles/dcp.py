"""Depthwise convolution pruning (DCP): a magnitude threshold in every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prunopt.solvers.tiles._ratio_rules import RatioRule, by_threshold


@dataclass(frozen=True)
class Dcp(RatioRule):
    """Keep the largest vectors of each layer, wherever they lie; the fullest product sets the pace [1]_.

    Its option is ``ratio``, see `RatioRule`.

    References
    ----------
    .. [1] C. Park, M. Park, H. J. Moon, M.-K. Kim, S. Go, S. Kim, W. W. Ro, "DEPrune: depth-wise separable convolution
       pruning for maximizing GPU parallelism", NeurIPS 2024.
    """

    name: ClassVar[str] = "dcp"
    rank: ClassVar[int] = 60
    rule = staticmethod(by_threshold)
