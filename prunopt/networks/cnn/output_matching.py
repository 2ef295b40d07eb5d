"""Label-free distillation as the last step: the pruned network learns to give what the dense one gives [1]_.

References
----------
.. [1] L. Beyer, X. Zhai, A. Royer, L. Markeeva, R. Anil, A. Kolesnikov, "Knowledge distillation: a good teacher is
   patient and consistent", CVPR 2022.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from prunopt.core import validate
from prunopt.networks.cnn.inputs import Inputs, batch_of, tensors_of
from prunopt.networks.cnn.repair import apart, divergence_of, outputs_of
from prunopt.networks.cnn.replay import run_last
from prunopt.networks.cnn.watching import silent


@dataclass(frozen=True)
class OutputMatching:
    """How long and how the pruned network learns from the dense one; no labels.

    Parameters
    ----------
    minutes
        At most so long.
    steps
        At most so many steps; None: as the time allows. With steps that end before the time does, the same seed gives
        the same network.
    batch, learning_rate
        Pictures of a step, and the rate of Adam at the start; it falls to 0 along a cosine. After two judgments without
        a better one the best weights are taken up again at a third of the rate.
    held_out
        The share of the pictures that judges, and is not learned from.
    patience
        The end comes after so many judgments without a better one.
    every
        Steps between two judgments.
    varied
        Show both networks other cuts, mirror images and mixtures of the pictures, as is done for one tensor of
        pictures of 16 pixels or more a side.
    """

    minutes: float = 10.0
    steps: int | None = None
    batch: int = 16
    learning_rate: float = 3e-4
    held_out: float = 0.2
    patience: int = 10
    every: int = 25
    varied: bool = True

    def __post_init__(self) -> None:
        validate.number("minutes", self.minutes, low=0, open_ends="(")
        if self.steps is not None:
            validate.whole_number("steps", self.steps, low=1)
        for name in ("batch", "patience", "every"):
            validate.whole_number(name, getattr(self, name), low=1)
        validate.number("learning_rate", self.learning_rate, low=0, open_ends="(")
        validate.number("held_out", self.held_out, low=0, high=1, open_ends="()")

    def split(self, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which of ``n`` pictures are learned from, and which judge: nothing else should be fitted on these."""
        judges = round(n * self.held_out)
        validate.require(2 <= judges <= n - 2, "images", "hold 2 or more to learn from and 2 or more held out", n)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        return order[judges:], order[:judges]


@dataclass(frozen=True)
class Matched:
    """What the distillation came to: the divergence on held-out pictures before and after, and the steps taken."""

    before: float
    after: float
    steps: int
    seconds: float


def match_outputs(
    student: nn.Module,
    teacher: nn.Module,
    images: Any,
    how: OutputMatching = OutputMatching(),
    *,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Matched:
    r"""Train ``student`` in place to give what ``teacher`` gives; it is never worse than before on held-out pictures.

    .. math:: \min_\theta \; \sum_x d(f_\theta(x), f_{dense}(x))

    d is the Kullback-Leibler divergence of the predictions where the one output is of shape (n, classes), else the
    squared error over all outputs, each relative to its size. The weights of the best judgment are taken; batch norms
    keep their statistics.

    Parameters
    ----------
    images : (n, channels, height, width), or a tuple or dict of such
        Pictures without labels, 4 or more.
    """
    images, tell, start = batch_of(images), progress or silent, time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    learned, judges = how.split(len(images), seed)
    held = images[judges]
    student.eval()
    teacher.eval()
    wanted = outputs_of(teacher, held)
    before = best = divergence_of(wanted, outputs_of(student, held))
    kept = copy.deepcopy(student.state_dict())
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], how.learning_rate)
    step, since, part, rate = 0, 0, 0.0, how.learning_rate
    while part < 1 and since < how.patience:
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * part))
        at = learned[torch.randint(len(learned), (min(how.batch, len(learned)),), generator=generator)]
        x = _varied(images[at], generator) if how.varied else images[at]
        loss = _loss(student, teacher, x)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        step += 1
        spent = (time.perf_counter() - start) / (60 * how.minutes)
        part = max(spent, step / how.steps) if how.steps is not None else spent
        if step % how.every == 0 or part >= 1:
            found = divergence_of(wanted, outputs_of(student, held))
            since = since + 1
            if found < best:
                best, since, kept = found, 0, copy.deepcopy(student.state_dict())
            elif since % 2 == 0:  # the rate is too high for this network
                student.load_state_dict(kept)
                optimizer.state.clear()
                rate /= 3
            tell(f"distillation, step {step}: divergence {found:.4g}, {before:.4g} before")
    student.load_state_dict(kept)
    return Matched(before, best, step, time.perf_counter() - start)


def _loss(student: nn.Module, teacher: nn.Module, x: Inputs) -> torch.Tensor:
    with torch.no_grad():
        wanted = [t for t in tensors_of(run_last(teacher, x)) if t.is_floating_point()]
    found = [t for t in tensors_of(run_last(student, x)) if t.is_floating_point()]
    alone = len(found) == 1
    return torch.stack([apart(a, b, alone) for a, b in zip(found, wanted, strict=True)]).mean()


def _varied(x: Inputs, generator: torch.Generator) -> Inputs:
    """Return other cuts of pictures, some of them mirrored, half of the batches mixed in pairs."""
    if not isinstance(x, torch.Tensor) or x.ndim != 4 or min(x.shape[2:]) < 16:
        return x
    flips = torch.rand(len(x), generator=generator) < 0.5
    x = torch.where(flips[:, None, None, None].to(x.device), x.flip(3), x)
    height, width = x.shape[2:]
    share = 1 - 0.35 * float(torch.rand((), generator=generator))
    rows, columns = max(8, round(share * height)), max(8, round(share * width))
    top = int(torch.randint(height - rows + 1, (), generator=generator))
    left = int(torch.randint(width - columns + 1, (), generator=generator))
    x = F.interpolate(x[:, :, top : top + rows, left : left + columns], (height, width), mode="bilinear")
    if float(torch.rand((), generator=generator)) < 0.5:
        weight = float(torch.rand((), generator=generator))
        x = weight * x + (1 - weight) * x.flip(0)
    return x
