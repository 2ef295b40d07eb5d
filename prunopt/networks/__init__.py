"""Networks in torch: reading, calibrating, pruning, measuring and saving them. Needs the extra ``torch``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunopt.core.extras import lazy

if TYPE_CHECKING:
    from prunopt.networks.cnn.channel_groups import ChannelGroups as ChannelGroups
    from prunopt.networks.cnn.channel_groups import channel_groups as channel_groups
    from prunopt.networks.cnn.checkpoints import load_cnn as load_cnn
    from prunopt.networks.cnn.checkpoints import save_cnn as save_cnn
    from prunopt.networks.cnn.costs import measure as measure
    from prunopt.networks.cnn.deprune import deprune as deprune
    from prunopt.networks.cnn.fine_tuning import fine_tune as fine_tune
    from prunopt.networks.cnn.latency import LatencyTable as LatencyTable
    from prunopt.networks.cnn.models import read_cnn as read_cnn
    from prunopt.networks.cnn.models import read_pictures as read_pictures
    from prunopt.networks.cnn.profile import profile_cnn as profile_cnn
    from prunopt.networks.cnn.pruning import CnnResult as CnnResult
    from prunopt.networks.cnn.pruning import prune_cnn as prune_cnn
    from prunopt.networks.cnn.surgery import onnx_file as onnx_file
    from prunopt.networks.cnn.surgery import remove_channels as remove_channels
    from prunopt.networks.cnn.windowed_conv import choose_windows as choose_windows
    from prunopt.networks.cnn.windowed_conv import with_windows as with_windows
    from prunopt.networks.soft_mask.adapter import Distillation as Distillation
    from prunopt.networks.soft_mask.adapter import SoftMasks as SoftMasks
    from prunopt.networks.soft_mask.s2hpruner import SoftMaskResult as SoftMaskResult
    from prunopt.networks.soft_mask.s2hpruner import train_soft_mask as train_soft_mask
    from prunopt.networks.transformers.calibration import Activations as Activations
    from prunopt.networks.transformers.calibration import Calibration as Calibration
    from prunopt.networks.transformers.checkpoints import load as load
    from prunopt.networks.transformers.checkpoints import save as save
    from prunopt.networks.transformers.families import Block as Block
    from prunopt.networks.transformers.families import blocks as blocks
    from prunopt.networks.transformers.families import register_family as register_family
    from prunopt.networks.transformers.hessians import calibrate as calibrate
    from prunopt.networks.transformers.layer import LayerReport as LayerReport
    from prunopt.networks.transformers.learned_masks import learn_masks as learn_masks
    from prunopt.networks.transformers.learned_masks import load_masks as load_masks
    from prunopt.networks.transformers.learned_masks import mask_task as mask_task
    from prunopt.networks.transformers.learned_masks import masks_by as masks_by
    from prunopt.networks.transformers.learned_masks import refit_masks as refit_masks
    from prunopt.networks.transformers.learned_masks import save_masks as save_masks
    from prunopt.networks.transformers.pruning import PruneResult as PruneResult
    from prunopt.networks.transformers.pruning import prune_transformer as prune_transformer
    from prunopt.networks.transformers.reading import read_model as read_model
    from prunopt.networks.transformers.text import read_text as read_text
    from prunopt.networks.transformers.text import token_losses as token_losses
    from prunopt.networks.transformers.text import token_windows as token_windows
    from prunopt.networks.transformers.verification import verify_folder as verify_folder

_PLACES = {
    "prunopt.networks.cnn.channel_groups": "ChannelGroups channel_groups",
    "prunopt.networks.cnn.checkpoints": "load_cnn save_cnn",
    "prunopt.networks.cnn.costs": "measure",
    "prunopt.networks.cnn.fine_tuning": "fine_tune",
    "prunopt.networks.cnn.latency": "LatencyTable",
    "prunopt.networks.cnn.models": "read_cnn read_pictures",
    "prunopt.networks.cnn.profile": "profile_cnn",
    "prunopt.networks.cnn.deprune": "deprune",
    "prunopt.networks.cnn.pruning": "CnnResult prune_cnn",
    "prunopt.networks.cnn.surgery": "onnx_file remove_channels",
    "prunopt.networks.cnn.windowed_conv": "choose_windows with_windows",
    "prunopt.networks.soft_mask.adapter": "Distillation SoftMasks",
    "prunopt.networks.soft_mask.s2hpruner": "SoftMaskResult train_soft_mask",
    "prunopt.networks.transformers.calibration": "Activations Calibration",
    "prunopt.networks.transformers.checkpoints": "load save",
    "prunopt.networks.transformers.families": "Block blocks register_family",
    "prunopt.networks.transformers.hessians": "calibrate",
    "prunopt.networks.transformers.layer": "LayerReport",
    "prunopt.networks.transformers.learned_masks": "learn_masks load_masks mask_task masks_by refit_masks save_masks",
    "prunopt.networks.transformers.pruning": "PruneResult prune_transformer",
    "prunopt.networks.transformers.reading": "read_model",
    "prunopt.networks.transformers.text": "read_text token_losses token_windows",
    "prunopt.networks.transformers.verification": "verify_folder",
}
__all__ = sorted(" ".join(_PLACES.values()).split())
__getattr__, __dir__ = lazy(__name__, _PLACES, "torch")
