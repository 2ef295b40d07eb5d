"""What ran the figures, and how they are taken: medians over interleaved runs, peak memory of a fresh process."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from benchmarks.results import load, store


def seconds(job: Callable[[], Any]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def interleaved(jobs: dict[str, Callable[[], Any]], runs: int = 5) -> dict[str, list[float]]:
    """Time every job in turn, ``runs`` rounds after one that is not counted, so that drift hits all alike."""
    for job in jobs.values():
        job()
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(runs):
        for name, job in jobs.items():
            taken[name].append(seconds(job))
    return taken


def median(values: list[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def in_fresh_process(module: str, function: str, *arguments: str) -> Any:
    """Return the JSON that ``function`` prints in a process of its own, on one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    code = f"import json, {module} as m; print(json.dumps(m.{function}(*{arguments!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        missing = re.search(r"^ModuleNotFoundError: (No module named '(.*)')\s*\Z", done.stderr, re.MULTILINE)
        if missing:
            raise ModuleNotFoundError(missing[1], name=missing[2])
        raise RuntimeError(f"{module}.{function}{arguments}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def peak_bytes() -> int:
    """Return the peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def described(*packages: str) -> dict[str, Any]:
    """Return the machine and the versions that figures belong to."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in ("numpy", "scipy", "scikit-learn", "numba", *packages)},
    }


def recorded(table: str, name: str, rows: dict[str, Callable[[], Any]], *packages: str) -> dict[str, Any]:
    """Measure the rows of one part of a table that are not on file yet, writing each as it comes."""
    data: dict[str, Any] = load(table, name, None) or {**described(*packages), "rows": {}}
    for row, measure in rows.items():
        if row not in data["rows"]:
            data["rows"][row] = measure()
            print(row, json.dumps(data["rows"][row])[:300], flush=True)
            store(table, {name: data})
    return data
