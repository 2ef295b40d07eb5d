"""The nodes of a search tree over choices, each with its bound recomputed from its multipliers, compiled."""

from __future__ import annotations

import numpy as np

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.jit import njit


@njit
def leaves_from(
    tables: tuple[Floats, Floats, Floats],
    spans: tuple[int, Ints, Ints],
    nodes: tuple[int, int, Floats, Ints, Bools, Ints, Bools, Ints],
    root: Bools,
    kept: Bools,
    claim: float,
) -> float:
    """Return the least bound of the leaves among the nodes ``start`` to ``stop``, lowered by what rounding may add.

    What the inner nodes allow goes to ``kept``, at their ``place``, for their children.
    """
    loss, cost, limits = tables
    n_levels, first, last = spans
    start, stop, penalties, parent, second, group, levels, place = nodes
    groups, width = loss.shape
    value, own = np.empty((groups, width)), np.empty(groups)
    to, back = np.empty(groups + 1), np.empty(groups + 1)
    found = np.inf
    for node in range(start, stop):
        if parent[node] < 0:
            domain = root.copy()
        else:
            domain = kept[place[parent[node]]].copy()
            g = group[node]
            for k in range(width):
                if levels[node, k] == second[node]:
                    domain[g, k] = False
        for s in range(len(first)):
            if not domain[first[s] : last[s] + 1, n_levels + s].all():
                domain[first[s] : last[s] + 1, n_levels + s] = False
        fixed = 0.0
        for r in range(len(limits)):
            fixed += penalties[node, r] * limits[r]
        sizes = abs(fixed)
        for g in range(groups):
            own[g], most = np.inf, 0.0
            for k in range(width):
                value[g, k] = np.inf
                if domain[g, k]:
                    spent = 0.0
                    for r in range(len(limits)):
                        spent += penalties[node, r] * cost[g, k, r]
                    value[g, k] = loss[g, k] + spent
                    most = max(most, abs(loss[g, k]) + spent)
                    if k < n_levels:
                        own[g] = min(own[g], value[g, k])
            sizes += most
        slack = (groups + 8) * 2.0**-51 * sizes
        to[:], back[:] = np.inf, np.inf
        to[0] = back[groups] = 0.0
        for g in range(groups):
            to[g + 1] = min(to[g + 1], to[g] + own[g])
            for s in range(len(first)):
                if first[s] == g:
                    to[last[s] + 1] = min(to[last[s] + 1], to[g] + value[g, n_levels + s])
        if place[node] < 0:
            found = min(found, to[groups] - fixed - slack)
            continue
        for g in range(groups - 1, -1, -1):
            back[g] = back[g + 1] + own[g]
            for s in range(len(first)):
                if first[s] == g:
                    back[g] = min(back[g], value[g, n_levels + s] + back[last[s] + 1])
        edge = claim + fixed + slack
        for g in range(groups):
            for k in range(n_levels):
                if domain[g, k] and to[g] + value[g, k] + back[g + 1] >= edge:
                    domain[g, k] = False
        for s in range(len(first)):
            a = first[s]
            if domain[a, n_levels + s] and to[a] + value[a, n_levels + s] + back[last[s] + 1] >= edge:
                domain[a, n_levels + s] = False
        kept[place[node]] = domain
    return found
