"""Multiple-choice knapsacks with one or two resources: layered states, cut off by a Lagrangian bound."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.solver import Run
from prunopt.forms.knapsack._lagrangian import Choices, bound, relaxed

ROUNDING = 1e-12  # relative: what sums in another order may differ by
MANY = 20_000  # options beyond which the relaxation starts with a few of them
MOST = 4_000_000  # states of one group before domination


class States(NamedTuple):
    """What a layer's states have lost and used, where they come from, and the option that led to them."""

    lost: Floats
    used: Floats
    origin: Ints
    option: Ints


def multipliers(choices: Choices) -> Floats:
    """Return the multipliers of the linear relaxation, one for each resource (0 where the limit is infinite).

    Many options are priced in turn: the relaxation starts with a few of each group, and takes in the best one at its
    multipliers until these no longer change.
    """
    there = np.isfinite(choices.loss)
    used = there
    if np.count_nonzero(there) > MANY:
        used = np.zeros_like(there)
        limited = [c / max(b, 1e-300) for c, b in zip(choices.costs, choices.limits, strict=True) if math.isfinite(b)]
        for of in (choices.loss, *limited, sum(limited, np.zeros_like(choices.loss))):
            used[np.arange(len(there)), np.where(there, of, np.inf).argmin(axis=1)] = True
    while True:
        weights = _multipliers(choices, used)
        best = relaxed(choices, weights.tolist())[0].argmin(axis=1)
        if used[np.arange(len(there)), best].all():
            return weights
        used[np.arange(len(there)), best] = True


def _multipliers(choices: Choices, there: Bools) -> Floats:
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    loss, limits = choices.loss, np.array(choices.limits)
    group, _ = np.nonzero(there)
    finite = np.flatnonzero(np.isfinite(limits))
    out = np.zeros(len(limits))
    if not len(finite):
        return out
    scale = np.maximum(limits[finite], 1e-300)
    n = len(group)
    rows = np.array([choices.costs[r][there] for r in finite.tolist()]) / scale[:, None]
    one = csr_array((np.ones(n), (group, np.arange(n))), shape=(len(loss), n))
    unit = max(float(np.abs(loss[there]).max()), 1e-300)
    solver: Any = linprog  # its stubs know no sparse array
    found = solver(loss[there] / unit, A_ub=rows, b_ub=np.ones(len(finite)), A_eq=one, b_eq=np.ones(len(loss)))
    if found.status == 0:
        out[finite] = np.maximum(-found.ineqlin.marginals, 0.0) * unit / scale
    return out


def best_choice(choices: Choices, weights: Floats, most: float, run: Run) -> tuple[Ints | None, bool]:
    """Return the best choice that loses at most ``most``, and whether all states were looked at.

    A state is dropped when what it has lost and the Lagrangian bound of the rest come to more than ``most``, when the
    rest cannot be afforded any more, or when another has lost and used no more.
    """
    loss, limits = choices.loss, np.array(choices.limits)
    there = np.isfinite(loss)
    costs = np.where(there, np.array(choices.costs), 0.0)
    total, _ = relaxed(choices, weights.tolist())
    least = total.min(axis=1)
    below = np.append(np.cumsum(least[::-1])[::-1][1:], 0.0)
    cheapest = np.where(there[None], costs, np.inf).min(axis=2)
    needed = np.concatenate([np.cumsum(cheapest[:, ::-1], axis=1)[:, ::-1][:, 1:], np.zeros((len(limits), 1))], axis=1)
    counted = np.isfinite(limits)
    fixed = float(np.sum(weights[counted] * limits[counted]))
    slack = ROUNDING * max(1e-300, float(np.abs(loss[there]).sum() + fixed))
    near = total - least[:, None] <= most + 2 * slack - (float(least.sum()) - fixed)
    lost, used = np.zeros(1), np.zeros((len(limits), 1))
    trail: list[States] = []
    for i in range(len(loss)):
        options = np.flatnonzero(there[i] & near[i])
        if len(lost) * len(options) > MOST:
            return None, False
        new_lost = (lost[:, None] + loss[i, options]).ravel()
        new_used = (used[:, :, None] + costs[:, i, options][:, None, :]).reshape(len(limits), -1)
        origin = np.repeat(np.arange(len(lost)), len(options))
        option = np.tile(options, len(lost))
        run.evaluations += len(new_lost)
        value = new_lost + weights @ new_used + below[i] - fixed
        keep = value <= most + slack
        for r in np.flatnonzero(counted):
            keep &= new_used[r] + needed[r, i] <= limits[r] * (1 + ROUNDING)
        at = np.flatnonzero(keep)
        at = at[undominated(new_lost[at], new_used[counted][:, at])]
        if not len(at) or run.out_of_time:
            return None, not len(at)
        lost, used = new_lost[at], new_used[:, at]
        trail.append(States(lost, used, origin[at], option[at]))
    best = int(np.argmin(lost))
    return walk_back(trail, best) if lost[best] <= most + slack else None, True


def optimum(choices: Choices, run: Run, most: float = math.inf) -> tuple[Ints | None, Floats, bool]:
    """Return the best choice that loses at most ``most``, the multipliers, and whether all states were looked at.

    The threshold of `best_choice` starts just above the Lagrangian bound and is raised until an answer lies below.
    """
    weights = multipliers(choices)
    lower = bound(choices, weights.tolist())
    there = np.isfinite(choices.loss)
    span = float(sum(row[ok].max() - row[ok].min() for row, ok in zip(choices.loss, there, strict=True)))
    above = max(1e-4 * span, 1e-12)
    while True:
        last = above >= 2 * span + 1e-9 or lower + above >= most
        chosen, complete = best_choice(choices, weights, most if last else lower + above, run)
        if chosen is not None or not complete or last:
            return chosen, weights, complete
        above *= 8


def walk_back(trail: list[States], at: int) -> Ints:
    """Return the options that led to state ``at`` of the last layer."""
    out = np.zeros(len(trail), np.int64)
    for i in range(len(trail) - 1, -1, -1):
        out[i], at = trail[i].option[at], int(trail[i].origin[at])
    return out


def undominated(lost: Floats, used: Floats) -> Ints:
    """Return the states of which no other has lost and used no more."""
    if len(used) == 2:
        from prunopt.forms.knapsack._pareto import undominated as of_two

        return of_two(lost, used[0], used[1])
    if not len(used):
        return np.array([np.argmin(lost)], np.int64) if len(lost) else np.zeros(0, np.int64)
    order = np.lexsort((lost, used[0]))
    least = np.minimum.accumulate(lost[order])
    first = np.r_[True, lost[order][1:] < least[:-1]]
    return np.sort(order[first]) if len(order) else order
