"""Dual prices of a closure: what every item pays of every requirement's cost, in integers.

A requirement's scaled cost is split among the items that need it. Two ways of moving the shares are here: the
subgradient of the Lagrangian, and exact descent of its quadratic smoothing, one block of requirements at a time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Bools, Floats, Ints, Ints32
from prunopt.core.jit import njit

Shares = NDArray[Any]  # int64, or int32 on disk


class Needs(NamedTuple):
    """Who needs what: ``items[offsets[j]:offsets[j + 1]]`` share the scaled cost ``capacity[j]`` as ``shares`` says."""

    offsets: Ints
    items: Ints32
    capacity: Ints
    shares: Shares


class Priced(NamedTuple):
    """A closure by items: their needs are ``indices[indptr[h]:indptr[h + 1]]``, of scaled costs ``cost``."""

    parent: Ints32
    profit: Ints | Floats
    indptr: Ints
    indices: Ints32
    cost: Ints | Floats
    arcs: Ints32


class Relaxed(NamedTuple):
    """What `lagrangian` finds: the trees' choice, the sum of each requirement's multipliers; and working space."""

    chosen: Bools
    paid: Floats
    bought: Bools
    weight: Floats


class Forest(NamedTuple):
    """The items with the working arrays of `regress`; ``level`` is its answer."""

    parent: Ints32  # (m,) item, or -1; before its children
    supply: Ints  # (m,) profit in units of the multipliers
    spent: Ints  # (m,) what each item pays now
    omega: Floats  # (m,) weight of each item in the smoothing
    level: Floats  # (m,) regression of (supply - spent) / omega
    total: Floats  # (m,) pooled excess of the block that an item heads
    size: Floats  # (m,) pooled weight
    mean: Floats  # (m,) their ratio
    heap: Ints32  # (m,) highest block below each item, the root of a skew heap
    left: Ints32
    right: Ints32
    head: Ints32  # (m,) the item whose block swallowed this one, or -1


def forest_of(parent: Ints32, supply: Ints, omega: Floats) -> Forest:
    """Return the items with nothing spent."""
    m = len(parent)
    floats: list[Any] = [np.zeros(m) for _ in range(4)]
    ints: list[Any] = [np.zeros(m, np.int32) for _ in range(4)]
    return Forest(parent, supply, np.zeros(m, np.int64), omega, *floats, *ints)


@njit
def _meld(a: int, b: int, mean: Floats, left: Ints32, right: Ints32) -> int:
    """Meld two skew heaps, highest mean first."""
    if a < 0:
        return b
    if b < 0:
        return a
    if mean[a] < mean[b]:
        a, b = b, a
    at, other = a, b
    while True:
        below = right[at]
        right[at] = left[at]
        if below < 0:
            left[at] = other
            return a
        if mean[below] >= mean[other]:
            left[at] = below
            at = below
        else:
            left[at] = other
            at, other = other, below


@njit
def regress(f: Forest) -> None:
    """Set ``level`` to the weighted regression of excess / omega that does not rise from parent to child.

    Blocks are pooled from the leaves up (Pardalos & Xue 1999). The items above 0 are the least closures of greatest
    excess, tree by tree, whatever the weights.
    """
    m = len(f.parent)
    for h in range(m):
        f.heap[h] = f.left[h] = f.right[h] = f.head[h] = -1
        f.total[h] = f.supply[h] - f.spent[h]
        f.size[h] = f.omega[h]
    for h in range(m - 1, -1, -1):
        f.mean[h] = f.total[h] / f.size[h]
        top = f.heap[h]
        while top >= 0 and f.mean[top] > f.mean[h]:
            f.head[top] = h
            f.total[h] += f.total[top]
            f.size[h] += f.size[top]
            f.mean[h] = f.total[h] / f.size[h]
            rest = _meld(f.left[top], f.right[top], f.mean, f.left, f.right)
            top = _meld(rest, f.heap[top], f.mean, f.left, f.right)
        f.heap[h] = top
        f.left[h] = f.right[h] = -1
        if f.parent[h] >= 0:
            f.heap[f.parent[h]] = _meld(f.heap[f.parent[h]], h, f.mean, f.left, f.right)
    for h in range(m):
        f.level[h] = f.mean[h] if f.head[h] < 0 else f.level[f.head[h]]


@njit
def best_profit(parent: Ints32, weight: Ints) -> int:
    """Return the total weight of the best closures of all trees, exactly; ``weight`` is used up."""
    profit = 0
    for h in range(len(parent) - 1, -1, -1):
        if weight[h] > 0:
            if parent[h] >= 0:
                weight[parent[h]] += weight[h]
            else:
                profit += weight[h]
    return profit


@njit
def by_requirement(indptr: Ints, indices: Ints32, place: Ints) -> tuple[Ints, Ints32]:
    """Return the edges by requirement, requirement j at ``place[j]``: offsets (W + 1,) and the items (E,)."""
    offsets = np.zeros(len(place) + 1, np.int64)
    for j in indices:
        offsets[place[j] + 1] += 1
    for j in range(len(place)):
        offsets[j + 1] += offsets[j]
    items, at = np.empty(len(indices), np.int32), offsets[:-1].copy()
    for h in range(len(indptr) - 1):
        for e in range(indptr[h], indptr[h + 1]):
            j = place[indices[e]]
            items[at[j]] = h
            at[j] += 1
    return offsets, items


@njit
def by_item(indices: Ints32, place: Ints, offsets: Ints, shares: Shares, out: Ints) -> None:
    """Write shares that are ordered by requirement, as `by_requirement` orders them, in the order of ``indices``."""
    at = offsets[:-1].copy()
    for e in range(len(indices)):
        j = place[indices[e]]
        out[e] = shares[at[j]]
        at[j] += 1


@njit
def adopt(needs: Needs, spent: Ints, degree: Floats) -> None:
    """Add given shares to what their items spend, where they add up to the scaled cost; else split it equally.

    Counts in ``degree`` the edges of each item that can ever change.
    """
    offsets, items, capacity, shares = needs
    for j in range(len(capacity)):
        n, paid, least = offsets[j + 1] - offsets[j], 0, 0
        if n == 0:
            continue
        for e in range(offsets[j], offsets[j + 1]):
            paid += shares[e]
            least = min(least, shares[e])
        each, rest = capacity[j] // n, capacity[j] % n
        for k in range(n):
            e = offsets[j] + k
            if paid != capacity[j] or least < 0:
                shares[e] = each + (1 if (k + j) % n < rest else 0)
            spent[items[e]] += shares[e]
            if n > 1 and capacity[j] > 0:
                degree[items[e]] += 1.0


@njit
def redistribute(
    f: Forest, needs: Needs, first: int, last: int, relaxation: float, step: Floats, move: Floats, buffer: Floats
) -> None:
    """Take one projected step of the smoothed dual in the shares of the requirements ``first`` to ``last - 1``.

    An edge moves by its item's level times a step that is the item's weight over the number of its edges in the block
    (each counted by the root of its scaled cost), then every requirement's shares are projected, in the metric of the
    steps, on the simplex of shares that add up to its scaled cost. ``step``, ``move`` (m,) and ``buffer`` are working
    space.
    """
    offsets, items, capacity, shares = needs
    step[:] = 0.0
    for j in range(first, last):
        if capacity[j] > 0 and offsets[j + 1] - offsets[j] > 1:
            root = np.sqrt(float(capacity[j]))
            for e in range(offsets[j], offsets[j + 1]):
                step[items[e]] += root
    for h in range(len(step)):
        if step[h] > 0.0:
            step[h] = relaxation * f.omega[h] / step[h]
            move[h] = f.level[h] * step[h]
    for j in range(first, last):
        start, n = offsets[j], offsets[j + 1] - offsets[j]
        if capacity[j] == 0 or n < 2:
            continue
        room, root = float(capacity[j]), np.sqrt(float(capacity[j]))
        wanted, width = 0.0, 0.0
        for k in range(n):
            h = items[start + k]
            buffer[k] = shares[start + k] + root * move[h]
            wanted += buffer[k]
            width += step[h]
        # Newton's method for the water level: it rises to the root of a convex, piecewise linear function.
        water = (wanted - room) / width
        while True:
            wanted, width = 0.0, 0.0
            for k in range(n):
                s = step[items[start + k]]
                if buffer[k] > water * s:
                    wanted += buffer[k]
                    width += s
            if width == 0.0 or (wanted - room) / width <= water:
                break
            water = (wanted - room) / width
        left, above = capacity[j], 0
        for k in range(n):
            buffer[k] = min(max(buffer[k] - water * step[items[start + k]], 0.0), room)
            left -= np.int64(buffer[k])
            above += 1 if buffer[k] > 0.0 else 0
        # What rounding down left over goes to shares above 0, in turn, so that no item gains by its place.
        each, rest, seen = (left // above, left % above, j) if left > 0 and above > 0 else (0, 0, 0)
        for k in range(n):
            share = np.int64(buffer[k])
            if left < 0:  # shares beyond 2^53 are inexact, and can add up to more than the scaled cost
                taken = min(share, -left)
                share -= taken
                left += taken
            elif buffer[k] > 0.0:
                share += each + (1 if seen % above < rest else 0)
                seen += 1
            f.spent[items[start + k]] += share - shares[start + k]
            shares[start + k] = share


@njit
def shift_along_arcs(f: Forest, arcs: Ints32, shares: Ints, largest: int, relaxation: float, step: Floats) -> None:
    """Take one projected step in the multipliers of x_a <= x_b: what a has above b moves from a to b, or back."""
    step[:] = 0.0
    for k in range(len(arcs)):
        step[arcs[k, 0]] += 1.0
        step[arcs[k, 1]] += 1.0
    for k in range(len(arcs)):
        a, b = arcs[k]
        if a == b:
            continue
        resistance = step[a] / f.omega[a] + step[b] / f.omega[b]
        moved = shares[k] + relaxation * (f.level[a] - f.level[b]) / resistance
        share = np.int64(min(max(moved, 0.0), float(largest)))
        f.spent[a] += share - shares[k]
        f.spent[b] -= share - shares[k]
        shares[k] = share


@njit
def add_costs_by_rank(needs: Needs, rank: Ints32, out: Ints) -> None:
    """Add every requirement's scaled cost to the entry of the least rank among the items that need it."""
    offsets, items, capacity, _ = needs
    for j in range(len(capacity)):
        if offsets[j] == offsets[j + 1]:
            continue
        least = rank[items[offsets[j]]]
        for e in range(offsets[j] + 1, offsets[j + 1]):
            least = min(least, rank[items[e]])
        out[least] += capacity[j]


