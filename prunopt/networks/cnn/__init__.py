"""Convolutional networks: importance, widths and windows within a budget, channels removed for good, repair, saving."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunopt.core.extras import lazy

if TYPE_CHECKING:
    from prunopt.networks.cnn.checkpoints import load_cnn as load_cnn
    from prunopt.networks.cnn.checkpoints import save_cnn as save_cnn
    from prunopt.networks.cnn.deprune import deprune as deprune
    from prunopt.networks.cnn.fine_tuning import FineTuning as FineTuning
    from prunopt.networks.cnn.fine_tuning import fine_tune as fine_tune
    from prunopt.networks.cnn.importances import Fisher as Fisher
    from prunopt.networks.cnn.importances import Magnitude as Magnitude
    from prunopt.networks.cnn.importances import Obs as Obs
    from prunopt.networks.cnn.importances import Taylor as Taylor
    from prunopt.networks.cnn.latency import LatencyTable as LatencyTable
    from prunopt.networks.cnn.models import read_cnn as read_cnn
    from prunopt.networks.cnn.models import read_pictures as read_pictures
    from prunopt.networks.cnn.output_matching import OutputMatching as OutputMatching
    from prunopt.networks.cnn.output_matching import match_outputs as match_outputs
    from prunopt.networks.cnn.profile import Widths as Widths
    from prunopt.networks.cnn.profile import profile_cnn as profile_cnn
    from prunopt.networks.cnn.pruning import CnnResult as CnnResult
    from prunopt.networks.cnn.pruning import parse_budget as parse_budget
    from prunopt.networks.cnn.pruning import prune_cnn as prune_cnn
    from prunopt.networks.cnn.repair import Repair as Repair
    from prunopt.networks.cnn.surgery import onnx_file as onnx_file
    from prunopt.networks.cnn.surgery import remove_channels as remove_channels
    from prunopt.networks.cnn.windowed_conv import choose_windows as choose_windows
    from prunopt.networks.cnn.windowed_conv import with_windows as with_windows

_PLACES = {
    "prunopt.networks.cnn.checkpoints": "load_cnn save_cnn",
    "prunopt.networks.cnn.deprune": "deprune",
    "prunopt.networks.cnn.fine_tuning": "FineTuning fine_tune",
    "prunopt.networks.cnn.importances": "Fisher Magnitude Obs Taylor",
    "prunopt.networks.cnn.latency": "LatencyTable",
    "prunopt.networks.cnn.models": "read_cnn read_pictures",
    "prunopt.networks.cnn.output_matching": "OutputMatching match_outputs",
    "prunopt.networks.cnn.profile": "Widths profile_cnn",
    "prunopt.networks.cnn.pruning": "CnnResult parse_budget prune_cnn",
    "prunopt.networks.cnn.repair": "Repair",
    "prunopt.networks.cnn.surgery": "onnx_file remove_channels",
    "prunopt.networks.cnn.windowed_conv": "choose_windows with_windows",
}
__all__ = sorted(" ".join(_PLACES.values()).split())
__getattr__, __dir__ = lazy(__name__, _PLACES, "torch")
