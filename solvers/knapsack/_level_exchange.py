"""Better choices within the budget by changing one or two levels, all pairs looked at by sorting."""

from __future__ import annotations

import numpy as np

from prunopt.core.arrays import Ints
from prunopt.core.jit import njit
from prunopt.forms.knapsack.multiple_choice_knapsack import MultipleChoiceKnapsack

ROUNDS = 50
MOST = 4_000_000  # changes of single levels


def exchanged(problem: MultipleChoiceKnapsack, value: Ints) -> Ints:
    """Make the best change of one level or of two, again and again, while it lowers the loss and fits the budget."""
    value = np.array(value, np.int64)
    groups = np.arange(problem.n_groups)
    if problem.loss.size > MOST or problem.n_levels < 2:
        return value
    for _ in range(ROUNDS):
        now = problem.loss[groups, value], problem.cost[groups, value]
        change, spent = problem.loss - now[0][:, None], problem.cost - now[1][:, None]
        at = np.flatnonzero(np.isfinite(change) & ((change < 0) | (spent < 0)))
        room = int(problem.budget - now[1].sum())
        order = at[np.argsort(spent.ravel()[at], kind="stable")]
        owner = order // problem.n_levels
        first, second, gain = best_pair(owner, spent.ravel()[order], change.ravel()[order], room)
        if first < 0 or gain >= -1e-12 * max(1.0, float(np.abs(now[0]).sum())):
            break
        for k in (first, second):
            if k >= 0:
                value[owner[k]] = order[k] % problem.n_levels
    return value


@njit
def best_pair(owner: Ints, spent: Ints, change: Ints, room: int) -> tuple[int, int, float]:
    """Return one change, or two of different groups, that lower the loss most (-1: none); sorted by what they spend."""
    n = len(owner)
    one, two, most = -1, -1, 0.0
    # Of the changes up to each place the best, and the best of another group.
    best, other = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    for k in range(n):
        a, b = (best[k - 1], other[k - 1]) if k else (-1, -1)
        if a < 0 or change[k] < change[a]:
            if a >= 0 and owner[a] != owner[k]:
                b = a
            a = k
        elif owner[k] != owner[a] and (b < 0 or change[k] < change[b]):
            b = k
        best[k], other[k] = a, b
        if spent[k] <= room and change[k] < most:
            one, two, most = k, -1, change[k]
    last = n - 1
    for k in range(n):
        while last >= 0 and spent[last] > room - spent[k]:
            last -= 1
        if last < 0:
            break
        partner = best[last] if owner[best[last]] != owner[k] else other[last]
        if partner >= 0 and change[k] + change[partner] < most:
            one, two, most = k, partner, change[k] + change[partner]
    return one, two, most
