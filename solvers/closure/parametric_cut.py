"""Every optimum of a closure over its penalty: divide and conquer on contracted problems."""

from __future__ import annotations

import time
import uuid
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunopt.core.jit import ctrl_c_held
from prunopt.core.solution import CertificateError
from prunopt.core.solver import Limits, Run
from prunopt.core.validate import require
from prunopt.forms.closure.closure import INT64_SAFE, Closure, exact_sum
from prunopt.forms.closure.parametric_closure import PathBlock, PenaltyPath
from prunopt.solvers.closure import _push_relabel as flows
from prunopt.solvers.closure._contraction import Contracted, needs_nothing, restrict, value_of
from prunopt.solvers.closure.min_cut import NO_GUESS, SLICE

NO_FLOW = np.zeros(0, np.int64)
ROUNDED_TOTAL = 2**61
SMALL = 4  # a part with this share of one worker's edges is searched to its end by one worker


def closure_path(closure: Closure, limits: Limits | None = None, n_jobs: int | None = None) -> PenaltyPath:
    r"""Return the largest optimum of a closure for every penalty p >= 0.

    Between two nested optima with profits and costs :math:`(A_1, C_1) \subset (A_2, C_2)` the penalty at which they tie
    is :math:`p = (A_2 - A_1) / (C_2 - C_1)`. If the contracted problem at p gains nothing, p is a breakpoint and the
    items between the two leave the optimum together; otherwise its optimum lies strictly between, and both sides are
    searched in turn, contracted: B breakpoints take 2 B - 1 cuts of shrinking problems. Profits, costs and penalties
    are integers and exact rationals. Where their products do not fit into 62 bits, the cut is found on costs rounded
    to the last of 61 bits, decisions are still taken on exact sums, and the certified gap of the points says what that
    may have cost.

    Intervals between two known optima have nothing in common but their ends: with several workers they are searched
    in parallel, each as the contracted problem that it is, and the path is the same to the last multiplier.

    Parameters
    ----------
    closure
        A closure without ``arcs`` (its items form a forest). Its own penalty plays no part.
    limits
        Time limit; when it strikes, or on an interrupt, the path found so far is returned, marked incomplete.
    n_jobs
        Workers of `joblib.Parallel`; None = as ``joblib.parallel_config`` says, or 1. Threads by default, as the cut
        releases the interpreter; ``joblib.parallel_config`` names another backend: processes, a Dask or Ray cluster.
        What the workers are at when an interrupt comes is lost; what was complete is kept.

    References
    ----------
    M. J. Eisner, D. G. Severance, "Mathematical techniques for efficient record segmentation in large shared
    databases", J. ACM 23 (1976); G. Gallo, M. D. Grigoriadis, R. E. Tarjan, SIAM J. Comput. 18 (1989).
    """
    require(not len(closure.arcs), "closure", "have no arcs besides the forest", closure.arcs)
    run = Run(limits or Limits())
    free = needs_nothing(closure.parent, closure.indptr, closure.indices, closure.cost)
    total = exact_sum(np.abs(closure.profit))
    always = closure.tree_closure(np.where(free, closure.profit, -total - 1), ties=True)
    largest = closure.tree_closure(closure.profit, ties=True)
    first = restrict(_whole(closure), largest & ~always, always, NO_FLOW, NO_FLOW, NO_FLOW, 1.0)
    whole = _Open(first, Fraction(0), True, Fraction(0), None)
    workers = _workers(n_jobs)
    found = _search(whole, run) if workers == 1 else _in_parallel(whole, run, n_jobs, workers)
    blocks = sorted(found.blocks, key=lambda b: -b.penalty)
    stats = {**found.stats, "seconds": run.seconds, "workers": float(workers)}
    return PenaltyPath(closure, always, tuple(blocks), found.complete, stats)


def _workers(n_jobs: int | None) -> int:
    from joblib import effective_n_jobs

    known = n_jobs is None or (isinstance(n_jobs, int) and not isinstance(n_jobs, bool) and n_jobs != 0)
    require(known, "n_jobs", "be a number of workers, -1 for all processors, or None", n_jobs)
    return int(effective_n_jobs(n_jobs))


