"""Mixtures of two neighbours on a path: the budget is met exactly, on the hull."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

from prunopt.forests import budget_path
from prunopt.forests.mixture import mixture

X, y = load_breast_cancer(return_X_y=True)
FOREST = RandomForestClassifier(15, max_depth=4, random_state=0).fit(X[:300], y[:300])
PATH = budget_path(FOREST, X[300:], y[300:], np.arange(1, 31))


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_the_budget_is_met_exactly_and_the_error_is_lagranges_bound(share: float) -> None:
    low, high = PATH.points[3], PATH.points[2]
    budget = low.expected_cost + share * (high.expected_cost - low.expected_cost)
    found = mixture(PATH, budget)
    assert found.expected_cost == pytest.approx(budget, rel=1e-12)
    assert found.share == pytest.approx(share)
    assert found.error == pytest.approx(PATH.solution(budget=budget).bound, abs=1e-12)


def test_the_coin_is_fair_and_seeded() -> None:
    budget = 0.5 * (PATH.points[0].expected_cost + PATH.points[-1].expected_cost)
    found = mixture(PATH, budget)
    first, second = found.predict(X, 0), found.predict(X, 0)
    assert np.array_equal(first, second)
    answers = found.cheaper.predict(X), found.dearer.predict(X)
    assert np.all((first == answers[0]) | (first == answers[1]))
    apart = answers[0] != answers[1]
    draws = np.concatenate([found.predict(X, s)[apart] == answers[1][apart] for s in range(200)])
    if len(draws):
        assert draws.mean() == pytest.approx(found.share, abs=0.05)


def test_ends() -> None:
    assert mixture(PATH, 1e6).share == 0.0
    assert mixture(PATH, 1e6).expected_cost == PATH.points[0].expected_cost
    with pytest.raises(ValueError, match="the cheapest pruning costs"):
        mixture(PATH, -1)
