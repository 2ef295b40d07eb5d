"""Budgets met exactly: against brute force, against the 0-1 program, and with a proof that covers every branch."""

from __future__ import annotations

import itertools
import math
import signal
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunopt as po
from prunopt.forms import BudgetedClosure, Closure
from prunopt.forms.closure.closure import exact_sum
from prunopt.solvers.closure import budget_branch_and_bound as module
from prunopt.solvers.closure.budget_branch_and_bound import BudgetBranchAndBound
from prunopt.solvers.closure.parametric_cut import closure_path
from prunopt.testing import brute_force_budget, random_closure


def problem_of(seed: int, n_items: int = 60, share: float = 0.3) -> BudgetedClosure:
    rng = np.random.default_rng(seed)
    parent = np.array([rng.integers(h - h % 10, h) if h % 10 else -1 for h in range(n_items)], np.int32)
    needs = [np.unique(np.clip(h + rng.integers(-6, 7, rng.integers(0, 6)), 0, n_items - 1)) for h in range(n_items)]
    closure = Closure(
        rng.integers(-20, 40, n_items),
        parent,
        np.cumsum([0, *map(len, needs)]),
        np.concatenate(needs).astype(np.int32),
        rng.integers(0, 30, n_items),
        unit=Fraction(1, 7),
    )
    return BudgetedClosure(closure, closure.unit * int(share * exact_sum(closure.cost)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    closure = random_closure(rng, int(rng.integers(1, 10)))
    problem = BudgetedClosure(closure, closure.unit * int(rng.integers(0, 25)))
    solution = po.solve(problem)
    assert solution.status is po.Status.OPTIMAL
    assert solution.objective == pytest.approx(brute_force_budget(problem), abs=1e-12)
    po.verify(problem, solution)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.4, 0.7, 1.0])
def test_the_01_program_with_the_budget_row(share: float) -> None:
    problem = problem_of(1, share=share)
    solution, other = po.solve(problem), po.solve(problem, "pulp")
    assert solution.objective == pytest.approx(other.objective, abs=1e-9)
    assert solution.gap == 0
    assert problem.cost(solution.value) <= problem.budget


def test_the_proof_covers_every_branch() -> None:
    problem = problem_of(2)
    solution = po.solve(problem)
    leaves = solution.duals["leaves"]
    assert len(leaves) >= 3
    assert problem.bound({"leaves": leaves}) >= solution.objective - 1e-12
    for k in range(len(leaves)):
        with pytest.raises(po.CertificateError, match="no leaf"):
            problem.bound({"leaves": leaves[:k] + leaves[k + 1 :]})
    with pytest.raises(po.CertificateError, match="overlap"):
        problem.bound({"leaves": (*leaves, leaves[0])})
    weakened = [leaf._replace(multipliers=np.zeros_like(leaf.multipliers)) for leaf in leaves]
    assert problem.bound({"leaves": weakened}) < solution.objective
    with pytest.raises(po.CertificateError):
        po.verify(problem, replace(solution, duals={"leaves": tuple(weakened)}))


def test_a_node_limit_leaves_a_valid_gap() -> None:
    problem = problem_of(3, 200)
    best = po.solve(problem)
    few = po.solve(problem, BudgetBranchAndBound(nodes=3))
    assert few.stats["nodes"] <= 4
    assert few.bound <= best.objective <= few.objective
    assert problem.violation(few.value) == 0
    po.verify(problem, few)


def test_interrupt_keeps_the_proof_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of(3, 200)
    best = po.solve(problem)
    real, count = closure_path, [0]

    def path(*arguments: Any) -> Any:
        count[0] += 1
        if count[0] == 8:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(module, "closure_path", path)
    solution = BudgetBranchAndBound().solve(problem, po.Limits(), 0)
    assert solution.message.startswith("interrupted")
    assert problem.bound(solution.duals) <= best.objective <= solution.objective


@pytest.mark.parametrize(("first", "objective"), [(5, -5.0), (5.5, -5.5), (5.25, -5.25)])
def test_a_budget_is_in_the_unit_of_the_costs(first: float, objective: float) -> None:
    """Whatever the decimals of the profits: once 5.5 instead of 5 halved the budget."""
    closure = Closure.of([first, 4, 1], requirements=[[0], [0, 1], [1]], cost=[3, 2])
    for budget in (3, 3.0, Fraction(3), 3.9):
        problem = BudgetedClosure(closure, budget)
        solution = po.solve(problem)
        po.verify(problem, solution)
        assert solution.objective == objective
        assert solution.value.tolist() == [True, False, False]


