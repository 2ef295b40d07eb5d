"""The one kernel of optimal brain surgery: block elimination, with the inverse Hessian downdated and never re-inverted.

Removing the columns S of a layer with weights W and inverse Hessian C costs tr W_S (C_SS)^-1 W_S^T; what stays becomes

    W <- W - W_S (C_SS)^-1 C_S:        C <- C - C_:S (C_SS)^-1 C_S:

and the cost of the next removal follows from these, in any order. SlimGPT, OSSCAR, SparseGPT and OBC are all made of
this step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, solve_triangular

from prunopt.core.arrays import Floats, Ints
from prunopt.core.jit import njit

Array = NDArray[Any]  # of float64, or of float32 where a solver was asked for single precision
PRECISIONS: dict[str, type] = {"double": np.float64, "single": np.float32}
COMPACT = 0.75  # arrays are made smaller when less than this share of their columns is left


class Elimination:
    """A layer while columns are removed from it: the weights and inverse of what is left, and what it has cost.

    Parameters
    ----------
    weight : (out, in)
        The dense weights.
    inverse : (in, in)
        The inverse of the damped Hessian. Neither is changed.
    precision : str
        ``"double"`` or ``"single"``.
    """

    def __init__(self, weight: Array, inverse: Array, *, precision: str = "double") -> None:
        kind = PRECISIONS[precision]
        self.W: Array = np.array(weight, kind, order="F")
        self.C: Array = np.array(inverse, kind, order="F")
        self.cost = 0.0
        self.columns: Ints = np.arange(self.W.shape[1])  # the column of the layer that each column of the arrays is
        self.place: Ints = np.arange(self.W.shape[1])  # and back; -1 for those that are gone
        self.alive = np.ones(self.W.shape[1], np.bool_)
        self._gemm = blas.dgemm if precision == "double" else blas.sgemm

    def costs(self, groups: list[Ints]) -> Floats:
        """Return what each of the groups would cost; those of one size are factored together."""
        out = np.zeros(len(groups))
        sizes = np.array([len(g) for g in groups])
        for size in np.unique(sizes):
            which = np.flatnonzero(sizes == size)
            at = self.place[np.stack([groups[g] for g in which])]
            if size == 1:
                flat = at[:, 0]
                out[which] = np.einsum("ij,ij->j", self.W[:, flat], self.W[:, flat]) / self.C[flat, flat]
                continue
            L = np.linalg.cholesky(self.C[at[:, :, None], at[:, None, :]])
            half = np.linalg.solve(L, self.W.T[at])
            out[which] = np.einsum("gij,gij->g", half, half)
        return out

    def column_costs(self) -> Floats:
        """Return the cost of every single column of the arrays; inf for those that are gone."""
        squares = np.einsum("ij,ij->j", self.W, self.W).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.alive, squares / np.diagonal(self.C), np.inf)

    def remove(self, columns: Ints) -> float:
        """Remove ``columns`` (of the layer) for good and return what that costs."""
        at = self.place[columns]
        L = np.linalg.cholesky(self.C[at[:, None], at])
        half_W = solve_triangular(L, self.W[:, at].T, lower=True, check_finite=False)
        half_C = solve_triangular(L, self.C[at], lower=True, check_finite=False)
        self.W = self._gemm(-1.0, half_W, half_C, beta=1.0, c=self.W, trans_a=1, overwrite_c=1)
        self.C = self._gemm(-1.0, half_C, half_C, beta=1.0, c=self.C, trans_a=1, overwrite_c=1)
        self.W[:, at] = 0
        self.C[at] = 0
        self.C[:, at] = 0
        self.alive[at] = False
        self.place[columns] = -1
        spent = float(np.vdot(half_W, half_W))
        self.cost += spent
        if np.count_nonzero(self.alive) < COMPACT * len(self.alive):
            self._compact()
        return spent

    def _compact(self) -> None:
        keep = np.flatnonzero(self.alive)
        self.W = np.asfortranarray(self.W[:, keep])
        self.C = np.asfortranarray(self.C[:, keep][keep])
        self.columns, self.alive = self.columns[keep], np.ones(len(keep), np.bool_)
        self.place[self.columns] = np.arange(len(keep))

    def weights(self, shape: tuple[int, int]) -> Floats:
        """Return the re-solved weights in the layer's own shape."""
        out = np.zeros(shape)
        out[:, self.columns] = self.W
        return out


@njit
def greedy_in_pool(A: Floats, C: Floats, count: int) -> Ints:
    """Remove ``count`` columns one at a time, always the cheapest, looking at this pool of columns alone.

    ``A`` is the Gram matrix W^T W of the pool, ``C`` its part of the inverse; both are eliminated in place:
    with c = C_:p / C_pp,  A <- A - a c^T - c a^T + A_pp c c^T  and  C <- C - C_pp c c^T.
    """
    n = len(A)
    out = np.empty(count, np.int64)
    gone = np.zeros(n, np.bool_)
    c, a = np.empty(n), np.empty(n)
    for step in range(count):
        best, p = np.inf, -1
        for j in range(n):
            if not gone[j]:
                cost = A[j, j] / C[j, j]
                if cost < best or p < 0:
                    best, p = cost, j
        gone[p] = True
        out[step] = p
        own_a, own_c = A[p, p], C[p, p]
        for j in range(n):
            c[j], a[j] = C[p, j] / own_c, A[p, j]
        for i in range(n):
            if gone[i]:
                continue
            for j in range(n):
                A[i, j] += -a[i] * c[j] - c[i] * a[j] + own_a * c[i] * c[j]
                C[i, j] -= own_c * c[i] * c[j]
    return out
