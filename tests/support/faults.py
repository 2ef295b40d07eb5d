"""Corrupted answers: whatever a faulty solver might hand back, made from an honest answer.

`faults` yields forged solutions of every kind; `is_wrong` says, from the problem and its known optimum alone, whether a
solution claims something false. A checker is sound when it turns down every forged solution that is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Solver

TOLERANCE = 1.5e-6  # relative: a little more than what the checks allow for rounding


class Liar(Solver[Any]):
    """A solver that answers every problem with the solution it was given, under another solver's name."""

    form: ClassVar[type] = object
    exact: ClassVar[bool] = True

    def __init__(self, lie: Any, name: str, form: type) -> None:
        self.lie = lie
        # Attributes of the instance: a subclass with a name of its own would enter the registry.
        self.name, self.form = name, form  # type: ignore[misc]

    def solve(self, problem: Any, limits: Limits, seed: int) -> Any:
        """Return the lie."""
        return self.lie


def is_wrong(problem: Any, optimum: float | None, solution: Any) -> str:
    """Return what a solution claims that is false, an empty string if nothing is.

    Parameters
    ----------
    problem
        The problem, whose ``objective`` and ``violation`` are taken as the truth.
    optimum
        Its least objective, None where it is infeasible.
    solution
        What is claimed.
    """
    if not isinstance(solution, Solution) or not isinstance(solution.status, Status):
        return "no solution, or no status"
    status, value = solution.status, solution.value
    if status.has_value != (value is not None):
        return f"status {status.name} with value {value is not None}"
    try:
        objective, bound = float(solution.objective), float(solution.bound)
    except (TypeError, ValueError):
        return "objective or bound is not a number"
    if math.isnan(objective) or math.isnan(bound):
        return "NaN"
    size = max(1.0, abs(optimum)) if optimum is not None else 1.0
    if bound > (math.inf if optimum is None else optimum + TOLERANCE * size):
        return f"bound {bound} above the optimum {optimum}"
    if not status.has_value:
        false = status is Status.UNBOUNDED or (status is Status.INFEASIBLE and optimum is not None)
        return f"status {status.name}, the optimum is {optimum}" if false else ""
    return _is_wrong_value(problem, optimum, solution)


def _is_wrong_value(problem: Any, optimum: float | None, solution: Solution[Any]) -> str:
    try:
        missing, true = float(problem.violation(solution.value)), float(problem.objective(solution.value))
    except Exception as error:  # whatever it is, the value is not a value of this problem
        return f"not a value: {error!r}"
    if not missing <= TOLERANCE * float(getattr(problem, "violation_unit", 1.0)):
        return f"infeasible by {missing}"
    if optimum is None or not math.isfinite(true):
        return f"a value of objective {true} where the optimum is {optimum}"
    if not abs(true - solution.objective) <= TOLERANCE * max(1.0, abs(true)):
        return f"objective {solution.objective} stated, it is {true}"
    if solution.status is Status.OPTIMAL:
        tolerance = TOLERANCE * max(1.0, abs(optimum))
        if true > optimum + tolerance:
            return f"optimal at {true}, the optimum is {optimum}"
        if not true - solution.bound <= tolerance:
            return f"optimal with the bound {solution.bound} of the objective {true}"
    return ""


