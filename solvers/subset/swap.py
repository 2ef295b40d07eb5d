"""Local search: exchanges of a kept for a removed item, on the loss itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Bools
from prunopt.core.solution import Solution
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import one_of
from prunopt.forms.subset.subset_choice import SubsetChoice
from prunopt.solvers.subset._moves import Tried, answer
from prunopt.solvers.subset.greedy import descend
from prunopt.solvers.subset.head_importance import HeadImportance

STARTS = ("greedy", "head-importance")


@dataclass(frozen=True)
class Swap(Solver[SubsetChoice]):
    """From a start, exchange a kept for a removed item (or drop or add one) as soon as that lowers the loss.

    Exchanges are tried in the order of what single changes have cost so far; it ends where none of them helps.

    Parameters
    ----------
    start
        ``"greedy"`` or ``"head-importance"``.
    screen
        Of `greedy`, for the start.
    """

    name: ClassVar[str] = "swap"
    form: ClassVar[type] = SubsetChoice
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 20
    reference: ClassVar[str] = "1-exchange local search"

    start: str = "greedy"
    screen: int | None = None

    def __post_init__(self) -> None:
        one_of("start", self.start, STARTS)

    def solve(self, problem: SubsetChoice, limits: Limits, seed: int) -> Solution[Bools]:
        """Return the items that stay."""
        run = Run(limits)
        tried = Tried(problem, run)
        changes = np.zeros(problem.n_items)
        if self.start == "greedy":
            kept, changes = descend(problem, tried, self.screen)
        else:
            first = HeadImportance().solve(problem, limits, seed)
            assert first.value is not None
            kept = first.value
            if problem.scores is not None:
                changes = np.asarray(problem.scores(np.ones(problem.n_items, np.bool_)), np.float64)
        made, local = 0, False
        while not local and not run.out_of_time:
            kept, moved = _improved(problem, tried, kept, changes)
            made += moved
            local = not moved and not run.out_of_time
        tried(kept)
        message = "no exchange of two items helps; no bound" if local else "stopped by its limits; no bound"
        return answer(tried, self.name, stats={"exchanges": made, "start": self.start}, message=message)


def _improved(problem: SubsetChoice, tried: Tried, kept: Bools, changes: NDArray[np.float64]) -> tuple[Bools, bool]:
    """Return the first better neighbor, or the subset itself and False."""
    leaving = [int(i) for i in np.argsort(changes, kind="stable") if kept[i]]
    entering = [int(i) for i in np.argsort(-changes, kind="stable") if not kept[i]]
    pairs = [(i, j) for i in leaving for j in entering]
    pairs.sort(key=lambda p: changes[p[0]] - changes[p[1]])
    if problem.exactly is None:
        pairs += [(i, -1) for i in leaving] + [(-1, j) for j in entering]
    here = tried(kept)
    for i, j in pairs:
        if tried.run.out_of_time:
            break
        trial = kept.copy()
        if i >= 0:
            trial[i] = False
        if j >= 0:
            trial[j] = True
        if problem.violation(trial) == 0 and tried(trial) < here:
            return trial, True
    return kept, False
