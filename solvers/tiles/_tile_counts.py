"""Even numbers of large vectors in every tile, by swaps of channels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from prunopt.core.arrays import Ints
from prunopt.forms.knapsack.tile_partition import TilePartition


def evened(problem: TilePartition, stop: Callable[[], bool]) -> Ints:
    """Deal channels so that every tile holds as nearly as possible K of the layer's largest K * tiles vectors.

    Where all tiles hold exactly K of them, the assignment is optimal: it loses what `TilePartition.bound` says.
    """
    c, g, keep = problem.n_channels, problem.n_tiles, problem.keep
    of = np.zeros(c, np.int64)
    if not c:
        return of
    flat = np.argsort(-problem.energy.ravel(), kind="stable")[: keep * g]
    counts = np.bincount(flat // problem.energy.shape[1], minlength=c)
    room, held = np.full(g, problem.tile), np.zeros(g, np.int64)
    for channel in np.argsort(-counts, kind="stable"):  # the longest first, into the emptiest tile that has room
        tile = min((t for t in range(g) if room[t]), key=lambda t: (held[t], -room[t], t))
        of[channel], room[tile], held[tile] = tile, room[tile] - 1, held[tile] + counts[channel]
    while not stop():
        excess = held - keep
        over, under = int(np.argmax(excess)), int(np.argmin(excess))
        if excess[over] <= 0 or excess[under] >= 0:
            break
        wanted = min(excess[over], -excess[under])
        mine, theirs = np.flatnonzero(of == over), np.flatnonzero(of == under)
        given = counts[mine][:, None] - np.append(counts[theirs], 0 if room[under] else 10**9)[None, :]
        gain = np.where(given > 0, -np.abs(given - wanted), -(10**9))
        i, j = np.unravel_index(int(np.argmax(gain)), gain.shape)
        if gain[i, j] <= -(10**8) or given[i, j] >= excess[over] - excess[under]:
            break
        of[mine[i]] = under
        if j < len(theirs):
            of[theirs[j]] = over
        else:
            room[under], room[over] = room[under] - 1, room[over] + 1
        held[over], held[under] = held[over] - given[i, j], held[under] + given[i, j]
    return of
