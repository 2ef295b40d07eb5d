"""Plain knapsacks split by the number of items: the bounds hold, and hard families are proven."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import prunopt as po
from prunopt.forms import MultipleChoiceKnapsack
from prunopt.solvers.knapsack._count_split import split


def _plain(rng: np.random.Generator, n: int) -> MultipleChoiceKnapsack:
    cost, loss = rng.integers(0, 12, (n, 2)), rng.integers(-9, 10, (n, 2)).astype(float)
    least = int(cost.min(axis=1).sum())
    return MultipleChoiceKnapsack(loss, cost, least + int(rng.integers(0, 4 * n)))


def _least(problem: MultipleChoiceKnapsack) -> float:
    values = (np.array(v) for v in itertools.product(range(problem.n_levels), repeat=problem.n_groups))
    return min((problem.objective(v) for v in values if problem.violation(v) == 0), default=math.inf)


def test_the_bound_of_a_split_is_never_above_the_optimum() -> None:
    """Whatever number and penalties, those of the solver among them."""
    rng = np.random.default_rng(0)
    closed = 0
    for _ in range(150):
        problem = _plain(rng, int(rng.integers(2, 8)))
        optimum = _least(problem)
        own = split(problem)
        if own is not None:
            found = problem.bound({"penalty": 0.0, **own.duals})
            assert found <= optimum + 1e-9
            closed += found >= optimum - 1e-9
            better = own.improved(np.argmin(problem.cost, axis=1), lambda change: False)
            assert problem.violation(better) == 0
        for _ in range(5):
            sides = rng.choice([0.0, 0.5, 1.0, 3.0, 40.0], (2, 2)) * rng.random((2, 2))
            duals = {"penalty": rng.random(), "split": int(rng.integers(-2, 11)), "sides": sides}
            assert problem.bound(duals) <= optimum + 1e-9
            assert problem.bound({**duals, "claim": optimum}) == pytest.approx(optimum)
            assert problem.bound({**duals, "claim": optimum + 3}) <= optimum + 1e-9
    assert closed > 75


def test_three_levels_and_missing_ones_are_bounded_too() -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        loss = rng.integers(-9, 10, (4, 3)).astype(float)
        loss[rng.random((4, 3)) < 0.2] = np.inf
        loss[:, 0] = 1.0
        problem = MultipleChoiceKnapsack(loss, rng.integers(0, 6, (4, 3)), int(rng.integers(6, 20)))
        duals = {"penalty": rng.random(), "split": int(rng.integers(0, 5)), "sides": 3 * rng.random((2, 2))}
        assert problem.bound(duals) <= _least(problem) + 1e-9


@pytest.mark.parametrize(
    "duals",
    [
        {"split": 2.5, "sides": np.zeros((2, 2))},
        {"split": 2, "sides": np.zeros(3)},
        {"split": 2, "sides": -np.ones((2, 2))},
        {"split": 2, "sides": np.full((2, 2), np.nan)},
        {"split": 2},
    ],
)
def test_certificates_of_other_shapes_are_refused(duals: dict[str, object]) -> None:
    problem = _plain(np.random.default_rng(0), 5)
    with pytest.raises(po.CertificateError, match="duals"):
        problem.bound({"penalty": 0.0, **duals})


@pytest.mark.parametrize("plus", [100, -100])
@pytest.mark.parametrize("n", [1000, 20_000])
def test_profits_of_weights_plus_a_constant_are_proven(n: int, plus: int) -> None:
    """Pisinger's strongly and inverse strongly correlated families: the budget's penalty alone leaves a gap."""
    rng = np.random.default_rng(n)
    w = rng.integers(max(1, 1 - plus), 1001, n)
    p = w + plus
    problem = MultipleChoiceKnapsack(np.column_stack([0 * p, -p]), np.column_stack([0 * w, w]), int(w.sum()) // 3)
    answer = po.solve(problem, limits=20.0)
    assert answer.status is po.Status.OPTIMAL
    assert problem.bound({"penalty": answer.duals["penalty"]}) < answer.objective
    po.verify(problem, answer)
