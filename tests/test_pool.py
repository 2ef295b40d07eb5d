"""Starts, callbacks that stop, logs, and the pool of the best solutions."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pulp
import pytest

import prunopt as po
from prunopt.forms import Closure, Model, MultipleChoiceKnapsack, QuadraticKnapsack
from prunopt.pool import solution_pool

CLOSURE = Closure.of([5, 4, 1], requirements=[[0], [0, 1], [1]], cost=[3, 2])


def every(problem: Any, n: int) -> list[float]:
    values = (np.array(x, np.bool_) for x in itertools.product((False, True), repeat=n))
    return sorted(problem.objective(x) for x in values if problem.violation(x) == 0)


@pytest.mark.parametrize("engine", ["highs-milp", "pulp"])
def test_the_pool_holds_the_best_solutions(engine: str) -> None:
    found = solution_pool(CLOSURE, 20, engine=engine)
    assert [s.objective for s in found] == every(CLOSURE, 3)
    assert len({s.value.tobytes() for s in found}) == len(found)
    near = solution_pool(CLOSURE, 20, within=2.0)
    assert [s.objective for s in near] == [v for v in every(CLOSURE, 3) if v <= every(CLOSURE, 3)[0] + 2.0]


def test_the_pool_of_pairs_and_its_refusals() -> None:
    rng = np.random.default_rng(0)
    pair = np.triu(rng.normal(size=(5, 5)), 1)
    problem = QuadraticKnapsack(rng.normal(size=5), pair, rng.integers(1, 5, 5), 8.0)
    found = solution_pool(problem, 6)
    assert [s.objective for s in found] == pytest.approx(every(problem, 5)[:6])
    with pytest.raises(ValueError, match="all of them 0-1"):
        solution_pool(Model.of([1.0], A_ub=[[-1.0]], b_ub=[-1.5], integer=[0], upper=9.0))
    with pytest.raises(ValueError, match="count must be a whole number"):
        solution_pool(CLOSURE, 0)
    assert solution_pool(MultipleChoiceKnapsack([[0.0, 1.0]], [[3, 2]], 1)) == []


def hard(seed: int = 0) -> QuadraticKnapsack:
    rng = np.random.default_rng(seed)
    n = 40
    pair = np.triu(np.where(rng.random((n, n)) < 0.5, -rng.integers(1, 101, (n, n)), 0), 1).astype(float)
    return QuadraticKnapsack(-rng.integers(1, 101, n).astype(float), pair, rng.integers(1, 51, n), 400.0)


def test_a_start_is_never_lost() -> None:
    problem = hard()
    best = po.solve(problem)
    answer = po.solve(problem, limits=po.Limits(evaluations=1), start=best.value)
    assert answer.objective == best.objective
    other = po.solve(CLOSURE, "pulp", limits=po.Limits(seconds=0.0), start=np.array([True, False, False]), throw=False)
    assert other.status.has_value
    assert other.objective <= -2.0
    knapsack = MultipleChoiceKnapsack([[0.0, 1.0], [0.0, 3.0]], [[3, 1], [3, 1]], 4)
    assert po.solve(knapsack, start=np.array([1, 0])).objective == 1.0


def test_an_infeasible_start_is_refused() -> None:
    with pytest.raises(ValueError, match="start must be feasible, got a value that breaks the constraints"):
        po.solve(hard(), start=np.ones(40, np.bool_))


def test_a_callback_stops() -> None:
    rng = np.random.default_rng(1)
    n, r = 60, 20
    model = Model.of(-rng.integers(10, 99, n), A_ub=rng.integers(1, 60, (r, n)), b_ub=np.full(r, 400.0),
                     upper=1.0, integer=range(n))  # fmt: skip
    seen: list[po.Step] = []

    def enough(step: po.Step) -> bool:
        seen.append(step)
        return True

    answer = po.solve(model, callback=enough)
    assert seen
    assert answer.status.has_value
    assert answer.bound <= answer.objective
    stopped = po.solve(hard(), callback=lambda step: True)
    assert stopped.trace

    def fails(step: po.Step) -> None:
        raise RuntimeError("not today")

    with pytest.raises(RuntimeError, match="not today"):
        po.solve(model, callback=fails)


def test_steps_of_an_integer_program_are_kept_and_logged(capsys: Any) -> None:
    rng = np.random.default_rng(2)
    n, r = 40, 12
    model = Model.of(-rng.integers(10, 99, n), A_ub=rng.integers(1, 60, (r, n)), b_ub=np.full(r, 300.0),
                     upper=1.0, integer=range(n))  # fmt: skip
    answer = po.solve(model, log=True)
    assert answer.trace[-1].objective == pytest.approx(answer.objective, rel=1e-8)  # integers are rounded at the end
    assert all(s.bound <= answer.objective + 1e-6 for s in answer.trace)
    assert f"objective {answer.objective:.10g}" in capsys.readouterr().err


def test_a_pool_of_a_file_and_of_a_pulp_model(tmp_path: Path) -> None:
    model = pulp.LpProblem("k", pulp.LpMinimize)
    x = [model.add_variable(f"x{i}", 0, 1, pulp.LpBinary) for i in range(3)]
    model.setObjective(-x[0] - 2 * x[1] - 3 * x[2])
    model.addConstraint(x[0] + x[1] + x[2] <= 2)
    model.writeLP(tmp_path / "k.lp")
    for task in (model, tmp_path / "k.lp", str(tmp_path / "k.lp")):
        assert [s.objective for s in solution_pool(task, 3)] == [-5, -4, -3]
