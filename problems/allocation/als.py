"""Adaptive layer sparsity (ALS): a redundancy matrix, the weights from it, and the linear program in densities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats
from prunopt.core.validate import Shown, floats, one_of, require
from prunopt.forms.linear_program import LinearProgram
from prunopt.problems.allocation.on_budget import as_bounds, as_sizes, as_sparsity

SCALES = ("global", "row")


def redundancy_matrix(features: Sequence[ArrayLike]) -> Floats:
    r"""Return the uncentered linear CKA of every pair of feature matrices with the same rows.

    .. math:: \psi_{ij} = \frac{\|X_i^\top X_j\|_F^2}{\|X_i^\top X_i\|_F \, \|X_j^\top X_j\|_F} \in [0, 1]

    With N rows and d columns the numerator costs :math:`N d^2` over the columns, or :math:`N^2 d` once for each matrix
    over the rows, :math:`\|X_i^\top X_j\|_F^2 = \langle X_i X_i^\top, X_j X_j^\top \rangle`; the cheaper side is taken.

    Parameters
    ----------
    features : sequence of (N, d_i) arrays
        One row for each token; widths may differ.
    """
    X = [np.asarray(f, np.float64) for f in features]
    same = len(X) and all(x.ndim == 2 and len(x) == len(X[0]) and x.size for x in X)
    require(same, "features", "be matrices with the same number of rows", Shown(f"shapes {[x.shape for x in X]}"))
    n, widest = len(X[0]), max(x.shape[1] for x in X)
    psi = np.empty((len(X), len(X)))
    if n <= widest:
        grams = np.stack([(x @ x.T).ravel() for x in X])
        psi = grams @ grams.T
    else:
        for i, a in enumerate(X):
            for j in range(i + 1):
                psi[i, j] = psi[j, i] = float(np.square(a.T @ X[j]).sum())
    size = np.sqrt(np.diag(psi))
    ok = np.isfinite(psi).all(axis=1) & (size > 0)
    require(ok.all(), "features", "be finite and not all zero", Shown(f"layer {int(np.argmin(ok))} that is not"))
    return np.asarray(np.clip(psi / np.outer(size, size), 0.0, 1.0), np.float64)


def importance(redundancy: ArrayLike, *, scale: str = "global") -> Floats:
    r"""Return ALS's weights of the layers, :math:`c_i = \frac{1}{L - i} \sum_{j \ge i} e^{-\rho_j / \mu}`.

    :math:`\rho_i = \sum_j \psi_{ij} - 1`. The publication's scale :math:`\mu = \frac1n \sum_j \psi_{ij}` can be read as
    one number for all layers (``"global"``, the mean of all entries), or as each row's own mean (``"row"``), with
    which :math:`\rho_i / \mu_i = L - 1 / \mu_i`.
    """
    psi = floats("redundancy", redundancy, ("n", "n"))
    require(psi.size and len(psi) == psi.shape[1], "redundancy", "be square", Shown(f"shape {psi.shape}"))
    one_of("scale", scale, SCALES)
    rho = psi.sum(axis=1) - 1.0
    mu = np.full(len(psi), psi.mean()) if scale == "global" else psi.mean(axis=1)
    require(np.all(mu > 0), "redundancy", "have 1 on the diagonal", Shown("a row of zeros"))
    omega = np.exp(-(rho / mu - (rho / mu).min()))  # a common factor changes no optimum, and spares underflow
    return np.array([omega[i:].mean() for i in range(len(psi))])


def density_program(weights: ArrayLike, sizes: ArrayLike, sparsity: float, bounds: Any) -> LinearProgram:
    r"""Return the linear program of ALS in densities.

    .. math:: \max_k \sum_i c_i k_i \quad \text{s.t.} \quad \sum_i n_i k_i \le (1 - S) \sum_i n_i, \quad
              1 - h_i \le k_i \le 1 - l_i

    As printed, with the fraction *removed* as the variable and an upper limit on the size, every layer would go to its
    upper bound; the form makes sense for densities only, and so it is meant here. The program is in
    :math:`x_i = k_i - (1 - h_i) \ge 0`, sizes as shares of their sum.
    """
    n, c = as_sizes(sizes), np.asarray(weights, np.float64)
    low, high = as_bounds(bounds, len(n))
    s = as_sparsity(sparsity, n, low, high)
    share = n / n.sum()
    room = max(0.0, (1.0 - s) - float(share @ (1.0 - high)))
    return LinearProgram(-c, share[None, :], [room], high - low)
