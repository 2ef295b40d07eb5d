"""After the cut: the layers that read the rest re-solved by least squares, batch norms re-estimated; no labels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from prunopt.core import validate
from prunopt.networks.cnn.channel_groups import ChannelGroups, Slot
from prunopt.networks.cnn.dropped_branches import Constant
from prunopt.networks.cnn.inputs import Inputs, split
from prunopt.networks.cnn.patches import patches, taps
from prunopt.networks.cnn.replay import Replay, joined, run_last
from prunopt.networks.cnn.watching import NORMS, silent

DAMPINGS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
BATCH_NORMS = ("keep", "reestimate", "best")
HELD_OUT = 5  # every fifth batch judges the damping


@dataclass(frozen=True)
class Repair:
    """What is done after the cut.

    Parameters
    ----------
    refit
        Re-solve the layers that lost inputs, and those behind them (`repair`).
    batch_norm
        ``"keep"``, ``"reestimate"``, or ``"best"``: whichever predicts more like the dense network on the pictures.
    damping
        Of `repair`.
    """

    refit: bool = True
    batch_norm: str = "best"
    damping: float | None = None

    def __post_init__(self) -> None:
        validate.one_of("batch_norm", self.batch_norm, BATCH_NORMS)
        if self.damping is not None:
            validate.number("damping", self.damping, low=0)


def repair(
    dense: nn.Module,
    pruned: nn.Module,
    groups: ChannelGroups,
    keep: Any,
    images: Inputs,
    *,
    damping: float | None = None,
    every: bool = False,
    batch: int = 5,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> int:
    r"""Re-solve, in order, the layers of ``pruned`` that lost inputs or taps, in place; return how many changed.

    With X the inputs of the dense layer and X' those that the pruned network, repaired so far, gives to it,

    .. math:: \min_{W', b'} \; \|W X + b + (R - R') / s - W' X' - b'\|_F^2 + \lambda \|W' - W_{keep}\|_F^2

    so that also what layers before lost is made up for as far as the inputs left can. R and R' are what a residual sum
    adds to the layer's output in the two networks, s the scale of the batch norm between (1 where there is none, R =
    R' where there is no sum): so the sum comes out right, not the layer alone. The bias takes the part of the removed
    channels that is the same everywhere. Depthwise layers are such a problem for every channel.

    Parameters
    ----------
    damping
        :math:`\lambda` as a share of the mean square of the inputs; None takes, for each layer, the one of `DAMPINGS`
        that does best on every fifth batch when solved on the others, and leaves a layer alone that none makes better.
    every
        Re-solve the layers whose inputs changed without getting fewer, too.
    """
    batches = split(images, batch)
    return repair_on(
        Replay(dense, batches),
        Replay(pruned, batches),
        groups,
        keep,
        damping=damping,
        every=every,
        seed=seed,
        progress=progress,
    )


def repair_on(
    before: Replay,
    after: Replay,
    groups: ChannelGroups,
    keep: Any,
    *,
    damping: float | None = None,
    every: bool = False,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> int:
    """Do as `repair`, with the activations before the first layer concerned, or earlier ones."""
    mask = groups.checked(keep)
    modules = {s.name: before.model.get_submodule(s.name) for s in groups.slots}
    slots = [s for s in groups.slots if s.kind in ("conv", "linear", "depthwise") and _solvable(s, modules)]
    lost = [_lost(s, mask, before.model, after.model) for s in slots]
    first = lost.index(True) if True in lost else len(slots)
    todo = [s for i, s in enumerate(slots) if lost[i] or (every and i > first)]
    done, tell = 0, progress or silent
    for number, slot in enumerate(todo):
        outs = torch.from_numpy(np.flatnonzero(mask[slot.outs]))
        if len(outs) == 0:
            continue
        if slot.kind != "depthwise" or len(slot.ins) == len(slot.outs):
            done += _repair_layer(before, after, slot.name, slot.kind == "depthwise", outs, damping, seed)
        tell(f"{number + 1} of {len(todo)} layers repaired")
    return done


def _solvable(slot: Slot, modules: dict[str, nn.Module]) -> bool:
    """Whether a layer is one that least squares are set up for, and runs once with a weight of its own."""
    module: Any = modules[slot.name]
    own = sum(getattr(m, "weight", None) is module.weight for m in modules.values()) == 1
    return isinstance(module, nn.Conv2d | nn.Linear) and slot.runs == 1 and own


def _lost(slot: Slot, mask: Any, before: nn.Module, after: nn.Module) -> bool:
    """Whether a layer lost some of what it multiplies: inputs it mixes, or taps."""
    if slot.consumes and not mask[slot.ins].all():
        return True
    old, new = before.get_submodule(slot.name), after.get_submodule(slot.name)
    return getattr(old, "kernel_size", 0) != getattr(new, "kernel_size", 0)


def _repair_layer(
    dense: Replay, pruned: Replay, name: str, depthwise: bool, outs: torch.Tensor, damping: float | None, seed: int
) -> bool:
    before: Any = dense.model.get_submodule(name)
    after: Any = pruned.model.get_submodule(name)
    norm = pruned.norm_behind(name)
    parts = [_Sums(), _Sums()]
    pairs = list(zip(dense.inputs(name), pruned.inputs(name), strict=True))
    added, left = dense.shortcuts(name), pruned.shortcuts(name)
    scale = _scale(norm, len(outs))
    W = before.weight.detach().double().flatten(1)[outs]
    bias = torch.zeros(len(outs)).double() if before.bias is None else before.bias.detach().double()[outs]
    constant = isinstance(after, Constant)  # no input is left: the bias alone is to be found
    left_over = W.new_zeros(len(outs), 0) if constant else after.weight.detach().double().flatten(1)
    start = F.pad(left_over, [0, 1])
    start[:, -1] = bias
    if depthwise:  # a problem of its own for every channel
        W, bias, start = W[:, None], bias[:, None], start[:, None]
    for number, (x, y) in enumerate(pairs):
        if depthwise:
            X, Y = (taps(m, z, _places(seed + number)).double() for m, z in ((before, x[:, outs]), (after, y)))
            target = X @ W.mT + bias[:, None]
        else:
            X = patches(before, x, _places(seed + number)).double()
            Y = X[:, :0] if constant else patches(after, y, _places(seed + number)).double()
            target = X @ W.T + bias
            if added is not None and left is not None and scale is not None:
                missing = added[number][:, outs] - left[number]
                target += patches(None, missing, _places(seed + number)).double() / scale
        parts[number % HELD_OUT == HELD_OUT - 1].add(F.pad(Y, [0, 1], value=1.0), target)
    best = damping
    if damping is None and parts[1].rows:
        losses = {d: parts[1].loss(parts[0].solved(start, d)) for d in DAMPINGS}
        best = min(losses, key=lambda d: losses[d])
        if not losses[best] < parts[1].loss(start) * (1 - 1e-9):
            return False
    solved = (parts[0] + parts[1]).solved(start, DAMPINGS[len(DAMPINGS) // 2] if best is None else best)
    solved = solved.reshape(len(outs), -1)
    with torch.no_grad():
        if not constant:
            after.weight.copy_(solved[:, :-1].reshape(after.weight.shape))
        if after.bias is not None:
            after.bias.copy_(solved[:, -1])
        elif norm is not None and norm.running_mean is not None and norm.num_features == len(outs):
            norm.running_mean -= solved[:, -1]
        else:
            after.bias = nn.Parameter(solved[:, -1].float())
    return True


class _Sums:
    """The normal equations of a layer, or of every channel of one, inputs with a one behind them."""

    def __init__(self, gram: Any = 0.0, cross: Any = 0.0, energy: Any = 0.0, rows: int = 0) -> None:
        self.gram, self.cross, self.energy, self.rows = gram, cross, energy, rows

    def add(self, X: torch.Tensor, target: torch.Tensor) -> None:
        """Take more rows: X of shape (..., rows, inputs + 1), target of shape (..., rows, outputs)."""
        self.gram = self.gram + X.mT @ X
        self.cross = self.cross + X.mT @ target
        self.energy, self.rows = self.energy + (target**2).sum(), self.rows + X.shape[-2]

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(
            self.gram + other.gram, self.cross + other.cross, self.energy + other.energy, self.rows + other.rows
        )

    def solved(self, start: torch.Tensor, damping: float) -> torch.Tensor:
        """Return the weights, (..., outputs, inputs + 1)."""
        n = self.gram.shape[-1]
        diagonal = torch.diagonal(self.gram, dim1=-2, dim2=-1)[..., :-1].mean(-1, keepdim=True)
        ridge = (damping * diagonal + 1e-9 * self.rows).repeat(*[1] * (self.gram.ndim - 2), n)
        ridge[..., -1] = 1e-9 * self.rows
        moved: torch.Tensor = torch.linalg.solve(self.gram + torch.diag_embed(ridge), self.cross - self.gram @ start.mT)
        return start + moved.mT

    def loss(self, W: torch.Tensor) -> float:
        """Return the squared error of weights."""
        return float(((W @ self.gram) * W).sum() - 2 * (W.mT * self.cross).sum() + self.energy)


def _places(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _scale(norm: Any, outs: int) -> torch.Tensor | None:
    """The factor of a batch norm in evaluation, 1 without a norm, None where a norm works otherwise."""
    if norm is None:
        return torch.ones(outs).double()
    if norm.running_var is None or norm.num_features != outs:
        return None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    return torch.where(scale.abs() < 1e-6, torch.full_like(scale, 1e-6), scale)


def reestimate(model: nn.Module, batches: Iterable[Any]) -> nn.Module:
    """Set a network's batch norm statistics to plain averages over batches, in place; return it in evaluation mode."""
    norms: list[Any] = [m for m in model.modules() if isinstance(m, NORMS) and m.track_running_stats]
    momenta = [m.momentum for m in norms]
    model.eval()
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # a plain average over the batches
        m.train()
    with torch.no_grad():
        for x in batches:
            run_last(model, x)
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum
    return model.eval()


def reestimated(model: nn.Module, images: Inputs, *, batch: int = 50) -> nn.Module:
    """Return a copy whose batch norms hold the means and variances of ``images``."""
    parts = (x for x in split(images, batch) if len(x) > 1)
    return reestimate(copy.deepcopy(model), parts)


def divergence(dense_logits: Any, model: nn.Module, images: Inputs, *, batch: int = 4) -> float:
    """Return how far a network's outputs are from the dense ones (`divergence_of`)."""
    return divergence_of(dense_logits, outputs_of(model, images, batch=batch))


def divergence_of(dense: Any, found: Any) -> float:
    r"""Return how far outputs are from the dense ones, the mean over all outputs.

    Of a single output of shape (n, classes): the mean Kullback-Leibler divergence of the predictions, in nats. Of every
    other, such as maps or boxes: :math:`\|z - z_{dense}\|^2 / \|z_{dense}\|^2`.
    """
    pairs = list(zip(_listed(found), _listed(dense), strict=True))
    return sum(float(apart(a.double(), b.double(), len(pairs) == 1)) for a, b in pairs) / max(len(pairs), 1)


def apart(found: torch.Tensor, wanted: torch.Tensor, alone: bool, temperature: float = 1.0) -> torch.Tensor:
    """Return how far one output is from the wanted one, with a slope (`divergence_of`)."""
    if alone and wanted.ndim == 2 and wanted.shape[1] > 1:
        both = [F.log_softmax(x / temperature, 1) for x in (found, wanted)]
        return temperature**2 * F.kl_div(both[0], both[1], reduction="batchmean", log_target=True)
    return ((found - wanted) ** 2).sum() / (wanted**2).sum().clamp_min(1e-12)


def _listed(outputs: Any) -> list[torch.Tensor]:
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


@torch.inference_mode()
def outputs_of(model: nn.Module, images: Inputs, *, batch: int = 4) -> list[torch.Tensor]:
    """Return all outputs of a network for all images."""
    return joined([run_last(model.eval(), x) for x in split(images, batch)])


def logits(model: nn.Module, images: Inputs, *, batch: int = 4) -> torch.Tensor:
    """Return the outputs of a network of one output for all images."""
    return outputs_of(model, images, batch=batch)[0]
