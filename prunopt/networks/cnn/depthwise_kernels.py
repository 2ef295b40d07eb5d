"""Pruned depthwise convolutions on graphics cards: the diagonal form, and a list of taps as its honest rival."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

BLOCK_K = 32  # vectors of the inner loop; kept vectors are padded to a multiple with zeros


@dataclass(frozen=True, eq=False)
class DiagonalTables:
    """Kept vectors of every product: value, row in the product, channel and place in the kernel; (products, kept)."""

    value: torch.Tensor
    row: torch.Tensor
    channel: torch.Tensor
    dy: torch.Tensor
    dx: torch.Tensor
    channels: int
    tile: int


@dataclass(frozen=True, eq=False)
class TapTables:
    """Kept taps of every channel, the same number everywhere (padded with zeros); (channels, taps)."""

    value: torch.Tensor
    dy: torch.Tensor
    dx: torch.Tensor


def diagonal_tables(weight: torch.Tensor, tile: int = 32) -> DiagonalTables:
    """Pack the weights that are not zero of a depthwise kernel, (channels, 1, kh, kw), product by product.

    The product with most vectors sets the number for all: a balanced mask wastes nothing.
    """
    w = _kernel(weight)
    channels = len(w)
    products = -(-channels // tile)
    places = [[] for _ in range(products)]  # type: list[list[tuple[int, int, int]]]
    for c, i, j in np.argwhere(w != 0).tolist():
        places[c // tile].append((c, i, j))
    most = max(1, max(map(len, places)))
    kept = -(-most // BLOCK_K) * BLOCK_K
    value = np.zeros((products, kept), np.float32)
    table = np.zeros((4, products, kept), np.int32)
    for g, found in enumerate(places):
        table[1, g] = g * tile  # padding reads a channel that exists, times zero
        for k, (c, i, j) in enumerate(found):
            value[g, k] = w[c, i, j]
            table[:, g, k] = c - g * tile, c, i, j
    row, channel, dy, dx = (torch.from_numpy(t.copy()).to(weight.device) for t in table)
    return DiagonalTables(torch.from_numpy(value).to(weight.device), row, channel, dy, dx, channels, tile)


def tap_tables(weight: torch.Tensor) -> TapTables:
    """Pack the weights that are not zero of a depthwise kernel, channel by channel."""
    w = _kernel(weight)
    taps = max(1, int((w != 0).reshape(len(w), -1).sum(1).max()))
    value, place = np.zeros((len(w), taps), np.float32), np.zeros((2, len(w), taps), np.int32)
    for c in range(len(w)):
        for k, (i, j) in enumerate(np.argwhere(w[c] != 0).tolist()):
            value[c, k], place[0, c, k], place[1, c, k] = w[c, i, j], i, j
    dy, dx = (torch.from_numpy(p.copy()).to(weight.device) for p in place)
    return TapTables(torch.from_numpy(value).to(weight.device), dy, dx)


def reference_diagonal(x: torch.Tensor, tables: DiagonalTables, kernel: tuple[int, int], stride: int,
                       padding: tuple[int, int]) -> torch.Tensor:  # fmt: skip
    """The diagonal form in plain torch: gathered rows times packed columns, product by product."""
    n = len(x)
    oh, ow = _size(x, kernel, stride, padding)
    padded = torch.nn.functional.pad(x, [padding[1], padding[1], padding[0], padding[0]])
    out = x.new_zeros(n, tables.channels, oh, ow)
    for g in range(len(tables.value)):
        matrix = x.new_zeros(tables.tile, tables.value.shape[1])
        matrix[tables.row[g].long(), torch.arange(tables.value.shape[1], device=x.device)] = tables.value[g].to(x.dtype)
        rows = [
            padded[
                :,
                int(c),
                int(i) : int(i) + (oh - 1) * stride + 1 : stride,
                int(j) : int(j) + (ow - 1) * stride + 1 : stride,
            ]
            for c, i, j in zip(tables.channel[g], tables.dy[g], tables.dx[g], strict=True)
        ]
        product = torch.einsum("rk,kbyx->bryx", matrix, torch.stack(rows))
        span = slice(g * tables.tile, min((g + 1) * tables.tile, tables.channels))
        out[:, span] = product[:, : span.stop - span.start]
    return out


def diagonal_conv(x: torch.Tensor, tables: DiagonalTables, kernel: tuple[int, int], stride: int,
                  padding: tuple[int, int], *, block: int = 64) -> torch.Tensor:  # fmt: skip
    """The diagonal form by the Triton kernel; zero padding, (top, left) of it, the same behind."""
    kernels = _kernels()
    oh, ow = _size(x, kernel, stride, padding)
    out = torch.empty(len(x), tables.channels, oh, ow, dtype=x.dtype, device=x.device)
    products, kept = tables.value.shape
    grid = (len(x) * products, -(-oh * ow // block))
    kernels.diagonal[grid](
        x.contiguous(), out, tables.value, tables.row, tables.channel, tables.dy, tables.dx, tables.channels,
        x.shape[2], x.shape[3], oh, ow, products, stride, padding[0], padding[1], kept, TILE=tables.tile,
        BLOCK_K=BLOCK_K, BLOCK_P=block,
    )  # fmt: skip
    return out


def tap_conv(x: torch.Tensor, tables: TapTables, kernel: tuple[int, int], stride: int, padding: tuple[int, int], *,
             block: int = 128, block_channels: int = 8) -> torch.Tensor:  # fmt: skip
    """The list of taps by the Triton kernel."""
    kernels = _kernels()
    oh, ow = _size(x, kernel, stride, padding)
    channels, taps = tables.value.shape
    out = torch.empty(len(x), channels, oh, ow, dtype=x.dtype, device=x.device)
    blocks = -(-channels // block_channels)
    grid = (len(x) * blocks, -(-oh * ow // block))
    kernels.tap_list[grid](
        x.contiguous(), out, tables.value, tables.dy, tables.dx, channels, x.shape[2], x.shape[3], oh, ow, blocks,
        stride, padding[0], padding[1], taps, BLOCK_C=block_channels, BLOCK_P=block,
    )  # fmt: skip
    return out


def _kernel(weight: torch.Tensor) -> Any:
    if weight.ndim != 4 or weight.shape[1] != 1:
        raise ValueError(f"weight: shape {tuple(weight.shape)} given, (channels, 1, kh, kw) is needed")
    return weight.detach()[:, 0].float().cpu().numpy()


def _size(x: torch.Tensor, kernel: tuple[int, int], stride: int, padding: tuple[int, int]) -> tuple[int, int]:
    height, width = ((size + 2 * p - k) // stride + 1 for size, p, k in zip(x.shape[2:], padding, kernel, strict=True))
    return height, width


def _kernels() -> Any:
    if find_spec("triton") is None:
        raise ImportError("these kernels need triton: pip install triton (Linux, NVIDIA; or TRITON_INTERPRET=1)")
    from prunopt.networks.cnn import triton_depthwise

    return triton_depthwise
