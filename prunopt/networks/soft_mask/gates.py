"""A network with gates on its channels: soft gates in place, the hard network as a smaller one on the same weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunopt.core.arrays import Bools, Ints
from prunopt.networks.cnn.channel_groups import ChannelGroups, Slot, modules_of
from prunopt.networks.cnn.surgery import remove_channels
from prunopt.networks.cnn.watching import NORMS
from prunopt.networks.soft_mask.ranks import Ranks

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class GatedNetwork:
    """Gates in front of every layer that mixes channels, so that a closed channel gives nothing to anyone.

    The soft network is the model itself, its gates multiplying; the hard network has gates of 0 and 1. Both use the
    same weights; the hard one has batch norm statistics of its own. The hard network runs in one of two ways, with
    the same results: ``"removed"``, on slices of the weights, which costs no more than the smaller network; or
    ``"masked"``, in the model's own shape, which passes gradients to the gates of closed channels too and never
    changes a shape under `torch.compile`.

    Parameters
    ----------
    model
        Gates are put in as forward pre-hooks; `close` removes them.
    groups
        Of the model.
    chosen
        The groups with gates.
    """

    def __init__(self, model: nn.Module, groups: ChannelGroups, chosen: Sequence[int]) -> None:
        self.model, self.groups, self.chosen = model, groups, list(chosen)
        self.modules = modules_of(model, groups)
        self.gates: dict[str, Tensor] = {}
        self.norms = {n: m for n, m in model.named_modules() if isinstance(m, NORMS) and m.track_running_stats}
        self.hard_statistics = {
            name: {k: getattr(m, k).clone() for k in STATISTICS if getattr(m, k) is not None}
            for name, m in self.norms.items()
        }
        self._shell: nn.Module | None = None
        self._places: list[tuple[str, dict[str, Any], dict[str, Any], str]] = []
        self._shape: bytes = b""
        self._cuts: dict[str, tuple[tuple[int, Tensor], ...]] = {}
        self._clean = copy.deepcopy(model)  # without hooks
        self._gated = [
            slot for slot in groups.slots if slot.consumes and np.isin(groups.group[slot.ins], self.chosen).any()
        ]
        self.orders = [Ranks(groups, groups.members(g)) for g in self.chosen]
        # Channels in order of their group and rank, then back: one gather makes all gates of one vector.
        self.ranks = self.ranking()
        self._handles = [self.modules[s.name].register_forward_pre_hook(self._hook(s.name)) for s in self._gated]

    def close(self) -> None:
        """Take the gates out; the model is the plain one again."""
        for handle in self._handles:
            handle.remove()
        self.gates = {}

    def _hook(self, name: str) -> Any:
        def gate(module: nn.Module, args: tuple[Any, ...]) -> Any:
            mask = self.gates.get(name)
            if mask is None:
                return None
            x = args[0]
            wide = mask.to(x.dtype)
            if isinstance(module, nn.Conv2d):
                wide = wide[:, None, None]
            return (x * wide, *args[1:])

        return gate

    @torch.no_grad()
    def ranking(self) -> list[Ints]:
        r"""Return the channels of every chosen group, most important first: the filters' 1-norm, mean over layers.

        Channels that cannot be removed come before all others; see `Ranks`.
        """
        n = self.groups.n_channels
        total, layers = np.zeros(n), np.zeros(n)
        for slot in self.groups.slots:
            if slot.kind == "norm":
                continue
            weight: Any = self.modules[slot.name].weight
            sums = weight.detach().abs().flatten(1).sum(dim=1).double().cpu().numpy()
            np.add.at(total, slot.outs, sums)
            np.add.at(layers, slot.outs, 1.0)
        score = total / np.maximum(layers, 1)
        return [ranks.order(score) for ranks in self.orders]

    def rerank(self) -> None:
        """Order the channels by the weights as they are now."""
        self.ranks = self.ranking()

    def keep(self, widths: Sequence[int]) -> Bools:
        """Return which channels stay at these widths."""
        mask = np.ones(self.groups.n_channels, np.bool_)
        for order, width in zip(self.ranks, widths, strict=True):
            mask[order[width:]] = False
        return mask

    def open(self, points: Sequence[Tensor] | None) -> None:
        """Set the gates to points, one vector a group in order of rank; None opens all."""
        if points is None:
            self.gates = {}
            return
        flat = torch.cat([*(z.reshape(-1) for z in points), points[0].new_ones(1)])
        at = np.full(self.groups.n_channels, len(flat) - 1)
        start = 0
        for order in self.ranks:
            at[order] = start + np.arange(len(order))
            start += len(order)
        device = next(self.model.parameters()).device
        wide = flat.to(device)
        self.gates = {s.name: wide[torch.from_numpy(at[s.ins]).to(device)] for s in self._gated}

    def soft(self, x: Any, points: Sequence[Tensor]) -> Any:
        """Run the soft network."""
        self.open(points)
        return self.model(x)

    def masked(self, x: Any, points: Sequence[Tensor]) -> Any:
        """Run the hard network in the model's own shape, gates at ``points``."""
        self.open(points)
        with self.hard_norms():
            return self.model(x)

    @contextmanager
    def hard_norms(self) -> Iterator[None]:
        """Let the model's batch norms use the hard network's statistics."""
        held = {name: {k: m._buffers[k] for k in self.hard_statistics[name]} for name, m in self.norms.items()}
        for name, module in self.norms.items():
            module._buffers.update(self.hard_statistics[name])
        try:
            yield
        finally:
            for name, module in self.norms.items():
                self.hard_statistics[name] = {k: module._buffers[k] for k in held[name]}
                module._buffers.update(held[name])

    def removed(self, x: Any, widths: Sequence[int]) -> Any:
        """Run the hard network as the smaller one, on slices of the model's weights."""
        self._shrink(self.keep(widths))
        assert self._shell is not None
        shell = self._shell
        if shell.training != self.model.training:
            shell.train(self.model.training)
        statistics = self.statistics()
        tensors: dict[str, Tensor] = {}
        # What `functional_call` does, without looking for every name in every step.
        for name, of_model, of_shell, key in self._places:
            tensor = statistics.get(name, of_model[key])
            for dim, at in self._cuts.get(name, ()):
                tensor = tensor.index_select(dim, at)
            tensors[name] = of_shell[key] = tensor
        try:
            out = shell(x)
        finally:
            for _, of_model, of_shell, key in self._places:
                of_shell[key] = of_model[key]  # the shell holds no graph
        if self.model.training:
            self._write_back(tensors)
        return out

    @torch.no_grad()
    def _write_back(self, tensors: Mapping[str, Tensor]) -> None:
        for norm, values in self.hard_statistics.items():
            for k, whole in values.items():
                name = f"{norm}.{k}"
                for _, at in self._cuts.get(name, ()):
                    values[k] = whole.index_copy(0, at, tensors[name].detach())

    def _shrink(self, keep: Bools) -> None:
        """Make the shell fit a choice of channels; weights are sliced when it runs."""
        if self._shell is not None and keep.tobytes() == self._shape:
            return
        mask = self.groups.checked(keep)
        if self._shell is None:
            self._shell = copy.deepcopy(self._clean)
            for (name, module), shell in zip(self.model.named_modules(), self._shell.modules(), strict=True):
                prefix = name + "." if name else ""
                for own, other in ((module._parameters, shell._parameters), (module._buffers, shell._buffers)):
                    self._places += [(prefix + k, own, other, k) for k, v in own.items() if v is not None]
        shells = modules_of(self._shell, self.groups)
        device = next(self.model.parameters()).device
        self._cuts = {}
        for slot in self.groups.slots:
            self._cut(slot, shells[slot.name], self.modules[slot.name], mask[slot.ins], mask[slot.outs], device)
        self._shape = keep.tobytes()

    def _cut(self, slot: Slot, shell: Any, module: Any, ins: Bools, outs: Bools, device: torch.device) -> None:
        out_at = None if outs.all() else torch.from_numpy(np.flatnonzero(outs)).to(device)
        if slot.kind == "grouped":
            ins = ins.reshape(module.groups, -1)[0]
        in_at = None if ins.all() or not slot.consumes else torch.from_numpy(np.flatnonzero(ins)).to(device)
        if out_at is not None:
            for k in ("weight", "bias", "running_mean", "running_var"):
                if isinstance(getattr(module, k, None), Tensor):
                    self._cuts[f"{slot.name}.{k}"] = ((0, out_at),)
        if in_at is not None:
            self._cuts[f"{slot.name}.weight"] = (*self._cuts.get(f"{slot.name}.weight", ()), (1, in_at))
        if slot.kind == "depthwise":
            shell.groups = int(ins.sum())
        if slot.kind in ("conv", "depthwise"):
            shell.in_channels, shell.out_channels = int(ins.sum()), int(outs.sum())
        if slot.kind == "norm":
            shell.num_features = int(outs.sum())

    def extract(self, widths: Sequence[int]) -> nn.Module:
        """Return the hard network as a module of its own, smaller, with its own batch norm statistics."""
        plain = copy.deepcopy(self._clean)
        state = dict(self.model.state_dict())
        for norm, values in self.hard_statistics.items():
            state |= {f"{norm}.{k}": v for k, v in values.items()}
        plain.load_state_dict(state)
        plain.train(self.model.training)
        return remove_channels(plain.to(next(self.model.parameters()).device), self.groups, self.keep(widths))

    def statistics(self) -> dict[str, Tensor]:
        """Return the hard network's batch norm statistics by name."""
        return {f"{n}.{k}": v for n, values in self.hard_statistics.items() for k, v in values.items()}

    def restore_statistics(self, state: Mapping[str, Tensor]) -> None:
        """Set the hard network's batch norm statistics."""
        for norm, values in self.hard_statistics.items():
            for k, old in values.items():
                values[k] = state[f"{norm}.{k}"].to(old.device).clone()
