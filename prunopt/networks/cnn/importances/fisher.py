"""Importance by the empirical Fisher information: layer errors weighted by what the predictions make of them [1]_.

References
----------
.. [1] L. Theis, I. Korshunova, A. Tejani, F. Huszar, "Faster gaze prediction with dense networks and Fisher pruning",
   arXiv:1801.05787, 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from prunopt.core.arrays import Floats
from prunopt.networks.cnn.importances.obs import by_layer_error
from prunopt.networks.cnn.importances.ranking import BATCH, Candidates, Ranking
from prunopt.networks.cnn.importances.taylor import with_slope
from prunopt.networks.cnn.inputs import split, tensors_of
from prunopt.networks.cnn.replay import run_last
from prunopt.networks.cnn.watching import watching


@dataclass(frozen=True)
class Fisher:
    """The error of the layers that read a channel, each output weighted by the squared slope of the log-probabilities.

    As `Obs`, with the error of every output weighted by the mean square of the slope of the network's
    log-probabilities there (labels drawn from its own predictions): what the later layers make of an error counts, and
    the sum estimates half the divergence of the predictions, in nats, with errors taken as independent.

    Parameters
    ----------
    damping
        Added to the Hessian of every layer, relative to its mean diagonal.
    """

    damping: float = 1e-3

    def rank(self, at: Candidates) -> list[Ranking]:
        """Rank the free channels of groups."""
        return by_layer_error(at, self.damping, squared_slopes(at))


def squared_slopes(at: Candidates) -> dict[str, Floats]:
    """Return, for every output of a layer, the mean over pictures of the squared slopes summed over its places."""
    model, sums = at.model, dict[str, torch.Tensor]()

    def add(slope: torch.Tensor, name: str) -> None:
        axis = slope.ndim - 1 if name in linear else 1
        part = (slope.double() ** 2).movedim(axis, 0).flatten(1).sum(1)
        sums[name] = sums.get(name, 0) + part

    def watch(name: str, _: nn.Module, out: torch.Tensor) -> None:
        # on what the layer gave, also where a later one works in place
        out.register_hook(partial(add, name=name))  # type: ignore[no-untyped-call]

    linear = {slot.name for slot in at.groups.slots if slot.kind == "linear"}
    layers = [slot.name for slot in at.groups.slots if slot.consumes and slot.kind != "grouped"]
    generator = torch.Generator().manual_seed(at.seed)
    model.eval()
    with watching(model, layers, watch):
        for x in split(at.pictures, BATCH):
            outputs = [t for t in tensors_of(run_last(model, with_slope(x))) if t.is_floating_point()]
            found = outputs[0]
            if len(outputs) > 1 or found.ndim != 2 or found.shape[1] < 2:
                torch.autograd.backward(noise_slope(outputs, generator))
                model.zero_grad(set_to_none=True)
                continue
            drawn = torch.multinomial(found.detach().softmax(1).cpu(), 1, generator=generator)[:, 0].to(found.device)
            torch.autograd.backward(F.cross_entropy(found, drawn, reduction="sum"))
            model.zero_grad(set_to_none=True)
    return {name: (total / len(at.pictures)).cpu().numpy() for name, total in sums.items()}


def noise_slope(outputs: list[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """Return the log-likelihood of outputs under normal errors of their own size, whose slope is the Fisher's draw."""
    drawn = [
        torch.randn(t.shape, generator=generator).to(t) / t.detach().std(correction=0).clamp_min(1e-6) for t in outputs
    ]
    return torch.stack([(t * e).sum() for t, e in zip(outputs, drawn, strict=True)]).sum()
