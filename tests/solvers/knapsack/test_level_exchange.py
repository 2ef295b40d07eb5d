"""Exchanges of one or two levels against all of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import prunopt as po
from prunopt.forms import MultipleChoiceKnapsack
from prunopt.solvers.knapsack._level_exchange import exchanged


@pytest.mark.parametrize("seed", range(20))
def test_no_pair_of_changes_is_left(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups, levels = 6, 3
    loss = rng.normal(size=(groups, levels))
    loss[0, 1] = np.inf
    problem = MultipleChoiceKnapsack(loss, rng.integers(0, 9, (groups, levels)), 30)
    value = exchanged(problem, np.where(np.isfinite(loss), problem.cost, 99).argmin(axis=1))
    assert problem.violation(value) == 0
    for pair in itertools.combinations(range(groups), 2):
        for moves in itertools.product(range(levels), repeat=2):
            other = value.copy()
            other[list(pair)] = moves
            if problem.violation(other) == 0:
                assert problem.objective(other) >= problem.objective(value) - 1e-9


def test_subset_sums_end_at_the_root() -> None:
    rng = np.random.default_rng(0)
    weights = 2 * rng.integers(1, 500, 1000)
    capacity = int(weights.sum()) // 2 | 1
    problem = MultipleChoiceKnapsack(
        np.column_stack([0 * weights, -weights]), np.column_stack([0 * weights, weights]), capacity
    )
    solution = po.solve(problem)
    assert solution.objective == -(capacity - 1)
    assert (solution.status, solution.stats["states"]) == (po.Status.OPTIMAL, 0)
