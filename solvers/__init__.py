"""One algorithm a file; every module here is imported, and its solver registered, on the first solve.

The package is also the function ``prunopt.solvers(task_or_form=None)``, which lists the solvers: importing a module of
the package binds the name ``prunopt.solvers`` to the package, so the package itself has to answer the call.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

if __name__ != "prunopt.solvers":
    raise ImportError(f"this folder is the package prunopt.solvers: import prunopt.solvers, not {__name__}")


class _Package(ModuleType):
    def __call__(self, task_or_form: Any = None) -> Any:
        """List the solvers of a task or form; see `prunopt.core.registry.solvers`."""
        from prunopt.core.registry import solvers

        return solvers(task_or_form)


sys.modules[__name__].__class__ = _Package
