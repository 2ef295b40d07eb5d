"""Networks in torch: reading, calibrating, pruning, measuring and saving them. Needs the extra ``torch``."""

from __future__ import annotations

from prunopt.core.extras import lazy

_PLACES = {
    "ChannelGroups": "groups",
    "channel_groups": "groups",
    "remove_channels": "cnn",
    "mask_channels": "cnn",
    "onnx_file": "cnn",
    "measure": "costs",
    "LatencyTable": "latency",
    "prune_cnn": "cnn",
    "profile_cnn": "cnn",
    "CnnResult": "cnn",
    "deprune": "cnn",
    "read_cnn": "cnn",
    "read_pictures": "cnn",
    "save_cnn": "cnn",
    "load_cnn": "cnn",
    "choose_windows": "cnn",
    "with_windows": "cnn",
    "fine_tune": "cnn",
    "Distillation": "soft_mask",
    "SoftMasks": "soft_mask",
    "SoftMaskResult": "soft_mask",
    "train_soft_mask": "soft_mask",
    "Activations": "calibration",
    "Block": "families",
    "Calibration": "calibration",
    "calibrate": "hessians",
    "LayerReport": "layer_solving",
    "PruneResult": "transformer",
    "learn_masks": "learned_masks",
    "load": "checkpoints",
    "load_masks": "learned_masks",
    "mask_task": "learned_masks",
    "masks_by": "learned_masks",
    "refit_masks": "learned_masks",
    "save_masks": "learned_masks",
    "prune_transformer": "transformer",
    "save": "checkpoints",
    "verify_folder": "verification",
    "blocks": "families",
    "register_family": "families",
    "read_model": "models",
    "read_text": "text",
    "token_windows": "text",
    "token_losses": "text",
}
__all__ = sorted(_PLACES)
__getattr__, __dir__ = lazy(__name__, _PLACES, "torch")
