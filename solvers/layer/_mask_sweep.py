"""One sweep over the columns of a layer, removing single weights and making up for them with the columns still to come.

With C = H^-1 = U^T U (U upper triangular) row i of U holds what the inverse of the columns i, i+1, ... needs: removing
weight w_i moves those by -(w_i / U_ii) U_i: (Frantar & Alistarh, SparseGPT, ICML 2023). Rows of the layer are
independent; columns are handled in blocks, and what a block does to all later columns is one product.
"""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.jit import njit
from prunopt.core.solution import Solution
from prunopt.core.solver import Run
from prunopt.core.validate import Shown, require
from prunopt.forms.layer.mask_blocks import MaskBlocks
from prunopt.solvers.layer._answer import answer

WAYS = 20_000  # patterns of one block that are looked at


def upper_factor(normal: Floats) -> Floats:
    """Return the upper triangular U with U^T U = H^-1: the inverse of R in H = R R^T, R upper triangular too."""
    from scipy.linalg import lapack

    lower, info = lapack.dpotrf(np.flip(normal), lower=1, clean=1)
    where = Shown(f"a negative pivot in column {len(normal) - info}")
    require(not info, "hessian", "be positive definite", where, "raise the damping")
    return np.ascontiguousarray(lapack.dtrtri(np.flip(lower), lower=0)[0])


def sweep(problem: MaskBlocks, lazy: int, exact: int | None) -> tuple[Bools, Floats]:
    """Return a mask and the weights that the sweep leaves.

    ``exact`` None takes weights by the published score w^2 / U_ii^2; else blocks of ``exact`` columns (those of the
    pattern, where there is one) are taken by the exact joint cost of what is removed in them.
    """
    W = np.array(problem.weight)
    U = upper_factor(problem.normal)
    mask = np.ones(W.shape, np.bool_)
    d = W.shape[1]
    if problem.pattern is not None:
        exact = problem.pattern[1] if exact is not None else None
        lazy = max(lazy // problem.pattern[1], 1) * problem.pattern[1]
    for start in range(0, d, lazy):
        stop = min(start + lazy, d)
        block, part = W[:, start:stop].copy(), np.ascontiguousarray(U[start:stop, start:stop])
        if problem.pattern is None:
            kept = _thresholded(problem, block**2 / np.diagonal(part) ** 2, mask, stop)
        else:
            kept = np.ones(block.shape, np.bool_)
        spent = np.zeros(block.shape)
        if exact is not None:
            for b in range(0, stop - start, exact):
                e = min(b + exact, stop - start)
                removed = None if problem.pattern is None else problem.n_removed
                kept[:, b:e] = _exact_block(block, np.ascontiguousarray(part[b:e]), kept[:, b:e], b, spent, removed)
        elif problem.pattern is None:
            _columns(block, part, kept, spent, 0, 0)
        else:
            _columns(block, part, kept, spent, problem.pattern[1], problem.n_removed)
        block[~kept] = 0
        W[:, start:stop], mask[:, start:stop] = block, kept
        if stop < d:
            W[:, stop:] -= spent @ U[start:stop, stop:]
    return mask, W


def swept(problem: MaskBlocks, name: str, run: Run, lazy: int, exact: int | None) -> Solution[Bools]:
    """Return the mask of a sweep as a solution, with the error of the sweep's own weights beside it."""
    mask, weights = sweep(problem, lazy, exact)
    refit = problem.solved(mask, weights)
    stats = {"error without refit": problem.error(weights), "refit residual": refit.residual}
    return answer(problem, mask, name, run, stats=stats)


def _thresholded(problem: MaskBlocks, scores: Floats, mask: Bools, stop: int) -> Bools:
    """Keep all but the cheapest of a block of columns, as many as the share of the columns up to ``stop``."""
    rows, d = problem.shape
    if problem.scope == "row":
        units, wanted = scores, round(problem.n_removed * stop / d)
        so_far = int(np.count_nonzero(~mask[0]))
    else:
        units, wanted = scores.reshape(1, -1), round(problem.n_removed / rows * rows * stop / d)
        so_far = int(np.count_nonzero(~mask))
    kept = np.ones(units.shape, np.bool_)
    count = min(max(wanted - so_far, 0), units.shape[1])
    np.put_along_axis(kept, np.argsort(units, axis=1, kind="stable")[:, :count], False, axis=1)
    return kept.reshape(scores.shape)


@njit
def _columns(W: Floats, U: Floats, kept: Bools, spent: Floats, block: int, removed: int) -> None:
    """Remove one column after the other; where ``block`` > 0 the pattern is chosen when its first column is reached."""
    rows, n = W.shape
    for r in range(rows):
        for j in range(n):
            if block > 0 and j % block == 0:
                for _ in range(removed):
                    best, at = np.inf, -1
                    for k in range(j, j + block):
                        score = (W[r, k] / U[k, k]) ** 2
                        if kept[r, k] and (at < 0 or score < best):
                            best, at = score, k
                    kept[r, at] = False
            if not kept[r, j]:
                error = W[r, j] / U[j, j]
                spent[r, j] = error
                for k in range(j, n):
                    W[r, k] -= error * U[j, k]


def _exact_block(W: Floats, U: Floats, kept: Bools, start: int, spent: Floats, removed: int | None) -> Bools:
    """Choose what to remove from the columns ``start``, ... of every row by the exact joint cost, and make up for it.

    ``U`` holds the block's rows of the factor. Without ``removed``, each row removes as many as ``kept`` does.
    """
    size = len(U)
    here = slice(start, start + size)
    inverse = U[:, here].T @ U[:, here]
    counts = np.count_nonzero(~kept, axis=1) if removed is None else np.full(len(W), removed)
    out = np.ones((len(W), size), np.bool_)
    for count in np.unique(counts):
        rows = np.flatnonzero(counts == count)
        if count == 0:
            continue
        ways = patterns(size, int(count))
        solves = np.linalg.inv(inverse[ways[:, :, None], ways[:, None, :]])
        w = W[rows, here]
        chosen = ways[_cheapest_way(np.ascontiguousarray(w), ways, solves, best := np.zeros(len(rows), np.int64))]
        out[rows[:, None], chosen] = False
        pull = np.einsum("ri,rij->rj", np.take_along_axis(w, chosen, axis=1), solves[best])
        spent[rows, here] = np.einsum("rj,rjk->rk", pull, U[:, here].T[chosen])
    W[:, start:] -= spent[:, here] @ U[:, start:]
    return out


@njit
def _cheapest_way(w: Floats, ways: Ints, solves: Floats, best: Ints) -> Ints:
    """Fill ``best`` with the way of least w_P (C_PP)^-1 w_P for every row of ``w``."""
    n, size = ways.shape
    for r in range(len(w)):
        least = np.inf
        for k in range(n):
            cost = 0.0
            for i in range(size):
                for j in range(size):
                    cost += w[r, ways[k, i]] * solves[k, i, j] * w[r, ways[k, j]]
            if cost < least:
                least, best[r] = cost, k
    return best


def patterns(block: int, removed: int) -> Ints:
    """Return every way to remove ``removed`` of ``block`` weights, (ways, removed) positions."""
    ways = comb(block, removed)
    require(
        ways <= WAYS, "pattern", f"have at most {WAYS} ways to remove weights", Shown(f"{ways} for {block} weights")
    )
    return np.array(list(combinations(range(block), removed)), np.int64)
