"""Searches that are kept: storages, workers, and what is read back from them.

The package is also the function ``prunopt.search(task, ...)``: importing a module of the package binds the name
``prunopt.search`` to the package, so the package itself has to answer the call.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from prunopt.search.results import SearchRun as SearchRun
from prunopt.search.results import SearchTrial as SearchTrial
from prunopt.search.run import search as _search

__all__ = ["SearchRun", "SearchTrial"]


class _Package(ModuleType):
    __wrapped__ = staticmethod(_search)

    def __call__(self, *arguments: Any, **options: Any) -> SearchRun:
        return _search(*arguments, **options)


_Package.__call__.__doc__ = _search.__doc__
sys.modules[__name__].__class__ = _Package
