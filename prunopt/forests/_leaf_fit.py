"""Leaf values of all trees fitted jointly: the sums over trees, and the penalized loss that is minimized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize

from prunopt.core.arrays import Floats, Ints, Ints32
from prunopt.core.jit import njit


@dataclass(frozen=True, eq=False)
class LeafSums:
    """The leaf that each row reaches in each tree, as the linear map from leaf values to sums over the trees.

    Parameters
    ----------
    leaf : (n, T) int32
        Numbers of leaves; -1 where a tree does not count for the row.
    share : (n,) float64
        Factor of the sum of each row.
    n_leaves : int
        Number of leaves L.
    """

    leaf: Ints32
    share: Floats
    n_leaves: int

    def take(self, rows: Ints) -> LeafSums:
        """Return the map for some of the rows."""
        return replace(self, leaf=self.leaf[rows], share=self.share[rows])

    def __call__(self, values: Floats, base: Floats | None = None) -> Floats:
        """Return ``base`` (C,) and the sums of the leaf values (L, C) that each row reaches, (n, C)."""
        start = np.zeros(values.shape[1]) if base is None else base
        out = np.empty((len(self.leaf), values.shape[1]))
        _sums(self.leaf, self.share, values, start, out)
        return out

    def transposed(self, slope: Floats) -> Floats:
        """Return the sums of ``slope`` (n, C) over the rows that reach each leaf, (L, C)."""
        out = np.zeros((self.n_leaves, slope.shape[1]))
        _transposed_sums(self.leaf, self.share, slope, out)
        return out


def fit_leaves(
    sums: LeafSums,
    loss: Callable[[Floats], tuple[float, Floats]],
    start: Floats,
    ridge: float,
    *,
    anchor: Floats | None = None,
    bias: Floats | None = None,
    base: Floats | None = None,
    total: float = 1.0,
    **stop: Any,
) -> tuple[Floats, Floats]:
    r"""Minimize a convex loss of summed leaf values, by L-BFGS.

    .. math:: \min_{v, b} \; \text{loss}(\text{base} + \text{sums}(v) + b) + \frac{\rho}{2} \sum_l \| v_l - v^0_l \|^2

    Parameters
    ----------
    sums
        The leaves that rows reach.
    loss
        From scores (n, C) to the weighted loss and its derivatives.
    start : (L, C)
        Values to start from.
    ridge
        The penalty :math:`\rho` > 0.
    anchor : (L, C) or None
        The values :math:`v^0`; None = 0.
    bias : (C,) or None
        Bias to start from; None = no bias is fitted.
    base : (C,) or None
        Scores of no trees at all.
    total
        What the objective is divided by, which only its stopping rules see.
    **stop
        Options of L-BFGS.
    """
    L, C = start.shape
    zero = np.zeros_like(start) if anchor is None else anchor

    def objective(x: Floats) -> tuple[float, Floats]:
        moved, free = x[: L * C].reshape(L, C), x[L * C :]
        scores = sums(zero + moved, base)
        value, slope = loss(scores + free if len(free) else scores)
        gradient = (sums.transposed(slope) + ridge * moved).ravel()
        if len(free):
            gradient = np.concatenate([gradient, slope.sum(axis=0)])
        return float((value + ridge / 2 * np.square(moved).sum()) / total), gradient / total

    x0 = (start - zero).ravel() if bias is None else np.concatenate([(start - zero).ravel(), bias])
    options: Any = stop
    x = minimize(objective, x0, jac=True, method="L-BFGS-B", options=options).x
    return zero + x[: L * C].reshape(L, C), x[L * C :]


@njit
def _sums(leaf: Ints32, share: Floats, values: Floats, base: Floats, out: Floats) -> None:
    n, T = leaf.shape
    C = values.shape[1]
    for i in range(n):
        for c in range(C):
            out[i, c] = base[c]
        for t in range(T):
            h = leaf[i, t]
            if h >= 0:
                for c in range(C):
                    out[i, c] += share[i] * values[h, c]


@njit
def _transposed_sums(leaf: Ints32, share: Floats, slope: Floats, out: Floats) -> None:
    n, T = leaf.shape
    C = slope.shape[1]
    for i in range(n):
        for t in range(T):
            h = leaf[i, t]
            if h >= 0:
                for c in range(C):
                    out[h, c] += share[i] * slope[i, c]
