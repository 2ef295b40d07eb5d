"""The check of `SubsetSum.bound`: every smaller subset is looked at, by lists, sorting and binary search."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from prunopt.core.arrays import Ints, Ints32
from prunopt.core.jit import njit


class Sums(NamedTuple):
    """The targets, the pool that each draws from, the pools, and the tolerance, in whole units."""

    targets: Ints
    pool: Ints
    pools: Ints
    epsilon: int


class Lists(NamedTuple):
    """Room for the sums of both halves of a pool: where each size begins, the sums, and their last items."""

    left: Ints
    right: Ints
    a: Ints
    b: Ints
    last: Ints32


def proven_sizes(targets: Ints, pool: Ints, pools: Ints, epsilon: int, least: Ints, claims: Ints, largest: int) -> Ints:
    """Return for each target how many candidates it surely needs: its claim, or less where that does not hold.

    Parameters
    ----------
    targets : (m,) int64
    pool : (m,) int64
        Which row of ``pools`` a target draws from.
    pools : (p, n) int64
    epsilon
        The tolerance, in the same units.
    least : (m,) int64
        Sizes known to be needed; the check starts there.
    claims : (m,) int64
        Sizes said to be needed.
    largest
        The largest size that may be looked at.
    """
    order = np.argsort(pool, kind="stable")
    n = pools.shape[1]
    parts = (n - n // 2, n // 2)
    sizes = [sum(math.comb(h, j) for j in range(min(h, largest) + 1)) for h in parts]
    even, odd = _levels(parts[0], largest), _levels(parts[1], largest)
    room = [np.empty(s, np.int64) for s in sizes]
    last = np.empty(max(sizes), np.int32)
    out = least.copy()
    lists = Lists(even, odd, room[0], room[1], last)
    _check(Sums(targets, pool, pools, epsilon), order, claims, largest, lists, out)
    return out


def _levels(items: int, largest: int) -> Ints:
    """Where the sums of each size begin: offsets for 0 to min(items, largest) items, and the end."""
    counts = [math.comb(items, j) for j in range(min(items, largest) + 1)]
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


@njit
def _fill(items: Ints, begin: Ints, first: int, upto: int, sums: Ints, last: Ints32) -> None:
    """List the sums of ``first`` to ``upto`` items by adding a later item to every shorter sum; unsorted."""
    if first == 0:
        sums[0], last[0] = 0, -1
    for level in range(max(first, 1), upto + 1):
        put = begin[level]
        for e in range(begin[level - 1], begin[level]):
            for i in range(last[e] + 1, len(items)):
                sums[put], last[put] = sums[e] + items[i], i
                put += 1


@njit
def _list(items: Ints, begin: Ints, upto: int, sums: Ints, last: Ints32) -> None:
    top = min(upto, len(begin) - 2)
    _fill(items, begin, 0, top, sums, last)
    for level in range(1, top + 1):
        sums[begin[level] : begin[level + 1]].sort()


@njit
def _in_window(target: int, epsilon: int, size: int, left: Ints, right: Ints, a: Ints, b: Ints) -> bool:
    """Whether some subset of exactly ``size`` items sums to within epsilon of the target."""
    for taken in range(max(0, size - (len(right) - 2)), min(size, len(left) - 2) + 1):
        start, end = right[size - taken], right[size - taken + 1]
        for e in range(left[taken], left[taken + 1]):
            lowest = target - epsilon - a[e]
            low, high = start, end
            while low < high:
                middle = (low + high) >> 1
                if b[middle] < lowest:
                    low = middle + 1
                else:
                    high = middle
            if low < end and b[low] <= target + epsilon - a[e]:
                return True
    return False


@njit
def _check(problem: Sums, order: Ints, claims: Ints, largest: int, lists: Lists, out: Ints) -> None:
    targets, pool, pools, epsilon = problem
    left, right, a, b, last = lists
    held, upto = -1, -1
    for i in order:
        while out[i] < claims[i] and out[i] <= largest:
            if pool[i] != held or out[i] > upto:
                held, upto = pool[i], out[i]
                _list(pools[held][0::2].copy(), left, upto, a, last)
                _list(pools[held][1::2].copy(), right, upto, b, last)
            if _in_window(targets[i], epsilon, out[i], left, right, a, b):
                break
            out[i] += 1
