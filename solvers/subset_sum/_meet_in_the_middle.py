"""Meet in the middle, compiled: sorted sums of the two halves of a pool, and the nearest pair of them to a target.

Sums are kept by size ("strata"): stratum j of a half holds the sums of all its subsets of j items, in order, made by
merging (Horowitz & Sahni, J. ACM 1974), never by sorting. A subset is two 64-bit masks, one for each half.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Ints
from prunopt.core.jit import njit

Masks = NDArray[np.uint64]
FAR = 2**62  # further than any sum is from any target
UNREACHED, UNSETTLED = -1, -2  # in place of a size: no subset will do; not found up to the largest size looked at


class Half(NamedTuple):
    """Room for the strata of one half: stratum j lies in ``begin[j]:begin[j + 1]``."""

    begin: Ints
    sums: Ints
    masks: Masks


class Pool(NamedTuple):
    """The two halves, and what they hold: ``held[0]`` is the row of the pools, ``held[1]`` the largest stratum."""

    left: Half
    right: Half
    held: Ints


class Found(NamedTuple):
    """What is found for each target: size (or UNREACHED, UNSETTLED), distance, masks of the two halves."""

    size: Ints
    distance: Ints
    masks: Masks


def room(n: int, largest: int) -> Pool:
    """Return room for the strata up to ``largest`` items of both halves of n candidates."""
    return Pool(_half(n - n // 2, largest), _half(n // 2, largest), np.full(2, -1, np.int64))


def _half(items: int, largest: int) -> Half:
    counts = [math.comb(items, j) for j in range(min(items, largest) + 1)]
    begin = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Half(begin, np.empty(begin[-1], np.int64), np.empty(begin[-1], np.uint64))  # no more is written than read


def found(m: int, columns: int | None = None) -> Found:
    """Return room for the answers of m targets (times ``columns`` sizes)."""
    shape = (m,) if columns is None else (m, columns)
    return Found(np.full(shape, UNSETTLED, np.int64), np.full(shape, FAR, np.int64), np.zeros((*shape, 2), np.uint64))


@njit
def _strata(items: Ints, upto: int, half: Half) -> None:
    """Fill the strata of ``items`` up to size ``upto``: with each item, stratum j takes in stratum j - 1, shifted.

    From the largest size down and from the back, so that every merge is in place.
    """
    begin, sums, masks = half.begin, half.sums, half.masks
    top = min(upto, len(begin) - 2)
    count = np.zeros(top + 1, np.int64)
    count[0], sums[0], masks[0] = 1, 0, 0
    for i in range(len(items)):
        item, bit = items[i], np.uint64(1) << np.uint64(i)
        for j in range(min(i + 1, top), 0, -1):
            a, b = begin[j] + count[j] - 1, begin[j - 1] + count[j - 1] - 1
            put = a + count[j - 1]
            count[j] += count[j - 1]
            while b >= begin[j - 1]:
                if a >= begin[j] and sums[a] > sums[b] + item:
                    sums[put], masks[put] = sums[a], masks[a]
                    a -= 1
                else:
                    sums[put], masks[put] = sums[b] + item, masks[b] | bit
                    b -= 1
                put -= 1


@njit
def _by_walk(a: Ints, i: int, a1: int, b: Ints, b0: int, j: int, t: int, best: int) -> tuple[int, int, int]:
    """Two pointers from opposite ends meet the nearest pair; distances of at least ``best`` do not count."""
    at_a, at_b = -1, -1
    while i < a1 and j >= b0:
        miss = a[i] + b[j] - t
        if abs(miss) < best:
            best, at_a, at_b = abs(miss), i, j
        if miss > 0:
            j -= 1
        elif miss < 0:
            i += 1
        else:
            break
    return best, at_a, at_b


@njit
def _by_search(a: Ints, a0: int, a1: int, b: Ints, b0: int, b1: int, t: int, best: int) -> tuple[int, int, int]:
    """A binary search of the longer list for every sum of the shorter one."""
    at_a, at_b, end = -1, -1, b1
    for i in range(a0, a1):
        wanted, low, high = t - a[i], b0, end
        while low < high:
            middle = (low + high) >> 1
            if b[middle] < wanted:
                low = middle + 1
            else:
                high = middle
        if low < b1 and b[low] - wanted < best:
            best, at_a, at_b = b[low] - wanted, i, low
        if low > b0 and wanted - b[low - 1] < best:
            best, at_a, at_b = wanted - b[low - 1], i, low - 1
        end = min(low + 1, b1)  # the sums of a rise, so what is wanted of b falls
    return best, at_a, at_b


@njit
def _nearest_pair(left: Half, k: int, right: Half, size: int, t: int, best: int) -> tuple[int, int, int]:
    """The nearest pair of k items from the left and the rest from the right, if it is nearer than ``best``."""
    a, b = left.sums, right.sums
    a0, a1, b0, b1 = left.begin[k], left.begin[k + 1], right.begin[size - k], right.begin[size - k + 1]
    if a[a0] + b[b0] - t >= best or t - a[a1 - 1] - b[b1 - 1] >= best:
        return best, -1, -1
    m, n = a1 - a0, b1 - b0
    if m * (math.log2(n) + 1) < n:
        return _by_search(a, a0, a1, b, b0, b1, t, best)
    if n * (math.log2(m) + 1) < m:
        best, j, i = _by_search(b, b0, b1, a, a0, a1, t, best)
        return best, i, j
    return _by_walk(a, a0, a1, b, b0, b1 - 1, t, best)


@njit
def _grow(pools: Ints, row: int, level: int, pool: Pool) -> None:
    """Have the strata of row ``row`` up to ``level`` at least; twice that, since what needs one needs the next."""
    if pool.held[0] == row and pool.held[1] >= level:
        return
    upto = level if level <= 2 else 2 * level
    middle = pools.shape[1] - pools.shape[1] // 2
    _strata(pools[row, :middle], upto, pool.left)
    _strata(pools[row, middle:], upto, pool.right)
    pool.held[0], pool.held[1] = row, upto


@njit
def fewest(
    order: Ints, targets: Ints, rows: Ints, pools: Ints, window: int, largest: int, pool: Pool, out: Found
) -> None:
    """For each target in ``order`` the smallest subset within ``window``, of those the nearest.

    Subsets of more than ``largest`` items are not looked at. Where none will do, the nearest of all is left in
    ``out``, its size replaced by UNREACHED (or UNSETTLED, if there are larger subsets).
    """
    n = pools.shape[1]
    left, right = pool.left, pool.right
    for i in order:
        best, size = FAR, UNSETTLED
        for k in range(min(n, largest) + 1):
            _grow(pools, rows[i], k, pool)
            for part in range(max(0, k - (len(right.begin) - 2)), min(k, len(left.begin) - 2) + 1):
                best, a, b = _nearest_pair(left, part, right, k, targets[i], best)
                if a >= 0:
                    out.masks[i, 0], out.masks[i, 1] = left.masks[a], right.masks[b]
            if best <= window:
                size = k
                break
        if size < 0 and largest >= n:
            size = UNREACHED
        out.size[i], out.distance[i] = size, best


@njit
def fronts(order: Ints, targets: Ints, rows: Ints, pools: Ints, largest: int, pool: Pool, out: Found) -> None:
    """For each target in ``order`` and each k up to ``largest``, the nearest subset of at most k items."""
    left, right = pool.left, pool.right
    for i in order:
        best, size = FAR, 0
        first, second = np.uint64(0), np.uint64(0)
        for k in range(largest + 1):
            _grow(pools, rows[i], k, pool)
            for part in range(max(0, k - (len(right.begin) - 2)), min(k, len(left.begin) - 2) + 1):
                best, a, b = _nearest_pair(left, part, right, k, targets[i], best)
                if a >= 0:
                    first, second, size = left.masks[a], right.masks[b], k
            out.size[i, k], out.distance[i, k] = size, best
            out.masks[i, k, 0], out.masks[i, k, 1] = first, second


@njit
def _members(mask: np.uint64) -> int:
    count = 0
    while mask:
        mask &= mask - np.uint64(1)
        count += 1
    return count


@njit
def _all_sums(items: Ints, sums: Ints, masks: Masks, sums_: Ints, masks_: Masks) -> int:
    """List the sums of all subsets in order, each once, with the mask of the fewest items; how many there are."""
    count = 1
    sums[0], masks[0] = 0, 0
    for i in range(len(items)):
        item, bit = items[i], np.uint64(1) << np.uint64(i)
        sums_[:count], masks_[:count] = sums[:count], masks[:count]
        a, b, put = 0, 0, 0
        while a < count or b < count:
            if b >= count or (a < count and sums_[a] < sums_[b] + item):
                sums[put], masks[put] = sums_[a], masks_[a]
                a += 1
            elif a >= count or sums_[b] + item < sums_[a]:
                sums[put], masks[put] = sums_[b] + item, masks_[b] | bit
                b += 1
            else:
                with_item = masks_[b] | bit
                fewer = _members(with_item) < _members(masks_[a])
                sums[put], masks[put] = sums_[a], with_item if fewer else masks_[a]
                a, b = a + 1, b + 1
            put += 1
        count = put
    return count


@njit
def nearest(
    order: Ints,
    targets: Ints,
    rows: Ints,
    pools: Ints,
    window: int,
    sums: tuple[Ints, Ints, Ints],
    masks: tuple[Masks, Masks, Masks],
    held: Ints,
    out: Found,
) -> None:
    """For each target in ``order`` the nearest subset, of those the smallest.

    Every sum of the left half meets its two neighbors among the sums of the right half. Equal sums of a half are
    held once, with the fewest items, so no better pair can hide behind an equal one.
    """
    middle = pools.shape[1] - pools.shape[1] // 2
    a, b = sums[0], sums[1]
    for i in order:
        if held[0] != rows[i]:
            held[0] = rows[i]
            held[1] = _all_sums(pools[rows[i], :middle], a, masks[0], sums[2], masks[2])
            held[2] = _all_sums(pools[rows[i], middle:], b, masks[1], sums[2], masks[2])
        best, size, at_a, at_b, t = FAR, 0, 0, 0, targets[i]
        j = held[2] - 1
        for e in range(held[1]):
            wanted = t - a[e]
            while j > 0 and b[j] > wanted:
                j -= 1
            for near in range(j, min(j + 2, held[2])):
                miss = abs(b[near] - wanted)
                if miss > best:
                    continue
                members = _members(masks[0][e]) + _members(masks[1][near])
                if miss < best or members < size:
                    best, size, at_a, at_b = miss, members, e, near
        out.size[i] = size if best <= window else UNREACHED
        out.distance[i] = best
        out.masks[i, 0], out.masks[i, 1] = masks[0][at_a], masks[1][at_b]


@njit
def greedy(
    chosen: Ints,
    targets: Ints,
    rows: Ints,
    pools: Ints,
    order: Ints,
    level: NDArray[np.int32],
    window: int,
    out: NDArray[np.bool_],
    missed: Ints,
) -> None:
    """For each target in ``chosen`` take what fits, give or take ``window``, until it is within that.

    Row ``2 p + s`` of ``order`` lists the candidates of pool p that have sign s (0: positive), -1 at the end. Of
    candidates with the same ``level`` >= 0 only the first is looked at.
    """
    for i in chosen:
        negative = targets[i] < 0
        row = 2 * rows[i] + (1 if negative else 0)
        rest, before = abs(targets[i]), -1
        for place in range(order.shape[1]):
            c = order[row, place]
            if c < 0 or rest <= window:
                break
            if level[row, place] >= 0 and level[row, place] == before:
                continue
            before = level[row, place]
            item = abs(pools[rows[i], c])
            if item <= rest + window:
                rest -= item
                out[i, c] = True
        missed[i] = abs(rest)


@njit
def spread(masks: Masks, n: int, out: NDArray[np.bool_]) -> None:
    """Write the masks of the two halves as one row of truth values for each target."""
    middle, one = n - n // 2, np.uint64(1)
    for i in range(len(masks)):
        for c in range(n):
            half, place = (0, c) if c < middle else (1, c - middle)
            out[i, c] = (masks[i, half] >> np.uint64(place)) & one == one
