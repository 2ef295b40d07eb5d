"""Boosters of other libraries: the same predictions, before and after pruning, in their own library and in ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from prunopt.forests import budget_path
from prunopt.forests.boosters import booster_of, read_booster

KINDS = "two classes", "missing values", "three classes", "numbers"
LIBRARIES = "hist", "xgboost", "lightgbm"


def data(kind: str) -> tuple[Any, Any]:
    if kind == "numbers":
        return load_diabetes(return_X_y=True)  # type: ignore[no-any-return]
    if kind == "three classes":
        X, y = load_iris(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(X))
        return X[order], y[order]
    X, y = load_breast_cancer(return_X_y=True)
    if kind == "missing values":
        X[np.random.default_rng(0).random(X.shape) < 0.05] = np.nan
    return X, y


def fitted(library: str, kind: str, X: Any, y: Any) -> Any:
    numbers = kind == "numbers"
    if library == "hist":
        make = HistGradientBoostingRegressor if numbers else HistGradientBoostingClassifier
        return make(max_iter=8, max_leaf_nodes=6).fit(X, y)
    if library == "xgboost":
        xgboost = pytest.importorskip("xgboost")
        model = xgboost.XGBRegressor if numbers else xgboost.XGBClassifier
        return model(n_estimators=8, max_depth=3, n_jobs=1).fit(X, y)
    lightgbm = pytest.importorskip("lightgbm")
    booster = lightgbm.train(
        {
            "objective": "regression" if numbers else "multiclass" if kind == "three classes" else "binary",
            "num_class": 3 if kind == "three classes" else 1,
            "num_leaves": 6,
            "num_threads": 1,
            "verbose": -1,
        },
        lightgbm.Dataset(X, y),
        8,
    )
    return booster


def predicted(model: Any, X: Any) -> Any:
    """What the model's own library says: probabilities, or numbers."""
    if type(model).__module__.startswith("xgboost") and hasattr(model, "save_raw"):
        import xgboost

        return model.predict(xgboost.DMatrix(X))
    return model.predict_proba(X) if hasattr(model, "predict_proba") else model.predict(X)


def ours(model: Any, X: Any) -> Any:
    booster = booster_of(model)
    assert booster is not None
    return booster.predict(X) if booster.model.classes is None else booster.predict_proba(X)


def second(values: Any) -> Any:
    """Probabilities of two classes are one column in some libraries."""
    found = np.asarray(values, np.float64)
    return found[:, 1] if found.ndim == 2 and found.shape[1] == 2 else found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_library_and_we_predict_the_same_before_and_after_pruning(library: str, kind: str) -> None:
    X, y = data(kind)
    half = len(X) // 2
    model = fitted(library, kind, X[:half], y[:half])
    rows, target = X[half:], y[half:]
    scale = 1e-5 * max(1.0, float(np.abs(target).max()))
    np.testing.assert_allclose(second(ours(model, rows)), second(predicted(model, rows)), atol=scale)
    path = budget_path(model, rows, target, np.ones(X.shape[1]))
    assert max(p.gap for p in path.points) < 1e-9
    k = len(path.points) // 2
    pruned = path.at(penalty=path.points[k].penalty)
    np.testing.assert_allclose(second(ours(pruned, rows)), second(predicted(pruned, rows)), atol=scale)
    small = booster_of(pruned)
    assert small is not None
    assert int((small.ensemble.left >= 0).sum()) == path.points[k].n_nodes
    curve = path.curve(rows, target)
    found = small.predict(rows)
    error = np.mean((found - target) ** 2) if kind == "numbers" else np.mean(found != target)
    assert curve.error[k] == pytest.approx(float(error), rel=1e-5)


def test_the_surrogate_is_the_sum_of_its_definition() -> None:
    """Errors of nodes, summed over the leaves of a pruning, against derivatives written out row by row."""
    X, y = data("two classes")
    X, y = X[:80, :4], y[:80]
    model = HistGradientBoostingClassifier(max_iter=3, max_leaf_nodes=4, min_samples_leaf=5).fit(X, y)
    booster = booster_of(model)
    assert booster is not None
    task = booster.task(X, y, np.ones(4))
    rng = np.random.default_rng(0)
    e = booster.ensemble
    for _ in range(20):
        split = np.zeros(e.n_nodes, np.bool_)
        split[e.internal] = rng.random(len(e.internal)) < 0.6
        for h in e.internal:
            split[h] &= e.parent[h] < 0 or split[e.parent[h]]
        base = float(booster.model.base[0])
        total = 0.0
        for x, label in zip(X, y, strict=True):
            score, sign = base, 1 if label else -1
            total += np.log1p(np.exp(-sign * base))
            for t in range(e.n_trees):
                p = 1 / (1 + np.exp(-score))
                h = whole = int(e.offsets[t])
                while split[h]:
                    h = int(e.left[h] if x[e.feature[h]] <= e.threshold[h] else e.right[h])
                while e.left[whole] >= 0:
                    whole = int(e.left[whole] if x[e.feature[whole]] <= e.threshold[whole] else e.right[whole])
                v = booster.value[h]
                total += (p - label) * v + 0.5 * p * (1 - p) * v * v
                score += booster.value[whole]  # predecessors are frozen as they were fitted
        assert task.error(split[e.internal]) == pytest.approx(total / len(X), rel=1e-9)


