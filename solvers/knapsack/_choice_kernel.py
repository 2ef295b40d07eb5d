"""The multiple-choice knapsack's linear relaxation, rounding, and the growth of its dynamic program by one group."""

from __future__ import annotations

from typing import Any

import numpy as np

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.jit import njit


@njit
def relaxation(loss: Floats, cost: Ints, budget: int) -> tuple[float, Ints]:
    """Return the penalty at which the linear relaxation fits the budget, and the levels that it takes in full.

    Every group starts at its cheapest level. Going up its lower convex hull buys loss for cost at falling rates; the
    steps of all groups are taken in the order of their rates until one does not fit. Its rate is the penalty.
    """
    groups, levels = loss.shape
    start, spent = np.empty(groups, np.int64), 0
    rate, owner, towards = (
        np.empty(groups * levels),
        np.empty(groups * levels, np.int64),
        np.empty(groups * levels, np.int64),
    )
    n = 0
    for g in range(groups):
        here = -1
        for j in range(levels):
            if np.isfinite(loss[g, j]) and (
                here < 0 or cost[g, j] < cost[g, here] or (cost[g, j] == cost[g, here] and loss[g, j] < loss[g, here])
            ):
                here = j
        start[g] = here
        spent += cost[g, here]
        while True:
            best, steepest = -1, 0.0
            for j in range(levels):
                if cost[g, j] > cost[g, here] and loss[g, j] < loss[g, here]:
                    slope = (loss[g, here] - loss[g, j]) / (cost[g, j] - cost[g, here])
                    if slope > steepest or (slope == steepest and best >= 0 and cost[g, j] > cost[g, best]):
                        best, steepest = j, slope
            if best < 0:
                break
            rate[n], owner[n], towards[n] = steepest, g, best
            n += 1
            here = best
    chosen = start
    for k in np.argsort(-rate[:n], kind="mergesort"):
        g, j = owner[k], towards[k]
        step = cost[g, j] - cost[g, chosen[g]]
        if spent + step > budget:
            return rate[k], chosen
        spent += step
        chosen[g] = j
    return 0.0, chosen


@njit
def fill(loss: Floats, cost: Ints, budget: int, chosen: Ints) -> Ints:
    """Spend what is left of the budget: the change of one level that gains most and fits, again and again."""
    groups, levels = loss.shape
    x = chosen.copy()
    room = budget
    for g in range(groups):
        room -= cost[g, x[g]]
    while True:
        best_g, best_j, gain = -1, -1, 0.0
        for g in range(groups):
            for j in range(levels):
                won = loss[g, x[g]] - loss[g, j]
                if won > gain and cost[g, j] - cost[g, x[g]] <= room:
                    best_g, best_j, gain = g, j, won
        if best_g < 0:
            return x
        room -= cost[best_g, best_j] - cost[best_g, x[best_g]]
        x[best_g] = best_j


@njit
def grow(
    spent: Ints,
    lost: Floats,
    step: Ints,
    added: Floats,
    budget: int,
    penalty: float,
    room: float,
    up: float,
    down: float,
) -> tuple[Ints, Floats, Ints, Ints]:
    """Return the partial choices after one more group: cost, reduced loss, parent, and which of its levels.

    ``step`` and ``added`` are the group's changes of cost and reduced loss against the levels that the relaxation
    takes. A partial choice goes if it cannot end within ``room`` of the relaxation (``up`` and ``down`` are the least
    reduced losses per unit of cost that the groups still open ask for going up or down), or if another one costs
    and loses no more.
    """
    n, m = len(spent), len(step)
    cost, loss = np.empty(n * m, np.int64), np.empty(n * m)
    parent, level = np.empty(n * m, np.int64), np.empty(n * m, np.int64)
    k = 0
    for j in range(m):
        for i in range(n):
            c, r = spent[i] + step[j], lost[i] + added[j]
            if c <= budget:
                least = r + (budget - c) * min(penalty, up)
            else:
                least = r + (c - budget) * down
            if least < room:
                cost[k], loss[k], parent[k], level[k] = c, r, i, j
                k += 1
    order = np.argsort(cost[:k], kind="mergesort")
    out_cost, out_loss = np.empty(k, np.int64), np.empty(k)
    out_parent, out_level = np.empty(k, np.int64), np.empty(k, np.int64)
    kept = 0
    for i in order:
        real = loss[i] - penalty * (cost[i] - budget)
        if kept:
            before = out_loss[kept - 1] - penalty * (out_cost[kept - 1] - budget)
            if real >= before:
                continue
            if cost[i] == out_cost[kept - 1]:
                kept -= 1
        out_cost[kept], out_loss[kept], out_parent[kept], out_level[kept] = cost[i], loss[i], parent[i], level[i]
        kept += 1
    return out_cost[:kept].copy(), out_loss[:kept].copy(), out_parent[:kept].copy(), out_level[:kept].copy()


def slopes(reduced: Floats, change: Ints, useful: Bools) -> tuple[Floats, Floats]:
    """Return for each group the least reduced loss per unit of cost of going up, and of going down; inf for none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rate: Any = reduced / np.abs(change)
    up = np.where(useful & (change > 0), rate, np.inf).min(axis=1)
    down = np.where(useful & (change < 0), rate, np.inf).min(axis=1)
    return up, down
