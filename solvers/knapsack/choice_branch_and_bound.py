"""The multiple-choice knapsack within several budgets by branch and bound on its Lagrangian dual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from prunopt.core.arrays import Ints
from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import whole_number
from prunopt.forms.knapsack.multiple_choice_knapsack import MultipleChoiceKnapsack

if TYPE_CHECKING:
    from prunopt.solvers.knapsack._choice_driver import Search


@dataclass(frozen=True)
class ChoiceBranchAndBound(Solver[MultipleChoiceKnapsack]):
    r"""Branch and bound to the end, for any number of budgets and with spans [1]_, [2]_.

    The bound of a node is its Lagrangian dual :math:`\max_{\lambda \ge 0} \min_x \sum_g (\mathrm{loss} + \lambda \cdot
    \mathrm{cost}) - \lambda \cdot \mathrm{budget}`, which is the value of its linear relaxation; the inner minimum is a
    shortest path over the groups, the outer maximum is found by column generation with a basis of R + 1 choices.
    Options whose reduced loss alone reaches the best answer go; the group with the most divided levels is split at
    their mean. Choices met on the way are answers, exchanges of one and two levels improve the first. Nodes of least
    bound go first, so that the bound rises all the time; every fourth is followed down. The answer carries the tree
    with the multipliers of every node, from which the form recomputes the bound.

    Parameters
    ----------
    nodes
        Nodes that may be made; beyond them the best answer is returned with the bound of the open ones.

    References
    ----------
    .. [1] P. Sinha, A. A. Zoltners, "The multiple-choice knapsack problem", Operations Research 27 (1979).
    .. [2] M. L. Fisher, "The Lagrangian relaxation method for solving integer programming problems", Management
       Science 27 (1981).
    """

    name: ClassVar[str] = "choice-branch-and-bound"
    form: ClassVar[type] = MultipleChoiceKnapsack
    exact: ClassVar[bool] = True
    rank: ClassVar[int] = 20
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Sinha & Zoltners, Oper. Res. 1979"

    nodes: int = 1_000_000

    def __post_init__(self) -> None:
        whole_number("nodes", self.nodes, low=1)

    def solve(self, problem: MultipleChoiceKnapsack, limits: Limits, seed: int) -> Solution[Ints]:
        """Return the best choice and its bound; where nothing fits, the nearest feasible request."""
        from prunopt.solvers.knapsack._choice_driver import Search

        run = Run(limits)
        if not problem.n_groups:
            duals = {"penalty": np.zeros(problem.n_resources)}
            return Solution(Status.OPTIMAL, np.zeros(0, np.int64), 0.0, 0.0, duals=duals, solver=self.name)
        known = problem.loss.argmin(axis=1)
        if problem.violation(known) > 0:
            nearest = Search(problem.options, known, 0.0, elastic=True)
            for _ in nearest.steps(run, self.nodes):
                pass
            known = nearest.choice
            if problem.violation(known) > 0:
                return self._nothing_fits(problem, nearest)
        found = Search(problem.options, known, limits.gap)
        run.report(found.objective, found.bound)
        for _ in found.steps(run, self.nodes):
            run.report(found.objective, found.bound)
        run.report(found.objective, found.bound)
        return Solution(
            Status.OPTIMAL if run.solved else Status.FEASIBLE,
            found.choice,
            objective=run.objective,
            bound=run.bound,
            duals=found.duals(),
            trace=run.trace,
            stats={"nodes": found.n_nodes, "penalties": (found.root * found.factor / found.scale).tolist()},
            solver=self.name,
            message="" if run.solved else found.note or "stopped by its limits",
        )

    def _nothing_fits(self, problem: MultipleChoiceKnapsack, nearest: Search) -> Solution[Ints]:
        """Say that nothing fits where that is proven, else that no choice was found."""
        ray = nearest.duals()
        if problem.is_infeasible_by(ray):
            message = problem.explain(nearest.choice)
            return Solution(Status.INFEASIBLE, None, solver=self.name, duals={"ray": ray}, message=message)
        message = f"no choice within the budgets was found; {problem.explain(nearest.choice)}"
        return Solution(Status.FAILED, None, solver=self.name, message=nearest.note or message)
