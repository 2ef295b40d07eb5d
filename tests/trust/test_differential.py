"""Every exact solver against brute force and integer programming, on random problems of every order of magnitude."""

from __future__ import annotations

import gc
import math
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import prunopt as po
import prunopt.forms
from prunopt.core.registry import load_solvers
from prunopt.core.solver import Limits, by_name, solvers_for
from prunopt.forms import (
    BudgetedClosure,
    Closure,
    MaskBlocks,
    MultipleChoiceKnapsack,
    QuadraticKnapsack,
    SubsetSum,
    TileColumns,
)
from prunopt.forms.linear_program import LinearProgram
from prunopt.testing import Instance
from prunopt.testing.searches import brute_force_choice
from tests.support.faults import Liar, is_wrong
from tests.support.random_problems import GENERATORS, random_instance

ENGINES = ("pulp", "highs-milp")


def exact(form: str) -> list[Any]:
    load_solvers()
    able = [s() for s in solvers_for(getattr(prunopt.forms, form.partition(" ")[0])) if not s.why_not()]
    return [s for s in able if s.exact] or able


def differs(instance: Instance, solver: Any, scale: float) -> str:
    answer = po.solve(instance.problem, solver, limits=None if solver.exact else Limits(evaluations=20), throw=False)
    wrong = is_wrong(instance.problem, instance.optimum, answer)
    if wrong or not solver.exact:
        return wrong
    if instance.optimum is None:
        return "" if answer.status is po.Status.INFEASIBLE else answer.status.name
    if answer.status is not po.Status.OPTIMAL:
        return answer.status.name
    unit = max(abs(instance.optimum), 1e-3 * scale)
    return "" if answer.objective <= instance.optimum + 1e-6 * unit else f"{answer.objective}, not {instance.optimum}"


@pytest.mark.parametrize("form", GENERATORS)
@pytest.mark.parametrize("rough", [False, True], ids=["plain", "scaled"])
def test_solvers_agree_with_brute_force(form: str, rough: bool) -> None:
    for k in range(40):
        scale = 10.0 ** (k % 25 - 12) if rough else 1.0
        instance = random_instance(form, k, scale=scale, rough=rough)
        for solver in exact(form):
            if solver.why_not_on(instance.problem) or (solver.name in (*ENGINES, "obs-branch-and-bound") and k % 10):
                continue
            assert not differs(instance, solver, scale), f"seed {k}: {solver.name}"


def test_a_wrong_solver_is_noticed() -> None:
    instance = Instance("two levels", MultipleChoiceKnapsack([[1.0, 0.0]], [[0, 1]], 1), 0.0)
    honest = po.solve(instance.problem)
    assert not differs(instance, Liar(honest, honest.solver, MultipleChoiceKnapsack), 1.0)
    forged = replace(honest, value=np.array([0]), objective=1.0)
    assert differs(instance, Liar(forged, honest.solver, MultipleChoiceKnapsack), 1.0)


# What the long runs of benchmarks/trust.py, and the fault injection, have found: each was accepted or wrong once.


def test_leaves_of_a_tree_hold_decisions_only() -> None:
    problem = QuadraticKnapsack([1.0, -2.0], np.zeros((2, 2)), [1.0, 1.0], 2.0)
    honest = po.solve(problem)
    leaves = np.asarray(honest.duals["leaves"], np.int8)
    with pytest.raises(po.CertificateError, match="0, 1, or -1"):
        problem.bound({**honest.duals, "leaves": leaves * 2})


@pytest.mark.parametrize("size", [1.0, 1e9])
def test_a_large_objective_does_not_excuse_a_broken_constraint(size: float) -> None:
    """The allowance for rounding once grew with the objective: at 1e9, 1000 weights too many were feasible."""
    problem = MaskBlocks(np.ones((2, 4)) * size, np.eye(4) * size, pattern=(2, 4))
    honest = po.solve(problem, "magnitude")
    mask = honest.value.copy()
    mask[0, np.argmin(mask[0])] = True
    forged = replace(honest, value=mask, objective=problem.objective(mask), bound=-math.inf, status=po.Status.FEASIBLE)
    with pytest.raises(po.CertificateError, match="breaks the constraints"):
        po.verify(problem, forged)
    with pytest.raises(po.CertificateError, match="breaks the constraints"):
        po.solve(problem, Liar(forged, "magnitude", MaskBlocks))


