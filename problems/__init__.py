"""One pruning task a file, each with ``objective``, ``violation`` and ``reduce``."""

if __name__ != "prunopt.problems":
    raise ImportError(f"this folder is the package prunopt.problems: import prunopt.problems, not {__name__}")

from prunopt.problems.allocation.allocation_search import AllocationSearch as AllocationSearch
from prunopt.problems.allocation.layer_allocation import LayerAllocation as LayerAllocation
from prunopt.problems.dense_or_sparse_tiles import DenseOrSparseTiles as DenseOrSparseTiles
from prunopt.problems.depth_selection import DepthSelection as DepthSelection
from prunopt.problems.depthwise_conv import DepthwiseConv as DepthwiseConv
from prunopt.problems.forest.forest_budget import ForestBudget as ForestBudget
from prunopt.problems.forest.forest_size import ForestSize as ForestSize
from prunopt.problems.forest.forest_within import ForestWithin as ForestWithin
from prunopt.problems.forest.streamed_forest_budget import StreamedForestBudget as StreamedForestBudget
from prunopt.problems.head_selection import HeadSelection as HeadSelection
from prunopt.problems.layer_reconstruction import LayerReconstruction as LayerReconstruction
from prunopt.problems.lottery.lottery_ticket import LotteryTicket as LotteryTicket
from prunopt.problems.semi_structured_mask import SemiStructuredMask as SemiStructuredMask
from prunopt.problems.soft_mask import SoftMask as SoftMask

__all__ = [
    "AllocationSearch",
    "DenseOrSparseTiles",
    "DepthSelection",
    "DepthwiseConv",
    "ForestBudget",
    "ForestSize",
    "ForestWithin",
    "HeadSelection",
    "LayerAllocation",
    "LayerReconstruction",
    "LotteryTicket",
    "SemiStructuredMask",
    "SoftMask",
    "StreamedForestBudget",
]
