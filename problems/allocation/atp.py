"""ATP: sparsities in an arithmetic progression from the first layer to the last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats
from prunopt.core.validate import number
from prunopt.problems.allocation.on_budget import as_sizes, on_budget

STEPS = (0.0, -0.25, -0.125, 0.125, 0.25)  # tried, as fractions of the steepest step


def steepest(n: int, sparsity: float) -> float:
    """Return the greatest step with which all n layers stay within 0 and 1."""
    return 2 * min(sparsity, 1 - sparsity) / max(1, n - 1)


def atp(sizes: ArrayLike, sparsity: float, beta: float, bounds: Any = (0.0, 1.0)) -> Floats:
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
    number("beta", beta)
    return on_budget(float(sparsity) + beta * (np.arange(len(n)) - (len(n) - 1) / 2), n, sparsity, bounds)


def best_progression(
    loss: Callable[[Floats], float], sizes: ArrayLike, sparsity: float, bounds: Any = (0.0, 1.0)
) -> Floats:
    """Return the progression of least loss among five steps, 0 among them."""
    n = as_sizes(sizes)
    most = steepest(len(n), sparsity)
    return min((atp(n, sparsity, step * most, bounds) for step in STEPS), key=loss)
