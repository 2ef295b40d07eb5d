"""What can be removed together: the channels of a traced network, and the layers that each of them runs through."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from prunopt.core import validate
from prunopt.core.arrays import Ints
from prunopt.networks.cnn._tracing import Layout
from prunopt.networks.cnn.channels import ChannelGroups as ChannelGroups
from prunopt.networks.cnn.channels import Slot as Slot
from prunopt.networks.cnn.channels import TensorSlot as TensorSlot
from prunopt.networks.cnn.channels import modules_of as modules_of
from prunopt.networks.cnn.cut_check import tried
from prunopt.networks.cnn.dropped_branches import branches
from prunopt.networks.cnn.inputs import Inputs, batch_of, called
from prunopt.networks.cnn.traced_groups import collected, follow
from prunopt.networks.cnn.watching import NORMS, in_evaluation, names_of, watching


def channel_groups(
    model: nn.Module, example: Any, *, groups: Iterable[Sequence[tuple[str, str]]] | None = None
) -> ChannelGroups:
    """Trace a network and find its coupled channels.

    Convolutions of any dimension (plain, grouped, depthwise, transposed), linear layers, norms and parameters that are
    multiplied with channels are cut; sums and products tie channels together, concatenations set them side by side,
    flattening repeats them, operations that only move numbers are followed number by number. Whether anything else
    treats channels one by one is found out by trying; where it does not, the channels that it touches are fixed, and
    ``pinned`` names it. A mean, a maximum or a norm over channels is one over those that are left.

    In the end one channel of every group is removed for trial, and the outputs are compared with those of the network
    whose channels are masked: groups that this does not agree for are fixed, too.

    Parameters
    ----------
    model
        A network, traced with `torch.fx`; parts whose code cannot be traced are taken as one operation.
    example : (batch, channels, height, width), or a tuple or dict of such
        An input; shapes are taken from one run.
    groups
        Channels by hand, for networks that cannot be traced: for every group the ends of layers that belong to it,
        ``[("conv1", "out"), ("bn1", "out"), ("conv2", "in")]``. Whatever is not named stays as it is.

    Raises
    ------
    ValueError
        If the network itself cannot be traced.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    inputs = batch_of(example)
    with in_evaluation(model):
        if groups is not None:
            return _by_hand(model, inputs, groups)
        found = tried(model, follow(model, inputs)[0], inputs)
        if found.pinned:
            other = tried(model, follow(model, inputs, by_numbers=True)[0], inputs)
            found = other if np.sum(~other.fixed) > np.sum(~found.fixed) else found
        return replace(found, branches=branches(model, found))


def _by_hand(model: nn.Module, example: Inputs, groups: Iterable[Sequence[tuple[str, str]]]) -> ChannelGroups:
    positions: dict[str, int] = {}
    modules = dict(model.named_modules())

    def note(name: str, _: nn.Module, out: torch.Tensor) -> None:
        positions[name] = int(np.prod(out.shape[2:])) if out.ndim > 2 else 1

    with watching(model, names_of(model, nn.Conv2d, nn.Linear, *NORMS), note), torch.no_grad():
        called(model, example)
    layout, ends = Layout(), dict[tuple[str, str], Ints]()
    for name in positions:
        module = modules[name]
        out = getattr(module, "out_channels", getattr(module, "out_features", getattr(module, "num_features", 0)))
        ends[name, "out"] = layout.fresh(int(out))
        carries = isinstance(module, NORMS)
        depthwise = isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels == module.out_channels
        size = getattr(module, "in_channels", getattr(module, "in_features", out))
        same = carries or depthwise
        ends[name, "in"] = ends[name, "out"] if same else layout.fresh(int(size))
        kind = (
            "norm" if carries else "depthwise" if depthwise else "linear" if isinstance(module, nn.Linear) else "conv"
        )
        plain = not isinstance(module, nn.Conv2d) or module.groups == 1 or depthwise
        validate.require(plain, "groups", "be traced where a convolution is grouped", name)
        layout.slots[name] = kind, ends[name, "in"], ends[name, "out"], positions[name], 1
    free: list[Ints] = []
    for row in groups:
        row = [(str(n), str(e)) for n, e in row]
        for end in row:
            known = "name modules that run, each with 'in' or 'out'"
            validate.require(end in ends, "groups", known, end)
        first = ends[row[0]]
        for end in row[1:]:
            sizes = validate.Shown(f"{len(first)} of {row[0]}, {len(ends[end])} of {end}")
            validate.require(len(ends[end]) == len(first), "groups", "tie ends of as many channels", sizes)
            layout.tie(first, ends[end])
        free.append(first)
    return collected(layout.only(free))
