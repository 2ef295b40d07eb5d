"""Sort the items by an estimate of what their removal costs, and keep the top: the method of the head-pruning paper."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from prunopt.core.arrays import Bools, Floats
from prunopt.core.solution import Solution
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import floats, whole_number
from prunopt.forms.subset.subset_choice import SubsetChoice
from prunopt.solvers.subset._moves import Tried, answer, rate, removable, shrink, too_many, without


@dataclass(frozen=True)
class HeadImportance(Solver[SubsetChoice]):
    r"""Remove the items of least score, at once or in steps with new scores after each.

    The score is the one that the form brings, :math:`E|\partial L / \partial \xi_i|` for heads [1]_; without one it is
    the ablation of single items, :math:`L(x - e_i) - L(x)`. Where costs differ, items go by score per cost.

    Parameters
    ----------
    steps
        1: all at once. k: about a k-th of the items to be removed at a time, with new scores at each new subset.

    References
    ----------
    .. [1] P. Michel, O. Levy, G. Neubig, "Are sixteen heads really better than one?", NeurIPS 2019.
    """

    name: ClassVar[str] = "head-importance"
    form: ClassVar[type] = SubsetChoice
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 80
    reference: ClassVar[str] = "Michel, Levy & Neubig, NeurIPS 2019"

    steps: int = 1

    def __post_init__(self) -> None:
        whole_number("steps", self.steps, low=1)

    def solve(self, problem: SubsetChoice, limits: Limits, seed: int) -> Solution[Bools]:
        """Return the items that stay."""
        run = Run(limits)
        tried = Tried(problem, run)
        kept = np.ones(problem.n_items, np.bool_)
        scored = 0
        costs = self._scores(problem, kept, tried)
        goal = shrink(problem, kept, costs)
        size = math.ceil(int((~goal).sum()) / self.steps)
        while too_many(problem, kept) and size > 0:
            if scored and not run.out_of_time:
                costs = self._scores(problem, kept, tried)
            scored += 1
            fewer = kept.copy()
            for _ in range(size):
                items = removable(problem, fewer)
                full = problem.exactly is not None and int(fewer.sum()) <= problem.exactly
                if full or not items or not too_many(problem, fewer):
                    break
                fewer = without(fewer, min(items, key=lambda i: (rate(problem, float(costs[i]), i), i)))
            if np.array_equal(fewer, kept):
                break
            kept = fewer
        kept = shrink(problem, kept, costs)
        tried(kept)
        name = problem.scores_name or ("scores of the form" if problem.scores else "single ablation")
        stats = {"score": name, "scored": max(1, scored)}
        tried.best, tried.least = kept, tried(kept)  # ablation may have stumbled on better ones; that is not sorting
        return answer(tried, self.name, stats=stats, message=f"sorted by {name}; no bound")

    def _scores(self, problem: SubsetChoice, kept: Bools, tried: Tried) -> Floats:
        if problem.scores is not None:
            return floats("scores", problem.scores(kept), (problem.n_items,), finite=False)
        out = np.zeros(problem.n_items)
        if tried.run.out_of_time:
            return out
        whole = tried(kept)
        for i in np.flatnonzero(kept)[::-1]:
            out[i] = tried(without(kept, int(i))) - whole
        return out
