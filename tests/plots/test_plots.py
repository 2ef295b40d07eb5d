"""Pictures: the axes that were given come back, labeled, with what was to be drawn."""

from __future__ import annotations

import builtins
import math
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot
from sklearn.ensemble import RandomForestClassifier

import prunopt as po
from prunopt import plots
from prunopt.forests import BudgetPath, budget_path
from prunopt.forms import Closure

mpl.use("Agg")
COSTS = [5.0, 1.0, 0.5]


def _numbers(values: Any) -> np.ndarray[Any, Any]:
    return np.asarray(values, np.float64)


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    X = rng.random((120, 3))
    return X, (X[:, 0] + 0.5 * X[:, 1] > 0.7).astype(int)


@pytest.fixture(scope="module")
def path(rows: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]) -> BudgetPath:
    X, y = rows
    forest = RandomForestClassifier(8, max_depth=4, random_state=0).fit(X[:80], y[:80])
    return budget_path(forest, X[:80], y[:80], COSTS, errors="oob")


def test_pareto_draws_every_curve_with_units(path: BudgetPath, rows: Any) -> None:
    X, y = rows
    curve = path.curve(X[80:], y[80:])
    given = pyplot.figure().add_subplot()
    ax = plots.pareto({"tree": path, "vote": curve}, given, unit="CAD", who="patient")
    assert ax is given
    assert ax.get_xlabel() == "mean cost per patient [CAD]"
    assert ax.get_ylabel() == "error"
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["tree", "vote"]
    tree, vote = ax.get_lines()
    assert _numbers(tree.get_xdata()).tolist() == sorted(p.expected_cost for p in path.points)
    assert sorted(_numbers(vote.get_ydata())) == sorted(curve.error)
    assert tree.get_color() != vote.get_color()
    assert tree.get_marker() != vote.get_marker()
    more = plots.pareto(([0.0, 1.0], [0.5, 0.4], [0.1, 0.1]), ax)
    assert len({line.get_color() for line in more.get_lines()}) == 3
    ax.figure.canvas.draw()


def test_pareto_shows_scores(path: BudgetPath, rows: Any) -> None:
    X, y = rows
    curve = path.curve(X[80:], y[80:])
    ax = plots.pareto(curve, measure="score", step=True)
    assert sorted(_numbers(ax.get_lines()[0].get_ydata())) == sorted(curve.score)
    assert ax.get_legend() is None
    with pytest.raises(ValueError, match="a path holds errors"):
        plots.pareto(path, measure="score")


@pytest.mark.parametrize("curve", [3.0, "text", ([1.0, 2.0], [1.0]), ([], []), ([1.0],)])
def test_pareto_refuses_what_is_no_curve(curve: Any) -> None:
    with pytest.raises(ValueError, match="give a BudgetPath"):
        plots.pareto({"bad": curve})
    with pytest.raises(ValueError, match="none given"):
        plots.pareto({})


def test_solver_trace_draws_objective_and_bound() -> None:
    problem = Closure.of([5, 4, 1], requirements=[[0], [0, 1], [1]], cost=[3, 2])
    solution = po.solve(problem)
    given = pyplot.figure().add_subplot()
    ax = plots.solver_trace(solution, given, unit="points")
    assert ax is given
    assert ax.get_xlabel() == "time [s]"
    assert "points" in ax.get_ylabel()
    assert _numbers(ax.get_lines()[0].get_ydata())[-1] == solution.objective
    assert _numbers(ax.get_lines()[1].get_ydata())[-1] == solution.bound
    legend = ax.get_legend()
    assert legend is not None
    assert {"objective", "bound"} <= {text.get_text() for text in legend.get_texts()}
    two = plots.solver_trace({"a": solution, "b": solution})
    assert len(two.get_lines()) == 6


def test_solver_trace_without_a_bound_draws_none() -> None:
    steps = (po.Step(0.1, math.inf), po.Step(0.2, 3.0))
    solution: po.Solution[None] = po.Solution(po.Status.FEASIBLE, None, 3.0, trace=steps, solver="guess")
    ax = plots.solver_trace(solution)
    assert np.isnan(_numbers(ax.get_lines()[1].get_ydata())).all()
    assert np.isnan(_numbers(ax.get_lines()[0].get_ydata())[0])
    ax.figure.canvas.draw()


def test_solver_trace_refuses_what_has_no_trace() -> None:
    with pytest.raises(ValueError, match="its trace is empty"):
        plots.solver_trace(po.Solution(po.Status.FEASIBLE, None, 3.0))
    with pytest.raises(TypeError, match=r"what prunopt\.solve returns"):
        plots.solver_trace({"a": 3})


