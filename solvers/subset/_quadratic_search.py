"""Depth-first search for a `QuadraticKnapsack`, and its local search; items come in the order of branching."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.jit import njit
from prunopt.solvers.subset._split_bound import partners_in_order, split_bound


@njit
def partner_sums(pair: Floats) -> Floats:
    """P[d, i, r]: the sum of the r smallest q_ij over j >= d, j != i."""
    n = len(pair)
    table = np.zeros((n + 1, n, n))
    for d in range(n):
        row = np.empty(n - d)
        for i in range(d, n):
            size = 0
            for j in range(d, n):
                if j != i:
                    row[size] = pair[i, j]
                    size += 1
            ordered = np.sort(row[:size])
            for r in range(size):
                table[d, i, r + 1] = table[d, i, r] + ordered[r]
    return table


@njit
def node_bound(d: int, single: Floats, table: Floats, wanted: int) -> float:
    """A lower bound of what the items from d on add, ``wanted`` of which stay."""
    n = len(single)
    if wanted == 0:
        return 0.0
    gains = np.empty(n - d)
    for i in range(d, n):
        gains[i - d] = single[i] + 0.5 * table[d, i, wanted - 1]
    ordered = np.sort(gains)
    least = 0.0
    for k in range(wanted):
        least += ordered[k]
    return least


class Items(NamedTuple):
    """A `QuadraticKnapsack` without its constant: ``pair`` symmetric, the set of each item or -1, the number or -1."""

    linear: Floats
    pair: Floats
    cost: Floats
    limit: float
    set_of: Ints
    n_sets: int
    exactly: int


@njit
def search(
    items: Items, share: Floats, cuts: Bools, incumbent: float, margin: float, most_nodes: int, leaves: NDArray[np.int8]
) -> tuple[float, Bools, bool, int, int, float]:
    """Return (least loss, its subset, found, nodes, leaves written or -1, bound of what was left undone).

    Where a number is asked for, bounds take half of each pair, else the shares.
    """
    linear, pair, cost, limit, set_of, n_sets, exactly = items
    n = len(linear)
    table = partner_sums(pair) if exactly >= 0 else np.zeros((0, 0, 0))
    ranks = partners_in_order(share, cost)
    last = np.full(n_sets, -1, np.int64)  # of each set, its last item in the order
    for i in range(n):
        if set_of[i] >= 0:
            last[set_of[i]] = i
    single = np.zeros((n + 1, n))
    single[0] = linear
    value, spent, count = np.zeros(n + 1), np.zeros(n + 1), np.zeros(n + 1, np.int64)
    hits = np.zeros((n + 1, n_sets), np.int64)
    lower, tried, bits = np.zeros(n + 1), np.zeros(n + 1, np.int64), np.zeros(n, np.bool_)
    best, best_bits, found = incumbent, np.zeros(n, np.bool_), False
    nodes, written, d, undone = 0, 0, 0, np.inf
    entering = True
    while d >= 0:
        if entering:
            nodes += 1
            tried[d] = 0
            wanted = exactly - count[d] if exactly >= 0 else -1
            ok = spent[d] <= limit and (exactly < 0 or 0 <= wanted <= n - d)
            if ok and d > 0 and set_of[d - 1] >= 0:
                s = set_of[d - 1]
                ok = not (last[s] == d - 1 and hits[d, s] == 0)
            if ok and d == n:
                for k in range(len(cuts)):
                    same = True
                    for i in range(n):
                        if cuts[k, i] != bits[i]:
                            same = False
                            break
                    if same:
                        ok = False
                        break
            leaf = not ok
            if ok:
                lower[d] = value[d]
                if exactly >= 0:
                    lower[d] += node_bound(d, single[d], table, wanted)
                else:
                    lower[d] += split_bound(d, single[d], share, ranks, cost, limit - spent[d])
                if d == n and value[d] < best:
                    best, found = value[d], True
                    best_bits[:] = bits
                leaf = d == n or lower[d] >= best - margin
            if nodes > most_nodes and not leaf:
                undone = min(undone, lower[d])
                leaf = True
            if leaf:
                if written >= 0 and written < len(leaves):
                    for i in range(d):
                        leaves[written, i] = 1 if bits[i] else 0
                    written += 1
                elif written >= 0:
                    written = -1
                d -= 1
                entering = False
                continue
        if tried[d] == 2:
            d -= 1
            entering = False
            continue
        # What its own loss and half of its pairs speak for is tried first.
        if exactly >= 0:
            first = single[d, d] + 0.5 * table[d, d, max(0, exactly - count[d] - 1)] < 0 or count[d] * 2 < exactly
        else:
            first = single[d, d] + 0.5 * np.minimum(pair[d, d + 1 :], 0.0).sum() < 0
        take = first if tried[d] == 0 else not first
        tried[d] += 1
        bits[d] = take
        single[d + 1] = single[d]
        value[d + 1], spent[d + 1], count[d + 1] = value[d], spent[d], count[d]
        hits[d + 1] = hits[d]
        if take:
            value[d + 1] += single[d, d]
            spent[d + 1] += cost[d]
            count[d + 1] += 1
            for j in range(d + 1, n):
                single[d + 1, j] += pair[d, j]
            if set_of[d] >= 0:
                hits[d + 1, set_of[d]] += 1
        d += 1
        entering = True
    return best, best_bits, found, nodes, written, undone


@njit
def descend(x: Bools, items: Items) -> float:
    """Improve a subset in place by the best flip or exchange until none helps; return its change in loss."""
    linear, pair, cost, limit, set_of, n_sets, exactly = items
    n = len(x)
    spent, total = 0.0, 0.0
    hits = np.zeros(n_sets, np.int64)
    field = linear.copy()
    for i in range(n):
        if x[i]:
            spent += cost[i]
            field += pair[i]
            if set_of[i] >= 0:
                hits[set_of[i]] += 1
    while True:
        gain, out, into = -1e-12, -1, -1
        for i in range(-1, n):  # what goes, -1 for nothing
            if i >= 0 and not x[i]:
                continue
            for j in range(-1, n):  # what enters
                if (j >= 0 and x[j]) or (i < 0 and j < 0) or (exactly >= 0 and (i < 0 or j < 0)):
                    continue
                change = 0.0
                if i >= 0:
                    change -= field[i]
                    s = set_of[i]
                    if s >= 0 and hits[s] == 1 and (j < 0 or set_of[j] != s):
                        continue
                if j >= 0:
                    change += field[j] - (pair[i, j] if i >= 0 else 0.0)
                    if spent + cost[j] - (cost[i] if i >= 0 else 0.0) > limit:
                        continue
                if change < gain:
                    gain, out, into = change, i, j
        if out < 0 and into < 0:
            return total
        total += gain
        for i, sign in ((out, -1.0), (into, 1.0)):
            if i >= 0:
                x[i] = sign > 0
                spent += sign * cost[i]
                field += sign * pair[i]
                if set_of[i] >= 0:
                    hits[set_of[i]] += 1 if sign > 0 else -1
