"""OWL: layers with more outliers among their scores keep more."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats
from prunopt.core.validate import floats, number
from prunopt.problems.allocation.on_budget import as_sizes, on_budget


def owl(
    outliers: ArrayLike, sizes: ArrayLike, sparsity: float, *, spread: float = 0.08, bounds: Any = (0.0, 1.0)
) -> Floats:
    r"""Return OWL's allocation [1]_: layers with more outliers keep more.

    .. math:: s_i = S - 2 \lambda \frac{d_i - \min d}{\max d - \min d} + t

    with the shift t that meets the budget.

    Parameters
    ----------
    outliers : (n,) float
        :math:`d_i`, the fraction of scores above M times their mean (M = 5 in the publication).
    sizes, sparsity, bounds
        As for `on_budget`.
    spread
        :math:`\lambda`: half of the range of sparsities.

    References
    ----------
    .. [1] L. Yin et al., "Outlier weighed layerwise sparsity (OWL)", ICML 2024.
    """
    n = as_sizes(sizes)
    d = floats("outliers", outliers, n.shape)
    number("spread", spread, low=0, high=1)
    span = float(d.max() - d.min())
    place = (d - d.min()) / span if span > 0 else np.zeros(len(d))
    return on_budget(float(sparsity) - 2 * spread * place, n, sparsity, bounds)
