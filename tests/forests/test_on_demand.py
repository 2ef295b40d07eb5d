"""Prediction on demand predicts what the forest predicts, and acquires what its paths test, once."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor

from prunopt.forests.datasets import load_hypothyroid
from prunopt.forests.on_demand import OnDemand, predict_on_demand
from prunopt.problems.forest.cost_lists import CostList
from prunopt.problems.forest.feature_costs import FeatureCosts

COSTS = np.array([3.0, 0.0, 7.5, 1.0, 2.0, 11.0, 4.0, 4.0, 0.25, 6.0])


class PlainTree(DecisionTreeClassifier):  # type: ignore[misc]
    """A tree without sample weights: bagging gives it its own rows only, so that it may never see some class."""

    def fit(self, X: Any, y: Any) -> PlainTree:
        fitted: PlainTree = super().fit(X, y)
        return fitted


CLASSIFIERS = {
    "random forest": RandomForestClassifier(6, max_depth=3, random_state=0),
    "extra trees": ExtraTreesClassifier(6, max_depth=3, random_state=0),
    # few columns: the trees' features are not the forest's
    "bagging": BaggingClassifier(DecisionTreeClassifier(), 8, max_samples=7, max_features=0.4, random_state=0),
    "bagging of plain trees": BaggingClassifier(PlainTree(), 8, max_samples=5, max_features=0.4, random_state=0),
    "bagged extra trees": BaggingClassifier(ExtraTreeClassifier(max_depth=3), 7, random_state=1),
    "tree": DecisionTreeClassifier(max_depth=6, random_state=0),
    "extra tree": ExtraTreeClassifier(max_depth=6, random_state=0),
}
REGRESSORS = {
    "random forest": RandomForestRegressor(6, max_depth=3, random_state=0),
    "extra trees": ExtraTreesRegressor(6, max_depth=3, random_state=0),
    "bagging": BaggingRegressor(DecisionTreeRegressor(), 5, max_samples=9, max_features=0.4, random_state=0),
    "tree": DecisionTreeRegressor(max_depth=6, random_state=0),
    "extra tree": ExtraTreeRegressor(max_depth=6, random_state=0),
}
FORESTS = [
    *[pytest.param(model, True, id=f"{name} classifier") for name, model in CLASSIFIERS.items()],
    *[pytest.param(model, False, id=f"{name} regressor") for name, model in REGRESSORS.items()],
]


def data(labels: bool, seed: int = 0, n: int = 260) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Rows with many equal values (so votes tie), an eighth of the values missing."""
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 5, (n, 10)) / 3
    score = X[:, :6] @ [2, 0, -1, 1, 0.5, 1] + rng.normal(size=n)
    X[rng.random(X.shape) < 0.125] = np.nan
    return X, np.array(["low", "mid", "odd", "top"])[np.digitize(score, [1, 2, 4])] if labels else score


