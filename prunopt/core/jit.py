"""The one way that prunopt compiles a kernel: numba's ``njit`` with an on-disk cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

R = TypeVar("R")


def njit(function: Callable[..., R]) -> Callable[..., R]:
    """Compile ``function`` with numba in no-python mode, the GIL released, the machine code cached on disk.

    The result type is kept for type checkers; arguments are left to numba, which checks them when it compiles.
    """
    compiled: Any = numba.njit(cache=True, nogil=True)(function)
    return compiled  # type: ignore[no-any-return]
