"""One search for the best choice within limits: arrays of the compiled tree, which grow, and its certificate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from prunopt.core.arrays import Floats, Ints
from prunopt.core.solver import Run
from prunopt.forms.knapsack._choice_tree import Options
from prunopt.solvers.knapsack._choice_nodes import POOL, Best, Program, exchange, reduce, target_of
from prunopt.solvers.knapsack._choice_relaxation import relax
from prunopt.solvers.knapsack._choice_search import DONE, FULL, Tree, make, search

STEPS = 128  # nodes between two looks at the clock
MEMORY = 2**30  # bytes of open nodes and of the tree


class Search:
    """Least loss within the limits from a choice known; or, with ``elastic``, least use beyond the limits.

    Parameters
    ----------
    options
        Losses and costs.
    known
        A choice (G,).
    gap
        Relative gap at which to stop.
    elastic
        A share of a limit beyond it costs 1, and the losses play no part.
    """

    def __init__(self, options: Options, known: Ints, gap: float, *, elastic: bool = False) -> None:
        costs = np.ascontiguousarray(np.moveaxis(options.costs, 0, 2))
        scale = np.maximum(options.limits, 1.0)
        loss, there = options.loss, np.isfinite(options.loss)
        if elastic:
            loss = np.where(there, 0.0, np.inf)
        finite = np.where(there, loss, 0.0)
        unit = float(np.abs(finite).max(axis=1).sum())
        self.factor = unit or 1.0  # losses are searched in shares of it
        self.program = Program(
            np.ascontiguousarray(loss / self.factor), costs / scale, options.limits / scale, costs,
            options.limits.astype(np.int64), options.first, options.last, options.n_levels,
            np.full(len(scale), 1.0 if elastic else np.inf), 1.0,
        )  # fmt: skip
        self.elastic, self.scale, self.note = elastic, scale, ""
        self.whole = not elastic and unit < 2.0**50 and np.array_equal(loss[there], np.rint(loss[there]))
        absolute = 1e-12 if elastic else max(0.99 * gap, 1.0 - 1e-6 if self.whole else 0.0) / self.factor
        self.best = Best(
            np.array([math.inf, 0.99 * gap, absolute, -math.inf]), known.copy(), np.zeros((POOL, len(loss)), np.int64)
        )
        self._offer(known)
        self.shape = loss.shape
        self._root(there)

    def _offer(self, known: Ints) -> None:
        from prunopt.solvers.knapsack._choice_nodes import offer

        offer(self.program, known, self.best)

    def _root(self, alive: Any) -> None:
        """Relax, improve the best choice, take out what cannot be better, and keep the other columns only."""
        p, n = self.program, len(self.scale)
        counts, columns, weight = np.zeros(4, np.int64), np.zeros((n + 1, len(p.loss)), np.int64), np.zeros(n + 1)
        self.root, alive = np.zeros(n), np.ascontiguousarray(alive)
        self.root_bound = float(relax(p, alive, np.zeros(n), self.best, counts, columns, weight, self.root))
        if not self.elastic:
            exchange(p, alive, self.best, False)
            reduce(p, alive, self.root, target_of(self.best))
            exchange(p, alive, self.best, True)
            reduce(p, alive, self.root, target_of(self.best))
        # The best choice stays: it is part of no better one, but exchanges and the tree speak of its columns.
        g, levels = np.arange(len(alive)), p.n_levels
        alive[g, self.best.choice] = True
        width = max(1, int(alive[:, :levels].sum(axis=1).max()))
        order = np.argsort(~alive[:, :levels], axis=1, kind="stable")[:, :width]
        order = np.concatenate([order, np.tile(np.arange(levels, alive.shape[1]), (len(alive), 1))], axis=1)
        self.columns: Ints = order
        rows = g[:, None]
        small = np.ascontiguousarray(alive[rows, order])
        self.program = p._replace(
            loss=np.where(small, p.loss[rows, order], np.inf), cost=p.cost[rows, order], whole=p.whole[rows, order],
            n_levels=width,
        )  # fmt: skip
        places = np.argmax(order == self.best.choice[:, None], axis=1)
        self.best = self.best._replace(choice=places, pool=np.zeros((POOL, len(alive)), np.int64))
        nodes, slots = 512, 256
        self.tree = Tree(
            np.full(nodes, -1), np.zeros(nodes, np.bool_), np.zeros(nodes, np.int64), np.full(nodes, -1),
            np.zeros((nodes, small.shape[1]), np.bool_), np.zeros(nodes), np.zeros((nodes, n)),
            np.zeros((slots, *small.shape), np.bool_), np.arange(slots), np.zeros(nodes, np.int64),
            np.array([0, slots, 0, 0]),
        )  # fmt: skip
        # The root is what was done so far; its first child goes on with the columns kept, its second has none.
        t, none = self.tree, small & False
        t.parent[0], t.slot[0], t.penalties[0], t.levels[0], t.counts[0] = -1, -1, self.root, True, 1
        opened = make(self.program, t, self.best, 0, False, small.copy(), self.root)
        make(self.program, t, self.best, 0, True, none, self.root)
        if opened >= 0:
            t.heap[0], t.counts[2] = opened, 1

    @property
    def objective(self) -> float:
        """What the best choice comes to."""
        return float(self.best.value[0]) * self.factor

    @property
    def choice(self) -> Ints:
        """The best choice, (G,)."""
        found: Ints = self.columns[np.arange(len(self.columns)), self.best.choice]
        return found

    @property
    def bound(self) -> float:
        """The least bound of open nodes, or what closes nodes: stated once, no node is closed below it."""
        open_ones = self.tree.bound[self.tree.heap[0]] if self.tree.counts[2] else math.inf
        found = min(float(open_ones), float(target_of(self.best)))
        self.best.value[3], found = max(found, float(self.best.value[3])), found * self.factor
        return float(math.ceil(found - 1e-9)) if self.whole else found

    @property
    def n_nodes(self) -> int:
        """Nodes made."""
        return int(self.tree.counts[0])

    def steps(self, run: Run, most: int) -> Iterator[None]:
        """Search on, with a pause every few nodes, until there is an end or a limit is reached."""
        before = 0
        while not run.out_of_time:
            state = search(self.program, self.tree, self.best, STEPS)
            run.evaluations += self.n_nodes - before
            before = self.n_nodes
            if self.n_nodes >= most and state != DONE:
                self.note = f"over {most} nodes"
                return
            if state == FULL and not self._grow():
                self.note = f"over {MEMORY} bytes of nodes"
                return
            yield
            if state == DONE:
                return

    def _grow(self) -> bool:
        """Double what is full; False where there is no memory for it."""
        tree, (nodes, slots) = self.tree, (int(self.tree.counts[0]), len(self.tree.alive))
        if tree.counts[1] < 2:
            if tree.alive.nbytes * 2 > MEMORY:
                return False
            free = np.concatenate(
                [tree.free[: tree.counts[1]], np.arange(slots, 2 * slots), np.zeros(slots - tree.counts[1], np.int64)]
            )
            tree.counts[1] += slots
            tree = tree._replace(alive=np.concatenate([tree.alive, np.zeros_like(tree.alive)]), free=free)
        if nodes + 2 > len(tree.parent):
            names = ("parent", "second", "group", "slot", "levels", "bound", "penalties", "heap")
            tree = tree._replace(
                **{k: np.concatenate([getattr(tree, k), np.zeros_like(getattr(tree, k))]) for k in names}
            )
        self.tree = tree
        return True

    def duals(self) -> dict[str, Any]:
        """Return the tree with the multipliers of every node, as the form reads it."""
        n, t = self.n_nodes, self.tree
        parent, above = t.parent[:n].copy(), np.maximum(t.parent[:n], 0)
        group = np.where(parent >= 0, t.group[above], 0)
        levels = np.zeros((n, self.shape[1]), np.bool_)
        np.put_along_axis(levels, self.columns[group], t.levels[above] & (parent >= 0)[:, None], axis=1)
        levels[parent == 0] = True
        penalties: Floats = t.penalties[:n] * (self.factor / self.scale)
        out = {"penalties": penalties, "parent": parent, "second": t.second[:n].copy(), "group": group}
        return out | {"levels": levels, "claim": float(target_of(self.best)) * self.factor}
