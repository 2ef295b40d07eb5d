"""Solvers of subsets under any loss: what each promises beyond the conformance suite."""

from __future__ import annotations

import numpy as np
import pytest

import prunopt as po
from prunopt.core.solver import Limits
from prunopt.forms import EnumerableChoice, SubsetChoice
from prunopt.solvers.subset._quadratic_fit import fit_quadratic
from prunopt.solvers.subset.greedy import Greedy
from prunopt.solvers.subset.head_importance import HeadImportance
from prunopt.solvers.subset.surrogate import Surrogate, sample
from prunopt.solvers.subset.swap import Swap
from prunopt.testing.subsets import RoughLoss


def problem(n: int = 9, keep: int = 5, seed: int = 0) -> EnumerableChoice:
    loss = RoughLoss(np.random.default_rng(seed), n)
    return EnumerableChoice(loss, np.ones(n), np.inf, exactly=keep)


def test_greedy_is_backward_elimination() -> None:
    task = problem()
    kept = np.ones(9, np.bool_)
    tried = 1
    while kept.sum() > 5:
        trials = [(task.loss(np.where(np.arange(9) == i, False, kept)), i) for i in np.flatnonzero(kept)]
        tried += len(trials)
        kept[min(trials)[1]] = False
    solution = po.solve(task, Greedy(beam=1))
    np.testing.assert_array_equal(solution.value, kept)
    assert solution.stats["evaluations"] == tried
    default = po.solve(task, "greedy")
    assert default.stats["beam"] == 4  # 9 items are few
    assert default.objective <= solution.objective
    wide = po.solve(task, Greedy(beam=50))
    assert wide.objective == pytest.approx(po.solve(task, "enumeration").objective)
    narrow = po.solve(task, Greedy(screen=2))
    assert narrow.stats["evaluations"] < tried


def test_greedy_weighs_costs() -> None:
    cheap_gain = SubsetChoice(lambda kept: float(~kept[0]) * 1.0 + float((~kept[1:]).sum()) * 0.6, [4.0, 1, 1, 1], 3.0)
    solution = po.solve(cheap_gain, "greedy")  # one removal for 1.0 rather than four for 0.6 each
    np.testing.assert_array_equal(solution.value, [False, True, True, True])
    many = SubsetChoice(lambda kept: float(~kept[0]) + 0.6 * float((~kept[1:]).sum()), [20.0, *[1] * 30], 30.0)
    for beam in (1, 3):
        np.testing.assert_array_equal(np.flatnonzero(~po.solve(many, Greedy(beam=beam)).value), [0])


def test_swap_ends_where_no_exchange_helps() -> None:
    for seed in range(4):
        task = problem(seed=seed)
        solution = po.solve(task, Swap(start="head-importance"))
        assert "no exchange" in solution.message
        for i in np.flatnonzero(solution.value):
            for j in np.flatnonzero(~solution.value):
                trial = solution.value.copy()
                trial[[i, j]] = False, True
                assert task.objective(trial) >= solution.objective
        assert po.solve(task, "swap").objective <= po.solve(task, Greedy(beam=1)).objective


def test_importance_in_steps_scores_again() -> None:
    calls: list[int] = []

    def scores(kept: np.ndarray) -> np.ndarray:
        calls.append(int(kept.sum()))
        return np.arange(8.0)

    task = SubsetChoice(lambda kept: float((~kept).sum()), np.ones(8), np.inf, exactly=2, scores=scores)
    solution = po.solve(task, HeadImportance(steps=3))
    assert calls == [8, 6, 4]
    np.testing.assert_array_equal(np.flatnonzero(solution.value), [6, 7])
    calls.clear()
    po.solve(task, "head-importance")
    assert calls == [8]
    bad = SubsetChoice(task.loss, np.ones(8), np.inf, exactly=2, scores=lambda kept: np.ones(7))
    with pytest.raises(ValueError, match="scores"):
        po.solve(bad, "head-importance")


