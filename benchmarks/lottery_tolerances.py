"""Tolerances spread over the weights, so that the certificate of the output meets a target with the fewest kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.problems.lottery.certificate import Certificate
from prunopt.problems.lottery.lottery_ticket import LotteryTicket
from prunopt.solvers.subset_sum.subset_sum_mitm import Fronts, size_error_fronts

HALVINGS = 40
ROUNDS = 12


@dataclass(frozen=True, eq=False)
class Spread:
    """A mask whose weights have tolerances of their own.

    Parameters
    ----------
    masks
        A value of the task; weights may be beyond the task's own epsilon, the certificate says how far.
    kept
        Second weights kept.
    certificate
        What is proven of it.
    """

    masks: tuple[Bools, ...]
    kept: int
    certificate: Certificate


def fronts_of(task: LotteryTicket, largest: int = 8) -> Fronts:
    """Return size against error of every weight of a task, for up to ``largest`` candidates."""
    form = task.reduce().form
    return size_error_fronts(form, min(largest, form.n_candidates))


def uniform_tolerance(
    task: LotteryTicket, bound: float, *, fronts: Fronts | None = None, radius: float = 1.0
) -> Spread:
    """Return the plain way: one tolerance for all weights, the greatest whose certificate meets ``bound``."""
    fronts = fronts_of(task) if fronts is None else fronts

    def spread(epsilon: float) -> Spread:
        fits = fronts.error <= epsilon
        sizes = np.where(fits.any(axis=1), fits.argmax(axis=1), fronts.error.shape[1] - 1)
        return _spread(task, fronts, sizes, radius)

    low, high = 1e-8, float(np.abs(task.reduce().form.targets).max())
    return _bisect(spread, low, high, bound)


def spread_tolerances(
    task: LotteryTicket, bound: float, *, fronts: Fronts | None = None, radius: float = 1.0
) -> Spread:
    r"""Keep the fewest weights whose certificate meets a bound on the output error.

    Every weight chooses a point (size k, error) of its front. With :math:`S_l` the sum of the squared errors of layer
    l and :math:`\alpha_l` the certificate's weight of the layer, the certificate is at most :math:`\sum_l \alpha_l
    \sqrt{S_l}` to first order, so a multiple-choice knapsack is solved by prices: each weight takes the k with the
    least :math:`k + \lambda_l \, \text{error}_k^2`, where :math:`\lambda_l = \mu \alpha_l / (2 \sqrt{S_l})` is found
    by repetition. The true certificate, with spectral norms, decides on :math:`\mu` by halving; the plain answer (one
    tolerance for all) is kept where it is better. A heuristic: the spectral norm is not separable.

    Parameters
    ----------
    task
        The task; its epsilon plays no part.
    bound
        What the certificate of the output error may be.
    fronts
        From `fronts_of`.
    radius
        Radius of the ball of inputs.

    Raises
    ------
    ValueError
        If even the nearest subsets do not meet the bound; the message names the least that they do meet.
    """
    fronts = fronts_of(task) if fronts is None else fronts
    layer = np.concatenate([np.full(b.index.shape[:2], b.pair).ravel() for b in task.blocks])
    n_layers = len(task.target.layers)
    plain = uniform_tolerance(task, bound, fronts=fronts, radius=radius)
    squared, k = fronts.error**2, np.arange(fronts.error.shape[1])
    slopes = _slopes(plain.certificate, radius)

    def sizes(price: float) -> Ints:
        total: Any = np.ones(n_layers)
        at = np.zeros(len(layer), np.int64)
        for _ in range(ROUNDS):
            rate = (price * slopes / (2 * np.sqrt(np.maximum(total, 1e-18))))[layer]
            at = np.argmin(k + rate[:, None] * squared, axis=1)
            total = np.bincount(layer, squared[np.arange(len(layer)), at], minlength=n_layers)
        return at

    def spread(loose: float) -> Spread:
        return _spread(task, fronts, sizes(math.exp(-loose)), radius)

    best = _bisect(spread, -40.0, 20.0, bound)
    return best if best.kept <= plain.kept else plain


def _slopes(certificate: Certificate, radius: float) -> Floats:
    """How much the certificate grows with the norm of the error of each layer, to first order."""
    rows, out, reach = certificate.layers, [], radius
    for i, row in enumerate(rows):
        out.append(reach * math.prod(later["norm"] for later in rows[i + 1 :]))
        reach = row["norm"] * reach + row["bias_norm"]
    return np.array(out)


def _spread(task: LotteryTicket, fronts: Fronts, sizes: Ints, radius: float) -> Spread:
    masks = task.reduce().back(fronts.mask(sizes))
    return Spread(masks, int(task.objective(masks)), task.certificate(masks, radius))


def _bisect(spread: Any, low: float, high: float, bound: float) -> Spread:
    """The last of the spreads between ``low`` (strict) and ``high`` (loose) whose certificate meets the bound."""
    best: Spread = spread(low)
    if best.certificate.error_bound > bound:
        raise ValueError(
            f"bound={bound!r}: the nearest subsets are certified to {best.certificate.error_bound:.6g}; give that or "
            "more, or more neurons (width)"
        )
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high) if low > 0 else (low + high) / 2
        found: Spread = spread(middle)
        if found.certificate.error_bound <= bound:
            low = middle
            best = found if found.kept <= best.kept else best
        else:
            high = middle
    return best
