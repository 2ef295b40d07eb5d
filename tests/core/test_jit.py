"""Compilation is announced once, on a terminal, and only where the cache does not hold the kernel."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from numba import njit

from prunopt.core import jit


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def started(module: str) -> Any:
    function = SimpleNamespace(__module__=module)
    return SimpleNamespace(data={"dispatcher": SimpleNamespace(py_func=function)})


def test_the_first_kernel_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    listener, terminal = jit._FirstCompilation(), Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    listener.on_start(started("somebody.else"))
    assert terminal.getvalue() == ""
    listener.on_start(started("prunopt.solvers.closure._push_relabel"))
    listener.on_start(started("prunopt.solvers.closure._repair"))
    assert terminal.getvalue().count("compiling kernels") == 1


def test_numba_tells_of_compilations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event that the announcement rests on comes with a compilation, and not with a kernel that is there."""
    seen: list[Any] = []
    monkeypatch.setattr(jit.first_compilation, "on_start", seen.append)

    def doubled(x: int) -> int:
        return 2 * x

    kernel: Any = njit(doubled)
    assert kernel(2) == 4
    assert len(seen) == 1
    assert kernel(3) == 6
    assert len(seen) == 1
