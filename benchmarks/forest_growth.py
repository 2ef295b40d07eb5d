"""How time and memory of the cut and the whole path grow with the rows: covertype-like data, 54 features, 40 trees.

python -m benchmarks.forest_growth            # 5,000, 50,000 and 500,000 rows, about 10 minutes
python -m benchmarks.forest_growth 5000 50000

The path is also computed by two workers: threads, and (up to 50,000 rows) processes.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import joblib
import numpy as np

from benchmarks.datasets import covertype_like
from benchmarks.machine import described, in_fresh_process, peak_bytes, seconds
from benchmarks.results import store
from prunopt.core.solver import Limits
from prunopt.forms import Closure
from prunopt.forms.closure.parametric_closure import PenaltyPath
from prunopt.problems import ForestBudget
from prunopt.solvers.closure.min_cut import MinCut
from prunopt.solvers.closure.parametric_cut import closure_path

ROWS = (5_000, 50_000, 500_000)
MOST_FOR_PROCESSES = 50_000


def in_parallel(closure: Closure, serial: PenaltyPath, backend: str) -> float:
    """Seconds of the path with two workers; the path itself has to be that of one."""
    found: dict[str, PenaltyPath] = {}

    def path() -> None:
        with joblib.parallel_config(backend=backend):
            found["path"] = closure_path(closure, n_jobs=2)

    taken = seconds(path)
    for one, two in zip(serial.blocks, found["path"].blocks, strict=True):
        assert one.penalty == two.penalty
        assert np.array_equal(one.items, two.items)
        assert np.array_equal(one.multipliers, two.multipliers)
    return taken


def grow(n_rows: str) -> dict[str, Any]:
    """Build, cut and walk the path of one size; trees are grown on at most 50,000 rows, all rows pay and judge."""
    from sklearn.ensemble import RandomForestClassifier

    n = int(n_rows)
    X, y, _ = covertype_like(n, seed=0)
    costs = np.random.default_rng(0).integers(1, 21, X.shape[1])
    drawn = min(n, 50_000)
    forest = RandomForestClassifier(40, max_depth=10, max_samples=drawn / n, random_state=0).fit(X, y)
    warm = ForestBudget.from_forest(forest, X[:200], y[:200], costs, 0).path_closure().closure
    closure_path(warm)
    MinCut().solve(warm, Limits(), 0)
    held: dict[str, Any] = {}

    def build() -> None:
        held["closure"] = ForestBudget.from_forest(forest, X, y, costs, 0).path_closure().closure

    build_seconds = seconds(build)
    closure = held["closure"]
    found: dict[str, Any] = {}

    def path() -> None:
        found["path"] = closure_path(closure)

    path_seconds = seconds(path)
    peak = peak_bytes()
    parallel = {"threading": in_parallel(closure, found["path"], "threading")}
    if n <= MOST_FOR_PROCESSES:
        with joblib.parallel_config(backend="loky"):
            closure_path(warm, n_jobs=2)  # starts the workers
        parallel["loky"] = in_parallel(closure, found["path"], "loky")
    blocks = found["path"].blocks
    middle = sorted(b.penalty for b in blocks)[len(blocks) // 2]
    cut_seconds = seconds(lambda: MinCut().solve(replace(closure, penalty=middle), Limits(), 0))
    return {
        "rows": n,
        "items": closure.n_items,
        "edges": closure.n_edges,
        "breakpoints": len(blocks),
        "build seconds": build_seconds,
        "cut seconds": cut_seconds,
        "path seconds": path_seconds,
        "path seconds, two workers": parallel,
        "rounded cuts": found["path"].stats["rounded cuts"],
        "peak GiB": peak / 2**30,
    }


def main(sizes: list[str]) -> None:
    """Measure every size in a fresh process, and fit the growth laws."""
    rows = []
    for size in sizes or [str(n) for n in ROWS]:
        rows.append(in_fresh_process("benchmarks.forest_growth", "grow", size))
        print(rows[-1], flush=True)
    laws = {}
    if len(rows) > 1:
        for name in ("edges", "build seconds", "cut seconds", "path seconds"):
            slope = np.polyfit(np.log([r["rows"] for r in rows]), np.log([r[name] for r in rows]), 1)[0]
            laws[name] = float(slope)
        print("exponents of growth with the rows:", laws)
    store("forest_growth", {"figures": rows, "exponents": laws, "machine": described()})


if __name__ == "__main__":
    main(sys.argv[1:])
