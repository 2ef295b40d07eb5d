"""Networks in torch: reading, calibrating, pruning, measuring and saving them. Needs the extra ``torch``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PLACES = {
    "ChannelGroups": "groups",
    "channel_groups": "groups",
    "remove_channels": "cnn_surgery",
    "mask_channels": "cnn_surgery",
    "onnx_file": "cnn_surgery",
    "measure": "costs",
    "LatencyTable": "latency",
    "prune_cnn": "cnn",
    "profile_cnn": "cnn_profile",
    "CnnResult": "cnn",
    "deprune": "cnn",
    "read_cnn": "cnn_models",
    "read_pictures": "cnn_models",
    "save_cnn": "cnn_saving",
    "load_cnn": "cnn_saving",
    "choose_windows": "cnn_taps",
    "with_windows": "cnn_taps",
    "fine_tune": "cnn_tuning",
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


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import torch  # noqa: F401
    except ImportError:
        raise ImportError(f"prunopt.networks.{name} needs torch: pip install 'prunopt[torch]'") from None
    return getattr(import_module(f"prunopt.networks.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
