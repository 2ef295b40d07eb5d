"""Convolutional networks: importance, widths and windows within a budget, channels removed for good, repair, saving."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunopt.core.extras import lazy

if TYPE_CHECKING:
    from prunopt.networks.cnn.checkpoints import load_cnn as load_cnn
    from prunopt.networks.cnn.checkpoints import save_cnn as save_cnn
    from prunopt.networks.cnn.fine_tuning import fine_tune as fine_tune
    from prunopt.networks.cnn.models import read_cnn as read_cnn
    from prunopt.networks.cnn.models import read_pictures as read_pictures
    from prunopt.networks.cnn.profile import profile_cnn as profile_cnn
    from prunopt.networks.cnn.pruning import CnnResult as CnnResult
    from prunopt.networks.cnn.pruning import deprune as deprune
    from prunopt.networks.cnn.pruning import parse_budget as parse_budget
    from prunopt.networks.cnn.pruning import prune_cnn as prune_cnn
    from prunopt.networks.cnn.surgery import mask_channels as mask_channels
    from prunopt.networks.cnn.surgery import onnx_file as onnx_file
    from prunopt.networks.cnn.surgery import remove_channels as remove_channels
    from prunopt.networks.cnn.windowed_conv import choose_windows as choose_windows
    from prunopt.networks.cnn.windowed_conv import with_windows as with_windows

_PLACES = {
    "prunopt.networks.cnn.checkpoints": "load_cnn save_cnn",
    "prunopt.networks.cnn.fine_tuning": "fine_tune",
    "prunopt.networks.cnn.models": "read_cnn read_pictures",
    "prunopt.networks.cnn.profile": "profile_cnn",
    "prunopt.networks.cnn.pruning": "CnnResult deprune parse_budget prune_cnn",
    "prunopt.networks.cnn.surgery": "mask_channels onnx_file remove_channels",
    "prunopt.networks.cnn.windowed_conv": "choose_windows with_windows",
}
__all__ = sorted(" ".join(_PLACES.values()).split())
__getattr__, __dir__ = lazy(__name__, _PLACES, "torch")
