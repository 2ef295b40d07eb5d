"""Pruned depthwise convolutions in diagonal form: against torch, and Triton's kernels in its interpreter."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from prunopt import solve  # noqa: E402
from prunopt.networks.cnn.depthwise_kernels import (  # noqa: E402
    diagonal_conv,
    diagonal_tables,
    reference_diagonal,
    tap_conv,
    tap_tables,
)
from prunopt.problems import DepthwiseConv  # noqa: E402

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are first used
CASES = [(40, 3, 1, 9), (64, 5, 2, 10), (32, 3, 2, 7)]


def pruned(channels: int, kernel: int, size: int) -> tuple[Any, Any]:
    """A kernel pruned by the integer program, and an input."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(channels, kernel, kernel))
    task = DepthwiseConv([weight], [size * size])
    mask = solve(DepthwiseConv([weight], [size * size], 0.4 * task.dense_latency)).value[0]
    kept = torch.tensor(weight * mask, dtype=torch.float32)[:, None]
    return kept, torch.tensor(rng.normal(size=(2, channels, size, size + 1)), dtype=torch.float32)


@pytest.mark.parametrize(("channels", "kernel", "stride", "size"), CASES)
def test_the_diagonal_form_is_the_convolution(channels: int, kernel: int, stride: int, size: int) -> None:
    weight, x = pruned(channels, kernel, size)
    pad = kernel // 2
    tables = diagonal_tables(weight)
    assert tables.value.shape[1] % 32 == 0
    assert tables.value.shape[1] < kernel * kernel * 32
    wanted = torch.nn.functional.conv2d(x, weight, stride=stride, padding=pad, groups=channels)
    found = reference_diagonal(x, tables, (kernel, kernel), stride, (pad, pad))
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize(("channels", "kernel", "stride", "size"), CASES)
def test_triton_kernels(channels: int, kernel: int, stride: int, size: int) -> None:
    weight, x = pruned(channels, kernel, size)
    if torch.cuda.is_available():
        weight, x = weight.cuda(), x.cuda()
    shape, pads = (kernel, kernel), (kernel // 2, kernel // 2)
    wanted = torch.nn.functional.conv2d(x, weight, stride=stride, padding=pads[0], groups=channels)
    assert torch.allclose(diagonal_conv(x, diagonal_tables(weight), shape, stride, pads), wanted, atol=1e-4)
    assert torch.allclose(tap_conv(x, tap_tables(weight), shape, stride, pads), wanted, atol=1e-4)


def test_bad_kernels() -> None:
    with pytest.raises(ValueError, match="channels, 1, kh, kw"):
        diagonal_tables(torch.zeros(3, 3, 3))
    if find_spec("triton") is None:
        weight, x = pruned(32, 3, 7)
        with pytest.raises(ImportError, match="triton"):
            diagonal_conv(x, diagonal_tables(weight), (3, 3), 1, (1, 1))
