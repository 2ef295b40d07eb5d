"""Multiple-choice knapsacks with one or two resources: layered states, cut off by a Lagrangian bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from prunopt.core.arrays import Floats, Ints
from prunopt.forms.knapsack._lagrangian import Choices, relaxed

ROUNDING = 1e-12  # relative: what sums in another order may differ by


class States(NamedTuple):
    """What a layer's states have lost and used, where they come from, and the option that led to them."""

    lost: Floats
    used: Floats
    origin: Ints
    option: Ints


def multipliers(loss: Floats, costs: Floats, limits: Floats) -> Floats:
    """Return the multipliers of the linear relaxation, one for each resource (0 where the limit is infinite)."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    there = np.isfinite(loss)
    group, _ = np.nonzero(there)
    finite = np.flatnonzero(np.isfinite(limits))
    out = np.zeros(len(limits))
    if not len(finite):
        return out
    scale = np.maximum(limits[finite], 1e-300)
    n = len(group)
    rows = np.array([costs[r][there] for r in finite]) / scale[:, None]
    one = csr_array((np.ones(n), (group, np.arange(n))), shape=(len(loss), n))
    unit = max(float(np.abs(loss[there]).max()), 1e-300)
    solver: Any = linprog  # its stubs know no sparse array
    found = solver(loss[there] / unit, A_ub=rows, b_ub=np.ones(len(finite)), A_eq=one, b_eq=np.ones(len(loss)))
    if found.status == 0:
        out[finite] = np.maximum(-found.ineqlin.marginals, 0.0) * unit / scale
    return out


def best_choice(
    loss: Floats, costs: Floats, limits: Floats, weights: Floats, most: float, stop: Callable[[], bool]
) -> tuple[Ints | None, int, bool]:
    """Return the best choice that loses at most ``most``, how many states were looked at, and whether all were.

    A state is dropped when what it has lost and the Lagrangian bound of the rest come to more than ``most``, when the
    rest cannot be afforded any more, or when another has lost and used no more.
    """
    total, _ = relaxed(Choices(loss, tuple(costs), limits.tolist(), 0.0), weights.tolist())
    there = np.isfinite(loss)
    below = np.append(np.cumsum(total.min(axis=1)[::-1])[::-1][1:], 0.0)
    cheapest = np.where(there[None], costs, np.inf).min(axis=2)
    needed = np.concatenate([np.cumsum(cheapest[:, ::-1], axis=1)[:, ::-1][:, 1:], np.zeros((len(limits), 1))], axis=1)
    counted = np.isfinite(limits)
    fixed = float(np.sum(weights[counted] * limits[counted]))
    slack = ROUNDING * max(1e-300, float(np.abs(loss[there]).sum() + fixed))
    lost, used = np.zeros(1), np.zeros((len(limits), 1))
    trail: list[States] = []
    looked = 0
    for i in range(len(loss)):
        options = np.flatnonzero(there[i])
        new_lost = (lost[:, None] + loss[i, options]).ravel()
        new_used = (used[:, :, None] + costs[:, i, options][:, None, :]).reshape(len(limits), -1)
        origin = np.repeat(np.arange(len(lost)), len(options))
        option = np.tile(options, len(lost))
        looked += len(new_lost)
        value = new_lost + weights @ new_used + below[i] - fixed
        keep = value <= most + slack
        for r in np.flatnonzero(counted):
            keep &= new_used[r] + needed[r, i] <= limits[r] * (1 + ROUNDING)
        at = np.flatnonzero(keep)
        at = at[undominated(new_lost[at], new_used[counted][:, at])]
        if not len(at) or stop():
            return None, looked, not len(at)
        lost, used = new_lost[at], new_used[:, at]
        trail.append(States(lost, used, origin[at], option[at]))
    best = int(np.argmin(lost))
    return walk_back(trail, best) if lost[best] <= most + slack else None, looked, True


def walk_back(trail: list[States], at: int) -> Ints:
    """Return the options that led to state ``at`` of the last layer."""
    out = np.zeros(len(trail), np.int64)
    for i in range(len(trail) - 1, -1, -1):
        out[i], at = trail[i].option[at], int(trail[i].origin[at])
    return out


def undominated(lost: Floats, used: Floats) -> Ints:
    """Return the states of which no other has lost and used no more; with two resources only a part of them goes."""
    if not len(used):
        return np.array([np.argmin(lost)], np.int64) if len(lost) else np.zeros(0, np.int64)
    order = np.lexsort((*reversed(used[1:]), lost, used[0])) if len(used) == 1 else np.lexsort((used[1], used[0], lost))
    if len(used) == 1:
        least = np.minimum.accumulate(lost[order])
        first = np.r_[True, lost[order][1:] < least[:-1]]
        return np.sort(order[first]) if len(order) else order
    keep = np.ones(len(order), np.bool_)
    first_used, second_used = used[0][order], used[1][order]
    for start in range(min(64, len(order))):  # the states that lost least dominate most of the others
        if keep[start]:
            worse = (first_used[start + 1 :] >= first_used[start]) & (second_used[start + 1 :] >= second_used[start])
            keep[start + 1 :] &= ~worse
    return np.sort(order[keep])
