"""Whatever a faulty solver hands back: what is wrong does not get through `verify`, nor through `solve`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import prunopt as po
from prunopt import testing
from prunopt.core.certificates import CLAIMED
from prunopt.core.registry import load_solvers
from prunopt.core.solution import Solution
from prunopt.core.solver import Limits, solvers_for
from prunopt.problems.allocation.layer_allocation import LayerAllocation
from prunopt.problems.head_selection import HeadSelection
from prunopt.problems.layer_reconstruction import LayerReconstruction
from tests.support.faults import Liar, corrupted_duals, faults, is_wrong

FORMS = {form.__name__: form for form in testing.INSTANCES}
SLOW = ("RelaxedMask", "QuadraticSubset")  # their heuristics take long: exact solvers only


def instances(form: str) -> tuple[testing.Instance, ...]:
    return testing.instances_of(FORMS[form])


def answers(form: str) -> Iterator[tuple[testing.Instance, Solution[Any], dict[str, Any]]]:
    """Honest answers of the best exact and the best other solver, with the multipliers of another instance."""
    load_solvers()
    feasible = [i for i in instances(form) if i.optimum is not None]
    able = [s for s in solvers_for(FORMS[form]) if not s.why_not()]
    able = [s for s in able if not any(s.why_not_on(i.problem) for i in feasible[-2:])]
    chosen = [s for s in able if s.exact][:1] + [s for s in able if not s.exact][: form not in SLOW]
    for solver in chosen or able[:1]:
        limits = Limits() if solver.exact else Limits(evaluations=10)
        first, second = (po.solve(i.problem, solver(), limits=limits) for i in feasible[-2:])
        yield feasible[-2], first, dict(second.duals)


def wrong_ones_get_through(
    problem: Any, optimum: float, honest: Solution[Any], stale: Any, step: int = 1
) -> tuple[int, list[str]]:
    """How many of the faults are wrong, and which of these are accepted, or end otherwise than refused."""
    through, count = [], 0
    for name, forged in list(faults(problem, honest, stale))[::step]:
        wrong = is_wrong(problem, optimum, forged)
        count += bool(wrong)
        try:
            po.verify(problem, forged)
            if wrong:
                through.append(f"verify: {name}: {wrong}")
        except po.CertificateError:
            pass
        try:
            answer = po.solve(problem, Liar(forged, honest.solver, type(problem)), throw=False)
        except po.CertificateError:
            continue
        # solve may also take the false claim out of the answer, or mark it as the word of an engine
        told = is_wrong(problem, optimum, answer)
        if told and str(answer.stats.get("bound", "")).startswith(CLAIMED):
            with pytest.raises(po.CertificateError):
                po.verify(problem, answer)
        elif told:
            through.append(f"solve: {name}: {told}")
    return count, through


@pytest.mark.parametrize("form", FORMS)
def test_no_wrong_answer_to_a_form_gets_through(form: str) -> None:
    total = 0
    for instance, honest, stale in answers(form):
        assert instance.optimum is not None
        assert not is_wrong(instance.problem, instance.optimum, honest), f"{honest.solver} is wrong itself"
        step = 4 if form in SLOW or form == "CoupledKnapsack" else 3  # all of them: benchmarks/trust.py
        count, through = wrong_ones_get_through(instance.problem, instance.optimum, honest, stale, step)
        assert not through, f"{len(through)} of {count} wrong answers get through: {through[:5]}"
        total += count
    assert total >= 20


def tasks() -> Iterator[tuple[str, Any]]:
    rng = np.random.default_rng(5)
    weight, inputs = rng.normal(size=(3, 6)), rng.normal(size=(6, 40))
    yield "layer", LayerReconstruction(weight, inputs @ inputs.T, groups=[[0, 1], [2, 3], [4, 5]], remove=1)
    errors = np.cumsum(rng.random((3, 4)), axis=1)
    yield "allocation", LayerAllocation.from_curves([20, 40, 60], [0.0, 0.25, 0.5, 0.75], errors, 0.4)
    gain = rng.random(6)
    yield "heads", HeadSelection.from_loss(lambda kept: float(gain @ ~kept), [3, 3], 4)


@pytest.mark.parametrize("name", [name for name, _ in tasks()])
def test_no_wrong_answer_to_a_task_gets_through(name: str) -> None:
    task = dict(tasks())[name]
    honest = po.solve(task)
    assert honest.status is po.Status.OPTIMAL
    count, through = 0, []
    for fault, forged in faults(task, honest, {}):
        wrong = is_wrong(task, honest.objective, forged)
        count += bool(wrong)
        if wrong:
            try:
                po.verify(task, forged)
                through.append(f"{fault}: {wrong}")
            except po.CertificateError:
                pass
    assert not through, f"{len(through)} of {count} wrong answers get through: {through[:5]}"
    assert count >= 40


@pytest.mark.parametrize("form", [f for f in FORMS if any(i.optimum is None for i in instances(f))])
def test_infeasible_is_believed_only_with_a_proof_or_another_solver(form: str) -> None:
    hopeless = next(i.problem for i in instances(form) if i.optimum is None)
    known = next(i for i in instances(form) if i.optimum is not None)
    honest = po.solve(hopeless, throw=False)
    po.verify(hopeless, honest)
    with pytest.raises(po.CertificateError, match="says infeasible"):
        po.verify(known.problem, honest)


def test_any_multipliers_prove_no_more_than_the_optimum() -> None:
    """The bound of every form is sound for every array that a solver may hand over, not only for honest ones."""
    rng = np.random.default_rng(0)
    tried = 0
    for form in FORMS:
        if form in SLOW:
            continue
        for instance, honest, stale in answers(form):
            if not hasattr(instance.problem, "bound") or instance.optimum is None:
                continue
            for name, duals in [("stale", stale), *corrupted_duals(honest.duals, rng)]:
                try:
                    with np.errstate(all="ignore"):
                        bound = float(instance.problem.bound(duals))
                except (po.CertificateError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError):
                    continue
                tried += 1
                slack = 1e-7 * max(1.0, abs(instance.optimum))
                assert not bound > instance.optimum + slack, f"{form}: {name} proves {bound}, over {instance.optimum}"
    assert tried >= 100


def test_a_check_that_is_left_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite itself can fail: with the value, or the bound, taken for true, wrong answers get through."""
    instance, honest, stale = next(answers("Closure"))
    assert instance.optimum is not None
    for check, instead in (
        ("recheck_value", lambda task, solution, reduced: solution),
        ("recheck_bound", lambda form, raw: raw),
        ("proven_bound", lambda form, solution: solution.bound),
        ("well_formed", lambda raw, name: raw),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"prunopt.api.{check}", instead)
            try:
                _, through = wrong_ones_get_through(instance.problem, instance.optimum, honest, stale)
            except (AttributeError, TypeError, ValueError):
                continue  # not even refused, but broken off
            assert through, f"without {check} nothing gets through"
