"""The one way that prunopt compiles a kernel: numba's ``njit`` with an on-disk cache."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import numba
from numba.core import event

R = TypeVar("R")
NOTE = "compiling kernels, once: later runs load them from the cache (`prunopt warm-up` compiles all of them)"


class _FirstCompilation(event.Listener):
    """Says on a terminal, once in a process, that a kernel of prunopt is compiled rather than loaded."""

    told = False

    def on_start(self, event: Any) -> None:
        """Note the compilation of a kernel that the cache does not hold."""
        function = getattr(event.data.get("dispatcher"), "py_func", None)
        ours = str(getattr(function, "__module__", "")).partition(".")[0] == "prunopt"
        if ours and not self.told:
            self.told = True
            logging.getLogger("prunopt").info(NOTE)
            if sys.stderr is not None and sys.stderr.isatty():
                print(f"prunopt: {NOTE}", file=sys.stderr, flush=True)

    def on_end(self, event: Any) -> None:
        """Nothing is said at the end."""


first_compilation = _FirstCompilation()
event.register("numba:compile", first_compilation)  # type: ignore[no-untyped-call]


def njit(function: Callable[..., R]) -> Callable[..., R]:
    """Compile ``function`` with numba in no-python mode, the GIL released, the machine code cached on disk.

    The result type is kept for type checkers; arguments are left to numba, which checks them when it compiles.
    """
    compiled: Any = numba.njit(cache=True, nogil=True)(function)
    return compiled  # type: ignore[no-any-return]


@contextmanager
def ctrl_c_held() -> Iterator[None]:
    """Raise `KeyboardInterrupt` after the block instead of in it.

    A kernel that returns named tuples has them made by Python code, and numba does not look whether that was
    interrupted: the process would end in a segmentation fault. Signals reach the main thread only.
    """
    usual = threading.current_thread() is threading.main_thread()
    if not (usual and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
        yield
        return
    pressed = []

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed:
        raise KeyboardInterrupt
