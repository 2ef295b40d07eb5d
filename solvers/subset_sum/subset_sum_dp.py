"""Subset sums of many candidates: small subsets by meeting in the middle, sums of few values by dynamic programming."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Bools, Ints
from prunopt.core.jit import njit
from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.subset.subset_sum import SubsetSum
from prunopt.solvers.subset_sum.subset_sum_milp import SubsetSumMilp, one_target
from prunopt.solvers.subset_sum.subset_sum_mitm import STEPPED, Subsets, answer, nothing_yet, smallest_subsets

TABLE = 2**31  # entries: candidates times different sums
QUICK = 2**29  # entries of tables that are filled at once, before subsets of few candidates are looked at
ENUMERATED, TINY = 24, 2**24  # candidates that are enumerated in a moment, and entries that are filled in one
PROGRAMS = 100  # integer programs, one for each target, that are solved without being asked for by name


@dataclass(frozen=True)
class SubsetSumDp(Solver[SubsetSum]):
    r"""Solve a `SubsetSum` of more candidates than can be enumerated.

    Subsets of few candidates are looked at as `subset-sum-mitm` does, unless all sums are few. For targets that need
    more, where the candidates are whole multiples of a step so large that few different sums remain, the table

    .. math:: c_j(s) = \min(c_{j-1}(s), \; 1 + c_{j-1}(s - a_j))

    of the fewest candidates for every sum is filled [1]_, once for all targets of a pool; the form proves the sizes by
    sets of bits. The rest goes, target by target, to `subset-sum-milp`, and its sizes are the engine's claim.

    References
    ----------
    .. [1] R. Bellman, "Dynamic programming", Princeton University Press 1957.
    """

    name: ClassVar[str] = "subset-sum-dp"
    form: ClassVar[type] = SubsetSum
    exact: ClassVar[bool] = True
    rank: ClassVar[int] = 15
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Bellman 1957; Horowitz & Sahni, J. ACM 1974"

    @classmethod
    def rank_on(cls, problem: SubsetSum) -> int:
        """First where the sums of more than 24 candidates are few."""
        few = problem.n_candidates > ENUMERATED and has_small_tables(problem, TINY)
        return cls.rank - 6 if few else cls.rank

    def solve(self, problem: SubsetSum, limits: Limits, seed: int) -> Solution[Bools]:
        """Return the smallest subsets; targets left open by the limits are answered greedily."""
        run = Run(limits)
        half = limits if limits.seconds is None else replace(limits, seconds=limits.seconds / 2)
        fixed = problem.fixed
        found = nothing_yet(problem) if has_small_tables(problem, QUICK) else smallest_subsets(problem, limits=half)
        stats: dict[str, Any] = {"by enumeration": int(found.settled.sum())}
        claimed, why = np.zeros(problem.n_targets, np.bool_), ""
        for pool in np.unique(fixed.pool[~found.settled]):
            of_pool = np.flatnonzero(~found.settled & (fixed.pool == pool))
            if run.out_of_time:
                break
            if table_size(fixed.pools[pool]) <= TABLE:
                _by_table(problem, int(pool), of_pool, found)
                continue
            if len(of_pool) > PROGRAMS:
                why = f"{len(of_pool)} targets of one pool are too many for integer programs; ask for subset-sum-milp"
                continue
            for i in of_pool:
                left = None if limits.seconds is None else max(limits.seconds - run.seconds, 0.01)
                why = _by_engine(problem, int(i), replace(limits, seconds=left, callback=None), seed, found) or why
                claimed[i] = found.settled[i]
        stats["by integer programs"] = int(claimed.sum())
        solution = answer(problem, self.name, run, found, stats=stats, why=why or "stopped by its limits")
        if claimed.any() and solution.status.has_value and int(found.lower.max()) > problem.provable_size + 1:
            stats = {**solution.stats, "bound": "claimed by an engine"}
            return replace(solution, duals={}, stats=stats)
        return solution


def has_small_tables(problem: SubsetSum, most: int) -> bool:
    """Whether the tables of all pools together have so few entries; not looked at where pools are many."""
    pools = problem.fixed.pools
    return pools.size <= STEPPED and sum(map(table_size, pools)) <= most


def table_size(row: Ints) -> int:
    """Return how many entries the table of a pool has."""
    return len(row) * (1 + int(np.abs(row).sum()) // (math.gcd(*map(int, row)) or 1))


def _by_table(problem: SubsetSum, pool: int, targets: Ints, found: Subsets) -> None:
    fixed = problem.fixed
    row = fixed.pools[pool]
    step = math.gcd(*map(int, row)) or 1
    numbers = np.array([int(a) // step for a in row], np.int64)
    least = int(-numbers[numbers < 0].sum())
    width = int(np.abs(numbers).sum()) + 1
    wanted = [(i, int(fixed.targets[i])) for i in targets]
    windows = {
        i: (max(0, least - ((fixed.epsilon - t) // step)), least + (t + fixed.epsilon) // step) for i, t in wanted
    }
    # Where nothing is taken away again, larger sums than are asked for lead nowhere, unless the nearest is one of them.
    tops = [width, max(1, min(width, 1 + max(high for _, high in windows.values())))][: 1 + (least == 0)]
    for top in sorted(set(tops)):
        fewest, taken = fill(numbers, least, top)
        for i, target in wanted:
            low, high = windows[i]
            window = low + np.flatnonzero(fewest[low : max(high + 1, 0)] >= 0)
            reached = len(window) > 0
            if found.settled[i] or not (reached or top == width):
                continue
            middle = least + target / step
            if reached:
                s = int(window[np.lexsort((np.abs(window - middle), fewest[window]))[0]])
            else:
                near = np.flatnonzero(fewest >= 0)
                s = int(near[np.argmin(np.abs(near - middle))])
            kept = trace(numbers, taken, s)
            found.kept[i], found.size[i], found.settled[i], found.reached[i] = kept, kept.sum(), True, reached
            found.error[i] = abs(int(row[kept].sum()) - target) * fixed.unit
            if reached:
                found.lower[i] = kept.sum()
        if found.settled[targets].all():
            return


@njit
def fill(numbers: Ints, least: int, width: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Return the fewest candidates for ``width`` sums from ``-least`` on (-1: none), and which sums took which."""
    n = len(numbers)
    fewest = np.full(width, -1, np.int16)
    fewest[least] = 0
    taken = np.zeros((n, (width + 7) // 8), np.uint8)
    low, high = least, least
    for j in range(n):
        a = numbers[j]
        if a == 0:
            continue
        if a > 0:
            for s in range(min(high, width - 1 - a), low - 1, -1):
                if fewest[s] >= 0 and (fewest[s + a] < 0 or fewest[s + a] > fewest[s] + 1):
                    fewest[s + a] = fewest[s] + 1
                    taken[j, (s + a) >> 3] |= np.uint8(1 << ((s + a) & 7))
            high = min(high + a, width - 1)
        else:
            for s in range(low, high + 1):
                if fewest[s] >= 0 and (fewest[s + a] < 0 or fewest[s + a] > fewest[s] + 1):
                    fewest[s + a] = fewest[s] + 1
                    taken[j, (s + a) >> 3] |= np.uint8(1 << ((s + a) & 7))
            low += a
    return fewest, taken


def trace(numbers: Ints, taken: NDArray[np.uint8], s: int) -> Bools:
    """Return the subset that the table found for a sum."""
    kept = np.zeros(len(numbers), np.bool_)
    for j in range(len(numbers) - 1, -1, -1):
        if taken[j, s >> 3] >> (s & 7) & 1:
            kept[j] = True
            s -= int(numbers[j])
    return kept


def _by_engine(problem: SubsetSum, i: int, limits: Limits, seed: int, found: Subsets) -> str:
    """Let the engine answer one target; return why it did not."""
    if SubsetSumMilp.why_not():
        return f"more candidates than can be enumerated, and the integer program {SubsetSumMilp.why_not()}"
    own = SubsetSumMilp().solve(one_target(problem, i), limits, seed)
    if own.status is Status.OPTIMAL:
        kept = own.value[0]
        found.kept[i], found.size[i], found.reached[i], found.settled[i] = kept, kept.sum(), True, True
        found.lower[i] = kept.sum()
        found.error[i] = abs(problem.errors(found.kept)[i])
        return ""
    return own.message or "the integer program was not solved"
