"""Starts handed to engines: one that is optimal is the answer when there is no time to search."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import prunopt as po
from prunopt.core.solver import by_name, solvers_for
from prunopt.forms import LinearProgram
from prunopt.forms.mip_model import Model
from tests.support.random_problems import GENERATORS, random_instance

WRITTEN = [f for f in GENERATORS if f not in ("EnumerableChoice", "QuadraticSubset", "MaskBlocks")]


def _hard() -> Model:
    """A thousand binaries in 40 knapsack rows: HiGHS reads it in a moment, and proves nothing in one."""
    rng = np.random.default_rng(0)
    n, r = 1000, 40
    rows = rng.integers(1, 1000, (r, n)).astype(float)
    return Model.of(-rng.integers(500, 1000, n), A_ub=rows, b_ub=rows.sum(axis=1) // 2, upper=1.0, integer=True)


@pytest.mark.parametrize("engine", ["highs-milp", "pulp"])
def test_a_start_is_what_the_engine_has_at_once(engine: str) -> None:
    model = _hard()
    start = po.solve(model, "pulp", limits=2.0).value
    known = model.objective(start)
    limits = po.Limits(seconds=0.15)
    without = by_name(engine)().solve(model, limits, 0)
    answer = by_name(engine)().solve(model, po.Limits(seconds=0.15, start=start), 0)
    assert answer.objective <= known + 1e-9 * abs(known)
    assert not without.status.has_value or without.objective > answer.objective


@pytest.mark.parametrize("engine", ["highs-milp", "pulp"])
@pytest.mark.parametrize("form", WRITTEN)
def test_every_model_says_what_its_variables_are_at_a_value(form: str, engine: str) -> None:
    """The values named satisfy every row of the model that they fill, and read back as the start."""
    for seed in range(6):
        problem = random_instance(form, seed).problem
        answer = po.solve(problem, throw=False)
        if not answer.status.has_value:
            continue
        model = problem.to_pulp()
        values, found = problem.pulp_values(answer.value), model.variablesDict()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # PuLP 4 gives a list where PuLP 3 has a dictionary
            rows = list(model.constraints.values())
        assert not [n for n, v in found.items() if n not in values and v.cat == "Integer" and n[0] in "xyw"]
        for name, value in values.items():
            if name in found:
                assert found[name].lowBound - 1e-9 <= value <= found[name].upBound + 1e-9
                found[name].setInitialValue(value, check=False)
        for row in rows:
            if all(v.name in values for v in row):
                assert row.valid(1e-6), row
        np.testing.assert_array_equal(np.asarray(problem.read_pulp(model)), np.asarray(answer.value))
        again: Any = po.solve(problem, engine, start=answer.value)
        assert again.objective == pytest.approx(answer.objective, abs=1e-6)


def test_a_linear_program_begins_at_a_start() -> None:
    """The simplex method begins at the vertex given: none of its steps is left."""
    rng = np.random.default_rng(0)
    problem = LinearProgram(-rng.random(200), rng.random((80, 200)), np.full(80, 20.0))
    cold = po.solve(problem, "highs")
    warm = po.solve(problem, "highs", start=cold.value)
    assert warm.objective == pytest.approx(cold.objective)
    assert warm.stats["iterations"] < cold.stats["iterations"]


def test_every_written_form_is_here() -> None:
    """A new form with a model is held to this too."""
    import prunopt.forms as forms

    po.solvers()
    kinds = [getattr(forms, name) for name in forms.__all__]
    models = [k for k in kinds if isinstance(k, type) and hasattr(k, "to_pulp") and k is not Model and solvers_for(k)]
    assert {k.__name__ for k in models} <= {f.partition(" ")[0] for f in WRITTEN}
    assert all(hasattr(k, "pulp_values") for k in models)