@njit
def drop_unmet(parent: Ints32, arcs: Ints32, chosen: Bools) -> None:
    """Drop items that lack an item they need, until none does."""
    dropped = True
    while dropped:
        dropped = False
        for h in range(len(parent)):
            if chosen[h] and parent[h] >= 0 and not chosen[parent[h]]:
                chosen[h] = False
                dropped = True
        for k in range(len(arcs)):
            if chosen[arcs[k, 0]] and not chosen[arcs[k, 1]]:
                chosen[arcs[k, 0]] = False
                dropped = True


@njit
def profit_of(priced: Priced, chosen: Bools, users: Ints32) -> int:
    """Return the profit of the chosen items less the scaled cost of what they need; count the users of requirements."""
    _, supply, indptr, indices, capacity, _ = priced
    users[:] = 0
    profit = 0
    for h in range(len(chosen)):
        if not chosen[h]:
            continue
        profit += supply[h]
        for e in range(indptr[h], indptr[h + 1]):
            if users[indices[e]] == 0:
                profit -= capacity[indices[e]]
            users[indices[e]] += 1
    return profit


@njit
def best_responses(
    ends: Ints, members: Ints, priced: Priced, chosen: Bools, users: Ints32, value: Ints, wanted: Bools
) -> int:
    """Choose each tree again, in turn, with what the others have bought for free; return by how much profit rose.

    Tree t owns the items ``members[ends[t]:ends[t + 1]]``, ascending. Where two items of a tree need one requirement
    the choice is a guess; a tree changes only if that raises the profit. ``users`` counts users as `profit_of` does.
    """
    parent, supply, indptr, indices, capacity, _ = priced
    gain = 0
    for t in range(len(ends) - 1):
        tree = members[ends[t] : ends[t + 1]]
        old = 0
        for h in tree:
            if chosen[h]:
                old += supply[h]
                for e in range(indptr[h], indptr[h + 1]):
                    users[indices[e]] -= 1
                    if users[indices[e]] == 0:
                        old -= capacity[indices[e]]
        for h in tree:
            value[h] = supply[h]
            for e in range(indptr[h], indptr[h + 1]):
                if users[indices[e]] == 0:
                    value[h] -= capacity[indices[e]]
        for h in tree[::-1]:
            if value[h] > 0 and parent[h] >= 0:
                value[parent[h]] += value[h]
        new = 0
        for h in tree:
            wanted[h] = value[h] > 0 and (parent[h] < 0 or wanted[parent[h]])
            if wanted[h]:
                new += supply[h]
                for e in range(indptr[h], indptr[h + 1]):
                    if users[indices[e]] == 0:
                        new -= capacity[indices[e]]
                    users[indices[e]] += 1
        if new > old:
            gain += new - old
            for h in tree:
                chosen[h] = wanted[h]
            continue
        for h in tree:
            for e in range(indptr[h], indptr[h + 1]):
                users[indices[e]] += np.int32(chosen[h]) - np.int32(wanted[h])
    return gain


