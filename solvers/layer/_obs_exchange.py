"""Exchanging removed groups of columns for kept ones: what every exchange is worth, exactly.

With S removed and K kept let M = (H_KK)^-1 and W' the re-solved weights. Taking a group s back borders M by s:

    sigma = H_ss - H_sK M H_Ks,   u = M H_Ks,   rho = (W H)_s - W' H_:s
    M <- [M + u sigma^-1 u^T, -u sigma^-1; . , sigma^-1],   W'_s = rho sigma^-1,   W'_K <- W'_K - rho sigma^-1 u^T

which gains tr rho sigma^-1 rho^T; removing t afterwards costs the block cost of t in that state.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from prunopt.core.arrays import Bools
from prunopt.forms.layer.quadratic_subset import QuadraticSubset
from prunopt.solvers.layer._obs_kernel import Elimination


def best_exchange(
    problem: QuadraticSubset, removed: Bools, stop: Callable[[], bool] = lambda: False
) -> tuple[float, int, int]:
    """Return the change of E by the best exchange, the group taken back, and the group removed instead.

    ``removed`` flags the removed groups. Without an exchange to try, the change is 0 and the groups are -1. Once
    ``stop`` says so, the best of those looked at is returned.
    """
    if not removed.any() or removed.all():
        return 0.0, -1, -1
    return _single_columns(problem, removed) if problem.singles else _blocks(problem, removed, stop)


def _single_columns(problem: QuadraticSubset, removed: Bools) -> tuple[float, int, int]:
    from scipy.linalg import cho_factor, cho_solve, lapack

    H, W = problem.normal, np.asarray(problem.weight)
    owned = np.concatenate(problem.members)
    S, T = owned[removed], owned[~removed]
    gone = np.zeros(len(H), np.bool_)
    gone[S] = True
    K = np.flatnonzero(~gone)
    factor = cho_factor(H[np.ix_(K, K)], lower=True, overwrite_a=True, check_finite=False)
    u = cho_solve(factor, H[np.ix_(K, S)], check_finite=False)
    inverse_diagonal = np.diagonal(lapack.dpotri(factor[0], lower=1)[0])
    kept_W = W[:, K] + W[:, S] @ u.T
    sigma = H[S, S] - np.einsum("ks,ks->s", H[np.ix_(K, S)], u)
    rho = W[:, S] @ H[np.ix_(S, S)] - (kept_W - W[:, K]) @ H[np.ix_(K, S)]
    g = np.einsum("is,is->s", rho, rho)
    at = np.searchsorted(K, T)
    u, kept_W, m = u[at], kept_W[:, at], inverse_diagonal[at]
    a = np.einsum("it,it->t", kept_W, kept_W)
    share = u / sigma
    cost = a[:, None] - 2 * share * (kept_W.T @ rho) + share**2 * g
    cost /= m[:, None] + u * share
    change = cost - (g / sigma)[None, :]
    t, s = np.unravel_index(int(np.argmin(change)), change.shape)
    return float(change[t, s]), int(np.flatnonzero(removed)[s]), int(np.flatnonzero(~removed)[t])


def _blocks(problem: QuadraticSubset, removed: Bools, stop: Callable[[], bool]) -> tuple[float, int, int]:
    best = (0.0, -1, -1)
    now = eliminated(problem, removed).cost
    kept = np.flatnonzero(~removed)
    for s in np.flatnonzero(removed):
        if stop():
            break
        without = removed.copy()
        without[s] = False
        layer = eliminated(problem, without)
        costs = layer.costs([problem.members[t] for t in kept])
        t = int(np.argmin(costs))
        change = layer.cost + float(costs[t]) - now
        if change < best[0]:
            best = (change, int(s), int(kept[t]))
    return best


def eliminated(problem: QuadraticSubset, removed: Bools) -> Elimination:
    """Return the layer after all flagged groups are removed at once."""
    layer = Elimination(problem.weight, problem.inverse)
    if removed.any():
        layer.remove(np.concatenate([problem.members[g] for g in np.flatnonzero(removed)]))
    return layer
