"""The least loss of coupled choices by listing what could still end below a claim: the proof of an optimum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from prunopt.core.arrays import Floats

if TYPE_CHECKING:
    from prunopt.forms.knapsack.coupled_knapsack import CoupledChoice

States = tuple[Floats, Floats]  # loss and cost of partial choices
ROUNDING = 1e-12
MOST = 4_000_000  # pairs of partial choices in one step


class TooManyError(Exception):
    """More partial choices than `MOST`."""


def least_below(problem: CoupledChoice, multiplier: float, claim: float) -> float:
    r"""Return the least loss below ``claim``; where no choice loses less, the claim less what sums may be off.

    From the leaves to the roots of the spanning forest, partial choices are listed by the option of their uppermost
    group. One is dropped when its Lagrangian value and the least of everything else (the min-marginals of
    `CoupledChoice.messages`) come to the claim, or when another of the same option neither costs nor loses more.

    Raises
    ------
    TooManyError
        If too many partial choices remain.
    """
    order, parent, edge = problem.rooted
    inner, outer = problem.messages(multiplier)
    # A sum that comes to the ceiling may be off by the slack, and so truly comes to the claim less twice that.
    slack = problem.rounding(multiplier)
    ceiling = claim + multiplier * problem.budget - slack
    there = np.isfinite(problem.loss)
    states: list[dict[int, States]] = [{} for _ in order]
    for i, k in np.argwhere(there & (inner + outer < ceiling)).tolist():
        states[i][k] = problem.loss[i, k : k + 1], problem.cost[i, k : k + 1]
    waiting = np.where(there, inner - np.where(there, problem.loss, 0.0) - multiplier * problem.cost, 0.0)
    roots = [i for i in order if parent[i] < 0]
    later = math.fsum(float(inner[i].min()) for i in roots)
    done: States = np.zeros(1), np.zeros(1)
    fixed = problem.outside(multiplier)
    for i in reversed(order):
        p = int(parent[i])
        if p < 0:
            later -= float(inner[i].min())
            done = _sums(
                done,
                _together(states[i], np.zeros(there.shape[1])),
                multiplier,
                ceiling - later - fixed,
                problem.budget,
            )
        else:
            table = problem.pair(int(edge[i]), p)
            waiting[p] -= np.where(there[p], (multiplier * table + inner[i][None, :]).min(axis=1), 0.0)
            for a, above in list(states[p].items()):
                room = ceiling - outer[p, a] - waiting[p, a]
                states[p][a] = _sums(above, _together(states[i], table[a]), multiplier, room, problem.budget)
                if not len(states[p][a][0]):
                    del states[p][a]
        states[i] = {}
        if not len(done[0]):
            return claim - 2 * slack
    return min(claim - 2 * slack, float(done[0].min(initial=math.inf)))


def _together(states: dict[int, States], extra: Floats) -> States:
    """The partial choices of all options, each with the cost of its option beside the group above."""
    if not states:
        return np.zeros(0), np.zeros(0)
    lost = np.concatenate([s[0] for s in states.values()])
    return _undominated(lost, np.concatenate([s[1] + extra[k] for k, s in states.items()]))


def _sums(first: States, second: States, multiplier: float, room: float, budget: float) -> States:
    """Every pair whose Lagrangian value stays below ``room`` and whose cost stays within the budget."""
    order = np.argsort(second[0] + multiplier * second[1], kind="stable")
    values = (second[0] + multiplier * second[1])[order]
    counts = np.searchsorted(values, room - (first[0] + multiplier * first[1]), side="left")
    total = int(counts.sum())
    if total > MOST:
        raise TooManyError(f"more than {MOST} partial choices")
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
