"""The multiple-choice knapsack by its Lagrangian dual: a bound from one penalty, and a rounded choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.knapsack.multiple_choice_knapsack import MultipleChoiceKnapsack


@dataclass(frozen=True)
class ChoiceLagrange(Solver[MultipleChoiceKnapsack]):
    r"""Penalize the budget: :math:`\max_{\lambda \ge 0} \sum_g \min_j (\mathrm{loss}_{gj} + \lambda \mathrm{cost}_{gj})
    - \lambda \, \mathrm{budget}`.

    The dual is concave and piecewise linear; its maximum is the value of the linear relaxation, found exactly by
    walking up the lower convex hulls of all groups in the order of their slopes [1]_. The steps taken in full are a
    feasible choice, which is then filled up with the single changes that gain most. The gap is at most what one
    step gains.

    References
    ----------
    .. [1] P. Sinha, A. A. Zoltners, "The multiple-choice knapsack problem", Operations Research 27 (1979).
    """

    name: ClassVar[str] = "choice-lagrange"
    form: ClassVar[type] = MultipleChoiceKnapsack
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 20
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Sinha & Zoltners, Oper. Res. 1979"

    @classmethod
    def why_not_on(cls, problem: MultipleChoiceKnapsack) -> str:
        """Refuse several budgets, and spans."""
        return "" if problem.is_plain else "one budget and no spans: pass choice-branch-and-bound"

    def solve(self, problem: MultipleChoiceKnapsack, limits: Limits, seed: int) -> Solution[NDArray[np.int64]]:
        """Return the rounded choice with the bound that the penalty proves."""
        from prunopt.solvers.knapsack._choice_kernel import fill, relaxation

        run = Run(limits)
        if problem.is_infeasible_by(None):
            return Solution(Status.INFEASIBLE, None, solver=self.name, duals={"ray": ()}, message=problem.explain())
        if not problem.n_groups:
            return Solution(Status.OPTIMAL, np.zeros(0, np.int64), 0.0, 0.0, duals={"penalty": 0.0}, solver=self.name)
        penalty, chosen = relaxation(problem.loss, problem.cost, problem.budget)
        value = fill(problem.loss, problem.cost, problem.budget, chosen)
        duals = {"penalty": float(penalty)}
        run.report(problem.objective(value), problem.bound(duals))
        return Solution(
            Status.OPTIMAL if run.solved else Status.FEASIBLE,
            value,
            objective=run.objective,
            bound=run.bound,
            duals=duals,
            trace=run.trace,
            stats={"penalty": float(penalty), "unspent": problem.budget - problem.spent(value)},
            solver=self.name,
        )
