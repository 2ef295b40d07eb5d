"""The time that a solve or a check may take in all: checks deep inside forms look at it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_until: ContextVar[float] = ContextVar("until", default=math.inf)


@contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Have everything inside end after so many seconds, or sooner where an outer deadline is sooner."""
    until = math.inf if seconds is None else time.perf_counter() + seconds
    token = _until.set(min(until, _until.get()))
    try:
        yield
    finally:
        _until.reset(token)


def is_over() -> bool:
    """Whether the time is up; a check that stops then proves less, and never more."""
    return time.perf_counter() >= _until.get()
