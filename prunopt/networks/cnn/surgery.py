"""Cutting channels out of a network's weights, for good or for show."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from prunopt.core.arrays import Bools
from prunopt.core.extras import require
from prunopt.core.files import write_atomically
from prunopt.networks.cnn.channel_groups import ChannelGroups, Slot, modules_of


def remove_channels(model: nn.Module, groups: ChannelGroups, keep: ArrayLike) -> nn.Module:
    """Return a copy of the network without the channels that ``keep`` does not keep: smaller weights, no masks.

    A removed channel gives nothing to the layers that read it: the network equals the one whose activations are
    multiplied by 0 there, after the nonlinearity, batch norm's bias included.

    Parameters
    ----------
    groups
        `channel_groups` of the network.
    keep : (channels,) bool
        True for the channels that stay.
    """
    mask = groups.checked(keep)
    smaller = copy.deepcopy(model)
    modules = modules_of(smaller, groups)
    for slot in groups.slots:
        cut_slot(modules[slot.name], slot, mask[slot.ins], mask[slot.outs])
    return smaller


def cut_slot(module: Any, slot: Slot, ins: Bools, outs: Bools) -> None:
    """Cut one module's parameters and buffers in place; ``ins`` and ``outs`` are True for what stays."""
    out_at, in_at = torch.from_numpy(np.flatnonzero(outs)), torch.from_numpy(np.flatnonzero(ins))
    if slot.kind == "norm":
        for name in ("weight", "bias", "running_mean", "running_var"):
            _cut(module, name, 0, out_at)
        module.num_features = len(out_at)
        return
    _cut(module, "weight", 0, out_at)
    _cut(module, "bias", 0, out_at)
    if slot.kind == "linear":
        _cut(module, "weight", 1, in_at)
        module.in_features, module.out_features = len(in_at), len(out_at)
        return
    if slot.kind == "conv":
        _cut(module, "weight", 1, in_at)
    elif slot.kind == "depthwise":
        module.groups = len(in_at)
    else:
        per_group = np.flatnonzero(ins.reshape(module.groups, -1)[0])
        _cut(module, "weight", 1, torch.from_numpy(per_group))
    module.in_channels, module.out_channels = len(in_at), len(out_at)


def _cut(module: Any, name: str, dim: int, at: torch.Tensor) -> None:
    tensor = getattr(module, name, None)
    if tensor is None or tensor.shape[dim] == len(at):
        return
    smaller = tensor.detach().index_select(dim, at.to(tensor.device)).contiguous()
    if isinstance(tensor, nn.Parameter):
        setattr(module, name, nn.Parameter(smaller, requires_grad=tensor.requires_grad))
    else:
        setattr(module, name, smaller)


def onnx_file(model: nn.Module, example: torch.Tensor, path: Any) -> None:
    """Write a network as ONNX, whole or not at all.

    Raises
    ------
    ImportError
        If the extra ``onnx`` is missing.
    """
    require("onnx")
    with write_atomically(path) as temporary, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracing exporter is called deprecated; the other one needs onnxscript
        torch.onnx.export(
            copy.deepcopy(model).eval(),
            (example,),
            str(temporary),
            dynamo=False,
            opset_version=17,
            input_names=["input"],
            output_names=["output"],
        )
