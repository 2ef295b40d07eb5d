"""Expressions: grammar, positions of errors, canonical forms, rules for constant and invalid scores, budgets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunopt as po
from prunopt.forms.blackbox import LevelSearch
from prunopt.problems import AllocationSearch
from prunopt.problems.allocation._operators import POST, PRE, REDUCTIONS, TRANSFORMS
from prunopt.problems.allocation.expressions import Expression, parse

RNG = np.random.default_rng(2)
STATISTICS: dict[str, Any] = {
    "w": [RNG.normal(size=200) * 10.0**i for i in range(-3, 5)],
    "zero": [np.zeros(5)] * 8,
    "depth": list(range(8)),
}
SIZES = RNG.integers(10, 99, 8)


class Loss:
    def loss(self, allocation: Any, *, fidelity: float = 1.0) -> float:
        return float(np.square(allocation).sum())


TASK = AllocationSearch(Loss(), SIZES, 0.55, statistics=STATISTICS)


def lists(names: Any) -> Any:
    return st.lists(st.sampled_from(sorted(names)), max_size=2).map(tuple)


EXPRESSIONS = st.builds(
    Expression,
    st.sampled_from(sorted(STATISTICS)),
    lists(PRE),
    st.sampled_from(sorted(REDUCTIONS)),
    lists(TRANSFORMS),
    lists(POST),
    st.floats(0, 1),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(expression=EXPRESSIONS)
def test_print_parse_and_canonical_form(expression: Expression) -> None:
    assert parse(str(expression)) == expression
    assert parse(str(expression).replace(" ", "")) == expression
    canonical = expression.canonical()
    assert canonical.canonical() == canonical
    scores = TASK.scores(expression)
    if np.all(np.isfinite(scores)):
        s = TASK.allocation(expression)
        assert abs(SIZES @ s / SIZES.sum() - 0.55) < 1e-9
        assert s.min() >= 0
        assert s.max() <= 0.99
        size = max(float(np.abs(scores).max()), 1e-300)
        if np.ptp(scores) > 1e-6 * size:
            assert np.allclose(TASK.allocation(canonical), s, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("w: (log, sqare) | mean | () | () | .1", "position 10: 'sqare' found, a pre-process operator"),
        ("w (log)", "position 3: '\\(' found, ':' is needed"),
        ("v: () | mean | () | () | .1", "position 1: 'v' found, a source \\(w, d\\)"),
        ("w: () | mean | (sin, cos, atan) | () | .1", "position 27: 'atan' found, at most 2"),
        ("w: () | mean | () | () | 1.5", "position 26: the spread 1.5"),
        ("w: () | mean | () | () | .1 x", "position 29: 'x' found, the end"),
        ("w: (log", "position 8: the end found"),
        ("w: () | mean | () | () | #", "position 26: '#' found"),
        ("w: () | avg | () | () | .1", "position 9: 'avg' found, a reduction"),
        ("", "position 1: the end found"),
    ],
)
def test_errors_name_the_position(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(text, ("w", "d"))


def test_constant_scores_are_uniform_and_invalid_ones_are_refused() -> None:
    assert np.allclose(TASK.allocation("zero: () | mean | () | () | 0.3"), 0.55)
    assert np.allclose(TASK.allocation("depth: () | std | () | () | 0.3"), 0.55)
    nan = Expression("w", (), "mean", ("log",))
    task = AllocationSearch(Loss(), SIZES, 0.55, statistics=STATISTICS)
    task._scores["w", (), "mean"] = np.array([1, np.nan, 1, 1, 1, 1, 1, 1.0])
    with pytest.raises(ValueError, match="must have finite scores, got nan for layer 1"):
        task.allocation(nan)
    point = dict.fromkeys(("pre_1", "pre_2", "transform_1", "transform_2", "post", "post_2"), "none")
    assert task.decode({**point, "source": "w", "reduction": "mean", "spread": 0.1}) is None


def test_a_larger_score_is_sparser_within_the_spread() -> None:
    s = TASK.allocation("depth: () | mean | () | () | 0.1")
    assert np.all(np.diff(s) > 0)
    assert s[-1] - s[0] == pytest.approx(0.2)
    reverse = TASK.allocation("depth: () | mean | () | (negate) | 0.1")
    assert np.all(np.diff(reverse) < 0)


def test_scores_are_computed_once() -> None:
    calls = []
    original = REDUCTIONS["mean"]
    task = AllocationSearch(Loss(), SIZES, 0.55, statistics=STATISTICS)
    REDUCTIONS["mean"] = lambda x: calls.append(1) or original(x)  # type: ignore[func-returns-value]
    try:
        for transform in ("sin", "cos", "tanh"):
            task.scores(Expression("w", ("log",), "mean", (transform,)))
    finally:
        REDUCTIONS["mean"] = original
    assert len(calls) == 8


@pytest.mark.parametrize("size", [7, 176_947.2, 3_538_944])
def test_levels_that_meet_the_budget_exactly_do(size: float) -> None:
    """Equal layers, levels in tenths: the start is on the budget, and so is what swaps make of it."""
    start = [0.5, 0.7] * 15
    task = AllocationSearch(
        Loss(), [size] * 30, 0.6, "levels", bounds=(0.2, 0.9), levels=np.arange(2, 10) / 10, start=start
    )
    assert isinstance(task.box, LevelSearch)
    assert np.allclose(task.levels[task.box.start], start)
    run = po.search(task, trials=30)
    assert all(abs(t.decision.mean() - 0.6) < 1e-9 for t in run.finished)
    assert len({t.text for t in run.finished}) == 30


@pytest.mark.parametrize("space", ["expressions", "vector", "progression", "levels"])
def test_solvers_find_allocations_on_budget(space: str) -> None:
    task = AllocationSearch(Loss(), SIZES, 0.55, space, statistics=STATISTICS)
    answer = po.solve(task, limits=po.Limits(evaluations=25), seed=2)
    assert answer.solver == ("level-swap" if space == "levels" else "dsa-evolution")
    assert answer.bound == -np.inf
    share = SIZES @ answer.value / SIZES.sum()
    assert abs(share - 0.55) < 1e-9 if space != "levels" else 0.55 <= share < 0.56
    assert answer.objective == Loss().loss(answer.value)


def test_without_statistics_depth_and_size_are_used() -> None:
    task = AllocationSearch(Loss(), SIZES, 0.55)
    assert set(task.statistics or {}) == {"depth", "size"}
    assert po.solve(task, limits=po.Limits(evaluations=10)).stats["evaluated"] == 10


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"space": "words"}, "space must be one of 'expressions', .*, got 'words'"),
        ({"sparsity": 0.995}, "sparsity must be at most 0.99 within the bounds"),
        ({"statistics": {"w": [1.0]}}, r"statistics\['w'\]"),
        ({"sizes": [1, -1]}, r"sizes must hold a number > 0 for each layer, got \[-1.0, 1.0\]"),
        ({"space": "levels", "levels": [0.1, 0.1]}, r"levels must rise, got \[0.1, 0.1\]"),
        ({"space": "levels", "levels": [0.0, 0.25]}, "levels must allow to remove 0.55 of it all"),
    ],
)
def test_bad_input(change: dict[str, Any], words: str) -> None:
    given_: dict[str, Any] = {"evaluator": Loss(), "sizes": SIZES, "sparsity": 0.55, **change}
    with pytest.raises(ValueError, match=words):
        _ = AllocationSearch(**given_).box
    with pytest.raises(TypeError, match="evaluator must have a method loss"):
        AllocationSearch(None, SIZES, 0.5)
