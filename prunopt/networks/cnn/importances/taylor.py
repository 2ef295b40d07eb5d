"""Importance by the first-order Taylor expansion of the loss [1]_.

References
----------
.. [1] P. Molchanov, S. Tyree, T. Karras, T. Aila, J. Kautz, "Pruning convolutional neural networks for resource
   efficient inference", ICLR 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from prunopt.networks.cnn.importances.ranking import BATCH, Candidates, Ranking, by_score
from prunopt.networks.cnn.inputs import Inputs, called, split, tensors_of
from prunopt.networks.cnn.watching import watching


@dataclass(frozen=True)
class Taylor:
    r"""The sum over layers and pictures of :math:`|x \, \partial L / \partial x|` of a channel x.

    L is the cross-entropy under the network's own labels; where the outputs are others than (n, classes), half their
    squared size.
    """

    def rank(self, at: Candidates) -> list[Ranking]:
        """Rank the free channels of groups."""
        model, scores = at.model, np.zeros(at.groups.n_channels)
        held: dict[str, torch.Tensor] = {}
        readers = [slot for slot in at.groups.slots if slot.consumes]

        def keep(name: str, _: nn.Module, x: torch.Tensor) -> None:
            held[name] = x
            x.retain_grad()

        model.eval()
        with watching(model, [slot.name for slot in readers], keep, inputs=True):
            for x in split(at.pictures, BATCH):
                torch.autograd.backward(own_loss(called(model, with_slope(x))))
                for slot in readers:
                    slope = held[slot.name].grad
                    if slope is not None:
                        part = held[slot.name] * slope
                        if isinstance(model.get_submodule(slot.name), nn.Linear):
                            part = part.transpose(1, -1)  # features last
                        by_image = part.flatten(2).sum(2) if part.ndim > 2 else part
                        np.add.at(scores, slot.ins, by_image.abs().sum(0).detach().double().cpu().numpy())
                model.zero_grad(set_to_none=True)
        return by_score(at, scores)


def with_slope(x: Inputs) -> Inputs:
    """Return a copy of a batch whose numbers have slopes."""

    def copied(t: torch.Tensor) -> torch.Tensor:
        return t.clone().requires_grad_(t.is_floating_point())

    return copied(x) if isinstance(x, torch.Tensor) else x.map(copied)


def own_loss(outputs: object) -> torch.Tensor:
    """Return the cross-entropy under the network's own labels, or half the squared size of other outputs."""
    found = [t for t in tensors_of(outputs) if t.is_floating_point()]
    if len(found) == 1 and found[0].ndim == 2 and found[0].shape[1] > 1:
        return F.cross_entropy(found[0], found[0].detach().argmax(1), reduction="sum")
    return torch.stack([(t**2).sum() / 2 for t in found]).sum()
