"""Widths by the theory: laws hold on samples, bounds are in their order."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prunopt.forms import SubsetSum
from prunopt.forms.random_pools import product_width, proven_width, signed_draws, single_width
from prunopt.solvers.subset_sum.subset_sum_mitm import smallest_subsets


@pytest.mark.parametrize(("bits", "delta"), [(3, 0.1), (5, 0.01), (8, 0.02)])
def test_products_reach_every_weight_as_often_as_the_law_says(bits: int, delta: float) -> None:
    rng, runs, epsilon = np.random.default_rng(0), 4000, 0.25 / 2.0**bits
    n = product_width(epsilon, delta)
    for target in (0.25, 0.1):
        samples = rng.uniform(0, 1, (runs, n)) * rng.uniform(-1, 1, (runs, n))
        missed = (~smallest_subsets(SubsetSum(np.full(runs, target), samples, epsilon)).reached).mean()
        assert missed <= delta + 3 * math.sqrt(delta / runs)


def test_a_proven_width_suffices_and_is_the_widest_logarithmic_one() -> None:
    rng, runs, epsilon, delta = np.random.default_rng(1), 500, 0.05, 0.1
    n = proven_width(epsilon, delta)
    samples = rng.uniform(-1, 1, (runs, n))
    found = smallest_subsets(SubsetSum(rng.uniform(-0.5, 0.5, runs), samples, epsilon))
    assert (~found.reached).mean() <= delta
    for epsilon in (1e-2, 1e-4):
        law = product_width(epsilon, 1e-2, n_weights=1000)
        sure = proven_width(epsilon, 1e-2, n_weights=1000, largest=0.25, mass=math.log(2) / 2)
        assert law < sure
    assert sure < single_width(1e-4, 1e-2, n_weights=1000)
    assert proven_width(1e-4, 0.01, sure=False) < proven_width(1e-4, 0.01)


def test_one_product_is_near_as_often_as_its_width_says() -> None:
    rng, delta, epsilon = np.random.default_rng(2), 0.1, 0.01
    n = single_width(epsilon, delta)
    near = [(np.abs(rng.uniform(0, 1, n) * rng.uniform(-1, 1, n) - 0.25) <= epsilon).any() for _ in range(2000)]
    assert 1 - np.mean(near) <= delta + 0.02
    assert 1 - np.mean(near) >= delta / 3


def test_signs() -> None:
    rng = np.random.default_rng(3)
    draws = signed_draws(10, 4, 0.05)
    up = (rng.random((20_000, 4, draws)) < 0.5).sum(axis=2)
    short = ((up < 10) | (draws - up < 10)).any(axis=1).mean()
    assert 0 < short <= 0.055


@pytest.mark.parametrize(
    "arguments", [{"epsilon": 0.0}, {"delta": 0.0}, {"n_weights": 0}, {"largest": math.inf}], ids=str
)
def test_bad_widths(arguments: dict[str, float]) -> None:
    given: dict[str, float] = {"epsilon": 0.1, "delta": 0.1, **arguments}
    with pytest.raises(ValueError, match=next(iter(arguments))):
        product_width(**given)  # type: ignore[arg-type]
