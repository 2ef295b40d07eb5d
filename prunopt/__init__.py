"""Makes trained models cheaper to run (forests, transformers, CNNs) and tells how close to the best they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunopt.core.budget import Budget as Budget
from prunopt.core.extras import lazy
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
    from prunopt.forms.mip_model import read_model as read_model
    from prunopt.forms.storage import load_form as load_form
    from prunopt.forms.storage import save_form as save_form
    from prunopt.pool import solution_pool as solution_pool
    from prunopt.study.run import search as search

__version__ = "0.1.0"

# Names that need numpy are loaded when they are first used, so that `import prunopt` stays light. `prunopt.solvers` is
# the package, which lists the solvers when it is called.
_PLACES = {
    "prunopt.api": "solve verify",
    "prunopt.forms.storage": "load_form save_form",
    "prunopt.solvers": "",
    "prunopt.forms.mip_model": "read_model",
    "prunopt.pool": "solution_pool",
    "prunopt.study.run": "search",
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
    "read_model",
    "save_form",
    "search",
    "solution_pool",
    "solve",
    "solvers",
    "verify",
]

__getattr__, __dir__ = lazy(__name__, _PLACES)
