"""The linear relaxation of a choice within several limits: column generation over whole choices, compiled."""

from __future__ import annotations

import numpy as np

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.jit import njit
from prunopt.solvers.knapsack._choice_nodes import (
    POOL,
    ROUNDS,
    Best,
    Program,
    cheapest,
    offer,
    slack_of,
    target_of,
)

EPS = 1e-9


@njit
def relax(
    program: Program, alive: Bools, start: Floats, best: Best, counts: Ints, columns: Ints, weight: Floats, out: Floats
) -> float:
    """Return the best bound of a node; its multipliers go to ``out``.

    The master is a linear program of R + 1 rows: weights of choices that add up to 1 and use no more than the limits
    on average. Its basis of R + 1 columns, inverse and duals are kept; choices enter from the pool first, then the
    cheapest one at the duals, whose value is the Lagrangian bound. At the end ``columns`` (R + 1, G) holds the choices
    of the basis, ``weight`` theirs (0 for other columns). Every choice met is offered as an answer.
    """
    limit, most, pool = program.limit, program.most, best.pool
    groups, n = len(program.loss), len(limit)
    m = n + 1
    pick, ahead, lam = np.empty(groups, np.int64), np.empty(groups + 1), start.copy()
    fixed = 0.0
    for r in range(n):
        fixed += lam[r] * limit[r]
    bound = cheapest(program, alive, lam, pick, ahead)
    if bound == np.inf:
        out[:] = lam
        return np.inf
    bound -= fixed
    out[:] = lam
    _remember(program, pick, best, counts)
    target = target_of(best)
    if bound >= target and bound - slack_of(program, alive, lam) >= target:
        return bound
    legal, column = np.zeros(POOL, np.bool_), np.empty(m)
    spent, lost = np.empty((POOL, n)), np.empty(POOL)
    for c in range(min(counts[3], POOL)):
        held = True
        for g in range(groups):  # in place: a call with views of rows takes several times as long
            if not alive[g, pool[c, g]]:
                held = False
                break
        legal[c] = held
        if held:
            lost[c] = _column(program, pool[c], column)
            for r in range(n):
                spent[c, r] = column[r]
    inverse, price, amount = np.eye(m), np.zeros(m), np.full(m, 1e-10)
    kind, direction = np.zeros(m, np.int64), np.empty(m)
    for r in range(n):
        amount[r] *= 1.0 + 0.37 * r
    amount[n] = 1.0
    price[n] = target + 4.0 * program.unit  # giving up: costlier than what is looked for
    dual = np.empty(m)
    for _ in range(ROUNDS):
        for i in range(m):
            dual[i] = 0.0
            for k in range(m):
                dual[i] += price[k] * inverse[k, i]
        scale = 1.0
        enters, worst, cost, what = False, -EPS * max(1.0, abs(dual[n])), 0.0, 0
        for r in range(n):
            if dual[r] > EPS * scale and -dual[r] < worst:  # a slack
                worst, cost, what, enters = -dual[r], 0.0, 0, True
                column[:] = 0.0
                column[r] = 1.0
            if most[r] < np.inf and most[r] + dual[r] < worst:  # a unit beyond the limit
                worst, cost, what, enters = most[r] + dual[r], most[r], 0, True
                column[:] = 0.0
                column[r] = -1.0
        chosen = -1
        if not enters:
            for c in range(min(counts[3], POOL)):
                if legal[c]:
                    value = lost[c] - dual[n]
                    for r in range(n):
                        value -= dual[r] * spent[c, r]
                    if value < worst:
                        worst, chosen, enters, what = value, c, True, 1
            if chosen >= 0:
                cost = lost[chosen]
                for r in range(n):
                    column[r] = spent[chosen, r]
                column[n] = 1.0
                for g in range(groups):
                    pick[g] = pool[chosen, g]
        if not enters:
            for r in range(n):
                lam[r] = min(max(0.0, -dual[r]), most[r])
            value = cheapest(program, alive, lam, pick, ahead)
            for r in range(n):
                value -= lam[r] * limit[r]
            if value > bound:
                bound = value
                out[:] = lam
                if bound >= target and bound - slack_of(program, alive, lam) >= target:
                    break
            if value - dual[n] >= worst:
                break
            if _remember(program, pick, best, counts):
                target = target_of(best)
            cost, what = _column(program, pick, column), 1
            c = (counts[3] - 1) % POOL
            lost[c], legal[c] = cost, True
            for r in range(n):
                spent[c, r] = column[r]
            column[n] = 1.0
        row, ratio = -1, np.inf
        for i in range(m):
            direction[i] = 0.0
            for k in range(m):
                direction[i] += inverse[i, k] * column[k]
            if direction[i] > 1e-11 and amount[i] / direction[i] < ratio:
                row, ratio = i, amount[i] / direction[i]
        if row < 0:
            break
        for i in range(m):
            if i != row:
                amount[i] = max(0.0, amount[i] - ratio * direction[i])
        amount[row], price[row], kind[row] = ratio, cost, what
        if what == 1:
            for g in range(groups):
                columns[row, g] = pick[g]
        for k in range(m):
            inverse[row, k] /= direction[row]
            for i in range(m):
                if i != row:
                    inverse[i, k] -= direction[i] * inverse[row, k]
    for i in range(m):
        weight[i] = amount[i] if kind[i] == 1 else 0.0
    return bound


@njit
def _column(program: Program, choice: Ints, out: Floats) -> float:
    """Write by how much a choice is over each limit; return what it loses."""
    loss, cost, limit = program.loss, program.cost, program.limit
    lost, n = 0.0, len(limit)
    for r in range(n):
        out[r] = -limit[r]
    for g in range(len(choice)):
        lost += loss[g, choice[g]]
        for r in range(n):
            out[r] += cost[g, choice[g], r]
    return lost


@njit
def _remember(program: Program, choice: Ints, best: Best, counts: Ints) -> bool:
    pool, row = best.pool, counts[3] % POOL
    for g in range(len(choice)):
        pool[row, g] = choice[g]
    counts[3] += 1
    return offer(program, choice, best)
