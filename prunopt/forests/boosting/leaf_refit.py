r"""Leaf refit: all leaf values of a forest fitted jointly, its splits, hence its purchases, unchanged.

.. math:: \min_v \; \sum_i w_i \, \ell\Bigl(y_i, \, b + \sum_t v_{\mathrm{leaf}_t(x_i)}\Bigr)
    + \frac{\rho}{2} \sum_l \| v_l \|^2

is convex; a few steps of L-BFGS from the boosted values settle it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import minimize

from prunopt.core.arrays import Floats, Ints32
from prunopt.core.jit import njit
from prunopt.forests.boosting.boosting import Problem
from prunopt.forests.boosting.trees import GrownForest


def refitted(forest: GrownForest, data: Problem, ridge: float, iterations: int = 30) -> GrownForest:
    """Return the forest with the leaf values that fit ``data`` best; leaves that no row reaches get 0.

    Parameters
    ----------
    forest
        A pruned forest.
    data
        What the values are fitted to.
    ridge
        The penalty :math:`\\rho` > 0.
    iterations
        Most steps of L-BFGS.
    """
    if forest.n_trees == 0:
        return forest
    leaves = forest.leaves(data.codes)
    reached = np.zeros(forest.n_nodes, np.bool_)
    reached[leaves] = True
    column = (np.cumsum(reached, dtype=np.int32) - 1)[leaves]
    start = forest.value[reached]
    C = start.shape[1]
    scores = np.empty((len(data.target), C))
    gradient = np.empty_like(start)
    total = data.weight.sum()

    def loss(x: Floats) -> tuple[float, Floats]:
        values = x.reshape(start.shape)
        _forward(column, values, forest.base, scores)
        slope, _ = data.loss.derivatives(scores, data.target)
        _backward(column, slope * data.weight[:, None], gradient)
        value = data.weight @ data.loss.rows(scores, data.target) + ridge / 2 * np.square(values).sum()
        return float(value / total), (gradient + ridge * values).ravel() / total

    done = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": iterations, "maxcor": 8})
    value = np.zeros_like(forest.value)
    value[reached] = done.x.reshape(start.shape)
    return replace(forest, value=value)


@njit
def _forward(column: Ints32, values: Floats, base: Floats, scores: Floats) -> None:
    n, T = column.shape
    C = values.shape[1]
    for i in range(n):
        for c in range(C):
            scores[i, c] = base[c]
        for t in range(T):
            leaf = column[i, t]
            for c in range(C):
                scores[i, c] += values[leaf, c]


@njit
def _backward(column: Ints32, slope: Floats, gradient: Floats) -> None:
    n, T = column.shape
    C = slope.shape[1]
    gradient[:] = 0.0
    for i in range(n):
        for t in range(T):
            leaf = column[i, t]
            for c in range(C):
                gradient[leaf, c] += slope[i, c]
