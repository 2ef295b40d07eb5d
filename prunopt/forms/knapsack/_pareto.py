"""Which of many partial choices no other dominates, with two resources."""

from __future__ import annotations

import numpy as np

from prunopt.core.arrays import AnyArray, Bools, Floats, Ints
from prunopt.core.jit import njit


def undominated(lost: Floats, first: AnyArray, second: AnyArray) -> Ints:
    """Return the places, ascending, of which no other has lost and used no more; of equal ones the first."""
    order = np.lexsort((lost, second, first))
    values, rank = np.unique(second, return_inverse=True)
    return np.sort(order[_sweep(lost[order], rank[order], len(values))])


@njit
def _sweep(lost: Floats, rank: Ints, n: int) -> Bools:
    """Keep what has lost less than all before it of no higher rank: least losses by rank, in a Fenwick tree."""
    least = np.full(n + 1, np.inf)
    keep = np.zeros(len(lost), np.bool_)
    for i in range(len(lost)):
        k, best = rank[i] + 1, np.inf
        while k > 0:
            best = min(best, least[k])
            k -= k & -k
        if lost[i] < best:
            keep[i] = True
            k = rank[i] + 1
            while k <= n:
                least[k] = min(least[k], lost[i])
                k += k & -k
    return keep
