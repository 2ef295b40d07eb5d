"""How many zeros each row gets, so that the rows' traces of costs add up to the least."""

from __future__ import annotations

import numpy as np

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.jit import njit


def allocate(costs: Floats, count: int) -> Ints:
    r"""Return :math:`k_r` that minimize :math:`\sum_r f_r(k_r)` with :math:`\sum_r k_r` = ``count``, exactly.

    ``costs[r, k]`` is what the removal number k adds to row r: :math:`f_r(k) = \sum_{j < k}` of them. Segments of the
    traces' lower hulls are taken by slope until the count is reached within one; its slope is a price
    :math:`\lambda`. An answer that costs u more than its hulls can hold no :math:`k_r` whose reduced cost
    :math:`f_r(k) - \lambda k - \min` is over u, and what is left after that is enumerated by dynamic programming.
    """
    rows, d = costs.shape
    totals = np.zeros((rows, d + 1))
    np.cumsum(costs, axis=1, out=totals[:, 1:])
    corner = _hulls(totals)
    owner, end = np.nonzero(corner[:, 1:])
    end += 1
    start = np.where(np.diff(owner, prepend=-1) != 0, 0, np.roll(end, 1))
    slope = (totals[owner, end] - totals[owner, start]) / (end - start)
    order = np.lexsort((start, owner, slope))
    reached = np.cumsum((end - start)[order])
    critical = int(np.searchsorted(reached, count))
    if count == 0 or critical == len(order):
        return np.full(rows, d if count else 0, np.int64)
    out = np.zeros(rows, np.int64)
    np.maximum.at(out, owner[order[:critical]], end[order[:critical]])
    at = order[critical]
    missing = count - int(out.sum())
    price = float(slope[at])
    reduced = totals - price * np.arange(d + 1)
    reduced -= reduced.min(axis=1, keepdims=True)
    filled = out.copy()
    filled[owner[at]] += missing
    most = float(reduced[np.arange(rows), filled].sum())
    return _best_deviation(reduced, filled, most)


def _best_deviation(reduced: Floats, filled: Ints, most: float) -> Ints:
    """Return the counts of least reduced cost with the sum of ``filled``, which cost ``most``."""
    states: dict[int, tuple[float, tuple[tuple[int, int], ...]]] = {0: (0.0, ())}
    for r in range(len(reduced)):
        options = [(int(k - filled[r]), float(reduced[r, k])) for k in np.flatnonzero(reduced[r] <= most)]
        fresh: dict[int, tuple[float, tuple[tuple[int, int], ...]]] = {}
        for off, (cost, moves) in states.items():
            for step, more in options:
                total = cost + more
                if total <= most and (off + step not in fresh or total < fresh[off + step][0]):
                    fresh[off + step] = (total, (*moves, (r, step)) if step else moves)
        states = fresh
    out = filled.copy()
    for r, step in states.get(0, (most, ()))[1]:
        out[r] += step
    return out


@njit
def _hulls(totals: Floats) -> Bools:
    """Flag the corners of every row's lower convex hull."""
    rows, n = totals.shape
    corner = np.zeros((rows, n), np.bool_)
    stack = np.empty(n, np.int64)
    for r in range(rows):
        size = 0
        for k in range(n):
            while size >= 2:
                a, b = stack[size - 2], stack[size - 1]
                if (totals[r, b] - totals[r, a]) * (k - b) < (totals[r, k] - totals[r, b]) * (b - a):
                    break
                size -= 1
            stack[size] = k
            size += 1
        for i in range(size):
            corner[r, stack[i]] = True
    return corner
