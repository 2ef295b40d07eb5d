"""Problems: immutable data and an objective to be minimized. They know no solver."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    import pulp

X = TypeVar("X")
X_contra = TypeVar("X_contra", contravariant=True)


class Problem(Protocol[X_contra]):
    """Minimize ``objective(x)`` over the ``x`` with ``violation(x) == 0``.

    Checks allow a violation of 1e-6, or of 1e-6 times the attribute ``violation_unit`` where a problem has one: the
    size of what its violations are measured in. The size of the objective plays no part. Gaps are relative to ``max(1,
    |objective|)``; where a problem has an ``objective_unit`` below 1, that takes the place of the 1.
    """

    def objective(self, x: X_contra, /) -> float:
        """Return f(x), evaluated from scratch in the problem's own terms."""

    def violation(self, x: X_contra, /) -> float:
        """Return 0 when ``x`` is feasible, else how much is missing."""


@dataclass(frozen=True)
class Reduced(Generic[X]):
    """A task rewritten as a form, and the way back.

    For every feasible form solution u::

        | task.objective(back(u)) - (form.objective(u) + shift) |  <=  slack

    so that a lower bound b of the form gives the lower bound ``b + shift - slack`` of the task.

    Parameters
    ----------
    form
        A problem of `prunopt.forms`.
    back
        Carries a value of the form back to a value of the task.
    shift
        What the task's objective has on top of the form's.
    slack
        How far rounding to the form's numbers can move the objective (0 when the reduction is exact).
    exact
        False where the form is only a relaxation: then its bound carries over, not its optimality.
    """

    form: Any
    back: Callable[[Any], X]
    shift: float = 0.0
    slack: float = 0.0
    exact: bool = True


@runtime_checkable
class Task(Protocol[X]):
    """A pruning task: a problem that rewrites itself as a mathematical form.

    A task with several forms names them in a class variable ``forms``, the best first.
    """

    def objective(self, x: X, /) -> float: ...

    def violation(self, x: X, /) -> float: ...

    def reduce(self, to: type | None = None) -> Reduced[X]:
        """Return the task as a form; ``to`` asks for a certain type of form (ValueError if there is none)."""


class Modelled(ABC):
    """Every problem that writes itself as a PuLP model (recognized by its methods, no inheritance needed)."""

    @abstractmethod
    def to_pulp(self) -> pulp.LpProblem:
        """Return the problem as a linear or integer model."""

    @abstractmethod
    def read_pulp(self, model: pulp.LpProblem) -> Any:
        """Return the value held by the variables of a solved ``to_pulp()`` model."""

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return all(callable(getattr(other, name, None)) for name in ("to_pulp", "read_pulp"))
