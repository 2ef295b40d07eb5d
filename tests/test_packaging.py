"""The installed package is the tree: declared packages, links, light import."""

from __future__ import annotations

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
    code = (
        "import sys, prunopt; from prunopt.core.solver import Limits; "
        "heavy = ('numpy', 'torch', 'sklearn', 'numba', 'matplotlib', 'scipy', 'pandas'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    done = run(code, tmp_path)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_every_public_name_exists() -> None:
    import prunopt

    assert all(getattr(prunopt, name) is not None for name in prunopt.__all__)
    assert callable(prunopt.solvers)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = prunopt.nothing
