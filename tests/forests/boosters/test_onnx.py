"""Pruned boosters as ONNX, by the libraries' own converters, where those are installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_iris

from prunopt.forests import budget_path
from prunopt.forests.boosters import booster_of

LOADERS = {2: load_breast_cancer, 3: load_iris}


def half_pruned(model: Any, X: Any, y: Any) -> Any:
    path = budget_path(model.fit(X, y), X, y, None)
    small = path.at(penalty=path.points[len(path.points) // 2].penalty)
    before, after = booster_of(model), booster_of(small)
    assert before is not None
    assert after is not None
    assert len(after.ensemble.internal) < len(before.ensemble.internal)
    return small


def outputs(document: Any, X: Any) -> list[Any]:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # the converters state the labels' shape as one row
    session = runtime.InferenceSession(document.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"input": X}))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("n_classes", [0, 2, 3])
@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_the_converters_take_a_pruned_booster(library: str, n_classes: int) -> None:
    tools = pytest.importorskip("onnxmltools")
    boosting = pytest.importorskip(library)
    types_of = pytest.importorskip("onnxmltools.convert.common.data_types")
    X, y = LOADERS[n_classes or 2](return_X_y=True)
    X = X.astype(np.float32)
    kind = {"xgboost": "XGB", "lightgbm": "LGBM"}[library] + ("Classifier" if n_classes else "Regressor")
    shape: dict[str, Any] = {"max_depth": 3} if library == "xgboost" else {"num_leaves": 6, "verbose": -1}
    small = half_pruned(getattr(boosting, kind)(n_estimators=8, **shape), X, y)
    assert isinstance(small, boosting.Booster)
    types = [("input", types_of.FloatTensorType([None, X.shape[1]]))]
    if library == "xgboost":
        document = tools.convert_xgboost(small, initial_types=types)
    else:
        document = tools.convert_lightgbm(small, initial_types=types, zipmap=False)
    booster = booster_of(small)
    assert booster is not None
    wanted = booster.predict_proba(X) if n_classes else booster.predict(X)
    np.testing.assert_allclose(np.reshape(outputs(document, X)[-1], wanted.shape), wanted, rtol=1e-5, atol=1e-6)
