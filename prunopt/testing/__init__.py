"""The conformance suite: every registered solver against every instance of every form that it solves.

A new solver needs no test of its own to be held to the rules: ``conformance_cases()`` finds it in the registry, and
`check` runs it. A package with solvers of its own parametrizes one test::

    @pytest.mark.parametrize("case", prunopt.testing.conformance_cases(solver="my-solver"), ids=str)
    def test_conformance(case):
        prunopt.testing.check(case)

A new form joins by a generator of instances in `INSTANCES`.
"""

from __future__ import annotations

import atexit
import itertools
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from prunopt.api import solve, verify
from prunopt.core.registry import load_solvers
from prunopt.core.solution import CertificateError, Solution, SolveError, Status
from prunopt.core.solver import Limits, Solver, by_name, registered
from prunopt.core.validate import Shown, require, whole_number
from prunopt.forms import (
    BlackBox,
    BudgetedClosure,
    Closure,
    ClosureOnDisk,
    CoupledKnapsack,
    EnumerableChoice,
    LevelSearch,
    LinearProgram,
    MaskBlocks,
    MultipleChoiceKnapsack,
    QuadraticKnapsack,
    QuadraticSubset,
    RelaxedMask,
    SubsetSum,
    TileColumns,
    TransposableMask,
)
from prunopt.testing.choices import coupled_knapsacks, tile_columns
from prunopt.testing.layers import mask_blocks, quadratic_subsets, transposable_masks
from prunopt.testing.relaxed import relaxed_masks
from prunopt.testing.searches import black_boxes, knapsacks, level_searches
from prunopt.testing.subsets import quadratic_knapsacks, subset_choices

TOLERANCE = 1e-7


@dataclass(frozen=True)
class Instance:
    """A small problem whose optimum is known by brute force; ``optimum`` is None where it is infeasible."""

    name: str
    problem: Any
    optimum: float | None


@dataclass(frozen=True)
class Case:
    """One solver on one instance."""

    solver: Solver[Any]
    instance: Instance

    def __str__(self) -> str:
        return f"{self.solver.name}-{type(self.instance.problem).__name__}-{self.instance.name}"


def brute_force_closure(problem: Closure) -> float:
    """Return the optimum of a closure of at most 16 items by looking at every set."""
    whole_number("n_items", problem.n_items, high=16, mend="brute force looks at every set of items")
    values = (np.array(bits, np.bool_) for bits in itertools.product((False, True), repeat=problem.n_items))
    return min(problem.objective(x) for x in values if problem.violation(x) == 0)


def brute_force_budget(problem: BudgetedClosure) -> float:
    """Return the optimum of a budgeted closure of at most 16 items by looking at every set."""
    values = (np.array(bits, np.bool_) for bits in itertools.product((False, True), repeat=problem.closure.n_items))
    return min(problem.objective(x) for x in values if problem.violation(x) == 0)


def brute_force_linear(problem: LinearProgram) -> float | None:
    """Return the optimum of a linear program in a bounded box by looking at every vertex; None if there is none."""
    n = len(problem.c)
    rows = np.vstack([problem.A.toarray(), -np.eye(n), np.eye(n)])
    sides = np.concatenate([problem.b, np.zeros(n), problem.upper])
    best = math.inf
    for chosen in itertools.combinations(np.flatnonzero(np.isfinite(sides)), n):
        square = rows[list(chosen)]
        if abs(np.linalg.det(square)) < 1e-9:
            continue
        x = np.linalg.solve(square, sides[list(chosen)])
        if problem.violation(x) <= 1e-9:
            best = min(best, problem.objective(x))
    return None if math.isinf(best) else best


def brute_force_subset_sum(problem: SubsetSum) -> float | None:
    """Return the optimum of a subset sum of at most 12 candidates by adding up every subset, as exact fractions."""
    whole_number("n_candidates", problem.n_candidates, high=12, mend="brute force adds up every subset")
    shape, total = (problem.n_targets, problem.n_candidates), 0
    for target, row in zip(problem.targets, np.broadcast_to(problem.candidates, shape), strict=True):
        items = [Fraction(a) for a in row.tolist()]
        sizes = (
            sum(bits)
            for bits in itertools.product((0, 1), repeat=len(items))
            if abs(sum(a for a, b in zip(items, bits, strict=True) if b) - Fraction(float(target)))
            <= Fraction(problem.epsilon)
        )
        least = min(sizes, default=None)
        if least is None:
            return None
        total += least
    return float(total)


