"""The form in exact arithmetic: objective, bound, graph, file."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunopt as po
from prunopt.forms import Closure, LinearProgram
from prunopt.forms.closure.closure import _places, exact_sum
from prunopt.testing import brute_force_closure, random_closure


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), arcs=st.booleans())
def test_any_multipliers_give_a_lower_bound(seed: int, arcs: bool) -> None:
    rng = np.random.default_rng(seed)
    problem = random_closure(rng, int(rng.integers(0, 9)), arcs=arcs)
    denominator = problem.penalty.denominator * int(rng.integers(1, 5))
    duals = {
        "requirements": rng.integers(0, 30, problem.n_edges),
        "arcs": rng.integers(0, 30, len(problem.arcs)),
        "denominator": denominator,
    }
    assert problem.bound(duals) <= brute_force_closure(problem) + 1e-9


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), arcs=st.booleans())
def test_networkx_minimum_cut_is_the_optimum(seed: int, arcs: bool) -> None:
    rng = np.random.default_rng(seed)
    problem = random_closure(rng, int(rng.integers(1, 9)), arcs=arcs)
    graph = problem.to_networkx()
    cut, (source_side, _) = nx.minimum_cut(graph, "s", "t")
    supply = sum(data["capacity"] for _, _, data in graph.out_edges("s", data=True))
    best = brute_force_closure(problem)
    assert float((cut - supply) * problem.unit / problem.penalty.denominator) == pytest.approx(best, abs=1e-12)
    chosen = np.array([("x", h) in source_side for h in range(problem.n_items)])
    assert problem.violation(chosen) == 0
    assert problem.objective(chosen) == pytest.approx(best, abs=1e-12)


def test_objective_pays_a_shared_requirement_once() -> None:
    problem = Closure.of([5, 4, 1], requirements=[[0], [0, 1], [1]], cost=[3, 2], penalty=Fraction(1, 2))
    assert problem.exact_objective([True, True, False]) == Fraction(5, 2) - 9
    assert problem.objective([True, False, False]) == -3.5
    assert problem.objective([False, False, False]) == 0


def test_violation_counts_missing_items() -> None:
    problem = Closure.of([1, 1, 1], arcs=[(1, 0), (2, 0), (0, 2)])
    assert problem.violation([False, True, True]) == 2
    assert problem.violation([True, False, False]) == 1
    assert problem.violation([True, True, True]) == 0


def test_sums_do_not_overflow() -> None:
    large = np.full(9, 2**62 - 1)
    assert exact_sum(large) == 9 * (2**62 - 1)
    assert exact_sum(-large) == -9 * (2**62 - 1)
    with pytest.raises(ValueError, match=r"profit must add up to less than 2\*\*62"):
        Closure.of([2**61, 2**61])
    problem = Closure.of([2**60], requirements=[[0]], cost=[2**60])
    duals = {"requirements": np.array([2**61]), "denominator": 8}
    with pytest.raises(OverflowError, match="too large for an exact check"):
        problem.exact_bound(duals)
    assert problem.bound(duals) == pytest.approx(float(2**58 - 2**60), rel=1e-12)
    assert problem.bound(duals) <= 2**58 - 2**60


def test_floats_are_decimals_and_exact_where_they_fit() -> None:
    problem = Closure.of([0.1, Fraction(1, 3)], requirements=[[0], []], cost=[0.2])
    assert problem.exact_objective([True, True]) == Fraction(1, 5) - Fraction(1, 10) - Fraction(1, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parent": [0, -1]}, r"parent\[0\] must be an earlier item"),
        ({"parent": [-1]}, "parent must hold 2 entries"),
        ({"indptr": [0, 1]}, "indptr"),
        ({"indptr": [0, 2, 1]}, "indptr"),
        ({"indices": [5]}, "indices must hold .* <= 0"),
        ({"cost": [-1]}, r"got cost\[0\] = -1"),
        ({"penalty": -1}, "penalty must be >= 0"),
        ({"unit": 0}, "unit must be > 0"),
        ({"arcs": [[0, 7]]}, "arcs must hold .* <= 1"),
        ({"arcs": [0, 1]}, "arcs must have shape"),
    ],
)
def test_bad_arrays(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"profit": [1, 2], "parent": [-1, 0], "indptr": [0, 1, 1], "indices": [0], "cost": [3]}
    with pytest.raises(ValueError, match=message):
        Closure(**{**given, **change})


@pytest.mark.parametrize("n", [1, 10, 30, 300])
@pytest.mark.parametrize("scale", [1e-300, 1e-3, 1.0, 1e18, 1e200])
def test_any_floats_are_taken_with_the_rounding_in_the_gap(n: int, scale: float) -> None:
    rng = np.random.default_rng(n)
    profit, cost = rng.normal(size=n) * scale, rng.random(n) * scale
    needs = [[h, (h + 1) % n] for h in range(n)]
    problem = Closure.of(profit, requirements=needs, cost=cost, penalty=0.37)
    solution = po.solve(problem)
    po.verify(problem, solution)
    assert solution.status is po.Status.OPTIMAL
    chosen = solution.value
    spent = sum(map(Fraction, map(repr, cost[problem.covered(chosen)].tolist())), Fraction(0)) * Fraction("0.37")
    true = spent - sum(map(Fraction, map(repr, profit[chosen].tolist())), Fraction(0))
    stated = problem.exact_objective(chosen)
    assert true <= stated <= true + problem.slack
    assert float(problem.slack) <= 4 * n * 2.0**-55 * scale * n
    assert solution.bound <= float(stated - problem.slack) * (1 - 1e-15) + 1e-15 * scale or problem.slack == 0


@pytest.mark.parametrize("solver", ["min-cut", "primal-dual"])
def test_rounding_lowers_every_bound(solver: str) -> None:
    """Profits so unequal that a whole unit is 1: bounds hold for the numbers given, not only for the integers."""
    profit, cost = [1e18, -0.6, 0.7], [0.25]
    problem = Closure.of(profit, requirements=[[0], [], [0]], cost=cost)
    assert problem.unit == 1
    assert float(problem.slack) == pytest.approx(0.4 + 0.7 + 0.75)
    solution = po.solve(problem, solver)
    po.verify(problem, solution)
    assert Fraction(solution.bound) <= Fraction("0.25") - 10**18 - Fraction("0.7")
    assert (
        problem.rational_bound({"requirements": [1, 1], "denominator": 1})
        == problem.exact_bound({"requirements": [1, 1], "denominator": 1}) - problem.slack
    )


def test_floats_in_the_arrays_are_refused() -> None:
    with pytest.raises(TypeError, match=r"Closure\.of takes floats"):
        Closure(np.array([1.5]), np.array([-1]), np.array([0, 0]), np.array([], int), np.array([], int))
    with pytest.raises(ValueError, match="profit must be a finite number, got nan"):
        Closure.of([float("nan")])


def test_wrong_multipliers_are_refused() -> None:
    problem = Closure.of([1, 2], requirements=[[0], [0]], cost=[3], penalty=Fraction(1, 2))
    for duals in (
        {"requirements": np.array([1])},
        {"requirements": np.array([-1, 0])},
        {"requirements": np.array([0.5, 0.5])},
        {"requirements": np.array([1, 1]), "denominator": 0},
    ):
        with pytest.raises(po.CertificateError):
            problem.bound(duals)


def test_file_round_trip(tmp_path: Path) -> None:
    problem = random_closure(np.random.default_rng(3), 8, arcs=True)
    linear = LinearProgram([1.0, -1.0], [[1.0, 2.0]], [2.0], upper=[1.0, np.inf])
    for form in (problem, linear):
        po.save_form(form, tmp_path / "form.npz")
        again = po.load_form(tmp_path / "form.npz")
        assert type(again) is type(form)
        assert po.solve(again).objective == po.solve(form).objective
    assert [f.name for f in tmp_path.iterdir()] == ["form.npz"]


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "form.npz"
    po.save_form(Closure.of([1, 2]), file)
    whole = file.read_bytes()
    for damaged in (b"", b"no zip", whole[: len(whole) // 2], whole[:-30] + b"x" * 30):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"not a form saved by prunopt\.save_form"):
            po.load_form(file)
    np.savez(file, header=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="not a form"):
        po.load_form(file)
    with pytest.raises(ValueError, match="a file that exists"):
        po.load_form(tmp_path / "none.npz")
    with pytest.raises(TypeError, match=r"be one of .* got str"):
        po.save_form("text", file)


def test_linear_relaxation_is_integral() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        problem = random_closure(rng, 8, arcs=True)
        reduced = problem.reduce()
        solution = po.solve(reduced.form)
        assert np.allclose(solution.value, np.rint(solution.value))
        assert problem.objective(reduced.back(solution.value)) == pytest.approx(brute_force_closure(problem), abs=1e-9)


def test_price_zero_and_empty() -> None:
    problem = Closure.of([1, -1], requirements=[[0], [0]], cost=[5])
    assert po.solve(replace(problem, penalty=Fraction(0))).value.tolist() == [True, False]
    assert po.solve(Closure.of([])).objective == 0


def test_ids_are_found_by_table_and_by_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    for size in (0, 1, 7, 40):
        ids = np.sort(random.choice(50, size, replace=False)).astype(np.int32)
        wanted = random.integers(-1, 50, 30).astype(np.int32)
        expected = [ids.tolist().index(w) if w in ids else -1 for w in wanted.tolist()]
        for dense in (0, 10**6):
            monkeypatch.setattr("prunopt.forms.closure.closure.DENSE", dense)
            assert _places(ids, wanted, 50).tolist() == expected
