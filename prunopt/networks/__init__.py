"""Networks in torch: reading, calibrating, pruning, measuring and saving them. Needs the extra ``torch``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunopt.core.extras import lazy

if TYPE_CHECKING:
    from prunopt.networks.cnn.costs import measure as measure
    from prunopt.networks.cnn.pruning import CnnResult as CnnResult
    from prunopt.networks.cnn.pruning import prune_cnn as prune_cnn
    from prunopt.networks.transformers.budgeted_pruning import prune_to_budgets as prune_to_budgets
    from prunopt.networks.transformers.checkpoints import load as load
    from prunopt.networks.transformers.families import blocks as blocks
    from prunopt.networks.transformers.families import register_family as register_family
    from prunopt.networks.transformers.hessians import calibrate as calibrate
    from prunopt.networks.transformers.pruning import prune_transformer as prune_transformer
    from prunopt.networks.transformers.reading import read_model as read_model
    from prunopt.networks.transformers.recipes import PruneOptions as PruneOptions
    from prunopt.networks.transformers.result import PruneResult as PruneResult
    from prunopt.networks.transformers.result import save as save
    from prunopt.networks.transformers.text import read_text as read_text
    from prunopt.networks.transformers.text import token_windows as token_windows
    from prunopt.networks.transformers.verification import verify_folder as verify_folder

_PLACES = {
    "prunopt.networks.cnn.costs": "measure",
    "prunopt.networks.cnn.pruning": "CnnResult prune_cnn",
    "prunopt.networks.transformers.budgeted_pruning": "prune_to_budgets",
    "prunopt.networks.transformers.checkpoints": "load",
    "prunopt.networks.transformers.families": "blocks register_family",
    "prunopt.networks.transformers.hessians": "calibrate",
    "prunopt.networks.transformers.pruning": "prune_transformer",
    "prunopt.networks.transformers.reading": "read_model",
    "prunopt.networks.transformers.recipes": "PruneOptions",
    "prunopt.networks.transformers.result": "PruneResult save",
    "prunopt.networks.transformers.text": "read_text token_windows",
    "prunopt.networks.transformers.verification": "verify_folder",
}
_MOVED = {
    "prunopt.networks.cnn": (
        "LatencyTable choose_windows deprune fine_tune load_cnn onnx_file profile_cnn read_cnn "
        "read_pictures remove_channels save_cnn with_windows"
    ),
    "prunopt.networks.cnn.channel_groups": "ChannelGroups channel_groups",
    "prunopt.networks.soft_mask": "Distillation SoftMaskResult SoftMasks train_soft_mask",
    "prunopt.networks.transformers": (
        "Activations Block Calibration LayerReport learn_masks load_masks mask_task masks_by refit_masks "
        "save_masks token_losses"
    ),
}
__all__ = sorted(" ".join(_PLACES.values()).split())
__getattr__, __dir__ = lazy(__name__, _PLACES, "torch", moved=_MOVED)
