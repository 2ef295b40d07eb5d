"""``seconds`` covers the checks of a claim too, and what is not proven in time is not claimed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import prunopt as po
from prunopt.core import certificates, deadline
from prunopt.forms import CoupledKnapsack, MultipleChoiceKnapsack
from prunopt.forms.knapsack import _lagrangian, _proof


@pytest.fixture(autouse=True)
def every_list_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short lists of partial choices are not worth a look at the clock; these tests have short ones only."""
    monkeypatch.setattr(_lagrangian, "UNNOTICED", 0)
    monkeypatch.setattr(_proof, "UNNOTICED", 0)


def test_deadlines_nest() -> None:
    assert not deadline.is_over()
    with deadline.within(None), deadline.within(0.0), deadline.within(60.0):
        assert deadline.is_over()
    assert not deadline.is_over()


def test_a_claim_is_checked_within_the_time() -> None:
    rng = np.random.default_rng(0)
    cost = np.sort(rng.integers(1, 300, (20, 6)), axis=1)
    problem = MultipleChoiceKnapsack((300 - cost) / np.pi + 100 * rng.random((20, 6)), cost, int(cost[:, :4].sum() / 4))
    whole = po.solve(problem)
    assert whole.status is po.Status.OPTIMAL
    with deadline.within(0.0):
        hasty = problem.bound(whole.duals)
    assert hasty < problem.bound(whole.duals) <= whole.objective
    assert hasty == problem.bound({"penalty": whole.duals["penalty"]})
    with pytest.raises(po.CertificateError, match="the check had 0 s, give it more"):
        po.verify(problem, whole, limits=0)
    po.verify(problem, whole, limits=po.Limits(seconds=600))


def test_coupled_claims_too() -> None:
    rng = np.random.default_rng(1)
    n, edges = 24, [(i, i + 1) for i in range(23)]
    cost = np.sort(rng.integers(1, 10**5, (n, 6)), axis=1).astype(float)
    pair = np.sort(np.sort(rng.integers(0, 10**4, (23, 6, 6)), axis=1), axis=2).astype(float)
    loss = (10**5 - cost) / np.pi + rng.random((n, 6))
    problem = CoupledKnapsack(loss, cost, edges, pair, float(cost.sum() / 6))
    solution = po.solve(problem, "coupled-dp")
    with deadline.within(0.0):
        hasty = problem.bound(solution.duals)
    assert hasty == problem.bound({"multiplier": solution.duals["multiplier"]}) < solution.bound


def test_bounds_of_whole_losses_are_rounded_up() -> None:
    """The even-odd families of knapsacks: the relaxation lies one unit below the optimum."""
    cost = np.array([[0, 2], [0, 4], [0, 6]])
    problem = MultipleChoiceKnapsack([[1, 0], [2, 0], [3, 0]], cost, 7)
    solution = po.solve(problem)
    penalty = {"penalty": 0.5}
    assert problem.bound(penalty) == 3.0 == solution.objective  # 2.5 without rounding
    assert MultipleChoiceKnapsack(problem.loss / 4, cost, 7).bound({"penalty": 0.125}) == pytest.approx(0.625)
    forged = replace(solution, duals=penalty, bound=3.1)
    with pytest.raises(po.CertificateError):
        po.verify(problem, forged)


def test_a_check_that_runs_out_of_time_takes_the_lower_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A solver proves its claim just in time, the check of the answer no longer can: no error, but no proof either."""
    problem = MultipleChoiceKnapsack([[0.0, 1.0], [0.0, 3.0], [0.0, 2.5]], [[3, 1], [3, 2], [4, 1]], 7)
    honest = po.solve(problem)
    monkeypatch.setattr(deadline, "is_over", lambda: True)
    late = replace(honest, bound=honest.objective, duals={"penalty": 0.0})
    assert problem.bound(late.duals) < honest.objective
    checked = certificates.recheck_bound(problem, late)
    assert checked.bound == problem.bound(late.duals)
    assert "ran out of time" in checked.message
    monkeypatch.setattr(deadline, "is_over", lambda: False)
    with pytest.raises(po.CertificateError, match="its multipliers prove"):
        certificates.recheck_bound(problem, late)
