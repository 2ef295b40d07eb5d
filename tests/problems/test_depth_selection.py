"""Depth as a task: single blocks and pairs, an exact choice."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import prunopt as po
from prunopt.problems import DepthSelection


def measured(seed: int, n: int = 9) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    single = rng.random(n)
    single[rng.integers(n)] = np.inf
    return single, single[:, None] + single[None, :] + rng.normal(0, 0.3, (n, n))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("remove", [1, 3, 5])
def test_the_choice_is_the_best_of_all(seed: int, remove: int) -> None:
    task = DepthSelection(*measured(seed), remove)
    answer = po.solve(task)
    sets = (np.isin(np.arange(9), s) for s in itertools.combinations(range(9), remove))
    best = min(task.objective(x) for x in sets if task.violation(x) == 0)
    assert answer.status is po.Status.OPTIMAL
    assert answer.objective == pytest.approx(best, abs=1e-9)
    po.verify(task, answer)


def test_objective_by_hand() -> None:
    task = DepthSelection([1.0, 2.0, np.inf], [[0, 2.5, 9], [7, 0, 9], [7, 7, 0]], 2)
    assert task.objective([True, True, False]) == 2.5
    assert task.violation([True, False, False]) == 1
    assert task.violation([True, False, True]) == np.inf


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([1.0, 2.0], np.zeros((3, 3)), 1), "pair must have shape"),
        (([1.0, 2.0], np.full((2, 2), np.nan), 1), "pair must be finite"),
        (([1.0, np.inf], np.zeros((2, 2)), 2), "remove must be .*1 of 2 blocks may be dropped"),
        (([1.0, -np.inf], np.zeros((2, 2)), 1), "single must be finite"),
    ],
)
def test_bad_input(arguments: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DepthSelection(*arguments)
