"""The path: every point is the optimum at its costs, costs and errs what it says, and comes back as a forest."""

from __future__ import annotations

import itertools
import math
import pickle
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.metrics import mean_squared_error
from sklearn.tree import DecisionTreeClassifier

import prunopt as po
from prunopt.forests import BudgetPath, budget_path, predict_on_demand
from prunopt.forests.breakpoints import path_of
from prunopt.problems import ForestBudget
from prunopt.solvers.closure.parametric_cut import closure_path

mpl.use("Agg")
X, CODES = load_breast_cancer(return_X_y=True)
X = X[:, :10].copy()
X[::7, 3] = np.nan
LABELS = np.array(["benign", "malignant"])[CODES]
COSTS = np.array([1, 2, 0, 7.25, 3, 2.5, 1, 4, 1.5, 2])
X_DIABETES, y_DIABETES = load_diabetes(return_X_y=True)

CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "forest": (RandomForestClassifier(12, max_depth=5, max_features=None, random_state=0), {}),
    "oob": (RandomForestClassifier(12, max_depth=5, random_state=0), {"errors": "oob"}),
    "gini": (ExtraTreesClassifier(8, max_depth=5, random_state=0), {"loss": "gini"}),
    "weights": (
        BaggingClassifier(DecisionTreeClassifier(max_depth=4), 8, max_features=0.5, random_state=0),
        {"sample_weight": np.random.default_rng(0).random(len(LABELS))},
    ),
    "whole weights": (
        RandomForestClassifier(8, max_leaf_nodes=12, random_state=0),
        {"sample_weight": np.random.default_rng(0).integers(0, 3, len(LABELS))},
    ),
    "groups": (
        RandomForestClassifier(8, max_depth=4, random_state=0),
        {"feature_groups": {"size": [0, 2, 3], "texture": [1, 4]}},
    ),
    "tree": (DecisionTreeClassifier(max_depth=6, random_state=0), {}),
    "inbag": (RandomForestClassifier(8, max_depth=4, random_state=0), {"errors": "inbag", "loss": "log"}),
}


def path_and_task(case: str) -> tuple[BudgetPath, ForestBudget, Any]:
    forest, options = CASES[case]
    forest = forest.fit(X, LABELS)
    task = ForestBudget.from_forest(forest, X, LABELS, COSTS, 0, **options)
    return budget_path(forest, X, LABELS, COSTS, **options), task, forest


@pytest.mark.parametrize("case", CASES)
def test_points_are_the_optima_at_their_costs(case: str) -> None:
    path, task, _ = path_and_task(case)
    assert path.complete
    assert len(path.points) >= 4
    assert path.points[0].penalty == 0
    assert path.points[-1].penalty_end == math.inf
    for k, point in enumerate(path.points):
        kept = path.lifetime > k
        assert task.violation(kept) == 0
        assert task.error(kept) == pytest.approx(point.training_error, abs=1e-12)
        assert task.cost(kept) == pytest.approx(point.expected_cost, abs=1e-12)
        assert kept.sum() == point.n_nodes
        assert point.gap <= 1e-9
        assert float(point.penalty_exact) == point.penalty
        if k:
            before = path.points[k - 1]
            assert before.penalty_end == point.penalty > before.penalty
            assert before.expected_cost > point.expected_cost
            assert before.training_error < point.training_error + 1e-12
        middle = point.penalty + 1 if math.isinf(point.penalty_end) else (point.penalty + point.penalty_end) / 2
        for penalty in (point.penalty, middle):
            best = po.solve(task.at_penalty(penalty))
            stated = point.training_error + penalty * point.expected_cost
            assert stated == pytest.approx(best.objective, rel=1e-9, abs=1e-11)
            assert path.index(penalty=penalty) == k
            assert path.solution(penalty=penalty).objective == stated


