"""Keywords that moved into an option object, or went, still accepted for one release."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import wraps
from typing import Any, TypeVar

from prunopt.core import deprecation
from prunopt.core.validate import require

F = TypeVar("F", bound=Callable[..., Any])


def refuse_removed(name: str, value: Any, why: str) -> None:
    """Refuse an option that was removed, unless it has its old default."""
    require(not value, name, "be left out", value, f"it was removed: {why}")


def old_keywords(argument: str, kind: type[Any], removed: Mapping[str, str] | None = None) -> Callable[[F], F]:
    """Let a function take the fields of the option object ``argument`` as keywords of its own.

    Parameters
    ----------
    kind
        Class of the option object.
    removed
        Keywords that have no successor, and why: 0, their old default, is passed over with a warning.
    """
    moved = {field.name for field in fields(kind)}

    def decorate(function: F) -> F:
        @wraps(function)
        def call(*arguments: Any, **given: Any) -> Any:
            for name, why in (removed or {}).items():
                if name in given:
                    refuse_removed(name, given.pop(name), why)
                    warnings.warn(f"{name} is deprecated: it was removed, {why}", DeprecationWarning, stacklevel=2)
            old = {name: given.pop(name) for name in sorted(moved & given.keys())}
            if old:
                spelled = ", ".join(f"{name}=..." for name in old)
                new = f"{argument}={kind.__name__}({spelled})"
                deprecation.warn(f"{function.__name__}({spelled})", new)
                given[argument] = replace(given.get(argument) or kind(), **old)
            return function(*arguments, **given)

        return call  # type: ignore[return-value]

    return decorate
