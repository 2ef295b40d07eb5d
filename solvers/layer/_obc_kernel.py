"""Single weights of one row removed one after the other, and exchanged, by exact costs: optimal brain compression.

With C = H^-1 and S the removed weights of a row w, let R R^T = C_SS in the order of removal and L = R^-1 C_S:. Then

    v = w - L^T R^-1 w_S,    q = diag C - diag L^T L

are the re-solved weights that stay and what is left of the inverse's diagonal; removing j as well costs v_j^2 / q_j.
Nothing of size d^2 is ever written: a batch of weights is chosen among the cheapest, one at a time by exact costs, and
adds its rows to L by one product. Columns of L that were removed are packed away once they are a quarter of it.

All of it is done in the precision of C and w: what is chosen is re-solved elsewhere.

An exchange looks at the tableau M of principal pivots, restricted to a pool: T = C_KK - C_KS C_SS^-1 C_SK on what is
kept, -C_SS^-1 on what is removed, C_KS C_SS^-1 between, and x = v on K, C_SS^-1 w_S on S. Pivots on both members of
an exchange keep it exact.
"""

from __future__ import annotations

import numpy as np

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.jit import njit

LEAST = 64  # times the precision, of its own diagonal: below it rounding has eaten what is left of a pivot
BLOCK = 64  # rows of a triangle inverted at a time
WORTH = 1e-9  # share of a row's cost that an exchange has to gain


