"""Branch and bound over levels within several budgets: the search tree, compiled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.jit import njit
from prunopt.solvers.knapsack._choice_nodes import (
    Best,
    Program,
    objective,
    reduce,
    single_choice,
    slack_of,
    target_of,
    whole_spans,
)
from prunopt.solvers.knapsack._choice_relaxation import relax

DONE, MORE, FULL = 0, 1, 2
DIVE = 4  # of so many nodes taken for their bound, one is followed down


class Tree(NamedTuple):
    """The nodes made so far; ``alive`` and ``split`` are of open ones, in ``slot``."""

    parent: Ints
    second: Bools
    group: Ints  # that the node is split in
    slot: Ints
    levels: Bools  # (nodes, K) those that the first child keeps
    bound: Floats
    penalties: Floats  # (nodes, R)
    alive: Bools  # (slots, G, K)
    free: Ints  # slots that are free
    heap: Ints  # open nodes, least bound first
    counts: Ints  # nodes, free slots, open nodes, choices in the pool


@njit
def _push(tree: Tree, node: int) -> None:
    at = tree.counts[2]
    tree.counts[2] += 1
    while at > 0:
        above = (at - 1) // 2
        if tree.bound[tree.heap[above]] <= tree.bound[node]:
            break
        tree.heap[at] = tree.heap[above]
        at = above
    tree.heap[at] = node


@njit
def _pop(tree: Tree) -> int:
    top = tree.heap[0]
    tree.counts[2] -= 1
    n = tree.counts[2]
    node, at = tree.heap[n], 0
    while 2 * at + 1 < n:
        below = 2 * at + 1
        if below + 1 < n and tree.bound[tree.heap[below + 1]] < tree.bound[tree.heap[below]]:
            below += 1
        if tree.bound[tree.heap[below]] >= tree.bound[node]:
            break
        tree.heap[at] = tree.heap[below]
        at = below
    tree.heap[at] = node
    return int(top)


@njit
def make(program: Program, tree: Tree, best: Best, parent: int, second: bool, alive: Bools, start: Floats) -> int:
    """Add a node: relax it, take out what cannot be better, decide where to split it. Returns it if open, else -1."""
    node, n = tree.counts[0], len(program.limit)
    tree.counts[0] += 1
    tree.parent[node], tree.second[node], tree.slot[node] = parent, second, -1
    columns, weight = np.zeros((n + 1, len(program.loss)), np.int64), np.zeros(n + 1)
    if not whole_spans(program, alive):
        tree.bound[node] = np.inf
        tree.penalties[node] = start
        return -1
    single = single_choice(alive)
    bound = relax(program, alive, start, best, tree.counts, columns, weight, tree.penalties[node])
    tree.bound[node], target = bound, target_of(best)
    if bound >= target and bound - slack_of(program, alive, tree.penalties[node]) >= target:
        return -1
    if not reduce(program, alive, tree.penalties[node], target):
        return -1
    if not _split(program, tree, node, alive, columns, weight):
        if single:
            _close(program, tree, node, alive, target)
            return -1
        # One choice is left by this node's multipliers: a child needs others, that prove what it loses.
        tree.group[node], tree.levels[node] = 0, alive[0]
    tree.counts[1] -= 1
    slot = tree.free[tree.counts[1]]
    tree.slot[node] = slot
    tree.alive[slot] = alive
    return int(node)


@njit
def _split(program: Program, tree: Tree, node: int, alive: Bools, columns: Ints, weight: Floats) -> bool:
    """Choose the group to split and the options of its first part; False where there is one choice only."""
    loss, cost, limit, unit, n_levels = program.loss, program.cost, program.limit, program.unit, program.n_levels
    groups, width = len(loss), len(loss[0])
    best, at, middle, span = 0.0, -1, 0.0, -1
    for g in range(groups):
        low, high, mean, total, spanned = np.inf, -np.inf, 0.0, 0.0, -1
        for i in range(len(weight)):
            k = columns[i, g]
            if weight[i] > 1e-9 and alive[g, k]:
                value = loss[g, k]
                for r in range(len(limit)):  # losses alike: costs tell them apart
                    value += 1e-3 * unit * cost[g, k, r] / groups
                low, high, total = min(low, value), max(high, value), total + weight[i]
                mean += weight[i] * value
                if k >= n_levels and alive[g].sum() > 1:
                    spanned = k
        if total > 0 and high > low:
            mean /= total
            score = min(mean - low, high - mean)
            if score > best:
                best, at, middle, span = score, g, mean, spanned
    levels = tree.levels[node]
    levels[:] = False
    if at < 0:
        most = 1
        for g in range(groups):
            count = 0
            for k in range(width):
                count += 1 if alive[g, k] else 0
            if count > most:
                most, at = count, g
        if at < 0:
            return False
        for k in range(width):
            if alive[at, k]:
                levels[k] = True
                break
    elif span >= 0:
        levels[span] = True
    else:
        for k in range(n_levels):
            value = loss[at, k]
            for r in range(len(limit)):
                value += 1e-3 * unit * cost[at, k, r] / groups
            levels[k] = value <= middle
    tree.group[node] = at
    both = 0
    for k in range(width):
        both |= (1 if levels[k] else 2) if alive[at, k] else 0
    if both != 3:  # rounding: the first option alone
        levels[:] = False
        for k in range(width):
            if alive[at, k]:
                levels[k] = True
                break
    return True


@njit
def _close(program: Program, tree: Tree, node: int, alive: Bools, target: float) -> None:
    """Give a node with one choice multipliers that prove what it loses, or that it does not fit."""
    groups, n = len(program.loss), len(program.limit)
    choice = np.empty(groups, np.int64)
    for g in range(groups):
        choice[g] = np.argmax(alive[g])
    value = objective(program, choice)
    if value < np.inf:  # no better than the best one; other multipliers may have ended below the target
        tree.penalties[node] = 0.0
        tree.bound[node] = value
        return
    lost, over, at = 0.0, 0.0, 0
    for r in range(n):
        used = -program.limit[r]
        for g in range(groups):
            used += program.cost[g, choice[g], r]
        if used > over:
            over, at = used, r
    for g in range(groups):
        lost += program.loss[g, choice[g]]
    if over > 0:
        tree.penalties[node] = 0.0
        tree.penalties[node, at] = 2.0 * (abs(target - lost) + program.unit) / over
        tree.bound[node] = target


@njit
def search(program: Program, tree: Tree, best: Best, steps: int) -> int:
    """Expand nodes, least bound first with dives, until none is open, ``steps`` are done, or the arrays are full."""
    child, follow = np.empty(program.loss.shape, np.bool_), -1
    for step in range(steps):
        if best.value[0] == 0.0 and program.most[0] < np.inf:
            return DONE  # within the limits: nothing less is looked for
        if follow < 0 and tree.counts[2] == 0:
            return DONE
        if tree.counts[0] + 2 > len(tree.parent) or tree.counts[1] < 2:
            if follow >= 0:
                _push(tree, follow)
            return FULL
        node = follow if follow >= 0 else _pop(tree)
        dives, follow = step % DIVE == 0 or follow >= 0, -1
        slot = tree.slot[node]
        if tree.bound[node] < target_of(best):
            a, b = -1, -1
            for side in range(2):
                child[:] = tree.alive[slot]
                g = tree.group[node]
                for k in range(len(child[0])):
                    if tree.levels[node, k] == (side == 1):
                        child[g, k] = False
                new = make(program, tree, best, node, side == 1, child, tree.penalties[node])
                if side == 0:
                    a = new
                else:
                    b = new
            if a >= 0 and b >= 0 and tree.bound[b] < tree.bound[a]:
                a, b = b, a
            if a < 0:
                a, b = b, -1
            if b >= 0:
                _push(tree, b)
            if a >= 0:
                if dives:
                    follow = a
                else:
                    _push(tree, a)
        tree.free[tree.counts[1]] = slot
        tree.counts[1] += 1
    if follow >= 0:
        _push(tree, follow)
    return MORE
