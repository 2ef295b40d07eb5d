"""Old names that work for one release, with a warning that says the new form."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T", bound=type)


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


def renamed_attributes(**names: str) -> Callable[[T], T]:
    """Let a class answer to old names of its attributes and methods: ``@renamed_attributes(price="penalty")``."""

    def decorate(owner: T) -> T:
        for old, new in names.items():

            def find(self: Any, old: str = old, new: str = new) -> Any:
                warn(f"{type(self).__name__}.{old}", new)
                return getattr(self, new)

            setattr(owner, old, property(find))
        return owner

    return decorate


def renamed_names(module: str, find: Callable[[str], Any] | None = None, **names: str) -> Callable[[str], Any]:
    """Return a ``__getattr__`` of a module that answers to old names; ``find`` is asked for all others."""

    def look(name: str) -> Any:
        if name in names:
            warn(f"{module}.{name}", names[name])
            return getattr(sys.modules[module], names[name])
        if find is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return find(name)

    return look