def test_tiny_objectives_are_not_all_optimal() -> None:
    """A gap is relative to the size of the problem where that is below 1: once everything below 1e-9 was optimal."""
    closure = Closure.of([7, 8, 9], requirements=[[0], [1], [2]], cost=[4, 5, 6])
    tiny = BudgetedClosure(replace(closure, unit=closure.unit / 10**13, cost_unit=closure.unit), 10)
    solution = po.solve(tiny)
    assert solution.objective == pytest.approx(-16e-13, rel=1e-12)
    tiles = TileColumns(np.array([[3.0, 1.0], [2.0, 1.5]]) * 1e-13, [0, 1], [2, 2], [[0.0, 1.0, 2.0]] * 2, 3.0, 1)
    worse, best = po.solve(tiles, "dcp"), po.solve(tiles)
    assert best.status is po.Status.OPTIMAL
    assert worse.status is not po.Status.OPTIMAL or worse.objective <= best.objective * (1 + 1e-6)


def test_a_bound_without_proof_is_not_taken_over() -> None:
    problem = SubsetSum([1.0], [[0.5, 0.5, 1.0]], 0.1)
    honest = po.solve(problem)
    two = np.array([[True, True, False]])
    forged = replace(honest, value=two, objective=2.0, bound=2.0, duals={})
    answer = po.solve(problem, Liar(forged, honest.solver, SubsetSum))
    assert (answer.status, answer.bound) == (po.Status.FEASIBLE, -math.inf)
    assert "without a proof" in answer.message
    with pytest.raises(po.CertificateError, match="states the bound"):
        po.verify(problem, forged)


def test_infeasible_without_proof_is_held_against_another_solver() -> None:
    from prunopt.core.solution import Solution

    problem = LinearProgram([1.0], [[1.0]], [1.0])
    for status in (po.Status.INFEASIBLE, po.Status.UNBOUNDED):
        lie = Liar(Solution(status, None, solver="highs"), "highs", LinearProgram)
        with pytest.raises(po.CertificateError, match="says"):
            po.solve(problem, lie, throw=False)


def test_the_claim_of_a_tile_search_is_counted_again() -> None:
    problem = TileColumns([[4.0, 3.0, 2.0, 1.0]] * 2, [0, 1], [4, 4], [[0, 1, 2], [0, 1, 2]], 2.0, 2)
    honest = po.solve(problem, "tile-dp")
    assert problem.bound(honest.duals) == honest.objective == 6.0
    assert problem.bound({**honest.duals, "claim": 100.0}) <= 6.0


@pytest.mark.parametrize(("form", "seed"), [("CoupledKnapsack", 260), ("SubsetSum", 860)])
def test_engines_do_not_cut_off_the_optimum(form: str, seed: int) -> None:
    """CBC's integer preprocessing did: it called answers optimal that were not."""
    load_solvers()
    instance = random_instance(form, seed)
    for engine in ENGINES:
        assert not differs(instance, by_name(engine)(), 1.0)


@pytest.mark.parametrize(
    ("form", "names", "seeds"),
    [
        ("MultipleChoiceKnapsack", ("penalty",), (5, 110, 118)),
        ("TileColumns", ("latency", "kept"), (0, 1, 2)),
        ("CoupledKnapsack", ("multiplier",), (1326, 4142, 4303)),
    ],
)
def test_large_multipliers_prove_nothing_false(form: str, names: tuple[str, ...], seeds: tuple[int, ...]) -> None:
    """Losses drown in multiplier * cost; what rounding adds then must not count as proven."""
    for seed in (*seeds, *range(20)):
        instance = random_instance(form, seed)
        if instance.optimum is None:
            continue
        for multiplier in 10.0 ** np.arange(0, 19):
            for more in ({}, {"claim": instance.optimum + 0.5}):
                proven = instance.problem.bound({**dict.fromkeys(names, multiplier), **more})
                assert proven <= instance.optimum + 1e-12 * max(1.0, abs(instance.optimum)), (seed, multiplier, more)


