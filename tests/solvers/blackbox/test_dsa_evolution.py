"""Parts of the evolution of expressions: parents apart, and offspring chosen by what is known."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("optuna")

import prunopt as po
from prunopt.forms.blackbox import BlackBox, Gene, name_of
from prunopt.problems import AllocationSearch
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


class Diverging:
    """A loss of models of which some diverge."""

    def loss(self, allocation: Any, *, fidelity: float = 1.0) -> float:
        a = np.asarray(allocation)
        return math.inf if a.max() > 0.8 else float(a @ a)


class Divergent(Diverging):
    """Every model diverges."""

    def loss(self, allocation: Any, *, fidelity: float = 1.0) -> float:
        return math.inf


def test_infinite_losses_are_bad_and_the_search_goes_on(tmp_path: Path) -> None:
    place = str(tmp_path / "search.journal")
    task = AllocationSearch(Diverging(), [100, 400, 400, 100], 0.5, space="vector")
    run = po.search(task, trials=20, storage=place)
    values = [math.nan if t.value is None else t.value for t in run.trials]
    assert math.inf in values
    assert min(values) < 0.8
    assert len(po.search(task, trials=24, storage=place).trials) == 24
    hopeless = AllocationSearch(Divergent(), [100, 400, 400, 100], 0.5, space="vector")
    with pytest.raises(ValueError, match=r"holds another search .* problem\.loss is"):
        po.search(hopeless, trials=24, storage=place)
    assert len(po.search(hopeless, trials=14, storage=str(tmp_path / "other.journal")).trials) == 14


def loss_of(decision: Any, fidelity: float) -> float:
    return float(np.square(decision).sum())


def decode_of(point: Any) -> Any:
    return [float(v) for v in point.values()]


def test_a_black_box_goes_to_workers_without_a_key() -> None:
    given = BlackBox(box().genes, decode_of, loss_of)
    again = pickle.loads(pickle.dumps(given))
    assert again.key([1.0]) == given.key([1.0])
    assert name_of(loss_of) != name_of(decode_of)
    assert name_of(Diverging().loss) != name_of(Divergent().loss)
