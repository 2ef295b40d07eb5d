"""The order in which a group's channels go, and what an importance has to give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import nn

from prunopt.core.arrays import Floats, Ints
from prunopt.networks.cnn.channel_groups import ChannelGroups
from prunopt.networks.cnn.inputs import Inputs
from prunopt.networks.cnn.watching import silent

Progress = Callable[[str], None]
BATCH = 16  # pictures


@dataclass(frozen=True, eq=False)
class Ranking:
    """A group's channels in the order in which they go, and the layers' relative error after 0, 1, 2, ... of them."""

    group: int
    order: Ints
    error: Floats


@dataclass(frozen=True, eq=False)
class Candidates:
    """The ``chosen`` groups of a network, whose free channels are ranked on pictures."""

    model: nn.Module
    groups: ChannelGroups
    chosen: Sequence[int]
    pictures: Inputs
    seed: int = 0
    progress: Progress = silent


class Importance(Protocol):
    """Anything that ranks the free channels of groups."""

    def rank(self, at: Candidates) -> list[Ranking]:
        """Return a ranking for each of the ``chosen`` groups."""


def free_channels(groups: ChannelGroups, group: int) -> Ints:
    """Return the channels of a group that may be removed."""
    members = groups.members(group)
    return members[~groups.fixed[members]]


def by_score(at: Candidates, scores: Floats) -> list[Ranking]:
    """Rank channels by a score of their own, the least first; the error is the share of the group's scores removed."""
    out = []
    for g in at.chosen:
        free = free_channels(at.groups, g)
        order = free[np.argsort(scores[free], kind="stable")]
        total = max(float(scores[at.groups.members(g)].sum()), 1e-300)
        out.append(Ranking(g, order, np.r_[0.0, np.cumsum(scores[order])] / total))
    return out
