"""Masks fitted to data: the error of the outputs on given inputs is what counts, not the error of each weight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from prunopt.core import validate
from prunopt.core.arrays import Bools, Floats
from prunopt.core.deprecation import renamed_arguments
from prunopt.forms.subset.subset_sum import SubsetSum
from prunopt.problems.lottery.lottery_ticket import LotteryTicket
from prunopt.problems.lottery.sampling import PoolBlock, products
from prunopt.solvers.subset_sum.subset_sum_mitm import size_error_fronts


@dataclass(frozen=True, eq=False)
class DataFit:
    """Masks fitted to data.

    Parameters
    ----------
    masks
        A value of the task (weights may be beyond its epsilon).
    kept
        Second weights kept.
    residuals
        Of each layer, mean over the inputs of the squared error of its outputs.
    """

    masks: tuple[Bools, ...]
    kept: int
    residuals: tuple[float, ...]


@renamed_arguments(price="penalty")
def data_masks(
    task: LotteryTicket, inputs: Tensor, *, penalty: float, sweeps: int = 3, largest: int = 6, damping: float = 1e-4
) -> DataFit:
    r"""Choose the masks that spoil the outputs of each layer on data least, with a penalty for every weight kept.

    .. math::
        \min_m \sum_i \Bigl( \tfrac1n \| (W_i - \hat W_i(m)) X \|^2 + \lambda \, |m_i| \Bigr), \qquad \tfrac1n \|
        e X \|^2 = e H e^\top, \quad H = \tfrac1n X X^\top + \text{damping} \, \tfrac{\operatorname{tr} H}{d} I

    by coordinate descent: with the errors of the others fixed, weight (i, j) has the best value :math:`w_{ij} -
    \sum_{l \ne j} H_{jl} e_{il} / H_{jj}`; the front of size against error of its pool about that value gives the best
    subset at this penalty, for all outputs i at once. The next weight compensates errors of the one before, which a
    tolerance for each weight cannot do. Each layer is fitted to the outputs of the target on the inputs that the layers
    found before it give. Every step lowers the objective; the minimum is local.

    Parameters
    ----------
    task
        The task, of linear layers whose inputs are never negative; its epsilon plays no part.
    inputs : (n, d) float
        Data.
    penalty
        :math:`\lambda` of a weight kept, in units of the mean squared error of a layer's output (summed over outputs).
    sweeps
        Passes over the weights of a layer.
    largest
        The most candidates that a weight may use.
    damping
        Added to H, relative to its mean diagonal.
    """
    validate.number("penalty", penalty, low=0)
    for layer in task.target.layers:
        plain, shown = not (layer.is_conv or layer.signed), validate.Shown(f"{layer.name}, a convolution or signed")
        validate.require(plain, "task", "have linear layers whose inputs are not signed", shown)
    exact = _activations(task.target_module, inputs)
    reached = exact[0]
    masks: list[Bools] = []
    residuals: list[float] = []
    for number, block in enumerate(task.blocks):
        layer, pair = task.target.layers[number], task.pairs[number]
        X = np.c_[reached, np.ones(len(reached))] if layer.has_bias else reached
        wanted = np.c_[exact[number], np.ones(len(reached))] if layer.has_bias else exact[number]
        H = X.T @ X / len(X)
        H += damping * np.trace(H) / len(H) * np.eye(len(H))
        # The best real weights on the inputs that arrive: what the layers before have spoiled is made up for here.
        goal = layer.weights + np.linalg.solve(H, X.T @ ((wanted - X) @ layer.weights.T) / len(X)).T
        mask, found = _descend(goal, products(pair, block), block, H, penalty, sweeps, largest, pair.second.shape)
        masks.append(mask)
        out = X @ found.T
        residuals.append(float(np.mean(np.sum((out - wanted @ layer.weights.T) ** 2, axis=1))))
        reached = np.maximum(out, 0.0)
    value = tuple(masks)
    return DataFit(value, int(task.objective(value)), tuple(residuals))


def _descend(
    goal: Floats,
    candidates: Floats,
    block: PoolBlock,
    H: Floats,
    penalty: float,
    sweeps: int,
    largest: int,
    shape: tuple[int, ...],
) -> tuple[Bools, Floats]:
    """The mask and the weights found."""
    outputs, taps, n = candidates.shape
    mask, found = np.zeros(shape, np.bool_), np.zeros((outputs, taps))
    top = min(largest, n)
    k = np.arange(top + 1)
    kept = np.zeros((outputs, taps, n), np.bool_)
    for sweep in range(sweeps):
        before = found.copy()
        for j in range(taps):
            error = found - goal
            # In the first pass weights not yet chosen count as exact: their error is 0.
            if sweep == 0:
                error[:, j:] = 0.0
            best = goal[:, j] - (error @ H[:, j] - error[:, j] * H[j, j]) / H[j, j]
            front = size_error_fronts(SubsetSum(best, candidates[:, j], 1.0), top)
            sizes = np.argmin(front.error**2 * H[j, j] + penalty * k, axis=1)
            kept[:, j] = front.mask(sizes)
            found[:, j] = np.where(kept[:, j], candidates[:, j], 0.0).sum(axis=1)
        if sweep and np.array_equal(before, found):
            break
    at = np.nonzero(kept & (block.index >= 0))
    mask[at[0], at[1], block.index[at]] = True
    return mask, found


def _activations(module: nn.Sequential, inputs: Tensor) -> list[Floats]:
    """What reaches each linear layer."""
    found: list[Floats] = []
    x = inputs
    with torch.no_grad():
        for part in module:
            if isinstance(part, nn.Linear):
                found.append(x.double().numpy())
            x = part(x.to(next(module.parameters()).dtype))
    return found
