"""Solve a task or a form, check the answer, list the solvers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from prunopt.core.dispatch import SolverRow as SolverRow
from prunopt.core.dispatch import candidates, dispatch, load_solvers, reduced_to
from prunopt.core.dispatch import solvers as solvers
from prunopt.core.problem import Reduced
from prunopt.core.solution import CertificateError, Solution, SolveError, Status, Step, relative_gap
from prunopt.core.solver import Limits, Solver, by_name

VALUE_TOLERANCE = 1e-6  # relative: how far a re-evaluated objective may lie from the solver's, and a violation from 0


def solve(
    task: Any,
    solver: str | Solver[Any] | None = None,
    *,
    limits: Limits | None = None,
    seed: int = 0,
    throw: bool = True,
    callback: Callable[[Step], Any] | None = None,
) -> Solution[Any]:
    """Reduce a task to its form, solve it, carry the answer back, and check it in the task's own terms.

    Parameters
    ----------
    task
        A task of `prunopt.problems`, or a form of `prunopt.forms`.
    solver
        A solver's name, an instance with options, or None for the best one that is available.
    limits
        When to stop early.
    seed
        Same seed, same answer.
    throw
        Raise `SolveError` where there is no answer (infeasible, unbounded, failed); False returns it instead.
    callback
        Called with each `Step` (seconds, objective, bound), in the task's own terms.

    Raises
    ------
    SolveError
        If there is no answer and ``throw`` is true. Its ``solution`` says why.
    CertificateError
        If the solver's answer does not stand up to the re-check: an infeasible value, another objective than it
        says, or a bound that its own multipliers do not prove.
    """
    load_solvers()
    limits = limits or Limits()
    chosen, reduced = dispatch(task, solver)
    if callback is not None:
        limits = replace(limits, callback=_lifted(callback, reduced))
    form = task if reduced is None else reduced.form
    raw = chosen.solve(form, limits, seed)
    if not isinstance(raw, Solution):
        raise CertificateError(f"{chosen.name} returned {type(raw).__name__}, no Solution")
    raw = _recheck_bound(form, raw)
    lifted = raw if reduced is None else raw.lift(reduced.back, shift=reduced.shift, slack=reduced.slack)
    answer = _recheck_value(task, lifted, reduced)
    answer = _settle(answer, limits.gap, relaxed=reduced is not None and not reduced.exact)
    if throw and not answer.status.has_value:
        raise SolveError(answer)
    return answer


def verify(task: Any, solution: Solution[Any]) -> None:
    """Re-check a solution with code that shares nothing with its solver.

    The value must be feasible and have the stated objective. The bound is recomputed from the multipliers in
    ``solution.duals``; without any, it is held against the optimum found by another exact solver. A solution that
    calls itself optimal must have a gap within its tolerance, one that calls itself infeasible must carry a proof or
    be confirmed by another exact solver.

    Raises
    ------
    CertificateError
        If anything does not hold; the message says what.
    """
    load_solvers()
    name = solution.solver
    if solution.status.has_value != (solution.value is not None):
        raise CertificateError(f"{name}: status {solution.status.name} with value {solution.value is not None}")
    if math.isnan(solution.objective) or math.isnan(solution.bound):
        raise CertificateError(f"{name}: objective {solution.objective}, bound {solution.bound}")
    reduced = _reduction_of(task, solution)
    form = task if reduced is None else reduced.form
    shift, slack = (0.0, 0.0) if reduced is None else (reduced.shift, reduced.slack)
    _recheck_value(task, solution, reduced)
    size = max(1.0, abs(solution.objective) if solution.status.has_value else 1.0)
    if solution.status.has_value and solution.bound > solution.objective + VALUE_TOLERANCE * size:
        raise CertificateError(f"{name}: bound {solution.bound} is above its own objective {solution.objective}")
    if solution.status is Status.INFEASIBLE:
        ray = solution.duals.get("ray")
        if not (ray is not None and hasattr(form, "is_infeasible_by") and form.is_infeasible_by(ray)):
            other = _second_opinion(task, name)
            if other is not None and other.status is not Status.INFEASIBLE:
                raise CertificateError(f"{name}: says infeasible, {other.solver} says {other.status.name}")
    elif solution.bound > -math.inf:
        if solution.duals and hasattr(form, "bound"):
            proven = form.bound(solution.duals) + shift - slack
            what = "its multipliers prove"
        else:
            other = _second_opinion(task, name)
            proven = math.inf if other is None or other.value is None else other.objective
            what = "" if other is None else f"{other.solver} found"
        if solution.bound > proven + VALUE_TOLERANCE * max(1.0, abs(proven)):
            raise CertificateError(f"{name}: states the bound {solution.bound}, {what} {proven}")
    tolerance = float(solution.stats.get("tolerance", Limits().gap))
    if solution.status is Status.OPTIMAL and solution.gap > max(tolerance, 1e-9):
        raise CertificateError(f"{name}: says optimal with a gap of {solution.gap:.3g}, tolerance {tolerance:.3g}")


def _reduction_of(task: Any, solution: Solution[Any]) -> Reduced[Any] | None:
    """The reduction that a solution's multipliers belong to."""
    try:
        form = by_name(solution.solver).form
    except ValueError:
        form = type(task)
    return None if isinstance(task, form) else reduced_to(task, form)


