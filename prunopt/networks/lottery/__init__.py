"""Lottery tickets: targets, sub-networks on disk, and masks fitted to data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunopt.core.extras import lazy

if TYPE_CHECKING:
    from prunopt.networks.lottery.data_residual import DataFit as DataFit
    from prunopt.networks.lottery.data_residual import data_masks as data_masks
    from prunopt.networks.lottery.digits import Digits as Digits
    from prunopt.networks.lottery.digits import load_digits as load_digits
    from prunopt.networks.lottery.digits import train_digits as train_digits
    from prunopt.networks.lottery.tickets import find_ticket as find_ticket
    from prunopt.networks.lottery.tickets import inputs_in_ball as inputs_in_ball
    from prunopt.networks.lottery.tickets import measured_error as measured_error
    from prunopt.networks.lottery.tickets import read_network as read_network
    from prunopt.networks.lottery.tickets import save_ticket as save_ticket

_PLACES = {
    "prunopt.networks.lottery.data_residual": "DataFit data_masks",
    "prunopt.networks.lottery.digits": "Digits load_digits train_digits",
    "prunopt.networks.lottery.tickets": "find_ticket inputs_in_ball measured_error read_network save_ticket",
}
__all__ = sorted(" ".join(_PLACES.values()).split())
__getattr__, __dir__ = lazy(__name__, _PLACES, "torch")
