"""Maximum preflow on the graph of a closure: a forest of items above a bipartite layer of requirements.

Arcs: source -> item (profit > 0), item -> sink (profit < 0), item -> parent, item -> requirement and item -> item
(infinite), requirement -> sink (cost). Infinite arcs are implicit: only their flow is stored. Vertices 0..W-1 are the
requirements, W..W+m-1 the items, so that ``indices`` names the head of every arc that is not an arc to a parent.

First-in-first-out push-relabel (Goldberg & Tarjan 1988), first phase only: excess that cannot reach the sink stays
where it is, and the vertices that cannot reach the sink are the largest maximum closure.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunopt.core.jit import njit

Longs = NDArray[np.int64]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

FAR = np.int32(2**30)  # the label of vertices that cannot reach the sink
RELABEL_AFTER = 1  # a global relabelling is due after this many times its own work


class Graph(NamedTuple):
    """The arcs, forward and backward."""

    parent: Ints  # (m,) item, or -1
    below: Ints  # (m,) first child of an item, or -1
    next_below: Ints  # (m,) next child of the same parent, or -1
    indptr: Longs  # (m + 1,)
    indices: Ints  # (E,) head of each arc, a vertex
    rptr: Longs  # (W + m + 1,) arcs by head
    redge: Ints  # (E,) position in ``indices``
    rnode: Ints  # (E,) tail, an item


class Flow(NamedTuple):
    """A preflow and the working state of the algorithm."""

    edge: Longs  # (E,) flow on the arcs of ``indices``
    up: Longs  # (m,) item -> parent
    paid: Longs  # (W,) requirement -> sink
    lost: Longs  # (m,) item with negative profit -> sink
    excess: Longs  # (W + m,)
    label: Ints  # (W + m,) distance from the sink
    current: Ints  # (W + m,) current arc
    queue: Ints  # (W + m + 1,) circular
    queued: Bools  # (W + m,)
    state: Longs  # queue head, queue tail, work left until the next global relabelling, pushes, relabellings


@njit
def build_graph(parent: Ints, indptr: Longs, indices: Ints, n_requirements: int) -> Graph:
    """Return the arcs with their reverse adjacency."""
    m, n_edges = len(parent), len(indices)
    below, next_below = np.full(m, -1, np.int32), np.full(m, -1, np.int32)
    for h in range(m - 1, -1, -1):
        if parent[h] >= 0:
            next_below[h] = below[parent[h]]
            below[parent[h]] = h
    rptr = np.zeros(n_requirements + m + 1, np.int64)
    for e in range(n_edges):
        rptr[indices[e] + 1] += 1
    for v in range(n_requirements + m):
        rptr[v + 1] += rptr[v]
    redge, rnode = np.empty(n_edges, np.int32), np.empty(n_edges, np.int32)
    for h in range(m):
        for e in range(indptr[h], indptr[h + 1]):
            v = indices[e]
            redge[rptr[v]] = e
            rnode[rptr[v]] = h
            rptr[v] += 1
    for v in range(n_requirements + m, 0, -1):  # the offsets had moved on by one vertex
        rptr[v] = rptr[v - 1]
    rptr[0] = 0
    return Graph(parent, below, next_below, indptr, indices, rptr, redge, rnode)


@njit
def start_flow(
    graph: Graph, supply: Longs, capacity: Longs, guess_edge: Floats, guess_up: Floats, guess_lost: Floats, unit: float
) -> Flow:
    """Return a feasible preflow near ``unit`` times a guess; without a guess (size 0) a greedy one.

    Children come before parents: what an item has goes to its own sink, its requirements and its parent, up to the
    guess and the room that is left.
    """
    m, w, n_edges = len(supply), len(capacity), len(graph.indices)
    guessed = len(guess_edge) == n_edges and len(guess_up) == m
    edge, up = np.zeros(n_edges, np.int64), np.zeros(m, np.int64)
    paid, lost = np.zeros(w, np.int64), np.zeros(m, np.int64)
    excess = np.zeros(w + m, np.int64)
    for h in range(m - 1, -1, -1):
        have = excess[w + h] + max(supply[h], 0)
        if supply[h] < 0 and have > 0:
            x = min(have, -supply[h])
            if guessed:
                x = min(x, np.int64(guess_lost[h] * unit))
            lost[h] = x
            have -= x
        for e in range(graph.indptr[h], graph.indptr[h + 1]):
            if have == 0:
                break
            j = graph.indices[e]
            if j >= w:
                continue
            x = min(have, capacity[j] - paid[j])
            if guessed:
                x = min(x, np.int64(guess_edge[e] * unit))
            edge[e] = x
            paid[j] += x
            have -= x
        p = graph.parent[h]
        if p >= 0 and have > 0:
            x = min(have, np.int64(guess_up[h] * unit)) if guessed else have
            up[h] = x
            excess[w + p] += x
            have -= x
        excess[w + h] = have
    label = np.zeros(w + m, np.int32)
    current = np.zeros(w + m, np.int32)
    queue = np.zeros(w + m + 1, np.int32)
    queued = np.zeros(w + m, np.bool_)
    return Flow(edge, up, paid, lost, excess, label, current, queue, queued, np.zeros(5, np.int64))


@njit
def relabel_globally(graph: Graph, flow: Flow, supply: Longs, capacity: Longs) -> int:
    """Set every label to the distance from the sink and queue the active vertices, nearest first; return how many."""
    m, w = len(supply), len(capacity)
    label, order, current, queued = flow.label, flow.queue, flow.current, flow.queued
    label[:] = FAR
    current[:] = 0
    queued[:] = False
    tail = 0
    for j in range(w):
        if flow.paid[j] < capacity[j]:
            label[j] = 1
            order[tail] = j
            tail += 1
    for h in range(m):
        if supply[h] < 0 and flow.lost[h] < -supply[h]:
            label[w + h] = 1
            order[tail] = w + h
            tail += 1
    head = 0
    while head < tail:
        v = order[head]
        head += 1
        further = label[v] + np.int32(1)
        for r in range(graph.rptr[v], graph.rptr[v + 1]):
            u = w + graph.rnode[r]
            if label[u] == FAR:
                label[u] = further
                order[tail] = u
                tail += 1
        if v < w:
            continue
        h = v - w
        c = graph.below[h]
        while c >= 0:
            if label[w + c] == FAR:
                label[w + c] = further
                order[tail] = w + c
                tail += 1
            c = graph.next_below[c]
        p = graph.parent[h]
        if p >= 0 and flow.up[h] > 0 and label[w + p] == FAR:
            label[w + p] = further
            order[tail] = w + p
            tail += 1
        for e in range(graph.indptr[h], graph.indptr[h + 1]):
            if flow.edge[e] > 0:
                u = graph.indices[e]
                if label[u] == FAR:
                    label[u] = further
                    order[tail] = u
                    tail += 1
    active = 0
    for k in range(tail):
        v = order[k]
        if flow.excess[v] > 0:
            order[active] = v
            active += 1
            queued[v] = True
    flow.state[0], flow.state[1] = 0, active
    flow.state[2] = RELABEL_AFTER * (len(graph.indices) + m + w) + 1
    flow.state[4] += 1
    return active


@njit
def _enqueue(flow: Flow, v: int) -> None:
    if not flow.queued[v]:
        flow.queued[v] = True
        flow.queue[flow.state[1]] = v
        flow.state[1] += 1
        if flow.state[1] == len(flow.queue):
            flow.state[1] = 0


@njit
def _discharge_requirement(graph: Graph, flow: Flow, capacity: Longs, w: int, j: int) -> int:
    """Push the excess of requirement j to the sink and back to items; return the work done."""
    label, excess, edge = flow.label, flow.excess, flow.edge
    first, last = graph.rptr[j], graph.rptr[j + 1]
    work = 0
    while excess[j] > 0:
        room = capacity[j] - flow.paid[j]
        if room > 0 and label[j] == 1:
            x = min(room, excess[j])
            flow.paid[j] += x
            excess[j] -= x
            if excess[j] == 0:
                break
        r = first + flow.current[j]
        while r < last:
            work += 1
            e = graph.redge[r]
            if edge[e] > 0:
                u = w + graph.rnode[r]
                if label[u] + 1 == label[j]:
                    x = min(excess[j], edge[e])
                    edge[e] -= x
                    excess[j] -= x
                    excess[u] += x
                    _enqueue(flow, u)
                    if excess[j] == 0:
                        break
            r += 1
        flow.current[j] = r - first
        if excess[j] == 0:
            break
        nearest = FAR
        if flow.paid[j] < capacity[j]:
            nearest = np.int32(1)
        for r in range(first, last):
            if edge[graph.redge[r]] > 0:
                nearest = min(nearest, label[w + graph.rnode[r]] + np.int32(1))
        work += last - first
        label[j] = nearest
        flow.current[j] = 0
        if nearest >= FAR:
            label[j] = FAR
            break
    return work


@njit
def _discharge_item(graph: Graph, flow: Flow, supply: Longs, capacity: Longs, w: int, h: int) -> int:
    """Push the excess of item h to the sink, along its arcs, to its parent, and back to where it came from."""
    label, excess = flow.label, flow.excess
    v = w + h
    first, last = graph.indptr[h], graph.indptr[h + 1]
    p = graph.parent[h]
    work = 0
    while excess[v] > 0:
        if supply[h] < 0 and label[v] == 1:
            x = min(-supply[h] - flow.lost[h], excess[v])
            if x > 0:
                flow.lost[h] += x
                excess[v] -= x
                if excess[v] == 0:
                    break
        e = first + flow.current[v]
        while e < last:
            work += 1
            u = graph.indices[e]
            if label[u] + 1 == label[v]:
                x = excess[v]
                if label[u] == 1 and u < w:
                    # Send no more than goes on to the sink at once, while there is room.
                    room = capacity[u] - flow.paid[u] - excess[u]
                    if 0 < room < x:
                        x = room
                flow.edge[e] += x
                excess[v] -= x
                excess[u] += x
                _enqueue(flow, u)
                if excess[v] == 0:
                    break
            e += 1
        flow.current[v] = e - first
        if excess[v] == 0:
            break
        if p >= 0 and label[w + p] + 1 == label[v]:
            flow.up[h] += excess[v]
            excess[w + p] += excess[v]
            excess[v] = 0
            _enqueue(flow, w + p)
            break
        c = graph.below[h]
        while c >= 0:
            if flow.up[c] > 0 and label[w + c] + 1 == label[v]:
                x = min(excess[v], flow.up[c])
                flow.up[c] -= x
                excess[v] -= x
                excess[w + c] += x
                _enqueue(flow, w + c)
                if excess[v] == 0:
                    break
            c = graph.next_below[c]
        if excess[v] == 0:
            break
        for r in range(graph.rptr[v], graph.rptr[v + 1]):
            k, u = graph.redge[r], w + graph.rnode[r]
            if flow.edge[k] > 0 and label[u] + 1 == label[v]:
                x = min(excess[v], flow.edge[k])
                flow.edge[k] -= x
                excess[v] -= x
                excess[u] += x
                _enqueue(flow, u)
                if excess[v] == 0:
                    break
        if excess[v] == 0:
            break
        nearest = FAR
        if supply[h] < 0 and flow.lost[h] < -supply[h]:
            nearest = np.int32(1)
        for e in range(first, last):
            nearest = min(nearest, label[graph.indices[e]] + np.int32(1))
        if p >= 0:
            nearest = min(nearest, label[w + p] + np.int32(1))
        c = graph.below[h]
        while c >= 0:
            if flow.up[c] > 0:
                nearest = min(nearest, label[w + c] + np.int32(1))
            c = graph.next_below[c]
        for r in range(graph.rptr[v], graph.rptr[v + 1]):
            if flow.edge[graph.redge[r]] > 0:
                nearest = min(nearest, label[w + graph.rnode[r]] + np.int32(1))
        work += last - first + graph.rptr[v + 1] - graph.rptr[v]
        label[v] = nearest
        flow.current[v] = 0
        if nearest >= FAR:
            label[v] = FAR
            break
    return work


@njit
def advance(graph: Graph, flow: Flow, supply: Longs, capacity: Longs, budget: int) -> bool:
    """Go on for about ``budget`` arc scans; return whether the preflow is maximum. Call again while it is not."""
    w, size = len(capacity), len(flow.queue)
    while budget > 0:
        if flow.state[0] == flow.state[1] or flow.state[2] <= 0:
            budget -= len(graph.indices) + size
            if relabel_globally(graph, flow, supply, capacity) == 0:
                return True
        v = flow.queue[flow.state[0]]
        flow.state[0] += 1
        if flow.state[0] == size:
            flow.state[0] = 0
        flow.queued[v] = False
        if flow.label[v] >= FAR:
            continue
        if v < w:
            work = _discharge_requirement(graph, flow, capacity, w, v)
        else:
            work = _discharge_item(graph, flow, supply, capacity, w, v - w)
        flow.state[2] -= work + 1
        flow.state[3] += 1
        budget -= work + 1
    return False