def test_quadratic_fit_finds_a_quadratic() -> None:
    rng = np.random.default_rng(0)
    n = 7
    linear, pair = rng.normal(size=n), np.triu(rng.normal(size=(n, n)), 1)
    masks = rng.random((90, n)) < 0.5
    x = masks.astype(float)
    losses = x @ linear + np.einsum("mi,ij,mj->m", x, pair, x) - 100.0
    fit = fit_quadratic(masks, losses)
    assert not fit.log
    assert fit.error < 0.05
    new = rng.random((30, n)) < 0.5
    y = new.astype(float)
    found = fit.constant + y @ fit.linear + np.einsum("mi,ij,mj->m", y, fit.pair, y)
    wanted = y @ linear + np.einsum("mi,ij,mj->m", y, pair, y) - 100.0
    assert np.abs(found - wanted).max() < 0.2
    assert fit_quadratic(masks, np.exp(losses + 100)).log


@pytest.mark.parametrize("engine", ["branch-and-bound", "pulp"])
def test_surrogate_finds_the_optimum_of_a_quadratic(engine: str) -> None:
    rng = np.random.default_rng(1)
    n = 14
    linear, pair = rng.normal(1, 1, n), np.triu(rng.normal(0, 0.4, (n, n)), 1)

    def loss(kept: np.ndarray) -> float:
        gone = (~kept).astype(float)
        return float(linear @ gone + gone @ pair @ gone)

    task = EnumerableChoice(loss, np.ones(n), np.inf, exactly=7)
    best = po.solve(task, "enumeration").objective
    solution = po.solve(task, Surrogate(start="none", engine=engine, samples=110, batch=2, patience=2), seed=2)
    assert solution.objective == pytest.approx(best)
    assert solution.stats["models proven"] > 0
    assert solution.stats["evaluations"] < 400
    assert "does not bound the loss" in solution.message
    assert solution.bound == -np.inf


def test_surrogate_never_tries_a_subset_twice_and_stops_when_all_are_tried() -> None:
    seen: list[bytes] = []

    def loss(kept: np.ndarray) -> float:
        seen.append(kept.tobytes())
        return float(kept @ np.arange(5.0))

    task = SubsetChoice(loss, np.ones(5), np.inf, exactly=2)
    solution = Surrogate(start="none", patience=50).solve(task, Limits(), 0)
    assert len(seen) == len(set(seen)) == 10
    assert "every subset was tried" in solution.message


def test_samples_meet_the_constraints_and_use_the_budget_up() -> None:
    rng = np.random.default_rng(0)
    task = SubsetChoice(lambda kept: 0.0, rng.integers(1, 5, 12).astype(float), 14.0, [[0, 1, 2], [3, 4, 5]])
    for k in range(50):
        x = sample(task, rng, None)
        assert task.violation(x) == 0
        assert (task.costs[x].sum() + task.costs[~x] > 14.0).all()
        assert task.violation(sample(task, rng, x)) == 0
        assert k >= 0


def test_same_seed_same_answer_and_options_are_checked() -> None:
    task = problem(12, 6, 3)
    a, b = (po.solve(task, Surrogate(start="none"), seed=4) for _ in range(2))
    np.testing.assert_array_equal(a.value, b.value)
    for make, message in (
        (lambda: Surrogate(start="x"), "start"), (lambda: Surrogate(engine="x"), "engine"),
        (lambda: Surrogate(samples=0), "samples"), (lambda: Swap(start="x"), "start"),
        (lambda: Greedy(beam=0), "beam"), (lambda: HeadImportance(steps=0), "steps"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize("seed", range(20))
def test_head_importance_keeps_a_number_within_a_budget(seed: int) -> None:
    """Items that go for the budget left fewer than the number asked for."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 8))
    gain, cost, number = rng.normal(0.3, 1, n), rng.integers(1, 9, n).astype(float), int(rng.integers(1, n + 1))
    budget = float(np.sort(cost)[:number].sum() + rng.integers(0, 6))
    problem = EnumerableChoice(lambda kept: float(gain @ ~kept), cost, budget, exactly=number)
    for steps in (1, 2):
        kept = po.solve(problem, HeadImportance(steps=steps)).value
        assert kept.sum() == number
        assert cost[kept].sum() <= budget
