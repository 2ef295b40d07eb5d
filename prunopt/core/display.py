"""Values in one short line: arrays by their shape, long texts and lists by their size."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")
ENTRIES = 8  # of an array or list that is shown as it is
LONGEST = 60  # characters of anything else


def summary(value: Any) -> str:
    """Return a value in one short line; arrays of up to 8 entries are shown as they are."""
    numpy = sys.modules.get("numpy")  # `import prunopt` does not load it
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        return str(value.tolist()) if value.size <= ENTRIES else f"<{value.dtype} {value.shape}>"
    if hasattr(value, "nnz"):
        return f"<sparse {value.shape}>"
    if isinstance(value, Mapping):
        return f"<{len(value)} entries>" if len(value) > ENTRIES else f"{{{pairs(value)}}}"
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        if len(value) > ENTRIES:
            return f"<{type(value).__name__} of {len(value)}>"
        inside = ", ".join(map(summary, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(value) == 1)})"
    if callable(value):
        return f"<{getattr(value, '__name__', type(value).__name__)}>"
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."


def pairs(values: Mapping[Any, Any]) -> str:
    """Return ``name=value, ...`` in one line."""
    return ", ".join(f"{name}={summary(value)}" for name, value in values.items())


def one_line(cls: type[T]) -> type[T]:
    """Give a dataclass a ``repr`` of one line, whatever its arrays hold."""

    def text(self: Any) -> str:
        fields = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.repr}
        return f"{type(self).__name__}({pairs(fields)})"

    cls.__repr__ = text  # type: ignore[method-assign]
    return cls
