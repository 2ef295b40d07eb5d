"""One forward pass after a cut, compared with the network whose channels are masked; no code of the cut is shared."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.fx
from torch import nn

from prunopt.core import validate
from prunopt.core.arrays import Bools, Ints
from prunopt.networks.cnn._following import Follower
from prunopt.networks.cnn._labels import varying
from prunopt.networks.cnn._tracing import is_layer_norm
from prunopt.networks.cnn.channels import ChannelGroups
from prunopt.networks.cnn.inputs import Batch, Inputs, called, tensors_of
from prunopt.networks.cnn.surgery import remove_channels
from prunopt.networks.cnn.traced_groups import follow
from prunopt.networks.cnn.watching import CONVOLUTIONS

TOLERANCE = 1e-5


class _Masked(torch.fx.Interpreter):
    """Runs the dense network; what reads a removed channel reads zeros, means and norms are over what is kept."""

    def __init__(self, run: Follower, channel: Ints, keep: Bools) -> None:
        super().__init__(run.module)
        self.run_, self.channel, self.keep = run, torch.from_numpy(channel), torch.from_numpy(keep)

    def run_node(self, n: torch.fx.Node) -> Any:
        if n in self.run_.reduced:
            x, axis = self._first(n), self.run_.reduced[n]
            kept = x.index_select(axis, self._kept(n, axis))
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            return getattr(self, n.op)(n.target, (kept, *args[1:]), kwargs)
        module = self.module.get_submodule(str(n.target)) if n.op == "call_module" else None
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)) and self._labels(n) is not None:
            x = self._first(n)
            mask = self.keep[self.channel[self._labels(n)]]
            return module(x * mask.to(x.dtype))
        grouped = isinstance(module, nn.GroupNorm)
        if module is not None and (grouped or isinstance(module, nn.LayerNorm) or is_layer_norm(module)):
            labels = self._labels(n)
            axes = varying(self.channel[labels]) if labels is not None else []
            if len(axes) == 1 and len(self._kept(n, axes[0])) < labels.shape[axes[0]]:
                groups = int(module.num_groups) if isinstance(module, nn.GroupNorm) else 1
                if isinstance(module, nn.GroupNorm) and groups == module.num_channels:
                    groups = len(self._kept(n, 1))
                return self._norm(module, n, axes[0], groups, grouped)
        return super().run_node(n)

    def _first(self, n: torch.fx.Node) -> Any:
        return self.env[n.all_input_nodes[0]]

    def _labels(self, n: torch.fx.Node) -> Any:
        return self.run_.labels.get(n.all_input_nodes[0])

    def _kept(self, n: torch.fx.Node, axis: int) -> torch.Tensor:
        row = self.channel[self._labels(n)].movedim(axis, 0).flatten(1)[:, 0]
        return torch.nonzero(self.keep[row])[:, 0]

    def _norm(self, module: Any, n: torch.fx.Node, axis: int, groups: int, over_places: bool) -> torch.Tensor:
        x, at = self._first(n), self._kept(n, axis)
        kept = x.index_select(axis, at).movedim(axis, 1)
        rows = kept.reshape(kept.shape[0], groups, -1, *kept.shape[2:])
        dims = tuple(range(2, rows.ndim)) if over_places else (2,)
        mean, variance = rows.mean(dims, keepdim=True), rows.var(dims, correction=0, keepdim=True)
        normed = ((rows - mean) * (variance + module.eps).rsqrt()).reshape(kept.shape)
        shape = (1, -1, *[1] * (kept.ndim - 2))
        for part, multiply in ((module.weight, True), (getattr(module, "bias", None), False)):
            if part is not None:
                own = part[at].reshape(shape)
                normed = normed * own if multiply else normed + own
        return torch.zeros_like(x).index_copy(axis, at, normed.movedim(1, axis))


def deviation(model: nn.Module, smaller: nn.Module, groups: ChannelGroups, keep: Bools, example: Inputs) -> str | None:
    """Return what is wrong with a cut, None if nothing is: it does not run, or not as the masked network does.

    Both run in double precision where they can. The user's networks stay as they are.
    """
    for wide in (True, False):
        dense, cut, x = (_copied(v, wide) for v in (model, smaller, example))
        try:
            with torch.no_grad():
                called(dense, x)
        except Exception:
            if wide:  # a type that is written down
                continue
        break
    with torch.no_grad():
        where: list[str] = []
        try:
            found = called(_named(cut, where), x)
        except Exception as error:  # whatever the network's own code does with another width
            return f"{where[-1] if where else 'the network'} does not run: {str(error).splitlines()[0]}"
        try:
            _, run, channel = follow(dense, x, by_numbers=groups.by_numbers)
        except ValueError:
            return None
        if len(channel) == 0 or channel.max() + 1 != len(keep):
            return None  # groups by hand, numbered otherwise
        wanted = _Masked(run, channel, keep).run(*(x.arguments if isinstance(x, Batch) else (x,)))
    for a, b in zip(tensors_of(found), tensors_of(wanted), strict=True):
        if a.shape != b.shape:
            return f"outputs of shape {tuple(a.shape)} instead of {tuple(b.shape)}"
        scale = max(1.0, float(b.abs().max())) if b.numel() else 1.0
        limit = TOLERANCE if a.dtype in (torch.float32, torch.float64) else 1e-2
        off = float((a.double() - b.double()).abs().max()) / scale if b.numel() else 0.0
        if not off <= limit:
            return f"outputs are off by {off:.2g} of their size"
    return None


def refuse_wrong(model: nn.Module, smaller: nn.Module, groups: ChannelGroups, keep: Bools, example: Inputs) -> None:
    """Refuse a cut after which the network does not run, or not as the masked one does.

    A network whose code cannot be traced, cut by hand, only has to run.
    """
    wrong = deviation(model, smaller, groups, keep, example)
    if wrong is not None:
        mend = "fix the layers around it: Widths(groups=channel_groups(model, example).only(...))"
        raise validate.invalid("model", "give the masked network's outputs after the cut", validate.Shown(wrong), mend)


def tried(model: nn.Module, groups: ChannelGroups, example: Inputs) -> ChannelGroups:
    """Return the groups with those fixed that do not stand the removal of a channel, each named in ``pinned``."""
    wrong = _trial(model, groups, groups.free, example)
    if wrong is None:
        return groups
    bad = {g: why for g in groups.free if (why := _trial(model, groups, [g], example)) is not None}
    good = [g for g in groups.free if g not in bad]
    together = _trial(model, groups, good, example)
    while good and together is not None:  # each alone does, all do not
        bad[good.pop()] = together
        together = _trial(model, groups, good, example)
    notes = tuple(f"{groups.name_of(g)!r}, after whose cut {why}" for g, why in bad.items())
    return replace(groups.only(good), pinned=(*groups.pinned, *notes))


def _trial(model: nn.Module, groups: ChannelGroups, chosen: list[int], example: Inputs) -> str | None:
    keep = np.ones(groups.n_channels, np.bool_)
    for g in chosen:
        members = groups.members(g)
        free = members[~groups.fixed[members]]
        if len(members) > 1:
            keep[free[: 1 if len(free) < len(members) else min(1, len(free) - 1)]] = False
    if keep.all():
        return None
    return deviation(model, remove_channels(model, groups, keep), groups, keep, example)


def _copied(value: Any, wide: bool) -> Any:
    if isinstance(value, nn.Module):
        twin = copy.deepcopy(value)
        return twin.double() if wide else twin
    if isinstance(value, Batch):
        return value.map(lambda t: _copied(t, wide))
    return value.double() if wide and value.is_floating_point() else value.clone()


def _named(model: nn.Module, where: list[str]) -> nn.Module:
    """Let a network write down where it is: the innermost module that runs stands last."""
    for name, module in model.named_modules():
        if name:
            shown = f"module {name!r} ({type(module).__name__})"
            module.register_forward_pre_hook(lambda _, __, shown=shown: where.append(shown))
            module.register_forward_hook(lambda _, __, ___, shown=shown: where.remove(shown))
    return model
