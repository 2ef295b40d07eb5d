"""Boosters on demand: predictions, acquisitions and costs against the model and its nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from prunopt.forests import BudgetedBoostingClassifier, budget_path, predict_on_demand
from prunopt.forests.boosters import booster_of, read_booster
from prunopt.problems.forest.feature_costs import FeatureCosts
from tests.forests.boosters.test_booster_files import DATA, FILES, ROWS


def checked(model: Any, rows: Any) -> None:
    booster = booster_of(model)
    assert booster is not None
    price = np.arange(rows.shape[1]) + 1.0
    costs = FeatureCosts.of(price, rows.shape[1], None, None, None)
    found = predict_on_demand(model, rows, feature_costs=price)
    if booster.model.classes is None:
        np.testing.assert_allclose(found.predictions, booster.predict(rows), rtol=1e-9)
    else:
        assert np.array_equal(found.predictions, booster.predict(rows))
    assert np.array_equal(found.acquired, booster.acquired(rows, costs))
    assert np.array_equal(found.cost, found.acquired @ price)
    asked = predict_on_demand(model, lambda row, group: rows[row, group], feature_costs=price, n_rows=10)
    assert np.array_equal(asked.acquired, found.acquired[:10])
    assert np.array_equal(asked.predictions, found.predictions[:10])
    early = predict_on_demand(model, rows, feature_costs=price, stop_early=True)
    assert not np.any(early.acquired & ~found.acquired)
    if booster.model.classes is not None:
        assert np.array_equal(early.predictions, found.predictions)
        assert early.cost.sum() < found.cost.sum()
    with pytest.raises(ValueError, match="stop_early must be True or False for this model, got 'probable'"):
        predict_on_demand(model, rows, feature_costs=price, stop_early="probable")


@pytest.mark.parametrize("name", FILES)
def test_models_from_files(name: str) -> None:
    model = read_booster(DATA / name)
    checked(model, ROWS)
    path = budget_path(model, ROWS, model.predict(ROWS), None)
    checked(path.at(penalty=path.points[1].penalty), ROWS)


@pytest.mark.parametrize("kind", [HistGradientBoostingClassifier, HistGradientBoostingRegressor])
def test_histogram_boosting(kind: Any) -> None:
    random = np.random.default_rng(0)
    X = random.normal(size=(300, 5))
    X[random.random(X.shape) < 0.1] = np.nan
    y = np.nan_to_num(X[:, 0]) + 0.5 * np.nan_to_num(X[:, 1]) > 0
    checked(kind(max_iter=10, max_leaf_nodes=8).fit(X, y.astype(int)), X)


def test_models_with_a_method_of_their_own_name_it() -> None:
    model = BudgetedBoostingClassifier()
    with pytest.raises(ValueError, match=r"got a BudgetedBoostingClassifier; call its own: model.predict_on_demand"):
        predict_on_demand(model, np.zeros((2, 2)), feature_costs=None)
