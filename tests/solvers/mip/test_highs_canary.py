"""What prunopt relies on of HiGHS: its scheduler, its return codes, and what it prints."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import prunopt as po
from prunopt.core import engines
from prunopt.forms import Closure, LinearProgram

ORDERS = """
import itertools, os, warnings
import highspy, numpy as np, pulp, scipy.optimize
import prunopt as po
from prunopt.forms import Closure, LinearProgram

def linear():
    assert po.solve(LinearProgram([-1, -2], [[1, 1]], [1.5]), "highs").objective == -2.5

def infeasible():
    done = po.solve(LinearProgram([1, 1], [[1, 1], [-1, -1]], [0.5, -0.7]), "highs", throw=False)
    assert done.status is po.Status.INFEASIBLE and "b[1]" in done.message, done

def integer():
    closure = Closure.of([5, 4, 1], requirements=[[0], [0, 1], [1]], cost=[3, 2])
    assert po.solve(closure, "highs-milp").objective == -5

def pulps_own():
    model = pulp.LpProblem("m", pulp.LpMaximize)
    x = model.add_variable("x", 0, 3.5, "Integer")
    model.setObjective(x + 0)
    model.solve(pulp.HiGHS(msg=False))
    assert x.varValue == 3

def scipys():
    done = scipy.optimize.milp([-1.0], integrality=[1], bounds=scipy.optimize.Bounds(0, 3.5))
    assert done.fun == -3

def two_threads():
    engine = highspy.Highs()
    engine.setOptionValue("output_flag", False)
    engine.setOptionValue("threads", 2)
    engine.setOptionValue("parallel", "on")
    engine.addVar(0.0, 1.0)
    engine.run()

def one_thread():
    engine = highspy.Highs()
    engine.setOptionValue("output_flag", False)
    engine.setOptionValue("threads", 1)
    engine.addVar(0.0, 1.0)
    engine.run()

highspy.Highs()  # the banner of the first constructor, which is not ours here
for users in (two_threads, one_thread, scipys):
    for order in itertools.permutations([linear, infeasible, integer, pulps_own, users]):
        highspy.Highs.resetGlobalScheduler(True)
        for step in order:
            step()
print("all orders")
"""


def test_linear_and_integer_engines_in_every_order() -> None:
    """The scheduler is one a process: whoever starts it first decides its number of threads for all others."""
    done = subprocess.run([sys.executable, "-c", ORDERS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all orders\n")


@pytest.mark.parametrize(
    "call",
    [
        'po.solve(LinearProgram([-1, -2], [[1, 1]], [1.5]), "highs")',
        'po.solve(Closure.of([5, 1], requirements=[[0], [0]], cost=[3]), "highs-milp")',
    ],
)
def test_highs_prints_nothing_on_standard_output(call: str) -> None:
    program = f"import prunopt as po\nfrom prunopt.forms import Closure, LinearProgram\n{call}\nprint('ours')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ours\n"


class Refusing:
    """An engine whose method of one name refuses."""

    def __init__(self, engine: Any, method: str) -> None:
        self._engine, self._method = engine, method

    def __getattr__(self, name: str) -> Any:
        import highspy

        real = getattr(self._engine, name)
        return real if name != self._method else lambda *given: highspy.HighsStatus.kError


@pytest.mark.parametrize(
    ("method", "said"),
    [("run", "did not run"), ("passModel", "refuses the model"), ("setOptionValue", "refuses option")],
)
def test_an_engine_that_did_not_run_is_failed(monkeypatch: pytest.MonkeyPatch, method: str, said: str) -> None:
    """Without a look at its return codes, HiGHS's zeros pass for a feasible point found early."""
    import highspy

    real: Any = highspy.Highs
    monkeypatch.setattr(highspy, "Highs", lambda: Refusing(real(), method))
    done = po.solve(LinearProgram([-1, -2], [[1, 1]], [1.5]), "highs", throw=False)
    assert done.status is po.Status.FAILED
    assert done.value is None
    assert said in done.message


def test_pulps_engine_that_did_not_run_is_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    import pulp

    monkeypatch.setattr(pulp.HiGHS, "callSolver", lambda self, lp: None)
    closure = Closure.of([5, 4, 1], requirements=[[0], [0, 1], [1]], cost=[3, 2])
    done = po.solve(closure, "highs-milp", throw=False)
    assert done.status is po.Status.FAILED
    assert "kNotset" in done.message


def test_unbounded_is_not_taken_for_infeasible(monkeypatch: pytest.MonkeyPatch) -> None:
    """PuLP translates HiGHS's "unbounded or infeasible" as infeasible; the full model tells which."""
    import highspy
    import pulp

    real = pulp.HiGHS.callSolver
    runs = []

    def undecided(self: Any, lp: Any) -> None:
        real(self, lp)
        runs.append(self.optionsDict.get("presolve"))
        if len(runs) == 1:
            engine: Any = lp.solverModel
            lp.solverModel = Undecided(engine, highspy.HighsModelStatus.kUnboundedOrInfeasible)

    monkeypatch.setattr(pulp.HiGHS, "callSolver", undecided)
    closure = Closure.of([5, 4, 1], requirements=[[0], [0, 1], [1]], cost=[3, 2])
    assert po.solve(closure, "highs-milp").objective == -5
    assert runs == [None, "off"]


class Undecided:
    """An engine that says what it is told to say of its model."""

    def __init__(self, engine: Any, status: Any) -> None:
        self._engine, self._status = engine, status

    def __getattr__(self, name: str) -> Any:
        return (lambda: self._status) if name == "getModelStatus" else getattr(self._engine, name)


def test_the_engine_is_quiet_without_standard_output() -> None:
    """A daemon has none: nothing to keep clean, nothing to break."""
    program = "import os; os.close(1)\nfrom prunopt.core import engines\nengines.new_engine()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_options_refused_are_named() -> None:
    with pytest.raises(engines.EngineError, match="refuses option simplex_strategy=99"):
        engines.new_engine({"simplex_strategy": 99})
