"""Solutions and forms print in a few lines, arrays by their shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import prunopt as po
from prunopt.core.display import summary
from prunopt.core.solution import Solution, Step
from prunopt.testing import INSTANCES


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.arange(8), "[0, 1, 2, 3, 4, 5, 6, 7]"),
        (np.zeros((3, 3)), "<float64 (3, 3)>"),
        (np.float64(0.5), "0.5"),
        ((np.zeros(9, np.bool_), 1), "(<bool (9,)>, 1)"),
        ([1] * 9, "<list of 9>"),
        ({"a": np.zeros(9)}, "{a=<float64 (9,)>}"),
        (dict.fromkeys(range(9)), "<9 entries>"),
        (summary, "<summary>"),
        ("x" * 99, "'" + "x" * 55 + " ..."),
        ("a\nb", r"'a\nb'"),
    ],
)
def test_summaries(value: object, text: str) -> None:
    assert summary(value) == text


def test_a_solution_prints_a_few_lines() -> None:
    big = np.ones(10**6)
    solution: Solution[Any] = Solution(
        po.Status.FEASIBLE,
        big,
        3.0,
        1.5,
        {"rows": big},
        (Step(0.0, 3.0),) * 1000,
        {"nodes": 7, "sizes": big},
        "s",
        "why",
    )
    assert str(solution).split("\n") == [
        "s: feasible: a valid answer, not proven optimal (see bound and gap)",
        "objective 3, bound 1.5, gap 0.5",
        "value: <float64 (1000000,)>",
        "stats: nodes=7, sizes=<float64 (1000000,)>",
        "proof: rows (1000000,); 1000 steps in the trace",
        "message: why",
    ]
    assert repr(solution) == "Solution(FEASIBLE, objective=3, bound=1.5, value=<float64 (1000000,)>, solver='s')"


@pytest.mark.parametrize("form", INSTANCES, ids=lambda form: form.__name__)
def test_forms_print_one_line(form: type) -> None:
    for instance in INSTANCES[form]():
        text = repr(instance.problem)
        assert text.startswith(f"{form.__name__}(")
        assert "\n" not in text
        assert len(text) < 1000
        break
