"""One rectangular window of taps for every depthwise layer: what a CPU really computes faster."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from prunopt.api import solve
from prunopt.core import validate
from prunopt.core.solution import Solution
from prunopt.forms.knapsack.multiple_choice_knapsack import MultipleChoiceKnapsack
from prunopt.networks.cnn.costs import input_sizes
from prunopt.networks.cnn.latency import LatencyTable, LayerShape
from prunopt.networks.cnn.patches import same_padding
from prunopt.networks.cnn.watching import set_module


@dataclass(frozen=True)
class Window:
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of a kernel, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left


class WindowedConv2d(nn.Conv2d):
    """A depthwise convolution with a part of the kernel of another, reading the same places of the input.

    Whatever padding the other had, the window of rows ``top`` onwards starts ``top`` places later: the padding before
    shrinks by that (below zero, the input is cropped), and the padding behind makes up for it, so the output has the
    size that it had.
    """

    def __init__(self, conv: nn.Conv2d, window: Window) -> None:
        stride, dilation, bias = _pair(conv.stride), _pair(conv.dilation), conv.bias is not None
        super().__init__(conv.in_channels, conv.out_channels, window.shape, stride, 0, dilation, conv.groups, bias)
        self.window, self.full = window, tuple(conv.kernel_size)
        self.same = not isinstance(conv.padding, tuple) or type(conv).__name__.endswith("SamePadding")
        self.before = (0, 0) if self.same else tuple(int(p) for p in conv.padding)
        part = conv.weight.detach()[:, :, window.top : window.bottom, window.left : window.right]
        self.weight = nn.Parameter(part.contiguous().clone())
        if conv.bias is not None:
            self.bias = nn.Parameter(conv.bias.detach().clone())

    def pads(self, height: int, width: int) -> list[int]:
        """Return left, right, top, bottom of the padding (negative: cropped) for an input of this size."""
        if self.same:
            full = copy.copy(self)
            full.kernel_size = self.full
            full.padding = "same"
            old = same_padding(full, height, width)
        else:
            old = [self.before[1], self.before[1], self.before[0], self.before[0]]
        out = []
        ends = (
            (self.window.left, self.full[1], old[0], old[1], width, 1),
            (self.window.top, self.full[0], old[2], old[3], height, 0),
        )
        for start, kernel, before, behind, size, axis in ends:
            s, d, k = int(self.stride[axis]), int(self.dilation[axis]), int(self.kernel_size[axis])
            places = (size + before + behind - d * (kernel - 1) - 1) // s + 1
            first = before - start * d
            out += [first, (places - 1) * s + d * (k - 1) + 1 - size - first]
        return out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the convolution with the window."""
        pads = self.pads(int(x.shape[2]), int(x.shape[3]))
        if self.kernel_size == (1, 1) and self.in_channels == self.out_channels:
            if any(pads):
                x = F.pad(x, pads)
            x = x[:, :, :: int(self.stride[0]), :: int(self.stride[1])] * self.weight[:, 0]
            return x if self.bias is None else x + self.bias[:, None, None]
        if pads[0] == pads[1] >= 0 and pads[2] == pads[3] >= 0:
            return F.conv2d(x, self.weight, self.bias, self.stride, (pads[2], pads[0]), self.dilation, self.groups)
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    return int(sizes[0]), int(sizes[1])


@dataclass(frozen=True, eq=False)
class TapChoice:
    """The windows chosen: one for each depthwise layer, the solution behind them, and what was on offer."""

    names: tuple[str, ...]
    windows: tuple[Window, ...]
    solution: Solution[Any]
    milliseconds: float
    dense_milliseconds: float


def windows_of(kernel: tuple[int, int]) -> list[Window]:
    """Return all windows of a kernel, the whole one first."""
    height, width = kernel
    found = [
        Window(t, t + h, c, c + w)
        for h in range(height, 0, -1)
        for w in range(width, 0, -1)
        for t in range(height - h + 1)
        for c in range(width - w + 1)
    ]
    return found