@njit
def lagrangian(priced: Priced, beta: Floats, gamma: Floats, relaxed: Relaxed) -> tuple[float, float, float]:
    """Evaluate the Lagrangian at multipliers ``beta`` (E,) of the requirements and ``gamma`` (k,) of the arcs.

    Sets ``chosen`` to the least best closure of each tree and ``paid`` to the sum of each requirement's multipliers;
    returns the upper bound on the profit, the profit of ``chosen``, and the squared norm of the subgradient.
    """
    parent, profit, indptr, indices, cost, arcs = priced
    chosen, paid, bought, weight = relaxed
    m = len(parent)
    paid[:] = 0.0
    bought[:] = False
    for h in range(m):
        weight[h] = profit[h]
        for e in range(indptr[h], indptr[h + 1]):
            weight[h] -= beta[e]
            paid[indices[e]] += beta[e]
    for k in range(len(arcs)):
        weight[arcs[k, 0]] -= gamma[k]
        weight[arcs[k, 1]] += gamma[k]
    bound, value, norm = 0.0, 0.0, 0.0
    for h in range(m - 1, -1, -1):
        if weight[h] > 0.0:
            if parent[h] >= 0:
                weight[parent[h]] += weight[h]
            else:
                bound += weight[h]
    for j in range(len(cost)):
        bound += max(paid[j] - cost[j], 0.0)
    for h in range(m):
        chosen[h] = weight[h] > 0.0 and (parent[h] < 0 or chosen[parent[h]])
        value += profit[h] if chosen[h] else 0.0
        for e in range(indptr[h], indptr[h + 1]):
            j = indices[e]
            norm += 1.0 if chosen[h] != (paid[j] > cost[j]) else 0.0
            if chosen[h] and not bought[j]:
                bought[j] = True
                value -= cost[j]
    for k in range(len(arcs)):
        norm += 1.0 if chosen[arcs[k, 0]] != chosen[arcs[k, 1]] else 0.0
    return bound, value, norm


@njit
def subgradient_step(priced: Priced, relaxed: Relaxed, eta: float, beta: Floats, gamma: Floats) -> None:
    """Move the multipliers by ``eta`` times the subgradient of `lagrangian` and project them on the positive."""
    _, _, indptr, indices, cost, arcs = priced
    chosen, paid, _, _ = relaxed
    for h in range(len(chosen)):
        for e in range(indptr[h], indptr[h + 1]):
            bought = paid[indices[e]] > cost[indices[e]]
            if chosen[h] and not bought:
                beta[e] += eta
            elif bought and not chosen[h]:
                beta[e] = max(beta[e] - eta, 0.0)
    for k in range(len(arcs)):
        if chosen[arcs[k, 0]] and not chosen[arcs[k, 1]]:
            gamma[k] += eta
        elif chosen[arcs[k, 1]] and not chosen[arcs[k, 0]]:
            gamma[k] = max(gamma[k] - eta, 0.0)
