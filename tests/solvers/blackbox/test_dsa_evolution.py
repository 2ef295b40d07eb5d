"""Parts of the evolution of expressions: parents apart, and offspring chosen by what is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("optuna")

import prunopt as po
from prunopt.forms.blackbox import BlackBox, Gene
from prunopt.solvers.blackbox._screening import as_rows, most_promising, squared_distances
from prunopt.solvers.blackbox.dsa_evolution import DsaEvolution


def box() -> BlackBox:
    genes = (Gene("a", (0, 1, 2)), Gene("b", (0, 1, 2)), Gene("c", (0.1, 0.2), ordered=True), Gene("r", low=0, high=1))
    return BlackBox(genes, lambda p: [float(v) for v in p.values()], lambda d, _: float(np.square(d).sum()))


def test_elites_differ_in_unordered_genes() -> None:
    points: list[Any] = [
        {"a": 0, "b": 0, "c": 0.1, "r": 0.0},
        {"a": 0, "b": 0, "c": 0.2, "r": 0.9},
        {"a": 1, "b": 0, "c": 0.1, "r": 0.0},
        {"a": 1, "b": 1, "c": 0.1, "r": 0.0},
    ]
    assert DsaEvolution(distance=1).apart(box(), points) == [points[0], points[2], points[3]]
    assert DsaEvolution(distance=2).apart(box(), points) == [points[0], points[3]]
    assert DsaEvolution(distance=9).apart(box(), points) == [points[0], points[3]]  # two unordered genes there are
    assert DsaEvolution(distance=0, elites=2).apart(box(), points) == points[:2]


def test_the_most_promising_is_near_the_best_and_the_unknown_counts() -> None:
    rng = np.random.default_rng(0)
    known = rng.normal(size=(40, 3))
    losses = (known**2).sum(axis=1)
    candidates = np.array([[2.0, 2.0, 2.0], [0.1, 0.0, -0.1], [-2.0, 1.0, 0.0]])
    assert most_promising(known, losses, candidates) == 1
    flat = np.full(len(known), 1.0)
    far = np.array([known[3], [9.0, 9.0, 9.0]])
    assert most_promising(known, flat, far, optimism=1.0) == 1
    assert np.allclose(squared_distances(known, candidates), ((known[:, None] - candidates[None]) ** 2).sum(-1))


@pytest.mark.parametrize("decisions", [["a"], [[1.0], [1.0, 2.0]], [[np.nan]], [], [{"x": 1}]])
def test_what_is_no_array_is_not_screened(decisions: list[Any]) -> None:
    assert as_rows(decisions) is None


def test_screening_finds_more_on_a_smooth_loss() -> None:
    genes = tuple(Gene(f"x{i}", low=-1.0, high=1.0) for i in range(6))
    goal = np.linspace(-0.5, 0.5, 6)
    task = BlackBox(genes, lambda p: list(p.values()), lambda d, _: float(np.square(np.array(d) - goal).sum()))
    best = {
        many: np.mean(
            [po.search(task, trials=40, solver=DsaEvolution(screen=many), seed=s).best.value or 0.0 for s in range(3)]
        )
        for many in (1, 16)
    }
    assert best[16] < best[1]


def test_decisions_without_numbers() -> None:
    task = BlackBox((Gene("a", tuple("abcdef")), Gene("b", tuple("uvw"))), lambda p: "".join(p.values()),
                    lambda d, _: float(sum(map(ord, d))))  # fmt: skip
    run = po.search(task, trials=18, solver="dsa-evolution")
    assert run.best.decision == "au"


@pytest.mark.parametrize("bad", [{"screen": 0}, {"distance": -1}, {"immigrants": 1.5}])
def test_bad_options(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(bad))} must be .*, got {next(iter(bad.values()))}"):
        DsaEvolution(**bad)
