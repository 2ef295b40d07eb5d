"""Lottery tickets: targets, sub-networks on disk, mask training, and the problems around the subset sum."""

from __future__ import annotations

from prunopt.core.extras import lazy

_PLACES = {
    "DataFit": "data_residual",
    "Digits": "digits",
    "EdgePopup": "mask_training",
    "Spread": "tolerances",
    "data_masks": "data_residual",
    "edge_popup": "mask_training",
    "fewest_neurons": "shared_neurons",
    "find_ticket": "tickets",
    "inputs_in_ball": "tickets",
    "load_digits": "digits",
    "measured_error": "tickets",
    "read_network": "tickets",
    "save_ticket": "tickets",
    "spread_tolerances": "tolerances",
    "train_digits": "digits",
}
__all__ = sorted(_PLACES)
__getattr__, __dir__ = lazy(__name__, _PLACES, "torch")
