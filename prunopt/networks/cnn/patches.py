"""The patches that convolutions and linear layers multiply their weights with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from prunopt.core.arrays import Floats
from prunopt.networks.cnn.channel_groups import Slot
from prunopt.networks.cnn.inputs import Inputs, split
from prunopt.networks.cnn.replay import run_last
from prunopt.networks.cnn.watching import watching

PATCHES = 200  # places of a picture's feature map that enter a Hessian


def hessians(
    model: nn.Module, slots: Sequence[Slot], images: Inputs, *, batch: int = 16, seed: int = 0
) -> dict[str, Floats]:
    """Return X X^T / n of the patches that each layer reads, (in * taps, in * taps), channels outermost.

    Of layers that are neither linear nor convolutions of two dimensions: of the inputs at each place, (in, in).
    """
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}
    generator = torch.Generator().manual_seed(seed)

    def add(name: str, module: Any, x: torch.Tensor) -> None:
        known = isinstance(module, nn.Conv2d | nn.Linear)
        rows = patches(module if known else None, x, generator).double()
        sums[name] = sums.get(name, 0) + rows.T @ rows
        counts[name] = counts.get(name, 0) + len(rows)

    with watching(model, [slot.name for slot in slots], add, inputs=True), torch.inference_mode():
        for x in split(images, batch):
            run_last(model.eval(), x)
    return {name: (total / counts[name]).cpu().numpy() for name, total in sums.items()}


def patches(module: Any, x: torch.Tensor, generator: torch.Generator | None, most: int = PATCHES) -> torch.Tensor:
    """Return what a layer multiplies its weights with, (samples, in * taps); a random part of the places.

    Without a module: the features of each place.
    """
    if x.ndim == 2:
        return x
    if isinstance(module, nn.Linear):  # features last, at many places
        return x.reshape(-1, x.shape[-1])
    if module is None or (module.kernel_size == (1, 1) and module.stride == (1, 1) and not any(_margins(module))):
        flat = x.flatten(2)
        if generator is not None and flat.shape[2] > most:
            flat = flat[:, :, torch.randperm(flat.shape[2], generator=generator)[:most]]
        return flat.transpose(1, 2).reshape(-1, flat.shape[1])
    padded = padded_input(module, x)
    unfolded = F.unfold(padded, module.kernel_size, module.dilation, 0, module.stride).transpose(1, 2)
    places = unfolded.shape[1]
    if generator is not None and places > most:
        unfolded = unfolded[:, torch.randperm(places, generator=generator)[:most]]
    return unfolded.reshape(-1, unfolded.shape[2])


def taps(module: Any, x: torch.Tensor, generator: torch.Generator, most: int = PATCHES // 4) -> torch.Tensor:
    """Return what each channel of a depthwise layer multiplies its kernel with, (channels, samples, taps)."""
    (kh, kw), (sh, sw), (dh, dw) = module.kernel_size, module.stride, module.dilation
    views = padded_input(module, x).unfold(2, dh * (kh - 1) + 1, sh).unfold(3, dw * (kw - 1) + 1, sw)
    views = views[..., ::dh, ::dw]
    at = torch.randperm(views.shape[2] * views.shape[3], generator=generator)[:most]
    chosen = views[:, :, at // views.shape[3], at % views.shape[3]]  # (images, channels, places, rows, columns)
    return chosen.permute(1, 0, 2, 3, 4).reshape(x.shape[1], -1, kh * kw)


def _margins(module: Any) -> tuple[int, ...]:
    """The padding of a convolution of one tap; 0 where it pads to the "same" size, which then is not padding."""
    return module.padding if isinstance(module.padding, tuple) else (0,)


def padded_input(module: Any, x: torch.Tensor) -> torch.Tensor:
    """Return a convolution's input with its padding, that of TensorFlow's "same" convolutions included."""
    if hasattr(module, "pads"):  # a window of taps
        return F.pad(x, module.pads(int(x.shape[2]), int(x.shape[3])))
    if hasattr(module, "static_padding"):
        padded: torch.Tensor = module.static_padding(x)
        return padded
    if isinstance(module.padding, str) or type(module).__name__ == "Conv2dDynamicSamePadding":
        return F.pad(x, same_padding(module, x.shape[2], x.shape[3]))
    vertical, horizontal = module.padding
    return F.pad(x, [horizontal, horizontal, vertical, vertical])


def same_padding(module: Any, height: int, width: int) -> list[int]:
    """Return left, right, top, bottom of the padding that keeps ceil(size / stride) output places."""
    out: list[int] = []
    for size, k, s, d in zip(
        (width, height), reversed(module.kernel_size), reversed(module.stride), reversed(module.dilation), strict=True
    ):
        total = 0 if module.padding == "valid" else max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        out += [total // 2, total - total // 2]
    return out
