"""A lower bound for masks of a layer by sorting, evaluated so that rounding can only make it smaller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from prunopt.core.arrays import Floats
from prunopt.core.solution import CertificateError

EPS = float(np.finfo(np.float64).eps)  # twice the unit roundoff: a factor 2 to spare everywhere below


def surely_below(floor: Floats, normal: Floats) -> bool:
    """Whether H - diag(floor) is positive semidefinite, proven by a Cholesky factorization in floating point.

    It runs to its end on the matrix less d (d + 4) eps of H's diagonal only where that margin outweighs its own
    rounding [1]_: the error is at most d (d + 2) u of the diagonal in norm, after scaling by it.

    References
    ----------
    .. [1] S. M. Rump, "Verification of positive definiteness", BIT 46 (2006).
    """
    from scipy.linalg import lapack

    d = len(normal)
    left = np.array(normal, order="F")
    left[np.diag_indices(d)] -= floor + d * (d + 4) * EPS * np.diagonal(normal)
    return bool(np.all(np.diagonal(left) >= 0)) and int(lapack.dpotrf(left, lower=1, overwrite_a=1)[1]) == 0


def floor_bound(weight: Floats, normal: Floats, floor: Any, changes: Any, least: Callable[[Floats], float]) -> float:
    r"""Return a lower bound on what every mask loses, from a diagonal below H and a point for each row.

    With :math:`D = \operatorname{diag}(\delta) \preceq H`, :math:`P = H - D`, any u and y = P u, every w' obeys

    .. math:: (w - w') P (w - w')^T \ge 2 (w - w') y - u y.

    What is left of :math:`(w - w') H (w - w')^T` is a sum over single weights, least at
    :math:`w'_i = w_i + y_i / \delta_i` where i is kept, so that a row that removes S loses at least

    .. math:: -u y - \sum_i \frac{y_i^2}{\delta_i} + \sum_{i \in S} \delta_i \Bigl(w_i + \frac{y_i}{\delta_i}\Bigr)^2

    and the least over all masks, ``least`` of the scores in the last sum, is found by sorting.

    Notes
    -----
    y is off by at most e, d eps (\|u\| \|H\|): the scores are taken at their least within that, what is subtracted at
    its most. E itself is computed with rounding: with c the change of the weights, its terms have the total
    :math:`\sum_{ij} |H_{ij} c_i c_j| \le \sum_i (H_{ii} / \delta_i) \; E`, so the bound is lowered by as many
    roundings of that as there are terms in a sum, and stays below every objective that the form evaluates.
    """
    delta, U = np.asarray(floor, np.float64), np.asarray(changes, np.float64)
    rows, d = weight.shape
    if delta.shape != (d,) or not np.all(np.isfinite(delta)) or np.any(delta <= 0):
        raise CertificateError(f"duals['floor']: {d} numbers > 0 are needed")
    if U.shape != (rows, d) or not np.all(np.isfinite(U)):
        raise CertificateError(f"duals['changes']: ({rows}, {d}) finite numbers are needed")
    if not surely_below(delta, normal):
        raise CertificateError("duals['floor']: it is not below the Hessian")
    Y = U @ normal - U * delta
    off = (d + 4) * EPS * (np.abs(U) @ np.abs(normal) + np.abs(U) * delta)
    size = np.abs(Y) + off
    point = np.abs(weight + Y / delta) - off / delta - 4 * EPS * (np.abs(weight) + np.abs(Y) / delta)
    gained = least(delta * np.maximum(point, 0.0) ** 2)
    spent = float((U * Y).sum() + (np.abs(U) * off).sum() + (size**2 / delta).sum())
    terms = gained + float((np.abs(U) * size).sum() + (size**2 / delta).sum())
    proven = gained - spent - (rows + d) * EPS * terms
    rounding = 2 * EPS * (rows * d + d) * float((np.diagonal(normal) / delta).sum())
    return max(proven * (1 - rounding), 0.0) if proven > 0 else 0.0
