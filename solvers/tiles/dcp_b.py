"""Depthwise convolution pruning with a balanced workload (DCP-B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prunopt.solvers.tiles._ratio_rules import RatioRule, balanced


@dataclass(frozen=True)
class DcpB(RatioRule):
    """Keep the same number of vectors in every product of a layer, the largest of each [1]_.

    Its option is ``ratio``, see `RatioRule`.

    References
    ----------
    .. [1] C. Park, M. Park, H. J. Moon, M.-K. Kim, S. Go, S. Kim, W. W. Ro, "DEPrune: depth-wise separable convolution
       pruning for maximizing GPU parallelism", NeurIPS 2024.
    """

    name: ClassVar[str] = "dcp-b"
    rank: ClassVar[int] = 50
    rule = staticmethod(balanced)