def on_the_paths(forest: Any, X: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The features that scikit-learn's own decision paths test, row by row."""
    used = np.zeros(X.shape, np.bool_)
    trees = getattr(forest, "estimators_", [forest])
    columns = getattr(forest, "estimators_features_", [np.arange(X.shape[1])] * len(trees))
    for tree, seen in zip(trees, columns, strict=True):
        rows, nodes = tree.decision_path(X[:, seen]).nonzero()
        inner = tree.tree_.children_left[nodes] >= 0
        used[rows[inner], np.asarray(seen)[tree.tree_.feature[nodes[inner]]]] = True
    return used


@pytest.mark.parametrize(("model", "labels"), FORESTS)
def test_same_predictions_and_the_features_of_the_paths(model: Any, labels: bool) -> None:
    X, y = data(labels)
    forest = model.fit(X[:160], y[:160])
    result = predict_on_demand(forest, X[160:], feature_costs=COSTS)
    assert np.array_equal(result.predictions, forest.predict(X[160:]))
    assert result.predictions.dtype == forest.predict(X[160:]).dtype
    assert np.array_equal(result.acquired, on_the_paths(forest, X[160:]))
    assert result.cost == pytest.approx(result.acquired @ COSTS)
    assert not result.acquired.all()


@pytest.mark.parametrize("stop_early", [False, True])
@pytest.mark.parametrize(("model", "labels"), FORESTS)
def test_a_function_is_asked_once_for_what_the_array_buys(model: Any, labels: bool, stop_early: bool) -> None:
    X, y = data(labels)
    forest = model.fit(X[:160], y[:160])
    asked: Counter[tuple[int, int]] = Counter()

    def acquire(row: int, group: int) -> float:
        asked[row, group] += 1
        return float(X[160 + row, group])

    known = predict_on_demand(forest, X[160:], feature_costs=COSTS, stop_early=stop_early)
    answered = predict_on_demand(forest, acquire, feature_costs=COSTS, n_rows=100, stop_early=stop_early)
    for one, other in zip(known, answered, strict=True):
        assert np.array_equal(one, other)
    assert set(asked.values()) == {1}
    assert set(asked) == set(zip(*(axis.tolist() for axis in np.nonzero(known.acquired)), strict=True))


@pytest.mark.parametrize(("model", "labels"), FORESTS)
def test_stopping_early_changes_no_prediction(model: Any, labels: bool) -> None:
    X, y = data(labels)
    forest = model.fit(X[:160], y[:160])
    full = predict_on_demand(forest, X[160:], feature_costs=COSTS)
    early = predict_on_demand(forest, X[160:], feature_costs=COSTS, stop_early=True)
    assert np.array_equal(early.predictions, full.predictions)
    assert np.all(early.acquired <= full.acquired)
    if labels and hasattr(forest, "estimators_"):
        assert early.cost.sum() < full.cost.sum()
    # Whatever the values that were not acquired are, the forest says the same.
    rng = np.random.default_rng(1)
    for _ in range(10):
        other = np.where(early.acquired, X[160:], data(labels, seed=int(rng.integers(99, 999)), n=100)[0])
        assert np.array_equal(forest.predict(other), full.predictions)


def test_some_plain_tree_missed_a_class() -> None:
    X, y = data(True)
    forest = CLASSIFIERS["bagging of plain trees"].fit(X[:160], y[:160])
    assert min(len(tree.classes_) for tree in forest.estimators_) < len(forest.classes_)


def stump_votes(*probabilities: tuple[float, float]) -> RandomForestClassifier:
    """Stumps, one a column: what the left leaf (value <= 0.5) votes for class "a" of "a", "b", and what the right."""
    n = len(probabilities)
    rows = np.repeat(np.array([[0.0], [1.0]]), 10, axis=0) @ np.ones((1, n))
    forest = RandomForestClassifier(n, max_depth=1, bootstrap=False, random_state=0).fit(
        rows, np.repeat(["a", "b"], 10)
    )
    for t, (tree, pair) in enumerate(zip(forest.estimators_, probabilities, strict=True)):
        state = tree.tree_.__getstate__()
        state["nodes"]["feature"][0] = t
        for node, p in zip((1, 2), pair, strict=True):
            state["values"][node, 0] = [p, 1 - p]
        tree.tree_.__setstate__(state)
    return forest


def test_ties_fall_to_the_first_class() -> None:
    forest = stump_votes((1.0, 0.0), (1.0, 0.0))
    X = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    assert forest.predict(X).tolist() == ["a", "a", "b", "a"]
    for stop_early in (False, True):
        result = predict_on_demand(forest, X, feature_costs=None, stop_early=stop_early)
        assert result.predictions.tolist() == ["a", "a", "b", "a"]
        assert result.acquired.all()  # after one vote for "a" the other could still draw, and no draw is called early


def test_a_decided_vote_buys_nothing_more() -> None:
    X = np.array([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    two_of_three = predict_on_demand(stump_votes(*[(1.0, 0.0)] * 3), X, feature_costs=[5, 3, 1], stop_early=True)
    assert two_of_three.acquired.tolist() == [[True] * 3, [True, True, False], [True] * 3]
    assert two_of_three.cost.tolist() == [9.0, 8.0, 9.0]
    # the other trees lean: even both against it, they cannot turn the first
    leaning = predict_on_demand(stump_votes((1.0, 0.0), (0.6, 0.4), (0.6, 0.4)), X, feature_costs=None, stop_early=True)
    assert leaning.acquired.sum(axis=1).tolist() == [1, 1, 1]
    # a tree whose leaves agree has nothing to ask
    agreed = predict_on_demand(stump_votes((0.7, 0.7), (1.0, 0.0), (0.2, 0.2)), X, feature_costs=None, stop_early=True)
    assert agreed.acquired.tolist() == [[False, True, False]] * 3
    without = predict_on_demand(stump_votes((0.7, 0.7), (1.0, 0.0), (0.2, 0.2)), X, feature_costs=None)
    assert without.acquired.all()


def test_sums_are_not_called_early_within_rounding() -> None:
    # 0.1 + 0.2 + 0.7 against 0.9 + 0.8 + 0.3 and the like: exact ties that rounding breaks in scikit-learn's order
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, (200, 6)).astype(float)
    for _ in range(20):
        forest = stump_votes(*[(float(a), float(b)) for a, b in rng.integers(0, 11, (6, 2)) / 10])
        result = predict_on_demand(forest, X, feature_costs=None, stop_early=True)
        assert np.array_equal(result.predictions, forest.predict(X))


def test_float32_and_nan_as_scikit_learn_routes_them() -> None:
    one = float(np.float32(1000.1))
    two = float(np.nextafter(np.float32(one), np.float32(2000)))
    X = np.array([[one], [two], [np.nan]] * 4)
    tree = DecisionTreeClassifier().fit(X, ["a", "b", "c"] * 4)
    close = np.array([[one], [0.8 * one + 0.2 * two], [0.2 * one + 0.8 * two], [two], [np.nan], [0.0]])
    result = predict_on_demand(tree, lambda i, g: close[i, 0], feature_costs=None, n_rows=6)
    assert result.predictions.tolist() == ["a", "a", "b", "b", "c", "a"] == tree.predict(close).tolist()


def test_groups_are_bought_together() -> None:
    X, y = data(True)
    forest = CLASSIFIERS["random forest"].fit(X[:160], y[:160])
    groups = [[4, 0], [2, 3]]  # then 1, 5, 6, 7, 8, 9 alone
    members = [[0, 4], [2, 3], [1], [5], [6], [7], [8], [9]]
    costs = np.array([4.0, 6.0, 0.5, 2.0, 1.0, 1.0, 0.0, 3.0])
    result = predict_on_demand(forest, X[160:], feature_costs=costs, feature_groups=groups)
    paths = on_the_paths(forest, X[160:])
    acquired = np.stack([paths[:, m].any(axis=1) for m in members], axis=1)
    assert np.array_equal(result.acquired, acquired[:, [0, 2, 1, 1, 0, 3, 4, 5, 6, 7]])
    assert result.cost == pytest.approx(acquired @ costs)

    def in_order(row: int, group: int) -> Any:
        return X[160 + row, members[group]]

    def by_index(row: int, group: int) -> Any:
        return {k: X[160 + row, k] for k in reversed(members[group])}

    def by_name(row: int, group: int) -> Any:
        return {f"x{k}": X[160 + row, k] for k in members[group]}

    for acquire in (in_order, by_index, by_name):
        same = predict_on_demand(forest, acquire, feature_costs=costs, feature_groups=groups, n_rows=100)
        assert np.array_equal(same.predictions, forest.predict(X[160:]))
        assert np.array_equal(same.acquired, result.acquired)
    ready = FeatureCosts.of(costs, 10, None, groups)
    assert np.array_equal(predict_on_demand(forest, X[160:], feature_costs=ready).cost, result.cost)


def test_a_costed_data_set_by_name() -> None:
    box = load_hypothyroid(measured_flags=False)
    frame = box.frame().drop(columns=box.target)
    forest = RandomForestClassifier(20, max_depth=4, random_state=0).fit(frame[:2000], box.y[:2000])
    result = predict_on_demand(forest, frame[2000:], feature_costs=box.feature_costs, stop_early=True)
    assert isinstance(result, OnDemand)
    assert np.array_equal(result.predictions, forest.predict(frame[2000:]))
    everything = sum(box.feature_costs.values())
    assert 0 < result.cost.mean() < everything
    cell = {name: k for k, name in enumerate(box.feature_names)}
    answered = predict_on_demand(
        forest,
        lambda i, g: {box.feature_names[g]: box.X[2000 + i, cell[box.feature_names[g]]]},
        feature_costs=box.feature_costs,
        n_rows=300,
        stop_early=True,
    )
    assert np.array_equal(answered.predictions, result.predictions[:300])
    assert answered.cost == pytest.approx(result.cost[:300])


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ([1.0, 2.0], r"acquire\(0, \d\) must return 1 value\(s\), .* got 2 value"),
        ([], r"got 0 value\(s\)"),
        (None, r"must return a number for 'x\d', got None; NaN is unknown"),
        ("3", r"must return a number for 'x\d', got '3'"),
        (["3"], r"must return a number for 'x\d', got '3'"),
        (float("inf"), r"must return a finite float32"),
        (1e300, r"must return a finite float32"),
        ({"x9": 1.0}, r"must return one value for each of x\d, got \['x9'\]"),
        ({}, r"one value for each of .*, got \[\]"),
        (np.ones((1, 2)), r"must return a number for 'x\d'"),
    ],
)
def test_a_wrong_answer_is_named(answer: Any, complaint: str) -> None:
    X, y = data(True)
    forest = CLASSIFIERS["random forest"].fit(X, y)
    with pytest.raises(ValueError, match=complaint):
        predict_on_demand(forest, lambda i, g: answer, feature_costs=None, n_rows=3)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (1.0, r"must return 3 value\(s\), for x0, x1, x2, got 1"),
        ({0: 1.0, 1: 2.0}, r"one value for each of .*, got \[0, 1\]"),
    ],
)
def test_a_group_needs_all_its_values(answer: Any, complaint: str) -> None:
    X, y = data(True)
    forest = RandomForestClassifier(2, random_state=0).fit(X[:, :3], y)
    with pytest.raises(ValueError, match=complaint):
        predict_on_demand(forest, lambda i, g: answer, feature_costs=None, feature_groups=[[0, 1, 2]], n_rows=1)


