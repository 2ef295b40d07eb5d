"""The logarithmic allocation of SlimGPT: the sparsity rises with the logarithm of the layer's number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats
from prunopt.core.validate import number
from prunopt.problems.allocation.on_budget import as_sizes, on_budget


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
    s0 = 0.3125 * float(sparsity) if first is None else number("first", first, low=0, high=1)
    shape = np.log1p(np.arange(len(n))) / math.log(len(n)) if len(n) > 1 else np.ones(1)
    mean = float(n @ shape / n.sum())
    return on_budget(s0 + (float(sparsity) - s0) / mean * shape, n, sparsity, bounds)
