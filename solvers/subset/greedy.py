"""Remove the item whose removal loses least, again and again, on the loss itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from prunopt.core.arrays import Bools, Floats
from prunopt.core.solution import Solution
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import whole_number
from prunopt.forms.subset.subset_choice import SubsetChoice
from prunopt.solvers.subset._moves import Tried, answer, rate, removable, shrink, too_many, without

FEW, BEAM = 16, 4  # up to so many items that many subsets of each size are extended


@dataclass(frozen=True)
class Greedy(Solver[SubsetChoice]):
    r"""From the whole set, remove what raises the loss least per unit of cost, until the budget is met.

    Then, where the number is only limited, it continues as long as a removal lowers the loss, and adds back what the
    budget has room for and lowers the loss. :math:`O(n^2)` losses; subsets are tried last item first, so that a loss
    which keeps its first layers computes little.

    Parameters
    ----------
    screen
        Number of items tried at each step, those whose last known change was least; None: all. The changes of the
        others are as old as the last step in which they were tried.
    beam
        Number of subsets of each size that are kept and extended; 1 is plain greedy, None: 4 for up to 16 items, where
        losses are few, 1 for more.
    """

    name: ClassVar[str] = "greedy"
    form: ClassVar[type] = SubsetChoice
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 30
    reference: ClassVar[str] = "backward elimination"

    screen: int | None = None
    beam: int | None = None

    def __post_init__(self) -> None:
        for name in ("screen", "beam"):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name), low=1)

    def solve(self, problem: SubsetChoice, limits: Limits, seed: int) -> Solution[Bools]:
        """Return the items that stay."""
        run = Run(limits)
        tried = Tried(problem, run)
        beam = self.beam or (BEAM if problem.n_items <= FEW else 1)
        kept, changes = descend(problem, tried, self.screen, beam)
        stopped = run.out_of_time
        while not stopped and problem.exactly is None:
            trials = [without(kept, i) for i in removable(problem, kept)] + _added(problem, kept)
            better = [x for x in trials if not run.out_of_time and tried(x) < tried(kept)]
            if not better:
                break
            kept = min(better, key=tried)
        if tried.best is None:
            tried(shrink(problem, kept, changes))
        message = "stopped by its limits; the rest went by the last known changes" if stopped else "no bound"
        return answer(tried, self.name, stats={"beam": beam, "screen": self.screen}, message=message)


def _added(problem: SubsetChoice, kept: Bools) -> list[Bools]:
    out = []
    for i in np.flatnonzero(~kept)[::-1]:
        more = kept.copy()
        more[i] = True
        if not too_many(problem, more):
            out.append(more)
    return out


def _whole_rate(problem: SubsetChoice, tried: Tried, kept: Bools) -> float:
    """Return what all removals so far cost, for what they save."""
    change = tried(kept) - tried(np.ones(problem.n_items, np.bool_))
    return change / max(float(problem.costs[~kept].sum()), 1e-300) if change > 0 else change


def descend(problem: SubsetChoice, tried: Tried, screen: int | None = None, beam: int = 1) -> tuple[Bools, Floats]:
    """Remove items until the constraints are met; return the best end and the last known changes of single items."""
    run = tried.run
    changes = np.zeros(problem.n_items)
    front = [np.ones(problem.n_items, np.bool_)]
    done: list[Bools] = []
    while front:
        grown: dict[bytes, tuple[float, Bools]] = {}
        for kept in front:
            if not too_many(problem, kept):
                done.append(kept)
                continue
            if run.out_of_time:
                done.append(shrink(problem, kept, changes))
                continue
            items = removable(problem, kept)
            if not items or (problem.exactly is not None and int(kept.sum()) <= problem.exactly):
                done.append(shrink(problem, kept, changes))
                continue
            here = tried(kept)
            if screen is not None:
                likely = sorted(items, key=lambda i: rate(problem, float(changes[i]), i))[:screen]
                items = sorted(likely, reverse=True) if changes.any() else items
            for i in items:
                if run.out_of_time:
                    break
                fewer = without(kept, i)
                changes[i] = tried(fewer) - here
                rank = rate(problem, float(changes[i]), i) if beam == 1 else _whole_rate(problem, tried, fewer)
                grown[fewer.tobytes()] = (rank, fewer)
        if front and not grown:
            done += [shrink(problem, kept, changes) for kept in front if too_many(problem, kept)]
            break
        ranked = sorted(grown.values(), key=lambda pair: (pair[0], pair[1].tobytes()))
        front = [kept for _, kept in ranked[:beam]]
    best = min(done, key=lambda x: tried(x) if len(done) > 1 or not run.out_of_time else 0.0)
    tried(best)
    return best, changes