class _Open(NamedTuple):
    """A part to be searched: where its guess comes from, and the penalties that its blocks must lie between."""

    part: Contracted
    penalty_of_guess: Fraction
    upper: bool
    least: Fraction
    most: Fraction | None
    rounded: bool = False  # whether a cut that led here was one on rounded costs


class _Found(NamedTuple):
    """What a search brought: blocks by falling penalty, parts still to be searched, and counters."""

    blocks: list[PathBlock]
    parts: list[_Open]
    complete: bool
    stats: dict[str, float]


COUNTERS = ("cuts", "edges", "rounded cuts", "rounded ties")


def _search(start: _Open, run: Run) -> _Found:
    """Find all blocks of a part."""
    stack, blocks, complete = [start], list[PathBlock](), True
    stats = dict.fromkeys(COUNTERS, 0.0)
    while stack:
        step = _split(stack.pop(), run, stats, complete)
        blocks += step.blocks
        stack += reversed(step.parts)
        complete = complete and step.complete
    return _Found(blocks, [], complete, stats)


def _split(at: _Open, run: Run, stats: dict[str, float], search: bool = True) -> _Found:
    """Cut a part once: it is a block, or falls apart into two. Without ``search`` it is left as it is."""
    part, penalty_of_guess, upper, least, most, _ = at
    if not len(part.items):
        return _Found([], [], True, stats)
    profit, cost = exact_sum(part.profit), exact_sum(part.cost)
    if profit < 0 or (cost == 0 and profit != 0):
        # Between two exact optima this cannot be; between two found on rounded costs it can, by a trifle.
        if not at.rounded:
            raise CertificateError(f"the path is not nested: profit {profit} at cost {cost} between two optima")
        stats["rounded ties"] += 1
        shares = np.floor(part.guess_edge.astype(np.float64)).astype(np.int64)
        return _Found([PathBlock(penalty_of_guess, part.items, part.requirements, shares, 1)], [], True, stats)
    penalty = Fraction(profit, cost) if cost else Fraction(0)
    stats["cuts"] += 1
    stats["edges"] += len(part.indices)
    factor = 1.0 if upper or not penalty_of_guess else float(penalty / penalty_of_guess)
    cut = _cut(part, penalty, factor, run, stats) if search else None
    if cut is None:
        none = np.zeros(len(part.indices), np.int64)
        return _Found(
            [PathBlock(_between(penalty, least, most), part.items, part.requirements, none, 1)], [], False, stats
        )
    chosen, flow, scale = cut
    if chosen is None:
        block = PathBlock(_between(penalty, least, most), part.items, part.requirements, flow.edge, scale)
        return _Found([block], [], True, stats)
    nobody = np.zeros(len(chosen), np.bool_)
    guess = (flow.edge, flow.up, flow.lost, float(scale))
    above = restrict(part, chosen, nobody, *guess)
    below = restrict(part, ~chosen, chosen, *guess)
    middle, rounded = _between(penalty, least, most), at.rounded or scale != penalty.denominator
    parts = [_Open(above, penalty, True, middle, most, rounded), _Open(below, penalty, False, least, middle, rounded)]
    return _Found([], parts, True, stats)


class _Until(Run):
    """The clock of a search in a worker, which the caller can stop where they share memory."""

    def __init__(self, deadline: float | None, token: str) -> None:
        super().__init__(Limits(seconds=None if deadline is None else max(0.0, deadline - time.time())))
        self.token = token

    @property
    def out_of_time(self) -> bool:
        return self.token in _stopped or super().out_of_time


_stopped: set[str] = set()  # the calls whose workers in this process are to stop


def _work(at: _Open, deadline: float | None, token: str, small: int) -> _Found:
    """Search a small part, or cut a large one once: what a worker does."""
    run = _Until(deadline, token)
    # Arrays from another process may be mapped files that cannot be written to: another type to compiled code.
    own: list[Any] = [a if type(a) is np.ndarray and a.flags.writeable else np.array(a) for a in at.part]
    at = at._replace(part=Contracted(*own))
    if len(at.part.indices) <= small:
        return _search(at, run)
    return _split(at, run, dict.fromkeys(COUNTERS, 0.0))


