"""How the soft and the hard network of a soft mask learn from one another."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from prunopt.core import validate

DISTILLATIONS = ("decoupled", "coupled", "reversed", "none")
HARD = ("removed", "masked")


@dataclass(frozen=True)
class Distillation:
    r"""How the soft and the hard network learn from one another.

    With outputs s and h, :math:`\mathrm{KL}(q \| p)` the divergence of p's prediction from the target q, and sg(.)
    without gradient:

    ``"decoupled"``
        Weights learn from KL(sg(s) || h), only through the hard network; masks from KL(sg(h) || s), only through the
        soft one.
    ``"coupled"``
        Both divergences reach weights and masks, through both networks.
    ``"reversed"``
        Weights learn from KL(sg(h) || s), through the soft network; masks from KL(sg(s) || h), through the hard one.
    ``"none"``
        The hard network is run now and then to log the gap, nobody learns from it.

    Parameters
    ----------
    mode
        As above.
    weight
        Factor of the divergence that weights learn from.
    temperature
        Of both predictions.
    straight_through
        Let masks learn from the hard network's divergence too, its gates passing gradients on to the soft ones.
    hard
        ``"removed"`` or ``"masked"``: how the hard network runs, see `GatedNetwork`. Modes that pass gradients to
        hard gates need ``"masked"``; None chooses.
    every
        Steps from one look at the hard network to the next in mode ``"none"``.
    masks_every
        Steps from one distillation of the masks to the next, in mode ``"decoupled"``: it takes a backward pass of its
        own. Masks learn from the task at every step, weights from both.
    """

    mode: str = "decoupled"
    weight: float = 1.0
    temperature: float = 1.0
    straight_through: bool = False
    hard: str | None = None
    every: int = 20
    masks_every: int = 2

    def __post_init__(self) -> None:
        validate.one_of("mode", self.mode, DISTILLATIONS)
        for name in ("weight", "temperature", "every", "masks_every"):
            validate.number(name, getattr(self, name), low=0, open_ends="(")
        validate.one_of("hard", self.hard, (*HARD, None))
        passes = not (self.hard == "removed" and self.needs_hard_gates)
        validate.require(passes, "hard", "be masked for this distillation", self.hard, "removed gates get no gradient")

    @property
    def needs_hard_gates(self) -> bool:
        """Whether masks learn through the hard network."""
        return self.straight_through or self.mode in ("coupled", "reversed")

    @property
    def runs(self) -> str:
        """How the hard network runs."""
        return self.hard or ("masked" if self.needs_hard_gates else "removed")

    def divergence(self, target: Tensor, found: Tensor) -> Tensor:
        """Return KL(target || found), mean over the batch, in nats."""
        t = self.temperature
        wanted, got = F.log_softmax(target.float() / t, -1), F.log_softmax(found.float() / t, -1)
        each = (wanted.exp() * (wanted - got)).sum(-1)
        return t * t * each.mean()
