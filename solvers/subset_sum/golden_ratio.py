"""Golden-ratio decomposition: a random candidate in each of k adjacent intervals reaches every weight greedily."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.solution import Solution
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import number
from prunopt.forms.random_pools import GAMMA
from prunopt.forms.subset.subset_sum import SubsetSum
from prunopt.solvers.subset_sum.subset_sum_mitm import Subsets, answer, greedy_subsets, out_of_reach, smallest_subsets


@dataclass(frozen=True)
class GoldenRatio(Solver[SubsetSum]):
    r"""Answer a `SubsetSum` by the golden-ratio decomposition of Orseau, Hutter and Rivasplata [1]_.

    Let :math:`\gamma = (\sqrt 5 - 1) / 2`, so that :math:`1 - \gamma^2 = \gamma`, and let
    :math:`u_i \in [s \gamma^{i+1}, s \gamma^i]` be any numbers, one in each of k adjacent intervals. Go through them
    from the largest and take :math:`u_i` if it is no more than what is left of :math:`|w|`. Then
    :math:`r_i \le s \gamma^{i-1}` throughout: where :math:`u_i` does not fit, :math:`r < u_i \le s \gamma^i`; where it
    does, what is left is at most :math:`s \gamma^{i-1} - s \gamma^{i+1} = s \gamma^i`. Every :math:`|w| \le s / \gamma`
    is therefore reached within :math:`s \gamma^{k-1}`, whatever the numbers are; no larger ratio between the
    intervals tolerates that.

    Given any candidates, the solver goes through those of the target's sign and stops as soon as epsilon is met. A
    target that is not reached (an interval is empty, or the target too large) is answered by `smallest_subsets`;
    ``stats["repaired"]`` counts them. A heuristic: the number kept is not the least.

    Parameters
    ----------
    spares
        True: all candidates take part; the invariant holds all the same for the intervals that they fill, wherever
        these begin. False, as in the paper: of each interval only the first candidate does.
    top
        The upper end s of the first interval, for ``spares=False``; None: the largest candidate of the sign.
    repair
        Answer what the decomposition misses by meeting in the middle.

    References
    ----------
    .. [1] L. Orseau, M. Hutter, O. Rivasplata, "Logarithmic pruning is all you need", NeurIPS 2020.
    """

    name: ClassVar[str] = "golden-ratio"
    form: ClassVar[type] = SubsetSum
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 50
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Orseau, Hutter & Rivasplata, NeurIPS 2020"

    spares: bool = True
    top: float | None = None
    repair: bool = True

    def __post_init__(self) -> None:
        if self.top is not None:
            number("top", self.top, low=0, open_ends="(")

    def solve(self, problem: SubsetSum, limits: Limits, seed: int) -> Solution[Bools]:
        """Return the decomposition of every target, with the bound that the sizes of the candidates alone give."""
        run, m = Run(limits), problem.n_targets
        mask, rest = greedy_subsets(problem, np.arange(m), level=None if self.spares else self._intervals)
        reached = rest <= problem.fixed.epsilon
        size, error = np.count_nonzero(mask, axis=1).astype(np.int64), problem.in_targets_unit(rest)
        subsets = Subsets(problem, size, error, reached, np.zeros(m, np.bool_), problem.least_reaching(), mask)
        stats: dict[str, Any] = {"decomposed": int(reached.sum()), "repaired": 0}
        missed = np.flatnonzero(~reached)
        if self.repair and len(missed) and not run.out_of_time:
            subsets = _repaired(subsets, missed, limits, run)
            stats["repaired"] = int((subsets.reached & ~reached).sum())
        out_of_reach(problem, subsets)
        how = f"{stats['decomposed']} of {m} targets decomposed, {stats['repaired']} repaired; not proven smallest"
        why = "an interval is empty, or a target too large for the candidates"
        return answer(problem, self.name, run, subsets, stats=stats, how=how, why=why)

    def _intervals(self, sizes: Floats) -> NDArray[np.int32]:
        """The interval of each size; -1 for what lies above the first, the largest integer for sizes of 0."""
        top = sizes.max(axis=1, initial=0.0)[:, None] if self.top is None else self.top
        with np.errstate(divide="ignore", invalid="ignore"):
            level = np.floor(np.log(top / sizes) / -math.log(GAMMA))
        return np.where(sizes > 0, np.maximum(level, -1), np.iinfo(np.int32).max).astype(np.int32)


def _repaired(subsets: Subsets, missed: Ints, limits: Limits, run: Run) -> Subsets:
    """Answer the missed targets by the smallest subset, in the time that is left."""
    problem = subsets.problem
    rows = problem.candidates if problem.candidates.ndim == 1 else problem.candidates[missed]
    left = None if limits.seconds is None else max(0.0, limits.seconds - run.seconds)
    part = smallest_subsets(
        SubsetSum(problem.targets[missed], rows, problem.epsilon), limits=replace(limits, seconds=left)
    )
    run.evaluations += int(part.settled.sum())
    better = replace(subsets, interrupted=part.interrupted)
    for name in ("size", "error", "reached", "settled", "lower", "kept"):
        whole = getattr(subsets, name).copy()
        whole[missed] = getattr(part, name)
        object.__setattr__(better, name, whole)
    return better
