"""Dual prices: the authors' step by hand, valid bounds at any stop, and a rule that closes the gap."""

from __future__ import annotations

import math
import signal
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

import prunopt as po
from prunopt.forms import Closure
from prunopt.problems import ForestBudget
from prunopt.solvers.closure import _dual_prices as dual_prices
from prunopt.solvers.closure.primal_dual import PrimalDual, Units


def forest_closure() -> Closure:
    X, y = load_breast_cancer(return_X_y=True)
    forest = RandomForestClassifier(15, max_depth=5, random_state=0).fit(X, y)
    closure = ForestBudget.from_forest(forest, X, y, np.arange(1, 31), 0).path_closure().closure
    return replace(closure, penalty=Fraction(1, 8))


def test_the_authors_first_step_by_hand() -> None:
    # Two trees of one item each share a requirement of cost 6. At multipliers 0 both trees keep their item: the dual is
    # 5 + 4 = 9, the closure pays 6, so the best primal is 3, and both edges have subgradient 1, |g|^2 = 2.
    problem = Closure.of([5, 4], requirements=[[0], [0]], cost=[6])
    zero = po.solve(problem, PrimalDual(rule="authors"), limits=po.Limits(evaluations=0))
    assert (zero.objective, zero.bound) == (-3.0, -9.0)
    # eta = (1 + M)(9 - 3) / (2 (1 + M)) = 3: both multipliers become 3, the trees gain 2 + 1, nothing is overpaid.
    one = po.solve(problem, PrimalDual(rule="authors", base=500), limits=po.Limits(evaluations=1))
    assert one.bound == pytest.approx(-3.0, abs=1e-12)
    multipliers = np.asarray(one.duals["requirements"]) / one.duals["denominator"]
    assert multipliers == pytest.approx([3.0, 3.0])
    assert one.status is po.Status.OPTIMAL


@pytest.mark.parametrize("rule", ["authors", "blocks"])
def test_bounds_are_valid_and_proven_at_any_stop(rule: str) -> None:
    problem = forest_closure()
    best = po.solve(problem, "min-cut").objective
    gaps = []
    for evaluations in (0, 5, 50, 300):
        solution = po.solve(problem, PrimalDual(rule=rule), limits=po.Limits(evaluations=evaluations))
        po.verify(problem, solution)
        assert solution.bound <= best + 1e-12 <= solution.objective + 2e-12
        assert solution.bound == problem.bound(solution.duals)
        assert problem.violation(solution.value) == 0
        gaps.append(solution.objective - solution.bound)
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < gaps[0] / 3


def test_the_default_rule_proves_the_optimum_where_the_authors_rule_does_not() -> None:
    problem = forest_closure()
    limits = po.Limits(evaluations=200)
    found = {rule: po.solve(problem, PrimalDual(rule=rule), limits=limits) for rule in ("authors", "blocks")}
    assert found["blocks"].status is po.Status.OPTIMAL
    assert found["blocks"].objective == po.solve(problem, "min-cut").objective
    assert found["authors"].gap > 0


def test_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = forest_closure()
    real, count = dual_prices.regress, [0]

    def regress(*arguments: Any) -> Any:
        count[0] += 1
        if count[0] == 1:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(dual_prices, "regress", regress)
    solution = PrimalDual().solve(problem, po.Limits(), 0)
    assert solution.status is po.Status.FEASIBLE
    assert solution.message.startswith("interrupted")
    assert -math.inf < solution.bound <= solution.objective
    assert problem.violation(solution.value) == 0


def test_prices_with_many_digits_are_rounded_but_not_cut_down() -> None:
    # A penalty that no unit of 62 bits divides. However many requirements there are, none may be paid less for that.
    penalty = Fraction(10**15 + 7, 3 * 10**17 + 1)
    units = Units.of(np.array([10**6, -5]), 10**8, 10**7, penalty)
    assert units.rounded
    assert units.ceiling == units.gains
    paid = units.capacity(np.array([10**8, 3]))
    exact = [int(c * penalty * units.scale) for c in (10**8, 3)]
    assert all(0 <= e - p <= 16 for e, p in zip(exact, paid.tolist(), strict=True))
    # Where penalties are far above all gains their sum would overflow, so that they are cut down.
    assert Units.of(np.array([10**6, -5]), 10**8, 10**7, penalty * 10**20).ceiling < 2**62 / 10**7


def test_options() -> None:
    with pytest.raises(ValueError, match=r"rule must be one of .*'newton'"):
        PrimalDual(rule="newton")
    with pytest.raises(ValueError, match=r"base must be .* got -1"):
        PrimalDual(base=-1)
    with pytest.raises(ValueError, match=r"relaxation must be .* got 2"):
        PrimalDual(relaxation=2)
    with pytest.raises(TypeError):
        PrimalDual(speed=3)  # type: ignore[call-arg]
