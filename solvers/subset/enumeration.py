"""Every subset of an `EnumerableChoice`, one after the other: the certificate of small cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prunopt.core.arrays import Bools
from prunopt.core.solution import Solution
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.subset.subset_choice import EnumerableChoice
from prunopt.solvers.subset._moves import Tried, answer


@dataclass(frozen=True)
class Enumeration(Solver[EnumerableChoice]):
    r"""Try out every subset that meets the constraints, and keep the least loss; ties go to the first.

    The loss of a subset need not lie between those of its parts, so nothing may be left out: this is the only solver
    of the form that proves anything. Subsets come in an order in which neighbors share their first items; a loss that
    keeps what it has computed for them (`prunopt.networks.heads.HeadLoss`) then pays for little more than the last
    layer of each. The check repeats the enumeration.
    """

    name: ClassVar[str] = "enumeration"
    form: ClassVar[type] = EnumerableChoice
    exact: ClassVar[bool] = True
    rank: ClassVar[int] = 60
    reference: ClassVar[str] = "exhaustive"

    def solve(self, problem: EnumerableChoice, limits: Limits, seed: int) -> Solution[Bools]:
        """Return the best subset."""
        run = Run(limits)
        tried = Tried(problem, run)
        whole = True
        for kept in problem.every_choice():
            if run.out_of_time and tried.best is not None:
                whole = False
                break
            tried(kept)
        message = f"{run.evaluations} subsets tried" + ("" if whole else ", then stopped by its limits; no bound")
        return answer(tried, self.name, message=message, proven=whole)
