"""Answers of the solvers of `QuadraticSubset` and `MaskBlocks` as solutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Run
from prunopt.forms.layer.layer_least_squares import LayerLeastSquares


def by_score(problem: LayerLeastSquares, value: Any, name: str, run: Run) -> Solution[Any]:
    """Return a choice made by scores, with what it loses if the weights that stay are left as they are."""
    error = problem.error(problem.masked(value))
    return answer(problem, value, name, run, stats={"error without refit": error})


def answer(
    problem: LayerLeastSquares,
    value: Any,
    name: str,
    run: Run,
    *,
    objective: float | None = None,
    stats: Mapping[str, Any] | None = None,
    message: str = "a heuristic's answer, no bound",
    duals: Mapping[str, Any] | None = None,
) -> Solution[Any]:
    """Return a heuristic's answer; ``stats`` always says how much was damped. The form turns ``duals`` into a bound."""
    objective = problem.objective(value) if objective is None else objective
    run.report(objective)
    found = {"damping": problem.damping, "ridge": problem.ridge, **(stats or {})}
    return Solution(
        Status.FEASIBLE,
        value,
        objective=objective,
        trace=run.trace,
        stats=found,
        solver=name,
        message=message,
        duals=duals or {},
    )
