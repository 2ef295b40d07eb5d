"""The cut's kernel: a feasible preflow and a valid bound at every stop, exact distances, the largest optimum."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import prunopt as po
from prunopt.core.arrays import Bools
from prunopt.core.solver import Run
from prunopt.forms import Closure
from prunopt.solvers.closure import _push_relabel as kernel
from prunopt.solvers.closure import min_cut as module
from prunopt.solvers.closure.min_cut import NO_GUESS, arcs_merged, integer_capacities
from prunopt.testing import random_closure


class Cut:
    """A cut in progress, and what must hold for it at every moment."""

    def __init__(self, problem: Closure, guess: tuple[NDArray[np.float32], ...] | None = None, unit: float = 1.0):
        self.problem = problem
        self.supply, self.capacity = integer_capacities(problem)
        indptr, indices, _ = arcs_merged(problem)
        self.graph = kernel.build_graph(problem.parent, indptr, indices, problem.n_requirements)
        guess = guess or (NO_GUESS, NO_GUESS, NO_GUESS)
        self.flow = kernel.start_flow(self.graph, self.supply, self.capacity, *guess, unit)

    def advance(self, budget: int) -> bool:
        return kernel.advance(self.graph, self.flow, self.supply, self.capacity, budget)

    @property
    def bound(self) -> Fraction:
        absorbed = int(self.flow.paid.sum()) + int(self.flow.lost.sum())
        missing = absorbed - int(np.maximum(self.supply, 0).sum())
        return self.problem.unit * Fraction(missing, self.problem.penalty.denominator)

    @property
    def chosen(self) -> Bools:
        return np.asarray(self.flow.label[self.problem.n_requirements :] >= kernel.FAR)

    def check(self) -> None:
        """Nothing is lost or made on the way, nothing exceeds its capacity, arcs with flow come first."""
        g, f, w, m = self.graph, self.flow, self.problem.n_requirements, self.problem.n_items
        for amounts in (f.edge, f.up, f.paid, f.lost, f.excess):
            assert np.all(amounts >= 0)
        assert np.all(f.paid <= self.capacity)
        assert np.all(f.lost <= np.maximum(-self.supply, 0))
        assert not np.any(f.up[g.parent < 0])
        owner = w + np.repeat(np.arange(m), np.diff(g.indptr))
        balance = np.concatenate([-f.paid, np.maximum(self.supply, 0) - f.lost - f.up])
        np.subtract.at(balance, owner, f.edge)
        np.add.at(balance, g.indices, f.edge)
        child = np.flatnonzero(g.parent >= 0)
        np.add.at(balance, w + g.parent[child], f.up[child])
        assert np.array_equal(balance, f.excess)
        assert sorted(g.redge) == list(range(len(g.indices)))
        for v in range(w + m):
            arcs = g.redge[g.rptr[v] : g.rptr[v + 1]]
            assert np.all(g.indices[arcs] == v)
            assert np.array_equal(owner[arcs] - w, g.rnode[g.rptr[v] : g.rptr[v + 1]])
            assert np.array_equal(f.edge[arcs] > 0, np.arange(len(arcs)) < f.users[v])

    def distances(self) -> list[int]:
        """Distances from the sink in the residual graph, by a plain search on explicit arcs."""
        g, f, w, m = self.graph, self.flow, self.problem.n_requirements, self.problem.n_items
        tails: list[list[int]] = [[] for _ in range(w + m)]
        for h in range(m):
            heads = [(int(g.indices[e]), f.edge[e]) for e in range(g.indptr[h], g.indptr[h + 1])]
            if g.parent[h] >= 0:
                heads.append((w + int(g.parent[h]), f.up[h]))
            for v, amount in heads:
                tails[v].append(w + h)
                if amount > 0:
                    tails[w + h].append(v)
        near = [*(f.paid < self.capacity), *(f.lost < np.maximum(-self.supply, 0))]
        distance = [1 if n else int(kernel.FAR) for n in near]
        queue = deque(v for v in range(w + m) if near[v])
        while queue:
            v = queue.popleft()
            for u in tails[v]:
                if distance[u] == kernel.FAR:
                    distance[u] = distance[v] + 1
                    queue.append(u)
        return distance


def best_closures(problem: Closure) -> tuple[Fraction, Bools]:
    """The optimum by looking at every set, and the union of all optima, which is the largest one."""
    best, union = Fraction(0), np.zeros(problem.n_items, np.bool_)
    for bits in itertools.product((False, True), repeat=problem.n_items):
        x = np.array(bits, np.bool_)
        if problem.violation(x) > 0:
            continue
        value = problem.exact_objective(x)
        if value < best:
            best, union = value, x
        elif value == best:
            union = union | x
    return best, union


@settings(max_examples=80, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), arcs=st.booleans(), budget=st.integers(1, 40))
def test_every_stop_is_a_preflow_with_a_valid_bound(seed: int, arcs: bool, budget: int) -> None:
    rng = np.random.default_rng(seed)
    problem = random_closure(rng, int(rng.integers(1, 10)), arcs=arcs)
    best, largest = best_closures(problem)
    cut = Cut(problem)
    bounds = [cut.bound]
    cut.check()
    while not cut.advance(budget):
        cut.check()
        bounds.append(cut.bound)
        assert len(bounds) < 10_000
    cut.check()
    bounds.append(cut.bound)
    assert bounds == sorted(bounds), "the flow into the sink never falls"
    assert bounds[-1] == best
    assert np.array_equal(cut.chosen, largest)
    assert cut.flow.label.tolist() == cut.distances()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), arcs=st.booleans(), unit=st.sampled_from([0.0, 0.3, 1.0, 2.5]))
def test_any_guess_leads_to_the_same_cut(seed: int, arcs: bool, unit: float) -> None:
    rng = np.random.default_rng(seed)
    problem = random_closure(rng, int(rng.integers(1, 12)), arcs=arcs)
    cold = Cut(problem)
    while not cold.advance(10**6):
        pass
    n_edges = len(cold.graph.indices)
    sizes = (n_edges, problem.n_items, problem.n_items)
    guess = tuple((rng.random(n) * 30).astype(np.float32) for n in sizes)
    warm = Cut(problem, guess, unit)
    warm.check()
    assert kernel.relabel_globally(warm.graph, warm.flow, warm.supply, warm.capacity) <= n_edges + 99
    assert warm.flow.label.tolist() == warm.distances()
    while not warm.advance(17):
        warm.check()
    assert warm.bound == cold.bound
    assert np.array_equal(warm.chosen, cold.chosen)


def test_an_optimal_guess_leaves_nothing_to_do() -> None:
    problem = replace(random_closure(np.random.default_rng(1), 60), penalty=Fraction(1, 3))
    cold = Cut(problem)
    while not cold.advance(10**6):
        pass
    guess = tuple(a.astype(np.float32) for a in (cold.flow.edge, cold.flow.up, cold.flow.lost))
    warm = Cut(problem, guess)
    assert warm.advance(1)
    assert warm.flow.state[3] == 0, "no vertex is discharged"
    assert np.array_equal(warm.chosen, cold.chosen)


@pytest.mark.parametrize("density", [0.01, 0.3])
def test_labels_are_distances_whichever_way_the_search_goes(density: float) -> None:
    rng = np.random.default_rng(3)
    m, w = 120, 150
    needs = [np.flatnonzero(rng.random(w) < density) for _ in range(m)]
    problem = Closure(
        rng.integers(-5, 30, m),
        np.array([rng.integers(-1, h) if h else -1 for h in range(m)], np.int32),
        np.cumsum([0, *map(len, needs)]),
        np.concatenate(needs).astype(np.int32),
        rng.integers(0, 20, w),
    )
    cut = Cut(problem)
    for _ in range(1000):
        done = cut.advance(500)
        kernel.relabel_globally(cut.graph, cut.flow, cut.supply, cut.capacity)
        assert cut.flow.label.tolist() == cut.distances()
        if done:
            break
    assert done


def test_long_chains_and_wide_stars() -> None:
    n = 3000
    chain = Closure(
        np.where(np.arange(n) == n - 1, n, -1),
        np.arange(-1, n - 1, dtype=np.int32),
        np.zeros(n + 1, np.int64),
        np.zeros(0, np.int32),
        np.zeros(0, np.int64),
    )
    assert po.solve(chain).objective == -1
    assert not np.any(po.solve(replace(chain, profit=np.where(chain.profit > 0, n - 2, -1))).value)
    star = Closure(
        np.where(np.arange(n) == 0, 2 - n, 1),
        np.where(np.arange(n) == 0, -1, 0).astype(np.int32),
        np.array([0] + [1] * n),
        np.zeros(1, np.int32),
        np.array([1]),
    )
    solution = po.solve(star)
    assert solution.objective == 0
    assert np.all(solution.value), "a tie is kept"


@pytest.mark.parametrize("profit", [[-3, -1], [0, 0], [4, -5]])
def test_signs_of_profits(profit: list[int]) -> None:
    problem = Closure.of(profit, arcs=[(1, 0)], requirements=[[0], [1]], cost=[0, 2])
    solution = po.solve(problem)
    best, largest = best_closures(problem)
    assert solution.objective == best
    assert np.array_equal(solution.value, largest)


def test_nothing_to_choose() -> None:
    problem = Closure.of([], cost=[1, 2])
    cut = Cut(problem)
    assert cut.advance(1)
    assert cut.bound == 0
    assert po.solve(problem).value.shape == (0,)


def test_capacities_at_the_edge_of_62_bits() -> None:
    problem = Closure.of([2**60, 2**60], requirements=[[0], [0]], cost=[2**61 - 1])
    cut = Cut(problem)
    while not cut.advance(100):
        pass
    cut.check()
    assert cut.bound == -1
    assert np.all(cut.chosen)
    with pytest.raises(ValueError, match=r"profit times 2 must add up to less than 2\*\*62 .* got 4611686018427387904"):
        integer_capacities(replace(problem, penalty=Fraction(1, 2)))
    with pytest.raises(ValueError, match=r"cost times 3 must add up to less than 2\*\*62"):
        integer_capacities(replace(problem, penalty=Fraction(3)))


def test_stopped_early_min_cut_returns_the_closure_of_its_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items that cannot reach the sink are worth the excess that they hold, while trees alone give nothing here."""
    monkeypatch.setattr(module, "_repair", lambda problem, duals: np.zeros(problem.n_items, np.bool_))
    monkeypatch.setattr(module, "SLICE", 1)
    rng = np.random.default_rng(0)
    n = 300
    needs = [np.unique(rng.integers(0, 200, 3)).tolist() for _ in range(n)]
    problem = Closure.of(rng.integers(1, 40, n), requirements=needs, cost=rng.integers(0, 60, 200))
    best, found = po.solve(problem).objective, 0.0
    for looks in range(1, 400):
        limits = po.Limits(evaluations=10**9)
        run = _Looks(limits, looks)
        monkeypatch.setattr(module, "Run", lambda _, run=run: run)
        answer = module.MinCut().solve(problem, limits, 0)
        assert problem.violation(answer.value) == 0
        assert answer.bound <= best <= answer.objective
        if answer.status is po.Status.FEASIBLE:
            found = min(found, answer.objective)
    assert found < 0


class _Looks(Run):
    """Out of time after a number of looks at the clock."""

    def __init__(self, limits: po.Limits, looks: int) -> None:
        super().__init__(limits)
        self.left = looks

    @property
    def out_of_time(self) -> bool:
        self.left -= 1
        return self.left < 0
