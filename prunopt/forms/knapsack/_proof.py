"""Partial choices of subtrees, joined and added up: what the proof of a coupled knapsack's optimum lists."""

from __future__ import annotations

import numpy as np

from prunopt.core.arrays import Floats
from prunopt.core.deadline import is_over

States = tuple[Floats, Floats]  # loss and cost of partial choices
ROUNDING = 1e-12
UNNOTICED = 10_000  # pairs that cost no time
MOST = 4_000_000  # pairs of partial choices in one step


class TooManyChoicesError(Exception):
    """More partial choices than `MOST`, or no time left."""


def together(states: dict[int, States], extra: Floats) -> States:
    """The partial choices of all options, each with the cost of its option beside the group above."""
    if not states:
        return np.zeros(0), np.zeros(0)
    lost = np.concatenate([s[0] for s in states.values()])
    return _undominated(lost, np.concatenate([s[1] + extra[k] for k, s in states.items()]))


def sums(first: States, second: States, multiplier: float, room: float, budget: float) -> States:
    """Every pair whose Lagrangian value stays below ``room`` and whose cost stays within the budget."""
    order = np.argsort(second[0] + multiplier * second[1], kind="stable")
    values = (second[0] + multiplier * second[1])[order]
    counts = np.searchsorted(values, room - (first[0] + multiplier * first[1]), side="left")
    total = int(counts.sum())
    if total > MOST or (total > UNNOTICED and is_over()):
        raise TooManyChoicesError(f"more than {MOST} partial choices, or no time left")
    i = np.repeat(np.arange(len(counts)), counts)
    j = order[np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)]
    lost, used = first[0][i] + second[0][j], first[1][i] + second[1][j]
    held = used <= budget * (1 + ROUNDING)
    return _undominated(lost[held], used[held])


def _undominated(lost: Floats, used: Floats) -> States:
    order = np.lexsort((lost, used))
    lost, used = lost[order], used[order]
    best = np.minimum.accumulate(np.append(np.inf, lost[:-1])) if len(lost) else lost
    return lost[lost < best], used[lost < best]