def test_acquired_features_shows_the_share_of_rows(path: BudgetPath, rows: Any) -> None:
    X, _ = rows
    given = pyplot.figure().add_subplot()
    ax = plots.acquired_features(path, X, given, unit="CAD", names={"x0": "blood"})
    assert ax is given
    assert "[CAD]" in ax.get_xlabel()
    assert "cost, CAD" in ax.get_ylabel()
    labels = {text.get_text() for text in ax.get_yticklabels()}
    assert labels == {"blood (5)", "x1 (1)", "x2 (0.5)"}
    shares = np.asarray(ax.collections[0].get_array())
    # What is acquired at a point, times what it costs, is what the curve says that the point costs.
    cost = path.curve(X, np.zeros(len(X))).expected_cost[::-1]
    costs = [float(text.get_text().split("(")[1][:-1]) for text in ax.get_yticklabels()]
    assert np.allclose(costs @ shares.reshape(len(costs), -1), cost)
    asked = np.asarray(plots.acquired_features(path).collections[0].get_array())
    assert set(np.unique(asked)) <= {0.0, 1.0}


def test_without_matplotlib_the_extra_is_named(path: BudgetPath, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ValueError, match=r"pip install 'prunopt\[plot\]'"):
        plots.pareto(path)
    with pytest.raises(ImportError):
        plots.acquired_features(path)


def test_a_path_is_drawn_beside_its_neighbours(path: BudgetPath, rows: Any) -> None:
    X, y = rows
    other = ([1.0, 0.5, 3.0], [0.2, 0.4, 0.1], [0.01, 0.02, 0.03])
    folds = [path.curve(X[80:100], y[80:100]), path.curve(X[100:], y[100:])]
    ax = path.plot(X[80:], y[80:], unit="CAD", neighbours={"peer": other, "no bars": other[:2]}, folds=folds)
    legend = ax.get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert "peer" in labels
    assert any("mean of 2 folds" in label for label in labels)
    peer: Any = next(c for c in ax.containers if c.get_label() == "peer")
    line, _, bars = peer.lines
    assert _numbers(line.get_xdata()).tolist() == [0.5, 1.0, 3.0]
    assert _numbers(line.get_ydata()).tolist() == [0.4, 0.2, 0.1]
    low, high = np.array([segment[:, 1] for segment in bars[0].get_segments()]).T
    assert (high - low).tolist() == pytest.approx([0.04, 0.02, 0.06])
    folds_drawn: Any = next(c for c in ax.containers if "folds" in str(c.get_label()))
    folded = folds_drawn.lines[0]
    budget, mean = _numbers(folded.get_xdata())[-1], _numbers(folded.get_ydata())[-1]
    assert mean == pytest.approx(np.mean([curve.error[0] for curve in folds]))
    assert budget == pytest.approx(max(curve.expected_cost[0] for curve in folds))
    with pytest.raises(ValueError, match="folds must hold the curves"):
        path.plot(folds=[])
    with pytest.raises(ValueError, match=r"curves\['bad'\]"):
        path.plot(neighbours={"bad": 3})
    ax.figure.canvas.draw()


def test_the_most_acquired_of_many_features_are_drawn() -> None:
    random = np.random.default_rng(0)
    X = random.normal(size=(120, 70))
    forest = RandomForestClassifier(4, max_depth=3, random_state=0).fit(X[:80], X[:80, 0] > 0)
    many = budget_path(forest, X[80:], X[80:, 0] > 0, None)
    ax = plots.acquired_features(many, X[80:])
    assert len(ax.get_yticklabels()) == 60
    assert ax.get_ylabel() == "60 most acquired of 70 features (cost)"
    drawn = {label.get_text().removesuffix(" (1)") for label in ax.get_yticklabels()}
    assert drawn >= set(many.points[0].acquired)  # those that no row acquires are left out


def test_the_vote_falls_in_steps(path: BudgetPath, rows: Any) -> None:
    X, y = rows
    ax = path.plot(X[80:], y[80:])
    assert [line.get_drawstyle() for line in ax.get_lines()[:2]] == ["default", "steps-pre"]
    sizes = path.plot_sizes(penalty=path.points[0].penalty)
    assert "internal nodes" in sizes.get_ylabel()