@njit
def eliminate(
    w: Floats, C: Floats, free: Bools, block: int, quota: int, count: int, batch: int, pool: int, reach: float
) -> tuple[Ints, Floats, Floats, Floats, Ints, Floats, Floats, Floats]:
    """Remove ``count`` of the ``free`` weights of a row, at most ``quota`` of each ``block`` consecutive ones.

    Without blocks only the cheapest by their first costs are looked at: ``count`` and the share ``reach`` of the
    others. The rest of the row costs as much work for each removal, and is hardly ever removed.

    Returns the weights removed, what each cost, R, z = R^-1 w_S; the columns that stay, their L, v and q.
    """
    d = len(w)
    cols = np.arange(d)
    if block == d and reach < 1:
        first, n_free = w * w / np.diag(C), int(np.count_nonzero(free))
        if n_free < d:
            first[free] = -1.0
        n_looked = max(n_free if n_free < d else 0, count + int(np.ceil(reach * (d - count))))
        cols = np.sort(np.argsort(first, kind="mergesort")[:n_looked])
    v, q = w[cols], np.diag(C)[cols]
    own = np.diag(C) * (LEAST * _precision(C))
    left = np.full(d // block, quota)
    may = free.copy()
    order, costs, z = np.empty(count, np.int64), np.empty(count, C.dtype), np.empty(count, C.dtype)
    R, L = np.zeros((count, count), C.dtype), np.empty((count, len(cols)), C.dtype)
    s = packed_at = 0
    while s < count:
        score = np.full(len(cols), np.inf, C.dtype)
        n_free = 0
        for j in range(len(cols)):
            if may[cols[j]]:
                score[j] = v[j] * v[j] / max(q[j], own[cols[j]])
                n_free += 1
        P = np.argsort(score, kind="mergesort")[: min(pool, n_free)]
        n = len(P)
        part, gram, a = np.empty((s, n), C.dtype), np.empty((n, n), C.dtype), np.empty(n, C.dtype)
        for k in range(s):
            for i in range(n):
                part[k, i] = L[k, P[i]]
        for i in range(n):
            a[i] = v[P[i]]
            for j in range(n):
                gram[i, j] = C[cols[P[i]], cols[P[j]]]
        if s:
            gram -= np.dot(part.T, part)
        most = min(batch, count - s)
        taken, rows = np.empty(most, np.int64), np.empty((most, n), C.dtype)
        b = 0
        while b < most:
            best, p = np.inf, -1
            for i in range(n):
                if may[cols[P[i]]]:
                    cost = a[i] * a[i] / max(gram[i, i], own[cols[P[i]]])
                    if p < 0 or cost < best:
                        best, p = cost, i
            if p < 0:
                break
            j = cols[P[p]]
            pivot = np.sqrt(max(gram[p, p], own[j]))
            may[j] = False
            left[j // block] -= 1
            if left[j // block] == 0:
                may[j // block * block : (j // block + 1) * block] = False
            order[s + b], costs[s + b], z[s + b], taken[b] = j, best, a[p] / pivot, p
            for i in range(n):
                rows[b, i] = gram[i, p] / pivot
            step = z[s + b]
            for i in range(n):
                share = rows[b, i]
                a[i] -= share * step
                for k in range(n):
                    gram[i, k] -= share * rows[b, k]
            b += 1
        for i in range(b):
            R[s + i, :s] = part[:, taken[i]]
            for k in range(i + 1):
                R[s + i, s + k] = rows[k, taken[i]]
        if 4 * (s + b - packed_at) > len(cols) or s + b == count:
            packed_at = s + b
            gone = np.zeros(d, np.bool_)
            gone[order[: s + b]] = True
            keep = np.flatnonzero(~gone[cols])
            packed = np.empty((count, len(keep)), C.dtype)
            for k in range(s):
                for j in range(len(keep)):
                    packed[k, j] = L[k, keep[j]]
            L, cols, v, q = packed, cols[keep], v[keep], q[keep]
        _new_rows(C, order[s : s + b], cols, R[s : s + b, : s + b], L, s)
        for i in range(s, s + b):
            step = z[i]
            for j in range(len(cols)):
                v[j] -= L[i, j] * step
                q[j] -= L[i, j] * L[i, j]
        s += b
    return order, costs, R, z, cols, L, v, q


@njit
def _precision(C: Floats) -> float:
    """Return the relative precision of an array's numbers."""
    return np.finfo(C.dtype).eps


@njit
def _new_rows(C: Floats, chosen: Ints, cols: Ints, R: Floats, L: Floats, s: int) -> None:
    """Fill rows of L from ``s`` on: (C_P: - R_P,S L_S) solved with the triangle R_PP."""
    b = len(chosen)
    new = np.empty((b, len(cols)), C.dtype)
    for i in range(b):
        for j in range(len(cols)):
            new[i, j] = C[chosen[i], cols[j]]
    if s:
        new -= np.dot(np.ascontiguousarray(R[:, :s]), L[:s])
    L[s : s + b] = np.dot(_small_inverse(R[:, s:]), new)


@njit
def exchange(
    C: Floats, order: Ints, costs: Floats, R: Floats, z: Floats, cols: Ints, L: Floats, v: Floats, q: Floats,
    block: int, pool: int,
) -> tuple[Bools, int]:  # fmt: skip
    """Exchange removed weights for kept ones of the same block while that gains, within the most promising pool.

    Returns which weights are removed afterwards, and the number of exchanges.
    """
    d, k = len(C), len(order)
    removed = np.zeros(d, np.bool_)
    removed[order] = True
    floor = LEAST * _precision(C)
    a, cost = _transposed_solve(R, z), np.empty(len(cols), C.dtype)
    for j in range(len(cols)):
        cost[j] = v[j] * v[j] / max(q[j], floor * C[cols[j], cols[j]])
    looked = np.arange(k)
    if block == d:  # taking i back gains a_i^2 / A_ii, no more than a_i^2 C_ii: not all columns of R^-1 are needed
        looked = np.argsort(-(a * a * np.diag(C)[order]), kind="mergesort")[: 2 * pool]
    inverse = _inverse_columns(R, looked)
    gain = np.empty(len(looked), C.dtype)
    for i in range(len(looked)):
        gain[i] = a[looked[i]] ** 2 / np.dot(inverse[i], inverse[i])
    some, stay = _pool(order[looked], gain, cols, cost, block, d // block, pool)
    out = looked[some]
    r, n = len(out), len(out) + len(stay)
    M, x, number = np.empty((n, n), C.dtype), np.empty(n, C.dtype), np.empty(n, np.int64)
    half, side = np.empty((k, r), C.dtype), np.empty((k, n - r), C.dtype)
    for i in range(r):
        half[:, i] = inverse[some[i]]
        x[i], number[i] = a[out[i]], order[out[i]]
    for i in range(n - r):
        side[:, i] = L[:, stay[i]]
        x[r + i], number[r + i] = v[stay[i]], cols[stay[i]]
    M[:r, :r] = -np.dot(half.T, half)
    M[:r, r:] = np.dot(half.T, side)
    M[r:, :r] = M[:r, r:].T
    M[r:, r:] = -np.dot(side.T, side)
    for i in range(r, n):
        for j in range(r, n):
            M[i, j] += C[number[i], number[j]]
    least = -max(WORTH, _precision(C)) * costs.sum()
    for done in range(n):
        best, s, t = least, -1, -1
        for i in range(n):
            if not removed[number[i]] or not M[i, i] < 0:
                continue
            size = -M[i, i]
            worth = x[i] * x[i] / size
            for j in range(n):
                if removed[number[j]] or number[i] // block != number[j] // block:
                    continue
                rest = M[j, j] + M[i, j] * M[i, j] / size
                if rest > floor * C[number[j], number[j]]:
                    moved = x[j] + M[i, j] * x[i] / size
                    change = moved * moved / rest - worth
                    if change < best:
                        best, s, t = change, i, j
        if s < 0:
            return removed, done
        _pivot(M, x, s, -1.0)
        _pivot(M, x, t, 1.0)
        removed[number[s]], removed[number[t]] = False, True
    return removed, n


@njit
def _pool(
    order: Ints, gain: Floats, cols: Ints, cost: Floats, block: int, n_blocks: int, pool: int
) -> tuple[Ints, Ints]:
    """Return places in ``order`` and in ``cols``: those of most gain and least cost, or whole blocks."""
    if n_blocks == 1:
        return np.argsort(-gain, kind="mergesort")[:pool], np.argsort(cost, kind="mergesort")[:pool]
    most, least = np.full(n_blocks, -np.inf), np.full(n_blocks, np.inf)
    for i in range(len(order)):
        most[order[i] // block] = max(most[order[i] // block], gain[i])
    for j in range(len(cols)):
        least[cols[j] // block] = min(least[cols[j] // block], cost[j])
    chosen = np.zeros(n_blocks, np.bool_)
    chosen[np.argsort(least - most, kind="mergesort")[: max(2 * pool // block, 1)]] = True
    return np.flatnonzero(chosen[order // block]), np.flatnonzero(chosen[cols // block])


@njit
def _transposed_solve(R: Floats, z: Floats) -> Floats:
    """Return R^-T z for a lower triangle."""
    a = z.copy()
    for i in range(len(R) - 1, -1, -1):
        a[i] /= R[i, i]
        for j in range(i):
            a[j] -= R[i, j] * a[i]
    return a


@njit
def _inverse_columns(R: Floats, chosen: Ints) -> Floats:
    """Return columns of the inverse of a lower triangle, as rows; some rows of the triangle at a time."""
    n, m = len(R), len(chosen)
    out = np.zeros((n, m), R.dtype)
    for i in range(m):
        out[chosen[i], i] = 1.0
    for s in range(0, n, BLOCK):
        e = min(s + BLOCK, n)
        right = out[s:e].copy()
        if s:
            right -= np.dot(np.ascontiguousarray(R[s:e, :s]), out[:s])
        out[s:e] = np.dot(_small_inverse(R[s:e, s:e]), right)
    return np.ascontiguousarray(out.T)


@njit
def _small_inverse(R: Floats) -> Floats:
    n = len(R)
    out = np.zeros((n, n), R.dtype)
    for i in range(n):
        for k in range(i):
            share = R[i, k]
            for j in range(k + 1):
                out[i, j] -= share * out[k, j]
        for j in range(i):
            out[i, j] /= R[i, i]
        out[i, i] = 1 / R[i, i]
    return out


@njit
def _pivot(M: Floats, x: Floats, p: int, sign: float) -> None:
    """Remove the kept weight p (``sign`` 1), or take the removed one back (-1)."""
    m, own = M[p, p], x[p]
    column = M[:, p].copy()
    for i in range(len(M)):
        x[i] -= column[i] * own / m
        for j in range(len(M)):
            M[i, j] -= column[i] * column[j] / m
    for i in range(len(M)):
        M[i, p] = M[p, i] = sign * column[i] / m
    M[p, p], x[p] = -1 / m, sign * own / m


@njit
def _solve_row(
    w: Floats, C: Floats, start: Bools, block: int, quota: int, count: int, batch: int, pool: int, reach: float,
    swaps: int,
) -> tuple[Bools, int]:  # fmt: skip
    """Return which weights of a row are removed: ``count`` of ``start``, after ``swaps`` rounds of exchanges."""
    removed, total = start, 0
    for _ in range(max(swaps, 1)):
        order, costs, R, z, cols, L, v, q = eliminate(w, C, removed, block, quota, count, batch, pool, reach)
        if swaps == 0:
            removed = np.zeros(len(w), np.bool_)
            removed[order] = True
            break
        removed, moved = exchange(C, order, costs, R, z, cols, L, v, q, block, pool // 2 if block == len(w) else pool)
        total += moved
        if moved == 0:
            break
    return removed, total


@njit
def solve_rows(
    W: Floats, C: Floats, counts: Ints, block: int, quota: int, batch: int, pool: int, reach: float,
    swaps: int, removed: Bools, moved: Ints,
) -> None:  # fmt: skip
    """Fill ``removed`` and the numbers of exchanges for some rows."""
    every = np.ones(len(C), np.bool_)
    for r in range(len(W)):
        removed[r], moved[r] = _solve_row(W[r], C, every, block, quota, counts[r], batch, pool, reach, swaps)


@njit
def exchange_rows(
    W: Floats, C: Floats, block: int, batch: int, pool: int, reach: float, swaps: int, removed: Bools, moved: Ints
) -> None:
    """Exchange weights within the blocks of rows whose masks are given, in place."""
    for r in range(len(W)):
        count = np.count_nonzero(removed[r])
        removed[r], moved[r] = _solve_row(W[r], C, removed[r].copy(), block, block, count, batch, pool, reach, swaps)


@njit
def trace_rows(W: Floats, C: Floats, batch: int, pool: int, costs: Floats) -> None:
    """Fill ``costs`` with what every removal costs when all weights of a row go one after the other."""
    d = len(C)
    for r in range(len(W)):
        costs[r] = eliminate(W[r], C, np.ones(d, np.bool_), d, d, d, batch, pool, 1.0)[1]