def random_closure(rng: np.random.Generator, n_items: int, *, arcs: bool = False) -> Closure:
    """Return a random closure: a forest, shared requirements, profits of both signs, a rational penalty."""
    n_requirements = int(rng.integers(0, 8))
    parent = np.array([rng.integers(-1, h) if h else -1 for h in range(n_items)], np.int32)
    needs = [sorted(np.flatnonzero(rng.random(n_requirements) < 0.35).tolist()) for _ in range(n_items)]
    pairs = rng.integers(0, max(n_items, 1), (int(rng.integers(0, 5)), 2)) if arcs and n_items else np.zeros((0, 2))
    return Closure(
        rng.integers(-6, 10, n_items),
        parent,
        np.cumsum([0, *map(len, needs)]),
        np.array([j for r in needs for j in r], np.int32),
        rng.integers(0, 9, n_requirements),
        penalty=Fraction(int(rng.integers(0, 7)), int(rng.integers(1, 6))),
        unit=Fraction(1, int(rng.integers(1, 50))),
        arcs=pairs.astype(np.int32),
    )


def closures() -> Iterator[Instance]:
    """Closures: random forests of items, general arcs, ties, free and empty ones."""
    yield Instance("large", Closure.of([2**55, -(2**54)], arcs=[(0, 1)]), -float(2**54))
    rng = np.random.default_rng(7)
    for k in range(12):
        problem = random_closure(rng, int(rng.integers(1, 11)))
        yield Instance(f"forest-{k}", problem, brute_force_closure(problem))
    for k in range(6):
        problem = random_closure(rng, int(rng.integers(2, 9)), arcs=True)
        yield Instance(f"arcs-{k}", problem, brute_force_closure(problem))
    shared = Closure.of([3, 3, 3], requirements=[[0], [0], [0]], cost=[8])
    yield Instance("shared", shared, brute_force_closure(shared))
    tie = Closure.of([2, 2], requirements=[[0], [0]], cost=[4])
    yield Instance("tie", tie, 0.0)
    yield Instance("free", replace(shared, penalty=Fraction(0)), -9.0)
    yield Instance("fractions", Closure.of([0.5, Fraction(1, 3)], requirements=[[0], [0]], cost=[0.75]), -1 / 12)
    yield Instance("empty", Closure.of([]), 0.0)


