"""The exact path: every breakpoint, nested, certified; and the cut that it is made of."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import joblib
import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunopt as po
from prunopt.forms import Closure
from prunopt.forms.closure.parametric_closure import PathBlock, PenaltyPath
from prunopt.solvers.closure import _push_relabel as kernel
from prunopt.solvers.closure import parametric_cut as price_path
from prunopt.solvers.closure.min_cut import MinCut
from prunopt.solvers.closure.parametric_cut import closure_path
from prunopt.testing import brute_force_closure, random_closure


def large_closure(rng: np.random.Generator, n_items: int, n_requirements: int, factor: int = 1) -> Closure:
    """Many trees of up to 10 items, whose requirements are shared with neighbors only: a path with many steps."""
    parent = np.array([rng.integers(h - h % 10, h) if h % 10 else -1 for h in range(n_items)], np.int32)
    middle = np.arange(n_items) * n_requirements // n_items
    needs = [np.unique(np.clip(m + rng.integers(-6, 7, rng.integers(0, 6)), 0, n_requirements - 1)) for m in middle]
    return Closure(
        rng.integers(-20, 40, n_items) * factor,
        parent,
        np.cumsum([0, *map(len, needs)]),
        np.concatenate(needs).astype(np.int32),
        rng.integers(0, 30, n_requirements) * factor,
    )


def check_path(problem: Closure, path: PenaltyPath, penalties: list[Fraction]) -> None:
    assert path.complete
    breaks = [b.penalty for b in path.blocks]
    assert breaks == sorted(breaks, reverse=True)
    items = np.concatenate([b.items for b in path.blocks] or [np.zeros(0, int)])
    assert len(items) == len(set(items.tolist()))
    previous = None
    for penalty in sorted({*penalties, *breaks}):
        kept = path.kept(penalty)
        priced = replace(problem, penalty=penalty)
        best = po.solve(priced, "min-cut")
        assert priced.violation(kept) == 0
        assert path.objective(penalty) == priced.exact_objective(kept) == priced.exact_objective(best.value)
        assert np.array_equal(kept, best.value), "the largest optimum"
        assert path.gap(penalty) == 0
        if previous is not None:
            assert not np.any(kept & ~previous), "nested"
        previous = kept


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_path_is_the_direct_cut_at_every_price(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = random_closure(rng, int(rng.integers(0, 14)))
    penalties = [Fraction(int(a), int(b)) for a, b in zip(rng.integers(0, 30, 8), rng.integers(1, 9, 8), strict=True)]
    path = closure_path(problem)
    check_path(problem, path, penalties)
    if problem.n_items <= 9:
        for penalty in penalties[:3]:
            assert float(path.objective(penalty)) == pytest.approx(
                brute_force_closure(replace(problem, penalty=penalty))
            )


@pytest.mark.parametrize("seed", range(4))
def test_path_of_larger_closures(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = large_closure(rng, 300, 120)
    path = closure_path(problem)
    assert len(path.blocks) >= 5
    assert path.stats["cuts"] == 2 * len(path.blocks) - 1
    check_path(problem, path, [Fraction(k, 7) for k in range(0, 20, 3)])


def test_cut_agrees_with_networkx_on_larger_closures() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        problem = replace(large_closure(rng, 80, 40), penalty=Fraction(int(rng.integers(1, 9)), 4))
        cut, _ = nx.minimum_cut(problem.to_networkx(), "s", "t")
        supply = int(np.maximum(problem.profit, 0).sum()) * problem.penalty.denominator
        solution = po.solve(problem, "min-cut")
        assert solution.objective == float(Fraction(int(cut) - supply, problem.penalty.denominator))
        po.verify(problem, solution)


@contextmanager
def cluster(backend: str, folder: Path) -> Iterator[Callable[[], int]]:
    """Start what a backend needs; yields the number of tasks that it was given (1 where that is not counted)."""
    if backend != "dask":
        yield lambda: 1
        return
    distributed, dask = pytest.importorskip("distributed"), pytest.importorskip("dask")
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": None}
    with dask.config.set(temporary_directory=str(folder)), distributed.Client(**options) as client:
        client.get_task_stream()  # counts from now on
        yield lambda: len(client.get_task_stream())


@pytest.mark.parametrize("backend", ["threading", "loky", "dask"])
def test_workers_find_the_same_path(backend: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    exact = large_closure(rng, 900, 400)
    rounded = large_closure(rng, 300, 120, 2**45)
    for problem in (exact, rounded, Closure.of([])):
        one = closure_path(problem)
        with cluster(backend, tmp_path) as count, joblib.parallel_config(backend=backend, n_jobs=2):
            two, told = closure_path(problem), closure_path(problem, n_jobs=2)
            assert count() > 0 or problem.n_items == 0
        assert two.stats["workers"] == 2
        assert one.stats["workers"] == 1
        for other in (two, told):
            assert np.array_equal(one.always, other.always)
            assert len(one.blocks) == len(other.blocks)
            for a, b in zip(one.blocks, other.blocks, strict=True):
                assert (a.penalty, a.denominator) == (b.penalty, b.denominator)
                assert np.array_equal(a.items, b.items)
                assert np.array_equal(a.requirements, b.requirements)
                assert np.array_equal(a.multipliers, b.multipliers)
            assert one.proofs == other.proofs
            counters = ("cuts", "edges", "rounded cuts", "rounded ties")
            assert [one.stats[name] for name in counters] == [other.stats[name] for name in counters]


def test_workers_share_out_the_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    real = price_path._search

    def search(start: Any, run: Any) -> Any:
        found = real(start, run)
        done.append(len(found.blocks))
        return found

    monkeypatch.setattr(price_path, "_search", search)
    path = closure_path(large_closure(np.random.default_rng(6), 900, 400), n_jobs=2)
    assert len(done) >= 4
    assert sum(done) == len(path.blocks)


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_a_time_limit_reaches_the_workers(backend: str) -> None:
    problem = large_closure(np.random.default_rng(3), 400, 150)
    with joblib.parallel_config(backend=backend):
        path = closure_path(problem, po.Limits(seconds=0.0), n_jobs=2)
    assert not path.complete
    for penalty in (Fraction(0), Fraction(2)):
        assert path.bound(penalty) <= po.solve(replace(problem, penalty=penalty), "min-cut").objective + 1e-9


def test_an_interrupt_keeps_what_was_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = large_closure(np.random.default_rng(5), 600, 700)
    whole = closure_path(problem)
    real, count = price_path._work, [0]

    def work(*arguments: Any) -> Any:
        count[0] += 1
        if count[0] == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(price_path, "_work", work)
    path = closure_path(problem, n_jobs=2)
    assert not path.complete
    assert 1 < len(path.blocks) < len(whole.blocks)
    for penalty in [b.penalty for b in whole.blocks][::5]:
        assert path.bound(penalty) <= float(whole.objective(penalty)) + 1e-9 <= float(path.objective(penalty)) + 2e-9


@pytest.mark.parametrize("n_jobs", [0, 1.5, True])
def test_bad_numbers_of_workers(n_jobs: Any) -> None:
    with pytest.raises(ValueError, match=f"n_jobs must be .* got {n_jobs}"):
        closure_path(Closure.of([1]), n_jobs=n_jobs)


def test_many_prices_are_proven_at_once() -> None:
    problem = large_closure(np.random.default_rng(1), 200, 80)
    path = closure_path(problem)
    penalties = sorted({Fraction(0), Fraction(1, 3), *(b.penalty for b in path.blocks), Fraction(99)})
    proven = path.proven_profits(penalties)
    assert [float(-problem.unit * profit) for profit in proven] == [path.bound(penalty) for penalty in penalties]
    with pytest.raises(ValueError, match="rising"):
        path.proven_profits([Fraction(2), Fraction(1)])


def test_numbers_beyond_62_bits_are_cut_rounded_and_the_gap_says_so() -> None:
    rng = np.random.default_rng(2)
    small = large_closure(rng, 300, 120)
    exact = closure_path(small)
    factor = 2**45
    path = closure_path(replace(small, profit=small.profit * factor, cost=small.cost * factor))
    assert path.stats["rounded cuts"] > 0
    assert [b.penalty for b in path.blocks] == [b.penalty for b in exact.blocks]
    gaps = [path.gap(b.penalty) for b in path.blocks]
    assert all(0 <= gap < 1e-12 for gap in gaps)


def test_overflow_is_refused() -> None:
    problem = Closure.of([2**40, 5], requirements=[[0], [0]], cost=[3], penalty=Fraction(1, 2**30))
    with pytest.raises(ValueError, match=r"less than 2\*\*62 .* use a coarser unit"):
        po.solve(problem, "min-cut")


def test_arcs_are_refused_by_the_path() -> None:
    with pytest.raises(ValueError, match="no arcs besides the forest"):
        closure_path(Closure.of([1, 1], arcs=[(0, 1)]))


def test_a_wrong_path_shows_in_its_gap() -> None:
    problem = large_closure(np.random.default_rng(1), 200, 80)
    path = closure_path(problem)
    first, second, *rest = path.blocks
    none = np.zeros_like(second.multipliers)
    without_proof = replace(path, blocks=(first, second._replace(multipliers=none), *rest))
    assert without_proof.gap(second.penalty) > 0
    swapped = (PathBlock(second.penalty, *first[1:]), PathBlock(first.penalty, *second[1:]), *rest)
    assert max(replace(path, blocks=swapped).gap(p) for p in (first.penalty, second.penalty)) > 0


def test_time_limit_gives_a_coarser_path_with_valid_bounds() -> None:
    problem = large_closure(np.random.default_rng(3), 400, 150)
    path = closure_path(problem, po.Limits(seconds=0.0))
    assert not path.complete
    for penalty in (Fraction(0), Fraction(1, 3), Fraction(2), Fraction(10)):
        best = po.solve(replace(problem, penalty=penalty), "min-cut")
        assert path.bound(penalty) <= best.objective + 1e-9
        assert float(path.objective(penalty)) >= best.objective - 1e-9
        assert path.gap(penalty) >= 0


def interrupt_after(calls: int, monkeypatch: pytest.MonkeyPatch, slice_: int) -> None:
    """Raise SIGINT in the kernel's call number ``calls``, with slices of ``slice_`` arc scans."""
    real, count = kernel.advance, [0]

    def advance(*arguments: Any) -> Any:
        count[0] += 1
        if count[0] == calls:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments[:-1], slice_)

    monkeypatch.setattr(kernel, "advance", advance)


