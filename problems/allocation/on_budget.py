"""The exact budget map that every allocation goes through, and the checks of what all of them take."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats
from prunopt.core.validate import Shown, floats, invalid, number, require


def as_sizes(sizes: ArrayLike) -> Floats:
    """Return layer sizes, checked: one or more finite numbers > 0."""
    values = floats("sizes", sizes, ("layers",))
    require(values.size and values.min() > 0, "sizes", "hold a number > 0 for each layer", np.unique(values).tolist())
    return values


def as_bounds(bounds: Any, n: int) -> tuple[Floats, Floats]:
    """Return least and greatest sparsity of every layer: from one pair, or from an (n, 2) array."""
    pairs = floats("bounds", bounds)
    shape = Shown(f"shape {pairs.shape}")
    require(pairs.shape in ((2,), (n, 2)), "bounds", f"be (low, high), or such a pair for each of {n} layers", shape)
    low, high = np.broadcast_to(pairs, (n, 2)).T.copy()
    ok = np.all(low >= 0) and np.all(high <= 1) and np.all(low <= high)
    require(ok, "bounds", "meet 0 <= low <= high <= 1", bounds)
    return low, high


def as_sparsity(sparsity: float, sizes: Floats, low: Floats, high: Floats) -> float:
    """Return the mean sparsity asked for, checked against what the bounds allow."""
    s = number("sparsity", sparsity, low=0, high=1)
    least, most = float(sizes @ low / sizes.sum()), float(sizes @ high / sizes.sum())
    if not least - 1e-12 <= s <= most + 1e-12:
        side = f"at least {least:.6g}" if s < least else f"at most {most:.6g}"
        raise invalid("sparsity", f"be {side} within the bounds of the layers", sparsity, "or widen the bounds")
    return s


def on_budget(raw: ArrayLike, sizes: ArrayLike, sparsity: float, bounds: Any = (0.0, 1.0)) -> Floats:
    r"""Return the allocation nearest to ``raw`` that meets the budget exactly.

    .. math:: s_i = \min(h_i, \max(l_i, r_i + t)), \qquad \sum_i n_i s_i = S \sum_i n_i

    The shift t solves a piecewise linear equation; it is found between two of its corners, so that clipping does not
    break the budget. (The s_i minimize :math:`\sum_i n_i (s_i - r_i)^2` under the budget and the bounds.)

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
    r = floats("raw", raw, n.shape)
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
