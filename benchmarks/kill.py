"""Commands killed at random moments: ``python -m benchmarks.kill [COMMAND ...] [--times 50] [--seed 0]``.

``workers`` is several searches on one journal, one killed every two seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import RESULTS
from prunopt.core.artifact import write_json

COMMANDS = ("forest", "prune", "masks", "search", "workers")
SLEEPY = Path(__file__).parents[1] / "tests" / "search" / "sleepy.py"
PLACE = RESULTS / "kill.json"


def workers(seconds: float = 40.0, count: int = 4, seed: int = 0) -> dict[str, Any]:
    """Several searches on one journal, one of them killed every two seconds and another started in its place."""
    import prunopt as po
    from prunopt.problems.allocation_search import AllocationSearch

    rng, begun, killed = np.random.default_rng(seed), time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        storage, log = f"{folder}/a.journal", Path(folder) / "log"

        def start() -> subprocess.Popen[bytes]:
            words = [sys.executable, str(SLEEPY), storage, str(log), "0.15", "160", "1"]
            return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

        jobs = [start() for _ in range(count)]
        while time.monotonic() - begun < seconds:
            time.sleep(2)
            victim = int(rng.integers(count))
            killed += jobs[victim].poll() is None
            jobs[victim].kill()
            jobs[victim].wait()
            jobs[victim] = start()
        errors = [(job.communicate()[1] or b"").decode()[-300:] for job in jobs]
        failed = [e for job, e in zip(jobs, errors, strict=True) if job.returncode]
        task = AllocationSearch(_Smooth(), [1000, 1500, 1200, 900], 0.6, space="vector")
        run = po.search(task, trials=160, storage=storage, solver="random-search")
        straight = po.search(task, trials=160, solver="random-search")
        lines = log.read_text().splitlines()
    texts = [t.text for t in run.finished]
    return {
        "processes": count, "killed": killed, "trials": len(run.finished), "lost and repeated": run.lost,
        "evaluations": len(lines), "distinct": len(set(lines)), "distinct trials": len(set(texts)),
        "best equal": bool(run.best.value == straight.best.value), "faults": failed,
    }  # fmt: skip


class _Smooth:
    def loss(self, allocation: Any, *, fidelity: float = 1.0) -> float:
        """Return the loss of tests/search/sleepy.py, without the sleep."""
        return float(np.linspace(3, 1, len(allocation)) @ np.square(allocation))


def main() -> None:
    """Kill every command ``--times`` times; results are written command by command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commands", nargs="*", default=COMMANDS)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    known = json.loads(PLACE.read_text()) if PLACE.is_file() else {}
    for name in asked.commands:
        if name == "workers":
            known[name] = workers(seed=asked.seed)
            write_json(PLACE, known)
            print(name, known[name])
            continue
        words = [sys.executable, "-m", "prunopt.testing.kills", name, str(asked.times), str(asked.seed)]
        done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if not done.stdout.strip():
            raise SystemExit(done.stderr[-2000:])
        known[name] = {"times": asked.times, "seed": asked.seed, **json.loads(done.stdout.strip().splitlines()[-1])}
        write_json(PLACE, known)
        print(name, {k: v for k, v in known[name].items() if k != "faults"}, len(known[name]["faults"]), "faults")


if __name__ == "__main__":
    main()
