"""The form: exact sums, bounds that are proven or lowered, explanations, models, files."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunopt as po
from prunopt.forms import SubsetSum
from prunopt.forms.subset.subset_sum import enumerable_level
from prunopt.testing import brute_force_subset_sum


def fewest(target: float, row: Any, epsilon: float, exact: Callable[[Any], Fraction] = Fraction) -> int | None:
    items = [exact(float(a)) for a in row]
    sizes = [
        len(chosen)
        for k in range(len(items) + 1)
        for chosen in itertools.combinations(items, k)
        if abs(sum(chosen) - exact(target)) <= exact(epsilon)
    ]
    return min(sizes, default=None)


def test_objective_and_violation_by_hand() -> None:
    problem = SubsetSum([1.0, -0.5], [[0.5, 0.25, 0.375], [-1.0, 0.25, 0.5]], 0.125)
    good = np.array([[True, False, True], [True, True, False]])
    assert problem.objective(good) == 4
    assert problem.errors(good).tolist() == [-0.125, -0.25]
    assert problem.violation(good) == (0.25 - 0.125) / 0.125
    good[1, 2] = True
    assert problem.errors(good).tolist() == [-0.125, 0.25]
    good[1] = [True, False, True]
    assert problem.violation(good) == 0


def test_a_miss_is_not_lost_in_a_large_network() -> None:
    """A check allows a violation in proportion to the objective; one weight of many that is off must still show."""
    m = 5000
    problem = SubsetSum(np.full(m, 0.5), [0.25, 0.25], 1e-6)
    solution = po.solve(problem, "subset-sum-mitm")
    assert solution.objective == 2 * m
    problem = SubsetSum(np.r_[np.full(m, 0.5), 0.50001], [0.25, 0.25], 1e-6)
    forged = replace(solution, value=np.ones((m + 1, 2), np.bool_), objective=2.0 * (m + 1), duals={}, bound=0.0)
    with pytest.raises(po.CertificateError, match="breaks the constraints"):
        po.verify(problem, forged)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), own=st.booleans(), grid=st.booleans())
def test_claims_are_proven_or_lowered_to_the_truth(seed: int, own: bool, grid: bool) -> None:
    rng = np.random.default_rng(seed)
    m, n = int(rng.integers(1, 5)), int(rng.integers(0, 8))
    shape = (m, n) if own else (n,)
    candidates = rng.integers(-6, 7, shape) / 4 if grid else rng.normal(size=shape)
    problem = SubsetSum(rng.integers(-6, 7, m) / 4, candidates, 0.25)
    truth = [fewest(t, row, 0.25) for t, row in zip(problem.targets, np.broadcast_to(candidates, (m, n)), strict=True)]
    least = np.array([n + 1 if k is None else k for k in truth])
    assert np.all(problem.least_reaching() <= least)
    for claims in (least, least + 2, np.maximum(least - 1, 0), np.zeros(m, int)):
        assert problem.proven_sizes(claims).tolist() == np.minimum(claims, least).tolist()
        assert problem.bound({"sizes": claims}) == np.minimum(claims, least).sum()
    expected = None if None in truth else float(least.sum())
    assert brute_force_subset_sum(problem) == expected


def test_infeasible_by_one_target() -> None:
    problem = SubsetSum([0.5, 9.0, 1.25], [1.0, 2.0, 0.5], 0.125)
    assert not problem.is_infeasible_by(0)
    assert problem.is_infeasible_by(1)
    assert problem.is_infeasible_by([2])
    for wrong in (np.array(-1), np.array(3), np.array(0.5), np.zeros(0, int)):
        assert not problem.is_infeasible_by(wrong)
    assert problem.nearest(2) == 0.25
    assert problem.nearest(1) == 5.5
    many = SubsetSum([100.0, 0.3], np.full(60, 0.5), 0.1)
    assert many.is_infeasible_by(0), "by size alone"
    assert many.is_infeasible_by(1), "by the table of all sums"
    fine = SubsetSum([100.0, 0.3], np.random.default_rng(0).normal(size=60), 1e-8)
    assert not fine.is_infeasible_by(1), "too many subsets to look at: not proven"
    with pytest.raises(ValueError, match="look at every subset, got 60"):
        many.nearest(1)


def test_explanation_names_target_distance_and_what_would_do() -> None:
    problem = SubsetSum([0.5, 9.0, 1.25], [1.0, 2.0, 0.5], 0.125)
    with pytest.raises(po.SolveError) as caught:
        po.solve(problem)
    text = str(caught.value)
    assert "2 of 3 targets cannot be met within epsilon=0.125" in text
    assert "target 1 (9) comes no nearer than 5.5; target 2 (1.25) comes no nearer than 0.25" in text
    assert "nearest feasible request: epsilon=5.5" in text
    assert "candidates like these in place of 3 (an estimate)" in text
    assert po.solve(replace(problem, epsilon=5.5)).status is po.Status.OPTIMAL
    with pytest.raises(po.SolveError, match="more candidates like these would not help"):
        po.solve(SubsetSum([1.0], [0.0, 0.0], 0.5))


def test_estimated_number_of_candidates_mostly_does() -> None:
    rng = np.random.default_rng(1)
    reached = []
    for _ in range(60):
        problem = SubsetSum(rng.uniform(-1, 1, 1), rng.uniform(-1, 1, 5), 0.01)
        enough = problem.enough_candidates(0)
        assert enough is not None
        assert enough > 5
        again = SubsetSum(problem.targets, rng.uniform(-1, 1, enough), 0.01)
        reached.append(po.solve(again, throw=False).status is po.Status.OPTIMAL)
    assert np.mean(reached) >= 0.85


def test_equal_rows_are_held_once_and_minus_zero_is_zero() -> None:
    rows = np.random.default_rng(0).normal(size=(3, 4))
    rows[0, 0] = 0.0
    many = rows[[2, 0, 0, 1, 2]]
    many[2, 0] = -0.0
    fixed = SubsetSum(np.zeros(5), many, 0.1).fixed
    assert len(fixed.pools) == 3
    assert np.array_equal(fixed.pools[fixed.pool] * fixed.unit, many)


def test_exact_units() -> None:
    single = np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32)
    assert SubsetSum(single[:, 0], single, 0.01).fixed.exact
    mixed = SubsetSum([1e6 + 1 / 3], [1e6 + 0.1, 0.3], 0.5)
    assert po.solve(mixed).objective == 1
    assert not SubsetSum([0.1], [1e-25 / 3, 1.0], 0.5).fixed.exact
    problem = SubsetSum([1.0], [1e-15 + 1, 1.0], 1e-9)
    assert problem.violation(np.array([[True, False]])) == 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"targets": [[1.0]]}, ValueError, r"targets must have shape \(m,\)"),
        ({"targets": [np.nan, 1.0]}, ValueError, r"got targets\[0\] = nan"),
        ({"targets": ["a", "b"]}, TypeError, "targets must hold real numbers, got dtype <U1"),
        ({"candidates": np.ones((3, 2))}, ValueError, r"candidates must have shape .*\(3, 2\)"),
        ({"candidates": [[1.0, np.inf], [0.0, 1.0]]}, ValueError, r"got candidates\[0\]\[1\] = inf"),
        ({"epsilon": 0.0}, ValueError, "epsilon must be .* got 0.0"),
        ({"epsilon": -1.0}, ValueError, "epsilon must be .* got -1.0"),
        ({"epsilon": np.nan}, ValueError, "epsilon must be .* got nan"),
        ({"epsilon": 1e-16, "candidates": [1e-7 / 3, 0.7]}, ValueError, "are told apart in steps"),
        ({"candidates": [1e300, 1.0]}, ValueError, "rescale them"),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    given: dict[str, Any] = {"targets": [0.5, 1.0], "candidates": [0.3, 0.7], "epsilon": 0.1}
    with pytest.raises(error, match=message):
        SubsetSum(**{**given, **change})


def test_wrong_values_and_claims_are_refused() -> None:
    problem = SubsetSum([0.5, 1.0], [0.3, 0.7], 0.1)
    for wrong in (np.zeros((2, 3), np.bool_), np.zeros(2, np.bool_), np.zeros((2, 2))):
        with pytest.raises(ValueError, match=r"x must (have shape \(2, 2\)|hold True and False)"):
            problem.objective(wrong)
    for duals in ({}, {"sizes": np.array([1])}, {"sizes": np.array([0.5, 1.0])}):
        with pytest.raises(po.CertificateError, match="sizes"):
            problem.bound(duals)


def test_model_round_trip_and_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    problem = SubsetSum(rng.uniform(-1, 1, 3), rng.uniform(-1, 1, (3, 8)), 0.1)
    best = brute_force_subset_sum(problem)
    by_model = po.solve(problem, "pulp")
    assert by_model.objective == best
    po.save_form(problem, tmp_path / "form.npz")
    again = po.load_form(tmp_path / "form.npz")
    assert isinstance(again, SubsetSum)
    assert again.epsilon == problem.epsilon
    assert np.array_equal(again.candidates, problem.candidates)
    assert po.solve(again).objective == best


def test_how_much_can_be_enumerated() -> None:
    assert enumerable_level(22) == 22
    assert enumerable_level(23) == 11
    assert SubsetSum([0.0], np.ones(44), 0.1).provable_size == 44
    assert SubsetSum([0.0], np.ones(45), 0.1).provable_size == 11
    assert SubsetSum([0.0], np.ones(300), 0.1).provable_size == 3


@pytest.mark.parametrize("exact", [Fraction, lambda number: Fraction(str(number))], ids=["binary", "decimal"])
def test_a_sum_exactly_at_the_tolerance_is_within(exact: Callable[[Any], Fraction]) -> None:
    """By fractions of the numbers, as they are in memory and as they are written: nothing of the form takes part."""
    rng, met = np.random.default_rng(0), 0
    for _ in range(600):
        n = int(rng.integers(1, 6))
        candidates = np.round(rng.normal(size=n) * rng.choice([1, 100]), int(rng.integers(0, 3))).tolist()
        epsilon, target = float(rng.choice([0.01, 0.1, 0.5])), round(float(rng.normal()), int(rng.integers(1, 3)))
        least = fewest(target, candidates, epsilon, exact)
        if least is not None:
            answer = po.solve(SubsetSum([target], candidates, epsilon), throw=False)
            assert answer.status is po.Status.OPTIMAL, (target, candidates, epsilon)
            assert answer.objective <= least, (target, candidates, epsilon)
            met += 1
    assert met > 100


@pytest.mark.parametrize("candidates", [[-100.0], [-1.0, -1.0, -2.0], [-4.7, 5.9]])
def test_nothing_is_near_enough_to_a_target_of_epsilon(candidates: list[float]) -> None:
    answer = po.solve(SubsetSum([0.01], candidates, 0.01))
    assert answer.objective == 0
