"""No module imports, however indirectly, one that imports it: lazy and type-only imports count."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).parents[1]
PLACES = {"prunopt": ROOT / "prunopt", "prunopt.problems": ROOT / "problems", "prunopt.solvers": ROOT / "solvers"}


def sources() -> dict[str, str]:
    """Every module of the package by its dotted name."""
    found = {}
    for package, folder in PLACES.items():
        for file in folder.rglob("*.py"):
            name = ".".join([package, *file.relative_to(folder).with_suffix("").parts])
            found[name.removesuffix(".__init__")] = file.read_text()
    return found


def imports(name: str, source: str, modules: Mapping[str, str]) -> Iterator[str]:
    """Modules of the package that one names in an import, wherever it stands.

    A module that asks a package by name depends on all that the package's ``__init__`` names; one that asks a module of
    the package does not.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in modules else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def circles(modules: Mapping[str, str]) -> list[list[str]]:
    """The strongly connected groups of more than one module."""
    graph = nx.DiGraph()
    for name, source in modules.items():
        graph.add_edges_from((name, other) for other in imports(name, source, modules) if other in modules)
    return [sorted(group) for group in nx.strongly_connected_components(graph) if len(group) > 1]


def test_there_are_no_import_circles() -> None:
    assert circles(sources()) == []


def test_a_lazy_and_type_only_circle_is_caught() -> None:
    modules = {
        "prunopt.a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from prunopt.b import B",
        "prunopt.b": "def f():\n    from prunopt import a\n    return a",
        "prunopt.c": "import prunopt.a",
    }
    assert circles(modules) == [["prunopt.a", "prunopt.b"]]
