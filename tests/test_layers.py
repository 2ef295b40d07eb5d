"""Who may import whom: core <- forms <- problems, and core, forms <- solvers; problems and solvers meet at a form."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "prunopt/core": "prunopt.core",
    "prunopt/forms": "prunopt.forms",
    "problems": "prunopt.problems",
    "solvers": "prunopt.solvers",
}
ALLOWED = {
    "prunopt.core": {"prunopt.core"},
    "prunopt.forms": {"prunopt.core", "prunopt.forms"},
    "prunopt.problems": {"prunopt.core", "prunopt.forms", "prunopt.problems"},
    "prunopt.solvers": {"prunopt.core", "prunopt.forms", "prunopt.solvers"},
}


def imported(tree: ast.AST) -> list[str]:
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return names


def violations(module: str, source: str, allowed: set[str]) -> list[tuple[str, str]]:
    names = [name for name in imported(ast.parse(source)) if name.startswith("prunopt")]
    return [(module, name) for name in names if not any(f"{name}.".startswith(f"{a}.") for a in allowed)]


def test_layers() -> None:
    bad: list[tuple[str, str]] = []
    for folder, package in FOLDERS.items():
        files = sorted((ROOT / folder).rglob("*.py"))
        assert files, folder
        for file in files:
            module = ".".join([package, *file.relative_to(ROOT / folder).with_suffix("").parts])
            bad += violations(module, file.read_text(), ALLOWED[package])
    assert not bad


def test_a_solver_that_imports_a_problem_is_caught() -> None:
    source = "from prunopt.problems.forest.forest_budget import ForestBudget\nfrom prunopt.forms import Closure\n"
    found = violations("prunopt.solvers.x", source, ALLOWED["prunopt.solvers"])
    assert found == [("prunopt.solvers.x", "prunopt.problems.forest.forest_budget.ForestBudget")]


def test_no_file_is_long() -> None:
    folders = [ROOT / "prunopt", ROOT / "solvers", ROOT / "problems", ROOT / "tests", ROOT / "benchmarks"]
    files = {file.resolve() for folder in folders for file in folder.rglob("*.py")}
    long = {file.name: n for file in files if (n := len(file.read_text().splitlines())) > 500}
    assert not long


def test_nothing_unpickles() -> None:
    """No module loads a pickle: not by name, not through joblib, torch or numpy's default."""
    words = ("pickle.load", "joblib.load", "torch.load(", "allow_pickle=True", "cPickle", "marshal.load")
    folders = [ROOT / "prunopt", ROOT / "solvers", ROOT / "problems"]
    found = [(f.name, w) for folder in folders for f in folder.rglob("*.py") for w in words if w in f.read_text()]
    assert not found
