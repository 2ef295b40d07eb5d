"""What every solve returns: a value, its objective, and a bound that proves how good it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Generic, TypeVar

from prunopt.core.display import pairs, summary

X = TypeVar("X")
Y = TypeVar("Y")


class Status(Enum):
    """How a solve ended; the value is the message to the user."""

    OPTIMAL = "optimal: the proven gap is within the tolerance"
    FEASIBLE = "feasible: a valid answer, not proven optimal (see bound and gap)"
    INFEASIBLE = "infeasible: no answer can meet the constraints"
    UNBOUNDED = "unbounded: the objective has no least value"
    FAILED = "failed: the solver gave no answer"

    @property
    def has_value(self) -> bool:
        """Whether a solution with this status carries a value."""
        return self in (Status.OPTIMAL, Status.FEASIBLE)

    def __reduce__(self) -> tuple[type[Status], tuple[str]]:  # what skops writes an object by
        return Status, (self.value,)


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a solver's trace: seconds since the start, best objective and best bound so far."""

    seconds: float
    objective: float
    bound: float = -math.inf


def relative_gap(objective: float, bound: float, unit: float = 1.0) -> float:
    """Return (objective - bound) / max(unit, |objective|), never below 0; infinite when either side is unknown."""
    if math.isinf(objective) or math.isinf(bound) or math.isnan(objective) or math.isnan(bound):
        return math.inf
    return 0.0 if objective <= bound else (objective - bound) / max(unit, abs(objective), 5e-324)


@dataclass(frozen=True, slots=True)
class Solution(Generic[X]):
    """The answer to a problem. Objectives are minimized, always.

    Parameters
    ----------
    status
        How the solve ended.
    value
        The decision, in the problem's own terms; None unless ``status.has_value``.
    objective
        ``problem.objective(value)``.
    bound
        A lower bound that is valid for the whole problem; ``-inf`` where there is none.
    duals
        The numbers that prove the bound: ``form.bound(duals)`` recomputes it without the solver.
    trace
        Objective and bound against time.
    stats
        Counters of the solver, and everything that it changed on its own (damping, dropped work, rounding).
    solver, message
        Who answered, and what a person should know about the answer.
    """

    status: Status
    value: Any
    objective: float = math.inf
    bound: float = -math.inf
    duals: Mapping[str, Any] = field(default_factory=dict)
    trace: tuple[Step, ...] = ()
    stats: Mapping[str, Any] = field(default_factory=dict)
    solver: str = ""
    message: str = ""

    def __repr__(self) -> str:
        numbers = f"{self.status.name}, objective={self.objective:.10g}, bound={self.bound:.10g}"
        return f"Solution({numbers}, value={summary(self.value)}, solver={self.solver!r})"

    def __str__(self) -> str:
        duals = ", ".join(f"{name} {getattr(value, 'shape', '') or ''}".strip() for name, value in self.duals.items())
        lines = {
            "value": summary(self.value),
            "stats": pairs(self.stats),
            "proof": f"{duals or 'no duals'}; {len(self.trace)} steps in the trace",
            "message": self.message,
        }
        head = f"{self.solver or 'Solution'}: {self.status.value}"
        numbers = f"objective {self.objective:.10g}, bound {self.bound:.10g}, gap {self.gap:.3g}"
        return "\n".join([head, numbers, *(f"{name}: {text}" for name, text in lines.items() if text)])

    @property
    def gap(self) -> float:
        """Relative optimality gap, (objective - bound) / max(1, |objective|)."""
        return relative_gap(self.objective, self.bound)

    def lift(self, back: Callable[[X], Y], *, shift: float = 0.0, slack: float = 0.0) -> Solution[Y]:
        """Carry the answer of a form over to the task it came from (see `Reduced`)."""
        value = None if self.value is None else back(self.value)
        objective, bound = self.objective + shift, self.bound + shift - slack
        steps = tuple(Step(s.seconds, s.objective + shift, s.bound + shift - slack) for s in self.trace)
        lifted: Any = replace(self, value=value, objective=objective, bound=bound, trace=steps)
        return lifted  # type: ignore[no-any-return]


class SolveError(RuntimeError):
    """No usable answer: the problem is infeasible, unbounded, or the solver failed. `solution` tells more."""

    def __init__(self, solution: Solution[Any]) -> None:
        text = f"{solution.solver}: {solution.status.value}"
        super().__init__(f"{text}. {solution.message}" if solution.message else text)
        self.solution = solution

    def __reduce__(self) -> tuple[type[SolveError], tuple[Solution[Any]]]:
        return SolveError, (self.solution,)


class CertificateError(RuntimeError):
    """A solution does not stand up to an independent re-check: its value, objective or bound is wrong."""
