"""Bounds of quadratic knapsacks by dividing pairs between their items, and the branch and bound that rests on them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import prunopt as po
from prunopt.forms import QuadraticKnapsack


def gallo(n: int, density: float, seed: int) -> QuadraticKnapsack:
    """Draw an instance as Gallo, Hammer and Simeone do: gains 1 to 100, weights 1 to 50."""
    rng = np.random.default_rng(seed)
    gains = np.triu(np.where(rng.random((n, n)) < density, rng.integers(1, 101, (n, n)), 0))
    weights = rng.integers(1, 51, n)
    budget = float(rng.integers(50, max(51, int(weights.sum())) + 1))
    return QuadraticKnapsack(-np.diag(gains).astype(float), -np.triu(gains, 1).astype(float), weights, budget)


def best_of_all(problem: QuadraticKnapsack) -> float:
    subsets = (np.array(x, np.bool_) for x in itertools.product((False, True), repeat=problem.n_items))
    return min(problem.objective(x) for x in subsets if problem.violation(x) == 0)


@pytest.mark.parametrize("seed", range(12))
def test_any_shares_prove_a_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = gallo(9, 0.6, seed)
    if seed % 2:
        mixed = np.triu(rng.normal(0, 20, (9, 9)), 1)
        problem = replace(problem, pair=mixed, linear=rng.normal(0, 20, 9), cover=((0, 1, 2),))
    best, every = best_of_all(problem), np.full((1, 9), -1, np.int8)
    for scale in (0.0, 1.0, 30.0):
        share = np.triu(problem.pair / 2 + scale * rng.normal(size=(9, 9)), 1)
        duals: dict[str, Any] = {"order": rng.permutation(9), "leaves": every, "share": share}
        assert problem.bound(duals) <= best + 1e-9
    solution = po.solve(problem)
    assert solution.objective == pytest.approx(best)
    po.verify(problem, solution)


def test_a_share_for_another_problem_is_refused() -> None:
    problem = gallo(6, 1.0, 0)
    duals = {"order": np.arange(6), "leaves": np.full((1, 6), -1, np.int8), "share": np.zeros((5, 5))}
    with pytest.raises(ValueError, match="share"):
        problem.bound(duals)
    solution = po.solve(problem)
    with pytest.raises(po.CertificateError, match="cannot be read"):
        po.verify(problem, replace(solution, duals={**solution.duals, "share": np.zeros((5, 5))}))


def test_whole_coefficients_round_the_bound_up() -> None:
    problem = gallo(9, 0.5, 3)
    duals: dict[str, Any] = {"order": np.arange(9), "leaves": np.full((1, 9), -1, np.int8)}
    bound = problem.bound(duals)
    assert bound == round(bound)
    half = QuadraticKnapsack(problem.linear + 0.5, problem.pair, problem.cost, problem.budget)
    assert not half.whole


def test_published_sizes_are_proven_in_seconds() -> None:
    """n = 100 at a density of 25 and of 100 per cent: 10 to 19 per cent were left before."""
    for density in (0.25, 1.0):
        problem = gallo(100, density, 0)
        solution = po.solve(problem, limits=60)
        assert solution.status is po.Status.OPTIMAL
        assert problem.bound(solution.duals) == solution.objective


def test_a_limit_leaves_a_valid_bound() -> None:
    problem = gallo(100, 0.5, 0)
    best = po.solve(problem, limits=60).objective
    for most in (1, 100, 3000):
        stopped = po.solve(problem, limits=po.Limits(evaluations=most))
        assert stopped.bound <= best <= stopped.objective
        assert stopped.gap < 0.2
