"""Dual prices of a closure: what each item pays towards each requirement, and what the trees do at those prices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunopt.core.jit import njit

Longs = NDArray[np.int64]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@njit
def respond(
    parent: Ints, indptr: Longs, indices: Ints, supply: Floats, capacity: Floats, price: Floats,
    value: Floats, paid: Floats, chosen: Bools,
) -> tuple[float, float]:  # fmt: skip
    """Let every tree choose its best closure at the prices; return the dual value and |subgradient|^2.

    The dual value, an upper bound on the best profit, is the trees' profit after prices, plus what requirements are
    paid beyond their cost. The subgradient of edge (h, j) is [h chosen] - [j overpaid]. Writes ``value`` (m,), the
    profit of every subtree, ``paid`` (W,) and ``chosen`` (m,).
    """
    m = len(parent)
    paid[:] = 0.0
    for h in range(m):
        total = 0.0
        for e in range(indptr[h], indptr[h + 1]):
            total += price[e]
            paid[indices[e]] += price[e]
        value[h] = supply[h] - total
    dual = 0.0
    for h in range(m - 1, -1, -1):
        if value[h] > 0:
            if parent[h] >= 0:
                value[parent[h]] += value[h]
            else:
                dual += value[h]
    for h in range(m):
        chosen[h] = value[h] > 0 and (parent[h] < 0 or chosen[parent[h]])
    for j in range(len(capacity)):
        if paid[j] > capacity[j]:
            dual += paid[j] - capacity[j]
    square = 0.0
    for h in range(m):
        for e in range(indptr[h], indptr[h + 1]):
            if chosen[h] != (paid[indices[e]] > capacity[indices[e]]):
                square += 1.0
    return dual, square


@njit
def subgradient_step(
    indptr: Longs, indices: Ints, capacity: Floats, paid: Floats, chosen: Bools, step: float, price: Floats
) -> None:
    """Move every price along its subgradient: beta <- max(0, beta + step ([h chosen] - [j overpaid]))."""
    for h in range(len(chosen)):
        for e in range(indptr[h], indptr[h + 1]):
            over = paid[indices[e]] > capacity[indices[e]]
            if chosen[h] and not over:
                price[e] += step
            elif over and not chosen[h]:
                price[e] = max(0.0, price[e] - step)


@njit
def deflected_step(
    indptr: Longs, indices: Ints, capacity: Floats, paid: Floats, chosen: Bools, keep: float, gap: float,
    damping: float, price: Floats, direction: NDArray[np.float32],
) -> float:  # fmt: skip
    """Step along a deflected subgradient, d <- g + keep d, by Polyak's length; return |d|^2."""
    square = 0.0
    for h in range(len(chosen)):
        for e in range(indptr[h], indptr[h + 1]):
            g = 0.0
            over = paid[indices[e]] > capacity[indices[e]]
            if chosen[h] and not over:
                g = 1.0
            elif over and not chosen[h]:
                g = -1.0
            d = g + keep * direction[e]
            if price[e] <= 0.0 and d < 0.0:
                d = 0.0
            direction[e] = d
            square += d * d
    if square > 0.0:
        step = damping * gap / square
        for e in range(len(price)):
            price[e] = max(0.0, price[e] + step * direction[e])
    return square


@njit
def equal_shares(indices: Ints, capacity: Floats, price: Floats) -> None:
    """Split the cost of every requirement equally among the items that need it."""
    users = np.zeros(len(capacity), np.int64)
    for e in range(len(indices)):
        users[indices[e]] += 1
    for e in range(len(indices)):
        price[e] = capacity[indices[e]] / users[indices[e]]


@njit
def greedy_prices(parent: Ints, indptr: Longs, indices: Ints, supply: Floats, capacity: Floats, price: Floats) -> None:
    """Dual ascent in one pass: children first, each item pays for its requirements as far as its profit goes."""
    room = capacity.copy()
    have = np.maximum(supply, 0.0)
    debt = np.maximum(-supply, 0.0)
    for h in range(len(parent) - 1, -1, -1):
        x = min(have[h], debt[h])
        have[h] -= x
        for e in range(indptr[h], indptr[h + 1]):
            j = indices[e]
            x = min(have[h], room[j])
            price[e] = x
            room[j] -= x
            have[h] -= x
        if parent[h] >= 0:
            have[parent[h]] += have[h]


@njit
def profit_of(indptr: Longs, indices: Ints, supply: Floats, capacity: Floats, chosen: Bools, users: Ints) -> float:
    """Return the profit of a closure after the cost of what it needs; counts the users of every requirement."""
    users[:] = 0
    total = 0.0
    for h in range(len(chosen)):
        if chosen[h]:
            total += supply[h]
            for e in range(indptr[h], indptr[h + 1]):
                j = indices[e]
                if users[j] == 0:
                    total -= capacity[j]
                users[j] += 1
    return total
