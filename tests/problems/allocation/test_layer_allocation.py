"""Allocations on curves, by ALS, by rule: budgets, baselines, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunopt as po
from prunopt.problems import LayerAllocation
from prunopt.problems.allocation.als import importance, redundancy_matrix
from prunopt.problems.allocation.atp import atp, best_progression
from prunopt.problems.allocation.logarithmic import logarithmic
from prunopt.problems.allocation.on_budget import on_budget, uniform
from prunopt.problems.allocation.owl import owl
from prunopt.problems.allocation.registry import ALLOCATION_RULES, allocation_rule

RNG = np.random.default_rng(4)
SIZES = RNG.integers(1000, 5000, 8)
LEVELS = np.linspace(0, 1, 21)
ERRORS = RNG.uniform(0.5, 2, (8, 1)) * LEVELS ** RNG.uniform(1.5, 3, (8, 1))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 9), wild=st.booleans())
def test_the_budget_is_met_exactly_after_clipping(seed: int, n: int, wild: bool) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.uniform(1, 1e8, n)
    bounds = np.sort(rng.random((n, 2)), axis=1)
    sparsity = float(rng.uniform(*(sizes @ bounds / sizes.sum())))
    raw = rng.normal(size=n) * (1e6 if wild else 0.3)
    s = on_budget(raw, sizes, sparsity, bounds)
    assert abs(sizes @ s / (sparsity * sizes.sum()) - 1) < 1e-9
    assert np.all(s >= bounds[:, 0])
    assert np.all(s <= bounds[:, 1])


def test_on_budget_is_the_nearest() -> None:
    from scipy.optimize import minimize

    sizes, raw = np.array([3.0, 1.0, 2.0, 5.0]), np.array([0.9, 0.1, 0.6, 0.2])
    s = on_budget(raw, sizes, 0.5, (0.15, 0.7))
    least: Any = minimize
    far = least(
        lambda x: float(sizes @ (x - raw) ** 2),
        np.full(4, 0.5),
        bounds=[(0.15, 0.7)] * 4,
        constraints={"type": "eq", "fun": lambda x: float(sizes @ x - 0.5 * sizes.sum())},
        tol=1e-12,
    )
    assert np.allclose(s, far.x, atol=1e-4)


def test_rules_by_hand() -> None:
    assert np.allclose(uniform([1, 2, 3], 0.4), 0.4)
    assert np.allclose(atp([1, 1, 1], 0.5, 0.1), [0.4, 0.5, 0.6])
    slim = logarithmic(np.ones(32), 0.2004, first=0.0625)
    assert slim[0] == pytest.approx(0.0625, abs=1e-6)
    assert slim[-1] == pytest.approx(0.25, abs=2e-4)  # the publication's recipe
    assert np.allclose(owl([0.0, 1.0, 0.5], [1, 1, 1], 0.6, spread=0.1), [0.7, 0.5, 0.6])
    assert np.allclose(owl([3.0, 3.0], [1, 2], 0.6), 0.6)
    assert np.allclose(best_progression(lambda s: float(s[0]), [1, 1, 1], 0.5), atp([1, 1, 1], 0.5, 0.125))


def on_grid(task: Any, allocation: Any) -> Any:
    """The nearest levels, moved up, cheapest first by loss, until enough is removed."""
    rows = np.arange(len(allocation))
    j = np.abs(task.levels - np.asarray(allocation)[:, None]).argmin(axis=1)
    while task.violation(task.levels[rows, j]) > 1e-12:
        up = np.minimum(j + 1, task.levels.shape[1] - 1)
        saved = task.sizes * (task.levels[rows, up] - task.levels[rows, j])
        more = task.losses[rows, up] - task.losses[rows, j]
        best = int(np.argmin(np.where(saved > 0, more / np.maximum(saved, 1e-300), np.inf)))
        j[best] = up[best]
    return task.levels[rows, j]


@pytest.mark.parametrize("sparsity", [0.0, 0.33, 0.5, 0.7, 1.0])
def test_never_worse_than_a_baseline_on_the_same_curves(sparsity: float) -> None:
    task = LayerAllocation.from_curves(SIZES, LEVELS, ERRORS, sparsity)
    answer = po.solve(task)
    assert answer.status is po.Status.OPTIMAL
    po.verify(task, answer)
    assert SIZES @ answer.value >= sparsity * SIZES.sum() * (1 - 1e-12)
    middle = min(sparsity, 0.9)
    rules = [
        uniform(SIZES, middle),
        logarithmic(SIZES, middle),
        atp(SIZES, middle, 0.05),
        owl(RNG.random(8), SIZES, middle),
    ]
    for allocation in rules:
        assert answer.objective <= task.objective(on_grid(task, allocation)) + 1e-12
    assert po.solve(task, "pulp").objective == pytest.approx(answer.objective, abs=1e-7)
    assert po.solve(task, "choice-lagrange").objective >= answer.objective - 1e-12


def test_odd_numbers() -> None:
    odd = LayerAllocation.from_curves(SIZES / 3.0, np.sort(RNG.random(9)), np.sort(RNG.random((8, 9)), axis=1), 0.2)
    assert po.solve(odd).status is po.Status.OPTIMAL


def test_weights_from_divergences() -> None:
    kl = RNG.uniform(0.01, 0.1, 8)
    task = LayerAllocation.from_curves(SIZES, LEVELS, ERRORS, 0.5, weighting="kl", kl=kl)
    at = np.flatnonzero(np.isclose(LEVELS, 0.5))[0]
    assert np.allclose(task.losses[:, at], kl)
    assert np.allclose(task.losses, (kl / ERRORS[:, at])[:, None] * ERRORS)
    with pytest.warns(UserWarning, match="worse than a uniform one"):
        LayerAllocation.from_curves(SIZES, LEVELS, ERRORS, 0.5, weighting="unweighted")
    with pytest.raises(ValueError, match="together with weighting='kl'"):
        LayerAllocation.from_curves(SIZES, LEVELS, ERRORS, 0.5, kl=kl)


@pytest.mark.parametrize("scale", ["global", "row"])
def test_als_is_a_fractional_knapsack(scale: str) -> None:
    X = [RNG.normal(size=(40, d)) for d in (8, 9, 10, 11, 8, 9, 10, 60)]
    psi = redundancy_matrix(X)
    assert np.allclose(psi, psi.T)
    assert np.allclose(np.diag(psi), 1)
    task = LayerAllocation.als(psi, SIZES, 0.5, scale=scale)
    answer = po.solve(task)
    po.verify(task, answer)
    assert answer.status is po.Status.OPTIMAL
    assert SIZES @ answer.value == pytest.approx(0.5 * SIZES.sum())
    assert ((answer.value > 0.3 + 1e-9) & (answer.value < 0.7 - 1e-9)).sum() <= 1
    assert po.solve(task, "pulp").objective == pytest.approx(answer.objective, abs=1e-6)
    rho = psi.sum(1) - 1
    mu = psi.mean() if scale == "global" else psi.mean(1)
    omega = np.exp(-rho / mu)
    expected = np.array([omega[i:].mean() for i in range(8)])
    found = importance(psi, scale=scale)
    assert np.allclose(found / found[0], expected / expected[0])


class Model:
    """A model of two blocks, that says what it was asked for."""

    sizes = np.array([1.0, 1.0])

    def __init__(self) -> None:
        self.asked: set[str] = set()

    @property
    def blocks(self) -> Model:
        return self

    def __getattr__(self, name: str) -> Any:
        self.asked.add(name)
        blocks = {"outliers": [0.1, 0.2], "redundancy": np.full((2, 2), 0.5) + np.eye(2) / 2}
        return {**blocks, "levels": LEVELS, "errors": np.array([[1.0], [3.0]]) * LEVELS**2}[name]

    def loss(self, allocation: Any) -> float:
        self.asked.add("loss")
        return float(np.array([1.0, 3.0]) @ np.square(allocation))


@pytest.mark.parametrize("name", list(ALLOCATION_RULES))
def test_a_rule_by_name_meets_the_budget_and_asks_for_what_it_needs(name: str) -> None:
    rule, model = allocation_rule(name), Model()
    found = rule(model, 0.5, solve=po.solve)
    assert model.sizes @ found >= 1 - 1e-9
    assert model.asked - {"levels"} == set(rule.needs)
    if name in ("owl", "mckp"):
        assert found[0] > 0.5 > found[1] if name == "mckp" else found[0] > found[1]


def test_an_unknown_rule_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"allocation must be one of 'uniform', .* got 'owls'; did you mean \"owl\"\?"):
        allocation_rule("owls")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sparsity": 1.2}, r"sparsity must be a finite number >= 0 and <= 1, got 1\.2"),
        ({"sparsity": 0.9, "bounds": (0.0, 0.5)}, r"at most 0\.5, what the highest levels remove"),
        ({"levels": LEVELS[::-1]}, "levels must rise, got"),
        ({"errors": ERRORS[:3]}, r"errors must have shape \(8, levels\), got shape \(3, 21\)"),
        ({"sizes": [0] * 8}, "sizes must hold a number > 0"),
        ({"bounds": (0.71, 0.72)}, "bounds must leave every layer a level"),
        ({"bounds": (0.7, 0.2)}, "low <= high"),
        ({"weighting": "magic"}, "weighting must be one of 'given', .*, got 'magic'"),
    ],
)
def test_bad_input(change: dict[str, Any], words: str) -> None:
    given_: dict[str, Any] = {"sizes": SIZES, "levels": LEVELS, "errors": ERRORS, "sparsity": 0.5, **change}
    with pytest.raises(ValueError, match=words):
        LayerAllocation.from_curves(**given_)


def test_a_budget_outside_the_bounds_says_the_least() -> None:
    psi = np.eye(8)
    with pytest.raises(ValueError, match=r"sparsity must be at least 0\.3 within the bounds of the layers, got 0\.1"):
        LayerAllocation.als(psi, SIZES, 0.1)
    with pytest.raises(ValueError, match=r"must be at most 0\.7 within"):
        on_budget(np.zeros(2), [1, 1], 0.8, (0.1, 0.7))
    with pytest.raises(ValueError, match="scale must be one of 'global', 'row', got 'none'"):
        LayerAllocation.als(psi, SIZES, 0.5, scale="none")
    with pytest.raises(ValueError, match="features must be finite and not all zero, got layer 1"):
        redundancy_matrix([np.ones((2, 2)), np.zeros((2, 2))])
