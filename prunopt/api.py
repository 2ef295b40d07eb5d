"""Solve a task or a form, check the answer, list the solvers."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from prunopt.core import deadline
from prunopt.core.certificates import (
    VALUE_TOLERANCE,
    above,
    below_objective,
    demand,
    noted,
    proven_bound,
    proven_infeasible,
    recheck_bound,
    recheck_value,
    settle,
    unit_of,
    well_formed,
)
from prunopt.core.problem import Reduced
from prunopt.core.registry import SolverRow as SolverRow
from prunopt.core.registry import candidates, dispatch, load_solvers, reduced_to
from prunopt.core.registry import solvers as solvers
from prunopt.core.solution import CertificateError, Solution, SolveError, Status, Step, relative_gap
from prunopt.core.solver import Limits, Solver, by_name
from prunopt.core.validate import Shown

SECOND_OPINION = 10.0  # seconds that another solver gets to confirm "infeasible" where there is no proof


def solve(
    task: Any,
    solver: str | Solver[Any] | None = None,
    *,
    limits: Limits | float | None = None,
    seed: int = 0,
    throw: bool = True,
    callback: Callable[[Step], Any] | None = None,
    start: Any = None,
    log: bool = False,
) -> Solution[Any]:
    """Reduce a task to its form, solve it, carry the answer back, and check it in the task's own terms.

    Parameters
    ----------
    task
        A task of `prunopt.problems`, a form of `prunopt.forms`, a file (``.mps``, ``.lp``, or ``.npz`` by
        `prunopt.save_form`), or a ``pulp.LpProblem``. Files and PuLP's models are minimized like every form: the
        objective of one to be maximized is its negative, and the value holds its variables in their order.
    solver
        A solver's name, an instance with options, or None for the best one that is available.
    limits
        When to stop early; a number means seconds.
    seed
        Same seed, same answer.
    throw
        Raise `SolveError` where there is no answer (infeasible, unbounded, failed); False returns it instead.
    callback
        Called with each `Step` (seconds, objective, bound), in the task's own terms; the solver stops once it returns
        True. ``prunopt.plots.solver_trace`` draws the steps that a solution keeps: the gap against time.
    start
        A feasible value to begin with. The answer is no worse; branch and bound and the knapsack's dynamic program
        also prune by it, where the task is a form.
    log
        Print each step on standard error.

    Raises
    ------
    SolveError
        If there is no answer and ``throw`` is true. Its ``solution`` says why.
    CertificateError
        If the solver's answer does not stand up to the re-check: an infeasible value, another objective than it
        says, or a bound that its own multipliers do not prove.
    """
    load_solvers()
    task, within = problem_of(task), _limits(limits)
    tell = logged(callback) if log else callback
    known = None if start is None else _known_value(task, start)
    with deadline.within(within.seconds):
        answer = _answer(task, solver, replace(within, start=start), seed, tell)
    if known is not None:
        answer = _no_worse(answer, start, known, task)
    if answer.status is Status.INFEASIBLE and hasattr(task, "elastic"):
        answer = replace(answer, message=_nearest_request(task, within, seed) or answer.message)
    if throw and not answer.status.has_value:
        raise SolveError(answer)
    return answer


def logged(callback: Callable[[Step], Any] | None = None) -> Callable[[Step], Any]:
    """Return a callback that prints every step on standard error, and hands it on."""

    def look(step: Step) -> Any:
        gap = relative_gap(step.objective, step.bound)
        numbers = f"objective {step.objective:.10g}  bound {step.bound:.10g}"
        print(f"{step.seconds:8.2f} s  {numbers}  gap {gap:.3g}", file=sys.stderr, flush=True)
        return callback(step) if callback is not None else None

    return look


def _known_value(task: Any, start: Any) -> float:
    """Return the objective of a value to begin with; one that is infeasible is refused."""
    from prunopt.core.validate import require

    missing, allowed = float(task.violation(start)), VALUE_TOLERANCE * float(getattr(task, "violation_unit", 1.0))
    require(missing <= allowed, "start", "be feasible", Shown(f"a value that breaks the constraints by {missing:g}"))
    return float(task.objective(start))


def _no_worse(answer: Solution[Any], start: Any, known: float, task: Any) -> Solution[Any]:
    """Return the start in the place of a worse answer, or of none."""
    if answer.status in (Status.INFEASIBLE, Status.UNBOUNDED):
        refuted = answer.status is Status.INFEASIBLE
        demand(not refuted, answer.solver, "says infeasible, but the start is feasible")
        return answer
    if answer.status.has_value and answer.objective <= known:
        return answer
    better = replace(answer, status=Status.FEASIBLE, value=start, objective=known)
    return noted(settle(better, float(answer.stats.get("tolerance", Limits().gap)), unit_of(task)), "it is the start")


def problem_of(task: Any) -> Any:
    """Return the problem that a file or another library's object holds; anything else as it is."""
    if isinstance(task, (str, os.PathLike)):
        from prunopt.forms.mip_model import read_model
        from prunopt.forms.storage import load_form

        return load_form(task) if Path(task).suffix.lower() == ".npz" else read_model(task)
    pulp = sys.modules.get("pulp")
    if pulp is not None and isinstance(task, pulp.LpProblem):
        from prunopt.forms.mip_model import Model

        return Model.from_pulp(task)
    return task