@pytest.mark.parametrize("case", ["forest", "weights"])
def test_highs_agrees_at_some_costs(case: str) -> None:
    path, task, _ = path_and_task(case)
    small = replace(task, X=task.X[:60], weight=task.weight[:60])
    path = path_of(small, path.forest, closure_path, None)
    for point in path.points[:: max(1, len(path.points) // 4)]:
        solution = po.solve(small.at_penalty(point.penalty), "highs")
        assert solution.objective == pytest.approx(point.training_error + point.penalty * point.expected_cost, abs=1e-8)


@pytest.mark.parametrize("case", CASES)
def test_curve_is_that_of_the_pruned_forests(case: str) -> None:
    path, task, forest = path_and_task(case)
    rng = np.random.default_rng(1)
    rows, labels, weight = X[100:400], LABELS[100:400], rng.random(300)
    curve = path.curve(rows, labels, sample_weight=weight)
    for k in range(0, len(path.points), max(1, len(path.points) // 6)):
        pruned = path.at(penalty=path.points[k].penalty)
        assert type(pruned) is type(forest)
        wrong = pruned.predict(rows) != labels
        assert curve.error[k] == pytest.approx(np.average(wrong, weights=weight))
        assert curve.score[k] == pytest.approx(pruned.score(rows, labels, sample_weight=weight))
        acquired = predict_on_demand(pruned, rows, feature_costs=task.feature_costs)
        assert curve.expected_cost[k] == pytest.approx(np.average(acquired.cost, weights=weight))
        names = {
            task.feature_costs.group_names[g]
            for g in np.unique(task.feature_costs.group_of[acquired.acquired.any(axis=0)])
        }
        assert names <= set(path.points[k].acquired)
    whole = path.unpruned(rows, labels)
    assert whole.score == pytest.approx(forest.score(rows, labels))
    plain = path.curve(rows, labels)
    k = len(path.points) // 2
    expected = np.std(path.at(penalty=path.points[k].penalty).predict(rows) != labels) / math.sqrt(len(rows))
    assert plain.standard_error[k] == pytest.approx(expected)


def test_regression() -> None:
    forest = BaggingRegressor(n_estimators=15, max_features=0.5, random_state=0).fit(X_DIABETES[:300], y_DIABETES[:300])
    path = budget_path(forest, X_DIABETES[:300], y_DIABETES[:300], None, errors="oob")
    curve = path.curve(X_DIABETES[300:], y_DIABETES[300:])
    assert len(path.points) > 10
    for k in (0, len(path.points) // 2, len(path.points) - 1):
        pruned = path.at(penalty=path.points[k].penalty)
        predictions = pruned.predict(X_DIABETES[300:])
        assert curve.error[k] == pytest.approx(mean_squared_error(y_DIABETES[300:], predictions))
        assert curve.score[k] == pytest.approx(pruned.score(X_DIABETES[300:], y_DIABETES[300:]))
    assert max(p.gap for p in path.points) <= 1e-9


def test_votes_of_the_trees_that_did_not_see_a_row() -> None:
    forest = RandomForestClassifier(40, max_depth=4, oob_score=True, random_state=0).fit(X, LABELS)
    path = budget_path(forest, X, LABELS, COSTS, errors="oob")
    full = replace(path, lifetime=np.full_like(path.lifetime, len(path.points)))
    seen = np.stack([np.isin(np.arange(len(X)), rows) for rows in forest.estimators_samples_])
    assert full.curve(X, LABELS, use=~seen).score[0] == pytest.approx(forest.oob_score_)


def test_labels_never_seen_count_as_wrong() -> None:
    path, _, forest = path_and_task("forest")
    labels = np.where(np.arange(len(X)) < 100, "unknown", forest.predict(X))
    assert path.unpruned(X, labels).error == pytest.approx(100 / len(X))


def test_budgets() -> None:
    path, task, _ = path_and_task("forest")
    for k, point in enumerate(path.points):
        assert path.index(budget=point.expected_cost) == k
        if k:
            between = (point.expected_cost + path.points[k - 1].expected_cost) / 2
            assert path.index(budget=between) == k
            assert np.array_equal(path.kept(budget=between), path.lifetime > k)
    solution = path.solution(budget=path.points[2].expected_cost)
    assert solution.status is po.Status.OPTIMAL
    assert solution.value is not None
    assert task.error(solution.value) == pytest.approx(solution.objective) == pytest.approx(solution.bound)
    assert path.index(budget=1e9) == 0


def closed_sets(task: ForestBudget) -> list[NDArray[np.bool_]]:
    m = len(task.ensemble.internal)
    every = (np.array(bits, bool) for bits in itertools.product([False, True], repeat=m))
    return [kept for kept in every if task.violation(kept) == 0]


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_within_a_budget_holds_for_every_pruning(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, labels = rng.integers(0, 4, (30, 3)).astype(float), rng.integers(0, 2, 30)
    forest = RandomForestClassifier(3, max_leaf_nodes=5, random_state=seed).fit(rows, labels)
    task = ForestBudget.from_forest(forest, rows, labels, [1, 2, 3], 0)
    path = budget_path(forest, rows, labels, [1, 2, 3])
    every = [(task.cost(kept), task.error(kept)) for kept in closed_sets(task)]
    for budget in np.linspace(0, 6, 13):
        best = min(error for cost, error in every if cost <= budget + 1e-12)
        solution = path.solution(budget=budget)
        assert solution.bound <= best + 1e-12 <= solution.objective + 2e-12
        assert solution.stats["expected_cost"] <= budget + 1e-9
    for penalty in (0.0, 0.01, 0.05, 0.2):
        least = min(error + penalty * cost for cost, error in every)
        assert path.solution(penalty=penalty).objective == pytest.approx(least, abs=1e-12)


def test_costs_that_buy_nothing_leave_one_point() -> None:
    forest = CASES["forest"][0].fit(X, LABELS)
    path = budget_path(forest, X, LABELS, np.zeros(10))
    assert len(path.points) == 1
    assert path.points[0].expected_cost == 0
    assert path.points[0].acquired


def test_frame_and_picture() -> None:
    path, _, _ = path_and_task("forest")
    frame = path.to_frame()
    assert list(frame.columns) == [
        "penalty", "penalty_end", "expected_cost", "training_error", "n_nodes", "gap", "acquired"
    ]  # fmt: skip
    assert frame["n_nodes"].is_monotonic_decreasing
    assert len(frame) == len(path.points)
    ax = path.plot(X, LABELS, unit="EUR")
    assert ax.get_xlabel() == "mean cost per row [EUR]"
    assert "misclassified" in ax.get_ylabel()
    legend = ax.get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == 3
    cost, error = ax.lines[1].get_data()
    curve = path.curve(X, LABELS)
    assert np.array_equal(cost, curve.expected_cost)
    assert np.array_equal(error, curve.error)
    assert path.plot(ax=ax) is ax
    with pytest.raises(ValueError, match="or neither"):
        path.plot(X)
    mpl.pyplot.close("all")


@pytest.mark.parametrize(("module", "call", "message"), [
    ("matplotlib", lambda p: p.plot(), r"prunopt\[plot\]"),
    ("pandas", lambda p: p.to_frame(), "pip install pandas"),
])  # fmt: skip
def test_missing_extras_are_named(module: str, call: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _, _ = path_and_task("tree")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=message):
        call(path)


def test_time_limit_leaves_a_valid_path_with_honest_gaps() -> None:
    path, task, forest = path_and_task("forest")
    short = budget_path(forest, X, LABELS, COSTS, limits=po.Limits(seconds=0.0))
    assert not short.complete
    assert max(p.gap for p in short.points) > 1e-6
    for k, point in enumerate(short.points):
        kept = short.lifetime > k
        assert task.violation(kept) == 0
        assert task.error(kept) == pytest.approx(point.training_error)
        best = path.solution(penalty=point.penalty).objective
        assert short.bounds[k] <= best + 1e-12
        assert point.training_error + point.penalty * point.expected_cost >= best - 1e-12


def test_a_wrong_path_is_refused() -> None:
    forest = CASES["forest"][0].fit(X, LABELS)
    task = ForestBudget.from_forest(forest, X, LABELS, COSTS, 0)

    def swapped(closure: Any, limits: Any) -> Any:
        found = closure_path(closure, limits)
        first, *middle, last = found.blocks
        swapped = (first._replace(penalty=last.penalty), *middle, last._replace(penalty=first.penalty))
        return replace(found, blocks=swapped)

    with pytest.raises(po.CertificateError, match="path"):
        path_of(task, forest, swapped, None)


def test_path_is_small_to_keep() -> None:
    path, _, forest = path_and_task("forest")
    assert len(pickle.dumps(path)) < len(pickle.dumps(forest)) + 200_000
    again = pickle.loads(pickle.dumps(path))
    assert again.points == path.points


def test_penalty_exact_is_a_rational_of_the_data() -> None:
    path, _, _ = path_and_task("forest")
    for before, after in itertools.pairwise(path.points):
        gained = Fraction(round((after.training_error - before.training_error) * 12 * len(X)), 12 * len(X))
        saved = Fraction(round((before.expected_cost - after.expected_cost) * 4 * len(X)), 4 * len(X))
        assert after.penalty_exact == gained / saved


FITTED = RandomForestClassifier(3, max_depth=3, random_state=0).fit(X, LABELS)
BAD: list[tuple[dict[str, Any], str]] = [
    ({"forest": RandomForestClassifier()}, "not fitted"),
    ({"forest": GradientBoostingClassifier(n_estimators=2).fit(np.nan_to_num(X), LABELS)}, "boosted trees"),
    ({"forest": RandomForestClassifier(2).fit(X, np.c_[CODES, CODES])}, "must predict one output"),
    ({"forest": ExtraTreesClassifier(2).fit(X, LABELS), "errors": "oob"}, "without bootstrap"),
    ({"feature_costs": [1, 2]}, r"got shape \(2,\)"),
    ({"feature_costs": -COSTS}, r"feature_costs\['x0'\] must be a finite number >= 0, got -1"),
    ({"feature_costs": COSTS * np.nan}, "finite number"),
    ({"feature_costs": {"colour": 1}}, "name features, got 'colour'"),
    ({"X": X[:, :4]}, "must have shape \\(n, 10\\)"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_input(change: dict[str, Any], message: str) -> None:
    given = {"forest": FITTED, "X": X, "y": LABELS, "feature_costs": COSTS, **change}
    with pytest.raises(ValueError, match=message):
        budget_path(given.pop("forest"), given.pop("X"), given.pop("y"), given.pop("feature_costs"), **given)


def test_bad_points() -> None:
    path, _, _ = path_and_task("tree")
    with pytest.raises(ValueError, match="the prunings of the path cost 0 to"):
        path.at(budget=-1)
    with pytest.raises(ValueError, match="budget must be at least 0, got nan"):
        path.at(budget=math.nan)
    with pytest.raises(ValueError, match="penalty must be a number >= 0, got -1"):
        path.at(penalty=-1)
    with pytest.raises(ValueError, match="be given, or budget, not both"):
        path.at(penalty=1, budget=1)
    with pytest.raises(ValueError, match="be given, or budget, not both"):
        path.at()
    with pytest.raises(TypeError, match="budget must be a number, got '2'"):
        path.at(budget="2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sample_weight"):
        path.curve(X, LABELS, sample_weight=[1])
    with pytest.raises(ValueError, match="y must have shape"):
        path.curve(X, LABELS[1:])


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, prunopt.forests as f; heavy = {'numba', 'sklearn', 'matplotlib', 'pandas'} & set(sys.modules); "
        "assert not heavy, heavy; assert 'budget_path' in dir(f); f.budget_path; assert 'sklearn' not in f.__dict__"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        __import__("prunopt.forests").forests.nonsense  # noqa: B018
