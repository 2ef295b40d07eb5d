"""``prunopt bench``: the tables of benchmarks/, one command each."""

from __future__ import annotations

import ast
import os
import platform
import runpy
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

from prunopt.commands.output import DEBUG, INPUT, fail, guarded, message, note, print_json, table

RUNS = Path("results") / "runs.json"
MISSING = 69  # the status of a table for which a package is missing (EX_UNAVAILABLE of sysexits.h); it has been said
# What figures can depend on: what prunopt computes with, and the peers (extra ``bench``).
COMPUTE = ("numpy", "scipy", "scikit-learn", "numba", "highspy", "pulp", "optuna")
NETWORKS, PEERS = ("torch", "transformers", "onnxruntime"), ("ortools", "lightgbm", "torch-pruning")


@guarded
def bench(
    name: Annotated[str | None, typer.Argument(help="A table; none lists them.")] = None,
    arguments: Annotated[list[str] | None, typer.Argument(help="Its own arguments; options go after --.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; the table's own lines go to stderr.")] = False,
) -> None:
    """Measure one table of the results again, in a checkout; without a name, list the tables.

    Runs ``python -m benchmarks.NAME`` in the checkout, and notes machine, versions and seconds of the run in
    benchmarks/results/runs.json. `prunopt bench summary` prints every ratio to a peer from the raw figures on file.
    """
    folder = find_benchmarks()
    tables = list_tables(folder)
    if name is None:
        runs = read_runs(folder)
        if as_json:
            listed = [{"name": n, "what": text, "last_run": runs.get(n)} for n, text in tables.items()]
            print_json({"tables": listed})
            return
        print(table(("table", "what it measures"), list(tables.items()), left=(0, 1)))
        return
    if name not in tables:
        raise ValueError(f"NAME {name}: give one of {', '.join(tables)}")
    machine = describe_machine()
    start = time.perf_counter()
    code = f"from prunopt.commands.bench import run_table; run_table({name!r})"
    command = [sys.executable, "-c", code, *(arguments or ())]
    done = subprocess.run(command, cwd=folder.parent, check=False)
    run = {"arguments": arguments or [], "status": done.returncode, "seconds": time.perf_counter() - start, **machine}
    if name not in ("summary", "results_page"):  # they measure nothing
        _note_run(folder, name, run)
    if done.returncode == MISSING:
        raise typer.Exit(INPUT)
    if done.returncode:
        fail(f"benchmarks.{name} left with status {done.returncode}")
    if as_json:
        print_json({"name": name, **run})


def run_table(name: str) -> None:
    """Run a table as ``python -m benchmarks.NAME`` would; a missing package is one line, and the status `MISSING`."""
    try:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
    except ImportError as error:
        if DEBUG in os.environ:
            raise
        note(message(error))
        raise SystemExit(MISSING) from None


def find_benchmarks() -> Path:
    """Return the folder benchmarks/ of the checkout that prunopt runs from, or of the current folder.

    Raises
    ------
    ValueError
        If there is none: the installed package does not hold it.
    """
    for root in (Path.cwd(), Path(__file__).resolve().parents[2]):
        folder = root / "benchmarks"
        if (folder / "__init__.py").is_file() and (folder / "machine.py").is_file():
            return folder
    raise ValueError(
        "bench needs a checkout: the installed package holds no benchmarks/; clone the repository and call it in its "
        "root (pip install -e '.[bench]' brings the peers)"
    )


def list_tables(folder: Path) -> dict[str, str]:
    """Return the modules that run as ``python -m benchmarks.NAME`` and say so, with the first line of what they say.

    Those that prepare or compare for others, and measure nothing, say ``TABLE = False``.
    """
    found = {}
    for file in sorted(folder.glob("*.py")):
        text = file.read_text("utf-8")
        if "\nTABLE = False\n" in text:
            continue
        said = ast.get_docstring(ast.parse(text)) or ""
        if f"python -m benchmarks.{file.stem}" in said and '__name__ == "__main__"' in text:
            found[file.stem] = said.splitlines()[0].split(": ``python -m")[0].rstrip(".")
    return found


def describe_machine() -> dict[str, Any]:
    """Return the machine and the versions that a run's figures belong to."""
    found = {}
    for package in (*COMPUTE, *NETWORKS, *PEERS):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "versions": found,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def read_runs(folder: Path) -> dict[str, Any]:
    """Return what is known of the last run of each table."""
    import json

    file = folder / RUNS
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}


def _note_run(folder: Path, name: str, run: dict[str, Any]) -> None:
    from prunopt.core.files import write_json

    write_json(folder / RUNS, {**read_runs(folder), name: run})
