"""What allocations are made from: a transformer's scores, redundancy and error curves, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from prunopt.core.arrays import Floats
from prunopt.networks.transformers.calibration import Activations, as_calibration
from prunopt.networks.transformers.families import blocks, weight_of
from prunopt.problems.allocation.als import redundancy_matrix

KEPT = 16384  # numbers of a block that statistics keep
OUTLIER = 5.0  # OWL's M: a score is an outlier above so many times the mean


@dataclass(frozen=True, eq=False)
class BlockStatistics:
    r"""One calibration pass over a transformer, in numbers that allocations need.

    Parameters
    ----------
    sizes : (n,) float
        Weights of each block's linear layers.
    part_sizes
        The same by layer of the block.
    redundancy : (n, n) float
        Uncentred linear CKA of the blocks' inputs.
    part_redundancy
        For each block the same of its layers' outputs (all layers of a block see nearly one input).
    levels : (K,) float
        Fractions removed at which `errors` are known.
    errors : (n, K) float
        Mean over a block's layers of the relative error of Wanda's masks, :math:`\|\Delta W X\|^2 / \|W X\|^2`, the
        inputs' second moments being those of the dense model.
    outliers : (n,) float
        Share of Wanda scores above 5 times their mean, in the block.
    samples
        ``{"weight", "wanda", "activation"}``: an array for each block, for expressions.
    """

    sizes: Floats
    part_sizes: tuple[dict[str, int], ...]
    redundancy: Floats
    part_redundancy: tuple[Floats, ...]
    levels: Floats
    errors: Floats
    outliers: Floats
    samples: dict[str, list[Floats]]


@torch.no_grad()
def block_statistics(
    model: nn.Module,
    calibration: Any,
    *,
    levels: Sequence[float] = tuple(np.arange(2, 19) / 20),
    tokens: int = 1024,
    rows: int = 64,
    seed: int = 0,
) -> BlockStatistics:
    """Pass the calibration through the dense model once, block by block.

    Parameters
    ----------
    model
        A transformer of a known family.
    calibration
        As for `prune_transformer`.
    levels
        Fractions removed for the error curves, rising.
    tokens
        Tokens whose features enter the redundancy matrices.
    rows
        Rows of each weight that error curves are measured on; 0: all.
    seed
        Of what is sampled.
    """
    found, data = blocks(model), as_calibration(calibration)
    rng, grid = np.random.default_rng(seed), np.asarray(levels, np.float64)
    stream = Activations(model, found, data)
    inputs: list[Floats] = []
    part_redundancy, errors, outliers, sizes = [], [], [], []
    samples: dict[str, list[Floats]] = {"weight": [], "wanda": [], "activation": []}
    for block in found:
        moments = stream.hessians(block, block.layers)
        features: dict[str, list[torch.Tensor]] = {}

        def take(layer: str, window: int, x: torch.Tensor, kept: dict[str, list[torch.Tensor]] = features) -> None:
            if sum(len(part) for part in kept.get(layer, ())) < tokens:
                kept.setdefault(layer, []).append(x.float().cpu())

        stream.inputs(block, block.layers, take)
        first = torch.cat(features[block.layers[0]])[:tokens].numpy().astype(np.float64)
        inputs.append(first)
        outs, curve, pool, weights, ratios = [], [], [], [], []
        part: dict[str, int] = {}
        for layer in block.layers:
            W = weight_of(block.module.get_submodule(layer)).detach().float().cpu().numpy().astype(np.float64)
            part[layer] = W.size
            outs.append(torch.cat(features[layer])[:tokens].numpy().astype(np.float64) @ W.T)
            H = np.asarray(moments[layer], np.float64)
            score = np.abs(W) * np.sqrt(np.maximum(np.diag(H), 0.0))
            ratios.append((int((score > OUTLIER * score.mean()).sum()), score.size))
            curve.append(error_curve(W, score, H, grid, rng=rng, rows=rows))
            share = KEPT // len(block.layers)
            at = rng.choice(W.size, min(share, W.size), replace=False)
            pool.append(score.ravel()[at])
            weights.append(W.ravel()[at])
        sizes.append(part)
        part_redundancy.append(redundancy_matrix(outs))
        errors.append(np.mean(curve, axis=0))
        outliers.append(sum(a for a, _ in ratios) / sum(b for _, b in ratios))
        samples["wanda"].append(np.concatenate(pool))
        samples["weight"].append(np.concatenate(weights))
        samples["activation"].append(first.ravel()[rng.choice(first.size, min(KEPT, first.size), replace=False)])
        stream.advance(block)
    stream.close()
    shortest = min(len(x) for x in inputs)
    return BlockStatistics(
        np.array([sum(part.values()) for part in sizes], np.float64),
        tuple(sizes),
        redundancy_matrix([x[:shortest] for x in inputs]),
        tuple(part_redundancy),
        grid,
        np.array(errors),
        np.array(outliers),
        samples,
    )


def error_curve(
    weight: Floats, score: Floats, hessian: Floats, levels: Floats, *, rng: np.random.Generator, rows: int = 64
) -> Floats:
    r"""Return the relative error :math:`\mathrm{tr}(\Delta W H \Delta W^\top) / \mathrm{tr}(W H W^\top)` at each level.

    In every row the weights of least score are removed.
    """
    if rows and rows < len(weight):
        chosen = np.sort(rng.choice(len(weight), rows, replace=False))
        weight, score = weight[chosen], score[chosen]
    order = score.argsort(axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(weight.shape[1]), order.shape), axis=1)
    whole = float(((weight @ hessian) * weight).sum())
    found = []
    for level in levels:
        gone = np.where(rank < round(float(level) * weight.shape[1]), weight, 0.0)
        found.append(float(((gone @ hessian) * gone).sum()) / max(whole, 1e-300))
    return np.array(found)


def single_block_losses(evaluator: Any, n: int, level: float, *, fidelity: float = 1.0) -> Floats:
    """Return the evaluator's loss with one block at a time pruned to ``level``, shape (n,); n evaluations.

    With an evaluator of the divergence from the dense model these are the KL of `LayerAllocation.from_curves`.
    """
    return np.array([evaluator.loss(np.where(np.arange(n) == i, level, 0.0), fidelity=fidelity) for i in range(n)])