def faults(problem: Any, honest: Solution[Any], stale: Mapping[str, Any], seed: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield name and forged solution, for an honest solution with a value.

    Parameters
    ----------
    problem
        The problem.
    honest
        Its answer.
    stale
        The multipliers of another problem's answer.
    seed
        Of the random places where values and multipliers are hit.
    """
    rng = np.random.default_rng(seed)
    yield from _of_status(honest)
    yield from _of_numbers(honest)
    for name, value in corrupted(honest.value, rng):
        yield f"value {name}", replace(honest, value=value)
        try:
            objective = float(problem.objective(value))
        except Exception:  # no value of this problem at all
            continue
        yield f"value {name}, its objective", replace(honest, value=value, objective=objective)
        sure = replace(honest, status=Status.OPTIMAL, value=value, objective=objective, bound=objective)
        yield f"value {name}, called optimal", sure
        yield f"value {name}, called optimal without proof", replace(sure, duals={})
    high = honest.objective + 0.1 * max(1.0, abs(honest.objective))
    for name, duals in [("of another problem", dict(stale)), *corrupted_duals(honest.duals, rng)]:
        yield f"duals {name}", replace(honest, duals=duals)
        yield f"duals {name}, higher bound", replace(honest, duals=duals, bound=high)


def _of_status(honest: Solution[Any]) -> Iterator[tuple[str, Any]]:
    without = replace(honest, value=None, objective=math.inf, bound=-math.inf, duals={})
    for status in (Status.INFEASIBLE, Status.UNBOUNDED, Status.FAILED):
        yield f"{status.name} with a value", replace(honest, status=status)
        yield f"{status.name} without a value", replace(without, status=status)
        yield f"{status.name} with a bound", replace(without, status=status, bound=math.inf)
    rays = {"zero": np.zeros(1), "ones": np.ones(3), "NaN": np.array([np.nan]), "text": "no ray", "number": 0}
    for name, ray in rays.items():
        yield f"INFEASIBLE by {name}", replace(without, status=Status.INFEASIBLE, duals={"ray": ray})
    for status in (Status.OPTIMAL, Status.FEASIBLE):
        yield f"{status.name} without a value", replace(honest, status=status, value=None)
    yield "a text for a status", replace(honest, status="optimal")  # type: ignore[arg-type]
    yield "no solution", None
    yield "a bare value", honest.value


def _of_numbers(honest: Solution[Any]) -> Iterator[tuple[str, Any]]:
    size = max(1.0, abs(honest.objective))
    wrong = [honest.objective - 0.1 * size, honest.objective + 0.1 * size, math.nan, math.inf, -math.inf, None, "low"]
    for objective in wrong:
        forged: Any = {"objective": objective}
        yield f"objective {objective}", replace(honest, **forged)
        both: Any = {"objective": objective, "bound": objective}
        yield f"objective and bound {objective}", replace(honest, **both)
    for bound in (honest.objective + 0.1 * size, honest.objective + 1e-4 * size, math.nan, math.inf, None, "high"):
        forged = {"bound": bound}
        yield f"bound {bound}", replace(honest, **forged)
        yield f"bound {bound} without proof", replace(honest, **forged, duals={})
        yield f"bound {bound}, FEASIBLE", replace(honest, **forged, status=Status.FEASIBLE, duals={})
    yield "optimal with no bound", replace(honest, status=Status.OPTIMAL, bound=-math.inf, duals={})


def corrupted(value: Any, rng: np.random.Generator) -> Iterator[tuple[str, Any]]:
    """Yield name and corrupted copy of a value: an array, a tuple of arrays, or a mapping."""
    yield "a text", "no value"
    yield "a number", 3.5
    yield "an object", object()
    if isinstance(value, Mapping):
        yield from _corrupted_mapping(value)
    elif isinstance(value, tuple):
        yield "without a part", value[:-1]
        yield "with a part more", (*value, value[-1])
        yield "swapped layers", value[::-1]
        for k, part in enumerate(value):
            for name, other in _corrupted_array(np.asarray(part), rng):
                yield f"part {k} {name}", (*value[:k], other, *value[k + 1 :])
    elif isinstance(value, np.ndarray):
        yield "an empty tuple", ()
        yield from _corrupted_array(value, rng)


def _corrupted_mapping(value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    first, last = next(iter(value)), list(value)[-1]
    yield "without a name", {k: v for k, v in value.items() if k != first}
    yield "with a name more", {**value, "more": 0}
    yield "swapped", dict(zip(value, list(value.values())[::-1], strict=True))
    for key in (first, last):
        for wrong in (None, -1, 1e300, math.nan, "text", [0]):
            yield f"{key} {wrong}", {**value, key: wrong}
        if isinstance(value[key], int | float):
            yield f"{key} one more", {**value, key: value[key] + 1}
            yield f"{key} one less", {**value, key: value[key] - 1}


def _corrupted_array(value: Any, rng: np.random.Generator) -> Iterator[tuple[str, Any]]:
    yield "as float", value.astype(np.float64) + 0.25
    yield "of NaN", np.full(value.shape, np.nan)
    yield "of objects", value.astype(object)
    yield "with an axis more", value[None]
    yield "flat", value.ravel() if value.ndim > 1 else value.reshape(-1, 1)
    yield "too long", np.concatenate([value, value[:1]])
    yield "too short", value[:-1]
    yield "backwards", value[::-1].copy()
    yield "rolled", np.roll(value, 1)
    if value.ndim == 2:
        yield "transposed", value.T.copy()
        yield "sideways", value[:, ::-1].copy()
    if value.dtype == np.bool_:
        yield "all true", np.ones_like(value)
        yield "all false", np.zeros_like(value)
        yield "turned over", ~value
        yield "as int", value.astype(np.int64)
    for k in rng.permutation(value.size)[:4] if value.size else ():
        at, off = np.unravel_index(int(k), value.shape), value.copy()
        if value.dtype == np.bool_:
            off[at] = ~off[at]
            yield f"one bit off at {k}", off
            continue
        for step in (-1, 1) if value.dtype.kind in "iu" else (-1e-3, 0.5, 1e9, np.nan):
            off = value.copy()
            off[at] += step
            yield f"off by {step} at {k}", off
        if value.dtype.kind in "iu":
            off = value.astype(np.int64)
            off[at] = 2**40
            yield f"out of range at {k}", off


def corrupted_duals(duals: Mapping[str, Any], rng: np.random.Generator) -> Iterator[tuple[str, Any]]:
    """Yield name and corrupted copy of multipliers: arrays, numbers, lists of leaves."""
    for key, held in duals.items():
        rest = {k: v for k, v in duals.items() if k != key}
        yield f"without {key}", rest
        for name, other in (("text", "no duals"), ("None", None), ("an object", object()), ("NaN", math.nan)):
            yield f"{key} {name}", {**rest, key: other}
        if isinstance(held, np.ndarray):
            for name, array in _corrupted_array(held, rng):
                yield f"{key} {name}", {**rest, key: array}
            if held.dtype.kind in "iuf":
                for factor in (-1, 0, 2, 1000):
                    yield (
                        f"{key} times {factor}",
                        {
                            **rest,
                            key: held.astype(np.float64) * factor
                            if held.dtype.kind == "f"
                            else held.astype(np.int64) * factor,
                        },
                    )
        elif isinstance(held, int | float) and not isinstance(held, bool):
            for number in (-held, 0, 2 * held, held / 2, held + 1, math.inf, -math.inf):
                yield f"{key} {number}", {**rest, key: number}
        elif isinstance(held, list | tuple) and held:
            yield f"{key} without the last", {**rest, key: held[:-1]}
            yield f"{key} twice", {**rest, key: [*held, *held]}
            yield f"{key} none", {**rest, key: held[:0]}
            yield f"{key} the first alone", {**rest, key: held[:1]}
