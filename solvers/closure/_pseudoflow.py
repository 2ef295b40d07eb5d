"""Pseudoflow by normalized trees on the arcs between items: the start of a minimum cut of a mine.

Every item is the root of a tree of its own at first, with its profit as excess. A tree whose root has more than
nothing is strong: an arc from one of its items to an item with a label one lower hangs it up there, and the excess of
its root flows to the other root, as far as the flow on the arcs of the way can be taken back; where it can't, the tree
breaks (Hochbaum 2008). Trees of the highest label go first; one that can reach no lower label is out of the game for
good. Flow lies on arcs of trees alone. Where push-relabel carries excess by single steps, a tree carries it over its
whole height at once.

At any time this is a preflow for `_push_relabel`, which proves that it is maximum, or ends it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from prunopt.core.arrays import Bools, Ints, Ints32
from prunopt.core.jit import njit
from prunopt.solvers.closure._push_relabel import Flow, Graph


class Trees(NamedTuple):
    """The normalized trees of m items."""

    parent: Ints32  # (m,) or -1 at a root
    arc: Ints32  # (m,) the arc between an item and its parent
    upward: Bools  # (m,) whether that arc goes from the item to its parent
    child: Ints32  # (m,) first child, or -1
    right: Ints32  # (m,) next child of the same parent, or -1
    left: Ints32  # (m,) the one before, or -1
    scan: Ints32  # (m,) the child to look at next
    current: Ints32  # (m,) the arc to look at next, counted from the item's first
    label: Ints32  # (m,) never above that of a child; m where no lower label can be reached
    strong: Ints32  # (m + 1,) by label, a strong root that waits, or -1
    waiting: Ints32  # (m,) the strong root that waits behind
    labelled: Ints32  # (m + 1,) how many items have a label
    flow: Ints  # (E,)
    excess: Ints  # (m,) below zero where a root has room; 0 at all others
    highest: Ints  # (1,) no strong root that waits has a higher label


@njit
def by_tail(tail: Ints32, head: Ints32, n_items: int) -> tuple[Ints, Ints32, Ints32]:
    """Sort arcs by their tails, in the order given: offsets, heads, and the place that each arc took."""
    indptr = np.zeros(n_items + 1, np.int64)
    for a in tail:
        indptr[a + 1] += 1
    for h in range(n_items):
        indptr[h + 1] += indptr[h]
    free = indptr.copy()
    heads, place = np.empty(len(tail), np.int32), np.empty(len(tail), np.int32)
    for k in range(len(tail)):
        e = free[tail[k]]
        free[tail[k]] += 1
        heads[e], place[k] = head[k], e
    return indptr, heads, place


@njit
def single_trees(supply: Ints, n_arcs: int) -> Trees:
    """Return a tree for each item."""
    m = len(supply)
    label, strong, waiting = np.zeros(m, np.int32), np.full(m + 1, -1, np.int32), np.full(m, -1, np.int32)
    count = np.zeros(m + 1, np.int32)
    for h in range(m - 1, -1, -1):
        if supply[h] > 0:
            label[h] = min(1, m)
            waiting[h], strong[label[h]] = strong[label[h]], h
        count[label[h]] += 1
    nobody = np.full(m, -1, np.int32)
    return Trees(
        nobody, nobody.copy(), np.zeros(m, np.bool_), nobody.copy(), nobody.copy(), nobody.copy(), nobody.copy(),
        np.zeros(m, np.int32), label, strong, waiting, count, np.zeros(n_arcs, np.int64), supply.copy(),
        np.ones(1, np.int64),
    )  # fmt: skip


@njit
def advance(trees: Trees, indptr: Ints, indices: Ints32, budget: int) -> bool:
    """Go on for about ``budget`` looks at arcs and items; return whether no strong tree is left that can move."""
    parent, arc, upward, child, right, left = (
        trees.parent, trees.arc, trees.upward, trees.child, trees.right, trees.left,
    )  # fmt: skip
    scan, current, label, strong, waiting = trees.scan, trees.current, trees.label, trees.strong, trees.waiting
    count, flow, excess = trees.labelled, trees.flow, trees.excess
    m, high = len(parent), trees.highest[0]
    while budget > 0:
        while high > 0 and strong[high] < 0:
            high -= 1
        if high == 0:  # roots that became strong with the label of those that have room
            root = strong[0]
            if root < 0:
                break
            while root >= 0:
                behind = waiting[root]
                label[root] = 1
                count[0] -= 1
                count[1] += 1
                waiting[root], strong[1] = strong[1], root
                root = behind
            strong[0], high = -1, 1
            continue
        root = strong[high]
        strong[high] = waiting[root]
        # Look for an arc to a lower label from the items with the root's own, children after parents.
        out, v = -1, root
        scan[v] = child[v]
        lost = count[high - 1] == 0
        while v >= 0:
            budget -= 1
            if lost:
                if label[v] < m:
                    count[label[v]] -= 1
                    label[v] = m
            elif scan[v] == child[v]:  # first visit, or no child to go to
                begin = indptr[v]
                e, end = begin + current[v], indptr[v + 1]
                while e < end and label[indices[e]] != high - 1:
                    e += 1
                budget -= e - begin - current[v]
                current[v] = e - begin
                if e < end:
                    out = e
                    break
            c = scan[v]
            if not lost:
                while c >= 0 and label[c] != high:
                    c = right[c]
            if c >= 0:
                scan[v] = right[c]
                v = c
                scan[v] = child[v]
                continue
            scan[v] = -1
            if not lost:
                count[high] -= 1
                label[v] += 1
                count[high + 1] += 1
                current[v] = 0
            v = parent[v]
        if lost:
            continue
        if out < 0:
            high += 1
            waiting[root], strong[high] = strong[high], root
            continue
        # Turn the way from the root round and hang it up at the arc's head.
        up, above, via, way = v, indices[out], out, True
        while up >= 0:
            before, old, direction = parent[up], arc[up], upward[up]
            if before >= 0:
                if left[up] >= 0:
                    right[left[up]] = right[up]
                else:
                    child[before] = right[up]
                if right[up] >= 0:
                    left[right[up]] = left[up]
            left[up], right[up] = -1, child[above]
            if child[above] >= 0:
                left[child[above]] = up
            child[above] = up
            parent[up], arc[up], upward[up] = above, via, way
            above, via, way, up = up, old, not direction, before
        # The excess goes up from the old root.
        v, had = root, 1
        while excess[v] > 0 and parent[v] >= 0:
            budget -= 1
            p, x = parent[v], excess[v]
            had = excess[p]
            if upward[v]:
                flow[arc[v]] += x
            elif flow[arc[v]] >= x:
                flow[arc[v]] -= x
            else:
                x = flow[arc[v]]
                flow[arc[v]] = 0
                if left[v] >= 0:
                    right[left[v]] = right[v]
                else:
                    child[p] = right[v]
                if right[v] >= 0:
                    left[right[v]] = left[v]
                parent[v], arc[v], left[v], right[v] = -1, -1, -1, -1
                waiting[v], strong[label[v]] = strong[label[v]], v
            excess[v] -= x
            excess[p] += x
            v = p
        if excess[v] > 0 and had <= 0:
            waiting[v], strong[label[v]] = strong[label[v]], v
    trees.highest[0] = high
    return bool(high == 0 and strong[0] < 0)


@njit
def hand_over(edge: Ints, up: Ints, excess: Ints, graph: Graph, flow: Flow, supply: Ints) -> None:
    """Put a pseudoflow on arcs and parents into that of ``_push_relabel``; nothing else may lead to the sink."""
    flow.edge[:] = edge
    flow.up[:] = up
    for h in range(len(supply)):
        room = max(-excess[h], 0)
        flow.lost[h] = max(-supply[h], 0) - room
        flow.excess[h] = max(excess[h], 0)
        front = graph.rptr[h]
        for r in range(graph.rptr[h], graph.rptr[h + 1]):
            if edge[graph.redge[r]] > 0:
                graph.redge[front], graph.redge[r] = graph.redge[r], graph.redge[front]
                graph.rnode[front], graph.rnode[r] = graph.rnode[r], graph.rnode[front]
                front += 1
        flow.users[h] = front - graph.rptr[h]


class NormalizedTrees:
    """The trees of a closure without requirements: its arcs and those to parents alike.

    Parameters
    ----------
    supply
        The items' profits.
    parent, arcs
        As in the closure.
    by_tail_alone
        The arcs without those to parents, as `by_tail` returns them.
    """

    def __init__(self, supply: Ints, parent: Ints32, arcs: Ints32, by_tail_alone: tuple[Ints, Ints32, Ints32]) -> None:
        self.child = np.flatnonzero(parent >= 0)
        if len(self.child):
            tail = np.concatenate([arcs[:, 0], self.child.astype(np.int32)])
            head = np.concatenate([arcs[:, 1], parent[self.child]])
            self.indptr, self.indices, self.place = by_tail(tail, head, len(supply))
        else:
            self.indptr, self.indices, self.place = by_tail_alone
        self.trees = single_trees(supply, len(self.indices))

    def advance(self, budget: int) -> bool:
        """Go on for about ``budget`` looks; return whether it came to its end."""
        return advance(self.trees, self.indptr, self.indices, budget)

    def hand_over(self, place: Ints32, graph: Graph, flow: Flow, supply: Ints) -> None:
        """Put what flows into the flow of ``_push_relabel``, in which arc k lies at ``place[k]``."""
        amount = self.trees.flow[self.place]
        edge, up = np.empty(len(place), np.int64), np.zeros(len(supply), np.int64)
        edge[place] = amount[: len(place)]
        up[self.child] = amount[len(place) :]
        hand_over(edge, up, self.trees.excess, graph, flow, supply)
