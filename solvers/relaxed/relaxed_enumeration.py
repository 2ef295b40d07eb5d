"""Every choice of a `RelaxedMask`, one after the other: the certificate of small cases."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.relaxed.relaxed_mask import Choices, RelaxedMask


@dataclass(frozen=True)
class RelaxedEnumeration(Solver[RelaxedMask]):
    r"""Evaluate all :math:`\prod_t C_t^{G_t}` choices and keep the least loss; ties go to the first.

    Exact, because nothing is left out. The bound is the least loss itself once all are seen, and minus infinity before.

    Raises
    ------
    ValueError
        If there are more choices than can be enumerated.
    """

    name: ClassVar[str] = "relaxed-enumeration"
    form: ClassVar[type] = RelaxedMask
    exact: ClassVar[bool] = True
    rank: ClassVar[int] = 90
    reference: ClassVar[str] = "exhaustive"

    def solve(self, problem: RelaxedMask, limits: Limits, seed: int) -> Solution[Choices]:
        """Return the best choice."""
        run = Run(limits)
        best: Choices | None = None
        least, whole = math.inf, True
        for x in problem.every_choice():
            if run.out_of_time and best is not None:
                whole = False
                break
            value = problem.objective(x)
            run.evaluations += 1
            if best is None or value < least:
                best, least = x, value
                run.report(value)
        if whole:
            run.report(least, least)
        stats = {"evaluated": run.evaluations, "choices": problem.n_choices}
        message = f"{run.evaluations} of {problem.n_choices} choices evaluated"
        about: dict[str, Any] = {"trace": run.trace, "stats": stats, "solver": self.name, "message": message}
        if whole:
            return Solution(Status.OPTIMAL, best, least, least, duals={"enumerated": True}, **about)
        return Solution(Status.FEASIBLE, best, least, **about)
