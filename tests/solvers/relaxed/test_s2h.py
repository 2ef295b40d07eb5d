"""The solver of soft masks: budget, rounding, mixing of gradients, checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from prunopt.api import solve
from prunopt.core.solution import SolveError
from prunopt.core.solver import Limits
from prunopt.forms.knapsack.coupled_knapsack import CoupledKnapsack
from prunopt.forms.relaxed.trained_mask import TrainedMask
from prunopt.problems.soft_mask import SoftMask
from prunopt.solvers.relaxed._width_logits import Mixture, WidthLogits, is_nested
from prunopt.solvers.relaxed.s2h import S2H

WIDTHS = [[1, 2, 3, 4], [2, 4, 6], [1, 2, 3]]


def costs(share: float) -> CoupledKnapsack:
    """A chain of three groups and a constant: layers cost the product of their widths."""
    k = max(len(w) for w in WIDTHS)
    loss = np.full((4, k), np.inf)
    for g, w in enumerate(WIDTHS):
        loss[g, : len(w)] = 0
    loss[3, 0] = 0
    single = np.zeros((4, k))
    single[0, :4], single[3, 0] = WIDTHS[0], 1.0
    pairs = np.zeros((2, k, k))
    pairs[0, :4, :3] = np.outer(WIDTHS[0], WIDTHS[1])
    pairs[1, :3, :3] = np.outer(WIDTHS[1], WIDTHS[2])
    dense = 4 + 1 + 24 + 18
    return CoupledKnapsack(loss, single, [[0, 1], [1, 2]], pairs, share * dense)


def task(share: float = 0.5, seed: int = 0) -> SoftMask:
    """A smooth loss in which every channel is wanted, the early ones more."""
    rng = np.random.default_rng(seed)
    worth = [np.sort(rng.uniform(0.2, 2.0, w[-1]))[::-1].copy() for w in WIDTHS]

    def loss(widths: Any) -> float:
        return float(sum(v[int(w) :].sum() for v, w in zip(worth, widths, strict=True)))

    def relaxed(gates: list[Any], step: int) -> Any:
        return sum(((1 - z) ** 2 * z.new_tensor(v)).sum() for z, v in zip(gates, worth, strict=True))

    return SoftMask(WIDTHS, costs(share), loss, relaxed, identity=f"toy {seed}")


@pytest.mark.parametrize("share", [0.2, 0.35, 0.6, 0.9])
@pytest.mark.parametrize("value", ["nearest", "likelihood"])
def test_the_answer_is_within_the_budget_and_rounding_is_the_best_there_is(share: float, value: str) -> None:
    problem = task(share)
    solver = S2H(steps=120, learning_rate=0.1, value=value, settle=0)
    found = solve(problem, solver)
    assert problem.violation(found.value) == 0
    assert "optimal" in found.stats["rounding"]
    logits = found.stats["probabilities"]
    sizes = found.stats["unrounded"]

    def lost(choice: Any) -> float:
        k = [int(c[0]) for c in choice]
        if value == "likelihood":
            return -sum(float(row[i]) for row, i in zip(logits, k, strict=True))
        wanted = [min(found.stats["stretch"] * c, w[-1]) for w, c in zip(WIDTHS, sizes, strict=True)]
        return float(sum(((w[i] - c) / w[-1]) ** 2 for w, i, c in zip(WIDTHS, k, wanted, strict=True)))

    best = min(lost(choice) for choice in problem.form.every_choice())
    assert lost(found.stats["choice"]) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.6, 0.75, 0.9])
def test_exact_widths_leave_no_room_for_a_wider_group(share: float) -> None:
    problem = task(share)
    found = solve(problem, S2H(steps=3, settle=0, learning_rate=0.01))  # the expected widths are far off still
    short = solve(problem, S2H(steps=200, learning_rate=0.1, settle=0, tolerance=0.5, scale=0.01))  # far too narrow
    for widths in (found.value, short.value):
        assert problem.violation(widths) == 0
        for g, offered in enumerate(WIDTHS):
            at = offered.index(widths[g])
            if at + 1 < len(offered):
                wider = widths.copy()
                wider[g] = offered[at + 1]
                assert problem.violation(wider) > 0


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_close_to_the_optimum_and_to_the_budget(share: float) -> None:
    problem = task(share)
    exact = solve(problem, "relaxed-enumeration")
    found = solve(problem, S2H(steps=300, learning_rate=0.1))
    whole = problem.loss(np.array([0, 0, 0]))
    assert exact.objective <= found.objective <= exact.objective + 0.15 * whole
    assert found.stats["expected_cost"] == pytest.approx(1, abs=0.1)
    history = found.stats["history"]
    assert history[0]["expected_cost"] > history[-1]["expected_cost"]
    assert history[-1]["step"] == 300  # masks alone: nothing is left to learn once widths are settled, so they are not


def test_expected_rounding_over_the_budget_is_no_answer() -> None:
    problem = task(0.35)
    exact = solve(problem, S2H(steps=5))
    assert problem.violation(exact.value) == 0
    with pytest.raises(SolveError, match="exceeded"):
        solve(problem, S2H(steps=5, rounding="expected"))


def test_enumeration_looks_only_within_the_budget() -> None:
    problem = task(0.3)
    for choice in problem.form.every_choice():
        assert problem.used(problem.widths_of(choice)) <= problem.costs.budget
    assert problem.violation(np.array([4, 6, 3])) > 0
    assert problem.form.objective(problem.options([4, 6, 3])) == 0  # a value, though over the budget


def logits(**change: Any) -> WidthLogits:
    options: dict[str, Any] = {
        "temperature": 1.0, "learning_rate": 0.1, "momentum": 0.0, "tolerance": 0.02, "scale": 0.5,
        "distillation_scale": 1.0, "anneal": 0.0, "relative": True, "project": True,
    }  # fmt: skip
    form = task(0.4).form
    return WidthLogits(form.groups, form.tables, form.costs, Mixture(**(options | change)))


def test_the_start_is_nearly_full_and_the_expected_cost_is_the_mean() -> None:
    start = logits()
    for p, w in zip(start.probabilities(), WIDTHS, strict=True):
        assert float(p[0, -1]) == pytest.approx(w[-2] / w[-1], rel=1e-5)
    form = task(0.4).form
    assert form.costs is not None
    rng = np.random.default_rng(3)
    start.logits = [torch.from_numpy(rng.normal(size=tuple(u.shape)).astype(np.float32)) for u in start.logits]
    shares = [q[0].double().numpy() for q in start.probabilities()]
    mean = sum(
        float(np.prod([shares[g][k] for g, k in enumerate(ks)])) * form.costs.used(np.array([*ks, 0]))
        for ks in np.ndindex(*[len(w) for w in WIDTHS])
    )
    assert start.expected_cost() * form.costs.budget == pytest.approx(mean, rel=1e-5)
    for z, w, c in zip(start.soft(), WIDTHS, start.expected_sizes(), strict=True):
        assert float(z.sum()) == pytest.approx(c, rel=1e-5)
        assert bool((z.diff() <= 1e-7).all())  # gates fall along the order
        chosen = w[int(start.choice()[WIDTHS.index(w)][0])]
        assert chosen >= c - 1e-3
        assert chosen == w[0] or w[w.index(chosen) - 1] < c


def test_a_step_has_the_norm_of_its_rate_and_the_budget_pulls_beyond_the_tolerance() -> None:
    one = logits()
    zeros = [torch.zeros(1, w[-1]) for w in WIDTHS]
    before, cost = [u.clone() for u in one.logits], one.expected_cost()
    norms = one.update(zeros, zeros, 0.0)
    assert norms["task"] == norms["distillation"] == 0
    assert norms["budget"] > 0
    assert one.expected_cost() < cost
    moved = sum(float(((a - b) - (a - b).mean()).square().sum()) for a, b in zip(one.logits, before, strict=True))
    assert moved**0.5 <= 0.1 * 3**0.5 + 1e-6
    for u in one.logits:
        assert float(u.sum()) == pytest.approx(0, abs=1e-5)
    # far within the tolerance the task decides: its pull to wider gates wins over the budget's
    two = logits(tolerance=1e3)
    two.update([-torch.ones(1, w[-1]) for w in WIDTHS], zeros, 0.0)
    assert two.expected_cost() > cost


def test_tables_that_are_no_widths_take_the_most_probable_row() -> None:
    assert is_nested(np.tril(np.ones((3, 3))))
    assert not is_nested(np.array([[1.0, 0, 1], [1, 1, 0]]))
    assert not is_nested(np.tril(np.ones((3, 3)))[::-1])


@pytest.mark.parametrize("cut", [10, 33])
def test_a_resumed_run_is_the_same(tmp_path: Path, cut: int) -> None:
    options: dict[str, Any] = {"steps": 40, "learning_rate": 0.1, "folder": str(tmp_path), "every": 5}
    whole = solve(task(), S2H(steps=40, learning_rate=0.1))
    solve(task(), S2H(**options), limits=Limits(evaluations=cut))
    resumed = solve(task(), S2H(**options))
    assert np.array_equal(whole.value, resumed.value)
    for a, b in zip(whole.stats["probabilities"], resumed.stats["probabilities"], strict=True):
        assert np.array_equal(a, b)
    assert whole.stats["history"][:-8] == resumed.stats["history"][:-8]
    with pytest.raises(ValueError, match="must belong to this problem, seed and options, got others"):
        solve(task(seed=1), S2H(**options))
    (tmp_path / "s2h.safetensors").write_bytes(b"no such thing")
    with pytest.raises(ValueError, match="cannot be read"):
        solve(task(), S2H(**options))


def test_a_loss_that_is_not_finite_stops() -> None:
    good = task()

    def relaxed(gates: list[Any], step: int) -> Any:
        assert good.relaxed_loss is not None
        return good.relaxed_loss(gates, step) * (float("nan") if step == 7 else 1.0)

    found = solve(SoftMask(WIDTHS, good.costs, good.loss, relaxed), S2H(steps=20))
    assert found.stats["steps"] == 7
    assert "not finite" in found.message


@pytest.mark.parametrize(
    "change",
    [{"steps": 0}, {"settle": 1.0}, {"momentum": 1.0}, {"temperature": 0.0}, {"rounding": "up"}, {"value": "x"}],
)
def test_bad_options(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        S2H(**change)


def test_bad_tasks() -> None:
    with pytest.raises(ValueError, match=r"budget must be >= 6, the least that any choice costs"):
        task(0.01)
    with pytest.raises(ValueError, match=r"widths\[0\]"):
        SoftMask([[2, 1]], costs(0.5), lambda _: 0.0)
    with pytest.raises(ValueError, match="widths must hold a group of channels"):
        SoftMask([], costs(0.5), lambda _: 0.0)
    with pytest.raises(ValueError, match="options"):
        SoftMask(WIDTHS[:2], costs(0.5), lambda _: 0.0)
    with pytest.raises(ValueError, match=r"x\[1\] must be one of .* got 3"):
        task().objective([1, 3, 1])
    with pytest.raises(ValueError, match="relaxed_loss"):
        solve(SoftMask(WIDTHS, costs(0.5), lambda _: 0.0), "s2h")
    form = task().form
    with pytest.raises(ValueError, match="x must choose from each group's candidates"):
        TrainedMask(form.groups, form.tables, form.loss).objective((np.array([9]), np.array([0]), np.array([0])))


def test_the_budget_falls_from_the_dense_cost_and_takes_log_widths_alike_on_the_way() -> None:
    one: Any = logits(anneal=0.5)
    dense, budget = one.costing.dense, one.costs.budget
    assert one.budget_at(0.0) == pytest.approx(dense)
    assert one.budget_at(0.25) == pytest.approx((dense * budget) ** 0.5)
    assert one.budget_at(0.5) == one.budget_at(1.0) == one.budget_at(None) == budget
    zeros = [torch.zeros(1, w[-1]) for w in WIDTHS]
    before = np.array(one.expected_sizes())
    for _ in range(20):
        one.update(zeros, zeros, 0.4)
    shrunk = np.log(np.array(one.expected_sizes()) / before)
    assert (shrunk < -0.02).all()
    plain = logits(anneal=0.5, relative=False)
    for _ in range(20):
        plain.update(zeros, zeros, 0.4)
    other = np.log(np.array(plain.expected_sizes()) / before)
    assert np.ptp(shrunk) / -shrunk.mean() < np.ptp(other) / -other.mean()


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_masks_that_pull_against_the_budget_do_not_hold_it_up(scale: float) -> None:
    problem, options = task(0.3), S2H(steps=300, learning_rate=0.1, scale=scale)
    exact = solve(problem, "relaxed-enumeration")
    found = solve(problem, options)
    assert found.stats["expected_cost"] < 1.1
    assert "the search ended at" not in found.message
    assert found.objective <= exact.objective + 0.15 * problem.loss(np.array([0, 0, 0]))
    if scale > 1:  # what wants the dense network outweighs the budget for good
        stuck = solve(problem, replace(options, project=False))
        assert stuck.stats["expected_cost"] > 2
        assert "the search ended at" in stuck.message
        assert problem.violation(stuck.value) == 0


def test_the_rate_follows_the_number_of_steps() -> None:
    problem = task(0.3)
    ends = [solve(problem, S2H(steps=n, settle=0)).stats["expected_cost"] for n in (200, 800)]
    assert ends[0] == pytest.approx(ends[1], rel=0.1)
    assert S2H(steps=720).logits(problem.form).mixture.learning_rate == pytest.approx(0.01)
