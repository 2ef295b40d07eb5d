"""Lottery tickets: targets, sub-networks on disk, mask training, and the problems around the subset sum."""

from __future__ import annotations

from importlib import import_module
from typing import Any

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


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import torch  # noqa: F401
    except ImportError:
        raise ImportError(f"prunopt.networks.lottery.{name} needs torch: pip install 'prunopt[torch]'") from None
    return getattr(import_module(f"prunopt.networks.lottery.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
