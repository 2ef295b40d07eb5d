"""How time and memory of the streamed primal-dual grow with the rows: covertype-like data, 54 features, 40 trees.

python -m benchmarks.forest_stream                 # 5,000 to 2,000,000 rows, about 6 minutes
python -m benchmarks.forest_stream 5000 50000
python -m benchmarks.forest_stream prices          # 50,000 rows at six prices, beside the exact cut

The forest and the price are the same for every size; beyond 500,000 rows the set is repeated, its measured columns
with new noise. Rows are read from a file, chunk by chunk; the closure goes to a folder, `StreamedPrimalDual` solves it
there, and up to 500,000 rows an exact cut of the same problem in memory says afterwards where the optimum lies. Memory
is the peak of the resident memory from the first chunk on, less what the process held before.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier

import prunopt as po
from benchmarks.datasets import covertype_like
from benchmarks.machine import described, in_fresh_process, seconds
from benchmarks.results import store
from prunopt.forests import budget_path
from prunopt.problems import ForestBudget, StreamedForestBudget

ROWS = (5_000, 50_000, 500_000, 2_000_000)
DRAWN = 500_000
GROWN_ON = 50_000
PER_CHUNK = 20_000
SECONDS = 240.0
PRICES = (2.5e-5, 8e-5, 2.5e-4, 4e-4, 8e-4, 2.5e-3)
LEVELS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
COSTS = np.random.default_rng(0).integers(1, 21, 54)


def resident(name: str) -> int:
    """Return VmRSS or VmHWM of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def start_peak() -> int:
    """Return what is resident now, and count the peak from here."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def from_files(folder: Path, n: int) -> Iterator[tuple[Any, Any]]:
    """Yield the rows chunk by chunk, none of them staying in memory."""
    for first in range(0, n, PER_CHUNK):
        X, y = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in "Xy")
        yield np.array(X[first : first + PER_CHUNK]), np.array(y[first : first + PER_CHUNK])


def write_rows(folder: Path, X: Any, y: Any, n: int) -> None:
    """Write n rows: those given, and as many noisy copies of them as it takes."""
    rng = np.random.default_rng(1)
    out = np.lib.format.open_memmap(folder / "X.npy", "w+", np.float32, (n, X.shape[1]))
    labels = np.lib.format.open_memmap(folder / "y.npy", "w+", y.dtype, (n,))
    for first in range(0, n, len(X)):
        last = min(n, first + len(X))
        part = X[: last - first].copy()
        if first:
            part[:, :10] += np.round(rng.normal(0.0, 20.0, (len(part), 10)))
        out[first:last], labels[first:last] = part, y[: last - first]


def grown() -> tuple[Any, Any, Any]:
    """Return rows, labels and the forest, which is grown on the first 50,000 of them."""
    X, y, _ = covertype_like(DRAWN, seed=0)
    return X, y, RandomForestClassifier(40, max_depth=10, random_state=0).fit(X[:GROWN_ON], y[:GROWN_ON])


def prices() -> list[dict[str, Any]]:
    """Solve 50,000 rows at prices from nearly free to too expensive, at most 60 s each."""
    X, y, forest = grown()
    X, y, out = X[:GROWN_ON], y[:GROWN_ON], []
    with tempfile.TemporaryDirectory() as name:
        task = StreamedForestBudget.build(forest, (X, y), COSTS, 0, Path(name) / "closure", rows_per_chunk=PER_CHUNK)
        whole = ForestBudget.from_forest(forest, X, y, COSTS, 0)
        for price in PRICES:
            best = po.solve(whole.at_penalty(price), "min-cut")
            found = po.solve(task.at_penalty(price), limits=po.Limits(seconds=60))
            out.append(
                {
                    "price": price,
                    "nodes kept": int(np.count_nonzero(best.value)),
                    "optimum": best.objective,
                    "objective": found.objective,
                    "bound": found.bound,
                    "passes": found.stats["iterations"],
                    "seconds": found.trace[-1].seconds,
                }
            )
            print(out[-1], file=sys.stderr, flush=True)
    return out


def stream(n_rows: str) -> dict[str, Any]:
    """Build and solve one size."""
    n = int(n_rows)
    X, y, forest = grown()
    few = budget_path(forest, X[:5000], y[:5000], COSTS)
    price = float(f"{few.points[len(few.points) // 2].penalty:.2g}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder, X, y, n)
        del X, y, few
        warm = StreamedForestBudget.build(forest, lambda: from_files(folder, 200), COSTS, price, folder / "warm")
        po.solve(warm, limits=po.Limits(evaluations=2))
        held: dict[str, Any] = {}
        rows = partial(from_files, folder, n)

        def build() -> None:
            where = folder / "closure"
            held["task"] = StreamedForestBudget.build(forest, rows, COSTS, price, where, rows_per_chunk=PER_CHUNK)

        base = start_peak()
        build_seconds = seconds(build)
        build_peak = resident("VmHWM") - base
        task: StreamedForestBudget = held["task"]
        base = start_peak()
        found = po.solve(task, limits=po.Limits(seconds=SECONDS))
        solve_peak = resident("VmHWM") - base
        verify_seconds = seconds(partial(po.verify, task, found))
        reached = {}
        for level in LEVELS:
            steps = (s.seconds for s in found.trace if s.objective - s.bound <= level * abs(s.objective))
            reached[str(level)] = next(steps, None)
        bytes_on_disk = sum(p.stat().st_size for p in (folder / "closure").rglob("*.npy"))
        exact: dict[str, Any] = {}

        def cut() -> None:
            whole = ForestBudget.from_forest(forest, np.load(folder / "X.npy"), np.load(folder / "y.npy"), COSTS, price)
            exact["optimum"] = po.solve(whole, "min-cut").objective
            exact["edges"] = whole.path_closure().closure.n_edges

        cut_seconds = seconds(cut) if n <= DRAWN else None
        return {
            "rows": n,
            "price": price,
            "items": task.disk.n_items,
            "requirements": task.disk.n_requirements,
            "edges": task.disk.n_edges,
            "edges in memory": exact.get("edges"),
            "multiplier bytes": found.stats["multiplier bytes"],
            "chunks": len(task.disk.sizes),
            "build seconds": build_seconds,
            "build MiB": build_peak / 2**20,
            "solve MiB": solve_peak / 2**20,
            "disk bytes an edge": bytes_on_disk / task.disk.n_edges,
            "seconds to gap": reached,
            "solve seconds": found.trace[-1].seconds,
            "passes": found.stats["iterations"],
            "bytes read": found.stats["bytes read"],
            "bytes written": found.stats["bytes written"],
            "objective": found.objective,
            "bound": found.bound,
            "gap": (found.objective - found.bound) / found.objective,
            "status": found.status.name,
            "optimum": exact.get("optimum"),
            "verify seconds": verify_seconds,
            "build and cut in memory, seconds": cut_seconds,
        }


def main(sizes: list[str]) -> None:
    """Measure every size in a fresh process, and fit the growth laws."""
    if sizes == ["prices"]:
        found = in_fresh_process("benchmarks.forest_stream", "prices")
        store("forest_stream", {"prices": {"figures": found, "machine": described()}})
        print(*found, sep="\n")
        return
    figures = []
    for size in sizes or [str(n) for n in ROWS]:
        figures.append(in_fresh_process("benchmarks.forest_stream", "stream", size))
        print(figures[-1], flush=True)
        laws = {}
        if len(figures) > 1:
            rows = np.log([r["rows"] for r in figures])
            for name in ("edges", "build seconds", "build MiB", "solve MiB"):
                laws[name] = float(np.polyfit(rows, np.log([r[name] for r in figures]), 1)[0])
            per_pass = [np.log(r["solve seconds"] / max(r["passes"], 1)) for r in figures]
            laws["seconds a pass"] = float(np.polyfit(rows, per_pass, 1)[0])
            print("exponents of growth with the rows:", laws)
        store("forest_stream", {"sizes": {"figures": figures, "exponents": laws, "machine": described()}})


if __name__ == "__main__":
    main(sys.argv[1:])
