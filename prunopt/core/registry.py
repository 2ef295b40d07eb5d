"""Which solver for which task: loading, listing and choosing solvers, and the reductions between them."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from prunopt.core.problem import Reduced
from prunopt.core.solver import Solver, by_name, registered, solvers_for
from prunopt.core.validate import Shown, invalid, one_of

_loaded = False


@dataclass(frozen=True, slots=True)
class SolverRow:
    """One solver as `solvers` lists it."""

    name: str
    form: str
    exact: bool
    available: bool
    why_not: str
    reference: str
    description: str = ""
    default: bool = False


def load_solvers() -> None:
    """Import every module of `prunopt.solvers`, and the solvers that other packages enter under that name."""
    global _loaded
    if _loaded:
        return

    package = importlib.import_module("prunopt.solvers")
    for module in pkgutil.walk_packages(package.__path__, "prunopt.solvers."):
        if not module.name.rpartition(".")[2].startswith("_"):  # kernels lie beside the solvers that they serve
            importlib.import_module(module.name)
    for point in entry_points(group="prunopt.solvers"):
        try:
            point.load()
        except Exception as error:  # a broken third-party package must not take every solver with it
            logging.getLogger("prunopt").warning("solver %s of %s cannot be loaded: %s", point.name, point.value, error)
    _loaded = True


def solvers(task_or_form: Any = None) -> list[SolverRow]:
    """List the solvers, best first, of one task or form (an instance, a type or its name), or of everything.

    Raises
    ------
    ValueError
        If it is not a form or task; the message says which forms there are.

    Returns
    -------
    list of SolverRow
        Name, form, whether the solver is exact, whether it can run here, why not, its paper, one line of description,
        and whether it is what `solve` takes by default: for the task or form asked for, else for its own form.
    """
    load_solvers()
    found: list[type[Solver[Any]]]
    if isinstance(task_or_form, str):
        task_or_form = _form_called(task_or_form)
    if task_or_form is None:
        found = registered()
    elif isinstance(task_or_form, type):
        found = solvers_for(task_or_form)
    else:
        found = [solver for solver, _ in candidates(task_or_form)]
        if not found:
            raise invalid("task_or_form", f"be a task or a form ({', '.join(_form_names())})", task_or_form)

    def is_default(solver: type[Solver[Any]]) -> bool:
        rivals = found if task_or_form is not None else solvers_for(solver.form)
        return next((s for s in rivals if not s.why_not()), None) is solver

    return [
        SolverRow(
            s.name,
            s.form.__name__,
            s.exact,
            not s.why_not(),
            s.why_not(),
            s.reference,
            (s.__doc__ or "").strip().partition("\n")[0],
            is_default(s),
        )
        for s in found
    ]


def _form_names() -> list[str]:
    """The names of the forms that solvers solve."""
    forms = importlib.import_module("prunopt.forms")
    kinds = (getattr(forms, name) for name in forms.__all__)
    return [kind.__name__ for kind in kinds if isinstance(kind, type) and solvers_for(kind)]


def _form_called(name: str) -> Any:
    return getattr(importlib.import_module("prunopt.forms"), one_of("task_or_form", name, _form_names()))


def candidates(task: Any) -> list[tuple[type[Solver[Any]], bool]]:
    """The solvers of a task or form, best first, each with whether the task must be reduced for it."""
    found = {s.name: (s, False) for s in solvers_for(type(task)) if not s.why_not_on(task)}
    for form in _forms_of(task):
        for s in solvers_for(form):
            found.setdefault(s.name, (s, True))

    def order(pair: tuple[type[Solver[Any]], bool]) -> tuple[bool, int, str]:
        solver, must_reduce = pair
        if must_reduce:
            return not solver.exact, solver.rank, solver.name
        return not solver.exact_on(task), solver.rank_on(task), solver.name

    return sorted(found.values(), key=order)


def _forms_of(task: Any) -> tuple[type, ...]:
    """The forms that a task can be reduced to: those that it declares in ``forms``, else its default form."""
    if not hasattr(task, "reduce"):
        return ()
    declared = getattr(task, "forms", None)
    return (type(task.reduce().form),) if declared is None else tuple(declared)


def reduced_to(task: Any, form: type) -> Reduced[Any] | None:
    """The task as a form of the type ``form``, None where there is no such form."""
    if not any(issubclass(target, form) for target in _forms_of(task)):
        return None
    reduced: Reduced[Any] = task.reduce(form)
    return reduced if isinstance(reduced.form, form) else None


def dispatch(task: Any, solver: str | Solver[Any] | None) -> tuple[Solver[Any], Reduced[Any] | None]:
    if solver is None:
        for candidate, must_reduce in candidates(task):
            if not candidate.why_not():
                return candidate(), reduced_to(task, candidate.form) if must_reduce else None
        kind = Shown(type(task).__name__)
        raise invalid("task", "be of a type that a solver solves", kind, "prunopt.solvers() lists all of them")
    chosen = by_name(solver)() if isinstance(solver, str) else solver
    if not isinstance(chosen, Solver):
        raise TypeError(
            f"solver must be the name or an instance of a solver, got {solver!r}; pass None for the best one"
        )
    if why := chosen.why_not():
        raise invalid("solver", "be able to run here", chosen.name, f"it {why}")
    if isinstance(task, chosen.form):
        if why := chosen.why_not_on(task):
            raise invalid("solver", "take this problem", chosen.name, why)
        return chosen, None
    reduced = reduced_to(task, chosen.form)
    other = chosen.instead(task) if reduced is None else None
    if other is not None:
        return dispatch(task, other)
    if reduced is None:
        fitting = ", ".join(s.name for s, _ in candidates(task)) or "another task"
        got = Shown(f"{chosen.name!r} (solves {chosen.form.__name__})")
        raise invalid("solver", f"solve {type(task).__name__}", got, f"pass {fitting}")
    return chosen, reduced
