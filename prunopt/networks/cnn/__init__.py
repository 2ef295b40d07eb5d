"""Convolutional networks: importance, widths and windows within a budget, channels removed for good, repair, saving."""

from __future__ import annotations

from prunopt.core.extras import lazy

_PLACES = {
    "CnnResult": "pruning",
    "choose_windows": "taps",
    "deprune": "pruning",
    "fine_tune": "tuning",
    "load_cnn": "saving",
    "mask_channels": "surgery",
    "onnx_file": "surgery",
    "parse_budget": "pruning",
    "profile_cnn": "profile",
    "prune_cnn": "pruning",
    "read_cnn": "models",
    "read_pictures": "models",
    "remove_channels": "surgery",
    "save_cnn": "saving",
    "with_windows": "taps",
}
__all__ = sorted(_PLACES)
__getattr__, __dir__ = lazy(__name__, _PLACES, "torch")
