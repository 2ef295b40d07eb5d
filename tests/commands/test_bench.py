"""``prunopt bench`` in a checkout of its own, and the summary of this one."""

from __future__ import annotations

import gzip
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from prunopt.cli import app
from prunopt.commands import bench

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
    (folder / "three.py").write_text(TABLE)
    monkeypatch.chdir(tmp_path)
    return folder


def test_tables_are_listed_and_run_with_machine_and_versions(checkout: Path, capfd: Any) -> None:
    listed = CliRunner().invoke(app, ["bench"])
    assert listed.exit_code == 0
    assert "Counts to three" in listed.stdout
    assert "machine " not in listed.stdout
    done = CliRunner().invoke(app, ["bench", "three", "--json", "few", "--", "--many"])
    assert done.exit_code == 0, done.output
    assert "one two three few --many" in capfd.readouterr().err
    assert json.loads(done.stdout)["name"] == "three"
    kept = json.loads((checkout / "results" / "runs.json").read_text())["three"]
    assert kept["arguments"] == ["few", "--many"]
    assert kept["status"] == 0
    assert kept["versions"]["numpy"]
    assert {"python", "machine", "processor", "cores", "seconds"} <= set(kept)
    again = json.loads(CliRunner().invoke(app, ["bench", "--json"]).stdout)
    assert [(row["name"], row["last run"]["seconds"]) for row in again] == [("three", kept["seconds"])]


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


def test_the_summary_reads_the_raw_figures(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.summary"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    with gzip.open(ROOT / "benchmarks" / "results" / "forest_speed.json.gz") as file:
        raw = json.load(file)["highs"]["figures"]
    cut = next(row for row in rows if row[1] == "HiGHS, interior point")
    assert cut[4] == f"{raw['highs seconds'] / raw['cut seconds']:,.0f}"
    assert {len(row) for row in rows} == {6}


def test_the_summary_goes_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    spec = importlib.util.spec_from_file_location("summary_of_benchmarks", ROOT / "benchmarks" / "summary.py")
    assert spec is not None
    assert spec.loader is not None
    summary = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = summary
    spec.loader.exec_module(summary)
    page = tmp_path / "RESULTS.md"
    page.write_text(f"before\n{summary.BEGIN}\nold\n{summary.END}\nafter\n")
    summary.put(page, "new")
    assert page.read_text() == f"before\n{summary.BEGIN}\nnew\n{summary.END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="marks"):
        summary.put(page, "new")
    assert summary._less("x", "y", 2.0, 3.0, "f", "s").cells() == ["x", "y", "2 s", "3 s", "1.5", "`f`"]
