"""What engines are told, and what is kept of what they tell: limits, gaps, seeds, bounds, Ctrl-C."""

from __future__ import annotations

import math
import os
import signal
import threading
from typing import Any

import numpy as np
import pulp
import pytest

import prunopt as po
from prunopt.core import engines
from prunopt.forms import CoupledKnapsack
from prunopt.forms.mip_model import Model
from prunopt.solvers.mip.pulp import Pulp


@pytest.fixture(scope="module")
def hard() -> Model:
    """Many knapsack rows: minutes to the proof, a moment to a good value."""
    rng = np.random.default_rng(0)
    n, rows = 60, rng.integers(1, 100, (25, 60))
    sides = np.full(25, -np.inf), np.full(25, 100 * n / 8)
    return Model(-rng.integers(50, 100, n), rows, *sides, np.zeros(n), np.ones(n), np.ones(n, bool))


@pytest.fixture(scope="module")
def relaxed(hard: Model) -> float:
    """A bound that shares nothing with the integer runs: the linear relaxation."""
    linear = Model(hard.c, hard.A, hard.row_lower, hard.row_upper, hard.lower, hard.upper, np.zeros(60, bool))
    return float(po.solve(linear).objective)


def test_integer_models_go_to_highs(hard: Model) -> None:
    names = [row.name for row in po.solvers(hard)]
    assert names.index("highs-milp") < names.index("pulp")


def test_a_time_limit_keeps_value_and_bound(hard: Model, relaxed: float) -> None:
    solution = po.solve(hard, limits=po.Limits(seconds=1.0))
    assert solution.status is po.Status.FEASIBLE
    assert relaxed - 1e-6 <= solution.bound < solution.objective <= -1000
    assert solution.stats["bound"] == "claimed by HiGHS"


def test_the_gap_is_handed_on_to_cbc(hard: Model, relaxed: float) -> None:
    solution = po.solve(hard, "pulp", limits=po.Limits(seconds=30.0, gap=0.05))
    best = po.solve(hard, limits=po.Limits(seconds=60.0, gap=0.02))
    assert solution.status is po.Status.OPTIMAL
    assert solution.stats["bound"] == "claimed by PULP_CBC_CMD"
    assert 0 < solution.gap <= 0.05 + 1e-9
    assert solution.bound <= best.objective


def test_the_gap_is_handed_on(hard: Model, relaxed: float) -> None:
    solution = po.solve(hard, limits=po.Limits(seconds=30.0, gap=0.05))
    assert solution.status is po.Status.OPTIMAL
    assert relaxed - 1e-6 <= solution.bound < solution.objective  # the engine's bound, not its word "optimal"
    assert 0 < solution.gap <= 0.05


def test_an_interrupt_keeps_value_and_bound(hard: Model, relaxed: float) -> None:
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    solution = po.solve(hard, limits=po.Limits(seconds=60.0))
    timer.join()
    assert "interrupted" in solution.message
    assert relaxed - 1e-6 <= solution.bound < solution.objective
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_seeds_are_handed_on(hard: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    real = engines.run_pulp

    def run_pulp(model: Any, engine: Any, label: str) -> str:
        told.append((label, engine.optionsDict.get("random_seed"), getattr(engine, "options", None)))
        return real(model, engine, label)

    monkeypatch.setattr(engines, "run_pulp", run_pulp)
    small = Model([-1.0], [[1.0]], [-math.inf], [1.5], [0.0], [9.0], [True])
    for name in ("highs-milp", "pulp"):
        assert po.solve(small, name, seed=7).objective == -1.0
    assert told[0][:2] == ("HiGHS", 7)
    assert "randomCbcSeed 7" in told[1][2]


def test_what_highs_does_not_know_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import highspy

    problem = po.forms.LinearProgram([-1.0, -2.0], [[1.0, 1.0]], [1.5])
    runs, real = [], engines.run

    def run(engine: Any) -> Any:
        runs.append(engine.getOptionValue("solver")[1])
        status = real(engine)
        return highspy.HighsModelStatus.kUnknown if len(runs) == 1 else status

    monkeypatch.setattr(engines, "run", run)
    assert po.solve(problem, "highs").objective == -2.5
    assert runs == ["choose", "ipm"]


def test_a_linear_model_has_no_bound_of_a_tree() -> None:
    model = pulp.LpProblem("linear", pulp.LpMinimize)
    x = model.add_variable("x", 0, 1)
    model.setObjective(-1 * x)
    model.solve(pulp.HiGHS(msg=False))
    assert engines.open_gap(model) == math.inf
    linear = Model([-1.0], [[1.0]], [-math.inf], [1.5], [0.0], [9.0], [False])
    assert po.solve(linear, "highs-milp", limits=po.Limits(gap=0.1)).bound == -1.5
    assert Pulp().solve(linear, po.Limits(), 0).objective == -1.5


def test_coupled_knapsacks_go_to_the_program_where_it_is_exact() -> None:
    chain = CoupledKnapsack([[3.0, 1.0]] * 3, [[0.0, 1.0]] * 3, [(0, 1), (1, 2)], np.ones((2, 2, 2)), 3.0)
    assert po.solve(chain).solver == "coupled-dp"
    circle = CoupledKnapsack([[3.0, 1.0]] * 3, [[0.0, 1.0]] * 3, [(0, 1), (1, 2), (0, 2)], np.ones((3, 2, 2)), 4.0)
    assert po.solve(circle).solver == "highs-milp"


@pytest.mark.parametrize("engine", ["highs-milp", "pulp"])
def test_continuous_variables_do_not_gain_by_an_integer_beside_a_whole_number(engine: str) -> None:
    """HiGHS leaves x at 2.9999995 and y above 1.5: rounding x broke the row, and the optimum was missed by 1e-6."""
    model = Model.of(
        [3.0, 2.0], A_ub=[[2.0, 1.0], [1.0, 3.0]], b_ub=[7.5, 9.0], upper=[4.0, np.inf], integer=[True, False],
        maximise=True,
    )  # fmt: skip
    answer = po.solve(model, engine)
    assert model.violation(answer.value) <= 1e-12
    assert answer.objective == pytest.approx(-12.0, abs=1e-12)
    assert answer.bound == answer.objective
