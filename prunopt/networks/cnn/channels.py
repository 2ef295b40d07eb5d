"""Channels of a network: which features are one channel, which layers it runs through."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from prunopt.core import validate
from prunopt.core.arrays import Bools, Ints

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
    branches
        Groups that are branches of a residual sum: all of their channels may go.
    by_numbers
        Sizes that are written as numbers were taken to follow the cut, as those read from a layer do; a trial says so.
    """

    slots: tuple[Slot, ...]
    group: Ints
    fixed: Bools
    tensors: tuple[TensorSlot, ...] = ()
    pinned: tuple[str, ...] = ()
    branches: tuple[int, ...] = ()
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
        """Return ``keep``, a bool for every channel, checked: fixed channels stay, one of each group but branches."""
        mask = validate.bools("keep", keep, self.group.shape)
        for channel in np.flatnonzero(self.fixed & ~mask)[:1]:
            where = validate.Shown(f"channel {channel} of {self.name_of(int(self.group[channel]))!r} removed")
            validate.refuse("keep", "keep the fixed channels", where)
        for g in sorted(set(self.group.tolist())):
            kept = mask[self.members(g)].any() or g in self.branches
            validate.require(kept, "keep", "keep a channel of every group", f"none of {self.name_of(g)}")
        return mask


def modules_of(model: nn.Module, groups: ChannelGroups) -> dict[str, nn.Module]:
    """Return the modules of all slots by name."""
    return {slot.name: operator.attrgetter(slot.name)(model) for slot in groups.slots}