def on_disk(problem: Closure, folder: str | os.PathLike[str], n_chunks: int = 3) -> ClosureOnDisk:
    """Write a closure without arcs to a folder, its requirements dealt out to chunks in turn."""
    require(not len(problem.arcs), "problem", "be a forest without other arcs", Shown(f"{len(problem.arcs)} arcs"))
    owner = np.repeat(np.arange(problem.n_items), np.diff(problem.indptr))
    chunks = []
    for k in range(n_chunks):
        mine = problem.indices % n_chunks == k
        indptr = np.concatenate([[0], np.cumsum(np.bincount(owner[mine], minlength=problem.n_items))])
        chunks.append((indptr, problem.indices[mine] // n_chunks, problem.cost[k::n_chunks]))
    return ClosureOnDisk.write(
        folder, problem.profit, problem.parent, chunks, penalty=problem.penalty, unit=problem.unit
    )


def closures_on_disk() -> Iterator[Instance]:
    """Closures in folders of their own, which go when the process ends."""
    root = tempfile.mkdtemp(prefix="prunopt-closures-")
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    for instance in closures():
        if not len(instance.problem.arcs):
            place = os.path.join(root, instance.name)
            yield Instance(instance.name, on_disk(instance.problem, place), instance.optimum)


def linear_programs() -> Iterator[Instance]:
    """Linear programs: random boxes with rows, without rows, degenerate, infeasible."""
    rng = np.random.default_rng(11)
    for k in range(10):
        n, r = int(rng.integers(1, 4)), int(rng.integers(0, 4))
        A, b = rng.integers(-4, 5, (r, n)).astype(float), rng.integers(0, 9, r).astype(float)
        problem = LinearProgram(rng.integers(-5, 6, n).astype(float), A, b, upper=float(rng.integers(1, 4)))
        yield Instance(f"random-{k}", problem, brute_force_linear(problem))
    tiny = LinearProgram([-1e-6, -3e-6], [[1.0, 1.0]], [1.0])
    yield Instance("tiny costs", tiny, -3e-6)
    yield Instance("infeasible", LinearProgram([1.0, 1.0], [[-1.0, -1.0]], [-3.0]), None)


def budgeted_closures() -> Iterator[Instance]:
    """Closures under a budget: tight, loose and zero ones."""
    rng = np.random.default_rng(13)
    for k in range(14):
        closure = random_closure(rng, int(rng.integers(1, 11)))
        problem = BudgetedClosure(closure, closure.unit * int(rng.integers(0, 20)) if k % 4 else 0)
        yield Instance(f"budget-{k}", problem, brute_force_budget(problem))
    knapsack = Closure.of([7, 8, 9], requirements=[[0], [1], [2]], cost=[4, 5, 6])
    yield Instance("knapsack", BudgetedClosure(knapsack, 10), -16.0)


def subset_sums() -> Iterator[Instance]:
    """Subset sums: shared and own candidates, sums exactly at the tolerance, duplicates, targets out of reach."""
    rng = np.random.default_rng(13)
    for k in range(12):
        m, n, own = int(rng.integers(1, 6)), int(rng.integers(6, 10)), bool(k % 2)
        candidates = rng.uniform(-1, 1, (m, n) if own else n)
        problem = SubsetSum(rng.uniform(-1, 1, m), candidates, float(rng.choice([0.02, 0.1, 0.3])))
        yield Instance(f"{'own' if own else 'shared'}-{k}", problem, brute_force_subset_sum(problem))
    for k in range(6):
        m, n = int(rng.integers(1, 5)), int(rng.integers(1, 8))
        problem = SubsetSum(rng.integers(-8, 9, m) / 4, rng.integers(-5, 6, n) / 4, 0.25)
        yield Instance(f"quarters-{k}", problem, brute_force_subset_sum(problem))
    yield Instance("at the tolerance", SubsetSum([1.0, -1.0], [[0.75, 0.5], [-1.25, -0.5]], 0.25), 2.0)
    yield Instance("nothing kept", SubsetSum([0.0, 0.1, -0.1], [1.0, -1.0], 0.125), 0.0)
    yield Instance("cancelling", SubsetSum([0.25], [4.0, -3.75, 1.0], 0.125), 2.0)
    yield Instance("all of them", SubsetSum([6.0], [1.0, 2.0, 3.0], 0.5), 3.0)
    yield Instance("beyond the sum", SubsetSum([0.5, 9.0], [1.0, 2.0, 0.5], 0.25), None)
    yield Instance("between the sums", SubsetSum([1.5], [1.0, 2.0], 0.25), None)
    yield Instance("wrong sign", SubsetSum([-1.0], [1.0, 2.0], 0.25), None)
    yield Instance("empty", SubsetSum(np.zeros(0), [1.0], 0.5), 0.0)


INSTANCES: dict[type, Callable[[], Iterator[Instance]]] = {
    CoupledKnapsack: lambda: (Instance(*row) for row in coupled_knapsacks()),
    TileColumns: lambda: (Instance(*row) for row in tile_columns()),
    MultipleChoiceKnapsack: lambda: (Instance(*row) for row in knapsacks()),
    BlackBox: lambda: (Instance(*row) for row in black_boxes()),
    EnumerableChoice: lambda: (Instance(*row) for row in subset_choices()),
    QuadraticKnapsack: lambda: (Instance(*row) for row in quadratic_knapsacks()),
    LevelSearch: lambda: (Instance(*row) for row in level_searches()),
    Closure: closures,
    ClosureOnDisk: closures_on_disk,
    LinearProgram: linear_programs,
    BudgetedClosure: budgeted_closures,
    SubsetSum: subset_sums,
    RelaxedMask: lambda: (Instance(*row) for row in relaxed_masks()),
    QuadraticSubset: lambda: (Instance(*row) for row in quadratic_subsets()),
    MaskBlocks: lambda: (Instance(*row) for row in mask_blocks()),
    TransposableMask: lambda: (Instance(*row) for row in transposable_masks()),
}
_MADE: dict[type, tuple[Instance, ...]] = {}


def instances_for(solver: type[Solver[Any]]) -> Iterator[Instance]:
    """Return the instances of every form that a solver accepts."""
    for form in INSTANCES:
        if issubclass(form, solver.form):
            yield from instances_of(form)


def instances_of(form: type) -> tuple[Instance, ...]:
    """Return the instances of a form; they are made once, for problems do not change."""
    if form not in _MADE:
        _MADE[form] = tuple(INSTANCES[form]())
    return _MADE[form]


def conformance_cases(solver: str | None = None) -> list[Case]:
    """Return the cases of one solver by name, or of every registered solver that can run here."""
    load_solvers()
    chosen = [by_name(solver)] if solver is not None else registered()
    return [
        Case(s(), instance)
        for s in chosen
        if not s.why_not()
        for instance in instances_for(s)
        if not s.why_not_on(instance.problem)
    ]


def check(case: Case) -> None:
    """Hold a solver to every rule on one instance; AssertionError says which rule it broke."""
    solver, problem, optimum = case.solver, case.instance.problem, case.instance.optimum
    if optimum is None:
        _check_infeasible(solver, problem)
        return
    limits = Limits() if solver.exact else Limits(evaluations=50)
    solution = solve(problem, solver, limits=limits, seed=1)
    _check_answer(solver, problem, solution, optimum)
    if solver.exact:
        assert solution.status is Status.OPTIMAL, f"an exact solver ended {solution.status.name}: {solution.message}"
        assert _close(solution.objective, optimum), f"objective {solution.objective}, brute force {optimum}"
    again = solve(problem, solver, limits=limits, seed=1)
    assert _same(solution.value, again.value), "the same seed gave two answers"
    assert solution.bound == again.bound, "the same seed gave two bounds"
    _check_limits(solver, problem, optimum)
    _check_rejections(problem, solution)


def _check_answer(solver: Solver[Any], problem: Any, solution: Solution[Any], optimum: float) -> None:
    assert solution.solver == solver.name, f"the answer is signed {solution.solver!r}"
    assert problem.violation(solution.value) <= 1e-6, "the value is infeasible"
    assert _close(problem.objective(solution.value), solution.objective), "the objective is not that of the value"
    scale = TOLERANCE * max(1.0, abs(optimum))
    assert solution.objective >= optimum - scale, f"objective {solution.objective} is below the optimum {optimum}"
    assert solution.bound <= optimum + scale, f"bound {solution.bound} is above the optimum {optimum}"
    objectives = [step.objective for step in solution.trace]
    bounds = [step.bound for step in solution.trace]
    assert objectives == sorted(objectives, reverse=True), "the trace's objective rises"
    assert bounds == sorted(bounds), "the trace's bound falls"
    verify(problem, solution)


def _check_limits(solver: Solver[Any], problem: Any, optimum: float) -> None:
    """With no time at all a solver may fail, but must not lie."""
    for limits in (Limits(seconds=0.0), Limits(evaluations=0)):
        solution = solve(problem, solver, limits=limits, seed=1, throw=False)
        assert solution.status is not Status.INFEASIBLE, "out of time was reported as infeasible"
        if solution.status.has_value:
            _check_answer(solver, problem, solution, optimum)


def _check_rejections(problem: Any, solution: Solution[Any]) -> None:
    """A forged answer must not pass."""
    size = max(1.0, abs(solution.objective))
    forged = {
        "objective": replace(solution, objective=solution.objective - 0.1 * size),
        "bound": replace(solution, bound=solution.objective + 0.1 * size),
        "no value": replace(solution, value=None),
    }
    for what, forgery in forged.items():
        try:
            verify(problem, forgery)
        except CertificateError:
            continue
        raise AssertionError(f"a forged solution passed: {what}")


def _check_infeasible(solver: Solver[Any], problem: Any) -> None:
    solution = solve(problem, solver, throw=False)
    assert solution.status is Status.INFEASIBLE, f"an infeasible problem ended {solution.status.name}"
    assert solution.value is None, "an infeasible problem has a value"
    verify(problem, solution)
    raised: SolveError | None = None
    try:
        solve(problem, solver)
    except SolveError as error:
        raised = error
    assert raised is not None, "solve did not raise SolveError"
    assert raised.solution.status is Status.INFEASIBLE, "SolveError carries another status"


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= TOLERANCE * max(1.0, abs(a), abs(b))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return bool(np.array_equal(a, b))
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)