def _lifted(callback: Callable[[Step], Any], reduced: Reduced[Any] | None) -> Callable[[Step], Any]:
    if reduced is None:
        return callback
    shift, slack = reduced.shift, reduced.slack
    return lambda step: callback(Step(step.seconds, step.objective + shift, step.bound + shift - slack))


def _recheck_bound(form: Any, raw: Solution[Any]) -> Solution[Any]:
    """Replace the solver's bound by the one that its multipliers prove, where it gives any."""
    if raw.status is Status.INFEASIBLE and "ray" in raw.duals and hasattr(form, "is_infeasible_by"):
        if not form.is_infeasible_by(raw.duals["ray"]):
            raise CertificateError(f"{raw.solver}: its ray does not prove that the problem is infeasible")
        return raw
    if not raw.status.has_value or not raw.duals or not hasattr(form, "bound"):
        return raw
    proven = float(form.bound(raw.duals))
    if raw.bound > proven + VALUE_TOLERANCE * max(1.0, abs(raw.bound)):
        raise CertificateError(f"{raw.solver}: states the bound {raw.bound}, its multipliers prove {proven}")
    return replace(raw, bound=proven)


def _recheck_value(task: Any, solution: Solution[Any], reduced: Reduced[Any] | None) -> Solution[Any]:
    """Evaluate the value in the task's own terms and return the solution with that objective."""
    if solution.value is None:
        if solution.status.has_value:
            raise CertificateError(f"{solution.solver}: status {solution.status.name}, but no value")
        return solution
    try:
        missing, objective = task.violation(solution.value), task.objective(solution.value)
    except (ValueError, TypeError, IndexError) as error:
        raise CertificateError(f"{solution.solver}: its value cannot be evaluated: {error}") from error
    size = max(1.0, abs(objective))
    # A violation counts in units of the objective, unless the task says what its unit is (its own tolerance, say).
    if not missing <= VALUE_TOLERANCE * float(getattr(task, "violation_unit", size)):
        raise CertificateError(f"{solution.solver}: its value breaks the constraints by {missing}")
    slack = 0.0 if reduced is None else reduced.slack
    relaxed = reduced is not None and not reduced.exact
    if not relaxed and not abs(objective - solution.objective) <= VALUE_TOLERANCE * size + slack:
        raise CertificateError(f"{solution.solver}: states the objective {solution.objective}, it is {objective}")
    return replace(solution, objective=float(objective))


def _settle(solution: Solution[Any], tolerance: float, *, relaxed: bool) -> Solution[Any]:
    """Call the answer optimal exactly where its gap says so, and note the tolerance."""
    stats = {**solution.stats, "tolerance": tolerance}
    if not solution.status.has_value:
        return replace(solution, stats=stats)
    bound = solution.bound
    if solution.objective < bound <= solution.objective + VALUE_TOLERANCE * max(1.0, abs(bound)):
        bound = solution.objective  # rounding put the proven bound just above the objective
    proven = relative_gap(solution.objective, bound) <= tolerance
    message = solution.message
    if solution.status is Status.OPTIMAL and not proven:
        note = f"the recomputed gap {relative_gap(solution.objective, bound):.3g} is over the tolerance {tolerance:.3g}"
        message = f"{message}; {note}" if message else note
    status = Status.OPTIMAL if proven else Status.FEASIBLE
    return replace(solution, status=status, bound=bound, stats=stats, message=message)


def _second_opinion(task: Any, name: str) -> Solution[Any] | None:
    """Another exact solver's answer to the same task, None where there is no other."""
    for candidate, _ in candidates(task):
        if candidate.exact and candidate.name != name and not candidate.why_not():
            return solve(task, candidate(), throw=False)
    return None