def _limits(limits: Limits | float | None) -> Limits:
    if limits is None or isinstance(limits, Limits):
        return limits or Limits()
    from prunopt.core.validate import number

    return Limits(seconds=number("limits", limits, low=0, mend="seconds, or prunopt.Limits(...)"))


def _answer(
    task: Any,
    solver: str | Solver[Any] | None,
    limits: Limits,
    seed: int = 0,
    callback: Callable[[Step], Any] | None = None,
    *,
    confirm: bool = True,
) -> Solution[Any]:
    chosen, reduced = dispatch(task, solver)
    if reduced is not None and limits.start is not None:
        limits = replace(limits, start=None)  # it is a value of the task
    if callback is not None:
        limits = replace(limits, callback=_lifted(callback, reduced))
    form = task if reduced is None else reduced.form
    unit = unit_of(form)
    # Solvers stop at a gap relative to max(1, |objective|).
    raw = chosen.solve(form, replace(limits, gap=limits.gap * unit) if unit < 1 else limits, seed)
    raw = recheck_bound(form, well_formed(raw, chosen.name))
    if raw.status in (Status.INFEASIBLE, Status.UNBOUNDED):
        raw = _confirmed(form, raw, limits) if confirm else raw
    lifted = raw if reduced is None else raw.lift(reduced.back, shift=reduced.shift, slack=reduced.slack)
    return settle(recheck_value(task, lifted, reduced), limits.gap, unit)


def verify(task: Any, solution: Solution[Any], limits: Limits | float | None = None) -> None:
    """Re-check a solution with code that shares nothing with its solver.

    The value must be feasible and have the stated objective. The bound is recomputed from the multipliers in
    ``solution.duals``; without any, it is held against the optimum found by another exact solver. A solution that
    calls itself optimal must have a gap within its tolerance, one that calls itself infeasible must carry a proof or
    be confirmed by another exact solver.

    Parameters
    ----------
    task, solution
        What `solve` was given, and what it returned.
    limits
        When to give up; a number means seconds. What is not proven by then does not hold.

    Raises
    ------
    CertificateError
        If anything does not hold; the message says what.
    """
    load_solvers()
    allowed = _limits(limits)
    with deadline.within(allowed.seconds):
        try:
            _verify(problem_of(task), solution, allowed)
        except CertificateError as error:
            if not deadline.is_over():
                raise
            raise CertificateError(f"{error}; the check had {allowed.seconds:g} s, give it more") from error


