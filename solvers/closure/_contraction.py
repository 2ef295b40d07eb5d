"""Contracted parts of a closure: what lies between two nested closures, as a problem of its own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from prunopt.core.arrays import Bools, Ints, Ints32, Singles
from prunopt.core.jit import njit


class Contracted(NamedTuple):
    """Items between two closures, requirements that only they need, and a guess of the flow in units of profit."""

    items: Ints32  # ids in the whole problem, ascending
    requirements: Ints32  # ids in the whole problem, ascending
    parent: Ints32
    profit: Ints
    indptr: Ints
    indices: Ints32
    cost: Ints
    guess_edge: Singles
    guess_up: Singles
    guess_lost: Singles


@njit
def restrict(
    part: Contracted, keep: Bools, taken: Bools, edge: Ints, up: Ints, lost: Ints, per_profit: float
) -> Contracted:
    """Return the part made of the items ``keep``, with the requirements of the items ``taken`` paid for.

    ``edge``, ``up`` and ``lost`` (or arrays of size 0) are a flow of ``part`` in units of ``1 / per_profit`` profit,
    kept as the guess.
    """
    m, w = len(part.profit), len(part.cost)
    has_flow = len(edge) == len(part.indices) and len(up) == m
    paid = np.zeros(w, np.bool_)
    for h in range(m):
        if taken[h]:
            for e in range(part.indptr[h], part.indptr[h + 1]):
                paid[part.indices[e]] = True
    count, n_edges = 0, 0
    place = np.full(m, -1, np.int32)
    seen = np.zeros(w, np.bool_)
    for h in range(m):
        if keep[h]:
            place[h] = count
            count += 1
            for e in range(part.indptr[h], part.indptr[h + 1]):
                j = part.indices[e]
                if not paid[j] and part.cost[j] > 0:
                    n_edges += 1
                    seen[j] = True
    number = np.full(w, -1, np.int32)
    n_requirements = 0
    for j in range(w):
        if seen[j]:
            number[j] = n_requirements
            n_requirements += 1
    requirements, cost = np.empty(n_requirements, np.int32), np.empty(n_requirements, np.int64)
    for j in range(w):
        if seen[j]:
            requirements[number[j]] = part.requirements[j]
            cost[number[j]] = part.cost[j]
    items, parent = np.empty(count, np.int32), np.empty(count, np.int32)
    profit, indptr = np.empty(count, np.int64), np.zeros(count + 1, np.int64)
    indices = np.empty(n_edges, np.int32)
    guess_edge = np.empty(n_edges if has_flow else 0, np.float32)
    guess_up = np.empty(count if has_flow else 0, np.float32)
    guess_lost = np.empty(count if has_flow else 0, np.float32)
    a, k = 0, 0
    for h in range(m):
        if not keep[h]:
            continue
        items[a] = part.items[h]
        p = part.parent[h]
        parent[a] = place[p] if p >= 0 else -1
        profit[a] = part.profit[h]
        if has_flow:
            guess_up[a] = up[h] / per_profit if parent[a] >= 0 else 0.0
            guess_lost[a] = lost[h] / per_profit
        for e in range(part.indptr[h], part.indptr[h + 1]):
            j = number[part.indices[e]]
            if j >= 0 and not paid[part.indices[e]]:
                indices[k] = j
                if has_flow:
                    guess_edge[k] = edge[e] / per_profit
                k += 1
        a += 1
        indptr[a] = k
    return Contracted(items, requirements, parent, profit, indptr, indices, cost, guess_edge, guess_up, guess_lost)


@njit
def needs_nothing(parent: Ints32, indptr: Ints, indices: Ints32, cost: Ints) -> Bools:
    """Return the items that, with all items above them, need no requirement that costs anything."""
    free = np.ones(len(parent), np.bool_)
    for h in range(len(parent)):
        if parent[h] >= 0 and not free[parent[h]]:
            free[h] = False
            continue
        for e in range(indptr[h], indptr[h + 1]):
            if cost[indices[e]] > 0:
                free[h] = False
                break
    return free


@njit
def value_of(part: Contracted, chosen: Bools) -> tuple[int, int]:
    """Return the profit of the chosen items and the cost of what they need."""
    profit, cost = 0, 0
    paid = np.zeros(len(part.cost), np.bool_)
    for h in range(len(chosen)):
        if chosen[h]:
            profit += part.profit[h]
            for e in range(part.indptr[h], part.indptr[h + 1]):
                j = part.indices[e]
                if not paid[j]:
                    paid[j] = True
                    cost += part.cost[j]
    return profit, cost
