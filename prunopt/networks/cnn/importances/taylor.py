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
from prunopt.networks.cnn.watching import watching


@dataclass(frozen=True)
class Taylor:
    r"""The sum over layers and pictures of :math:`|x \, \partial L / \partial x|` of a channel x.

    L is the cross-entropy under the network's own labels.
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
            for x in torch.split(at.pictures, BATCH):
                logits = model(x.clone().requires_grad_(True))
                torch.autograd.backward(F.cross_entropy(logits, logits.detach().argmax(1), reduction="sum"))
                for slot in readers:
                    slope = held[slot.name].grad
                    if slope is not None:
                        part = held[slot.name] * slope
                        by_image = part.flatten(2).sum(2) if part.ndim > 2 else part
                        np.add.at(scores, slot.ins, by_image.abs().sum(0).detach().double().cpu().numpy())
                model.zero_grad(set_to_none=True)
        return by_score(at, scores)
