"""S2HPruner: a network and its widths trained in one go, by the solver ``s2h`` [1]_.

References
----------
.. [1] W. Lin, S. Tang, C. Yu, P. Ye, T. Chen, "S2HPruner: soft-to-hard distillation bridges the discretization gap in
   pruning", NeurIPS 2024.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunopt.api import solve
from prunopt.core import validate
from prunopt.core.arrays import Ints
from prunopt.core.budget import Budget
from prunopt.core.deprecation import moved_arguments
from prunopt.core.solution import Solution, SolveError
from prunopt.core.solver import Limits
from prunopt.forms.relaxed.trained_mask import Lesson
from prunopt.networks.cnn.repair import reestimate
from prunopt.networks.soft_mask.adapter import Gates, SoftMasks, make_masks
from prunopt.networks.soft_mask.distillation import Distillation
from prunopt.problems.soft_mask import SoftMask
from prunopt.solvers.relaxed.s2h import S2H

Loader = Iterable[tuple[Any, Tensor]]


@dataclass(frozen=True, eq=False)
class SoftMaskResult:
    """A network made smaller while it was trained.

    Parameters
    ----------
    model
        The hard network, without masks, its batch norms re-estimated.
    solution
        Widths; ``stats["history"]`` has the losses of the soft and the hard network and their gap through training.
    groups
        Name, channels before and after, expected width before rounding.
    used, limit, total
        What the answer, the budget and the dense network cost.
    """

    model: nn.Module
    solution: Solution[Ints]
    groups: list[dict[str, Any]]
    used: float
    limit: float
    total: float


@dataclass(frozen=True, eq=False)
class Training:
    """How the weights are trained.

    Parameters
    ----------
    epochs
        Passes over the loader; sets the solver's steps.
    optimizer
        Of the model's weights; None: SGD with rate 0.05, momentum 0.9, decay 5e-4, and `two_cosines`.
    scheduler
        Stepped after every step, where an optimizer is given.
    criterion
        ``criterion(outputs, targets)``.
    clip
        Largest norm of the weights' gradient.
    folder, every
        Checkpoints, and the steps between two; the same call goes on from there.
    """

    epochs: int = 10
    optimizer: torch.optim.Optimizer | None = None
    scheduler: Any = None
    criterion: Callable[[Any, Tensor], Tensor] = F.cross_entropy
    clip: float | None = None
    folder: str | os.PathLike[str] | None = None
    every: int = 100

    def __post_init__(self) -> None:
        validate.whole_number("epochs", self.epochs, low=1)


@moved_arguments(training=Training, gates=Gates)
def train_soft_mask(
    model: nn.Module,
    loader: Loader,
    *,
    budget: Budget | str = "macs=0.35",
    training: Training = Training(),
    gates: Gates = Gates(),
    solver: S2H | None = None,
    distillation: Distillation | None = None,
    callback: Callable[[int, Lesson], Any] | None = None,
    limits: Limits | None = None,
    seed: int = 0,
) -> SoftMaskResult:
    """Train a network with soft masks under a budget, and return the hard network.

    The model is trained in place (its gates are taken out at the end). Batches come from ``loader`` in turn; before
    each epoch torch's generator is seeded with (seed, epoch), so that a resumed run sees the same shuffles.

    Parameters
    ----------
    model
        To be trained, from any state.
    loader
        Yields (inputs, targets); it must be possible to go through it again. Its own generator, if it has one, is
        seeded before each epoch.
    budget, gates, distillation
        See `soft_mask`.
    callback
        Called with the step's number and its `Lesson`.
    seed
        Of shuffles, dropout and the like.

    Raises
    ------
    ValueError
        For a loader without batches, a network without groups, a budget below the smallest widths.
    """
    first = next(iter(loader), None)
    pairs = "yield batches (inputs, targets), and have a length"
    try:
        inputs, _ = first  # type: ignore[misc]
        length = len(loader)  # type: ignore[arg-type]
    except TypeError as error:
        raise validate.invalid("loader", pairs, "no batch" if first is None else loader) from error
    steps, folder = training.epochs * length, training.folder
    options = replace(
        solver or S2H(), steps=steps, folder=None if folder is None else os.fspath(folder), every=training.every
    )
    masks = make_masks(model, inputs[:1], budget, gates, distillation, options)
    if training.optimizer is None:
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
        training = replace(training, optimizer=optimizer, scheduler=two_cosines(optimizer, steps, options.settle))
    try:
        worker = _Training(masks, loader, training, callback, seed, length)
        kept = [training.epochs, str(budget), training.clip, repr(training.optimizer)]
        text = json.dumps([repr(masks.distillation), str(gates.precision), *kept])
        name = f"{_digest(model)} {hashlib.sha256(text.encode()).hexdigest()}"
        task = SoftMask(masks.task.widths, masks.task.costs, worker.loss, trainee=worker, identity=name)
        try:
            found = solve(task, options, limits=limits, seed=seed)
            widths = np.asarray(found.value)
        except SolveError as error:
            if options.rounding != "expected" or "choice" not in error.solution.stats:
                raise
            # Each width was rounded by itself, as asked for, and they exceed the budget: `solution` says by how much.
            found = error.solution
            widths = task.widths_of(found.stats["choice"])
        smaller = reestimate(masks.network.extract(widths.tolist()), (x for x, _ in loader))
    finally:
        masks.network.close()
    rows = [
        {"group": masks.network.groups.name_of(g), "before": int(row[-1]), "after": int(w), "expected": e}
        for g, row, w, e in zip(masks.network.chosen, task.widths, widths, found.stats["unrounded"], strict=True)
    ]
    total = task.used(np.array([row[-1] for row in task.widths]))
    return SoftMaskResult(smaller, found, rows, task.used(widths), task.costs.budget, total)


def two_cosines(optimizer: torch.optim.Optimizer, steps: int, settle: float) -> torch.optim.lr_scheduler.LRScheduler:
    """Return a schedule: the rate falls along a cosine until the widths settle, and along another one from there."""
    cut = steps - int(settle * steps)

    def factor(step: int) -> float:
        share = step / cut if step < cut else (step - cut) / max(1, steps - cut)
        return 0.5 * (1 + math.cos(math.pi * share))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class _Training:
    """The weights: batches, optimizer and checkpoints."""

    def __init__(
        self, masks: SoftMasks, loader: Loader, training: Training, callback: Any, seed: int, length: int
    ) -> None:
        self.masks, self.loader, self.scheduler = masks, loader, training.scheduler
        self.optimizer: Any = training.optimizer
        self.criterion: Any = training.criterion
        self.clip, self.callback, self.seed, self.length = training.clip, callback, seed, length
        self._batches: Iterator[Any] | None = None
        self._next = -1

    def _batch(self, step: int) -> Any:
        """The batch of a step; None where the loader has ended early."""
        epoch, within = divmod(step, self.length)
        if self._batches is None or step != self._next or within == 0:
            drawn = int(np.random.SeedSequence([self.seed, 3, epoch]).generate_state(1)[0])
            own = getattr(self.loader, "generator", None)
            if own is not None:
                own.manual_seed(drawn)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(drawn)
                self._batches = iter(self.loader)
                for _ in range(within):
                    next(self._batches, None)
                self._next = step + 1
                return next(self._batches, None)
        self._next = step + 1
        return next(self._batches, None)

    def learn(self, soft: list[Any], hard: list[Any], step: int, learned: bool = True) -> Lesson:
        """Take a step with the weights at these gates."""
        masks, zeros = self.masks, [torch.zeros_like(z) for z in soft]
        batch = self._batch(step)
        if batch is None:
            why = f"the loader ended early, in epoch {step // self.length} after {step % self.length} batches"
            return Lesson(math.nan, math.nan, 0.0, zeros, zeros, why)
        device = next(masks.model.parameters()).device
        x, y = (t.to(device) if isinstance(t, Tensor) else t for t in batch)
        masks.model.train()
        masks.steps = step
        if learned:
            masks.network.rerank()  # afterwards the channels that are kept stay the same
        drawn = int(np.random.SeedSequence([self.seed, 4, step]).generate_state(1)[0])
        self.optimizer.zero_grad(set_to_none=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(drawn)  # dropout of a resumed run falls as it would have
            lesson = masks.teach(x, lambda out: self.criterion(out, y), soft, hard, masks=learned)
        if not lesson.stopped:
            named = [p.grad for p in masks.model.parameters() if p.grad is not None]
            norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in named])))
            if not math.isfinite(norm):
                lesson = lesson._replace(stopped=f"the gradient is not finite at step {step}")
        if lesson.stopped:
            return lesson
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(masks.model.parameters(), self.clip)
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        if self.callback is not None:
            self.callback(step, lesson)
        return lesson

    @torch.no_grad()
    def loss(self, widths: Ints) -> float:
        """Return the mean loss of the network of these widths, batch norms re-estimated, over the loader."""
        smaller = reestimate(self.masks.network.extract(widths.tolist()), self._in_order())
        device, total, count = next(smaller.parameters()).device, 0.0, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            for x, y in self.loader:
                total += float(self.criterion(smaller(x.to(device)), y.to(device))) * len(x)
                count += len(x)
        return total / count

    def _in_order(self) -> Iterator[Any]:
        own = getattr(self.loader, "generator", None)
        device = next(self.masks.model.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            if own is not None:
                own.manual_seed(self.seed)
            for x, _ in self.loader:
                yield x.to(device)

    def state(self) -> dict[str, Any]:
        """Return weights, both networks' statistics, and the optimizer's state."""
        out = {f"model.{k}": v for k, v in self.masks.model.state_dict().items()}
        out |= {f"hard.{k}": v for k, v in self.masks.network.statistics().items()}
        out |= {f"ranks.{g}": torch.from_numpy(order) for g, order in enumerate(self.masks.network.ranks)}
        plain: dict[str, Any] = {"groups": _plain(self.optimizer.state_dict()["param_groups"]), "state": {}}
        for index, values in self.optimizer.state_dict()["state"].items():
            for k, v in values.items():
                if isinstance(v, Tensor):
                    out[f"optimizer.{index}.{k}"] = v
                else:
                    plain["state"].setdefault(str(index), {})[k] = v
        if self.scheduler is not None:
            plain["scheduler"] = _plain(self.scheduler.state_dict())
        text = json.dumps(plain).encode()
        return out | {"json": torch.from_numpy(np.frombuffer(text, np.uint8).copy())}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        model = self.masks.model
        model.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
        hard = {k.removeprefix("hard."): v for k, v in state.items() if k.startswith("hard.")}
        self.masks.network.restore_statistics(hard)
        net = self.masks.network
        net.ranks = [state[f"ranks.{g}"].numpy() for g in range(len(net.chosen))]
        plain = json.loads(state["json"].numpy().tobytes().decode())
        moments: dict[int, dict[str, Any]] = {int(i): dict(values) for i, values in plain["state"].items()}
        for name, value in state.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                moments.setdefault(int(index), {})[key] = value.clone()
        self.optimizer.load_state_dict({"state": moments, "param_groups": plain["groups"]})
        if self.scheduler is not None:
            self.scheduler.load_state_dict(plain["scheduler"])


def _digest(model: nn.Module) -> str:
    whole = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        whole.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        whole.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def _plain(value: Any) -> Any:
    """What JSON can hold of an optimizer's or scheduler's options."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items() if not callable(v)}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value.item() if isinstance(value, Tensor) else value
