"""The one way that prunopt compiles a kernel: numba's ``njit`` with an on-disk cache, its types kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., object])


def njit(function: F) -> F:
    """Compile ``function`` with numba in no-python mode, the GIL released, the machine code cached on disk."""
    compiled: Any = numba.njit(cache=True, nogil=True)(function)
    return compiled  # type: ignore[no-any-return]
