"""Solvers: frozen dataclasses of options, found by name or by the form that they solve."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, ClassVar, Generic, TypeVar

from prunopt.core.extras import how_to_get
from prunopt.core.solution import Solution, Step, relative_gap

P = TypeVar("P")
_REGISTRY: dict[str, type[Solver[Any]]] = {}


@dataclass(frozen=True, slots=True)
class Limits:
    """When a solver stops although it could go on.

    Parameters
    ----------
    seconds
        Wall-clock time; None for no limit.
    evaluations
        Number of iterations, nodes or loss evaluations, whichever the solver counts; None for no limit.
    gap
        Relative gap, (objective - bound) / max(1, |objective|), at which an answer counts as optimal.
    callback
        Called with every `Step` of the trace; put here by ``solve(callback=)``. If it returns True, the solver stops.
    start
        A feasible value to begin with, in the form's own terms; put here by ``solve(start=)``. Solvers may ignore it.
    """

    seconds: float | None = None
    evaluations: int | None = None
    gap: float = 1e-9
    callback: Callable[[Step], Any] | None = field(default=None, compare=False)
    start: Any = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name, mend in (
            ("seconds", "; pass None for no limit"),
            ("evaluations", "; pass None for no limit"),
            ("gap", ""),
        ):
            value = getattr(self, name)
            if not ((value is None and mend) or value >= 0):
                raise ValueError(f"limits.{name} must be >= 0, got {value!r}{mend}")


class Run:
    """The clock, trace and stopping rule of one solve.

    A solver opens one with ``Run(limits)``, calls `report` whenever its best objective or bound improves, and
    stops as soon as `expired` is true.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.evaluations = 0
        self.objective = math.inf
        self.bound = -math.inf
        self.stopped = False  # by the callback
        self._start = time.perf_counter()
        self._trace: list[Step] = []

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    @property
    def trace(self) -> tuple[Step, ...]:
        """The steps reported so far."""
        return tuple(self._trace)

    @property
    def gap(self) -> float:
        """Relative gap of the best objective and the best bound reported."""
        return relative_gap(self.objective, self.bound)

    @property
    def solved(self) -> bool:
        """Whether the gap is within the limits' tolerance."""
        return self.gap <= self.limits.gap

    @property
    def out_of_time(self) -> bool:
        """Whether the seconds or the evaluations are used up, or the callback has had enough."""
        limits = self.limits
        return (
            self.stopped
            or (limits.seconds is not None and self.seconds >= limits.seconds)
            or (limits.evaluations is not None and self.evaluations >= limits.evaluations)
        )

    @property
    def expired(self) -> bool:
        """Whether to stop: solved, or out of time."""
        return self.solved or self.out_of_time

    def report(self, objective: float = math.inf, bound: float = -math.inf) -> None:
        """Note a new objective or bound; the best of each is kept, an improvement enters the trace."""
        if objective >= self.objective and bound <= self.bound and self._trace:
            return
        self.objective = min(self.objective, objective)
        self.bound = max(self.bound, bound)
        step = Step(self.seconds, self.objective, self.bound)
        self._trace.append(step)
        if self.limits.callback is not None:
            self.stopped = self.limits.callback(step) is True or self.stopped


class Solver(ABC, Generic[P]):
    """An algorithm for one form: a frozen dataclass of its options; ``solve`` is a function of (problem, seed).

    A subclass that sets `name` is registered when its module is imported. ``exact`` means: when it stops by
    itself its answer is optimal and its bound proves it. Dispatch takes the available exact solver of least
    ``rank``.
    """

    name: ClassVar[str]
    form: ClassVar[type]
    exact: ClassVar[bool]
    rank: ClassVar[int] = 50
    requires: ClassVar[tuple[str, ...]] = ()
    reference: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            return
        known = _REGISTRY.get(cls.name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"two solvers are named {cls.name!r}: {known.__module__} and {cls.__module__}")
        _REGISTRY[cls.name] = cls

    @classmethod
    def missing(cls) -> tuple[str, ...]:
        """Return the modules that the solver needs and that are not installed."""
        return tuple(module for module in cls.requires if find_spec(module) is None)

    @classmethod
    def why_not(cls) -> str:
        """Return why the solver cannot run here, or an empty string when it can."""
        missing = cls.missing()
        return f"needs {', '.join(missing)}: {how_to_get(*missing)}" if missing else ""

    @classmethod
    def exact_on(cls, problem: Any) -> bool:
        """Return whether the solver is exact on this problem, where that depends on the problem."""
        return cls.exact

    @classmethod
    def why_not_on(cls, problem: Any) -> str:
        """Return why the solver cannot take this problem of its form, or an empty string when it can."""
        return ""

    @classmethod
    def instead(cls, problem: Any) -> str | None:
        """Return the name of the solver that is meant where this one was asked for and cannot take the problem."""
        return None

    @classmethod
    def rank_on(cls, problem: Any) -> int:
        """Return the rank on one problem of its form: `rank`, unless the best solver depends on the problem."""
        return cls.rank

    @abstractmethod
    def solve(self, problem: P, limits: Limits, seed: int) -> Solution[Any]:
        """Solve ``problem`` within ``limits``; the same seed gives the same answer."""


def registered() -> list[type[Solver[Any]]]:
    """Return every registered solver, ordered by form and name."""
    return sorted(_REGISTRY.values(), key=lambda s: (s.form.__name__, s.name))


def solvers_for(form: type) -> list[type[Solver[Any]]]:
    """Return the solvers of a form, best first: exact before heuristic, then by rank."""
    found = [s for s in _REGISTRY.values() if issubclass(form, s.form)]
    return sorted(found, key=lambda s: (not s.exact, s.rank, s.name))


def by_name(name: str) -> type[Solver[Any]]:
    """Return the solver called ``name``."""
    from prunopt.core.validate import one_of  # it needs numpy, and `import prunopt` does not

    return _REGISTRY[one_of("solver", name, sorted(_REGISTRY))]
