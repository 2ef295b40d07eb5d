"""The multiple-choice knapsack and black boxes as forms."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunopt as po
from prunopt.core.solution import CertificateError, Step
from prunopt.forms import BlackBox, MultipleChoiceKnapsack
from prunopt.forms.blackbox import Gene, LevelSearch, level_genes
from prunopt.solvers.mip.pulp import Pulp
from prunopt.testing.searches import bowl, brute_force_choice, random_budgets


def knapsack(seed: int, groups: int = 4, levels: int = 4) -> MultipleChoiceKnapsack:
    rng = np.random.default_rng(seed)
    loss = rng.normal(size=(groups, levels)).round(2)
    cost = rng.integers(0, 12, (groups, levels))
    return MultipleChoiceKnapsack(loss, cost, int(cost.min(axis=1).sum() + rng.integers(0, 20)))


def test_objective_and_violation_by_hand() -> None:
    problem = MultipleChoiceKnapsack([[1.0, 0.5], [2.0, 0.0]], [[1, 3], [0, 4]], 5)
    assert problem.objective([1, 0]) == 2.5
    assert problem.violation(np.array([1, 0])) == 0
    assert problem.violation(np.array([1, 1])) == 2
    missing = MultipleChoiceKnapsack([[1.0, np.inf]], [[1, 0]], 5)
    assert missing.violation(np.array([1])) == np.inf


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_dp_is_brute_force_and_its_claim_is_checked(seed: int) -> None:
    problem = knapsack(seed)
    best = brute_force_choice(problem)
    assert best is not None
    answer = po.solve(problem, "choice-dp")
    assert answer.status is po.Status.OPTIMAL
    assert answer.objective == pytest.approx(best, abs=1e-9)
    relaxed = po.solve(problem, "choice-lagrange")
    assert relaxed.bound <= best + 1e-9 <= relaxed.objective + 2e-9
    # A claim above the optimum is lowered to the optimum, whatever the penalty.
    for penalty in (0.0, 0.05, float(answer.duals["penalty"])):
        assert problem.bound({"penalty": penalty, "claim": best + 1.0}) == pytest.approx(best, abs=1e-9)
        assert problem.bound({"penalty": penalty}) <= best + 1e-9


@pytest.mark.parametrize("engine", ["PULP_CBC_CMD", "HiGHS"])
def test_integer_programs_agree(engine: str) -> None:
    for seed in range(3):
        problem = knapsack(seed, groups=12, levels=6)
        assert po.solve(problem, Pulp(engine)).objective == pytest.approx(
            po.solve(problem, "choice-dp").objective, abs=1e-6
        )


def test_large_costs_and_equal_groups() -> None:
    levels = np.arange(21)
    sizes = np.repeat([4096 * 4096, 4096 * 11008], 40)
    loss = np.linspace(1, 2, 80)[:, None] * (levels / 20) ** 2.5
    problem = MultipleChoiceKnapsack(loss, sizes[:, None] * (20 - levels), int(sizes.sum() * 20 * 0.4))
    answer = po.solve(problem)
    assert (answer.solver, answer.status) == ("choice-dp", po.Status.OPTIMAL)
    po.verify(problem, answer)


def test_limits_return_a_bound() -> None:
    from prunopt.solvers.knapsack.choice_dp import ChoiceDp

    rng = np.random.default_rng(0)
    cost = rng.integers(1, 900, (30, 8)).cumsum(axis=1)
    problem = MultipleChoiceKnapsack(-np.sqrt(cost) * rng.uniform(1, 2, (30, 1)), cost, 40_000)
    answer = po.solve(problem, ChoiceDp(states=1))
    assert answer.bound <= answer.objective
    assert answer.status is po.Status.FEASIBLE
    assert "partial choices" in answer.message
    po.verify(problem, answer)


def test_infeasible_names_the_least_budget() -> None:
    problem = MultipleChoiceKnapsack([[0.0, 1.0], [0.0, 1.0]], [[9, 4], [9, 3]], 6)
    with pytest.raises(po.SolveError, match="nearest feasible request: budget=7"):
        po.solve(problem)


def test_files_and_models(tmp_path: Path) -> None:
    problem = knapsack(1)
    po.save_form(problem, tmp_path / "x.npz")
    again = po.load_form(tmp_path / "x.npz")
    assert np.array_equal(again.loss, problem.loss)
    assert again.budget == problem.budget
    with pytest.raises(TypeError, match="holds functions"):
        po.save_form(bowl(), tmp_path / "y.npz")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([[np.nan]], [[1]], 1), "loss must hold numbers"),
        (([[np.inf]], [[1]], 1), "missing levels only"),
        (([1.0], [[1]], 1), "loss must hold real numbers of shape"),
        (([[1.0]], [[0.5]], 1), "whole numbers"),
        (([[1.0]], [[-1]], 1), "= -1"),
        (([[1.0]], [[1, 2]], 1), "cost must have shape"),
        (([[1.0]], [[1]], -1), "budget must be .*, got -1"),
        (([[1.0]], [[2**63 - 1]], 1), "2\\^62"),
    ],
)
def test_bad_input(arguments: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MultipleChoiceKnapsack(*arguments)
    with pytest.raises(CertificateError, match="penalty"):
        knapsack(0).bound({"penalty": -1.0})


def test_black_box_checks() -> None:
    box = bowl()
    assert box.objective({"kind": "red", "a": 2, "b": -1.0}) == 0
    assert box.violation({"kind": "blue", "a": 0, "b": 0.0}) == np.inf
    with pytest.raises(ValueError, match=r"x\['kind'\] must be one of .*'pink'"):
        box.objective({"kind": "pink", "a": 2, "b": 0.0})
    with pytest.raises(ValueError, match="a mapping of kind, a, b"):
        box.objective({"kind": "red"})
    with pytest.raises(ValueError, match="fidelities"):
        bowl((1.0, 0.5))
    with pytest.raises(ValueError, match="low < high"):
        Gene("x", low=1.0, high=1.0)
    with pytest.raises(ValueError, match="name each entry once"):
        BlackBox((Gene("x"), Gene("x")), dict, lambda d, f: 0.0)
    with pytest.raises(ValueError, match="cost at most the budget 2"):
        LevelSearch(level_genes(2, 2), dict, lambda d, f: 0.0, cost=[[3, 0], [3, 0]], budget=2)


def test_brute_force_sees_everything() -> None:
    problem = knapsack(5, 2, 2)
    values = [
        problem.objective(np.array(x))
        for x in itertools.product(range(2), repeat=2)
        if not problem.violation(np.array(x))
    ]
    assert brute_force_choice(problem) == min(values)


def test_several_budgets_and_a_span_by_hand() -> None:
    cost = {"bytes": [[4, 1], [4, 1]], "ms": [[1, 3], [1, 3]]}
    problem = MultipleChoiceKnapsack([[0.0, 1.0]] * 2, cost, {"bytes": 5, "ms": 4}, spans=[(0, 1, 1.5, (1, 1))])
    assert problem.resources == ("bytes", "ms")
    assert problem.objective([2, 2]) == 1.5
    assert problem.used([2, 2]).tolist() == [1, 1]
    assert problem.violation([0, 1]) == 0
    assert problem.violation([0, 0]) == 3
    assert problem.violation([1, 1]) == 2
    assert problem.violation([2, 1]) == np.inf  # half a span
    answer = po.solve(problem)
    assert (answer.solver, answer.objective, answer.status) == ("choice-branch-and-bound", 1.0, po.Status.OPTIMAL)
    po.verify(problem, answer)


def test_one_budget_is_as_it_was(tmp_path: Path) -> None:
    problem = knapsack(3)
    other = MultipleChoiceKnapsack(problem.loss, {"ms": problem.cost}, {"ms": problem.budget})
    cube = MultipleChoiceKnapsack(problem.loss, problem.cost[None], [problem.budget])
    for same in (other, cube):
        assert np.array_equal(same.cost, problem.cost)
        assert (same.budget, po.solve(same).solver) == (problem.budget, "choice-dp")
    assert po.solve(problem).bound == po.solve(cube).bound
    tree = po.solve(problem, "choice-branch-and-bound")
    assert tree.objective == pytest.approx(po.solve(problem).objective, abs=1e-12)
    po.verify(problem, tree)


def test_several_budgets_on_disk(tmp_path: Path) -> None:
    cost = {"bytes": [[4, 1], [4, 1]], "ms": [[1, 3], [1, 3]]}
    problem = MultipleChoiceKnapsack([[0.0, 1.0]] * 2, cost, {"bytes": 5, "ms": 4}, spans=[(0, 1, 1.5, (1, 1))])
    po.save_form(problem, tmp_path / "x.npz")
    again = po.load_form(tmp_path / "x.npz")
    assert (again.resources, again.spans) == (problem.resources, problem.spans)
    assert np.array_equal(again.cost, problem.cost)
    assert again.limits.tolist() == [5, 4]


@pytest.mark.parametrize("engine", ["PULP_CBC_CMD", "HiGHS"])
def test_integer_programs_of_several_budgets_agree(engine: str) -> None:
    rng = np.random.default_rng(4)
    for _ in range(6):
        problem = random_budgets(rng)
        mine, other = po.solve(problem, throw=False), po.solve(problem, Pulp(engine), throw=False)
        assert mine.status is other.status
        if mine.status.has_value:
            assert other.objective == pytest.approx(mine.objective, abs=1e-6)


def test_a_tree_proves_no_more_than_its_leaves() -> None:
    rng = np.random.default_rng(1)
    problem = MultipleChoiceKnapsack(rng.random((8, 6)) * 50, rng.integers(1, 60, (3, 8, 6)), [170, 180, 190])
    answer = po.solve(problem)
    assert answer.stats["nodes"] > 3
    for name in ("penalties", "parent", "second"):
        duals = {**answer.duals, name: answer.duals[name][:-1]}
        with pytest.raises(CertificateError):
            problem.bound(duals)
    high = problem.bound({**answer.duals, "claim": answer.objective + 5})
    assert high <= answer.objective + 1e-9
    moved = {**answer.duals, "levels": ~answer.duals["levels"]}
    assert problem.bound(moved) <= answer.objective + 1e-9
    with pytest.raises(CertificateError, match="penalties"):
        problem.bound({**answer.duals, "penalties": -answer.duals["penalties"] - 1})


def test_bound_and_answer_at_any_time() -> None:
    rng = np.random.default_rng(0)
    cost = rng.integers(1, 1000, (3, 20, 16))
    problem = MultipleChoiceKnapsack(1000 - cost.mean(0) + 200 * rng.random((20, 16)), cost, [8000] * 3)
    steps: list[Step] = []
    answer = po.solve(problem, limits=po.Limits(evaluations=300), callback=steps.append)
    assert answer.status is po.Status.FEASIBLE
    assert answer.bound < answer.objective
    assert [s.bound for s in steps] == sorted(s.bound for s in steps)
    assert len(steps) > 1
    po.verify(problem, answer)


def test_infeasible_budgets_name_the_resource() -> None:
    cost = {"bytes": [[2, 0]] * 2, "ms": [[0, 2]] * 2}
    with pytest.raises(po.SolveError, match=r"in the way: ms .*least ms of any choice is 4.*nearest .* ms=4"):
        po.solve(
            MultipleChoiceKnapsack(
                [[0.0, 1.0]] * 2, {"bytes": cost["bytes"], "ms": [[9, 2]] * 2}, {"bytes": 9, "ms": 3}
            )
        )
    with pytest.raises(po.SolveError, match="the 2 limits cannot be met together"):
        po.solve(MultipleChoiceKnapsack([[0.0, 1.0]] * 2, cost, {"bytes": 1, "ms": 1}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": {"a": 1}}, "budget must map the resources of cost"),
        ({"budget": 1}, "budget must map"),
        ({"spans": [(0, 2, 1.0, 1)]}, "last group of spans"),
        ({"spans": [(0, 0, 1.0, (1, 2, 3))]}, "costs of spans"),
        ({"spans": [(0, 1)]}, r"be \(first, last, loss, costs\)"),
        ({"cost": [[[1]], [[1]]], "budget": [1, 1], "resources": ("a", "a")}, "once"),
        ({"cost": [[[1]], [[1]]], "budget": [1, -1]}, r"budget\[1\] must be .*-1"),
    ],
)
def test_bad_input_of_several_budgets(changes: dict[str, Any], words: str) -> None:
    given = {"cost": {"a": [[1]], "b": [[1]]}, "budget": {"a": 1, "b": 1}} | changes
    with pytest.raises(ValueError, match=words):
        MultipleChoiceKnapsack([[1.0]], **given)


def test_solvers_of_one_budget_say_so() -> None:
    problem = MultipleChoiceKnapsack([[1.0]], [[[1]], [[1]]], [1, 1])
    with pytest.raises(ValueError, match="pass choice-branch-and-bound"):
        po.solve(problem, "choice-dp")
