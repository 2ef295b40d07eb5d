"""What can be removed together: the channels of a traced network, and the layers that each of them runs through."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from prunopt.core import validate
from prunopt.core.arrays import Bools, Ints
from prunopt.networks.cnn._following import Follower, followed
from prunopt.networks.cnn._tracing import Layout, traced
from prunopt.networks.cnn.inputs import Batch, Inputs, batch_of, called
from prunopt.networks.cnn.watching import NORMS, names_of, watching

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True, eq=False)
class Slot:
    """One layer, and the channels at its two ends.

    Parameters
    ----------
    name, kind
        Name of the module; ``"conv"``, ``"depthwise"``, ``"grouped"``, ``"linear"`` or ``"norm"`` (whatever has numbers
        of its own for every channel).
    ins, outs : int arrays
        The channel of every input and of every output feature. For depthwise convolutions and norms both are alike
        (up to a channel multiplier); a linear layer behind a flattening has each channel many times in ``ins``.
    positions
        Output pixels of one image, of all runs together.
    runs
        How often the module runs.
    """

    name: str
    kind: str
    ins: Ints
    outs: Ints
    positions: int
    runs: int = 1

    @property
    def consumes(self) -> bool:
        """Whether it mixes its inputs: a removed channel only has to be cut from its weights."""
        return self.kind in ("conv", "grouped", "linear")


@dataclass(frozen=True, eq=False)
class TensorSlot:
    """A parameter or buffer that an operation of the network's own code reads, and the channels along its ``axis``."""

    name: str
    axis: int
    channels: Ints


@dataclass(frozen=True, eq=False)
class ChannelGroups:
    """The channels of a network: which features are one channel, which channels are cut by the same layers.

    Parameters
    ----------
    slots
        The layers with weights, in the order in which they run.
    group : (channels,) int
        The group of each channel: channels of one group lie side by side in the same tensors.
    fixed : (channels,) bool
        Channels that have to stay: the network's input and output, padding, and whatever is added to them.
    tensors
        Parameters outside of these layers that are cut with their channels, such as a layer scale.
    pinned
        Operations that are not followed: the channels that they touch are fixed.
    by_numbers
        Sizes that are written as numbers were taken to follow the cut, as those read from a layer do; a trial says so.
    """

    slots: tuple[Slot, ...]
    group: Ints
    fixed: Bools
    tensors: tuple[TensorSlot, ...] = ()
    pinned: tuple[str, ...] = ()
    by_numbers: bool = False

    @property
    def n_channels(self) -> int:
        """Number of channels, fixed ones included."""
        return len(self.group)

    @cached_property
    def free(self) -> list[int]:
        """The groups of which something can be removed."""
        free: list[int] = sorted(set(self.group[~self.fixed].tolist()))
        return free

    def only(self, groups: Iterable[int]) -> ChannelGroups:
        """Return the same channels, with those of all other groups fixed."""
        return replace(self, fixed=self.fixed | ~np.isin(self.group, list(groups)))

    def members(self, group: int) -> Ints:
        """Return the channels of a group."""
        return np.flatnonzero(self.group == group)

    def producers(self, group: int) -> list[Slot]:
        """Return the layers whose outputs begin channels of the group (norms and depthwise layers pass them on)."""
        return [s for s in self.slots if s.consumes and np.any(self.group[s.outs] == group)]

    def consumers(self, group: int) -> list[Slot]:
        """Return the layers that mix the group's channels into others."""
        return [s for s in self.slots if s.consumes and np.any(self.group[s.ins] == group)]

    def carriers(self, group: int) -> list[Slot]:
        """Return the norms and depthwise layers that channels of the group run through."""
        return [s for s in self.slots if not s.consumes and np.any(self.group[s.outs] == group)]

    def name_of(self, group: int) -> str:
        """Return a name for people: the first layer that produces the group."""
        made = self.producers(group)
        return made[0].name if made else f"group {group}"

    def to_networkx(self) -> nx.MultiGraph[int]:
        """Return groups as nodes and layers between two of them as edges with the attribute ``slot``."""
        import networkx as nx

        graph: nx.MultiGraph[int] = nx.MultiGraph()
        for g in sorted(set(self.group.tolist())):
            members = self.members(g)
            graph.add_node(g, channels=len(members), free=int(np.count_nonzero(~self.fixed[members])))
        for slot in self.slots:
            if slot.consumes:
                for a in sorted(set(self.group[slot.ins].tolist())):
                    for b in sorted(set(self.group[slot.outs].tolist())):
                        graph.add_edge(a, b, slot=slot.name)
        return graph

    def checked(self, keep: Any) -> Bools:
        """Return ``keep``, a bool for every channel, after a check that fixed channels and one of each group stay."""
        mask = validate.bools("keep", keep, self.group.shape)
        for channel in np.flatnonzero(self.fixed & ~mask)[:1]:
            where = validate.Shown(f"channel {channel} of {self.name_of(int(self.group[channel]))!r} removed")
            validate.refuse("keep", "keep the fixed channels", where)
        for g in sorted(set(self.group.tolist())):
            kept = mask[self.members(g)].any()
            validate.require(kept, "keep", "keep a channel of every group", f"none of {self.name_of(g)}")
        return mask


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
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        if groups is not None:
            return _by_hand(model, inputs, groups)
        from prunopt.networks.cnn.cut_check import tried

        found = tried(model, follow(model, inputs)[0], inputs)
        if not found.pinned:
            return found
        other = tried(model, follow(model, inputs, by_numbers=True)[0], inputs)
        return other if np.sum(~other.fixed) > np.sum(~found.fixed) else found
    finally:
        for module, mode in modes.items():
            module.training = mode


