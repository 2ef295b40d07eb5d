"""Bounds of a `QuadraticKnapsack` by dividing every pair's loss between its two items, in one kernel.

With shares s_ji + s_ij = q_ij, an item j that stays brings its partners' shares, which are a knapsack of their own in
the room that j leaves; the items with what they bring are another. Both are relaxed to fractions.
"""

from __future__ import annotations

import numpy as np

from prunopt.core.arrays import Floats, Ints
from prunopt.core.jit import njit

LEAST = 1e-300  # in place of costs of 0


@njit
def partners_in_order(share: Floats, cost: Floats) -> Ints:
    """For each item the others whose share is negative, best ratio to cost first; -1 ends the row."""
    n = len(cost)
    ranks = np.full((n, n), -1, np.int64)
    ratio = np.empty(n)
    for j in range(n):
        for i in range(n):
            ratio[i] = share[j, i] / max(cost[i], LEAST) if i != j and share[j, i] < 0 else 0.0
        for at, i in enumerate(np.argsort(ratio, kind="mergesort")):
            if ratio[i] >= 0:
                break
            ranks[j, at] = i
    return ranks


@njit
def split_bound(d: int, single: Floats, share: Floats, ranks: Ints, cost: Floats, room: float) -> float:
    """A lower bound of what the items from d on add, where ``room`` is left for their costs."""
    n = len(single)
    gains, ratio = np.zeros(n - d), np.zeros(n - d)
    for j in range(d, n):
        left = room - cost[j]
        if left < 0:
            continue
        gain = single[j]
        for i in ranks[j]:
            if i < 0:
                break
            if i < d:
                continue
            if cost[i] <= left:
                gain += share[j, i]
                left -= cost[i]
            else:
                gain += share[j, i] * (left / cost[i])
                break
        gains[j - d] = gain
        ratio[j - d] = gain / max(cost[j], LEAST)
    total, left = 0.0, room
    for k in np.argsort(ratio, kind="mergesort"):
        if gains[k] >= 0:
            break
        c = cost[d + k]
        if c <= left:
            total += gains[k]
            left -= c
        else:
            total += gains[k] * (left / c)
            break
    return total


@njit
def _slopes(share: Floats, single: Floats, cost: Floats, room: float, slopes: Floats) -> float:
    """The bound of all items, and by how much every share takes part in it."""
    n = len(single)
    ranks = partners_in_order(share, cost)
    gains, ratio = np.zeros(n), np.zeros(n)
    for j in range(n):
        for i in range(n):
            slopes[j, i] = 0.0
        left = room - cost[j]
        if left < 0:
            continue
        gains[j] = single[j]
        for i in ranks[j]:
            if i < 0:
                break
            part = 1.0 if cost[i] <= left else left / cost[i]
            gains[j] += share[j, i] * part
            slopes[j, i] = part
            left -= cost[i] * part
            if part < 1.0:
                break
        ratio[j] = gains[j] / max(cost[j], LEAST)
    total, left = 0.0, room
    taken = np.zeros(n)
    for k in np.argsort(ratio, kind="mergesort"):
        if gains[k] >= 0:
            break
        taken[k] = 1.0 if cost[k] <= left else left / cost[k]
        total += gains[k] * taken[k]
        left -= cost[k] * taken[k]
        if taken[k] < 1.0:
            break
    for j in range(n):
        for i in range(n):
            slopes[j, i] *= taken[j]
    return total


@njit
def ascend(
    share: Floats, single: Floats, cost: Floats, room: float, goal: float, state: Floats, best: Floats, steps: int
) -> None:
    """Subgradient steps on the shares, in place; ``state``: the best bound yet, the step's factor, steps in vain."""
    n = len(single)
    slopes = np.zeros((n, n))
    for _ in range(steps):
        bound = _slopes(share, single, cost, room, slopes)
        if bound > state[0] + 1e-9 * abs(state[0]):
            state[0], state[2] = bound, 0.0
            best[:] = share
        else:
            state[2] += 1.0
            if state[2] >= 15:
                state[1], state[2] = state[1] * 0.7, 0.0
        size = 0.0
        for j in range(n):
            for i in range(j):
                size += (slopes[j, i] - slopes[i, j]) ** 2
        if size == 0.0 or bound >= goal:
            return
        step = state[1] * (goal - bound) / size
        for j in range(n):
            for i in range(j):
                move = step * (slopes[j, i] - slopes[i, j])
                share[j, i] += move
                share[i, j] -= move


@njit
def stakes(share: Floats, single: Floats, cost: Floats, room: float) -> tuple[Floats, Floats]:
    """For each item the bound where it goes, and where it stays (infinite where there is no room)."""
    n = len(single)
    gone, kept = np.empty(n), np.full(n, np.inf)
    order = np.empty(n, np.int64)
    for f in range(n):
        order[0], at = f, 1
        for i in range(n):
            if i != f:
                order[at] = i
                at += 1
        s, c, own = share[order][:, order], cost[order], single[order]
        ranks = partners_in_order(s, c)
        gone[f] = split_bound(1, own, s, ranks, c, room)
        if c[0] <= room:
            for i in range(1, n):
                own[i] += s[0, i] + s[i, 0]
            kept[f] = own[0] + split_bound(1, own, s, ranks, c, room - c[0])
    return gone, kept
