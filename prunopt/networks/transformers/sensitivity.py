"""Error curves of blocks on a grid of levels, weighted by what pruning each block alone does to the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prunopt.api import solve
from prunopt.core.arrays import Floats
from prunopt.forms import MultipleChoiceKnapsack, QuadraticSubset
from prunopt.networks.transformers.calibration import Activations, as_calibration
from prunopt.networks.transformers.families import Block, blocks, replace_weight, weight_of
from prunopt.networks.transformers.surgery import parameters_of
from prunopt.networks.transformers.text import divergence, logits_of

SPREAD = (0.0, 0.3, 0.55, 0.75, 0.9, 1.0, 1.1, 1.25, 1.45, 1.7, 2.0)  # levels, as multiples of the sparsity
MOST = 0.95


@dataclass(frozen=True, eq=False)
class Sensitivity:
    r"""Error curves of blocks, and what one point of each does to the whole model.

    Parameters
    ----------
    levels : (levels,) float
        Fractions of the neurons removed, from 0.
    errors : (blocks, levels) float
        Relative error of the projection down, re-solved, on the inputs of the dense model.
    divergences : (blocks,) float
        KL(dense || model) in nats per token, with only that block pruned, at level ``base``.
    base : int
        Which of the levels.
    neurons : (blocks, levels) int
        Neurons removed.
    """

    levels: Floats
    errors: Floats
    divergences: Floats
    base: int
    neurons: NDArray[np.int64]

    @property
    def weighted(self) -> Floats:
        r"""Expected divergences, :math:`\gamma_l e_l(s)` with :math:`\gamma_l = KL_l / e_l(base)`."""
        scale = self.divergences / np.maximum(self.errors[:, self.base], np.finfo(np.float64).tiny)
        out: Floats = self.errors * scale[:, None]
        return out


@torch.no_grad()
def neuron_sensitivity(
    model: nn.Module,
    calibration: Any,
    sparsity: float,
    *,
    damping: float = 0.1,
    kl_windows: int = 2,
) -> Sensitivity:
    """Measure every block of a transformer, all others dense.

    Neurons are removed by wanda's score, and the projection down is re-solved. The divergence takes one pass of the
    model over ``kl_windows`` windows for each block.

    Parameters
    ----------
    model, calibration
        As of `prune_transformer`.
    sparsity
        The mean fraction of neurons to remove; levels lie around it.
    """
    tokens, found = as_calibration(calibration), blocks(model)
    widths = np.array([0 if b.feed_forward is None else b.feed_forward.width for b in found])
    levels = np.unique(np.minimum(np.array(SPREAD) * sparsity, MOST))
    base = int(np.argmin(np.abs(levels - sparsity)))
    neurons = np.round(levels[None, :] * widths[:, None]).astype(np.int64)
    errors, effects = np.zeros(neurons.shape), np.zeros(len(found))
    windows = tokens.windows[:kl_windows]
    dense = [logits_of(model, w[None])[0].float().log_softmax(-1) for w in windows]
    stream = Activations(model, found, tokens)
    for k, block in enumerate(found):
        if block.feed_forward is not None:
            errors[k], effects[k] = _measure(model, block, stream, neurons[k], base, damping, dense, windows)
        stream.advance(block)
    stream.close()
    return Sensitivity(levels, errors, effects, base, neurons)


def _measure(
    model: nn.Module, block: Block, stream: Activations, neurons: NDArray[np.int64], base: int, damping: float,
    dense: Sequence[torch.Tensor], windows: torch.Tensor,
) -> tuple[Floats, float]:  # fmt: skip
    assert block.feed_forward is not None
    layer, name = block.feed_forward.projection, block.layer_of(block.feed_forward)
    weight = weight_of(layer).detach().double().cpu().numpy()
    hessian = stream.hessians(block, [name])[name]
    order = np.argsort((weight**2).sum(axis=0) * np.diagonal(hessian), kind="stable")
    single = np.arange(weight.shape[1])[:, None]
    form = QuadraticSubset(weight, hessian, single, 0, damping=damping)
    whole, effect = form.error(np.zeros(weight.shape)), 0.0
    errors = np.zeros(len(neurons))
    for i, count in enumerate(neurons):
        if count == 0:
            continue
        new = form.lift(order[:count])
        errors[i] = form.error(new) / whole
        if i == base:
            replace_weight(layer, torch.from_numpy(new))
            effect = divergence(model, dense, windows)
            replace_weight(layer, torch.from_numpy(weight))
    return errors, effect


def best_sparsities(found: Sensitivity, model: nn.Module, sparsity: float) -> tuple[Floats, float]:
    """Return the sparsity of each block's parameters where the expected divergences add up to least.

    A multiple-choice knapsack over the levels, solved exactly; also returned is its relative gap (0 if proven).
    The sum is a model of the whole: blocks are measured alone, with the others dense.
    """
    sizes = [parameters_of(b) for b in blocks(model)]
    total = sum(s["attention"] + s["feed_forward"] for s in sizes)
    unit = int(np.gcd.reduce([s["neuron"] for s in sizes]))
    freed = found.neurons * np.array([s["neuron"] // unit for s in sizes])[:, None]
    # Kept parameters are the cost: at most what the budget leaves.
    kept = freed.max() - freed
    budget = int(kept.shape[0] * freed.max() - np.ceil(sparsity * total / unit))
    answer = solve(MultipleChoiceKnapsack(found.weighted, kept, budget))
    chosen = np.take_along_axis(found.neurons, np.asarray(answer.value)[:, None], axis=1)[:, 0]
    gone = [n * s["neuron"] / (s["attention"] + s["feed_forward"]) for n, s in zip(chosen, sizes, strict=True)]
    return np.array(gone), answer.gap