def _in_parallel(start: _Open, run: Run, n_jobs: int | None, workers: int) -> _Found:
    """Do what `_search` does, in rounds: large open parts are cut once, small ones searched to their end."""
    from joblib import Parallel, delayed

    seconds, token = run.limits.seconds, uuid.uuid4().hex
    deadline = None if seconds is None else time.time() + seconds - run.seconds
    small = len(start.part.indices) // (SMALL * workers)
    line: list[_Open | PathBlock] = [start]  # by falling penalty
    stats, complete = dict.fromkeys(COUNTERS, 0.0), True
    try:
        with Parallel(n_jobs=n_jobs, prefer="threads") as parallel:
            while todo := [(k, entry) for k, entry in enumerate(line) if isinstance(entry, _Open)]:
                todo.sort(key=lambda pair: -len(pair[1].part.indices))
                jobs = [(entry, deadline, token, small) for _, entry in todo]
                done = [_work(*jobs[0])] if len(jobs) == 1 else parallel(delayed(_work)(*job) for job in jobs)
                found = dict(zip((k for k, _ in todo), done, strict=True))
                del todo, jobs
                line = [new for k, entry in enumerate(line) for new in _replaced(entry, found.get(k))]
                for one in found.values():
                    complete = complete and one.complete
                    for name in COUNTERS:
                        stats[name] += one.stats[name]
    except BaseException as error:
        _stopped.add(token)
        if not isinstance(error, KeyboardInterrupt):
            raise
        complete = False
    left = [_split(e, run, stats, False).blocks if isinstance(e, _Open) else [e] for e in line]
    return _Found([block for blocks in left for block in blocks], [], complete, stats)


def _replaced(entry: _Open | PathBlock, found: _Found | None) -> list[_Open | PathBlock]:
    return [entry] if found is None else [*found.blocks, *found.parts]


def _between(penalty: Fraction, least: Fraction, most: Fraction | None) -> Fraction:
    """Keep blocks nested: exact penalties are in order by themselves, those of rounded cuts may miss it by a trifle."""
    penalty = max(penalty, least)
    return penalty if most is None else min(penalty, most)


def _whole(closure: Closure) -> Contracted:
    return Contracted(
        np.arange(closure.n_items, dtype=np.int32),
        np.arange(closure.n_requirements, dtype=np.int32),
        closure.parent,
        closure.profit,
        closure.indptr,
        closure.indices,
        closure.cost,
        NO_GUESS,
        NO_GUESS,
        NO_GUESS,
    )


def _cut(
    part: Contracted, penalty: Fraction, factor: float, run: Run, stats: dict[str, float]
) -> tuple[NDArray[np.bool_] | None, flows.Flow, int] | None:
    """Solve a part at the penalty where all and nothing tie.

    Returns what is worth more than both (None if nothing is), the flow, and its unit; None when time ran out.
    """
    supply, capacity, scale = _capacities(part, penalty)
    if scale != penalty.denominator:
        stats["rounded cuts"] += 1
    guess = (part.guess_edge, part.guess_up, part.guess_lost)
    done = False
    try:
        with ctrl_c_held():
            graph = flows.build_graph(part.parent, part.indptr, part.indices, len(part.cost))
            flow = flows.start_flow(graph, supply, capacity, *guess, factor * scale)
        while not done:
            if run.out_of_time:
                return None
            done = flows.advance(graph, flow, supply, capacity, SLICE)
    except KeyboardInterrupt:
        return None
    chosen = flow.label[len(part.cost) :] >= flows.FAR
    if scale == penalty.denominator:
        return (None if chosen.all() else chosen), flow, scale
    profit, cost = value_of(part, chosen)
    better = int(profit) - penalty * int(cost) > 0
    return (chosen if better else None), flow, scale


def _capacities(part: Contracted, penalty: Fraction) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Supplies and capacities as integers, and how many of their units make one unit of profit."""
    numerator, denominator = penalty.numerator, penalty.denominator
    sizes = exact_sum(np.abs(part.profit)), exact_sum(part.cost)
    if max(sizes[0] * denominator, sizes[1] * numerator) < INT64_SAFE:
        return part.profit * denominator, part.cost * numerator, denominator
    largest = max(sizes[0], -(-sizes[1] * numerator // denominator), 1)
    scale = 1 << max((ROUNDED_TOTAL // largest).bit_length() - 1, 0)
    exact = np.longdouble(numerator) * np.longdouble(scale) / np.longdouble(denominator)
    return part.profit * scale, np.floor(part.cost * exact).astype(np.int64), scale
