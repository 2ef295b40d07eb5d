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
from prunopt.networks.cnn.channels import ChannelGroups, Slot, modules_of
from prunopt.networks.cnn.dropped_branches import replacement
from prunopt.networks.cnn.watching import TRANSPOSED, set_module


def remove_channels(model: nn.Module, groups: ChannelGroups, keep: ArrayLike) -> nn.Module:
    """Return a copy of the network without the channels that ``keep`` does not keep: smaller weights, no masks.

    A removed channel gives nothing to the layers that read it: the network equals the one whose activations are
    multiplied by 0 there, after the nonlinearity, batch norm's bias included. Of a branch without channels the bias of
    its last layer stays.

    Parameters
    ----------
    groups
        `channel_groups` of the network.
    keep : (channels,) bool
        True for the channels that stay.
    """
    mask = groups.checked(keep)
    smaller = copy.deepcopy(model)
    modules, shared = modules_of(smaller, groups), dict[int, nn.Parameter]()
    for slot in groups.slots:
        other = replacement(modules[slot.name], slot, mask)
        if other is not None:
            set_module(smaller, slot.name, other.train(modules[slot.name].training))
            continue
        cut_slot(modules[slot.name], slot, mask[slot.ins], mask[slot.outs], shared)
    for tensor in groups.tensors:
        where, _, name = tensor.name.rpartition(".")
        _cut(smaller.get_submodule(where), name, tensor.axis, torch.from_numpy(np.flatnonzero(mask[tensor.channels])))
    return smaller


def cut_slot(module: Any, slot: Slot, ins: Bools, outs: Bools, shared: dict[int, nn.Parameter] | None = None) -> None:
    """Cut one module's parameters and buffers in place; ``ins`` and ``outs`` are True for what stays.

    ``shared`` holds parameters that are cut already, by what they were: layers that share one share it afterwards.
    """
    out_at, in_at = torch.from_numpy(np.flatnonzero(outs)), torch.from_numpy(np.flatnonzero(ins))
    cuts: dict[str, list[tuple[int, torch.Tensor]]] = {"weight": [(0, out_at)], "bias": [(0, out_at)]}
    if slot.kind == "norm":
        cuts |= {name: [(0, out_at)] for name in ("running_mean", "running_var")}
        resize_norm(module, len(out_at))
    elif slot.kind == "linear":
        cuts["weight"] += [(1, in_at)]
        module.in_features, module.out_features = len(in_at), len(out_at)
    else:
        transposed = isinstance(module, TRANSPOSED)
        if slot.kind == "conv":
            cuts["weight"] = [(int(transposed), out_at), (int(not transposed), in_at)]
        elif slot.kind == "depthwise":
            module.groups = len(in_at)
            if transposed:
                cuts["weight"] = [(0, in_at)]
        else:
            cuts["weight"] += [(1, torch.from_numpy(np.flatnonzero(ins.reshape(module.groups, -1)[0])))]
        module.in_channels, module.out_channels = len(in_at), len(out_at)
    for name, parts in cuts.items():
        old: Any = getattr(module, name, None)
        done = shared.get(id(old)) if shared is not None else None
        if done is not None:
            setattr(module, name, done)
            continue
        for dim, at in parts:
            _cut(module, name, dim, at)
        new = getattr(module, name, None)
        if shared is not None and new is not old and isinstance(new, nn.Parameter):
            shared[id(old)] = new
            shared[-id(old)] = old  # held, so that nothing else gets its number


def norm_width(module: Any) -> int:
    """Return the number of channels that a norm, or another layer with numbers for each of them, is made for."""
    names = ("num_features", "num_channels", "num_parameters")
    sizes = [getattr(module, name) for name in names if hasattr(module, name)]
    return int(sizes[0] if sizes else module.normalized_shape[-1])


def resize_norm(module: Any, width: int) -> None:
    """Say for how many channels a norm is."""
    if norm_width(module) == width:
        return
    if getattr(module, "num_groups", None) == getattr(module, "num_channels", 0):
        module.num_groups = width
    for name in ("num_features", "num_channels", "num_parameters"):
        if hasattr(module, name):
            setattr(module, name, width)
    if hasattr(module, "normalized_shape"):
        module.normalized_shape = type(module.normalized_shape)((width,))


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
