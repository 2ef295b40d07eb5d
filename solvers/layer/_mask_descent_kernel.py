"""Coordinate descent over the blocks of a layer's rows: mask and weights of one block at a time, all else fixed.

With W' the weights now and G = (W' - W) H, the loss as a function of a block's new weights v (its present ones c) is

    const - 2 v t^T + v H_bb v^T,    t = c H_bb - G_b,

so that keeping the positions K gains t_K (H_KK)^-1 t_K^T, attained at v_K = t_K (H_KK)^-1. All patterns K of a
block with as many kept as now are compared; the loss never rises.
"""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np

from prunopt.core.arrays import Bools, Floats
from prunopt.core.jit import njit
from prunopt.core.validate import Shown, require

WAYS = 1000  # patterns of one block that are compared


def subsets(block: int, counts: list[int]) -> Bools:
    """Return the flags of every subset of ``block`` positions with one of the ``counts``."""
    total = sum(comb(block, c) for c in counts)
    require(
        total <= WAYS, "pattern", f"have at most {WAYS} ways to keep weights", Shown(f"{total} for {block} weights")
    )
    rows = [np.isin(np.arange(block), chosen) for c in counts for chosen in combinations(range(block), c)]
    return np.array(rows, np.bool_)


def descend(
    weight: Floats, normal: Floats, mask: Bools, current: Floats, block: int, ways: Bools, shift: int, lazy: int
) -> tuple[int, float]:
    """Sweep once over all blocks, in place; return how many blocks changed their mask, and what the loss fell by.

    Blocks start at column ``shift``; columns before the first and after the last whole block are left as they are.
    """
    d = weight.shape[1]
    changed, gained = 0, 0.0
    step = max(lazy // block, 1) * block
    for start in range(shift, d - block + 1, step):
        stop = min(start + step, shift + (d - shift) // block * block)
        part = np.ascontiguousarray(normal[start:stop, start:stop])
        gradient = (current - weight) @ normal[:, start:stop]
        inverses = _inverses(part, block, ways)
        now, kept = np.ascontiguousarray(current[:, start:stop]), np.ascontiguousarray(mask[:, start:stop])
        n, gain = _sweep(part, gradient, now, kept, block, ways, inverses)
        current[:, start:stop], mask[:, start:stop] = now, kept
        changed, gained = changed + n, gained + gain
    return changed, gained


def _inverses(H: Floats, block: int, ways: Bools) -> Floats:
    """(H_KK)^-1 for every block and way, padded with zeros to (blocks, ways, block, block)."""
    n = len(H) // block
    at = np.arange(n)[:, None] * block + np.arange(block)
    corner = H[at[:, :, None], at[:, None, :]]
    out = np.zeros((n, len(ways), block, block))
    for w, way in enumerate(ways):
        K = np.flatnonzero(way)
        if len(K):
            out[:, w, K[:, None], K] = np.linalg.inv(corner[:, K[:, None], K])
    return out


@njit
def _sweep(
    H: Floats, gradient: Floats, now: Floats, mask: Bools, block: int, ways: Bools, inverses: Floats
) -> tuple[int, float]:
    rows, width = now.shape
    n_ways = len(ways)
    sizes = np.zeros(n_ways, np.int64)
    for w in range(n_ways):
        for k in range(block):
            sizes[w] += ways[w, k]
    t, v = np.empty(block), np.empty(block)
    changed, gained = 0, 0.0
    for r in range(rows):
        for b in range(width // block):
            base = b * block
            count, present = 0, 0.0
            for i in range(block):
                count += mask[r, base + i]
                s = -gradient[r, base + i]
                own = 0.0
                for j in range(block):
                    own += now[r, base + j] * H[base + j, base + i]
                t[i] = s + own
                present += now[r, base + i] * (2 * t[i] - own)
            best, at = -1.0, -1
            for w in range(n_ways):
                if sizes[w] != count:
                    continue
                worth = 0.0
                for i in range(block):
                    if ways[w, i]:
                        s = 0.0
                        for j in range(block):
                            s += inverses[b, w, i, j] * t[j]
                        worth += s * t[i]
                if worth > best:
                    best, at = worth, w
            if at < 0:
                continue
            gained += best - present
            moved = False
            for i in range(block):
                v[i] = 0.0
                if ways[at, i]:
                    for j in range(block):
                        v[i] += inverses[b, at, i, j] * t[j]
                moved = moved or mask[r, base + i] != ways[at, i]
                mask[r, base + i] = ways[at, i]
            changed += moved
            for i in range(block):
                step = v[i] - now[r, base + i]
                now[r, base + i] = v[i]
                if step != 0.0:
                    for k in range(width):
                        gradient[r, k] += step * H[base + i, k]
    return changed, gained
