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
    redundancy : (n, n) float
        Uncentered linear CKA of the blocks' inputs.
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
    redundancy: Floats
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
    errors, outliers, sizes = [], [], []
    samples: dict[str, list[Floats]] = {"weight": [], "wanda": [], "activation": []}
    for block in found:
        moments = stream.hessians(block, block.layers)
        rows_of: list[torch.Tensor] = []

        def take(layer: str, window: int, x: torch.Tensor, kept: list[torch.Tensor] = rows_of) -> None:
            if sum(map(len, kept)) < tokens:
                kept.append(x.float().cpu())

        stream.inputs(block, block.layers[:1], take)
        first = torch.cat(rows_of)[:tokens].numpy().astype(np.float64)
        inputs.append(first)
        curve, pool, weights, ratios = [], [], [], []
        size = 0
        for layer in block.layers:
            W = weight_of(block.module.get_submodule(layer)).detach().float().cpu().numpy().astype(np.float64)
            size += W.size
            H = np.asarray(moments[layer], np.float64)
            score = np.abs(W) * np.sqrt(np.maximum(np.diag(H), 0.0))
            ratios.append((int((score > OUTLIER * score.mean()).sum()), score.size))
            curve.append(error_curve(W, score, H, grid, rng=rng, rows=rows))
            share = KEPT // len(block.layers)
            at = rng.choice(W.size, min(share, W.size), replace=False)
            pool.append(score.ravel()[at])
            weights.append(W.ravel()[at])
        sizes.append(size)
        errors.append(np.mean(curve, axis=0))
        outliers.append(sum(a for a, _ in ratios) / sum(b for _, b in ratios))
        samples["wanda"].append(np.concatenate(pool))
        samples["weight"].append(np.concatenate(weights))
        samples["activation"].append(first.ravel()[rng.choice(first.size, min(KEPT, first.size), replace=False)])
        stream.advance(block)
    stream.close()
    shortest = min(len(x) for x in inputs)
    return BlockStatistics(
        np.array(sizes, np.float64),
        redundancy_matrix([x[:shortest] for x in inputs]),
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
