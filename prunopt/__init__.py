"""prunopt: every pruning task is an optimization problem; a solver answers it, with a proof of how good it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prunopt.core.budget import Budget as Budget
from prunopt.core.problem import Problem as Problem
from prunopt.core.problem import Reduced as Reduced
from prunopt.core.problem import Task as Task
from prunopt.core.solution import CertificateError as CertificateError
from prunopt.core.solution import Solution as Solution
from prunopt.core.solution import SolveError as SolveError
from prunopt.core.solution import Status as Status
from prunopt.core.solution import Step as Step
from prunopt.core.solver import Limits as Limits
from prunopt.core.solver import Solver as Solver

if TYPE_CHECKING:
    from prunopt.api import solve as solve
    from prunopt.api import solvers as solvers
    from prunopt.api import verify as verify
    from prunopt.forms.storage import load_form as load_form
    from prunopt.forms.storage import save_form as save_form
    from prunopt.search.run import search as search

__version__ = "0.1.0"

# Names that need numpy are loaded when they are first used, so that `import prunopt` stays light.
_LATER = {
    "solve": "prunopt.api",
    "verify": "prunopt.api",
    "save_form": "prunopt.forms.storage",
    "load_form": "prunopt.forms.storage",
}

__all__ = [
    "Budget",
    "CertificateError",
    "Limits",
    "Problem",
    "Reduced",
    "Solution",
    "SolveError",
    "Solver",
    "Status",
    "Step",
    "Task",
    "load_form",
    "save_form",
    "search",
    "solve",
    "solvers",
    "verify",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "solvers":  # the package, which lists the solvers when it is called
        return import_module("prunopt.solvers")
    if name == "search":  # the package, which is also the function (see prunopt.search)
        return import_module("prunopt.search")
    if name not in _LATER:
        raise AttributeError(f"module 'prunopt' has no attribute {name!r}")
    value = getattr(import_module(_LATER[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
