"""Edge-popup: the mask of a random network trained by gradient descent on scores."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class EdgePopup:
    """A trained mask.

    Parameters
    ----------
    module
        The masked random network.
    kept
        Number of weights kept.
    sampled
        Number of weights of the random network.
    """

    module: nn.Sequential
    kept: int
    sampled: int


class _TopShare(torch.autograd.Function):
    """The mask of the greatest scores; gradients pass straight through to the scores."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, count: int) -> Tensor:
        mask = torch.zeros_like(scores).flatten()
        mask[scores.flatten().topk(count).indices] = 1.0
        return mask.view_as(scores)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _he_scales(module: nn.Sequential, keep: float) -> dict[str, float]:
    """Positive factors of weights and biases: activations of a steady size, and the same function but for its size."""
    scales: dict[str, float] = {}
    so_far = 1.0
    for place, layer in module.named_modules():
        weight: Any = getattr(layer, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        prefix = f"{place}." if place else ""
        size = float(weight.detach().square().mean().sqrt())
        own = (2.0 / (keep * weight[0].numel())) ** 0.5 / size if size > 0 else 1.0
        so_far *= own
        scales |= {f"{prefix}weight": own, f"{prefix}bias": so_far}
    return scales


def edge_popup(
    network: nn.Sequential,
    inputs: Tensor,
    labels: Tensor,
    *,
    keep: float,
    epochs: int = 60,
    learning_rate: float = 0.01,
    seed: int = 0,
) -> EdgePopup:
    r"""Train a mask that keeps a share of every weight tensor of a random network [1]_; no weight is changed.

    Every weight has a score; the forward pass uses the weights whose scores are greatest in size, layer by layer, the
    backward pass takes the mask for the identity. Scores start as those of He's initialization and are trained by Adam
    on the cross-entropy, in batches of 64. For the training, weights are scaled layer by layer as He's initialization
    would (biases by what came before them as well), which scales a ReLU network's output and leaves its labels.

    Parameters
    ----------
    network
        The random network.
    inputs, labels
        Training data.
    keep
        The share kept, above 0 and up to 1.
    epochs, learning_rate, seed
        The training.

    References
    ----------
    .. [1] V. Ramanujan, M. Wortsman, A. Kembhavi, A. Farhadi, M. Rastegari, "What's hidden in a randomly weighted
       neural network?", CVPR 2020.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep!r}: give a share above 0 and up to 1")
    module = copy.deepcopy(network).float()
    weights = {name: value.detach() for name, value in module.named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    scores = {
        name: (torch.randn(w.shape, generator=generator) / max(1, w.shape[-1]) ** 0.5).requires_grad_(True)
        for name, w in weights.items()
    }
    counts = {name: max(1, round(keep * w.numel())) for name, w in weights.items()}
    scales = _he_scales(module, keep)

    def masked(scales: dict[str, float]) -> dict[str, Tensor]:
        top: Any = _TopShare.apply
        return {name: scales[name] * w * top(scores[name].abs(), counts[name]) for name, w in weights.items()}

    optimiser = torch.optim.Adam(list(scores.values()), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs), generator=generator).split(64):  # type: ignore[no-untyped-call]
            optimiser.zero_grad()
            output = torch.func.functional_call(module, masked(scales), (inputs[rows].float(),))
            nn.functional.cross_entropy(output, labels[rows]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        schedule.step()
    with torch.no_grad():
        for name, value in masked(dict.fromkeys(weights, 1.0)).items():
            dict(module.named_parameters())[name].copy_(value)
    return EdgePopup(module.eval(), sum(counts.values()), sum(w.numel() for w in weights.values()))