def test_interrupt_returns_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = replace(large_closure(np.random.default_rng(4), 600, 300), penalty=Fraction(1, 2))
    best = po.solve(problem, "min-cut")
    interrupt_after(3, monkeypatch, 50)
    solution = MinCut().solve(problem, po.Limits(), 0)
    assert solution.status is po.Status.FEASIBLE
    assert solution.message.startswith("interrupted")
    assert solution.value is not None
    assert problem.violation(solution.value) == 0
    assert problem.objective(solution.value) == solution.objective >= best.objective
    assert solution.bound <= best.objective
    assert problem.bound(solution.duals) <= best.objective


def test_interrupted_path_is_marked_and_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = large_closure(np.random.default_rng(5), 600, 700)
    whole = closure_path(problem)
    interrupt_after(40, monkeypatch, 10**6)
    path = closure_path(problem)
    assert not path.complete
    assert 1 < len(path.blocks) < len(whole.blocks)
    for penalty in [b.penalty for b in whole.blocks][::5]:
        assert path.bound(penalty) <= float(whole.objective(penalty)) + 1e-9 <= float(path.objective(penalty)) + 2e-9


@pytest.mark.parametrize("seed", range(30))
def test_rounded_paths_stay_nested_and_nearly_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = large_closure(rng, 80, int(rng.integers(40, 120)))
    factor = 2**45
    noisy = replace(
        base,
        profit=base.profit * factor + rng.integers(-3, 4, base.n_items) * (rng.random() < 0.7),
        cost=base.cost * factor + rng.integers(0, 4, base.n_requirements) * (rng.random() < 0.7),
        unit=Fraction(1, factor),
    )
    path = closure_path(noisy)
    assert path.stats["rounded cuts"] > 0
    previous = None
    for penalty in sorted(b.penalty for b in path.blocks):
        kept = path.kept(penalty)
        assert noisy.violation(kept) == 0
        assert previous is None or not np.any(kept & ~previous)
        assert path.objective(penalty) == replace(noisy, penalty=penalty).exact_objective(kept)
        assert path.gap(penalty) < 1e-12
        previous = kept