def test_files_are_read_without_their_libraries(tmp_path: Path) -> None:
    X, y = data("three classes")
    model = fitted("xgboost", "three classes", X, y)
    model.save_model(tmp_path / "m.json")
    np.testing.assert_allclose(read_booster(tmp_path / "m.json").predict_proba(X), model.predict_proba(X), atol=1e-6)
    model = fitted("lightgbm", "three classes", X, y)
    model.save_model(tmp_path / "m.txt")
    np.testing.assert_allclose(read_booster(tmp_path / "m.txt").predict_proba(X), model.predict(X), atol=1e-12)


def small_document() -> dict[str, Any]:
    """A model of one tree with one split, as XGBoost writes it."""
    tree = {
        "base_weights": [0.0, -1.0, 1.0], "default_left": [0, 0, 0], "left_children": [1, -1, -1],
        "right_children": [2, -1, -1], "loss_changes": [1.0, 0.0, 0.0], "parents": [2**31 - 1, 0, 0],
        "split_conditions": [0.5, -1.0, 1.0], "split_indices": [0, 0, 0], "split_type": [0, 0, 0],
        "sum_hessian": [4.0, 1.0, 3.0], "tree_param": {"num_nodes": "3", "size_leaf_vector": "1", "num_deleted": "0"},
    }  # fmt: skip
    return {
        "learner": {
            "feature_names": ["a"],
            "gradient_booster": {"name": "gbtree", "model": {"trees": [tree], "tree_info": [0]}},
            "learner_model_param": {"base_score": "[0E0]", "num_class": "0", "num_feature": "1"},
            "objective": {"name": "reg:squarederror"},
        }
    }


def test_a_value_at_the_condition_goes_right(tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    file.write_text(json.dumps(small_document()))
    model = read_booster(file)
    assert model.predict([[0.4], [0.5], [np.nan]]).tolist() == [-1.0, 1.0, 1.0]
    assert model.pruned([False]).predict([[0.4]]).tolist() == [0.5]  # (1 * -1 + 3 * 1) / 4


def put(document: dict[str, Any], where: str, value: Any) -> None:
    *path, last = where.split("/")
    at: Any = document["learner"]
    for part in path:
        at = at[int(part) if isinstance(at, list) else part]
    at[int(last) if isinstance(at, list) else last] = value


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("gradient_booster/name", "dart", "gbtree"),
        ("objective/name", "rank:ndcg", "objective"),
        ("gradient_booster/model/trees/0/split_type", [1, 0, 0], "categorical"),
        ("gradient_booster/model/trees/0/left_children", [0, -1, -1], "children"),
        ("gradient_booster/model/trees/0/left_children", [7, -1, -1], "children"),
        ("gradient_booster/model/trees/0/right_children", [-1, -1, -1], "children"),
        ("gradient_booster/model/trees/0/split_indices", [9, 0, 0], "feature"),
        ("gradient_booster/model/trees", [], "trees"),
        ("gradient_booster/model/trees", None, "JSON"),
    ],
)
def test_what_is_no_model_is_one_line(tmp_path: Path, where: str, value: Any, message: str) -> None:
    document = small_document()
    put(document, where, value)
    file = tmp_path / "m.json"
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=message) as raised:
        read_booster(file)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "tree\nnum_class=1\n\nTree=0\nnum_leaves=2\n", "[]", "tree\n"])
@pytest.mark.parametrize("ending", ["json", "txt"])
def test_broken_files_are_one_line(tmp_path: Path, text: str, ending: str) -> None:
    file = tmp_path / f"m.{ending}"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"model|path") as raised:
        read_booster(file)
    assert "\n" not in str(raised.value)


def test_what_scikit_learn_keeps_in_private() -> None:
    """Boosters read and write `_predictors` with their nodes, and read `_baseline_prediction`."""
    X, y = data("three classes")
    model = HistGradientBoostingClassifier(max_iter=2).fit(X, y)
    assert model._baseline_prediction.size == 3
    nodes = model._predictors[0][0].nodes
    wanted = {
        "value",
        "count",
        "feature_idx",
        "num_threshold",
        "missing_go_to_left",
        "left",
        "right",
        "gain",
        "is_leaf",
    }
    assert wanted | {"is_leaf", "is_categorical"} <= set(nodes.dtype.names)
