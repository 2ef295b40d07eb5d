"""Subset sums of more candidates than can be enumerated: by tables of sums, and by integer programs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import prunopt as po
from prunopt.forms import SubsetSum
from prunopt.solvers.subset_sum import subset_sum_dp
from prunopt.testing import brute_force_subset_sum


def by_table(problem: SubsetSum, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Solve with enumeration forbidden: `provable_size` 0, as if the candidates were too many."""
    monkeypatch.setattr(SubsetSum, "provable_size", property(lambda self: 0))
    return po.solve(problem, "subset-sum-dp", throw=False)


@pytest.mark.parametrize("seed", range(25))
def test_tables_find_what_brute_force_finds(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    m, n = int(rng.integers(1, 4)), int(rng.integers(1, 8))
    shape = (m, n) if seed % 2 else (n,)
    problem = SubsetSum(rng.integers(-20, 21, m) / 4, rng.integers(-9, 10, shape) / 4, float(rng.choice([0.1, 0.3])))
    best = brute_force_subset_sum(problem)
    answer = by_table(problem, monkeypatch)
    if best is None:
        assert answer.status is po.Status.INFEASIBLE
    else:
        assert (answer.status, answer.objective) == (po.Status.OPTIMAL, best)
    po.verify(problem, answer)


def test_a_hundred_numbers_are_proven_by_sets_of_sums() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.integers(1, 1001, 100)
    problem = SubsetSum([float(numbers.sum() // 3)], numbers.astype(float), 0.5)
    solution = po.solve(problem)
    assert solution.solver == "subset-sum-dp"
    assert solution.status is po.Status.OPTIMAL
    po.verify(problem, solution)
    few = int(solution.objective)
    largest = np.sort(numbers)[::-1][: few - 1].sum()  # about as many are needed
    assert largest <= numbers.sum() // 3 or few > problem.provable_size
    assert problem.bound({"sizes": np.array([few + 1])}) == few
    with pytest.raises(po.CertificateError):
        po.verify(problem, replace(solution, bound=few + 1.0, duals={"sizes": np.array([few + 1])}))


def test_even_numbers_and_an_odd_target() -> None:
    rng = np.random.default_rng(1)
    numbers = 2.0 * rng.integers(1, 5000, 60)
    problem = SubsetSum([10_001.0], numbers, 0.5)
    answer = po.solve(problem, throw=False)
    assert answer.status is po.Status.INFEASIBLE
    assert "comes no nearer than 1" in answer.message
    po.verify(problem, answer)
    nearer = SubsetSum([10_001.0], numbers, 1.0)
    assert not nearer.is_infeasible_by(np.array([0]))


def test_other_numbers_go_to_integer_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    numbers = rng.uniform(0.5, 1.0, 46)
    problem = SubsetSum([12.3], numbers, 1e-3)
    answer = po.solve(problem, limits=60)
    assert answer.stats["by integer programs"] == 1
    assert answer.status is po.Status.OPTIMAL
    assert answer.stats["bound"] == "claimed by an engine"
    monkeypatch.setattr(subset_sum_dp, "PROGRAMS", 0)
    asked = po.solve(problem, limits=60, throw=False)
    assert "ask for subset-sum-milp" in asked.message


@pytest.mark.parametrize("n", [20, 60])
@pytest.mark.parametrize("negative", [False, True])
def test_tables_cut_at_the_target_find_what_full_ones_do(n: int, negative: bool) -> None:
    """Targets below, between and beyond all sums; one table for all of a pool."""
    rng = np.random.default_rng(n)
    numbers = 3 * rng.integers(1, 9, n).astype(float)
    if negative:
        numbers[::2] *= -1
    targets = np.array([-400.0, -1.0, 0.0, 3.0, 10.0, float(np.abs(numbers).sum()) - 3.0, 900.0])
    for target in targets:
        problem = SubsetSum([target], numbers, 0.5)
        table = po.solve(problem, "subset-sum-dp", throw=False)
        other = po.solve(problem, "subset-sum-milp", throw=False)
        assert table.status is other.status
        if table.value is not None:
            assert table.objective == other.objective
        else:
            assert problem.is_infeasible_by(table.duals["ray"])


def test_a_divisor_of_all_candidates_settles_targets_between_its_multiples() -> None:
    """No sum of even numbers is odd: the distance 1 is proven without looking at sums."""
    rng = np.random.default_rng(0)
    for n in (8, 40, 200):
        problem = SubsetSum([float(2 * n + 1)], 2.0 * rng.integers(1, 50, n), 0.5)
        answer = po.solve(problem, throw=False)
        assert answer.status is po.Status.INFEASIBLE
        assert answer.stats["distance"] == 1.0
        po.verify(problem, answer)
    assert SubsetSum([4.25], [2.0, 4.0], 0.5).missed_by_step(0) == 0
    assert SubsetSum([1.0], [0.0, 0.0], 0.5).missed_by_step(0) > 0
