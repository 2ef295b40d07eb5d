"""Branch and bound over levels within several budgets: the relaxation of a node, and the search tree, compiled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.jit import njit

POOL = 64  # choices met lately, with which a relaxation begins
ROUNDS = 200  # of column generation, at most
ROUNDING = 2.0**-50


class Program(NamedTuple):
    """What is searched: options (G, K), spans being the columns from ``n_levels`` on.

    ``cost`` is in shares of ``scale``; ``most`` bounds the multipliers: infinite where a limit is a limit, finite where
    a unit beyond it costs so much.
    """

    loss: Floats  # (G, K)
    cost: Floats  # (G, K, R)
    limit: Floats  # (R,)
    whole: Ints  # (G, K, R) costs as they are
    whole_limit: Ints  # (R,)
    first: Ints
    last: Ints
    n_levels: int
    most: Floats  # (R,)
    unit: float


class Best(NamedTuple):
    """The best choice known: its loss, itself, and what the search has to reach to stop."""

    value: Floats  # (4,): objective, relative and absolute gap, a bound that was stated
    choice: Ints
    pool: Ints  # (POOL, G)


@njit
def target_of(best: Best) -> float:
    """Return the bound that closes a node: what the gap allows, but no less than a bound that was stated before."""
    least = float(best.value[0])
    return max(least - max(float(best.value[1]) * abs(least), float(best.value[2])), float(best.value[3]))


@njit
def priced(loss: Floats, cost: Floats, g: int, k: int, multipliers: Floats) -> float:
    """Return loss + multipliers * cost of an option."""
    value = loss[g, k]
    for r in range(len(multipliers)):
        value += multipliers[r] * cost[g, k, r]
    return float(value)


@njit
def cheapest(program: Program, alive: Bools, multipliers: Floats, pick: Ints, ahead: Floats) -> float:
    """Write the choice of least loss + multipliers * cost to ``pick``, and return what it comes to; inf for none."""
    loss, cost, first, last = program.loss, program.cost, program.first, program.last
    groups, levels = len(loss), program.n_levels
    ahead[0] = 0.0
    if not len(first):  # groups by themselves: no path to look for
        for g in range(groups):
            least = np.inf
            for j in range(levels):
                if alive[g, j]:
                    value = priced(loss, cost, g, j, multipliers)
                    if value < least:
                        least, pick[g] = value, j
            ahead[g + 1] = ahead[g] + least
        return float(ahead[groups])
    own, via = np.empty(groups, np.int64), np.full(groups + 1, -1, np.int64)
    ahead[1:] = np.inf
    for g in range(groups):
        least, at = np.inf, -1
        for j in range(levels):
            if alive[g, j]:
                value = priced(loss, cost, g, j, multipliers)
                if value < least:
                    least, at = value, j
        own[g] = at
        if ahead[g] + least < ahead[g + 1]:
            ahead[g + 1], via[g + 1] = ahead[g] + least, -1
        for s in range(len(first)):
            k = levels + s
            if first[s] == g and alive[g, k]:
                value = priced(loss, cost, g, k, multipliers)
                end = last[s] + 1
                if ahead[g] + value < ahead[end]:
                    ahead[end], via[end] = ahead[g] + value, s
    if ahead[groups] == np.inf:
        return np.inf
    g = groups
    while g > 0:
        s = via[g]
        if s < 0:
            pick[g - 1] = own[g - 1]
            g -= 1
        else:
            for h in range(first[s], g):
                pick[h] = levels + s
            g = first[s]
    return float(ahead[groups])


@njit
def slack_of(program: Program, alive: Bools, multipliers: Floats) -> float:
    """Return by how much rounding may raise a bound, generously."""
    cost, limit = program.cost, program.limit
    groups, columns, n = cost.shape
    total = program.unit
    for r in range(n):
        total += multipliers[r] * limit[r]
    for g in range(groups):
        most = 0.0
        for k in range(columns):
            if alive[g, k]:
                value = 0.0
                for r in range(n):
                    value += multipliers[r] * cost[g, k, r]
                most = max(most, value)
        total += most
    return float((groups + 8) * ROUNDING * total)


@njit
def reduce(program: Program, alive: Bools, multipliers: Floats, target: float) -> bool:
    """Take out the options with which the bound reaches ``target``; return whether a choice is left."""
    loss, cost, limit, first, last = program.loss, program.cost, program.limit, program.first, program.last
    groups, columns, n = cost.shape
    levels = program.n_levels
    fixed = 0.0
    for r in range(n):
        fixed += multipliers[r] * limit[r]
    edge = target + fixed + slack_of(program, alive, multipliers)
    ahead, behind, value = np.full(groups + 1, np.inf), np.empty(groups + 1), np.empty((groups, columns))
    single = np.full(groups, np.inf)
    ahead[0], behind[groups] = 0.0, 0.0
    for g in range(groups):
        for k in range(columns):
            if alive[g, k]:
                value[g, k] = priced(loss, cost, g, k, multipliers)
                if k < levels:
                    single[g] = min(single[g], value[g, k])
        ahead[g + 1] = min(ahead[g + 1], ahead[g] + single[g])
        for s in range(len(first)):
            if first[s] == g and alive[g, levels + s]:
                end = last[s] + 1
                ahead[end] = min(ahead[end], ahead[g] + value[g, levels + s])
    for g in range(groups - 1, -1, -1):
        behind[g] = behind[g + 1] + single[g]
        for s in range(len(first)):
            if first[s] == g and alive[g, levels + s]:
                behind[g] = min(behind[g], value[g, levels + s] + behind[last[s] + 1])
    for g in range(groups):
        for k in range(levels):
            if alive[g, k] and ahead[g] + value[g, k] + behind[g + 1] >= edge:
                alive[g, k] = False
    for s in range(len(first)):
        a, b, k = first[s], last[s], levels + s
        if alive[a, k] and ahead[a] + value[a, k] + behind[b + 1] >= edge:
            alive[a, k] = False
    return whole_spans(program, alive)


@njit
def whole_spans(program: Program, alive: Bools) -> bool:
    """Take out spans that are not allowed in all of their groups; return whether every group has an option left."""
    for s in range(len(program.first)):
        k, held = program.n_levels + s, True
        for g in range(program.first[s], program.last[s] + 1):
            held = held and alive[g, k]
        if not held:
            for g in range(program.first[s], program.last[s] + 1):
                alive[g, k] = False
    groups, columns = alive.shape
    for g in range(groups):
        held = False
        for k in range(columns):
            if alive[g, k]:
                held = True
                break
        if not held:
            return False
    return True


@njit
def single_choice(alive: Bools) -> bool:
    """Return whether every group has one option left."""
    groups, columns = alive.shape
    for g in range(groups):
        count = 0
        for k in range(columns):
            count += 1 if alive[g, k] else 0
        if count != 1:
            return False
    return True


@njit
def objective(program: Program, choice: Ints) -> float:
    """Return the loss of a choice, with what it is over the limits; infinite where that is forbidden."""
    loss, cost, whole, whole_limit = program.loss, program.cost, program.whole, program.whole_limit
    total, n = 0.0, len(program.limit)
    for g in range(len(choice)):
        total += loss[g, choice[g]]
    for r in range(n):
        used = 0
        for g in range(len(choice)):
            used += whole[g, choice[g], r]
        if used > whole_limit[r]:
            if program.most[r] == np.inf:
                return np.inf
            over = 0.0
            for g in range(len(choice)):
                over += cost[g, choice[g], r]
            total += program.most[r] * max(over - program.limit[r], 1e-15)
    return total


@njit
def offer(program: Program, choice: Ints, best: Best) -> bool:
    """Keep a choice if it is better than the best one."""
    found = objective(program, choice)
    if found < best.value[0]:
        best.value[0] = found
        best.choice[:] = choice
        return True
    return False


@njit
def exchange(program: Program, alive: Bools, best: Best, pairs: bool) -> None:
    """Improve the best choice by changes of one level (with ``pairs`` of two as well), until none helps."""
    groups, levels, n = len(program.loss), program.n_levels, len(program.limit)
    if best.value[0] == np.inf:
        return
    x = best.choice.copy()
    better = True
    while better:
        better = False
        room = program.whole_limit.copy()
        for g in range(groups):
            for r in range(n):
                room[r] -= program.whole[g, x[g], r]
        gain, at_g, at_j, at_h, at_i = 1e-13 * program.unit, -1, -1, -1, -1
        for g in range(groups):
            if x[g] >= levels:
                continue
            for j in range(levels):
                if not alive[g, j] or j == x[g]:
                    continue
                won, fits = program.loss[g, x[g]] - program.loss[g, j], True
                for r in range(n):
                    fits = fits and program.whole[g, j, r] - program.whole[g, x[g], r] <= room[r]
                if fits and won > gain:
                    gain, at_g, at_j, at_h = won, g, j, -1
                for h in range(g + 1, groups if pairs else 0):
                    if x[h] >= levels:
                        continue
                    for i in range(levels):
                        if not alive[h, i] or won + program.loss[h, x[h]] - program.loss[h, i] <= gain:
                            continue
                        fits = True
                        for r in range(n):
                            step = program.whole[g, j, r] - program.whole[g, x[g], r]
                            step += program.whole[h, i, r] - program.whole[h, x[h], r]
                            fits = fits and step <= room[r]
                        if fits:
                            gain = won + program.loss[h, x[h]] - program.loss[h, i]
                            at_g, at_j, at_h, at_i = g, j, h, i
        if at_g >= 0:
            x[at_g] = at_j
            if at_h >= 0:
                x[at_h] = at_i
            better = offer(program, x, best)
