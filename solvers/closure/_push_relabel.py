"""Maximum preflow on the graph of a closure: a forest of items above a bipartite layer of requirements.

Arcs: source -> item (profit > 0), item -> sink (profit < 0), item -> parent, item -> requirement and item -> item
(infinite), requirement -> sink (cost). Infinite arcs are implicit: only their flow is stored. Vertices 0..W-1 are the
requirements, W..W+m-1 the items, so that ``indices`` names the head of every arc that is not an arc to a parent.

First-in-first-out push-relabel (Goldberg & Tarjan 1988), first phase only: excess that cannot reach the sink stays
where it is, and the vertices that cannot reach the sink are the largest maximum closure. What makes it fast here:

- Few arcs carry flow, about one for each requirement. They are kept at the front of the reverse adjacency of their
  head, so that a requirement looks at its users alone when it sends flow back.
- Global relabelling is a breadth-first search from the sink that goes level by level in the cheaper direction
  (Beamer, Asanovic & Patterson 2012): from the new level to its tails, or from the items not yet reached to a head in
  the new level, which most items find after a few arcs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from prunopt.core.arrays import Bools, Ints, Ints32, Singles
from prunopt.core.jit import njit

FAR = np.int32(2**30)  # the label of vertices that cannot reach the sink
RELABEL_AFTER = 0.5  # a global relabelling is due after this many looks at every arc and vertex
PULL = 0.3  # the share of an item's arcs that a search from below is expected to look at


class Graph(NamedTuple):
    """The arcs, forward and backward."""

    parent: Ints32  # (m,) item, or -1
    below: Ints32  # (m,) first child of an item, or -1
    next_below: Ints32  # (m,) next child of the same parent, or -1
    indptr: Ints  # (m + 1,)
    indices: Ints32  # (E,) head of each arc, a vertex
    rptr: Ints  # (W + m + 1,) arcs by head; within a head the arcs with flow come first, so the order changes
    redge: Ints32  # (E,) position in ``indices``
    rnode: Ints32  # (E,) tail, an item


class Flow(NamedTuple):
    """A preflow and the working state of the algorithm."""

    edge: Ints  # (E,) flow on the arcs of ``indices``
    up: Ints  # (m,) item -> parent
    paid: Ints  # (W,) requirement -> sink
    lost: Ints  # (m,) item with negative profit -> sink
    excess: Ints  # (W + m,)
    users: Ints32  # (W + m,) how many arcs with flow lead to a vertex
    label: Ints32  # (W + m,) distance from the sink
    current: Ints32  # (W + m,) current arc
    least: Ints32  # (W + m,) least label seen on the arcs before the current one
    queue: Ints32  # (W + m + 1,) circular
    queued: Bools  # (W + m,)
    state: Ints  # queue head, queue tail, work left until the next global relabelling, discharges, relabellings


@njit
def build_graph(parent: Ints32, indptr: Ints, indices: Ints32, n_requirements: int) -> Graph:
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
def _swap(redge: Ints32, rnode: Ints32, a: int, b: int) -> None:
    redge[a], redge[b] = redge[b], redge[a]
    rnode[a], rnode[b] = rnode[b], rnode[a]


@njit
def _bring_forward(redge: Ints32, rnode: Ints32, place: int, e: int) -> None:
    """Move arc e, which lies at ``place`` or later in the reverse adjacency of its head, to ``place``."""
    r = place
    while redge[r] != e:
        r += 1
    _swap(redge, rnode, place, r)


@njit
def start_flow(
    graph: Graph, supply: Ints, capacity: Ints, guess_edge: Singles, guess_up: Singles, guess_lost: Singles, unit: float
) -> Flow:
    """Return a feasible preflow near ``unit`` times a guess; without a guess (size 0) a greedy one.

    Children come before parents: what an item has goes to its own sink, its requirements and its parent, up to the
    guess and the room that is left. After a guess, what is left over goes where there still is room.
    """
    m, w, n_edges = len(supply), len(capacity), len(graph.indices)
    guessed = len(guess_edge) == n_edges and len(guess_up) == m
    edge, up = np.zeros(n_edges, np.int64), np.zeros(m, np.int64)
    paid, lost = np.zeros(w, np.int64), np.zeros(m, np.int64)
    excess, users = np.zeros(w + m, np.int64), np.zeros(w + m, np.int32)
    excess[w:] = np.maximum(supply, 0)
    for turn in range(2 if guessed else 1):
        limited = guessed and turn == 0
        for h in range(m - 1, -1, -1):
            have = excess[w + h]
            if supply[h] < 0 and have > 0:
                x = min(have, -supply[h] - lost[h])
                if limited:
                    x = min(x, np.int64(guess_lost[h] * unit))
                lost[h] += x
                have -= x
            for e in range(graph.indptr[h], graph.indptr[h + 1]):
                if have == 0:
                    break
                j = graph.indices[e]
                if j >= w:
                    continue
                x = min(have, capacity[j] - paid[j])
                if limited:
                    x = min(x, np.int64(guess_edge[e] * unit))
                if x > 0:
                    if edge[e] == 0:
                        _bring_forward(graph.redge, graph.rnode, graph.rptr[j] + users[j], e)
                        users[j] += 1
                    edge[e] += x
                    paid[j] += x
                    have -= x
            p = graph.parent[h]
            if p >= 0 and have > 0 and turn == 0:
                x = min(have, np.int64(guess_up[h] * unit)) if limited else have
                up[h] = x
                excess[w + p] += x
                have -= x
            excess[w + h] = have
    label, current, least = np.zeros(w + m, np.int32), np.zeros(w + m, np.int32), np.zeros(w + m, np.int32)
    queue, queued = np.zeros(w + m + 1, np.int32), np.zeros(w + m, np.bool_)
    state = np.zeros(5, np.int64)
    return Flow(edge, up, paid, lost, excess, users, label, current, least, queue, queued, state)


@njit
def _used_by(graph: Graph, users: Ints32, m: int) -> tuple[Ints, Ints32]:
    """Return the heads of the arcs with flow by tail, as offsets and a list."""
    offset = np.zeros(m + 2, np.int64)
    for v in range(len(users)):
        for r in range(graph.rptr[v], graph.rptr[v] + users[v]):
            offset[graph.rnode[r] + 2] += 1
    for h in range(m + 1):
        offset[h + 1] += offset[h]
    head = np.empty(offset[m + 1], np.int32)
    for v in range(len(users)):
        for r in range(graph.rptr[v], graph.rptr[v] + users[v]):
            h = graph.rnode[r]
            head[offset[h + 1]] = v
            offset[h + 1] += 1
    return offset, head


@njit
def relabel_globally(graph: Graph, flow: Flow, supply: Ints, capacity: Ints) -> int:
    """Set every label to the distance from the sink and queue the active vertices, nearest first; return how many."""
    m, w = len(supply), len(capacity)
    indptr, indices, rptr, rnode = graph.indptr, graph.indices, graph.rptr, graph.rnode
    label, order, up = flow.label, flow.queue, flow.up
    offset, head = _used_by(graph, flow.users, m)
    label[:] = FAR
    tail = 0
    for j in range(w):
        if flow.paid[j] < capacity[j]:
            label[j] = 1
            order[tail] = j
            tail += 1
    rest, n_rest, arcs_of_rest = np.empty(m, np.int32), 0, 0
    for h in range(m):
        if supply[h] < 0 and flow.lost[h] < -supply[h]:
            label[w + h] = 1
            order[tail] = w + h
            tail += 1
        else:
            rest[n_rest] = h
            n_rest += 1
            arcs_of_rest += indptr[h + 1] - indptr[h]
    first, level = 0, np.int32(1)
    while first < tail:
        last, further = tail, np.int32(level + 1)
        arcs = 0
        for k in range(first, last):
            arcs += rptr[order[k] + 1] - rptr[order[k]]
        pull = PULL * arcs_of_rest < arcs
        if pull:
            count, arcs_of_rest = 0, 0
            for k in range(n_rest):
                h = rest[k]
                if label[w + h] < FAR:
                    continue
                e, end = indptr[h], indptr[h + 1]
                while e < end and label[indices[e]] != level:
                    e += 1
                if e < end:
                    label[w + h] = further
                    order[tail] = w + h
                    tail += 1
                else:
                    rest[count] = h
                    count += 1
                    arcs_of_rest += end - indptr[h]
            n_rest = count
        for k in range(first, last):
            v = order[k]
            if not pull:
                for r in range(rptr[v], rptr[v + 1]):
                    h = rnode[r]
                    if label[w + h] == FAR:
                        label[w + h] = further
                        order[tail] = w + h
                        tail += 1
                        arcs_of_rest -= indptr[h + 1] - indptr[h]
            if v < w:
                continue
            h = v - w
            c = graph.below[h]
            while c >= 0:
                if label[w + c] == FAR:
                    label[w + c] = further
                    order[tail] = w + c
                    tail += 1
                    arcs_of_rest -= indptr[c + 1] - indptr[c]
                c = graph.next_below[c]
            p = graph.parent[h]
            if p >= 0 and up[h] > 0 and label[w + p] == FAR:
                label[w + p] = further
                order[tail] = w + p
                tail += 1
                arcs_of_rest -= indptr[p + 1] - indptr[p]
            for k2 in range(offset[h], offset[h + 1]):
                u = head[k2]
                if label[u] == FAR:
                    label[u] = further
                    order[tail] = u
                    tail += 1
                    if u >= w:
                        arcs_of_rest -= indptr[u - w + 1] - indptr[u - w]
        first, level = last, further
    flow.current[:] = 0
    flow.least[:] = FAR
    flow.queued[:] = False
    active = 0
    for k in range(tail):
        v = order[k]
        if flow.excess[v] > 0:
            order[active] = v
            active += 1
            flow.queued[v] = True
    flow.state[0], flow.state[1] = 0, active
    flow.state[2] = np.int64(RELABEL_AFTER * (len(indices) + m + w)) + 1
    flow.state[4] += 1
    return active


@njit
def _receive(excess: Ints, queue: Ints32, queued: Bools, tail: int, u: int, x: int) -> int:
    """Give ``x`` to vertex u, queue it if it is not queued yet, and return the new tail of the queue."""
    excess[u] += x
    if queued[u]:
        return tail
    queued[u] = True
    queue[tail] = u
    tail += 1
    return 0 if tail == len(queue) else tail


@njit
def advance(graph: Graph, flow: Flow, supply: Ints, capacity: Ints, budget: int) -> bool:
    """Go on for about ``budget`` arc scans; return whether the preflow is maximum. Call again while it is not."""
    # One loop over local arrays: handing the tuples to a function for every vertex would double the time.
    parent, below, next_below = graph.parent, graph.below, graph.next_below
    indptr, indices = graph.indptr, graph.indices
    rptr, redge, rnode = graph.rptr, graph.redge, graph.rnode
    edge, up, paid, lost, excess, users = flow.edge, flow.up, flow.paid, flow.lost, flow.excess, flow.users
    label, current, least = flow.label, flow.current, flow.least
    queue, queued, state = flow.queue, flow.queued, flow.state
    w, size = len(capacity), len(queue)
    head, tail, until_relabelling, discharges = state[0], state[1], state[2], 0
    done = False
    while budget > 0:
        if head == tail or until_relabelling <= 0:
            budget -= len(indices) + size
            done = relabel_globally(graph, flow, supply, capacity) == 0
            head, tail, until_relabelling = state[0], state[1], state[2]
            if done:
                break
        v = queue[head]
        head = 0 if head + 1 == size else head + 1
        queued[v] = False
        if label[v] >= FAR:
            continue
        have = excess[v]
        work = 1
        while have > 0:
            down = label[v] - 1
            h = v - w
            if h < 0:
                room = capacity[v] - paid[v]
                nearest = FAR
                if room > 0 and down == 0:
                    x = min(room, have)
                    paid[v] += x
                    have -= x
            else:
                room = -supply[h] - lost[h]
                if room > 0 and down == 0:
                    x = min(room, have)
                    lost[h] += x
                    have -= x
                    room -= x
                # Labels only rise: the least one seen on the way is a bound even where it is out of date.
                nearest = least[v]
                e = indptr[h] + current[v]
                begin, end = e, indptr[h + 1]
                while have > 0 and e < end:
                    u = indices[e]
                    if label[u] == down:
                        x = have
                        if down == 1 and u < w:
                            # Send no more than goes on to the sink at once, while there is room.
                            free = capacity[u] - paid[u] - excess[u]
                            if 0 < free < x:
                                x = free
                        if edge[e] == 0:
                            _bring_forward(redge, rnode, rptr[u] + users[u], e)
                            users[u] += 1
                        edge[e] += x
                        have -= x
                        tail = _receive(excess, queue, queued, tail, u, x)
                        if have == 0:
                            break
                    nearest = min(nearest, label[u])
                    e += 1
                work += e - begin
                current[v], least[v] = e - indptr[h], nearest
                p = parent[h]
                if p >= 0 and have > 0:
                    if label[w + p] == down:
                        up[h] += have
                        tail = _receive(excess, queue, queued, tail, w + p, have)
                        have = 0
                    nearest = min(nearest, label[w + p])
                c = below[h]
                while c >= 0 and have > 0:
                    if up[c] > 0:
                        if label[w + c] == down:
                            x = min(have, up[c])
                            up[c] -= x
                            have -= x
                            tail = _receive(excess, queue, queued, tail, w + c, x)
                        if up[c] > 0:
                            nearest = min(nearest, label[w + c])
                    c = next_below[c]
            # Back along the arcs that brought flow here.
            r, end = rptr[v], rptr[v] + users[v]
            work += end - r
            while r < end and have > 0:
                u = w + rnode[r]
                if label[u] == down:
                    e = redge[r]
                    x = min(have, edge[e])
                    edge[e] -= x
                    have -= x
                    tail = _receive(excess, queue, queued, tail, u, x)
                    if edge[e] == 0:
                        end -= 1
                        users[v] -= 1
                        _swap(redge, rnode, r, end)
                        continue
                nearest = min(nearest, label[u])
                r += 1
            if have == 0:
                break
            # Every arc was tried: v moves up.
            if room > 0:
                nearest = np.int32(0)
            if nearest >= FAR:
                label[v] = FAR
                break
            label[v] = nearest + 1
            current[v], least[v] = 0, FAR
        excess[v] = have
        until_relabelling -= work
        budget -= work
        discharges += 1
    state[0], state[1], state[2] = head, tail, until_relabelling
    state[3] += discharges
    return done
