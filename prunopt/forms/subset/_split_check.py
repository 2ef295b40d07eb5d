"""The check of a search tree over a quadratic knapsack: the bound of every leaf, by shares of pairs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Floats, Ints
from prunopt.core.jit import njit


class Split(NamedTuple):
    """A quadratic knapsack in the order of a tree: ``pair`` symmetric, ``share`` with s + s^T = pair."""

    linear: Floats
    pair: Floats
    share: Floats
    cost: Floats
    room: float


@njit
def fraction(gain: Floats, cost: Floats, room: float) -> float:
    """The least sum of gains that fit into the room, a part of the last item allowed."""
    total = 0.0
    for i in np.argsort(gain / np.maximum(cost, 1e-300), kind="mergesort"):
        if gain[i] >= 0.0 or room < 0.0:
            break
        if cost[i] > room:
            total += gain[i] * (room / cost[i])
            break
        total += gain[i]
        room -= cost[i]
    return total


@njit
def leaf_bounds(problem: Split, leaves: NDArray[np.int8], depths: Ints, out: Floats) -> None:
    """Write what every leaf is worth at least, without the problem's constant; infinite where it is over the room."""
    linear, pair, share, cost, room = problem
    n = len(linear)
    for k in range(len(leaves)):
        d = depths[k]
        value, left = 0.0, room
        single = linear[d:].copy()
        for i in range(d):
            if leaves[k, i] == 1:
                value += linear[i]
                left -= cost[i]
                for j in range(i):
                    if leaves[k, j] == 1:
                        value += pair[i, j]
                for j in range(d, n):
                    single[j - d] += pair[i, j]
        if left < 0.0:
            out[k] = np.inf
            continue
        for j in range(d, n):
            own = share[j, d:].copy()
            own[j - d] = 0.0
            if cost[j] > left:
                single[j - d] = 0.0
            else:
                single[j - d] += fraction(own, cost[d:], left - cost[j])
        out[k] = value + fraction(single, cost[d:], left)