def test_sizes_before_and_after(path: BudgetPath) -> None:
    penalty = path.points[len(path.points) // 2].penalty
    ax = path.plot_sizes(penalty=penalty, unit="CAD")
    bars: Any = ax.patches
    heights = [bar.get_height() for bar in bars]
    n = path.ensemble.n_trees
    assert sum(heights[:n]) == len(path.lifetime)
    assert sum(heights[n:]) == path.kept(penalty=penalty).sum()
    assert all(after <= before for before, after in zip(heights[:n], heights[n:], strict=True))
    ax.figure.canvas.draw()


def test_a_tree_shows_what_is_kept(path: BudgetPath) -> None:
    penalty = path.points[0].penalty
    kept = path.kept(penalty=penalty)
    tree = path.ensemble.tree[path.ensemble.internal]
    largest = int(np.bincount(tree[kept]).argmax())
    ax = path.plot_tree(largest, penalty=penalty, names={"x0": "blood"})
    texts = [text.get_text() for text in ax.texts]
    tests = [text for text in texts if "≤" in text]
    assert len(tests) == np.count_nonzero(kept[tree == largest])
    assert len(texts) - len(tests) == len(tests) + 1
    assert any(text.startswith("blood") for text in tests)
    assert len(ax.get_lines()) == 2 * np.count_nonzero(tree == largest)
    with pytest.raises(ValueError, match="tree must be a whole number >= 0 and <= 7, got 8"):
        path.plot_tree(8, penalty=penalty)
    ax.figure.canvas.draw()


def test_sparsity_by_layer_draws_every_allocation() -> None:
    given = pyplot.figure().add_subplot()
    found = {f"method {k}": [0.1 * k, 0.2, 0.3] for k in range(9)}
    ax = plots.sparsity_by_layer(found, given, bold="method 8", names=["a", "b", "c"])
    assert ax is given
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("block", "fraction removed")
    lines = ax.get_lines()
    assert [_numbers(line.get_ydata())[0] for line in lines] == pytest.approx([0.1 * k for k in range(9)])
    looks = {(line.get_color(), line.get_linestyle()) for line in lines}
    assert len(looks) == 9
    assert [line.get_color() for line in lines].count("black") == 1
    assert [text.get_text() for text in ax.get_xticklabels()] == ["a", "b", "c"]
    assert plots.sparsity_by_layer([0.5, 0.5]).get_legend() is None


@pytest.mark.parametrize(("rows", "words"), [
    ({}, "hold fractions by layer"),
    ({"a": [0.5], "b": [0.5, 0.5]}, "allocations\\['b'\\] must have shape"),
    ([0.5, 1.5], ">= 0 and <= 1, got .*1.5"),
    ([[0.5]], "shape"),
    ([], "have a layer"),
])  # fmt: skip
def test_sparsity_by_layer_refuses_what_is_none(rows: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plots.sparsity_by_layer(rows)


def test_mask_density_counts_tile_by_tile() -> None:
    mask = np.zeros((5, 6), np.bool_)
    mask[:4, :4] = True
    mask[0, 0] = False
    given = pyplot.figure().add_subplot()
    ax = plots.mask_density(mask, given, tile=(2, 4))
    assert ax is given
    shares = np.asarray(ax.collections[0].get_array()).reshape(3, 2)
    assert shares.tolist() == [[7 / 8, 0.0], [1.0, 0.0], [0.0, 0.0]]
    assert "tiles of 2 x 4" in ax.figure.axes[-1].get_ylabel()
    assert ax.yaxis_inverted()
    with pytest.raises(ValueError, match="mask must hold True and False"):
        plots.mask_density(0.5 * mask)
    with pytest.raises(ValueError, match="tile"):
        plots.mask_density(mask, tile=(0, 4))
    plots.mask_density(np.ones((300, 10), np.bool_)).figure.canvas.draw()


def test_latency_states_the_ratio_of_medians() -> None:
    given = pyplot.figure().add_subplot()
    ax = plots.latency({"dense": [4.0, 6.0, 20.0], "pruned": 3.0}, given, what="batch of 8")
    assert ax is given
    assert ax.get_xlabel() == "batch of 8 [ms]"
    bars: Any = ax.patches
    assert [bar.get_width() for bar in bars] == [6.0, 3.0]
    assert [text.get_text() for text in ax.texts] == ["6 ms", "3 ms  (2.00 x)"]
    assert _numbers(ax.get_lines()[0].get_xdata()).tolist() == [4.0, 20.0]
    with pytest.raises(ValueError, match="times must hold"):
        plots.latency({})
    with pytest.raises(ValueError, match=r"times\['dense'\]"):
        plots.latency({"dense": [0.0]})


def test_before_after_draws_both_sizes() -> None:
    ax = plots.before_after([64, 32], [40, 32], what="channels", part="layer", names=["a", "b"])
    bars: Any = ax.patches
    assert [bar.get_height() for bar in bars] == [64, 32, 40, 32]
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["before (96 channels)", "after (72 channels)"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("layer", "channels")
    with pytest.raises(ValueError, match="pass one for each of before"):
        plots.before_after([1], [1, 2], what="x", part="y")
