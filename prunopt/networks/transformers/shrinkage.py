"""How far the Hessian of a layer is shrunk towards its diagonal: chosen by windows left out, layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from prunopt.core.arrays import Floats
from prunopt.networks.transformers import distributed
from prunopt.networks.transformers.calibration import CHUNK, Activations
from prunopt.networks.transformers.families import Block
from prunopt.networks.transformers.layer import LayerGoal, relative_error, shrunk
from prunopt.solvers.layer.wanda import wanda_choice

AUTO = "auto"
Folds = list[tuple[float, Floats]]  # weights, and Hessians
FOLDS = 3
GRID = (0.02, 0.1, 0.2, 0.3, 0.5, 0.7)  # and 1, where the weights that stay are left as they are
KEPT = 0.98  # of what re-solving gains on windows left out; chosen on two texts, see benchmarks
SOLVED, LEAST, MOST = 16384, 8, 32  # numbers of the rows that are solved, and how many rows at least and at most


def fold_hessians(stream: Activations, block: Block, layer: str, fold: torch.Tensor | None = None) -> Folds:
    """Return the weight of each fold of the calibration, and the mean of x x^T over its tokens.

    Windows that count are dealt out to three folds; of fewer than three windows, thirds of each are the folds. Of
    several processes each adds up its own windows; ``fold`` (n, length) has the numbers of their folds (None:
    `folds_of`).
    """
    weights = stream.weights_of(block, layer)
    fold = folds_of(weights) if fold is None else fold
    sums: dict[int, torch.Tensor] = {}

    def take(name: str, window: int, rows: torch.Tensor) -> None:
        scaled = rows.float() * weights[window].sqrt().float()[:, None].to(rows.device)
        for f in torch.unique(fold[window]).tolist():
            total = sums.setdefault(f, torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64))
            for part in torch.split(scaled[(fold[window] == f).to(rows.device)], CHUNK):
                total += (part.T @ part).to(total.device)

    stream.inputs(block, [layer], take)
    shares = {f: float(weights[fold == f].sum()) for f in sums}
    size = distributed.rank_and_size()[1]
    if size > 1:
        like = next(iter(sums.values()))
        held = {str(f): sums.get(f, torch.zeros_like(like)).numpy() for f in range(FOLDS)}
        sums = {int(f): torch.from_numpy(size * mean) for f, mean in distributed.summed(held, 1.0).items()}
        shares = dict(enumerate(distributed.added([shares.get(f, 0.0) for f in range(FOLDS)])))
    return [(shares[f], ((h + h.T) / (2 * shares[f])).numpy()) for f, h in sorted(sums.items()) if shares[f] > 0]


def folds_of(weights: torch.Tensor) -> torch.Tensor:
    """Return the number of each token's fold, (n, length), by what tokens count."""
    counts, (n, length) = weights.sum(dim=1) > 0, weights.shape
    place = torch.cumsum(counts.long(), 0) - 1
    if int(counts.sum()) >= FOLDS:
        return (place % FOLDS)[:, None].expand(n, length)
    return (torch.arange(length) * FOLDS // max(length, 1))[None, :].expand(n, length)


def mean_of(folds: Folds) -> Floats:
    """Return the Hessian of all folds together."""
    whole: Floats = sum(w * h for w, h in folds) / sum(w for w, _ in folds)  # type: ignore[assignment]
    return whole


def chosen_shrinkage(weight: Floats, folds: Folds, goal: LayerGoal, damping: float, *, seed: int = 0) -> float:
    r"""Return the largest shrinkage that keeps 98 % of what re-solving gains on windows left out.

    With e(r) the mean over folds of the relative error, on a fold, of rows re-solved for the Hessian of the other folds
    that is shrunk by r, and e(1) that of the same masks with the weights left as they are, it is

    .. math:: \max \Big\{ r : e(r) \le \min_s e(s) + 0.02 \, \big( e(1) - \min_s e(s) \big) \Big\}.

    Another text differs more than windows of one text do: of shrinkages that serve the windows about as well, the
    largest serves other texts best. Where re-solving gains nothing on windows left out, it is 1. Masks are Wanda's, and
    some rows stand for all.

    Parameters
    ----------
    weight : (out, in) float
        The dense weights.
    folds
        Of `fold_hessians`.
    goal
        What is removed.
    damping
        As a multiple of the mean diagonal.
    seed
        Of the rows.
    """
    if len(folds) < 2:
        return 1.0
    count = min(len(weight), max(LEAST, min(MOST, SOLVED // max(weight.shape[1], 1))))
    rows = np.sort(np.random.default_rng(seed).choice(len(weight), count, replace=False))
    some = np.ascontiguousarray(weight[rows])
    damping = max(damping, 1e-3)  # what folds leave out may make the rest singular
    value: Any = wanda_choice(goal.form(some, mean_of(folds), damping))
    grid = np.array((*GRID, 1.0))
    errors = np.zeros(len(grid))
    for k, (share, left_out) in enumerate(folds):
        rest = mean_of([fold for j, fold in enumerate(folds) if j != k])
        for i, r in enumerate(grid):
            form = goal.form(some, shrunk(rest, float(r)), damping)
            new = form.masked(value) if r == 1 else form.lift(value)
            errors[i] += share * relative_error(some, new, left_out)
    least = errors.min()
    fitting = errors <= least + (1 - KEPT) * (errors[-1] - least)
    return float(grid[np.flatnonzero(fitting)[-1]])
