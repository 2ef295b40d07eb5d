"""Allocations by rule: the exact budget map that all share, and uniform, log, arithmetic progression, outliers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats


def as_sizes(sizes: ArrayLike) -> Floats:
    """Return layer sizes, checked: one or more finite numbers > 0."""
    values = np.asarray(sizes)
    if values.ndim != 1 or not values.size or values.dtype.kind not in "fiu":
        raise ValueError(
            f"sizes: {values.dtype} of shape {values.shape} given; one number > 0 for each layer is needed"
        )
    values = values.astype(np.float64)
    if not np.all(np.isfinite(values)) or values.min() <= 0:
        raise ValueError(f"sizes: {values.min()} given; every size must be finite and > 0")
    return values


def as_bounds(bounds: Any, n: int) -> tuple[Floats, Floats]:
    """Return least and greatest sparsity of every layer: from one pair, or from an (n, 2) array."""
    pairs = np.asarray(bounds, np.float64)
    if pairs.shape not in ((2,), (n, 2)):
        raise ValueError(f"bounds: shape {pairs.shape} given; (low, high), or such a pair for each of {n} layers")
    low, high = np.broadcast_to(pairs, (n, 2)).T.copy()
    if not (np.all(low >= 0) and np.all(high <= 1) and np.all(low <= high)):
        raise ValueError(f"bounds={bounds!r}: give 0 <= low <= high <= 1")
    return low, high


def as_sparsity(sparsity: float, sizes: Floats, low: Floats, high: Floats) -> float:
    """Return the mean sparsity asked for, checked against what the bounds allow."""
    s = float(sparsity)
    least, most = float(sizes @ low / sizes.sum()), float(sizes @ high / sizes.sum())
    if not 0 <= s <= 1:
        raise ValueError(f"sparsity={sparsity!r}: give the fraction removed, 0 to 1")
    if not least - 1e-12 <= s <= most + 1e-12:
        side = f"at least {least:.6g}" if s < least else f"at most {most:.6g}"
        raise ValueError(f"sparsity={sparsity!r}: the bounds of the layers allow {side}; ask for that, or widen them")
    return s


def on_budget(raw: ArrayLike, sizes: ArrayLike, sparsity: float, bounds: Any = (0.0, 1.0)) -> Floats:
    r"""Return the allocation nearest to ``raw`` that meets the budget exactly.

    .. math:: s_i = \min(h_i, \max(l_i, r_i + t)), \qquad \sum_i n_i s_i = S \sum_i n_i

    The shift t solves a piecewise linear equation; it is found between two of its corners, so that clipping does not
    break the budget. (The s_i minimise :math:`\sum_i n_i (s_i - r_i)^2` under the budget and the bounds.)

    Parameters
    ----------
    raw : (n,) float
        What is wanted, finite.
    sizes : (n,) float
        Layer sizes.
    sparsity : float
        S, the fraction of all sizes to remove.
    bounds
        Least and greatest sparsity: one pair, or one for each layer.
    """
    n = as_sizes(sizes)
    r = np.asarray(raw, np.float64)
    if r.shape != n.shape or not np.all(np.isfinite(r)):
        raise ValueError(f"raw: shape {r.shape} given; {len(n)} finite numbers are needed")
    low, high = as_bounds(bounds, len(n))
    total = as_sparsity(sparsity, n, low, high) * n.sum()
    corners = np.unique(np.concatenate([low - r, high - r]))
    sums = np.array([n @ np.clip(r + t, low, high) for t in corners])
    k = int(np.searchsorted(sums, total))
    if k == 0:
        s = np.clip(r + corners[0], low, high)
    elif k == len(sums):
        s = np.clip(r + corners[-1], low, high)
    else:
        share = (total - sums[k - 1]) / (sums[k] - sums[k - 1])
        s = np.clip(r + corners[k - 1] + share * (corners[k] - corners[k - 1]), low, high)
    inside = (s > low) & (s < high)
    if inside.any():  # the last rounding error goes to the layers that can take it
        s[inside] = np.clip(s[inside] + (total - n @ s) / n[inside].sum(), low[inside], high[inside])
    return np.asarray(s, np.float64)


def uniform(sizes: ArrayLike, sparsity: float, bounds: Any = (0.0, 1.0)) -> Floats:
    """Return the same sparsity for every layer (as far as the bounds allow)."""
    n = as_sizes(sizes)
    return on_budget(np.full(len(n), float(sparsity)), n, sparsity, bounds)


def logarithmic(sizes: ArrayLike, sparsity: float, *, first: float | None = None, bounds: Any = (0.0, 1.0)) -> Floats:
    r"""Return the incremental pruning ratio of SlimGPT [1]_, :math:`s_i = s_0 + (s_1 - s_0) \ln(1 + i) / \ln n`.

    Parameters
    ----------
    sizes, sparsity, bounds
        As for `on_budget`, layers from the input to the output.
    first
        :math:`s_0`, the sparsity of the first layer; default 5/16 of the mean (the publication's .0625 at 20 %). The
        last follows from the budget.

    References
    ----------
    .. [1] G. Ling, Z. Wang, Y. Yan, Q. Liu, "SlimGPT: layer-wise structured pruning for large language models",
       NeurIPS 2024.
    """
    n = as_sizes(sizes)
    s0 = 0.3125 * float(sparsity) if first is None else float(first)
    if not 0 <= s0 <= 1:
        raise ValueError(f"first={first!r}: give the sparsity of the first layer, 0 to 1")
    shape = np.log1p(np.arange(len(n))) / math.log(len(n)) if len(n) > 1 else np.ones(1)
    mean = float(n @ shape / n.sum())
    return on_budget(s0 + (float(sparsity) - s0) / mean * shape, n, sparsity, bounds)


def progression(sizes: ArrayLike, sparsity: float, beta: float, bounds: Any = (0.0, 1.0)) -> Floats:
    r"""Return an arithmetic progression [1]_, :math:`s_i = S + \beta (i - (L - 1) / 2)`, made to meet the budget.

    Parameters
    ----------
    sizes, sparsity, bounds
        As for `on_budget`, layers from the input to the output.
    beta
        The step from layer to layer.

    References
    ----------
    .. [1] "Determining layer-wise sparsity for large language models through a theoretical perspective" (ATP),
       ICML 2025.
    """
    n = as_sizes(sizes)
    if not math.isfinite(beta):
        raise ValueError(f"beta={beta!r}: give a finite step")
    return on_budget(float(sparsity) + beta * (np.arange(len(n)) - (len(n) - 1) / 2), n, sparsity, bounds)


def outliers(
    shares: ArrayLike, sizes: ArrayLike, sparsity: float, *, spread: float = 0.08, bounds: Any = (0.0, 1.0)
) -> Floats:
    r"""Return OWL's allocation [1]_: layers with more outliers keep more.

    .. math:: s_i = S - 2 \lambda \frac{d_i - \min d}{\max d - \min d} + \text{what the budget asks}

    Parameters
    ----------
    shares : (n,) float
        :math:`d_i`, the share of scores above M times their mean (M = 5 in the publication).
    sizes, sparsity, bounds
        As for `on_budget`.
    spread
        :math:`\lambda`: half of the range of sparsities.

    References
    ----------
    .. [1] L. Yin et al., "Outlier weighed layerwise sparsity (OWL)", ICML 2024.
    """
    n, d = as_sizes(sizes), np.asarray(shares, np.float64)
    if d.shape != n.shape or not np.all(np.isfinite(d)):
        raise ValueError(f"shares: shape {d.shape} given; {len(n)} finite numbers are needed")
    if not 0 <= spread <= 1:
        raise ValueError(f"spread={spread!r}: give half of the range of sparsities, 0 to 1")
    span = float(d.max() - d.min())
    place = (d - d.min()) / span if span > 0 else np.zeros(len(d))
    return on_budget(float(sparsity) - 2 * spread * place, n, sparsity, bounds)
