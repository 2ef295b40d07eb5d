"""The streamed method: bounds on disk that hold at any stop, the optimum of the cut, one chunk in memory."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

import prunopt as po
from prunopt.forms import Closure, ClosureOnDisk
from prunopt.problems import ForestBudget
from prunopt.solvers.closure import _dual_prices as dual_prices
from prunopt.solvers.closure.streamed_primal_dual import StreamedPrimalDual, units_of
from prunopt.testing import on_disk


def forest_closure(penalty: Fraction = Fraction(1, 300)) -> Closure:
    X, y = load_breast_cancer(return_X_y=True)
    forest = RandomForestClassifier(15, max_depth=5, random_state=0).fit(X, y)
    closure = ForestBudget.from_forest(forest, X, y, np.arange(1, 31), 0).path_closure().closure
    return replace(closure, penalty=penalty)


@pytest.mark.parametrize("n_chunks", [1, 5])
def test_bounds_are_valid_at_any_stop_and_meet_the_cut(tmp_path: Path, n_chunks: int) -> None:
    memory = forest_closure()
    disk = on_disk(memory, tmp_path / "c", n_chunks)
    best = po.solve(memory, "min-cut").objective
    assert best < 0
    gaps = []
    for evaluations in (0, 1, 3, 200):
        solution = po.solve(disk, limits=po.Limits(evaluations=evaluations))
        po.verify(disk, solution)
        assert solution.bound == disk.bound(solution.duals) <= best + 1e-12
        assert solution.objective >= best - 1e-12
        gaps.append(solution.gap)
    assert gaps == sorted(gaps, reverse=True)
    assert solution.status is po.Status.OPTIMAL
    assert solution.objective == best


@pytest.mark.parametrize(
    ("penalty", "rounded", "dtype"),
    [
        (Fraction(1, 300), False, "int32"),
        (Fraction(2**40, 3), False, "int32"),
        (Fraction(10**15 + 7, 3 * 10**17 + 1), True, "int64"),
        (Fraction(10**25 + 7, 3 * 10**17 + 1), True, "int64"),
    ],
)
def test_prices_of_any_size(tmp_path: Path, penalty: Fraction, rounded: bool, dtype: str) -> None:
    memory = forest_closure(penalty)
    disk = on_disk(memory, tmp_path / "c", 3)
    units, found = units_of(disk)
    assert (units.rounded, found) == (rounded, dtype)
    solution = po.solve(disk, limits=po.Limits(evaluations=200))
    assert solution.objective == pytest.approx(po.solve(memory, "primal-dual").objective, abs=1e-9)
    assert solution.gap < 1e-6
    assert solution.stats["rounded costs"] is units.rounded


@pytest.mark.parametrize("call", [1, 3, 40])
def test_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    disk = on_disk(forest_closure(), tmp_path / "c", 4)
    name = "adopt" if call == 3 else "redistribute"
    real, count = getattr(dual_prices, name), [0]

    def interrupted(*arguments: Any) -> Any:
        count[0] += 1
        out = real(*arguments)
        if count[0] == call:
            signal.raise_signal(signal.SIGINT)
        return out

    monkeypatch.setattr(dual_prices, name, interrupted)
    solution = StreamedPrimalDual().solve(disk, po.Limits(gap=0), 0)
    assert solution.status is po.Status.FEASIBLE
    assert solution.message.startswith("interrupted")
    po.verify(disk, solution)
    assert max(step.bound for step in solution.trace) == solution.bound == disk.bound(solution.duals)


def test_a_callback_that_stops_leaves_a_valid_bound(tmp_path: Path) -> None:
    disk = on_disk(forest_closure(), tmp_path / "c", 4)
    steps: list[Any] = []

    def stop(step: Any) -> None:
        steps.append(step)
        if len(steps) == 6:
            raise KeyboardInterrupt

    solution = po.solve(disk, callback=stop)
    po.verify(disk, solution)
    assert solution.bound >= steps[4].bound
    assert solution.message.startswith("interrupted")


def test_an_error_leaves_no_files(tmp_path: Path) -> None:
    disk = on_disk(forest_closure(), tmp_path / "c", 2)
    before = sorted((tmp_path / "c").iterdir())

    def fail(step: Any) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        po.solve(disk, callback=fail)
    assert sorted((tmp_path / "c").iterdir()) == before


def test_files_without_a_name_go_with_the_solution(tmp_path: Path) -> None:
    disk = on_disk(forest_closure(), tmp_path / "c", 2)
    before = sorted((tmp_path / "c").iterdir())
    solution = po.solve(disk, limits=po.Limits(evaluations=2))
    assert sorted((tmp_path / "c").iterdir()) != before
    del solution
    gc.collect()
    assert sorted((tmp_path / "c").iterdir()) == before


def test_a_named_folder_goes_on(tmp_path: Path) -> None:
    disk = on_disk(forest_closure(), tmp_path / "c", 3)
    solver = StreamedPrimalDual(folder=tmp_path / "m")
    one = po.solve(disk, solver, limits=po.Limits(evaluations=1))
    more = po.solve(ClosureOnDisk.open(tmp_path / "c"), solver, limits=po.Limits(evaluations=1))
    assert not one.stats["resumed"]
    assert more.stats["resumed"]
    assert more.gap < one.gap
    assert disk.bound({"requirements": tmp_path / "m"}) == more.bound
    costlier = po.solve(disk.at_penalty(Fraction(1, 150)), solver, limits=po.Limits(evaluations=1))
    assert not costlier.stats["resumed"], "another penalty"
    assert len(list((tmp_path / "m").glob("chunk-*.npy"))) == 3
    other = on_disk(forest_closure(), tmp_path / "d", 2)
    with pytest.raises(ValueError, match="multipliers of this closure"):
        po.solve(other, solver)


# In a process of its own: what other tests have left (threads, caches, kernels still to be compiled) is none of it.
PEAKS = """
import gc, json, sys, tracemalloc
from pathlib import Path
import numpy as np
import prunopt as po
from prunopt.forms import Closure
from prunopt.testing import on_disk

rng = np.random.default_rng(0)
m, w, needs = 500, 8000, 20
owner = np.sort(rng.integers(0, m, (needs, w)).ravel())
indptr = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=m))])
edges = rng.permutation(np.repeat(np.arange(w), needs))
memory = Closure(rng.integers(0, 4000, m), np.full(m, -1), indptr, edges, rng.integers(1, 20, w))
rows = {}
for n_chunks in (2, 32):
    disk = on_disk(memory, Path(sys.argv[1]) / str(n_chunks), n_chunks)
    peaks = []
    for _ in range(4):  # the first solves may compile kernels, whose garbage is none of the solver's
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        solution = po.solve(disk, limits=po.Limits(evaluations=3, gap=0))
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
        tracemalloc.stop()
    rows[n_chunks] = [min(peaks), solution.stats["bytes read"], disk.n_edges]
print(json.dumps(rows))
"""


def test_memory_is_that_of_the_items_and_one_chunk(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PEAKS, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    for _, read, edges in rows.values():
        assert read > edges * 8
    assert rows["32"][0] < rows["2"][0] / 4, rows


def test_options() -> None:
    with pytest.raises(ValueError, match=r"relaxation must be .* got 2"):
        StreamedPrimalDual(relaxation=2)
