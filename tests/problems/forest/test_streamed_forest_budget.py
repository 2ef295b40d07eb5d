"""Forests whose rows come in chunks: the same task, the same optimum, whatever the chunks."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

import prunopt as po
from prunopt.forests import pruned_forest
from prunopt.forms import ClosureOnDisk
from prunopt.problems import ForestBudget, StreamedForestBudget

COSTS = np.arange(1, 31)


@pytest.fixture(scope="module")
def grown() -> tuple[Any, Any, Any]:
    X, y = load_breast_cancer(return_X_y=True)
    return RandomForestClassifier(10, max_depth=5, random_state=0).fit(X, y), X.astype(np.float32), y


@pytest.mark.parametrize("loss", ["misclassification", "gini"])
def test_streamed_and_whole_are_one_task(grown: tuple[Any, Any, Any], tmp_path: Path, loss: str) -> None:
    forest, X, y = grown
    weight = np.random.default_rng(0).integers(0, 4, len(X))
    weight[100:200] = 0  # a chunk of nobody
    penalty = Fraction(1, 1000)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    task = StreamedForestBudget.build(
        forest, (mapped, y, weight), COSTS, penalty, tmp_path / "c", loss=loss, rows_per_chunk=100
    )
    whole = ForestBudget.from_forest(forest, X, y, COSTS, penalty, sample_weight=weight, loss=loss)
    rng = np.random.default_rng(1)
    for share in (0.0, 0.5, 1.0):
        kept = rng.random(len(task.ensemble.internal)) < share
        assert task.error(kept) == pytest.approx(whole.error(kept), rel=1e-12)
        assert task.cost(kept) == pytest.approx(whole.cost(kept), rel=1e-12)
        assert task.violation(kept) == whole.violation(kept)
    best = po.solve(whole, "min-cut")
    found = po.solve(task, limits=po.Limits(evaluations=100))
    po.verify(task, found)
    assert found.status is po.Status.OPTIMAL
    assert found.objective == pytest.approx(best.objective, abs=1e-9)
    small = pruned_forest(forest, found.value)
    assert sum(t.tree_.node_count for t in small.estimators_) < sum(t.tree_.node_count for t in forest.estimators_)


def test_chunks_of_any_size_make_the_same_files(grown: tuple[Any, Any, Any], tmp_path: Path) -> None:
    forest, X, y = grown

    def chunks(size: int) -> Iterator[tuple[Any, Any]]:
        return ((X[i : i + size], y[i : i + size]) for i in range(0, len(X), size))

    def build(name: str, rows: Any) -> StreamedForestBudget:
        return StreamedForestBudget.build(forest, rows, COSTS, 0.001, tmp_path / name, rows_per_chunk=200)

    tasks = [build("a", (X, y)), build("b", chunks(70)), build("c", lambda: chunks(333)), build("d", list(chunks(150)))]
    assert len({task.disk.digest for task in tasks}) == 1
    kept = np.ones(len(tasks[0].ensemble.internal), np.bool_)
    costs = [task.cost(kept) for task in tasks]
    assert [task.rows is None for task in tasks] == [False, True, False, False]
    assert costs == pytest.approx([costs[0]] * 4, rel=1e-12)
    again = ClosureOnDisk.open(tmp_path / "a").at_penalty(tasks[0].closure.penalty)
    limits = po.Limits(evaluations=50)
    assert np.array_equal(po.solve(again, limits=limits).value, po.solve(tasks[0], limits=limits).value)


def test_other_costs_share_the_files(grown: tuple[Any, Any, Any], tmp_path: Path) -> None:
    forest, X, y = grown
    task = StreamedForestBudget.build(forest, (X, y), COSTS, 0.001, tmp_path / "c")
    for penalty in (0, Fraction(1, 3000), 0.01):
        whole = po.solve(ForestBudget.from_forest(forest, X, y, COSTS, penalty), "min-cut")
        found = po.solve(task.at_penalty(penalty), limits=po.Limits(evaluations=100))
        assert found.objective == pytest.approx(whole.objective, abs=1e-12)


def test_regression(tmp_path: Path) -> None:
    X, y = load_diabetes(return_X_y=True)
    forest = RandomForestRegressor(5, max_depth=4, random_state=0).fit(X, y)
    task = StreamedForestBudget.build(forest, (X, y), None, 20.0, tmp_path / "c", rows_per_chunk=100)
    found = po.solve(task, limits=po.Limits(evaluations=200))
    best = po.solve(ForestBudget.from_forest(forest, X, y, None, 20.0), "min-cut")
    assert found.objective == pytest.approx(best.objective, rel=1e-9)
    assert found.bound <= best.objective + 1e-6
    assert found.gap < 1e-6


def test_bad_input(grown: tuple[Any, Any, Any], tmp_path: Path) -> None:
    forest, X, y = grown

    def build(rows: Any, **options: Any) -> StreamedForestBudget:
        costs = options.pop("costs", COSTS)
        return StreamedForestBudget.build(forest, rows, costs, 0.1, tmp_path / "c", **options)

    with pytest.raises(ValueError, match="must hold a row of positive weight"):
        build(iter([]))
    with pytest.raises(TypeError, match="chunk 0 must be"):
        build(iter([X]))
    with pytest.raises(TypeError, match=r"rows must be .*, got int"):
        build(3)
    with pytest.raises(ValueError, match="must have 569 targets and weights"):
        build((X, y[:5]))
    with pytest.raises(ValueError, match="whole numbers"):
        build((X, y, np.full(len(X), 0.5)))
    with pytest.raises(ValueError, match="one millionth"):
        build((X, y), costs=np.full(30, 1 / 3))
    with pytest.raises(ValueError, match="the same for all rows"):
        build((X, y), costs=np.ones((len(X), 30)))
    with pytest.raises(ValueError, match="rows_per_chunk must be a whole number >= 1, got 0"):
        build((X, y), rows_per_chunk=0)
    with pytest.raises(ValueError, match="ClosureOnDisk"):
        build((X, y)).reduce(po.forms.LinearProgram)
