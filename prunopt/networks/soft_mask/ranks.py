"""The order in which a group's channels stay: by importance, and evenly over layers that have different parts of it."""

from __future__ import annotations

import numpy as np

from prunopt.core.arrays import Floats, Ints
from prunopt.networks.cnn.channel_groups import ChannelGroups


def covering(groups: ChannelGroups, order: Ints) -> Ints:
    """Return the fixed channels and a few more, so that every layer with channels of ``order`` keeps one.

    Whichever is in most layers that have none yet goes first, ties by the order given.
    """
    layers = [set(slot.outs.tolist()) & set(order.tolist()) for slot in groups.slots]
    chosen = [int(c) for c in order if groups.fixed[c]]
    open_ = [layer for layer in layers if layer and not layer & set(chosen)]
    while open_:
        best = max(order.tolist(), key=lambda c: sum(c in layer for layer in open_))  # the first of equals
        chosen.append(best)
        open_ = [layer for layer in open_ if best not in layer]
    return np.array(chosen, np.int64)


class Ranks:
    """Orders of one group's channels.

    Channels of the same layers make a class; most groups are one class, and go by importance alone. A shortcut that
    is filled up with zeros ties layers of different widths: there the classes take turns, each in proportion to its
    size, so that a width is the same share of every layer. (Norms of filters of different layers do not compare: by
    them alone the narrowest layers would be emptied first.) First come the channels that have to stay and as many as
    it takes to leave no layer without any. Which class is next does not depend on importance, so every width has the
    same count of channels in a layer, whatever the weights are.

    Parameters
    ----------
    groups
        Of the network.
    members
        The group's channels.
    """

    def __init__(self, groups: ChannelGroups, members: Ints) -> None:
        n = groups.n_channels
        ends = [np.bincount(end, minlength=n)[members] for slot in groups.slots for end in (slot.ins, slot.outs)]
        _, found = np.unique(np.array(ends), axis=1, return_inverse=True)
        kind = np.asarray(found).reshape(-1)
        self.fixed = groups.fixed
        self.classes = [members[kind == k] for k in range(int(kind.max()) + 1)]
        self.size = np.array([len(c) for c in self.classes])
        self.kind = np.full(n, -1)
        self.kind[members] = kind
        first = covering(groups, members)
        head = self.kind[first]
        used = np.bincount(head, minlength=len(self.size))
        turns = sorted(((k + 0.5) / size, c) for c, size in enumerate(self.size) for k in range(used[c], size))
        self.sequence = np.concatenate([head, np.array([c for _, c in turns], np.int64)]).astype(np.int64)

    def order(self, score: Floats) -> Ints:
        """Return the channels, those that stay longest first; ``score`` is by channel of the network."""
        out = np.empty(len(self.sequence), np.int64)
        for c, members in enumerate(self.classes):
            value = np.where(self.fixed[members], np.inf, score[members])
            out[self.sequence == c] = members[np.argsort(-value, kind="stable")]
        return out

    def features(self, channels: Ints, width: int) -> int:
        """Return how many of a layer's features, given by their channels, stay at a width; others do not count."""
        stay = np.bincount(self.sequence[:width], minlength=len(self.size)) / self.size
        kinds = self.kind[channels]
        return round(float(stay[kinds[kinds >= 0]].sum()))
