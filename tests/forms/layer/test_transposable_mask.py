"""Transposable masks: the form, the flow that solves it, its proof; tiles that are dense or N:M."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import prunopt as po
from prunopt.core.solution import Status
from prunopt.forms import TransposableMask, load_form, save_form
from prunopt.problems import DenseOrSparseTiles
from prunopt.solvers.layer.tile_flow import TileFlow


@pytest.mark.parametrize("pattern", [(1, 2), (2, 4), (3, 4), (1, 5), (4, 8), (8, 16)])
def test_the_flow_is_as_good_as_highs_and_proves_it(pattern: tuple[int, int]) -> None:
    pytest.importorskip("highspy")
    rng, size = np.random.default_rng(pattern[1]), pattern[1]
    for scores in (rng.normal(size=(size, 2 * size)), rng.integers(0, 3, (2 * size, size)).astype(float)):
        form = TransposableMask(scores, pattern)
        found, other = po.solve(form, "tile-flow"), po.solve(form, "highs-milp")
        assert found.status is Status.OPTIMAL
        assert found.gap <= 1e-9
        assert found.objective == pytest.approx(other.objective, abs=1e-9 * form.objective_unit)
        po.verify(form, found)
        both = [form.tiles(found.value).sum(axis=axis) for axis in (1, 2)]
        assert all((kept == pattern[0]).all() for kept in both)


def test_the_bound_holds_at_any_prices_and_is_wrong_at_none() -> None:
    rng = np.random.default_rng(1)
    form = TransposableMask(rng.normal(size=(4, 8)), (2, 4))
    best = po.solve(form).objective
    for _ in range(50):
        prices = {name: rng.normal(size=(2, 4)) for name in ("rows", "columns")}
        assert form.bound(prices) <= best
    for bad in ({"rows": np.zeros((2, 4))}, {"rows": np.zeros((1, 4)), "columns": np.zeros((2, 4))}):
        with pytest.raises((KeyError, ValueError)):
            form.bound(bad)


def test_tiles_go_there_and_back_and_the_form_to_disk(tmp_path: Path) -> None:
    form = TransposableMask(np.arange(48.0).reshape(4, 12), "2:4")
    assert form.n_tiles == 3
    np.testing.assert_array_equal(form.tiles(form.scores)[1], form.scores[:, 4:8])
    np.testing.assert_array_equal(form.untiled(form.tiles(form.scores)), form.scores)
    save_form(form, tmp_path / "form.npz")
    again = load_form(tmp_path / "form.npz")
    assert again.pattern == (2, 4)
    assert po.solve(again).objective == po.solve(form).objective


def test_a_limit_leaves_a_mask_that_fits_and_a_bound() -> None:
    form = TransposableMask(np.random.default_rng(0).normal(size=(128, 128)) ** 2, (2, 4))
    found = po.solve(form, TileFlow(), limits=po.Limits(seconds=0.0))
    assert found.status is Status.FEASIBLE
    assert form.violation(found.value) == 0
    assert found.bound <= po.solve(form).objective <= found.objective
    assert "stopped by its limits" in found.message


@pytest.mark.parametrize(
    ("scores", "pattern", "named"),
    [
        (np.ones((4, 6)), (2, 4), "pattern must be N:M with M a divisor of 4 and 6"),
        (np.ones((4, 4)), (5, 4), "pattern must be"),
        (np.ones(4), (2, 4), "scores must"),
        (np.full((4, 4), np.nan), (2, 4), "scores must"),
    ],
)
def test_bad_input_of_a_transposable_mask_is_named(scores: object, pattern: tuple[int, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        TransposableMask(scores, pattern)


def least_score(task: DenseOrSparseTiles) -> float:
    """The least score by looking at every choice of dense tiles."""
    n = int(task.number.max()) + 1
    masks = (task.sparse | np.isin(task.number, np.flatnonzero(w)) for w in itertools.product((0, 1), repeat=n))
    return min(task.objective(m) for m in masks if task.violation(m) == 0)


@pytest.mark.parametrize("density", [0.5, 0.6, 0.75, 1.0])
def test_dense_tiles_are_chosen_best_and_proven(density: float) -> None:
    rng = np.random.default_rng(3)
    task = DenseOrSparseTiles(rng.normal(size=(7, 12)) ** 2 * np.linspace(1, 3, 12), density, "2:4", (3, 8))
    found = po.solve(task)
    assert found.status is Status.OPTIMAL
    assert task.violation(found.value) == 0
    assert found.objective == pytest.approx(least_score(task))
    assert int(found.value.sum()) <= density * found.value.size + 1e-9
    po.verify(task, found)
    broken = found.value.copy()
    broken[np.nonzero(broken)[0][0], np.nonzero(broken)[1][0]] = False
    assert task.violation(broken) > 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"density": 0.4}, "density must be .*got 0.4; 2:4 keeps 0.5"),
        ({"tile": (2, 6)}, "tile must have a number of columns that is a multiple of 4"),
        ({"pattern": (2, 5)}, "pattern must be N:M with M a divisor of 8"),
        ({"scores": -np.ones((4, 8))}, "scores must"),
    ],
)
def test_bad_input_of_tiles_is_named(options: dict[str, object], named: str) -> None:
    given = {"scores": np.ones((4, 8)), "density": 0.6, "tile": (2, 4)} | options
    with pytest.raises(ValueError, match=named):
        DenseOrSparseTiles(**given)  # type: ignore[arg-type]
