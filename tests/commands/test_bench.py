"""``prunopt bench`` in a checkout of its own, and the summary of this one."""

from __future__ import annotations

import ast
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from prunopt.cli import app
from prunopt.commands import bench
from tests.support.absent import code_without

ROOT = Path(__file__).parents[2]
TABLE = '''"""Counts to three. More about it.

``python -m benchmarks.three`` prints; ``--fail`` fails.
"""
import sys

if __name__ == "__main__":
    print("one two three", *sys.argv[1:])
    raise SystemExit(7 if "--fail" in sys.argv else 0)
'''


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "__init__.py").write_text('"""Tables."""\n')
    (folder / "machine.py").write_text('"""No table."""\n')
    (folder / "fetched.py").write_text(
        TABLE.replace("three", "fetched").replace("import sys", "import sys\n\nTABLE = False")
    )
    (folder / "three.py").write_text(TABLE)
    monkeypatch.chdir(tmp_path)
    return folder


def test_tables_are_listed_and_run_with_machine_and_versions(checkout: Path, capfd: Any) -> None:
    listed = CliRunner().invoke(app, ["bench"])
    assert listed.exit_code == 0
    assert "Counts to three" in listed.stdout
    assert "machine " not in listed.stdout
    assert "fetched" not in listed.stdout
    done = CliRunner().invoke(app, ["bench", "three", "--json", "few", "--", "--many"])
    assert done.exit_code == 0, done.output
    assert "one two three few --many" in capfd.readouterr().err
    assert json.loads(done.stdout)["name"] == "three"
    kept = json.loads((checkout / "results" / "runs.json").read_text())["three"]
    assert kept["arguments"] == ["few", "--many"]
    assert kept["status"] == 0
    assert kept["versions"]["numpy"]
    assert {"python", "machine", "processor", "cores", "seconds"} <= set(kept)
    again = json.loads(CliRunner().invoke(app, ["bench", "--json"]).stdout)["tables"]
    assert [(row["name"], row["last_run"]["seconds"]) for row in again] == [("three", kept["seconds"])]


def test_failures_are_one_line(checkout: Path, capfd: Any) -> None:
    done = CliRunner().invoke(app, ["bench", "three", "--", "--fail"])
    assert done.exit_code == 1
    assert "benchmarks.three left with status 7" in done.stderr
    assert json.loads((checkout / "results" / "runs.json").read_text())["three"]["status"] == 7
    unknown = CliRunner().invoke(app, ["bench", "four"])
    assert unknown.exit_code == 1
    assert "NAME four: give one of three" in unknown.stderr


def test_without_a_checkout_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    done = CliRunner().invoke(app, ["bench", "three"])
    assert done.exit_code == 1
    assert "bench needs a checkout" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_table_of_this_checkout_is_found() -> None:
    found = bench.list_tables(ROOT / "benchmarks")
    assert {"forest_speed", "layer", "allocation", "heads", "cnn", "lottery_subset", "summary"} <= set(found)
    assert not {"machine", "layer_data", "layer_peer"} & set(found)
    assert all(found.values())


def bench_without(modules: list[str], folder: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(code_without(modules))  # run by every process, those of `bench` too
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    command = [sys.executable, "-m", "prunopt", "bench", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment)


def needs_torch(name: str) -> bool:
    """Whether a table imports torch, itself or by another module of ours, before it does anything else."""
    tree = ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text("utf-8"))
    for node in tree.body:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
            if node.module == "benchmarks":
                names = [f"benchmarks.{a.name}" for a in node.names]
        for found in names:
            folder, _, module = found.partition(".")
            if found == "torch" or found.startswith("prunopt.networks"):
                return True
            if folder == "benchmarks" and module and needs_torch(module):
                return True
    return False


def test_a_table_whose_package_is_missing_is_one_line(checkout: Path, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("site")
    (checkout / "three.py").write_text(TABLE.replace('    print("one', '    import lightgbm\n    print("one'))
    done = bench_without(["lightgbm"], folder, checkout.parent, "three", "--json")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "prunopt: this needs lightgbm: pip install 'prunopt[bench]'\n"


def test_a_table_without_torch_is_one_line(tmp_path: Path) -> None:
    tables = [name for name in bench.list_tables(ROOT / "benchmarks") if needs_torch(name)]
    assert len(tables) > 5
    assert "summary" not in tables
    code = code_without(["torch"]) + (
        f"from prunopt.commands.bench import run_table\nfor name in {tables!r}:\n"
        "    try:\n        run_table(name)\n"
        "    except SystemExit as end:\n        print(name, end.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"{name} {bench.MISSING}" for name in tables], done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(tables)
    assert all("pip install 'prunopt[torch]'" in line for line in lines), lines


def test_a_process_of_its_own_that_lacks_a_package_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.machine import in_fresh_process

    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_module'") as raised:
        in_fresh_process("no_such_module", "f")
    assert raised.value.name == "no_such_module"


def test_the_summary_reads_the_raw_figures_and_needs_no_torch(tmp_path: Path) -> None:
    done = bench_without(["torch", "transformers", "lightgbm", "ortools"], tmp_path, ROOT, "summary")
    assert "Not on file" not in done.stdout
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    with gzip.open(ROOT / "benchmarks" / "results" / "forest_speed.json.gz") as file:
        raw = json.load(file)["highs"]["figures"]
    cut = next(row for row in rows if row[1] == "HiGHS, interior point")
    assert cut[4] == f"{raw['highs seconds'] / raw['cut seconds']:,.0f}"
    assert {len(row) for row in rows} == {6}