def test_what_acquire_raises_passes_through() -> None:
    X, y = data(True)
    forest = CLASSIFIERS["random forest"].fit(X, y)

    def acquire(row: int, group: int) -> float:
        raise TimeoutError("the laboratory is closed")

    with pytest.raises(TimeoutError, match="laboratory"):
        predict_on_demand(forest, acquire, feature_costs=None, n_rows=1)


def test_bad_arguments() -> None:
    X, y = data(True)
    forest = CLASSIFIERS["random forest"].fit(X, y)

    def acquire(row: int, group: int) -> float:
        return 0.0

    for n_rows in (None, 0, -1, 2.5, True):
        with pytest.raises(ValueError, match="n_rows"):
            predict_on_demand(forest, acquire, feature_costs=None, n_rows=n_rows)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_rows must be None or 260"):
        predict_on_demand(forest, X, feature_costs=None, n_rows=7)
    with pytest.raises(ValueError, match=r"acquire_or_X must have .* got shape \(260, 5\)"):
        predict_on_demand(forest, X[:, :5], feature_costs=None)
    with pytest.raises(ValueError, match="feature_costs"):
        predict_on_demand(forest, X, feature_costs=[1, 2])
    with pytest.raises(ValueError, match="feature_groups"):
        predict_on_demand(forest, X, feature_costs=FeatureCosts.of(None, 10), feature_groups=[[0, 1]])
    with pytest.raises(ValueError, match="those of 10 features, got costs of 5"):
        predict_on_demand(forest, X, feature_costs=FeatureCosts.of(None, 5))
    boosted = GradientBoostingClassifier(n_estimators=2).fit(np.nan_to_num(X), y)
    with pytest.raises(ValueError, match="Boost"):
        predict_on_demand(boosted, X, feature_costs=None)
    named = RandomForestClassifier(2).fit(pd.DataFrame(X, columns=list("abcdefghij")), y)
    with pytest.raises(ValueError, match="must have the columns of the forest"):
        predict_on_demand(named, pd.DataFrame(X, columns=list("abcdefghik")), feature_costs=None)


