"""Work on the rows of a layer in threads, and exchanges in a mask that another solver has chosen."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from prunopt.core.arrays import Bools, Floats
from prunopt.core.solver import Run
from prunopt.forms.layer.mask_blocks import MaskBlocks
from prunopt.solvers.layer._obc_kernel import exchange_rows

ROWS = 4  # rows that a thread takes at a time
BATCH, POOL, REACH = 32, 64, 0.4
SINGLE = 1e3  # condition, once columns have one size, up to which masks are chosen in single precision


def tables(problem: MaskBlocks) -> tuple[Floats, Floats]:
    """Return the weights and the inverse that masks are chosen by: in single precision where the problem allows it.

    Costs are then off by about 1e-4 of themselves; what is kept is re-solved in double precision in any case.
    """
    condition = float((np.diagonal(problem.normal) * np.diagonal(problem.inverse)).max())
    kind = np.float32 if condition <= SINGLE else np.float64
    return problem.weight.astype(kind, copy=False), problem.inverse.astype(kind, copy=False)


def over_rows(work: Callable[[slice], None], rows: int, n_jobs: int, run: Run) -> int:
    """Do the work for all rows in threads; return how many were done before the limits."""
    most = run.limits.evaluations
    allowed = rows if most is None else max(min(rows, most - run.evaluations), 0)

    def part(start: int) -> int:
        if run.limits.seconds is not None and run.seconds >= run.limits.seconds:
            return 0
        at = slice(start, min(start + ROWS, allowed))
        work(at)
        return at.stop - at.start

    with ThreadPoolExecutor(n_jobs if n_jobs > 0 else os.cpu_count() or 1) as threads:
        done = sum(threads.map(part, range(0, allowed, ROWS)))
    run.evaluations += done
    return done


def exchanged(problem: MaskBlocks, mask: Bools, swaps: int, run: Run) -> int:
    """Exchange weights of a mask, in place; return how often."""
    if not swaps or run.out_of_time:
        return 0
    W, C = tables(problem)
    block = problem.shape[1] if problem.pattern is None else problem.pattern[1]
    removed, moved = ~mask, np.zeros(len(mask), np.int64)

    def work(at: slice) -> None:
        exchange_rows(W[at], C, block, BATCH, POOL, REACH, swaps, removed[at], moved[at])

    with threadpool_limits(1, "blas"):
        over_rows(work, len(mask), -1, run)
    np.logical_not(removed, out=mask)
    return int(moved.sum())