def follow(model: nn.Module, example: Inputs, *, by_numbers: bool = False) -> tuple[ChannelGroups, Follower, Ints]:
    """Trace a network without a trial; return the channels, what followed them, and the channel of every label."""
    by_hand = (
        "pass groups by hand, in Python: prune_cnn(..., widths=Widths(groups=channel_groups(model, example, "
        "groups=[[('conv1', 'out'), ('bn1', 'out'), ('conv2', 'in')], ...])))"
    )
    given = len(example.arguments) if isinstance(example, Batch) else 1
    errors: list[Exception] = []
    for shapes, numbers in ((None, False), (example, False), (example, True)):
        try:
            graph = traced(model, given, shapes, numbers=numbers)
            break
        except Exception as raised:  # torch.fx raises whatever the model's own code does with a proxy
            errors.append(raised)
    else:
        error = errors[0]
        place = f" in {error.__notes__[-1]!r}" if getattr(error, "__notes__", [""])[-1] else ""
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        failed = f"{type(model).__name__}, which torch.fx cannot trace{place} ({why})"
        raise ValueError(f"model must be traceable, got {failed}; {by_hand}") from error
    layout = Layout()
    graph.meta["numbers"] = by_numbers or graph.meta["numbers"]
    run = followed(graph, example, layout)
    groups = replace(_collected(layout), by_numbers=by_numbers)
    return groups, run, layout.settled()[0]


def _collected(layout: Layout) -> ChannelGroups:
    channel, group, fixed = layout.settled()
    slots = tuple(
        Slot(name, kind, channel[ins], channel[outs], positions, runs)
        for name, (kind, ins, outs, positions, runs) in layout.slots.items()
    )
    tensors = tuple(TensorSlot(name, axis, channel[row.numpy()]) for name, (row, axis) in layout.tensors.items())
    return ChannelGroups(slots, group, fixed, tensors, tuple(dict.fromkeys(layout.pinned)))


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
    return _collected(layout.only(free))


def modules_of(model: nn.Module, groups: ChannelGroups) -> dict[str, nn.Module]:
    """Return the modules of all slots by name."""
    return {slot.name: operator.attrgetter(slot.name)(model) for slot in groups.slots}