def _verify(task: Any, solution: Solution[Any], limits: Limits) -> None:
    name = str(getattr(solution, "solver", ""))
    solution = well_formed(solution, name or "the solution's maker")
    reduced = _reduction_of(task, solution)
    form = task if reduced is None else reduced.form
    shift, slack = (0.0, 0.0) if reduced is None else (reduced.shift, reduced.slack)
    recheck_value(task, solution, reduced)
    unit = unit_of(form)
    below_objective(solution, unit)
    if solution.status in (Status.INFEASIBLE, Status.UNBOUNDED):
        if not (solution.status is Status.INFEASIBLE and proven_infeasible(form, solution)):
            other = _second_opinion(task, name, limits)
            said = f"{other.solver} says {other.status.name}" if other else "no other exact solver confirms it"
            agrees = other is not None and other.status is solution.status
            demand(agrees, name, f"says {solution.status.name.lower()}, {said}")
    elif solution.bound > -math.inf:
        if solution.duals and hasattr(form, "bound"):
            proven, what = proven_bound(form, solution) + shift - slack, "its multipliers prove"
        else:
            other = _second_opinion(task, name, limits)
            if other is None:
                raise CertificateError(f"{name}: states the bound {solution.bound} without anything that proves it")
            proven = other.objective if other.status is Status.OPTIMAL else other.bound
            what = f"{other.solver} found"
        demand(not above(solution.bound, proven, unit), name, f"states the bound {solution.bound}, {what} {proven}")
    try:
        tolerance = float(solution.stats.get("tolerance", Limits().gap))
    except (TypeError, ValueError):
        raise CertificateError(f"{name}: stats['tolerance'] must be a number") from None
    gap = relative_gap(solution.objective, solution.bound, unit)
    closed = solution.status is not Status.OPTIMAL or gap <= max(tolerance, 1e-9)
    demand(closed, name, f"says optimal with a gap of {gap:.3g}, tolerance {tolerance:.3g}")


def _nearest_request(model: Any, limits: Limits, seed: int) -> str:
    """Name the rows of an infeasible model that are in the way, and the nearest feasible request."""
    answer = _answer(model.elastic(), None, limits, seed)
    if answer.value is None:
        return ""
    rows, n = model.A.shape
    add, take = answer.value[n : n + rows], answer.value[n + rows :]
    moves = []
    for r, name in enumerate(model.row_names):
        step = float(take[r] - add[r])
        side = float(model.row_upper[r] if step > 0 else model.row_lower[r])
        if abs(step) > 1e-9 * (1 + abs(side)):
            moves.append(f"{'raise' if step > 0 else 'lower'} {name} from {side:g} to {side + step:g}")
    more = f" and {len(moves) - 5} more rows" if len(moves) > 5 else ""
    return f"nearest feasible request: {', '.join(moves[:5])}{more}" if moves else ""


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


def _confirmed(form: Any, raw: Solution[Any], limits: Limits) -> Solution[Any]:
    """Hold "infeasible" or "unbounded" against the ray, or else against another exact solver.

    Raises
    ------
    CertificateError
        If the ray proves nothing, or the other solver has an answer.
    """
    if raw.status is Status.INFEASIBLE and proven_infeasible(form, raw):
        return raw
    unproven = "ray" in raw.duals and hasattr(form, "is_infeasible_by")
    demand(not unproven, raw.solver, "its ray does not prove that the problem is infeasible")
    says = raw.status.name.lower()
    seconds = SECOND_OPINION if limits.seconds is None else min(limits.seconds, SECOND_OPINION)
    other = _second_opinion(form, raw.solver, Limits(seconds=seconds))
    if other is None:
        note = f"{raw.solver} says {says}, but gives no proof, and there is no other exact solver to ask"
        return replace(raw, status=Status.FAILED, message=f"{note}. {raw.message}" if raw.message else note)
    if other.status is raw.status:
        return raw
    demand(other.status is Status.FAILED, raw.solver, f"says {says}, {other.solver} says {other.status.name}")
    return noted(raw, f"not confirmed: {other.solver} had no answer within {seconds:g} s")


def _second_opinion(task: Any, name: str, limits: Limits | None = None) -> Solution[Any] | None:
    """Another exact solver's answer to the same task, None where there is no other."""
    for candidate, must_reduce in candidates(task):
        exact = candidate.exact if must_reduce else candidate.exact_on(task)
        if exact and candidate.name != name and not candidate.why_not():
            return _answer(task, candidate(), limits or Limits(), confirm=False)
    return None