def test_false_claims_on_whole_losses_prove_nothing() -> None:
    """The Lagrangian bound was rounded up before partial choices were added to it: half of these were "proven"."""
    rng = np.random.default_rng(0)
    for _ in range(150):
        groups, levels = int(rng.integers(2, 6)), int(rng.integers(2, 4))
        loss = rng.integers(-9, 9, (groups, levels)).astype(float) * int(rng.integers(1, 3))
        problem = MultipleChoiceKnapsack(loss, rng.integers(0, 9, (groups, levels)), int(rng.integers(0, 5 * groups)))
        best = brute_force_choice(problem)
        if best is None:
            continue
        for penalty in (0.0, 0.3, 0.5, 0.77, 1.0, 2.1):
            for more in (0.5, 1.0, 2.0, 5.0):
                assert problem.bound({"penalty": penalty, "claim": best + more}) <= best
            assert problem.bound({"penalty": penalty, "claim": best}) <= best


def test_coupled_dp_on_a_circle_at_the_least_budget() -> None:
    """Its relaxation raised the multiplier to 3e14, where rounding "proved" more than the optimum."""
    load_solvers()
    for seed in (1326, 4142, 4303, 5499, 8066):
        assert not differs(random_instance("CoupledKnapsack", seed), by_name("coupled-dp")(), 1.0)


def test_a_budget_of_tiny_costs_binds_in_engines() -> None:
    """Costs of 1e-12 were within the engines' tolerance of a row, and the answer no optimum."""
    load_solvers()
    instance = random_instance("QuadraticKnapsack", 80, scale=1e-7, rough=True)
    for engine in ENGINES:
        assert not differs(instance, by_name(engine)(), 1e-7)


def growth(solve: Any, rounds: int = 24) -> int:
    """Bytes held after two rounds of solves more than after one; a round before them fills caches."""
    held = []
    for _ in range(3):
        for k in range(rounds):
            solve(random_instance(list(GENERATORS)[k % len(GENERATORS)], k).problem)
        gc.collect()
        if not tracemalloc.is_tracing():
            tracemalloc.start()
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    return held[2] - held[1]


def test_no_solve_leaves_memory_behind() -> None:
    """Two solves of every form, after as many that fill caches; `benchmarks/trust.py soak` makes it 600."""
    assert growth(lambda problem: po.solve(problem, throw=False)) < 200_000


def test_a_solver_that_keeps_its_problems_is_noticed() -> None:
    kept: list[Any] = []
    assert growth(lambda _: kept.append(np.zeros(2_000))) > 200_000


SAME = """
import hashlib, sys
import numpy as np
import prunopt as po
from tests.support.random_problems import GENERATORS, random_instance
planted, out = sys.argv[1], hashlib.sha256()
if planted == "hashing":  # what a solver does that walks through a set of names
    out.update("".join({f"layer {k}" for k in range(20)}).encode())
if planted == "clock":
    import time
    out.update(str(time.time_ns()).encode())
if planted == "entropy":
    out.update(np.random.default_rng().bytes(8))
for form in GENERATORS:
    for k in range(4 if planted == "nothing" else 0):
        s = po.solve(random_instance(form, k).problem, throw=False, seed=5)
        out.update(repr((form, s.value, s.objective, s.bound, s.status)).encode())
print(out.hexdigest())
"""


@pytest.mark.parametrize(("planted", "different"), [("nothing", 1), ("hashing", 2), ("clock", 2), ("entropy", 2)])
def test_same_seed_same_bytes_across_processes_and_threads(planted: str, different: int) -> None:
    """Also with another order of hashing, which sets and dictionaries of texts follow; what is planted shows."""
    found = set()
    for threads, hashing in (("1", "0"), ("2", "1")):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
        env = {**os.environ, **dict.fromkeys(names, threads), "PYTHONHASHSEED": hashing}
        line = [sys.executable, "-c", SAME, planted]
        done = subprocess.run(line, capture_output=True, text=True, env=env, check=True)
        found.add(done.stdout)
    assert len(found) == different
