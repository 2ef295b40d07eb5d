"""Adaptive layer sparsity (ALS): a redundancy matrix, and the linear program in densities that it weighs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats
from prunopt.forms.linear_program import LinearProgram
from prunopt.problems.allocation.baselines import as_bounds, as_sizes, as_sparsity, on_budget

SCALES = ("global", "row")


def redundancy_matrix(features: Sequence[ArrayLike], *, normalise: str | None = None) -> Floats:
    r"""Return the uncentred linear CKA of every pair of feature matrices with the same rows.

    .. math:: \psi_{ij} = \frac{\|X_i^\top X_j\|_F^2}{\|X_i^\top X_i\|_F \, \|X_j^\top X_j\|_F} \in [0, 1]

    With N rows and d columns the numerator costs :math:`N d^2` over the columns, or :math:`N^2 d` once for each matrix
    over the rows, :math:`\|X_i^\top X_j\|_F^2 = \langle X_i X_i^\top, X_j X_j^\top \rangle`; the cheaper side is taken.

    Parameters
    ----------
    features : sequence of (N, d_i) arrays
        One row for each token; widths may differ.
    normalise
        None; ``"token"``: rows of unit length; ``"feature"``: columns of mean 0 and deviation 1. (The publication
        names a feature norm without its formula; these are two readings.)
    """
    X = [np.asarray(f, np.float64) for f in features]
    if not X or any(x.ndim != 2 or len(x) != len(X[0]) or not x.size for x in X):
        raise ValueError(f"features: shapes {[x.shape for x in X]}; matrices with the same number of rows are needed")
    if normalise not in (None, "token", "feature"):
        raise ValueError(f"normalise={normalise!r}: give None, 'token' or 'feature'")
    if normalise == "token":
        X = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in X]
    elif normalise == "feature":
        X = [(x - x.mean(0)) / np.maximum(x.std(0), 1e-12) for x in X]
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
    if not np.all(np.isfinite(psi)) or np.any(size <= 0):
        raise ValueError(
            "features: NaN, infinity or a matrix of zeros given; every layer needs finite, non-zero features"
        )
    return np.asarray(np.clip(psi / np.outer(size, size), 0.0, 1.0), np.float64)


def importance(redundancy: ArrayLike, *, scale: str = "global") -> Floats:
    r"""Return ALS's weights of the layers, :math:`c_i = \frac{1}{L - i} \sum_{j \ge i} e^{-\rho_j / \mu}`.

    :math:`\rho_i = \sum_j \psi_{ij} - 1`. The publication's scale :math:`\mu = \frac1n \sum_j \psi_{ij}` can be read as
    one number for all layers (``"global"``, the mean of all entries), or as each row's own mean (``"row"``), with
    which :math:`\rho_i / \mu_i = L - 1 / \mu_i`.
    """
    psi = np.asarray(redundancy, np.float64)
    if psi.ndim != 2 or psi.shape[0] != psi.shape[1] or not psi.size or not np.all(np.isfinite(psi)):
        raise ValueError(f"redundancy: shape {psi.shape} given; a square matrix of finite numbers is needed")
    if scale not in SCALES:
        raise ValueError(f"scale={scale!r}: give one of {', '.join(SCALES)}")
    rho = psi.sum(axis=1) - 1.0
    mu = np.full(len(psi), psi.mean()) if scale == "global" else psi.mean(axis=1)
    if np.any(mu <= 0):
        raise ValueError(
            "redundancy: a row of zeros; every layer is at least redundant with itself (1 on the diagonal)"
        )
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


def within_layers(
    layer_sparsity: ArrayLike,
    redundancies: Sequence[ArrayLike],
    sizes: Sequence[Mapping[str, float]],
    *,
    bounds: Any = (0.3, 0.7),
    scale: str = "global",
) -> list[dict[str, float]]:
    """Share each layer's budget out among its parts (q, k, v, o, gate, up, down): ALS's secondary allocation.

    Parameters
    ----------
    layer_sparsity : (L,) float
        From the first allocation.
    redundancies
        For each layer the redundancy matrix of its parts, in the order of ``sizes``.
    sizes
        For each layer the size of every part, by name.
    bounds
        Least and greatest sparsity of a part; widened where a layer's own sparsity is outside.

    Returns
    -------
    list of dict
        For each layer the sparsity of every part.
    """
    found = []
    for s, psi, parts in zip(np.asarray(layer_sparsity, np.float64), redundancies, sizes, strict=True):
        n = as_sizes(list(parts.values()))
        low, high = as_bounds(bounds, len(n))
        pair = np.stack([np.minimum(low, s), np.maximum(high, s)], axis=1)
        weights = importance(psi, scale=scale) * n.sum() / n
        order = np.argsort(-weights, kind="stable")
        # One row: the fractional knapsack. Parts that weigh most per parameter stay densest.
        wanted, left = pair[:, 1].copy(), float((1 - s) * n.sum() - n @ (1 - pair[:, 1]))
        for i in order:
            step = min(pair[i, 1] - pair[i, 0], max(0.0, left) / n[i])
            wanted[i] -= step
            left -= step * n[i]
        found.append(dict(zip(parts, on_budget(wanted, n, float(s), pair).tolist(), strict=True)))
    return found
