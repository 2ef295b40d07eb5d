"""Old names that work for one release, with a warning that says the new form."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)
T = TypeVar("T")
OURS = ("prunopt", "contextlib", "functools", "torch")  # frames between the user's line and the warning


def warn(old: str, new: str) -> None:
    """Say that ``old`` goes with the next release, and what to write instead, at the line of the user's own call."""
    say(f"{old} is deprecated and goes with the next release; use {new}")


def say(message: str) -> None:
    """Give a DeprecationWarning at the line of the user's own call, however many of our frames are in between."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in OURS:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, DeprecationWarning, level)


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


def renamed_fields(**names: str) -> Callable[[type[T]], type[T]]:
    """Let a dataclass take and show fields under their old names: ``@renamed_fields(price="penalty")``.

    Where both keywords are there the old one counts, for `dataclasses.replace` fills in the new one.
    """

    def decorate(cls: type[T]) -> type[T]:
        start = cls.__init__

        @wraps(start)
        def init(self: Any, *arguments: Any, **options: Any) -> None:
            for old in names.keys() & options.keys():
                warn(f"{cls.__name__}({old}=...)", f"{names[old]}=...")
                options[names[old]] = options.pop(old)
            start(self, *arguments, **options)

        cls.__init__ = init  # type: ignore[method-assign]
        return renamed_attributes(**names)(cls)

    return decorate


def renamed_attributes(**names: str) -> Callable[[C], C]:
    """Let a class answer to old names of its attributes and methods: ``@renamed_attributes(price="penalty")``."""

    def decorate(owner: C) -> C:
        for old, new in names.items():

            def find(self: Any, old: str = old, new: str = new) -> Any:
                warn(f"{type(self).__name__}.{old}", f".{new}")
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