@pytest.mark.parametrize("stop_early", [False, True])
@pytest.mark.parametrize(("model", "labels"), FORESTS)
def test_batches_buy_the_same_in_the_same_order(model: Any, labels: bool, stop_early: bool) -> None:
    X, y = data(labels)
    forest = model.fit(X[:160], y[:160])
    calls = []

    def acquire(rows: NDArray[np.int64], group: int) -> Any:
        calls.append((rows, group))
        return X[160 + rows, group]

    told = predict_on_demand(forest, X[160:], feature_costs=COSTS, stop_early=stop_early)
    asked = predict_on_demand(forest, acquire, feature_costs=COSTS, n_rows=100, stop_early=stop_early, batch=True)
    for one, other in zip(told, asked, strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(told.acquisitions.turn, asked.acquisitions.turn)
    assert sum(len(rows) for rows, _ in calls) == told.acquired.sum()
    assert len(calls) <= 10 * told.acquisitions.turn.max()


def test_the_report_of_acquisitions() -> None:
    X, y = data(True)
    forest = CLASSIFIERS["random forest"].fit(X[:160], y[:160])
    names = tuple(f"x{k}" for k in range(10))
    listed = CostList(names, COSTS + 1, {"lab": ("x0", "x2", "x5"), "scan": ("x3", "x6")}, {"lab": 3.5, "scan": 2.0})
    order: dict[int, list[int]] = {}

    def acquire(row: int, group: int) -> float:
        order.setdefault(row, []).append(group)
        return float(X[160 + row, group])

    asked = predict_on_demand(forest, acquire, feature_costs=listed, n_rows=100)
    assert len(asked.acquisitions) == asked.acquired.sum()
    for row in (0, 7, 99):
        bill = asked.acquisitions.of(row)
        assert [p.group for p in bill] == order[row]
        assert [p.name for p in bill] == [names[g] for g in order[row]]
        assert sum(p.cost for p in bill) == pytest.approx(asked.cost[row])
        seen: set[str] = set()
        for p in bill:  # the first of a group in full, further ones less the common part
            group = next((g for g, members in listed.groups.items() if p.name in members), None)
            less = listed.common[group] if group is not None and group in seen else 0.0
            assert p.cost == pytest.approx(COSTS[p.group] + 1 - less)
            seen.add(group or "")
    frame = asked.acquisitions.to_frame()
    assert frame["cost"].sum() == pytest.approx(asked.cost.sum())
    assert frame[frame["row"] == 7]["group"].tolist() == [p.name for p in asked.acquisitions.of(7)]
    assert [p.row for p in asked.acquisitions] == frame["row"].tolist()
    with pytest.raises(IndexError, match="row 100"):
        asked.acquisitions.of(100)
    again = pickle.loads(pickle.dumps(asked))
    assert again.acquisitions.of(7) == asked.acquisitions.of(7)


def test_what_is_known_is_neither_asked_for_nor_paid() -> None:
    X, y = data(True)
    forest = CLASSIFIERS["random forest"].fit(X[:160], y[:160])
    known = np.random.default_rng(0).random((100, 10)) < 0.3
    told = predict_on_demand(forest, X[160:], feature_costs=COSTS, known=known)
    assert not np.any(told.acquired & known)
    assert np.array_equal(told.acquired, on_the_paths(forest, X[160:]) & ~known)
    assert np.array_equal(told.predictions, forest.predict(X[160:]))
    asked = []

    def acquire(row: int, group: int) -> float:
        asked.append((row, group))
        return float(X[160 + row, group])

    values = np.where(known, X[160:], np.nan)
    same = predict_on_demand(forest, acquire, feature_costs=COSTS, known=known, known_values=values, n_rows=100)
    assert np.array_equal(same.acquired, told.acquired)
    assert np.array_equal(same.predictions, told.predictions)
    assert set(asked) == set(zip(*(a.tolist() for a in np.nonzero(told.acquired)), strict=True))
    with pytest.raises(ValueError, match="known_values must be given with known"):
        predict_on_demand(forest, acquire, feature_costs=COSTS, known=known, n_rows=100)
    with pytest.raises(ValueError, match=r"known_values must have .* shape \(3, 10\)"):
        predict_on_demand(forest, acquire, feature_costs=COSTS, known=known, known_values=X[:3], n_rows=100)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (1.0, r"must return \(3, 1\) values"),
        (np.ones(2), r"shape \(2,\)"),
        (["a", "b", "c"], "must return an array of numbers"),
        (np.full(3, np.inf), "infinite"),
        ({"x9": np.ones(3), "x8": np.ones(3)}, "must return columns for"),
    ],
)
def test_a_wrong_table_is_named(answer: Any, complaint: str) -> None:
    X, y = data(True)
    forest = CLASSIFIERS["random forest"].fit(X, y)
    with pytest.raises(ValueError, match=complaint):
        predict_on_demand(forest, lambda rows, g: answer, feature_costs=None, n_rows=3, batch=True)
