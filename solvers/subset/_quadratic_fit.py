"""A quadratic model of a loss over subsets, by ridge regression on single items and pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from prunopt.core.arrays import Bools, Floats

PAIR_SCALES = (0.0, 0.03, 0.1, 0.3, 1.0)  # prior variance of a pair, of that of a single item
RIDGES = tuple(10.0**k for k in np.arange(-6.0, 3.1, 0.5))  # of the mean diagonal of the kernel


@dataclass(frozen=True)
class Fit:
    """The model a + l x + x q x, and how well it predicts losses that it has not seen.

    Parameters
    ----------
    error
        Weighted root mean square of leave-one-out residuals over the spread of the losses: 1 is no better than a mean.
    log
        Whether it is the logarithm of the loss that is modeled.
    """

    constant: float
    linear: Floats
    pair: Floats
    error: float
    log: bool


def fit_quadratic(masks: Bools, losses: Floats) -> Fit:
    r"""Fit losses (of positive ones the logarithm) as a quadratic function of the mask.

    With z = x - mean, the kernel is :math:`K = c + Z Z^T + s \sum_{i<j} z_i z_j z'_i z'_j`. The scale s of the pairs
    and the ridge are those of the least weighted leave-one-out error; samples weigh
    :math:`1 / (1 + (y - y_{min}) / (y_{med} - y_{min}))`, so that the model is best where the loss is low.
    """
    log = bool((losses > 0).all())
    y = np.log(losses) if log else losses.astype(np.float64)
    low, middle = float(y.min()), float(np.median(y))
    weight = 1.0 / (1.0 + (y - low) / max(middle - low, 1e-12))
    weight /= weight.mean()
    x = masks.astype(np.float64)
    mean = x.mean(axis=0)
    z = x - mean
    singles = z @ z.T
    squares = z**2
    pairs = (singles**2 - squares @ squares.T) / 2
    offset = float(np.average(y, weights=weight))
    t = y - offset
    level = max(float(np.trace(singles)) / len(y), 1e-300)  # also the prior variance of the constant
    spread = math.sqrt(float(np.average(t**2, weights=weight)))
    best: tuple[float, float, Floats] | None = None
    for scale in PAIR_SCALES:
        kernel = singles + scale * pairs + level
        values, vectors = np.linalg.eigh(np.sqrt(weight)[:, None] * kernel * np.sqrt(weight))
        turned = vectors.T @ (np.sqrt(weight) * t)
        for ridge in RIDGES:
            shrunk = 1.0 / (np.maximum(values, 0.0) + ridge * level)
            diagonal = (vectors**2) @ shrunk
            dual = vectors @ (shrunk * turned)
            residual = dual / np.maximum(diagonal, 1e-300)  # leave-one-out, of sqrt(w) t
            error = float(np.mean(residual**2))
            if best is None or error < best[0]:
                best = error, scale, np.sqrt(weight) * dual
    assert best is not None
    error, scale, alpha = best
    beta = z.T @ alpha
    gamma = np.triu(scale * (z.T * alpha) @ z, 1)
    both = gamma + gamma.T
    constant = offset + level * float(alpha.sum()) - float(beta @ mean) + float(mean @ gamma @ mean)
    return Fit(constant, beta - both @ mean, gamma, math.sqrt(error) / max(spread, 1e-300), log)
