"""The re-check of answers: nothing that a solver says is taken for true unless it is counted again here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

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


def well_formed(raw: Any, name: str) -> Solution[Any]:
    """Return the solution with its numbers as floats; anything that is no complete solution is refused."""
    if not isinstance(raw, Solution):
        raise CertificateError(f"{name} returned {type(raw).__name__}, no Solution")
    if not isinstance(raw.status, Status):
        raise CertificateError(f"{name}: status {raw.status!r} is no prunopt.Status")
    if raw.status.has_value != (raw.value is not None):
        raise CertificateError(f"{name}: status {raw.status.name}, but {'no' if raw.value is None else 'a'} value")
    if not isinstance(raw.solver, str):
        raise CertificateError(f"{name}: solver {raw.solver!r} is no name")
    for what, mapping in (("duals", raw.duals), ("stats", raw.stats)):
        if not isinstance(mapping, Mapping):
            raise CertificateError(f"{name}: {what} is a {type(mapping).__name__}, no mapping")
    try:
        objective, bound = float(raw.objective), float(raw.bound)
    except (TypeError, ValueError):
        raise CertificateError(f"{name}: objective {raw.objective!r}, bound {raw.bound!r} are no numbers") from None
    if math.isnan(objective) or math.isnan(bound):
        raise CertificateError(f"{name}: objective {objective}, bound {bound}")
    if bound == math.inf and raw.status is not Status.INFEASIBLE:
        raise CertificateError(f"{name}: status {raw.status.name} with an infinite bound")
    if bound > -math.inf and raw.status is Status.UNBOUNDED:
        raise CertificateError(f"{name}: status UNBOUNDED with the bound {bound}")
    return replace(raw, objective=objective, bound=bound)


def proven_bound(form: Any, solution: Solution[Any]) -> float:
    """Return the bound that a solution's multipliers prove; multipliers of the wrong kind are refused."""
    try:
        with np.errstate(all="ignore"):  # broken multipliers may hold anything
            proven = float(form.bound(solution.duals))
    except UNUSABLE as error:
        raise CertificateError(f"{solution.solver}: its multipliers cannot be read: {error!r}") from error
    if math.isnan(proven):
        raise CertificateError(f"{solution.solver}: its multipliers prove nothing (NaN)")
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
        if raw.bound > proven + VALUE_TOLERANCE * max(unit_of(form), abs(raw.bound)):
            raise CertificateError(f"{raw.solver}: states the bound {raw.bound}, its multipliers prove {proven}")
        return replace(raw, bound=proven if raw.status.has_value else min(raw.bound, proven))
    if raw.bound == -math.inf or raw.status is Status.INFEASIBLE:
        return replace(raw, bound=-math.inf)
    if str(raw.stats.get("bound", "")).startswith(CLAIMED):
        return raw
    note = f"its bound {raw.bound} came without a proof and is not taken over"
    return replace(raw, bound=-math.inf, message=f"{raw.message}; {note}" if raw.message else note)


def recheck_value(task: Any, solution: Solution[Any], reduced: Reduced[Any] | None) -> Solution[Any]:
    """Evaluate the value in the task's own terms and return the solution with that objective."""
    if solution.value is None:
        return solution
    try:
        with np.errstate(all="ignore"):
            missing, objective = float(task.violation(solution.value)), float(task.objective(solution.value))
    except UNUSABLE as error:
        raise CertificateError(f"{solution.solver}: its value cannot be evaluated: {error}") from error
    if not missing <= VALUE_TOLERANCE * float(getattr(task, "violation_unit", 1.0)):
        raise CertificateError(f"{solution.solver}: its value breaks the constraints by {missing}")
    if not math.isfinite(objective):
        raise CertificateError(f"{solution.solver}: its value has the objective {objective}")
    slack = 0.0 if reduced is None else reduced.slack
    relaxed = reduced is not None and not reduced.exact
    size = max(unit_of(task if reduced is None else reduced.form), abs(objective))
    if not relaxed and not abs(objective - solution.objective) <= VALUE_TOLERANCE * size + slack:
        raise CertificateError(f"{solution.solver}: states the objective {solution.objective}, it is {objective}")
    return replace(solution, objective=objective)


def settle(solution: Solution[Any], tolerance: float, unit: float) -> Solution[Any]:
    """Call the answer optimal exactly where its gap says so, and note the tolerance."""
    stats = {**solution.stats, "tolerance": tolerance}
    if not solution.status.has_value:
        return replace(solution, stats=stats)
    bound = solution.bound
    if bound > solution.objective + VALUE_TOLERANCE * max(unit, abs(solution.objective)):
        raise CertificateError(f"{solution.solver}: bound {bound} is above its own objective {solution.objective}")
    bound = min(bound, solution.objective)  # rounding put the proven bound just above the objective
    gap = relative_gap(solution.objective, bound, unit)
    proven = gap <= tolerance
    message = solution.message
    if solution.status is Status.OPTIMAL and not proven:
        note = f"the recomputed gap {gap:.3g} is over the tolerance {tolerance:.3g}"
        message = f"{message}; {note}" if message else note
    status = Status.OPTIMAL if proven else Status.FEASIBLE
    return replace(solution, status=status, bound=bound, stats=stats, message=message)