def test_a_budget_of_decimals() -> None:
    closure = Closure.of([1, 1, 1], requirements=[[0], [1], [2]], cost=[0.1, 0.2, 0.1], penalty=0.7)
    assert po.solve(BudgetedClosure(closure, 0.3)).objective == -2.0
    assert po.solve(BudgetedClosure(closure, 0.29)).objective == -2.0
    assert po.solve(BudgetedClosure(closure, 0.19)).objective == -1.0


@pytest.mark.parametrize("seed", range(8))
def test_rounded_numbers_are_within_the_budget_and_the_stated_gap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    profit, cost = rng.normal(size=9), rng.random(9)
    needs = [[h, (h + 3) % 9] for h in range(9)]
    budget = float(cost.sum() / 3)
    problem = BudgetedClosure(Closure.of(profit, requirements=needs, cost=cost, penalty=math.pi), budget)
    solution = po.solve(problem)
    po.verify(problem, solution)
    assert solution.status is po.Status.OPTIMAL
    best = 0.0
    for x in itertools.product((False, True), repeat=9):
        used = sorted({j for h in range(9) if x[h] for j in needs[h]})
        if cost[used].sum() <= budget:
            best = min(best, -float(profit[list(x)].sum()))
    assert solution.objective == pytest.approx(best, abs=1e-12)
    assert cost[problem.closure.covered(solution.value)].sum() <= budget


def test_bad_input() -> None:
    closure = Closure.of([1, 1], requirements=[[0], [0]], cost=[2])
    with pytest.raises(ValueError, match=r"budget must be .* got -1"):
        BudgetedClosure(closure, -1)
    with pytest.raises(ValueError, match=r"budget must be a finite number, got nan"):
        BudgetedClosure(closure, math.nan)
    with pytest.raises(ValueError, match=r"solver must take this problem, .* arcs"):
        po.solve(BudgetedClosure(Closure.of([1, 1], arcs=[(0, 1)]), 3), "budget-branch-and-bound")


def test_a_saved_form(tmp_path: Path) -> None:
    closure = Closure.of([5.5, 4, 1], requirements=[[0], [0, 1], [1]], cost=[3, 2.25], penalty=Fraction(1, 3))
    po.save_form(BudgetedClosure(closure, 3.125), tmp_path / "budget.npz")
    again = po.load_form(tmp_path / "budget.npz")
    assert again.budget == Fraction(25, 8)
    assert again.closure.unit == closure.unit == Fraction(1, 4)
    assert again.closure.penalty == Fraction(1, 3)
    assert po.solve(again).objective == -5.5


@pytest.mark.parametrize("seed", range(12))
def test_arcs_under_a_budget(seed: int) -> None:
    """The knapsack with precedence constraints, circles included."""
    rng = np.random.default_rng(seed)
    closure = random_closure(rng, 7, arcs=True)
    problem = BudgetedClosure(closure, closure.unit * int(rng.integers(0, 20)))
    solution = po.solve(problem)
    po.verify(problem, solution)
    assert solution.status is po.Status.OPTIMAL
    assert solution.objective == pytest.approx(brute_force_budget(problem), abs=1e-9)
    assert solution.solver == ("highs-milp" if len(closure.arcs) else "budget-branch-and-bound")


@pytest.mark.parametrize("seed", range(8))
def test_plain_knapsacks_are_recognised(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 11))
    profit = rng.integers(-3, 20, n) / 4
    sizes = rng.integers(0, 3, n)
    needs = [r.tolist() for r in np.split(np.arange(sizes.sum()), np.cumsum(sizes)[:-1])]
    problem = BudgetedClosure(Closure.of(profit, requirements=needs, cost=rng.integers(0, 9, sizes.sum())), 12.5)
    solution = po.solve(problem)
    po.verify(problem, solution)
    assert solution.solver == "choice-dp"
    assert solution.status is po.Status.OPTIMAL
    assert solution.objective == brute_force_budget(problem)
    shared = BudgetedClosure(Closure.of([1, 1], requirements=[[0], [0]], cost=[2]), 2)
    assert po.solve(shared).solver == "budget-branch-and-bound"
