"""Residual branches that are removed whole: what stays in their place, and which groups carry one.

A group of channels whose layers read and write nothing else, and whose result is added to something or multiplied with
it, is a branch. With none of its channels left, the layer behind them gives its bias everywhere: that is what the sum,
or the gate, then gets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from prunopt.core.arrays import Bools, Ints
from prunopt.networks.cnn.channels import ChannelGroups, Slot, modules_of
from prunopt.networks.cnn.watching import NORMS


class Skipped(nn.Module):
    """Stands where a convolution gave channels of which none is left: one channel of zeros, of the same places."""

    def __init__(self, stride: tuple[int, int]) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return zeros, (n, 1, height / stride, width / stride)."""
        rows, columns = self.stride
        return torch.zeros_like(x[:, :1, ::rows, ::columns])


class Through(nn.Identity):
    """Stands where a norm of removed channels was."""


class Constant(Skipped):
    """Stands where a convolution read channels of which none is left: its bias at every place."""

    def __init__(self, stride: tuple[int, int], outs: int, bias: torch.Tensor | None) -> None:
        super().__init__(stride)
        self.outs = outs
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the bias, (n, outs, height / stride, width / stride)."""
        zeros = super().forward(x).expand(-1, self.outs, -1, -1)
        return zeros if self.bias is None else zeros + self.bias[:, None, None]


def branches(model: nn.Module, groups: ChannelGroups) -> tuple[int, ...]:
    """Return the free groups that are whole branches: of a residual sum, or of a gate.

    Their layers are plain convolutions of two dimensions, depthwise ones and batch norms, each run once, with as many
    places behind them as the stride leaves; nothing else reads their channels.
    """
    modules = modules_of(model, groups)
    return tuple(g for g in groups.free if _is_branch(g, groups, modules))


def _is_branch(g: int, groups: ChannelGroups, modules: dict[str, Any]) -> bool:
    if groups.fixed[groups.members(g)].any() or any(np.any(groups.group[t.channels] == g) for t in groups.tensors):
        return False
    for slot in groups.slots:
        reads, writes = groups.group[slot.ins] == g, groups.group[slot.outs] == g
        if not (reads.any() or writes.any()):
            continue
        module = modules[slot.name]
        if slot.runs != 1 or reads.any() != reads.all() or writes.any() != writes.all():
            return False
        if slot.consumes and (reads.all() == writes.all() or not _keeps_places(module) or module.groups != 1):
            return False
        if slot.kind == "depthwise" and not _keeps_places(module):
            return False
        if slot.kind == "norm" and not isinstance(module, NORMS):
            return False
    behind: list[Ints] = [np.unique(groups.group[s.outs]) for s in groups.consumers(g)]
    return bool(behind) and all(len(groups.producers(int(b))) > 1 for some in behind for b in some)


def _keeps_places(module: Any) -> bool:
    """Whether a convolution gives a value for every place, or for every so many."""
    if not isinstance(module, nn.Conv2d) or isinstance(module.padding, str):
        return False
    sizes = zip(module.kernel_size, module.dilation, module.padding, strict=True)
    return all(2 * p == d * (k - 1) for k, d, p in sizes)


def replacement(module: Any, slot: Slot, mask: Bools) -> nn.Module | None:
    """Return what stays of a layer that reads or writes no channel that is kept; None for other layers."""
    if not mask[slot.outs].any():
        return Through() if slot.kind == "norm" else Skipped(module.stride)
    if slot.consumes and not mask[slot.ins].any():
        kept = torch.from_numpy(np.flatnonzero(mask[slot.outs]))
        bias = None if module.bias is None else module.bias.detach()[kept.to(module.bias.device)].clone()
        return Constant(module.stride, len(kept), bias)
    return None


def description(module: nn.Module) -> dict[str, Any] | None:
    """Return what `from_description` needs, for JSON; None for modules of other kinds."""
    if isinstance(module, Constant):
        return {"dropped": "constant", "stride": list(module.stride), "out": module.outs,
                "bias": module.bias is not None}  # fmt: skip
    if isinstance(module, Skipped):
        return {"dropped": "skipped", "stride": list(module.stride)}
    return {"dropped": "through"} if isinstance(module, Through) else None


def from_description(shape: dict[str, Any]) -> nn.Module:
    """Return the module that `description` describes, a bias in it zero."""
    if shape["dropped"] == "through":
        return Through()
    rows, columns = map(int, shape["stride"])
    if shape["dropped"] == "skipped":
        return Skipped((rows, columns))
    return Constant((rows, columns), int(shape["out"]), torch.zeros(int(shape["out"])) if shape["bias"] else None)