def best_windows(weight: torch.Tensor) -> dict[tuple[int, int], tuple[Window, float]]:
    """Return for every size of window the place that holds most energy, and the share of energy lost."""
    energy = (weight.detach().double() ** 2).sum((0, 1)).cpu().numpy()
    total = max(float(energy.sum()), 1e-300)
    best: dict[tuple[int, int], tuple[Window, float]] = {}
    for w in windows_of(energy.shape):
        lost = max(0.0, 1 - float(energy[w.top : w.bottom, w.left : w.right].sum()) / total)
        if w.shape not in best or lost < best[w.shape][1] - 1e-15:
            best[w.shape] = (w, lost)
    return best


def choose_windows(
    model: nn.Module,
    example: torch.Tensor,
    budget: float,
    table: LatencyTable,
    *,
    loss: Callable[[str, Window], float] | None = None,
    progress: Callable[[str], None] | None = None,
) -> TapChoice:
    """Choose a window for every depthwise layer: least loss within a share ``budget`` of their measured milliseconds.

    Parameters
    ----------
    budget
        The part of the depthwise layers' milliseconds that may be used, 0 to 1.
    loss
        What a window of a layer loses; None takes the share of the kernel's energy outside of it.
    """
    names = depthwise_names(model)
    sizes = input_sizes(model, example)
    options: list[list[tuple[Window, float, LayerShape]]] = []
    for name in names:
        conv: Any = model.get_submodule(name)
        rows = []
        for shape, (window, lost) in best_windows(conv.weight).items():
            measured = LayerShape(
                "conv",
                conv.in_channels,
                conv.out_channels,
                conv.groups,
                shape,
                tuple(conv.stride),
                sizes[name],
                len(example),
            )
            value = lost if loss is None or shape == tuple(conv.kernel_size) else loss(name, window)
            rows.append((window, value, measured))
        options.append(rows)
    table.fill((row[2] for rows in options for row in rows), progress)
    most = max(len(rows) for rows in options)
    losses, costs = np.full((len(names), most), np.inf), np.zeros((len(names), most))
    for i, rows in enumerate(options):
        for k, (_, lost, measured) in enumerate(rows):
            losses[i, k], costs[i, k] = lost, table[measured]
    dense = math.fsum(costs[:, 0])
    least = math.fsum(np.where(np.isfinite(losses), costs, np.inf).min(axis=1))
    fastest = f"be at least {least / dense:.3g}, the share of the fastest windows"
    validate.require(least <= budget * dense, "budget", fastest, budget)
    nanoseconds = np.ceil(costs * 1e6).astype(np.int64)
    solution = solve(MultipleChoiceKnapsack(losses, nanoseconds, int(budget * float(nanoseconds[:, 0].sum()))))
    chosen = tuple(options[i][int(k)][0] for i, k in enumerate(solution.value))
    used = math.fsum(costs[np.arange(len(names)), np.asarray(solution.value)])
    return TapChoice(tuple(names), chosen, solution, used, dense)


def depthwise_names(model: nn.Module) -> list[str]:
    """Return the names of the depthwise convolutions whose kernel has more than one tap; ValueError without any."""
    names = [
        name
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 and m.kernel_size != (1, 1)
    ]
    has = "have a depthwise convolution of more than one tap"
    validate.require(names, "model", has, validate.Shown(type(model).__name__))
    return names


def with_windows(model: nn.Module, choice: dict[str, Window]) -> nn.Module:
    """Return a copy with windows in place of depthwise kernels; what a window leaves out is not made up for."""
    smaller = copy.deepcopy(model)
    for name, window in choice.items():
        conv: Any = smaller.get_submodule(name)
        if isinstance(conv, nn.Conv2d) and window.shape != tuple(conv.kernel_size):
            set_module(smaller, name, WindowedConv2d(conv, window))
    return smaller
