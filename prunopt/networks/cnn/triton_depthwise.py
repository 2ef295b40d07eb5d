"""Triton kernels for pruned depthwise convolutions. Imported only where triton is; see `depthwise_kernels`."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def diagonal(
    x: Any, out: Any, value: Any, row: Any, channel: Any, dy: Any, dx: Any, channels: Any, height: Any, width: Any,
    out_height: Any, out_width: Any, products: Any, stride: Any, top: Any, left: Any, kept: Any,
    TILE: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr,
) -> None:  # fmt: skip
    """One product of one picture on one run of places: (TILE x kept) times (kept x places), one weight a column."""
    image, product = tl.program_id(0) // products, tl.program_id(0) % products
    places = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = places < out_height * out_width
    y, z = places // out_width * stride - top, places % out_width * stride - left
    rows = tl.arange(0, TILE)
    total = tl.zeros((TILE, BLOCK_P), tl.float32)
    for start in range(0, kept, BLOCK_K):
        k = product * kept + start + tl.arange(0, BLOCK_K)
        weights = tl.where(rows[:, None] == tl.load(row + k)[None, :], tl.load(value + k)[None, :], 0.0)
        at_y, at_z = y[None, :] + tl.load(dy + k)[:, None], z[None, :] + tl.load(dx + k)[:, None]
        valid = (at_y >= 0) & (at_y < height) & (at_z >= 0) & (at_z < width) & inside[None, :]
        plane = image * channels + tl.load(channel + k)
        taken = tl.load(x + (plane[:, None] * height + at_y) * width + at_z, mask=valid, other=0.0)
        total += tl.dot(weights, taken.to(weights.dtype), input_precision="ieee")
    c = product * TILE + rows
    address = out + ((image * channels + c)[:, None] * out_height * out_width + places[None, :])
    tl.store(address, total, mask=(c < channels)[:, None] & inside[None, :])


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def tap_list(
    x: Any, out: Any, value: Any, dy: Any, dx: Any, channels: Any, height: Any, width: Any, out_height: Any,
    out_width: Any, blocks: Any, stride: Any, top: Any, left: Any, taps: Any,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
) -> None:  # fmt: skip
    """A block of channels of one picture on one run of places: the same number of taps for every channel."""
    image = tl.program_id(0) // blocks
    c = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    places = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = (c < channels)[:, None] & (places < out_height * out_width)[None, :]
    y, z = places // out_width * stride - top, places % out_width * stride - left
    total = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    for t in range(taps):
        k = c * taps + t
        mine = c < channels
        at_y = y[None, :] + tl.load(dy + k, mask=mine, other=0)[:, None]
        at_z = z[None, :] + tl.load(dx + k, mask=mine, other=0)[:, None]
        valid = (at_y >= 0) & (at_y < height) & (at_z >= 0) & (at_z < width) & inside
        taken = tl.load(x + ((image * channels + c)[:, None] * height + at_y) * width + at_z, mask=valid, other=0.0)
        total += tl.load(value + k, mask=mine, other=0.0)[:, None] * taken
    address = out + ((image * channels + c)[:, None] * out_height * out_width + places[None, :])
    tl.store(address, total, mask=inside)
