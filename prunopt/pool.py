"""The best few solutions of a problem, one after another."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prunopt.api import problem_of, solve
from prunopt.core.registry import dispatch, load_solvers
from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits
from prunopt.core.validate import Shown, number, require, whole_number

if TYPE_CHECKING:
    import pulp


def solution_pool(
    task: Any,
    count: int = 10,
    *,
    within: float | None = None,
    engine: str = "highs-milp",
    limits: Limits | None = None,
    seed: int = 0,
) -> list[Solution[Any]]:
    r"""Return the best solutions of a problem, best first: each is the best that differs from all before it.

    After a solution :math:`x^*` the cut :math:`\sum_{i: x^*_i = 1} (1 - x_i) + \sum_{i: x^*_i = 0} x_i \ge 1` over the
    0-1 variables of its integer model is added, and the model solved again.

    Parameters
    ----------
    task
        As `prunopt.solve` takes it: one that writes itself as a linear model whose integer variables are all 0-1.
    count
        How many, at most.
    within
        Stop at the first solution that is worse than the best by more than this, in units of the objective.
    engine
        ``"highs-milp"`` or ``"pulp"``.
    limits
        For all of them together.
    seed
        Same seed, same answer.

    Returns
    -------
    list of Solution
        In the task's own terms; the bound of each, an engine's claim, concerns the solutions that are left. Empty where
        the task is infeasible.
    """
    count = whole_number("count", count, low=1)
    worse = np.inf if within is None else number("within", within, low=0)
    allowed = limits or Limits()
    load_solvers()
    task = problem_of(task)
    _, reduced = dispatch(task, engine)
    form = task if reduced is None else reduced.form
    rest, start = _Others(form), time.perf_counter()
    found: list[Solution[Any]] = []
    while len(found) < count:
        left = None if allowed.seconds is None else allowed.seconds - (time.perf_counter() - start)
        if left is not None and left <= 0:
            break
        answer = solve(rest, engine, limits=replace(allowed, seconds=left), seed=seed, throw=False)
        if answer.status is not Status.OPTIMAL:
            break
        rest.exclude()
        lifted = answer if reduced is None else answer.lift(reduced.back, shift=reduced.shift, slack=reduced.slack)
        if found and lifted.objective > found[0].objective + worse:
            break
        if not any(np.array_equal(lifted.value, other.value) for other in found):
            found.append(lifted)
    return found


@dataclass(eq=False)
class _Others:
    """A form without some points of its model, which the engines take like the form itself."""

    form: Any
    cuts: list[dict[str, bool]] = field(default_factory=list)
    last: dict[str, bool] = field(default_factory=dict)

    def objective(self, x: Any, /) -> float:
        """Return that of the form."""
        return float(self.form.objective(x))

    def violation(self, x: Any, /) -> float:
        """Return that of the form."""
        return float(self.form.violation(x))

    def exclude(self) -> None:
        """Leave the last point out from now on."""
        self.cuts.append(self.last)

    def to_pulp(self) -> pulp.LpProblem:
        """Return the form's model with a cut for each point that is left out."""
        import pulp

        model = self.form.to_pulp()
        whole = [v for v in model.variables() if v.cat == pulp.LpInteger]
        binary = all((v.lowBound, v.upBound) == (0, 1) for v in whole)
        require(whole and binary, "task", "have integer variables, all of them 0-1", Shown(type(self.form).__name__))
        names = {v.name: v for v in whole}
        for k, cut in enumerate(self.cuts):
            changes = [1 - names[name] if one else names[name] * 1 for name, one in cut.items()]
            model += pulp.lpSum(changes) >= 1, f"another_than_{k}"
        return model

    def read_pulp(self, model: pulp.LpProblem) -> Any:
        """Return the form's value, and remember the point."""
        import pulp

        whole = [v for v in model.variables() if v.cat == pulp.LpInteger]
        self.last = {v.name: (v.varValue or 0.0) > 0.5 for v in whole}
        return self.form.read_pulp(model)
