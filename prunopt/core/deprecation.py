"""Old names that work for one release, with a warning that says the new form."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def warn(old: str, new: str, stacklevel: int = 3) -> None:
    """Say that ``old`` goes with the next release, and what to write instead."""
    warnings.warn(f"{old} is deprecated and goes with the next release; use {new}", DeprecationWarning, stacklevel)


def renamed_arguments(**names: str) -> Callable[[F], F]:
    """Let a function take keywords under their old names: ``@renamed_arguments(price="penalty")``."""

    def decorate(function: F) -> F:
        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            for old, new in names.items():
                if old in options:
                    if new in options:
                        raise TypeError(f"{function.__name__}: {old} and {new} given; {old} is the old name of {new}")
                    warn(f"{function.__name__}({old}=...)", f"{new}=...")
                    options[new] = options.pop(old)
            return function(*arguments, **options)

        return call  # type: ignore[return-value]

    return decorate


def moved_arguments(**objects: type[Any]) -> Callable[[F], F]:
    """Let a function take the fields of its option objects as keywords: ``@moved_arguments(repair=Repair)``."""
    owners = {field.name: name for name, kind in objects.items() for field in fields(kind)}

    def decorate(function: F) -> F:
        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            moved: dict[str, dict[str, Any]] = {}
            for old in [name for name in options if name in owners and name not in objects]:
                moved.setdefault(owners[old], {})[old] = options.pop(old)
            for name, values in moved.items():
                if name in options:
                    raise TypeError(f"{function.__name__}: {', '.join(values)} and {name} given; put all into {name}")
                new = f"{name}={objects[name].__name__}({', '.join(f'{field}=...' for field in values)})"
                warn(f"{function.__name__}({', '.join(f'{field}=...' for field in values)})", new)
                options[name] = objects[name](**values)
            return function(*arguments, **options)

        return call  # type: ignore[return-value]

    return decorate
