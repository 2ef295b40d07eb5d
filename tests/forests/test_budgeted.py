"""The default estimators: the choice among many kinds of models, and what is said about it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier

from prunopt.forests import BudgetedClassifier, BudgetedRegressor
from prunopt.forests.cross_fitting import Table, choose, folds_of
from prunopt.forests.recipes import DEFAULT, Data, ForestModel, Recipe
from prunopt.forests.sklearn_trees import on_columns
from prunopt.forests.subset_search import SubsetSearch
from prunopt.problems.forest.feature_costs import FeatureCosts

RNG = np.random.default_rng(0)
X = pd.DataFrame(RNG.normal(size=(150, 4)), columns=["scan", "lab", "age", "noise"])
Y = np.where(X.scan + 0.8 * X.lab + 0.3 * X.age > 0, "ill", "well")
COSTS = {"noise": 2.0, "age": 1.0, "lab": 10.0, "scan": 100.0}
QUICK: dict[str, Any] = {"cv": (3, 1), "n_trees": 20, "random_state": 0}


@pytest.fixture(scope="module")
def model() -> Any:
    return BudgetedClassifier(feature_costs=COSTS, budgets=[5, 111], budget=20, **QUICK).fit(X, Y)


def test_the_budget_is_kept_and_bills_add_up(model: Any) -> None:
    answer = model.predict_on_demand(X)
    assert answer.cost.mean() <= 20
    assert np.array_equal(answer.cost, answer.acquired @ [COSTS[name] for name in X.columns])
    assert np.array_equal(answer.predictions, model.predict(X))
    assert np.array_equal(model.cost_per_row(X), answer.cost)
    assert np.array_equal(model.predict(X), model.classes_[model.predict_proba(X).argmax(axis=1)])
    # What is not acquired is not read.
    hidden = X.to_numpy().copy()
    hidden[~answer.acquired] = np.nan
    assert np.array_equal(model.predict(pd.DataFrame(hidden, columns=X.columns)), answer.predictions)


def test_a_function_is_asked_only_for_what_is_acquired(model: Any) -> None:
    asked: set[tuple[int, int]] = set()

    def acquire(row: int, group: int) -> float:
        asked.add((row, group))
        return float(X.to_numpy()[row, group])

    answer = model.predict_on_demand(acquire, n_rows=30)
    assert np.array_equal(answer.predictions, model.predict(X.iloc[:30]))
    assert asked == set(map(tuple, np.argwhere(answer.acquired).tolist()))


def test_models_for_other_budgets(model: Any) -> None:
    for budget in (5.0, 111.0):
        assert model.at(budget).on_demand(X.to_numpy(), None).cost.mean() <= budget * 1.1
    with pytest.raises(ValueError, match="budget must be one of"):
        model.at(7.0)


def test_what_is_said_is_measured_on_all_rows_out_of_fold(model: Any) -> None:
    found, table = model.comparison_, model.table_
    assert np.isfinite(table.score).all()
    assert (found.rows, found.folds, found.repeats) == (150, 3, 1)
    assert found.low <= found.difference <= found.high
    assert found.difference == pytest.approx(found.score - found.default_score)
    assert found.default_cost > found.cost
    names = [judged.name for judged in model.candidates_]
    assert len(set(names)) == len(names)
    costs = [judged.cost for judged in model.candidates_]
    assert costs == sorted(costs)
    best = max((j for j in model.candidates_ if j.cost <= 20), key=lambda j: j.score)
    chosen = next(j for j in model.candidates_ if j.name == model.recipe_.words)
    assert best.score - chosen.score < 0.05


def _table(utility: list[list[float]], cost: list[float]) -> Table:
    values = np.array(utility)[:, None, :]
    recipes = [DEFAULT, *(Recipe("boosted", float(k), "") for k in range(1, len(utility)))]
    bills = np.repeat(np.array(cost)[:, None, None], values.shape[2], axis=2)
    return Table(recipes, values, values, bills, np.arange(values.shape[2])[None, :] % 2, np.ones(values.shape[2]))


def test_the_choice() -> None:
    table = _table([[1, 1, 1, 0], [1, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]], [9, 5, 2, 0])
    assert choose(table, 5) == 1
    assert choose(table, 4.9) == 2
    assert choose(table, 0) == 3
    assert choose(table, None) == 2  # cheaper than the best, and not surely worse; none right of four is
    assert choose(table._replace(tolerance=0.1), None) == 1  # however uncertain, half is too much
    assert choose(table._replace(in_money=True), None) == 3  # 0 right for 0 is more than 1/4 for 2
    rows = np.array([[True, False, False, False]])
    assert choose(table, 100, rows) == 2  # equals cost less


def test_folds_hold_every_class() -> None:
    data = Data(np.zeros((30, 1)), np.repeat([0, 1], [24, 6]), np.ones(30), FeatureCosts.of(None, 1), 2)
    folds = folds_of(data, 3, 4, 0)
    assert folds.shape == (4, 30)
    for fold in folds:
        assert [int((fold[data.y == 1] == f).sum()) for f in range(3)] == [2, 2, 2]


def test_the_search_finds_the_features_that_tell() -> None:
    code = (Y == "well").astype(np.int64)
    costs = FeatureCosts.of(COSTS, 4, tuple(X.columns))
    search = SubsetSearch(X.to_numpy(), code, np.ones(150), costs, 2, 0)
    assert not search.within(0.5).any()
    assert search.within(12)[1]
    assert not search.within(20)[0]
    assert search.within(113)[[0, 1]].all()
    for budget in (0.5, 12, 20, 113):
        assert search.cost(search.within(budget)) <= budget


def test_a_forest_on_columns_is_the_same_forest() -> None:
    rows, columns = X.to_numpy(), np.array([3, 0])
    narrow = RandomForestClassifier(5, random_state=0).fit(rows[:, columns], Y)
    wide = on_columns(narrow, columns, 4)
    assert np.array_equal(wide.predict_proba(rows), narrow.predict_proba(rows[:, columns]))
    assert narrow.n_features_in_ == 2
    costs = ForestModel(wide, FeatureCosts.of(None, 4)).on_demand(rows, None)
    assert not costs.acquired[:, [1, 2]].any()


def test_one_label_is_said() -> None:
    noise = np.random.default_rng(1).permutation(np.repeat(["no", "yes"], [140, 10]))
    quick = {**QUICK, "candidates": ("features",)}
    with pytest.warns(UserWarning, match="the model says 'no' for every row.* raise the budget"):
        model = BudgetedClassifier(feature_costs=COSTS, budget=2, **quick).fit(X, noise)
    assert len(model.remarks_) == 1


def test_the_regressor_missing_values_and_known_features() -> None:
    y = 3 * X.scan + X.age
    rows = X.mask(np.random.default_rng(2).random(X.shape) < 0.05)
    model = BudgetedRegressor(feature_costs=COSTS, budget=20, **QUICK).fit(rows, y, known=["scan"])
    assert model.score(rows, y) > 0.8
    assert not hasattr(model, "classes_")
    assert model.cost_per_row(rows).mean() <= 20
    seen: list[str] = []
    again = clone(model).set_params(callback=seen.append, candidates=("features",)).fit(rows, y)
    assert seen[0] == "fold 1 of 3"
    assert again.expected_cost_ <= 20


def test_skops_writes_and_reads_it(model: Any) -> None:
    io = pytest.importorskip("skops.io")
    data = io.dumps(model)
    again = io.loads(data, trusted=io.get_untrusted_types(data=data))
    assert np.array_equal(again.predict(X), model.predict(X))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": -1}, "budget must be a finite number >= 0, got -1"),
        ({"budget": float("inf")}, "budget must be a finite number >= 0, got inf"),
        ({"candidates": ("trees",)}, "candidates must be one of"),
        ({"cv": 5}, r"cv must be a pair \(folds, repeats\), got 5"),
        ({"n_trees": 0}, "n_trees must be a whole number >= 1, got 0"),
    ],
)
def test_bad_parameters(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BudgetedClassifier(**change).fit(X, Y)


def test_a_fold_may_lack_a_class() -> None:
    y = Y.copy()
    y[:2] = "rare"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = BudgetedClassifier(feature_costs=COSTS, budget=20, **QUICK).fit(X, y)
    assert model.predict_proba(X).shape == (150, 3)
