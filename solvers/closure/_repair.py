"""Closures within a budget, near a Lagrangian optimum: tree by tree, dropping what frees cost, adding what pays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from prunopt.core.arrays import Bools, Ints, Ints32
from prunopt.core.jit import njit


class Trees(NamedTuple):
    """A closure whose trees are runs of items: tree t holds the items ``roots[t]`` to ``roots[t + 1] - 1``."""

    roots: Ints
    parent: Ints32
    profit: Ints
    indptr: Ints
    indices: Ints32
    cost: Ints


@njit
def count_users(indptr: Ints, indices: Ints32, chosen: Bools, users: Ints32) -> None:
    """Count, for every requirement, the chosen items that need it."""
    users[:] = 0
    for h in range(len(chosen)):
        if chosen[h]:
            for e in range(indptr[h], indptr[h + 1]):
                users[indices[e]] += 1


@njit
def drop_by_penalty(
    trees: Trees, fixed: Bools, chosen: Bools, users: Ints32, spent: int, budget: int, penalty: float
) -> int:
    """Drop, tree by tree, the parts whose profit is below ``penalty`` times what they alone use; return the cost left.

    Stops as soon as the budget is met.
    """
    roots, parent, profit, indptr, indices, cost = trees
    value = np.zeros(len(parent))
    for t in range(len(roots) - 1):
        first, last = roots[t], roots[t + 1]
        for h in range(first, last):
            value[h] = 0.0
            if chosen[h]:
                value[h] = profit[h]
                for e in range(indptr[h], indptr[h + 1]):
                    if users[indices[e]] == 1:
                        value[h] -= penalty * cost[indices[e]]
        for h in range(last - 1, first - 1, -1):
            p = parent[h]
            if chosen[h] and p >= 0 and (value[h] > 0 or fixed[h]):
                value[p] += value[h]
        for h in range(first, last):
            p = parent[h]
            if chosen[h] and not fixed[h] and (value[h] <= 0 or (p >= 0 and not chosen[p])):
                chosen[h] = False
                for e in range(indptr[h], indptr[h + 1]):
                    j = indices[e]
                    users[j] -= 1
                    if users[j] == 0:
                        spent -= cost[j]
        if spent <= budget:
            break
    return spent


@njit
def add_by_penalty(
    trees: Trees, barred: Bools, chosen: Bools, users: Ints32, spent: int, budget: int, penalty: float
) -> int:
    """Add, tree by tree, the parts worth more than ``penalty`` times what is not yet paid for, where the budget allows.

    A tree whose addition would break the budget is left as it is. Returns the cost spent.
    """
    roots, parent, profit, indptr, indices, cost = trees
    value = np.zeros(len(parent))
    extra = np.zeros(len(parent), np.int64)
    wanted = np.zeros(len(parent), np.bool_)
    for t in range(len(roots) - 1):
        first, last = roots[t], roots[t + 1]
        for h in range(first, last):
            value[h], extra[h], wanted[h] = 0.0, 0, False
            if chosen[h] or barred[h]:
                continue
            for e in range(indptr[h], indptr[h + 1]):
                if users[indices[e]] == 0:
                    extra[h] += cost[indices[e]]
            value[h] = profit[h] - penalty * extra[h]
        for h in range(last - 1, first - 1, -1):
            p = parent[h]
            if not chosen[h] and not barred[h] and p >= 0 and not chosen[p] and value[h] > 0:
                value[p] += value[h]
        more = 0
        for h in range(first, last):
            p = parent[h]
            if not chosen[h] and not barred[h] and value[h] > 0 and (p < 0 or chosen[p] or wanted[p]):
                wanted[h] = True
                more += extra[h]
        if more == 0 or spent + more <= budget:
            for h in range(first, last):
                if wanted[h]:
                    chosen[h] = True
                    for e in range(indptr[h], indptr[h + 1]):
                        j = indices[e]
                        if users[j] == 0:
                            spent += cost[j]
                        users[j] += 1
    return spent
