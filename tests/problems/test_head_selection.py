"""The task of choosing attention heads: budgets, groups, covers, and what it refuses."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import prunopt as po
from prunopt.forms import EnumerableChoice, SubsetChoice
from prunopt.problems import HeadSelection
from prunopt.testing.subsets import RoughLoss

LAYERS = [3, 4]


@pytest.fixture
def loss() -> RoughLoss:
    return RoughLoss(np.random.default_rng(5), 7)


def every(task: HeadSelection) -> float:
    masks = (np.array(m, np.bool_) for m in itertools.product((False, True), repeat=sum(task.layers)))
    return min(task.objective(m) for m in masks if task.violation(m) == 0)


@pytest.mark.parametrize("options", [
    {}, {"exactly": True}, {"at_least_one_per_layer": True}, {"exactly": True, "at_least_one_per_layer": True},
])  # fmt: skip
def test_enumeration_is_brute_force(loss: RoughLoss, options: dict[str, Any]) -> None:
    for keep in (2, 5):
        task = HeadSelection.from_loss(loss, LAYERS, keep, **options)
        solution = po.solve(task)
        assert solution.solver == "enumeration"
        assert solution.status is po.Status.OPTIMAL
        assert solution.objective == solution.bound == pytest.approx(every(task))
        assert solution.value.sum() == keep or "exactly" not in options
        po.verify(task, solution)


@pytest.mark.parametrize("solver", ["head-importance", "greedy", "swap", "surrogate"])
def test_other_solvers_claim_nothing(loss: RoughLoss, solver: str) -> None:
    task = HeadSelection.from_loss(loss, LAYERS, 4)
    solution = po.solve(task, solver)
    assert solution.status is po.Status.FEASIBLE
    assert solution.bound == -np.inf
    assert solution.objective >= every(task) - 1e-9
    assert "optimal" not in solution.message.lower()


def test_a_limit_may_be_undershot_and_a_number_not(loss: RoughLoss) -> None:
    def fewer_is_better(kept: Any) -> float:
        return float(kept.sum())

    assert po.solve(HeadSelection.from_loss(fewer_is_better, 6, 4)).value.sum() == 0
    assert po.solve(HeadSelection.from_loss(fewer_is_better, 6, 4), "greedy").value.sum() == 0
    assert po.solve(HeadSelection.from_loss(fewer_is_better, 6, 4, exactly=True)).value.sum() == 4
    assert po.solve(HeadSelection.from_loss(fewer_is_better, [3, 3], 4, at_least_one_per_layer=True)).value.sum() == 2


def test_groups_stay_whole() -> None:
    loss = RoughLoss(np.random.default_rng(2), 12)
    task = HeadSelection.from_loss(loss, [6, 6], 6, heads_per_group=3)
    for solver in ("enumeration", "greedy", "surrogate"):
        kept = po.solve(task, solver).value.reshape(4, 3)
        assert (kept.all(axis=1) == kept.any(axis=1)).all()
    split = np.zeros(12, np.bool_)
    split[0] = True
    assert task.violation(split) == 1.0
    assert po.solve(task).objective == pytest.approx(every(task))


def test_budgets_in_other_units(loss: RoughLoss) -> None:
    cost = np.array([0.5, 0.5, 0.5, 1.5, 1.5, 1.5, 1.5])
    task = HeadSelection.from_loss(loss, LAYERS, po.Budget("latency_ms", 5.0, 9.5), cost=cost, fixed=2.0)
    solution = po.solve(task)
    assert task.used(solution.value) <= 5.0
    assert solution.objective == pytest.approx(every(task))
    for solver in ("head-importance", "greedy", "swap", "surrogate"):
        assert task.violation(po.solve(task, solver).value) == 0
    over = np.ones(7, np.bool_)
    assert task.violation(over) == pytest.approx(4.5)
    share = HeadSelection.from_loss(loss, LAYERS, po.Budget("latency_ms", share=5.0 / 9.5), cost=cost, fixed=2.0)
    assert share.budget.allowed() == pytest.approx(5.0)
    np.testing.assert_array_equal(po.solve(share).value, solution.value)


def test_many_heads_are_no_matter_of_enumeration() -> None:
    loss = RoughLoss(np.random.default_rng(3), 24)
    task = HeadSelection.from_loss(loss, [6] * 4, 0.5)
    assert type(task.reduce().form) is SubsetChoice
    assert isinstance(HeadSelection.from_loss(loss, [4] * 3, 6).reduce().form, EnumerableChoice)
    solution = po.solve(task, limits=po.Limits(evaluations=400))
    assert solution.solver == "surrogate"
    assert solution.value.sum() <= 12
    with pytest.raises(ValueError, match="fitting are surrogate"):
        po.solve(task, "enumeration")


def test_scores_of_a_loss_are_used_and_without_them_single_ablation() -> None:
    single = np.array([3.0, 1.0, 2.0, 5.0, 4.0])

    class Scored:
        scores_name = "a guess"

        def __call__(self, kept: Any) -> float:
            return float(single[~kept].sum())

        def scores(self, kept: Any) -> Any:
            return -single

    task = HeadSelection.from_loss(Scored(), 5, 2, exactly=True)
    by_scores = po.solve(task, "head-importance")
    assert list(np.flatnonzero(by_scores.value)) == [1, 2]
    assert by_scores.stats["score"] == "a guess"
    plain = HeadSelection.from_loss(lambda kept: float(single[~kept].sum()), 5, 2, exactly=True)
    by_ablation = po.solve(plain, "head-importance")
    assert list(np.flatnonzero(by_ablation.value)) == [3, 4]
    assert by_ablation.stats["score"] == "single ablation"


@pytest.mark.parametrize(("arguments", "options", "message"), [
    ((3, 4), {}, "keep=4"),
    ((3, 1.5), {}, "keep=1.5"),
    ((3, True), {}, "keep=True"),
    ((3, "2"), {}, "keep='2'"),
    (([2, 2, 2], 2), {"at_least_one_per_layer": True}, "one head .* takes 3"),
    (([2, 2], 2), {"heads_per_group": 3}, "heads_per_group=3"),
    (([0, 2], 1), {}, "n_heads"),
    ((2.5, 1), {}, "n_heads=2.5"),
    ((4, 3), {"heads_per_group": 2, "exactly": True}, "multiple"),
    ((4, po.Budget("ms", 1.0)), {"cost": [1.0]}, "cost"),
    ((4, po.Budget("ms", 1.0)), {"fixed": 2.0}, "model without heads"),
    ((4, po.Budget("ms", 1.0)), {"exactly": True}, "exactly"),
    ((4, 2), {"cost": np.ones(4)}, "cost: keep counts heads"),
])  # fmt: skip
def test_bad_input(arguments: tuple[Any, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        HeadSelection.from_loss(lambda kept: 0.0, *arguments, **options)


def test_values_are_checked(loss: RoughLoss) -> None:
    task = HeadSelection.from_loss(loss, LAYERS, 4)
    with pytest.raises(ValueError, match=r"bool of shape \(7,\)"):
        task.objective(np.ones(7))
    with pytest.raises(TypeError, match="loss"):
        HeadSelection.from_loss(3.0, 4, 2)  # type: ignore[arg-type]
