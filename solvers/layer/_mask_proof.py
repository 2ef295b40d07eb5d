"""How far a mask can be from the best one: a diagonal below the Hessian and a point for each row, improved in turn."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from prunopt.core.arrays import Floats
from prunopt.core.solver import Run
from prunopt.forms.layer.mask_blocks import MaskBlocks
from prunopt.solvers.layer._mask_ascent_kernel import sweep_rows

ROWS = 16  # rows that share a pass over the matrix
NARROW = 0.1  # what a step of the barrier leaves of its parameter
NEAR = 2e-2  # share of the diagonal's worth that the barrier may cost at its end
RAISE = 0.7  # exponent of a price's correction by the share of weights that are kept
EVEN = 0.05  # share of the mean that every entry of the diagonal is worth at least


def floor_of(normal: Floats, worth: Floats) -> Floats | None:
    r"""Return :math:`\delta > 0` of large :math:`\sum_i worth_i \delta_i` with H - diag(delta) positive definite.

    Newton steps on the barrier problem :math:`\max \sum_i m_i \delta_i + \mu \log\det(H - D) + \mu \sum_i \log
    \delta_i`, in units of the diagonal of H; None where H is too close to singular.
    """
    from scipy.linalg import eigh, lapack

    scale = np.diagonal(normal)
    root = np.sqrt(scale)
    C = normal / np.outer(root, root)
    d = len(C)
    m = worth * scale
    m = m / m.mean() if m.sum() > 0 else np.ones(d)
    m = (m + EVEN) / (1 + EVEN)
    smallest = float(eigh(C, eigvals_only=True, subset_by_index=[0, 0])[0])
    spare = 4 * d * (d + 4) * float(np.finfo(np.float64).eps)
    if smallest <= 2 * spare:
        return None
    C[np.diag_indices(d)] -= spare

    def factor(t: Floats) -> Any:
        left = np.array(C, order="F")
        left[np.diag_indices(d)] -= t
        found, info = lapack.dpotrf(left, lower=1, clean=1, overwrite_a=1)
        return None if info else found

    t = np.full(d, 0.5 * (smallest - spare))
    lower, mu = factor(t), float(m @ t) / d
    while lower is not None:
        inverse = lapack.dpotri(lower, lower=1)[0]
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        gradient = m / mu - np.diagonal(inverse) + 1 / t
        hessian = inverse**2
        hessian[np.diag_indices(d)] += 1 / t**2
        step = lapack.dposv(hessian, gradient, lower=1)[1]
        length = min(1.0, 0.9 / max(float((-step / t).max()), 1e-300))
        while (fresh := factor(t + length * step)) is None and length > 1e-6:
            length *= 0.5
        if fresh is None:
            break
        t, lower = t + length * step, fresh
        if length == 1.0:
            if 2 * d * mu < NEAR * float(m @ t):
                break
            mu *= NARROW
        elif length < 1e-6:
            break
    return t * scale


class Ascent:
    """The certificate of one layer while it is improved: the diagonal, the points, and the bound of each row."""

    def __init__(self, problem: MaskBlocks, weights: Floats, delta: Floats, n_jobs: int) -> None:
        self.problem, self.delta = problem, delta
        self.P = np.array(problem.normal)
        self.P[np.diag_indices_from(self.P)] -= delta
        self.W, self.V = problem.weight, np.array(weights)
        self.Y = (self.W - self.V) @ self.P
        self.threads = n_jobs if n_jobs > 0 else os.cpu_count() or 1
        self.best = np.array([-np.inf])
        self.changes = self.W - self.V
        self.price = self._spread(self._scores())

    def _scores(self) -> Floats:
        return np.asarray(self.delta * (self.W + self.Y / self.delta) ** 2)

    def _spread(self, scores: Floats) -> Floats:
        """The score between those removed and those kept in each unit, as a table of the weight's shape."""
        table, n = self.problem.units(scores), self.problem.n_removed
        if n in (0, table.shape[1]):
            return np.zeros(self.W.shape)
        ranked = np.partition(table, (n - 1, n), axis=1)
        middle = np.maximum((ranked[:, n - 1] + ranked[:, n]) / 2, np.finfo(np.float64).tiny)
        return np.array(np.broadcast_to(middle[:, None], table.shape).reshape(self.W.shape))

    def note(self) -> float:
        """Keep the points that prove more than those before; return the bound of the best."""
        scores = self._scores()
        table, n = self.problem.units(scores), self.problem.n_removed
        least = np.partition(table, n - 1, axis=1)[:, :n].sum(axis=1) if n else np.zeros(len(table))
        spent = ((self.W - self.V) * self.Y + self.Y**2 / self.delta).sum(axis=1)
        whole = len(least) < len(self.W)  # one unit, the layer: only its total counts
        bound = np.array([least.sum() - spent.sum()]) if whole else least.reshape(len(self.W), -1).sum(axis=1) - spent
        better = bound > self.best
        if whole:
            if better[0]:
                self.changes = self.W - self.V
        else:
            self.changes[better] = (self.W - self.V)[better]
        self.best = np.maximum(self.best, bound)
        return float(self.best.sum())

    def sweep(self) -> None:
        """Sweep over all rows once, then correct the prices by the shares that are kept."""

        def part(start: int) -> None:
            at = slice(start, start + ROWS)
            sweep_rows(self.W[at], self.P, self.delta, self.price[at], self.V[at], self.Y[at])

        with ThreadPoolExecutor(self.threads) as threads:
            list(threads.map(part, range(0, len(self.W), ROWS)))
        table = self.problem.units(self.share)
        kept = table.shape[1] - self.problem.n_removed
        if kept:
            factor = np.clip(table.sum(axis=1) / kept, 0.5, 2.0) ** RAISE
            self.price *= np.broadcast_to(factor[:, None], table.shape).reshape(self.W.shape)

    @property
    def share(self) -> Floats:
        """The relaxed mask z, from 0 to 1."""
        most = np.sqrt(np.maximum(self.price / self.delta, np.finfo(np.float64).tiny))
        return np.minimum(np.abs(self.V) / most, 1.0)

    @property
    def worth(self) -> Floats:
        """What the bound grows by with each entry of the diagonal: the sum over rows of v^2 (1 / z - 1)."""
        z = self.share
        return np.asarray((self.V**2 * (1 / np.where(z > 0, z, 1.0) - 1)).sum(axis=0))


def prove(problem: MaskBlocks, weights: Floats, sweeps: int, run: Run, n_jobs: int = -1) -> dict[str, Floats]:
    """Return the duals of a bound, from the weights of a good mask; empty where the Hessian is too near singular.

    Half of the sweeps are made for a diagonal that is worth most in units of the Hessian's own, half for the diagonal
    that is worth most to the points then found.
    """
    found: dict[str, Floats] = {}
    best = -np.inf
    with threadpool_limits(1, "blas"):
        worth = np.ones(problem.shape[1]) / np.diagonal(problem.normal)
        for part in (sweeps - sweeps // 2, sweeps // 2):
            if run.out_of_time or not part:
                break
            delta = floor_of(problem.normal, worth)
            if delta is None:
                break
            state = Ascent(problem, weights, delta, n_jobs)
            total = state.note()
            for _ in range(part):
                if run.out_of_time:
                    break
                state.sweep()
                total = state.note()
            worth, weights = state.worth, state.V
            if total > best:
                best, found = total, {"floor": delta, "changes": state.changes}
    return found
