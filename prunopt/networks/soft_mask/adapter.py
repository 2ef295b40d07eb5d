"""Soft masks for a training loop of one's own."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunopt.core import validate
from prunopt.core.arrays import Ints
from prunopt.core.budget import Budget
from prunopt.core.deprecation import moved_arguments
from prunopt.forms.knapsack.coupled_knapsack import CoupledKnapsack
from prunopt.forms.relaxed.trained_mask import Lesson
from prunopt.networks.cnn.channel_groups import ChannelGroups, channel_groups, modules_of
from prunopt.networks.cnn.costs import layer_costs
from prunopt.networks.cnn.latency import LatencyTable
from prunopt.networks.cnn.pruning import RESOURCES
from prunopt.networks.cnn.repair import reestimate
from prunopt.networks.soft_mask.distillation import Distillation
from prunopt.networks.soft_mask.gates import GatedNetwork
from prunopt.networks.soft_mask.ranks import Ranks, covering
from prunopt.problems.channel_widths import ChannelWidths
from prunopt.problems.soft_mask import SoftMask
from prunopt.solvers.relaxed._width_logits import WidthLogits
from prunopt.solvers.relaxed.s2h import S2H, Rounded

Criterion = Callable[[Any], Tensor]


class SoftMasks:
    """Gates of a network, learned while it trains; made by `soft_mask`.

    Parameters
    ----------
    network
        The gates.
    widths
        Those that each group may take.
    costs
        What widths cost, and the budget.
    gates
        How the network runs.
    solver
        Options of the masks' learning: rates, tolerance, rounding.
    distillation
        See `Distillation`.
    """

    def __init__(
        self,
        network: GatedNetwork,
        widths: Sequence[Sequence[int]],
        costs: CoupledKnapsack,
        gates: Gates,
        solver: S2H | None = None,
        distillation: Distillation | None = None,
    ) -> None:
        self.network, self.model, self.precision = network, network.model, gates.precision
        self.solver, self.distillation = solver or S2H(), distillation or Distillation()
        self.forward: Callable[[Any], Any] = gates.forward or network.model
        self.task = SoftMask(widths, costs, lambda _: math.nan)
        self.logits: WidthLogits = self.solver.logits(self.task.form)
        self.settled: Rounded | None = None
        self.steps = 0
        self._lesson: Lesson | None = None

    @property
    def widths(self) -> Ints:
        """The hard network's widths now."""
        choice = self.logits.choice() if self.settled is None else self.settled.choice
        return self.task.widths_of(choice)

    def points(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the soft and the hard gates, (1, channels) for each group."""
        hard = self.logits.points(self.logits.choice() if self.settled is None else self.settled.choice)
        return (self.logits.soft() if self.settled is None else hard), hard

    def soft(self, x: Any) -> Any:
        """Run the soft network."""
        return self.network.soft(x, self.points()[0])

    def hard(self, x: Any) -> Any:
        """Run the hard network."""
        if self.distillation.runs == "removed":
            return self._closed(x, self.widths)
        with torch.no_grad():
            return self.network.masked(x, self.points()[1])

    def _closed(self, x: Any, widths: Ints) -> Any:
        return self.network.removed(x, widths.tolist())

    def backward(self, x: Any, criterion: Criterion, scaler: Any = None) -> Lesson:
        """Run both networks on a batch and add the gradients of the weights to their ``grad``.

        Takes the place of ``criterion(model(x)).backward()``: clear gradients before, step the optimizer after, then
        call `step`. Where a loss is not finite no gradient is added and ``stopped`` says so.

        Parameters
        ----------
        criterion
            ``criterion(output) -> loss``, the batch's labels bound to it.
        scaler
            A `torch.amp.GradScaler`, if there is one.
        """
        soft, hard = self.points()
        self._lesson = self.teach(x, criterion, soft, hard, scaler, self.settled is None)
        return self._lesson

    def step(self, share: float | None = None) -> None:
        """Take a step with the masks.

        Parameters
        ----------
        share
            How much of the training is over, 0 to 1: the masks' rate falls along a cosine, and the budget from the
            dense cost down to the one given. None: the full rate and the budget as given.
        """
        if self._lesson is None:
            raise RuntimeError("step: call backward first")
        if not self._lesson.stopped and self.settled is None:
            self.logits.update(self._lesson.task, self._lesson.distillation, share)
        self._lesson, self.steps = None, self.steps + 1

    def settle(self) -> Ints:
        """Round the widths to the budget by the exact knapsack, and keep them; return them.

        From here on the hard network alone learns.
        """
        self.settled = self.solver.rounded(self.task.form, self.logits, "exact")
        return self.widths

    def extract(self, rounding: str | None = None, batches: Iterable[Any] | None = None) -> nn.Module:
        """Return the hard network as a smaller module.

        Parameters
        ----------
        rounding
            ``"exact"`` or ``"expected"``; None keeps settled widths, and else takes the solver's.
        batches
            Inputs from which batch norms are re-estimated; None keeps the hard network's running averages.
        """
        found = self.settled
        if rounding is not None or found is None:
            found = self.solver.rounded(self.task.form, self.logits, rounding)
        smaller = self.network.extract(self.task.widths_of(found.choice).tolist())
        return smaller if batches is None else reestimate(smaller, batches)

    def teach(
        self,
        x: Any,
        criterion: Criterion,
        soft: list[Tensor],
        hard: list[Tensor],
        scaler: Any = None,
        masks: bool = True,
    ) -> Lesson:
        """Run both networks at given gates and add the gradients; see `backward`.

        With ``masks=False`` weights alone learn. Where soft and hard gates are the same there is one network: it
        learns from the task.
        """
        rule, net = self.distillation, self.network
        same = all(torch.equal(a, b) for a, b in zip(soft, hard, strict=True))
        device = next(self.model.parameters()).device
        gates = [z.detach().to(device).requires_grad_(masks) for z in soft]
        closed = [z.detach().to(device) for z in hard]
        held = {n: {k: v.clone() for k, v in m._buffers.items() if v is not None} for n, m in net.norms.items()}
        held_hard = net.statistics()
        if same:  # one network: it runs once, on the hard network's statistics
            out_hard = self._hard(x, closed)
            loss = criterion(out_hard)
            zeros = [torch.zeros_like(z) for z in gates]
            if not math.isfinite(float(loss.detach())):
                return self._stopped(loss, held, held_hard, zeros)
            _scaled(loss, scaler).backward()
            value = float(loss.detach())
            return Lesson(value, value, 0.0, zeros, zeros)
        with self._cast():
            net.open(gates)
            out_soft = self._called(x)
            net.open(None)
            task = criterion(out_soft)
        zeros = [torch.zeros_like(z) for z in gates]
        learns = rule.mode != "none"
        if rule.needs_hard_gates:
            closed = [z.requires_grad_() for z in closed]
        value_hard, distance = math.nan, 0.0
        look = learns or self.steps % rule.every == 0
        out_hard = None
        if look:
            with torch.set_grad_enabled(learns):
                out_hard = self._hard(x, closed)
                value_hard = float(criterion(out_hard).detach())
        finite = math.isfinite(float(task.detach())) and (not look or math.isfinite(value_hard))
        if not finite:
            return self._stopped(task, held, held_hard, zeros)
        if not learns:
            _scaled(task, scaler).backward()
            return Lesson(float(task.detach()), value_hard, 0.0, _gradients(gates, scaler), zeros)
        to_hard = rule.divergence(out_soft.detach(), out_hard)  # reaches the hard network
        to_soft = rule.divergence(out_hard.detach(), out_soft)  # reaches the soft one
        distance = 0.5 * float((to_hard + to_soft).detach())
        if masks:
            toward = self._distil(rule, task, to_hard, to_soft, gates, closed, scaler)
        else:
            toward, both = zeros, {"decoupled": to_hard, "reversed": to_soft, "coupled": to_hard + to_soft}[rule.mode]
            _scaled(task + rule.weight * both, scaler).backward()
        return Lesson(float(task.detach()), value_hard, distance, _gradients(gates, scaler), toward)

    def _distil(
        self,
        rule: Distillation,
        task: Tensor,
        to_hard: Tensor,
        to_soft: Tensor,
        gates: list[Tensor],
        closed: list[Tensor],
        scaler: Any,
    ) -> list[Tensor]:
        """Run the backward passes; return the distillation's gradient in the gates, the task's stays in ``grad``."""
        if rule.mode == "decoupled":
            masks = [torch.zeros_like(z) for z in gates]
            if self.steps % rule.masks_every == 0:
                masks = list(torch.autograd.grad(to_soft, gates, retain_graph=True))
            # The target of `to_hard` is detached: nothing of it reaches the soft gates.
            _scaled(task + rule.weight * to_hard, scaler).backward()
            if rule.straight_through:
                masks = [a + b / rule.weight for a, b in zip(masks, _gradients(closed, scaler), strict=True)]
            return masks
        alone = [p for p in self.model.parameters() if p.requires_grad]
        if rule.mode == "reversed":
            masks = list(torch.autograd.grad(to_hard, closed))
            _scaled(rule.weight * to_soft, scaler).backward(inputs=alone, retain_graph=True)
            _scaled(task, scaler).backward()
            return masks
        masks = list(torch.autograd.grad(to_soft, gates, retain_graph=True))
        _scaled(rule.weight * to_soft, scaler).backward(inputs=alone, retain_graph=True)
        _scaled(task, scaler).backward()
        _scaled(rule.weight * to_hard, scaler).backward()
        return [a + b / rule.weight for a, b in zip(masks, _gradients(closed, scaler), strict=True)]

    def _hard(self, x: Any, closed: list[Tensor]) -> Any:
        with self._cast():
            if self.distillation.runs == "removed":
                return self.network.removed(x, [round(float(z.sum())) for z in closed])
            self.network.open(closed)
            try:
                with self.network.hard_norms():
                    return self._called(x)
            finally:
                self.network.open(None)

    def _called(self, x: Any) -> Any:
        if self.forward is self.model:
            return self.model(x)
        with warnings.catch_warnings():
            # torch.compile looks at .grad of the gates, which are not leaves
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning)
            return self.forward(x)

    @contextmanager
    def _cast(self) -> Iterator[None]:
        if self.precision is None:
            yield
            return
        with torch.autocast(next(self.model.parameters()).device.type, self.precision):
            yield

    def _stopped(self, loss: Tensor, held: Any, held_hard: Any, zeros: list[Tensor]) -> Lesson:
        for name, module in self.network.norms.items():
            module._buffers.update(held[name])
        self.network.restore_statistics(held_hard)
        value = float(loss.detach())
        return Lesson(value, math.nan, 0.0, zeros, zeros, f"the loss is {value} or the hard network's is not finite")


def _scaled(loss: Tensor, scaler: Any) -> Any:
    return loss if scaler is None else scaler.scale(loss)


def _gradients(leaves: Sequence[Tensor], scaler: Any) -> list[Tensor]:
    factor = 1.0 if scaler is None else 1.0 / scaler.get_scale()
    return [torch.zeros_like(z) if z.grad is None else z.grad * factor for z in leaves]


def offered_widths(groups: ChannelGroups, chosen: Sequence[int], divisor: int | None) -> list[list[int]]:
    """Return d, 2d, ... and the full width of every group, none below what has to stay; None: C / 16."""
    out = []
    for g in chosen:
        members = groups.members(g)
        full, least = len(members), len(covering(groups, members))
        d = divisor or max(1, full // 16)
        out.append([w for w in range(d, full, d) if w >= least] + [full])
    return out


@dataclass(frozen=True, eq=False)
class Gates:
    """Which channels get gates, and how the gated network runs.

    Parameters
    ----------
    groups
        The channels that may be removed, where tracing fails or not all may go; None traces.
    divisor
        Widths are its multiples, and the full one; None: C / 16.
    precision
        Type of `torch.autocast` for the forward passes; None runs in the weights' own.
    forward
        What is called in place of the model, such as ``torch.compile(model)``.
    table
        Milliseconds of layers, for a budget of latency.
    """

    groups: ChannelGroups | None = None
    divisor: int | None = None
    precision: torch.dtype | None = None
    forward: Callable[[Any], Any] | None = None
    table: LatencyTable | None = None

    def __post_init__(self) -> None:
        if self.divisor is not None:
            validate.whole_number("divisor", self.divisor, low=1)


@moved_arguments(gates=Gates)
@contextmanager
def soft_mask(
    model: nn.Module,
    budget: Budget | str = "macs=0.35",
    example: Tensor | None = None,
    *,
    gates: Gates = Gates(),
    distillation: Distillation | None = None,
    solver: S2H | None = None,
) -> Iterator[SoftMasks]:
    """Put soft gates into a network for the time of a training loop.

    >>> with soft_mask(model, "macs=0.35", x[:1]) as masks:  # doctest: +SKIP
    ...     for n, (x, y) in enumerate(loader):
    ...         optimizer.zero_grad()
    ...         masks.backward(x, lambda out: cross_entropy(out, y))
    ...         optimizer.step()
    ...         masks.step(n / steps)
    ...     small = masks.extract(batches=inputs)

    Parameters
    ----------
    model
        Any network that `channel_groups` traces, or one with groups by hand.
    budget
        Of ``macs``, ``parameters`` or ``latency_ms``: a `Budget`, or its text such as ``"latency_ms=0.5x"``.
    example
        An input, which layers and costs are traced with.

    Raises
    ------
    ValueError
        If the network has no group of channels, or the budget is below the smallest widths.
    """
    if example is None:
        raise validate.invalid("example", "be an input of the network", None, "pass one such as x[:1]")
    masks = make_masks(model, example, budget, gates, distillation, solver)
    try:
        yield masks
    finally:
        masks.network.close()


def _gateable(model: nn.Module, groups: ChannelGroups) -> ChannelGroups:
    """Fix what gates are not made for: all but plain convolutions, linear layers and batch norms that run once."""
    odd = [t.channels for t in groups.tensors]
    modules = modules_of(model, groups)
    owners = Counter(id(m.weight) for m in modules.values() if m.weight is not None)
    for slot in groups.slots:
        module: Any = modules[slot.name]
        plain = isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d) and slot.runs == 1
        if not plain or owners[id(module.weight)] > 1:
            odd += [slot.ins, slot.outs]
    return groups.only(set(groups.free) - set(groups.group[np.concatenate(odd)].tolist())) if odd else groups


def make_masks(
    model: nn.Module,
    example: Tensor,
    budget: Budget | str,
    gates: Gates = Gates(),
    distillation: Distillation | None = None,
    solver: S2H | None = None,
) -> SoftMasks:
    """Return the gates of `soft_mask`; the caller takes them out with ``masks.network.close()``."""
    wanted = Budget.of(budget, RESOURCES)
    was_training = model.training
    found = channel_groups(model, example) if gates.groups is None else gates.groups
    found = _gateable(model, found)
    chosen = found.free
    shown = validate.Shown(type(model).__name__)
    validate.require(chosen, "model", "have a group of channels that may be removed", shown)
    widths = offered_widths(found, chosen, gates.divisor)
    table = gates.table or (LatencyTable() if wanted.resource == "latency_ms" else None)
    ranks = {g: Ranks(found, found.members(g)) for g in chosen}
    layers = layer_costs(
        model,
        found,
        chosen,
        widths,
        resource=wanted.resource,
        table=table,
        example=example,
        features=lambda g, channels, width: ranks[g].features(channels, width),
    )
    model.train(was_training)
    total = math.fsum(float(np.asarray(layer.table)[-1, -1]) for layer in layers)
    costs = ChannelWidths(widths, [[0.0] * len(w) for w in widths], layers, wanted.allowed(total)).form
    return SoftMasks(GatedNetwork(model, found, chosen), widths, costs, gates, solver, distillation)
