"""solve and verify: dispatch, re-checks, errors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

import prunopt as po
from prunopt.core.solver import _REGISTRY, Limits, Solver
from prunopt.forms import Closure, LinearProgram

PROBLEM = Closure.of([3, 3, -1], arcs=[(1, 2)], requirements=[[0], [0], []], cost=[4])


@pytest.fixture
def forger() -> Iterator[type[Solver[Closure]]]:
    """A solver that answers what it is told to."""

    @dataclass(frozen=True)
    class Forger(Solver[Closure]):
        name: ClassVar[str] = "forger"
        form: ClassVar[type] = Closure
        exact: ClassVar[bool] = True
        rank: ClassVar[int] = 99

        answer: Any = None

        def solve(self, problem: Closure, limits: Limits, seed: int) -> Any:
            return self.answer

    yield Forger
    del _REGISTRY["forger"]


def honest() -> po.Solution[Any]:
    return replace(po.solve(PROBLEM), solver="forger")


@pytest.mark.parametrize(
    "change",
    [
        {"value": np.array([False, True, False])},
        {"value": np.array([True, True])},
        {"value": None},
        {"objective": -2.0},
        {"bound": -0.5},
        {"duals": {"requirements": np.array([0, 0]), "arcs": np.array([0]), "denominator": 1}, "bound": -1.0},
        {"duals": {"requirements": np.array([0])}},
    ],
    ids=str,
)
def test_a_wrong_answer_is_refused(forger: Any, change: dict[str, Any]) -> None:
    with pytest.raises(po.CertificateError):
        po.solve(PROBLEM, forger(answer=replace(honest(), **change)))


def test_a_right_answer_passes(forger: Any) -> None:
    solution = po.solve(PROBLEM, forger(answer=honest()))
    assert (solution.objective, solution.bound, solution.gap) == (-1.0, -1.0, 0.0)
    assert po.solve(PROBLEM, "pulp").objective == -1.0


def test_a_feasible_answer_with_a_closed_gap_is_called_optimal_and_the_reverse(forger: Any) -> None:
    assert po.solve(PROBLEM, forger(answer=replace(honest(), status=po.Status.FEASIBLE))).status is po.Status.OPTIMAL
    loose = replace(honest(), bound=-5.0, duals={})
    solution = po.solve(PROBLEM, forger(answer=loose))
    assert solution.status is po.Status.FEASIBLE
    assert "over the tolerance" in solution.message


def test_solvers_that_return_no_solution_are_refused(forger: Any) -> None:
    with pytest.raises(po.CertificateError, match="returned tuple"):
        po.solve(PROBLEM, forger(answer=(1, 2)))


def test_verify_without_multipliers_asks_another_solver() -> None:
    claimed = po.solve(PROBLEM, "pulp")
    po.verify(PROBLEM, claimed)
    worse = replace(claimed, value=np.zeros(3, np.bool_), objective=0.0, bound=0.0)
    with pytest.raises(po.CertificateError, match=r"states the bound 0\.0"):
        po.verify(PROBLEM, worse)


def test_a_bound_whose_multipliers_prove_nothing_is_refused() -> None:
    problem = LinearProgram([1.0, -1.0], [[-1.0, 0.0], [0.0, 1.0]], [-1.0, 5.0], upper=np.inf)
    solution = po.solve(problem)
    po.verify(problem, solution)
    nothing = {"rows": np.zeros(2)}
    assert problem.bound(nothing) == -math.inf
    with pytest.raises(po.CertificateError, match="its multipliers prove -inf"):
        po.verify(problem, replace(solution, duals=nothing))


def test_verify_checks_infeasibility() -> None:
    infeasible = LinearProgram([1.0], [[-1.0]], [-2.0])
    solution = po.solve(infeasible, throw=False)
    assert solution.status is po.Status.INFEASIBLE
    po.verify(infeasible, solution)
    feasible = LinearProgram([1.0], [[-1.0]], [-1.0])
    with pytest.raises(po.CertificateError, match="says infeasible"):
        po.verify(feasible, solution)


def test_infeasible_says_what_and_what_would_do() -> None:
    problem = LinearProgram([1.0, 1.0], [[-1.0, -1.0], [1.0, 0.0]], [-3.0, 0.5])
    with pytest.raises(po.SolveError, match=r"rows 0.* cannot be met; .* raise b\[0\] from -3 to ") as caught:
        po.solve(problem)
    assert caught.value.solution.status is po.Status.INFEASIBLE


def test_unbounded() -> None:
    problem = LinearProgram([-1.0], np.zeros((0, 1)), [], upper=np.inf)
    with pytest.raises(po.SolveError, match="unbounded"):
        po.solve(problem)


def test_callback_sees_the_trace() -> None:
    seen: list[po.Step] = []
    solution = po.solve(PROBLEM, "highs", callback=seen.append)
    assert [s.objective for s in seen] == [s.objective for s in solution.trace]
    assert seen


def test_unknown_and_unfitting_solvers() -> None:
    with pytest.raises(ValueError, match=r"solver must be one of .*'min-cut'.*, got 'simulated-annealing'"):
        po.solve(PROBLEM, "simulated-annealing")
    said = r"solver must solve LinearProgram, got 'min-cut' \(solves Closure\); pass highs, highs-milp, pulp"
    with pytest.raises(ValueError, match=said):
        po.solve(LinearProgram([1.0], [[1.0]], [1.0]), "min-cut")
    with pytest.raises(TypeError, match="solver must be the name or an instance of a solver, got 3"):
        po.solve(PROBLEM, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="task must be of a type that a solver solves, got int"):
        po.solve(3)
    with pytest.raises(ValueError, match=r"limits\.seconds must be >= 0, got -1; pass None"):
        Limits(seconds=-1)


def test_highs_means_its_integer_solver_where_there_are_integers() -> None:
    from prunopt.forms import MultipleChoiceKnapsack

    task = MultipleChoiceKnapsack([[3.0, 1.0, 0.0], [2.0, 1.5, 0.0]], [[0, 1, 2], [0, 1, 2]], 2)
    solution = po.solve(task, "highs")
    assert solution.solver == "highs-milp"
    assert solution.objective == po.solve(task, "choice-dp").objective
    assert po.solve(LinearProgram([-1.0], [[1.0]], [0.5]), "highs").solver == "highs"


def test_listing() -> None:
    rows = {row.name: row for row in po.solvers()}
    assert rows["highs"].form == "LinearProgram"
    assert rows["highs"].available
    assert next(r.name for r in po.solvers(PROBLEM)) == "min-cut"
    assert {r.name for r in po.solvers(LinearProgram)} == {"highs", "highs-milp", "pulp"}
    assert [r.name for r in po.solvers("LinearProgram")] == [r.name for r in po.solvers(LinearProgram)]
    with pytest.raises(ValueError, match='did you mean "LinearProgram"'):
        po.solvers("LinearProgramm")
    with pytest.raises(ValueError, match=r"task_or_form must be a task or a form .*Closure"):
        po.solvers(3)


def test_two_solvers_of_one_name_are_refused() -> None:
    with pytest.raises(TypeError, match="two solvers are named 'highs'"):
        type("Other", (Solver,), {"name": "highs", "form": Closure, "exact": True})


def test_a_missing_module_is_told(forger: Any) -> None:
    forger.requires = ("no_such_module",)
    with pytest.raises(
        ValueError, match="solver must be able to run here, got 'forger'; it needs no_such_module: pip install"
    ):
        po.solve(PROBLEM, "forger")


def test_gap_and_budget() -> None:
    assert po.Solution(po.Status.FEASIBLE, 1, objective=2.0, bound=1.0).gap == 0.5
    assert math.isinf(po.Solution(po.Status.FEASIBLE, 1, objective=2.0).gap)
    budget = po.Budget("parameters", 25, 100)
    assert (budget.sparsity, budget.violation(30), budget.describe()) == (
        0.75,
        5,
        "at most 25 of 100 parameters (25.0% kept)",
    )
    with pytest.raises(ValueError, match="limit of heads must be a finite number >= 0, got -1"):
        po.Budget("heads", -1)
