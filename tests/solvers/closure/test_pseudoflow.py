"""Normalized trees: a preflow at every stop, the closure of a minimum cut at the end, and what they save."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunopt as po
from prunopt.forms import Closure
from prunopt.solvers.closure import _pseudoflow as normalized
from prunopt.solvers.closure import _push_relabel as kernel
from prunopt.solvers.closure import min_cut as module
from prunopt.solvers.closure.min_cut import arcs_merged
from tests.solvers.closure.test_closure_kernels import Cut, best_closures


def digraph(rng: np.random.Generator, n: int, n_arcs: int) -> Closure:
    """Profits with ties and zeros; arcs any way round, circles and doubles among them."""
    arcs = rng.integers(0, n, (n_arcs, 2))
    return Closure.of(
        rng.integers(-6, 7, n), requirements=[[] for _ in range(n)], cost=[], arcs=arcs[arcs[:, 0] != arcs[:, 1]]
    )


def trees_of(problem: Closure) -> tuple[Cut, normalized.NormalizedTrees]:
    cut = Cut(problem)
    return cut, normalized.NormalizedTrees(cut.supply, problem.parent, problem.arcs, arcs_merged(problem))


def put(trees: normalized.NormalizedTrees, cut: Cut) -> None:
    """Hand the trees' flow over, and hold it against what a preflow is."""
    trees.hand_over(arcs_merged(cut.problem)[2], cut.graph, cut.flow, cut.supply)
    cut.check()


@settings(max_examples=120, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), budget=st.integers(1, 12), stop=st.integers(0, 30))
def test_every_stop_is_a_preflow_that_push_relabel_ends(seed: int, budget: int, stop: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 11))
    problem = digraph(rng, n, int(rng.integers(1, 4 * n)))
    best, largest = best_closures(problem)
    cut, trees = trees_of(problem)
    looks = 0
    while looks < stop and not trees.advance(budget):
        looks += 1
    put(trees, cut)
    assert cut.bound <= best
    while not cut.advance(50):
        pass
    cut.check()
    assert cut.bound == best
    assert np.array_equal(cut.chosen, largest)


@pytest.mark.parametrize("seed", range(40))
def test_trees_alone_reach_the_maximum(seed: int) -> None:
    """Push-relabel has nothing left to do but to find what cannot reach the sink."""
    rng = np.random.default_rng(seed)
    problem = digraph(rng, 200, int(rng.integers(100, 1500)))
    cut, trees = trees_of(problem)
    while not trees.advance(1000):
        pass
    put(trees, cut)
    assert cut.advance(1)
    assert cut.flow.state[3] == 0, "no discharge"
    assert cut.bound == problem.exact_objective(cut.chosen) == po.solve(problem).objective


def test_labels_fall_towards_the_roots_and_items_inside_hold_nothing() -> None:
    rng = np.random.default_rng(3)
    found = trees_of(digraph(rng, 300, 900))[1]
    trees = found.trees
    for _ in range(10_000):
        done = found.advance(5)
        inside = np.flatnonzero(trees.parent >= 0)
        assert not trees.excess[inside].any()
        assert np.all(trees.label[inside] >= trees.label[trees.parent[inside]])
        assert np.array_equal(np.bincount(trees.label, minlength=300)[:300], trees.labelled[:300])
        on_trees = np.zeros(len(trees.flow), np.bool_)
        on_trees[trees.arc[inside]] = True
        assert not trees.flow[~on_trees].any()
        if done:
            return
    raise AssertionError("the trees did not come to an end")


def test_a_long_chain_takes_steps_in_proportion_to_its_length() -> None:
    """One item at the bottom pays for all: a tree carries its excess over any height at once."""
    n = 20_000
    problem = Closure.of(
        [n] + [-1] * (n - 1), requirements=[[]] * n, cost=[], arcs=np.column_stack([np.arange(n - 1), np.arange(1, n)])
    )
    trees = trees_of(problem)[1]
    looks = 0
    while not trees.advance(n):
        looks += 1
    assert looks < 100
    assert po.solve(problem).objective == -1


@pytest.mark.parametrize("looks", [0, 1, 3])
def test_stopped_among_the_trees_min_cut_states_a_valid_bound(looks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = digraph(np.random.default_rng(1), 400, 1200)
    best = po.solve(problem).objective
    monkeypatch.setattr(module, "SLICE", 100)
    calls, advance = iter(range(10**6)), normalized.NormalizedTrees.advance

    def stopped(trees: normalized.NormalizedTrees, budget: int) -> bool:
        if next(calls) >= looks:
            raise KeyboardInterrupt
        return advance(trees, budget)

    monkeypatch.setattr(normalized.NormalizedTrees, "advance", stopped)
    answer = po.solve(problem, "min-cut")
    assert answer.bound <= best <= answer.objective <= 0
    assert answer.status is po.Status.FEASIBLE
    assert "interrupted" in answer.message


def test_ctrl_c_while_a_cut_is_prepared_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba boxes named tuples by Python code; an interruption there was a segmentation fault."""
    build = kernel.build_graph

    def pressed(*arguments: object) -> object:
        signal.raise_signal(signal.SIGINT)
        return build(*arguments)

    monkeypatch.setattr(kernel, "build_graph", pressed)
    problem = digraph(np.random.default_rng(1), 40, 120)
    answer = po.solve(problem, "min-cut")
    assert "interrupted" in answer.message
    assert answer.bound <= answer.objective <= 0
