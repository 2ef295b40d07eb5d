"""The exact path of boosters against all prunings, and what the libraries predict of what is written."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from prunopt.forests import budget_path
from prunopt.forests.boosters import Booster, booster_of, read_booster

DATA = Path(__file__).parent / "data"
ROWS = np.array(json.loads((DATA / "predictions.json").read_text())["rows"], np.float64)
COSTS = [3.0, 1.0, 4.0, 2.0]
RNG = np.random.default_rng(1)
TARGETS = {"two": RNG.integers(0, 2, 24), "three": RNG.integers(0, 3, 24), "number": RNG.normal(size=24)}
X = RNG.normal(size=(400, 4))
X[RNG.random(X.shape) < 0.1] = np.nan
Y = {
    "two": (np.nan_to_num(X[:, 0]) > 0.2).astype(int),
    "three": np.digitize(np.nan_to_num(X[:, 0] + X[:, 1]), [-0.5, 0.8]),
    "number": np.nan_to_num(X[:, 0]) * 3 + np.nan_to_num(X[:, 2]),
}


def prunings(model: Booster, h: int) -> list[frozenset[int]]:
    """The sets of internal nodes at and below h that a pruning can keep."""
    e = model.ensemble
    if e.left[h] < 0:
        return [frozenset()]
    both = itertools.product(prunings(model, int(e.left[h])), prunings(model, int(e.right[h])))
    return [frozenset(), *(frozenset({h}) | a | b for a, b in both)]


def walked(model: Booster, row: Any, t: int, split: frozenset[int]) -> tuple[int, set[int]]:
    e, h, asked = model.ensemble, int(model.ensemble.offsets[t]), set[int]()
    while h in split:
        asked.add(int(e.feature[h]))
        value = row[e.feature[h]]
        left = e.missing_left[h] if np.isnan(value) else value <= e.threshold[h]
        h = int(e.left[h] if left else e.right[h])
    return h, asked


@pytest.mark.parametrize(
    "library", ["xgboost_two.json", "lightgbm_two.txt", "lightgbm_number.txt", "xgboost_number.json"]
)
def test_no_pruning_is_below_the_path(library: str) -> None:
    model = read_booster(DATA / library)
    y, e, n = TARGETS[library.partition(".")[0].partition("_")[2]], model.ensemble, 10
    rows, y = e.rows(ROWS[:n]), y[:n]
    path = budget_path(model, ROWS[:n], y, COSTS)
    scores = np.full(n, model.model.base[0])
    options: list[list[tuple[float, Any]]] = []
    start = 0.0
    for t in range(e.n_trees):
        if model.model.classes is None:
            first, second, loss = scores - y, np.ones(n), np.square(scores - y) / 2
        else:
            p = 1 / (1 + np.exp(-scores))
            first, second, loss = p - y, p * (1 - p), -np.log(np.where(y == 1, p, 1 - p))
        start = loss.mean() if t == 0 else start
        found = []
        for split in prunings(model, int(e.offsets[t])):
            ends = [walked(model, row, t, split) for row in rows]
            v = model.value[[h for h, _ in ends]]
            asked = np.array([[f in fs for f in range(4)] for _, fs in ends])
            found.append((float(np.mean(first * v + second * v * v / 2)), asked))
        options.append(found)
        scores = scores + model.value[[walked(model, row, t, frozenset(e.internal.tolist()))[0] for row in rows]]
    everything = [
        (start + sum(loss for loss, _ in picks), float(np.mean(np.any([a for _, a in picks], axis=0) @ COSTS)))
        for picks in itertools.product(*options)
    ]
    error, cost = np.array(everything).T
    for point in path.points:
        for penalty in (point.penalty, min(point.penalty_end, point.penalty + 0.01)):
            objective = point.training_error + penalty * point.expected_cost
            assert objective == pytest.approx(float((error + penalty * cost).min()), abs=1e-9)
        assert point.gap <= 1e-9


def hist(kind: str) -> Any:
    make = HistGradientBoostingRegressor if kind == "number" else HistGradientBoostingClassifier
    return make(max_iter=4, max_depth=3, min_samples_leaf=5, random_state=0).fit(X, Y[kind])


@pytest.mark.parametrize("kind", list(Y))
def test_scikit_learns_private_attributes_are_as_they_are_read(kind: str) -> None:
    """``_predictors`` of ``nodes``, ``_baseline_prediction``, and the fields of a node."""
    model = hist(kind)
    assert np.size(model._baseline_prediction) == (3 if kind == "three" else 1)
    fields = {"value", "count", "feature_idx", "num_threshold", "missing_go_to_left", "left", "right", "is_leaf"}
    assert fields | {"gain", "is_categorical"} <= set(model._predictors[0][0].nodes.dtype.names)
    ours = booster_of(model)
    assert ours is not None
    if kind == "number":
        np.testing.assert_allclose(ours.predict(X), model.predict(X), rtol=1e-12)
    else:
        np.testing.assert_allclose(ours.predict_proba(X), model.predict_proba(X), rtol=1e-9)


def checked_path(model: Any, kind: str) -> Any:
    path = budget_path(model, X, Y[kind], COSTS)
    assert len(path.points) > 1
    assert path.complete
    assert max(p.gap for p in path.points) <= 1e-9
    return path


@pytest.mark.parametrize("kind", list(Y))
def test_a_pruned_histogram_model_is_one_of_scikit_learn(kind: str) -> None:
    model = hist(kind)
    before = model.predict(X).copy()
    path = checked_path(model, kind)
    for point in path.points:
        small = path.at(penalty=point.penalty)
        assert type(small) is type(model)
        ours = booster_of(small)
        assert ours is not None
        assert len(ours.ensemble.internal) == point.n_nodes
        np.testing.assert_allclose(ours.predict(X), small.predict(X))
        score = float(path.curve(X, Y[kind]).score[path.index(penalty=point.penalty)])
        assert score == pytest.approx(small.score(X, Y[kind]))
    np.testing.assert_array_equal(model.predict(X), before)


@pytest.mark.parametrize("kind", list(Y))
def test_xgboost_loads_what_is_written(kind: str, tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    make = xgboost.XGBRegressor if kind == "number" else xgboost.XGBClassifier
    model = make(n_estimators=4, max_depth=3, learning_rate=0.5).fit(X, Y[kind])
    path = checked_path(model, kind)
    for point in path.points:
        small = path.at(penalty=point.penalty)
        ours = booster_of(small)
        assert ours is not None
        assert len(ours.ensemble.internal) == point.n_nodes
        ours.save(tmp_path / "model.json")
        loaded = make()
        loaded.load_model(tmp_path / "model.json")
        np.testing.assert_allclose(ours.predict(X), loaded.predict(X), rtol=1e-5, atol=1e-6)
        if kind != "number":
            np.testing.assert_allclose(ours.predict_proba(X), loaded.predict_proba(X), atol=1e-6)


def test_xgboost_stops_where_its_estimators_stop() -> None:
    xgboost = pytest.importorskip("xgboost")
    noise = RNG.integers(0, 2, 400)
    model = xgboost.XGBClassifier(n_estimators=30, max_depth=4, early_stopping_rounds=2)
    model.fit(X[:200], noise[:200], eval_set=[(X[200:], noise[200:])], verbose=False)
    assert model.best_iteration < model.get_booster().num_boosted_rounds() - 1
    ours = booster_of(model)
    assert ours is not None
    np.testing.assert_allclose(ours.predict_proba(X), model.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize("kind", list(Y))
def test_lightgbm_loads_what_is_written(kind: str, tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    make = lightgbm.LGBMRegressor if kind == "number" else lightgbm.LGBMClassifier
    model = make(n_estimators=4, num_leaves=7, learning_rate=0.5, min_child_samples=5, verbose=-1).fit(X, Y[kind])
    path = checked_path(model, kind)
    for point in path.points:
        small = path.at(penalty=point.penalty)
        ours = booster_of(small)
        assert ours is not None
        assert len(ours.ensemble.internal) == point.n_nodes
        ours.save(tmp_path / "model.txt")
        loaded = lightgbm.Booster(model_file=str(tmp_path / "model.txt"))
        assert loaded.num_trees() == model.booster_.num_trees()
        chances = ours.predict(X) if kind == "number" else ours.predict_proba(X)
        chances = chances[:, 1] if kind == "two" else chances
        np.testing.assert_allclose(chances, loaded.predict(X), rtol=1e-12, atol=1e-12)
