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
    groups, n = len(program.loss), len(program.limit)
    m = n + 1
    pick, ahead, lam = np.empty(groups, np.int64), np.empty(groups + 1), start.copy()
    fixed = 0.0
    for r in range(n):
        fixed += lam[r] * program.limit[r]
    bound = cheapest(program, alive, lam, pick, ahead)
    if bound == np.inf:
        out[:] = lam
        return np.inf
    bound -= fixed
    out[:] = lam
    _remember(program, pick, best, counts)
    target = target_of(best)
    if bound - slack_of(program, alive, lam) >= target:
        return bound
    legal = np.zeros(POOL, np.bool_)
    spent, lost = np.empty((POOL, n)), np.empty(POOL)
    for c in range(min(counts[3], POOL)):
        legal[c] = _allowed(alive, best.pool[c])
        if legal[c]:
            lost[c] = _column(program, best.pool[c], spent[c])
    inverse, price, amount = np.eye(m), np.zeros(m), np.full(m, 1e-10)
    kind, column, direction = np.zeros(m, np.int64), np.empty(m), np.empty(m)
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
            if program.most[r] < np.inf and program.most[r] + dual[r] < worst:  # a unit beyond the limit
                worst, cost, what, enters = program.most[r] + dual[r], program.most[r], 0, True
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
                column[:n] = spent[chosen]
                column[n] = 1.0
                pick[:] = best.pool[chosen]
        if not enters:
            for r in range(n):
                lam[r] = min(max(0.0, -dual[r]), program.most[r])
            value = cheapest(program, alive, lam, pick, ahead)
            for r in range(n):
                value -= lam[r] * program.limit[r]
            if value > bound:
                bound = value
                out[:] = lam
                if bound - slack_of(program, alive, lam) >= target:
                    break
            if value - dual[n] >= worst:
                break
            if _remember(program, pick, best, counts):
                target = target_of(best)
            cost, what = _column(program, pick, column), 1
            c = (counts[3] - 1) % POOL
            spent[c], lost[c], legal[c] = column[:n], cost, True
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
            columns[row] = pick
        inverse[row] /= direction[row]
        for i in range(m):
            if i != row:
                inverse[i] -= direction[i] * inverse[row]
    for i in range(m):
        weight[i] = amount[i] if kind[i] == 1 else 0.0
    return bound


@njit
def _allowed(alive: Bools, choice: Ints) -> bool:
    for g in range(len(choice)):  # noqa: SIM110  numba compiles loops
        if not alive[g, choice[g]]:
            return False
    return True


@njit
def _column(program: Program, choice: Ints, out: Floats) -> float:
    """Write by how much a choice is over each limit; return what it loses."""
    lost, n = 0.0, len(program.limit)
    for r in range(n):
        out[r] = -program.limit[r]
    for g in range(len(choice)):
        lost += program.loss[g, choice[g]]
        for r in range(n):
            out[r] += program.cost[g, choice[g], r]
    return lost


@njit
def _remember(program: Program, choice: Ints, best: Best, counts: Ints) -> bool:
    best.pool[counts[3] % POOL] = choice
    counts[3] += 1
    return offer(program, choice, best)
