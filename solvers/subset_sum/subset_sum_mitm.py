"""Subset sums solved exactly by meeting in the middle: fewest candidates, nearest sum, and the front between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.deprecation import renamed_arguments
from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import Shown, one_of, require, whole_number
from prunopt.forms.subset.subset_sum import SubsetSum
from prunopt.solvers.subset_sum import _meet_in_the_middle as kernel

GOALS = ("size", "error")
SLICE = 0.2  # seconds between two looks at the clock
MOST = 128  # candidates that the masks of the kernel hold
STEPPED = 100_000  # candidates whose divisors are looked at before the search


@dataclass(frozen=True, eq=False)
class Subsets:
    """What is known of each target of a `SubsetSum`: one subset, and how few are surely needed.

    Parameters
    ----------
    problem
        The problem.
    size : (m,) int64
        Number of candidates in the subset.
    error : (m,) float
        How far the subset's sum is from the target; inf where there is none yet.
    reached : (m,) bool
        Whether the subset is within epsilon.
    settled : (m,) bool
        Whether the search came to its end: the subset is the smallest, or no subset is within epsilon.
    lower : (m,) int64
        A proven lower bound on the number of candidates of any subset within epsilon.
    kept : (m, n) bool
        The subset.
    interrupted : bool
        Whether Ctrl-C ended the search.
    """

    problem: SubsetSum
    size: Ints
    error: Floats
    reached: Bools
    settled: Bools
    lower: Ints
    kept: Bools
    interrupted: bool = False

    @property
    def impossible(self) -> Ints:
        """The numbers of the targets that no subset reaches."""
        return np.flatnonzero(self.settled & ~self.reached)


@dataclass(frozen=True, eq=False)
class Fronts:
    """The trade of size for error of every target: entry (i, k) is the nearest subset of at most k candidates.

    Parameters
    ----------
    problem
        The problem; its epsilon plays no part.
    size : (m, K + 1) int64
        Number of candidates of that subset, at most k.
    error : (m, K + 1) float
        Its distance from the target; falls in k.
    masks : (m, K + 1, 2) uint64
        The subset: bits of the first ``n - n // 2`` candidates, and of the others.
    """

    problem: SubsetSum
    size: Ints
    error: Floats
    masks: NDArray[np.uint64]

    def mask(self, sizes: Ints) -> Bools:
        """Return the nearest subset of at most ``sizes[i]`` candidates for every target i, shape (m, n)."""
        return _spread(self.masks[np.arange(len(self.masks)), sizes], self.problem.n_candidates)

    @renamed_arguments(prices="penalties")
    def trade(self, penalties: Floats) -> tuple[Ints, Floats]:
        """Return, for each penalty of a candidate, the number kept in all and the root mean square error.

        Every target takes the k with the least ``error**2 + penalty * k``: the points of the lower hull of all ways to
        divide the candidates over the targets.
        """
        kept, rms = np.zeros(len(penalties), np.int64), np.zeros(len(penalties))
        k, rows = np.arange(self.error.shape[1]), np.arange(len(self.error))
        for p, penalty in enumerate(penalties):
            chosen = np.argmin(self.error**2 + penalty * k, axis=1)
            kept[p] = self.size[rows, chosen].sum()
            rms[p] = np.sqrt(np.mean(self.error[rows, chosen] ** 2)) if len(rows) else 0.0
        return kept, rms


@dataclass(frozen=True)
class SubsetSumMitm(Solver[SubsetSum]):
    r"""Solve a `SubsetSum` exactly by meeting in the middle [1]_, in whole numbers.

    A pool of n candidates is divided in two. The sums of each half are listed by the number of items, in order; for
    every k, one pass over stratum j of the left and stratum k - j of the right finds the pair nearest to the target
    among all subsets of k. The least k with one within epsilon is the answer, and of the subsets of that size the
    nearest. A pool takes :math:`O(2^{n/2})` steps and room, once for all targets that share it; strata are made only
    as far as some target needs them. Up to 44 candidates everything is proven; with more, sizes up to
    ``SubsetSum.provable_size``.

    The sizes found are handed to `SubsetSum.bound`, which proves them by other means.

    Parameters
    ----------
    objective
        ``"size"``: the fewest candidates within epsilon, of equally small subsets the nearest. ``"error"``: the
        nearest sum, of equally near subsets the smallest (the published experiment [2]_); then the number kept is no
        longer the least, and the status is FEASIBLE.

    References
    ----------
    .. [1] E. Horowitz, S. Sahni, "Computing partitions with applications to the knapsack problem", J. ACM 21 (1974).
    .. [2] A. Pensia, S. Rajput, A. Nagle, H. Vishwakarma, D. Papailiopoulos, "Optimal lottery tickets via SubsetSum:
       logarithmic over-parameterization is sufficient", NeurIPS 2020.
    """

    name: ClassVar[str] = "subset-sum-mitm"
    form: ClassVar[type] = SubsetSum
    exact: ClassVar[bool] = True
    rank: ClassVar[int] = 10
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Horowitz & Sahni, J. ACM 1974; Pensia et al., NeurIPS 2020"

    objective: str = "size"

    def __post_init__(self) -> None:
        one_of("objective", self.objective, GOALS)

    @classmethod
    def exact_on(cls, problem: Any) -> bool:
        """Up to 44 candidates; of more, only small subsets are looked at."""
        return bool(problem.provable_size >= problem.n_candidates)

    def solve(self, problem: SubsetSum, limits: Limits, seed: int) -> Solution[Bools]:
        """Return the subsets; targets left open by the limits are answered greedily, where that is near enough."""
        run = Run(limits)
        subsets = _search(problem, self.objective, run)
        n, most = problem.n_candidates, problem.provable_size
        why = f"more than {MOST} candidates" if n > MOST else f"of {n} candidates, subsets up to {most} were looked at"
        return answer(problem, self.name, run, subsets, goal=self.objective, why=why)


def smallest_subsets(problem: SubsetSum, *, objective: str = "size", limits: Limits | None = None) -> Subsets:
    """Return the best subset of every target, also where some targets are out of reach.

    Parameters
    ----------
    problem
        The problem.
    objective
        ``"size"`` or ``"error"``, as in `SubsetSumMitm`.
    limits
        When to stop; what is not settled by then says so.
    """
    return _search(problem, SubsetSumMitm(objective=objective).objective, Run(limits or Limits()))


def nothing_yet(problem: SubsetSum) -> Subsets:
    """Return that no target was looked at; those beyond all sums are settled."""
    m, n = problem.n_targets, problem.n_candidates
    none, kept = np.zeros((2, m), np.bool_), np.zeros((m, n), np.bool_)
    error = np.full(m, np.inf)
    subsets = Subsets(problem, np.zeros(m, np.int64), error, none[0], none[1], problem.least_reaching(), kept)
    out_of_reach(problem, subsets)
    return subsets


def size_error_fronts(problem: SubsetSum, largest: int | None = None) -> Fronts:
    """Return the least error of every target for every size up to ``largest`` (default: up to all candidates).

    Raises
    ------
    ValueError
        If ``largest`` is more than can be enumerated (see ``SubsetSum.provable_size``).
    """
    n = problem.n_candidates
    top = whole_number("largest", n if largest is None else largest, low=0, high=problem.provable_size)
    require(n <= MOST, "problem", f"have at most {MOST} candidates", n)
    fixed = problem.fixed
    out = kernel.found(problem.n_targets, top + 1)
    order = np.argsort(fixed.pool, kind="stable")
    kernel.fronts(order, fixed.targets, fixed.pool, fixed.pools, top, kernel.room(n, top), out)
    return Fronts(problem, out.size, problem.in_targets_unit(out.distance), out.masks)


def greedy_subsets(
    problem: SubsetSum, chosen: Ints, *, level: Callable[[Floats], NDArray[np.int32]] | None = None
) -> tuple[Bools, Ints]:
    """Take for each of the ``chosen`` targets, from the largest candidate of its sign down, whatever fits.

    Parameters
    ----------
    problem
        The problem.
    chosen : (c,) int64
        Numbers of targets.
    level
        Turns the sizes of candidates, shape (2 p, n), into intervals numbered from the largest sizes; of each
        interval only the first candidate takes part. None: all take part.

    Returns
    -------
    mask : (m, n) bool
    rest : (m,) int64
        What is left of each target, in units of ``problem.fixed``; only of the chosen ones.
    """
    fixed, n = problem.fixed, problem.n_candidates
    size = np.stack([np.maximum(fixed.pools, 0), np.maximum(-fixed.pools, 0)], axis=1).reshape(-1, n)
    intervals = np.full(size.shape, -1, np.int32) if level is None else level(size * fixed.unit)
    key = -size if level is None else np.where(size > 0, intervals, np.iinfo(np.int32).max)
    order = np.argsort(key, axis=1, kind="stable")
    intervals = np.take_along_axis(intervals, order, axis=1)
    order[np.take_along_axis(size, order, axis=1) == 0] = -1
    mask, rest = np.zeros((problem.n_targets, n), np.bool_), np.zeros(problem.n_targets, np.int64)
    kernel.greedy(chosen, fixed.targets, fixed.pool, fixed.pools, order, intervals, fixed.epsilon, mask, rest)
    return mask, rest


def answer(
    problem: SubsetSum,
    name: str,
    run: Run,
    subsets: Subsets,
    *,
    goal: str = "size",
    stats: dict[str, Any] | None = None,
    how: str = "",
    why: str = "",
) -> Solution[Bools]:
    """Turn what a solver knows of each target into a solution: of all targets, or an account of what is missing.

    ``how`` describes an answer that is not proven smallest, ``why`` the reason for targets without a subset, where it
    is neither the limits nor Ctrl-C.
    """
    fixed, m = problem.fixed, problem.n_targets
    stats = {"pools": len(fixed.pools), "settled targets": int(subsets.settled.sum()), **(stats or {})}
    if not fixed.exact:
        stats["rounded to"] = fixed.unit
    impossible = subsets.impossible
    if len(impossible):
        return infeasible(problem, impossible, subsets.error[impossible], name, run, stats)
    mask, rest = subsets.kept.copy(), np.zeros(m, np.int64)
    unreached = np.flatnonzero(~subsets.reached)
    if subsets.interrupted or run.out_of_time:
        why = "interrupted" if subsets.interrupted else "stopped by its limits"
    if len(unreached):
        by_hand, rest = greedy_subsets(problem, unreached)
        mask[unreached] = by_hand[unreached]
        stats["answered greedily"] = len(unreached)
    left = np.flatnonzero(rest > fixed.epsilon)
    if len(left):
        message = (
            f"{why}: {int(subsets.settled.sum())} of {m} targets are settled, and taking what fits misses {len(left)} "
            f"of the others, {problem.name_of(int(left[0]))} by {rest[left[0]] * fixed.unit:.6g}; "
            "allow more time or add candidates"
        )
        return Solution(Status.FAILED, None, trace=run.trace, stats=stats, solver=name, message=message)
    duals = {"sizes": subsets.lower}
    objective, bound = problem.objective(mask), float(subsets.lower.sum())
    run.report(objective, bound)
    done = goal == "size" and objective <= bound
    if not done and goal == "error" and not len(unreached):
        how = "the least error of every target; the number kept is not the least (objective='size' finds that)"
    elif not done and not how:
        how = f"{why}: {len(unreached)} of {m} targets answered greedily, with a valid bound"
    about: dict[str, Any] = {"trace": run.trace, "stats": stats, "solver": name, "message": "" if done else how}
    return Solution(Status.OPTIMAL if done else Status.FEASIBLE, mask, objective, bound, duals=duals, **about)


def infeasible(
    problem: SubsetSum, impossible: Ints, distances: Floats, name: str, run: Run, stats: dict[str, Any]
) -> Solution[Bools]:
    """Return the account of the targets that no subset reaches; the ray is the one farthest off."""
    stats = {**stats, "infeasible": impossible, "distance": distances}
    ray = {"ray": impossible[np.argsort(-distances, kind="stable")[:1]]}
    message = problem.explain(impossible, distances)
    return Solution(Status.INFEASIBLE, None, duals=ray, trace=run.trace, stats=stats, solver=name, message=message)


def out_of_reach(problem: SubsetSum, subsets: Subsets) -> None:
    """Settle the targets beyond the sum of all candidates of their sign: the nearest subset is all of those."""
    fixed, n = problem.fixed, problem.n_candidates
    beyond = np.flatnonzero((problem.least_reaching() > n) & ~subsets.settled)
    for i in beyond:
        row = fixed.pools[fixed.pool[i]]
        sign = row > 0 if fixed.targets[i] > 0 else row < 0
        subsets.error[i] = abs(int(fixed.targets[i]) - int(row[sign].sum())) * fixed.unit
        subsets.kept[i], subsets.size[i], subsets.settled[i] = sign, sign.sum(), True


def _search(problem: SubsetSum, goal: str, run: Run) -> Subsets:
    fixed, n, m = problem.fixed, problem.n_candidates, problem.n_targets
    few = goal == "size" or problem.provable_size >= n
    require(few, "objective", "be 'size' for more than 44 candidates", Shown(f"'error' with {n}"))
    out = kernel.found(m)
    order = np.argsort(fixed.pool, kind="stable")
    job = _fewest_job(problem, out) if goal == "size" else _nearest_job(problem, out)
    interrupted, done, step = False, 0, 256
    try:
        while done < m and n <= MOST and not run.out_of_time:
            room = m - done
            if run.limits.evaluations is not None:
                room = min(room, run.limits.evaluations - run.evaluations)
            start = run.seconds
            part = order[done : done + min(step, room)]
            job(part)
            done += len(part)
            run.evaluations += len(part)
            factor = SLICE / max(run.seconds - start, 1e-6)
            step = max(1, int(step * min(max(factor, 0.125), 8.0)))
    except KeyboardInterrupt:
        interrupted = True
    seen = np.zeros(m, np.bool_)
    seen[order[:done]] = True
    reached = seen & (out.size >= 0)
    lower = problem.least_reaching()
    if goal == "size":
        lower = np.where(reached, out.size, lower)
        unsettled = seen & (out.size == kernel.UNSETTLED)
        lower = np.where(unsettled, np.maximum(lower, problem.provable_size + 1), lower)
    error = np.where(out.distance < kernel.FAR, problem.in_targets_unit(out.distance), np.inf)
    settled = seen & (out.size != kernel.UNSETTLED)
    kept = _spread(out.masks, n)
    kept[~seen] = False
    subsets = Subsets(problem, kept.sum(axis=1), error, reached, settled, lower, kept, interrupted)
    out_of_reach(problem, subsets)
    return subsets


def _spread(masks: NDArray[np.uint64], n: int) -> Bools:
    out = np.zeros((len(masks), n), np.bool_)
    kernel.spread(masks, n, out)
    return out


def _fewest_job(problem: SubsetSum, out: kernel.Found) -> Callable[[Ints], None]:
    fixed, largest = problem.fixed, problem.provable_size
    pool = kernel.room(problem.n_candidates, largest)

    missed = np.zeros(problem.n_targets, np.int64)
    if fixed.pools.size <= STEPPED:
        missed[:] = [problem.missed_by_step(i) for i in range(problem.n_targets)]

    def job(part: Ints) -> None:
        able = part[missed[part] == 0]
        kernel.fewest(able, fixed.targets, fixed.pool, fixed.pools, fixed.epsilon, largest, pool, out)
        for i in part[missed[part] > 0]:  # a sum as near as a divisor of all candidates allows is the nearest
            alone = np.array([i])
            kernel.fewest(alone, fixed.targets, fixed.pool, fixed.pools, int(missed[i]), largest, pool, out)
            out.size[i] = min(int(out.size[i]), kernel.UNREACHED)

    return job


def _nearest_job(problem: SubsetSum, out: kernel.Found) -> Callable[[Ints], None]:
    fixed, n = problem.fixed, problem.n_candidates
    left, right = 2 ** (n - n // 2), 2 ** (n // 2)
    sums = (np.zeros(left, np.int64), np.zeros(right, np.int64), np.zeros(left, np.int64))
    masks = (np.zeros(left, np.uint64), np.zeros(right, np.uint64), np.zeros(left, np.uint64))
    held = np.full(3, -1, np.int64)

    def job(part: Ints) -> None:
        kernel.nearest(part, fixed.targets, fixed.pool, fixed.pools, fixed.epsilon, sums, masks, held, out)

    return job
