"""Widths learned while a network is trained: soft gates, the hard network at their side, extraction."""

from __future__ import annotations

import prunopt.networks.require_torch  # noqa: F401
from prunopt.networks.cnn.repair import reestimate as reestimate
from prunopt.networks.soft_mask.adapter import Gates as Gates
from prunopt.networks.soft_mask.adapter import SoftMasks as SoftMasks
from prunopt.networks.soft_mask.adapter import soft_mask as soft_mask
from prunopt.networks.soft_mask.distillation import Distillation as Distillation
from prunopt.networks.soft_mask.gates import GatedNetwork as GatedNetwork
from prunopt.networks.soft_mask.s2hpruner import SoftMaskResult as SoftMaskResult
from prunopt.networks.soft_mask.s2hpruner import Training as Training
from prunopt.networks.soft_mask.s2hpruner import train_soft_mask as train_soft_mask

__all__ = [
    "Distillation",
    "GatedNetwork",
    "Gates",
    "SoftMaskResult",
    "SoftMasks",
    "Training",
    "reestimate",
    "soft_mask",
    "train_soft_mask",
]
