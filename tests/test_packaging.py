"""The installed package is the tree: declared packages, links, light import."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(code: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)


def test_declared_packages_match_disk() -> None:
    declared = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    on_disk = set()
    for top, name in {"prunopt": "prunopt", "solvers": "prunopt.solvers", "problems": "prunopt.problems"}.items():
        for init in (ROOT / top).rglob("__init__.py"):
            on_disk.add(".".join([name, *init.parent.relative_to(ROOT / top).parts]))
    on_disk -= {name for name in on_disk if name not in declared and name.startswith("prunopt.prunopt")}
    assert declared == on_disk


@pytest.mark.parametrize("name", ["solvers", "problems"])
def test_stray_import_refused(name: str) -> None:
    done = run(f"import {name}")
    assert done.returncode != 0
    assert f"import prunopt.{name}" in done.stderr


def test_import_is_light(tmp_path: Path) -> None:
    """Numbers, forests and networks are loaded when they are first used: `import prunopt` takes what Python takes."""
    heavy = (
        "numpy",
        "scipy",
        "sklearn",
        "torch",
        "numba",
        "optuna",
        "matplotlib",
        "pandas",
        "networkx",
        "pulp",
        "typer",
    )
    code = f"import sys, prunopt, prunopt.forests, prunopt.networks; print([m for m in {heavy} if m in sys.modules])"
    done = run(code, tmp_path)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_no_tool_of_the_tests_is_installed() -> None:
    """What makes faults, kills or servers is in tests/support; the package holds what the author of a solver needs."""
    tool = re.compile(r"^\s*(?:from|import) (?:tests|pytest|hypothesis|benchmarks)\b", re.MULTILINE)
    files = [file for top in ("prunopt", "solvers", "problems") for file in (ROOT / top).rglob("*.py")]
    assert len(files) > 200
    assert not [file.name for file in files if tool.search(file.read_text("utf-8"))]
    assert tool.search("def f():\n    from tests.support import kills\n")
    support = {file.name for file in (ROOT / "tests" / "support").glob("*.py")}
    assert not support & {file.name for file in (ROOT / "prunopt" / "testing").glob("*.py")} - {"__init__.py"}


def test_the_package_of_solvers_lists_them() -> None:
    import prunopt

    assert callable(prunopt.solvers)


def test_no_output_of_a_run_is_tracked() -> None:
    """Journals, locks and picked-up searches belong to whoever ran them."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    stray = re.compile(r"\.(journal|guard|lock|log|db|sqlite3?|pkl|tmp)$")
    kept = "tests/trust/corpus/"  # hostile files, which readers are held against
    assert not [f for f in done.stdout.split("\n") if stray.search(f) and not f.startswith(kept)]
