"""The device that a run asks for, checked."""

from __future__ import annotations

from typing import Any

import torch

from prunopt.core.validate import invalid


def device_of(name: Any) -> torch.device | None:
    """Return a device of torch by its name; None for None.

    Raises
    ------
    ValueError
        If torch knows no such device, or there is none here.
    """
    if name is None:
        return None
    must, mend = "be a device of torch that is there", f"such as {' or '.join(available())}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError, ValueError) as error:
        # AssertionError: torch without CUDA is asked for it
        raise invalid("device", must, str(name), mend) from error
    if device.type == "meta":
        raise invalid("device", must, str(name), mend)
    return device


def available() -> list[str]:
    """Return the devices that are there."""
    found = ["cpu"]
    accelerators: Any = getattr(torch, "accelerator", None)  # since torch 2.6
    if accelerators is not None and accelerators.is_available():
        found += [f"{accelerators.current_accelerator()}:{k}" for k in range(accelerators.device_count())]
    elif torch.cuda.is_available():
        found += [f"cuda:{k}" for k in range(torch.cuda.device_count())]
    return found
