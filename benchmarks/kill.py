"""Commands killed at random moments: ``python -m benchmarks.kill [COMMAND ...] [--times 50] [--seed 0]``.

``workers`` and ``postgresql`` are several searches on one journal, or one database, one killed every two seconds;
``benchmark`` is a table of `benchmarks.trust`, which resumes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import load, store
from tests.support.kills import Command, killed

COMMANDS = ("forest", "prune", "masks", "search", "benchmark", "workers", "postgresql")
BATCH = 20  # kills between two lines on file


def workers(
    storage: str, seconds: float = 60.0, count: int = 8, seed: int = 0, trials: int = 320, nap: float = 0.8
) -> dict[str, Any]:
    """Several searches on one storage, one of them killed every two seconds and another started in its place."""
    import prunopt as po

    rng, begun, killed = np.random.default_rng(seed), time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        log, errors = Path(folder) / "log", Path(folder) / "errors"

        def start() -> Any:
            job = multiprocessing.get_context("fork").Process(target=_worker, args=(storage, log, nap, trials, errors))
            job.start()
            return job

        # Once before the forks, so that kills hit trials and not imports.
        straight = po.search(_task(Path(folder) / "straight", 0.0), trials=trials, solver="random-search")
        jobs = [start() for _ in range(count)]
        while time.monotonic() - begun < seconds and any(job.is_alive() for job in jobs):
            time.sleep(2)
            victim = int(rng.integers(count))
            killed += jobs[victim].is_alive()
            jobs[victim].kill()
            jobs[victim].join()
            jobs[victim] = start()
        for job in jobs:
            job.join()
        run = po.search(_task(log, 0.0), trials=trials, storage=storage, solver="random-search")
        lines = log.read_text().splitlines()
        faults = errors.read_text().splitlines() if errors.exists() else []
    numbers, texts = [t.number for t in run.finished], [t.text for t in run.finished]
    return {
        "processes": count, "killed": killed, "trials": len(run.finished), "lost and repeated": run.lost,
        "evaluations": len(lines), "distinct": len(set(lines)), "distinct trials": len(set(texts)),
        "distinct numbers": len(set(numbers)), "best equal": bool(run.best.value == straight.best.value),
        "all values equal": sorted(t.value for t in run.finished) == sorted(t.value for t in straight.finished),
        "seconds": round(time.monotonic() - begun, 1), "faults": faults[-5:],
    }  # fmt: skip


def _worker(storage: str, log: Path, nap: float, trials: int, errors: Path) -> None:
    import prunopt as po

    try:
        po.search(_task(log, nap), trials=trials, storage=storage, solver="random-search")
    except Exception as error:  # whatever it is, no worker may end with one
        with errors.open("a") as file:
            file.write(f"{error!r}\n")


def _task(log: Path, nap: float) -> Any:
    from prunopt.problems.allocation.allocation_search import AllocationSearch

    return AllocationSearch(Logged(log, nap), [1000, 1500, 1200, 900], 0.6, space="vector")


class Logged:
    """Writes every allocation into a file, sleeps, and returns a smooth loss."""

    def __init__(self, log: Path, nap: float) -> None:
        self.log, self.nap = log, nap

    def loss(self, allocation: Any, *, fidelity: float = 1.0) -> float:
        """Return a weighted sum of squares."""
        with self.log.open("a") as file:
            file.write(",".join(f"{v:.6f}" for v in allocation) + "\n")
        time.sleep(self.nap)
        return float(np.linspace(3, 1, len(allocation)) @ np.square(allocation))


def on_journal(seed: int) -> dict[str, Any]:
    """The workers on a journal."""
    with tempfile.TemporaryDirectory() as folder:
        return workers(f"{folder}/a.journal", seed=seed)


def on_postgresql(seed: int) -> dict[str, Any]:
    """The workers on a PostgreSQL server that is started for it."""
    from tests.support.databases import Unavailable, postgresql

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "pg"
        place.mkdir()
        try:
            with postgresql(place) as url:
                return workers(url, seed=seed)
        except Unavailable as reason:
            return {"skipped": str(reason), "faults": []}


def benchmark(times: int, seed: int) -> dict[str, Any]:
    """A table of `benchmarks.trust`, whose run after a kill goes on from the rows on file."""
    from benchmarks import trust

    def words(place: Path) -> list[str]:
        return ["random", "EnumerableChoice", "--times", "1000", "--file", str(place / "trust.json.gz")]

    with tempfile.TemporaryDirectory() as folder:
        return killed(Command(words, files=("trust.json.gz",), run=trust.main), Path(folder), times, seed)


def killed_often(name: str, times: int, seed: int, known: dict[str, Any]) -> None:
    """Kill a command until ``times`` kills are on file, in batches with seeds of their own."""
    if "batches" not in known.get(name, {}):
        known.pop(name, None)
    while (row := known.get(name, {})).get("kills", 0) < times:
        batch, number = min(BATCH, times - row.get("kills", 0)), row.get("batches", 0)
        if name == "benchmark":
            found = benchmark(batch, seed + number)
        else:
            words = [sys.executable, "-m", "tests.support.kills", name, str(batch), str(seed + number)]
            done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            if not done.stdout.strip():
                raise SystemExit(done.stderr[-2000:])
            found = json.loads(done.stdout.strip().splitlines()[-1])
        sums = {k: row.get(k, 0) + found[k] for k in ("kills", "too late", "resumed")}
        known[name] = {
            "seed": seed, "batches": number + 1, "files": found["files"],
            "seconds": [*row.get("seconds", []), round(found["seconds"], 2)],
            "repeats": found["repeats"] and row.get("repeats", True), **sums,
            "faults": row.get("faults", []) + found["faults"],
        }  # fmt: skip
        store("kill", {name: known[name]})
        print(name, {k: v for k, v in known[name].items() if k != "faults"}, known[name]["faults"][-3:], flush=True)


def main() -> None:
    """Kill every command until ``--times`` kills are on file; what is on file counts, ``--fresh`` forgets it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commands", nargs="*", default=COMMANDS)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true")
    asked = parser.parse_args()
    known = load("kill", default={})
    for name in asked.commands:
        if asked.fresh:
            known.pop(name, None)
        if own := {"workers": on_journal, "postgresql": on_postgresql}.get(name):
            known[name] = own(asked.seed)
            store("kill", {name: known[name]})
            print(name, known[name], flush=True)
        else:
            killed_often(name, asked.times, asked.seed, known)


if __name__ == "__main__":
    main()
