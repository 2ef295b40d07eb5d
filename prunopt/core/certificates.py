"""The re-check of answers: nothing that a solver says is taken for true unless it is counted again here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from prunopt.core import deadline
from prunopt.core.problem import Reduced
from prunopt.core.solution import CertificateError, Solution, Status, relative_gap

VALUE_TOLERANCE = 1e-6  # relative: how far a re-evaluated objective may lie from the solver's, and a violation from 0
CLAIMED = "claimed by"  # how ``stats["bound"]`` begins where a bound is an engine's word, without multipliers
UNUSABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)  # what broken values raise


def unit_of(form: Any) -> float:
    """Return what differences of objectives are measured by: 1, or the form's ``objective_unit`` where that is less.

    Without it every answer to a problem whose losses add up to 1e-12 would be optimal.
    """
    unit = float(getattr(form, "objective_unit", 1.0))
    return min(1.0, unit) if unit >= 0 else 1.0


def demand(ok: Any, who: str, what: str) -> None:
    """Refuse an answer unless ``ok``."""
    if not ok:
        raise CertificateError(f"{who}: {what}")


def above(bound: float, value: float, unit: float) -> bool:
    """Whether a lower bound lies above a value by more than rounding explains; ``-inf`` never does."""
    return bound > value + VALUE_TOLERANCE * max(unit, abs(bound))


def noted(solution: Solution[Any], note: str) -> Solution[Any]:
    """Return the solution with a note added to its message."""
    return replace(solution, message=f"{solution.message}; {note}" if solution.message else note)


def well_formed(raw: Any, name: str) -> Solution[Any]:
    """Return the solution with its numbers as floats; anything that is not a complete solution is refused."""
    demand(isinstance(raw, Solution), name, f"returned {type(raw).__name__}, must return a Solution")
    demand(isinstance(raw.status, Status), name, f"status must be a prunopt.Status, got {raw.status!r}")
    held = "without a value" if raw.value is None else "with a value"
    demand(raw.status.has_value == (raw.value is not None), name, f"status {raw.status.name} {held}")
    demand(isinstance(raw.solver, str), name, f"solver must be a name, got {raw.solver!r}")
    for what, mapping in (("duals", raw.duals), ("stats", raw.stats)):
        demand(isinstance(mapping, Mapping), name, f"{what} must be a mapping, got {type(mapping).__name__}")
    try:
        objective, bound = float(raw.objective), float(raw.bound)
    except (TypeError, ValueError):
        objective = bound = math.nan
    numbers = f"objective and bound must be numbers, got {raw.objective!r} and {raw.bound!r}"
    demand(not (math.isnan(objective) or math.isnan(bound)), name, numbers)
    demand(bound < math.inf or raw.status is Status.INFEASIBLE, name, f"status {raw.status.name}, infinite bound")
    demand(bound == -math.inf or raw.status is not Status.UNBOUNDED, name, f"status UNBOUNDED, bound {bound}")
    return replace(raw, objective=objective, bound=bound)


def proven_bound(form: Any, solution: Solution[Any]) -> float:
    """Return the bound that a solution's multipliers prove; multipliers of the wrong kind are refused."""
    try:
        with np.errstate(all="ignore"):  # broken multipliers may hold anything
            proven = float(form.bound(solution.duals))
    except UNUSABLE as error:
        raise CertificateError(f"{solution.solver}: its multipliers cannot be read: {error!r}") from error
    demand(not math.isnan(proven), solution.solver, "its multipliers prove nothing (NaN)")
    return proven


def proven_infeasible(form: Any, solution: Solution[Any]) -> bool:
    """Return whether a solution that says "infeasible" is borne out by its ray, or by the form alone."""
    if not hasattr(form, "is_infeasible_by"):
        return False
    try:
        with np.errstate(all="ignore"):
            return bool(form.is_infeasible_by(solution.duals.get("ray")))
    except UNUSABLE:
        return False


def recheck_bound(form: Any, raw: Solution[Any]) -> Solution[Any]:
    """Replace the solver's bound by the one that its multipliers prove, or by none where it proves nothing."""
    if raw.duals and raw.status is not Status.INFEASIBLE and hasattr(form, "bound"):
        proven = proven_bound(form, raw)
        stated = f"states the bound {raw.bound}, its multipliers prove {proven}"
        missing = above(raw.bound, proven, unit_of(form))
        demand(not missing or deadline.is_over(), raw.solver, stated)  # out of time, a check proves less
        raw = noted(raw, "the check of its bound ran out of time") if missing else raw
        return replace(raw, bound=proven if raw.status.has_value else min(raw.bound, proven))
    if raw.bound == -math.inf or raw.status is Status.INFEASIBLE:
        return replace(raw, bound=-math.inf)
    if str(raw.stats.get("bound", "")).startswith(CLAIMED):
        return raw
    return noted(replace(raw, bound=-math.inf), f"its bound {raw.bound} came without a proof and is not used")


def recheck_value(task: Any, solution: Solution[Any], reduced: Reduced[Any] | None) -> Solution[Any]:
    """Evaluate the value in the task's own terms and return the solution with that objective."""
    if solution.value is None:
        return solution
    try:
        with np.errstate(all="ignore"):
            missing, objective = float(task.violation(solution.value)), float(task.objective(solution.value))
    except UNUSABLE as error:
        raise CertificateError(f"{solution.solver}: its value cannot be evaluated: {error}") from error
    feasible = missing <= VALUE_TOLERANCE * float(getattr(task, "violation_unit", 1.0))
    demand(feasible, solution.solver, f"its value breaks the constraints by {missing}")
    demand(math.isfinite(objective), solution.solver, f"its value has the objective {objective}")
    if reduced is None or reduced.exact:
        form, slack = (task, 0.0) if reduced is None else (reduced.form, reduced.slack)
        close = abs(objective - solution.objective) <= VALUE_TOLERANCE * max(unit_of(form), abs(objective)) + slack
        demand(close, solution.solver, f"states the objective {solution.objective}, it is {objective}")
    return replace(solution, objective=objective)


def below_objective(solution: Solution[Any], unit: float) -> None:
    """Refuse a bound above the solution's own objective."""
    ok = not (solution.status.has_value and above(solution.bound, solution.objective, unit))
    demand(ok, solution.solver, f"bound {solution.bound} is above its own objective {solution.objective}")


def settle(solution: Solution[Any], tolerance: float, unit: float) -> Solution[Any]:
    """Call the answer optimal exactly where its gap says so, and note the tolerance."""
    solution = replace(solution, stats={**solution.stats, "tolerance": tolerance})
    if not solution.status.has_value:
        return solution
    below_objective(solution, unit)
    bound = min(solution.bound, solution.objective)  # rounding put the proven bound just above the objective
    gap = relative_gap(solution.objective, bound, unit)
    if solution.status is Status.OPTIMAL and not gap <= tolerance:
        solution = noted(solution, f"the recomputed gap {gap:.3g} is over the tolerance {tolerance:.3g}")
    return replace(solution, status=Status.OPTIMAL if gap <= tolerance else Status.FEASIBLE, bound=bound)
