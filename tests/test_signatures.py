"""No signature is too long to read: 10 parameters for what is public, 12 for anything else."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PUBLIC, ANY = 10, 12
PACKAGES = ("prunopt", "prunopt.forms", "prunopt.forests", "prunopt.networks", "prunopt.problems", "prunopt.study")


def public_packages() -> Iterator[str]:
    """The packages whose ``__all__`` users import from, sub-packages among them."""
    for name in PACKAGES:
        yield name
        module = importlib.import_module(name)
        yield from (
            m.name
            for m in pkgutil.walk_packages(module.__path__, f"{name}.")
            if name != "prunopt" and m.ispkg and hasattr(importlib.import_module(m.name), "__all__")
        )


def parameters(function: Any) -> int:
    """How many parameters a call has, without ``self``."""
    return sum(p.name != "self" for p in inspect.signature(function).parameters.values())


def is_estimator(member: Any) -> bool:
    """Whether a class takes its settings one by one, because scikit-learn asks for it."""
    return inspect.isclass(member) and hasattr(member, "get_params")


def public_calls() -> Iterator[tuple[str, Any]]:
    """Public functions, and the methods and constructors of public classes, by name."""
    for package in public_packages():
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", ()):
            member = getattr(module, name)
            if inspect.isfunction(member):
                yield f"{package}.{name}", member
            elif inspect.isclass(member):
                if not (
                    is_estimator(member) or is_dataclass(member)
                ):  # a record's fields are not arguments to remember
                    yield f"{package}.{name}", member
                methods = inspect.getmembers(member, lambda m: inspect.isfunction(m) or inspect.ismethod(m))
                yield from ((f"{package}.{name}.{n}", m) for n, m in methods if not n.startswith("_"))


def test_public_functions_are_short() -> None:
    pytest.importorskip("torch")
    found: dict[int, str] = {}
    for name, member in public_calls():
        try:
            count = parameters(member)
        except ValueError:  # an exception's constructor, say
            continue
        if count > PUBLIC:
            found.setdefault(id(member), f"{name}: {count}")
    assert not sorted(found.values())


def long_functions(source: str, most: int) -> list[str]:
    """Functions of more than ``most`` parameters, but for commands and constructors of estimators."""
    out = []
    tree = ast.parse(source)
    exempt: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(
            "Estimator" in b or "Mixin" in b for b in map(ast.unparse, node.bases)
        ):
            exempt |= {f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"}
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node in exempt:
            continue
        if any(ast.unparse(d) == "guarded" for d in node.decorator_list):
            continue
        a = node.args
        names = [p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs)] + [p.arg for p in (a.vararg, a.kwarg) if p]
        count = sum(name not in ("self", "cls") for name in names)
        out += [f"{node.name}: {count}"] if count > most else []
    return out


def test_no_function_is_long() -> None:
    files = [file for top in ("prunopt", "solvers", "problems") for file in (ROOT / top).rglob("*.py")]
    found = {str(f.relative_to(ROOT)): names for f in files if (names := long_functions(f.read_text("utf-8"), ANY))}
    assert not found


def test_a_long_function_is_caught() -> None:
    many = ", ".join(f"x{i}" for i in range(13))
    assert long_functions(f"def f({many}): ...", ANY) == ["f: 13"]
    assert long_functions(f"@guarded\ndef f({many}): ...", ANY) == []
    assert long_functions(
        f"class A(BaseEstimator):\n    def __init__(self, {many}): ...\n    def g(self, *, {many}): ...", ANY
    ) == ["g: 13"]
