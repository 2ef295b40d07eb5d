"""Least squares for every row of a layer on the weights that its mask keeps."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Bools, Floats

DIRECT = 1024  # inputs up to which each row is factored; beyond, conjugate gradients on all rows together
TOLERANCE = 1e-7  # of the gradient on the kept weights, relative to the largest of W H; the loss is off by its square
STEPS = 400


def masked_least_squares(
    weight: Floats, normal: Floats, mask: Bools, start: ArrayLike | None = None, *, direct: int = DIRECT
) -> tuple[Floats, float]:
    r"""Minimize tr (W - W') H (W - W')^T over W' that are 0 where ``mask`` is False.

    Row i is optimal when its gradient :math:`((W' - W) H)_{i,K_i}` vanishes on the kept columns K_i. Equal masks share
    one factorization.

    Returns
    -------
    weight : (out, in) float
    residual : float
        The largest entry of that gradient, relative to the largest of W H.
    """
    d = weight.shape[1]
    target = weight @ normal
    solved = _by_factors(target, normal, mask) if d <= direct else _by_gradients(weight, normal, mask, start, target)
    gradient = np.where(mask, solved @ normal - target, 0.0)
    scale = float(np.abs(target).max(initial=0.0))
    return solved, float(np.abs(gradient).max(initial=0.0)) / scale if scale > 0 else 0.0


def _by_factors(target: Floats, normal: Floats, mask: Bools) -> Floats:
    from scipy.linalg import lapack

    solved = np.zeros_like(target)
    packed = np.packbits(mask, axis=1)
    rows: dict[bytes, list[int]] = {}
    for i in range(len(mask)):
        rows.setdefault(packed[i].tobytes(), []).append(i)
    for members in rows.values():
        at = np.array(members, np.int64)
        K = np.flatnonzero(mask[members[0]])
        if len(K):
            matrix = np.asfortranarray(normal[K[:, None], K])
            found, info = lapack.dposv(matrix, target[at[:, None], K].T, lower=1, overwrite_a=1)[1:]
            if info:
                raise ValueError(f"hessian: not positive definite on the {len(K)} kept columns; give damping > 0")
            solved[at[:, None], K] = found.T
    return solved


def _by_gradients(weight: Floats, normal: Floats, mask: Bools, start: ArrayLike | None, target: Floats) -> Floats:
    """Conjugate gradients preconditioned by the diagonal, one step length for every row."""
    free = mask.astype(np.float64)
    x = free * (weight if start is None else np.asarray(start, np.float64))
    scale = free / np.diagonal(normal)
    r = free * (target - x @ normal)
    z = scale * r
    p, q = z.copy(), np.empty_like(z)
    rz = np.einsum("ij,ij->i", r, z)
    enough = TOLERANCE * float(np.abs(target).max(initial=0.0))
    for _ in range(STEPS):
        if max(float(r.max(initial=0.0)), -float(r.min(initial=0.0))) <= enough:
            break
        np.matmul(p, normal, out=q)
        q *= free
        pq = np.einsum("ij,ij->i", p, q)
        alpha = np.where(pq > 0, rz / np.where(pq > 0, pq, 1.0), 0.0)[:, None]
        x += alpha * p
        q *= alpha
        r -= q
        np.multiply(scale, r, out=z)
        fresh = np.einsum("ij,ij->i", r, z)
        p *= np.where(rz > 0, fresh / np.where(rz > 0, rz, 1.0), 0.0)[:, None]
        p += z
        rz = fresh
    return np.asarray(x)
