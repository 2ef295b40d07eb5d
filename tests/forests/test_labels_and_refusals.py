"""What people pass to the forest estimators: costs by label, skops, monotonic trees, what is not a forest."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import make_classification
from sklearn.ensemble import (
    BaggingClassifier,
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

from prunopt.forests import (
    BudgetedBoostingClassifier,
    BudgetedClassifier,
    BudgetedForestClassifier,
    budget_path,
    refit_leaves,
    size_path,
)
from prunopt.problems.forest.feature_costs import FeatureCosts

RNG = np.random.default_rng(0)
X = pd.DataFrame(RNG.normal(size=(200, 2)), columns=["scan", "age"])
Y = (X.scan > 0).astype(int).to_numpy()
SMALL = RandomForestClassifier(5, max_depth=4, max_features=None)
BY_LABEL = pd.Series({"age": 1.0, "scan": 100.0})


def test_a_series_is_matched_by_label_in_all_entries() -> None:
    for kind in (BudgetedForestClassifier, BudgetedBoostingClassifier):
        options: dict[str, Any] = {"budget": 5, "random_state": 0}
        if kind is BudgetedForestClassifier:
            options["estimator"] = SMALL
        with pytest.warns(UserWarning, match="buys nothing") if kind is BudgetedForestClassifier else nullcontext():
            model = kind(feature_costs=BY_LABEL, **options).fit(X, Y)
        assert model.predict_on_demand(X).cost.max() <= 1.0
    path = budget_path(SMALL.fit(X, Y), X, Y, BY_LABEL)
    assert path.feature_costs.group_cost.tolist() == [100.0, 1.0]
    costs = FeatureCosts.of({1: 5.0, 0: 3.0}, 2, ("a", "b")).group_cost
    assert costs.tolist() == [3.0, 5.0]
    assert FeatureCosts.of(pd.Series([1.0, 2.0]), 2, ("a", "b")).group_cost.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="must name features, got 'b'"):
        FeatureCosts.of(pd.Series([1.0, 2.0], ["b", "a"]), 2)
    with pytest.raises(ValueError, match="keys from 0 to 1, got 5"):
        FeatureCosts.of({0: 1, 5: 2}, 2)


def test_a_table_of_costs_is_matched_by_columns_and_index() -> None:
    table = pd.DataFrame({"age": np.arange(200.0), "scan": 100.0})
    of = FeatureCosts.of(table, 2, ("scan", "age"))
    assert of.component_cost[3].tolist() == [100.0, 3.0]
    one = FeatureCosts.of(pd.DataFrame({"cost": [1.0, 2.0]}, ["age", "scan"]), 2, ("scan", "age"))
    assert one.group_cost.tolist() == [2.0, 1.0]
    forest = SMALL.fit(X, Y)
    shuffled = table.sample(frac=1, random_state=0)
    there, back = (budget_path(forest, X, Y, t).feature_costs.component_cost for t in (table, shuffled))
    assert np.array_equal(there, back)
    with pytest.raises(ValueError, match=r"rows are matched by their index; pass costs.loc\[X.index\]"):
        budget_path(forest, X, Y, table.set_axis(np.arange(200) + 7))


@pytest.mark.parametrize("kind", [BudgetedForestClassifier, BudgetedBoostingClassifier])
def test_skops_writes_and_reads_a_budgeted_model(kind: Any) -> None:
    io = pytest.importorskip("skops.io")
    model = kind(budget=1.5, random_state=0).fit(X, Y)
    data = io.dumps(model)
    again = io.loads(data, trusted=io.get_untrusted_types(data=data))
    assert np.array_equal(again.predict(X), model.predict(X))
    assert again.predict_on_demand(X).cost.mean() == model.predict_on_demand(X).cost.mean()
    if kind is BudgetedForestClassifier:
        assert again.solution_.status is model.solution_.status
        assert again.path_.points == model.path_.points


def test_a_monotonic_forest_is_not_refitted() -> None:
    forest = RandomForestClassifier(5, monotonic_cst=[1, 0])
    with pytest.raises(ValueError, match="monotonic_cst must be None where leaves are refitted"):
        BudgetedForestClassifier(forest, refit_leaves=True).fit(X, Y)
    with pytest.raises(ValueError, match="monotonic_cst"):
        refit_leaves(forest.fit(X, Y), X, Y)
    assert refit_leaves(RandomForestClassifier(5, monotonic_cst=[0, 0]).fit(X, Y), X, Y).ridge > 0


def test_a_budget_below_the_roots_warns() -> None:
    with pytest.warns(UserWarning, match=r"budget=30 buys nothing .* cost 100 or more"):
        model = BudgetedForestClassifier(SMALL, feature_costs=[100, 5], budget=30, random_state=0).fit(X.to_numpy(), Y)
    assert len(set(model.predict(X.to_numpy()))) == 1


def _same_labels(forest: Any) -> int:
    found = 0
    for tree in (t.tree_ for t in forest.estimators_):
        left, right, label = tree.children_left, tree.children_right, tree.value[:, 0].argmax(axis=1)
        for h in np.flatnonzero(left >= 0):
            leaves = left[left[h]] < 0 and left[right[h]] < 0
            found += bool(leaves and label[left[h]] == label[right[h]])
    return found


def test_splits_whose_leaves_say_the_same_go_at_penalty_0() -> None:
    rows, labels = make_classification(400, 8, n_informative=4, flip_y=0.1, random_state=0)
    forest = RandomForestClassifier(10, max_depth=6, random_state=0).fit(rows, labels)
    assert _same_labels(forest) > 0
    for errors in ("inbag", "oob"):
        path = budget_path(forest, rows, labels, None, errors=errors)
        pruned = path.at(penalty=0)
        assert _same_labels(pruned) == 0
        if errors == "inbag":
            for before, after in zip(forest.estimators_, pruned.estimators_, strict=True):
                assert np.array_equal(before.predict(rows), after.predict(rows))


class Resampling(RandomForestClassifier):  # type: ignore[misc]
    """As imbalanced-learn's balanced forest: the rows of its trees are unknown to scikit-learn."""

    samplers_ = ()


class Quantiles(RandomForestRegressor):  # type: ignore[misc]
    def predict(self, X: Any) -> Any:
        return super().predict(X) + 1.0


def test_forests_with_ways_of_their_own_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="errors must be 'holdout' for Resampling, got 'oob'"):
        budget_path(Resampling(5).fit(X, Y), X, Y, None, errors="oob")
    assert budget_path(Resampling(5).fit(X, Y), X, Y, None).points
    with pytest.raises(ValueError, match="Quantiles predicts in a way of its own"):
        budget_path(Quantiles(5).fit(X, Y), X, Y, None)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        ("rf", "got 'rf'; pass a forest, such as"),
        (make_pipeline(SMALL), "got Pipeline; pass its last step"),
        (GridSearchCV(SMALL, {}), "got GridSearchCV; pass a forest, and search over this estimator"),
        (HistGradientBoostingClassifier(), "boosted trees are added, not averaged"),
        (RandomForestClassifier, r"got the class RandomForestClassifier; pass RandomForestClassifier\(\)"),
        (FrozenEstimator(make_pipeline(SMALL)), "got Pipeline"),
    ],
)
def test_what_is_no_forest_is_refused_with_the_way_out(estimator: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BudgetedForestClassifier(estimator).fit(X, Y)


def test_frozen_and_searched_forests_are_refused_by_the_path() -> None:
    with pytest.raises(ValueError, match=r"pass frozen.estimator"):
        budget_path(FrozenEstimator(SMALL.fit(X, Y)), X, Y, None)
    search = GridSearchCV(SMALL, {"max_depth": [2]}, cv=2).fit(X, Y)
    with pytest.raises(ValueError, match=r"pass search.best_estimator_"):
        budget_path(search, X, Y, None)


class Calibrated(RandomForestClassifier):  # type: ignore[misc]
    """As forests do that correct their probabilities."""

    def predict_proba(self, X: Any) -> Any:
        return np.sqrt(super().predict_proba(X))


@pytest.mark.parametrize("kind", [Quantiles, Calibrated])
def test_forests_with_predictions_of_their_own_are_refused_by_name(kind: Any) -> None:
    forest = kind(3, max_depth=2).fit(X, Y)
    message = f"predict as scikit-learn's forests do, got {kind.__name__}"
    for refused in (lambda: budget_path(forest, X, Y, None), lambda: refit_leaves(forest, X, Y)):
        with pytest.raises(ValueError, match=message):
            refused()


def test_infinite_budgets_and_missing_values_of_pandas() -> None:
    for kind in (BudgetedForestClassifier, BudgetedBoostingClassifier):
        with pytest.raises(ValueError, match="budget must be a finite number >= 0, got inf; None sets no limit"):
            kind(budget=float("inf")).fit(X, Y)
    nullable = X.astype("Float64")
    nullable.iloc[0, 0] = pd.NA
    model = BudgetedForestClassifier(SMALL, budget=1.5, random_state=0).fit(nullable, Y)
    assert len(model.predict(nullable)) == 200
    assert budget_path(RandomForestClassifier(5).fit(nullable, Y), nullable, Y, None).points


def test_values_that_float32_merges_are_named() -> None:
    seconds = X.assign(scan=1.6e9 + np.arange(200))
    with pytest.warns(UserWarning, match=r"200 values of column 'scan' are \d+ as float32"):
        BudgetedForestClassifier(SMALL, random_state=0).fit(seconds, Y)


def test_rare_labels_are_chosen_for_or_the_user_is_told() -> None:
    random = np.random.default_rng(3)
    rows = random.normal(size=(3000, 4))
    rare = (random.random(3000) < 1 / (1 + np.exp(-(2.2 * rows[:, 0] + 1.2 * rows[:, 1] - 6)))).astype(int)
    assert 0.015 < rare.mean() < 0.03
    small = RandomForestClassifier(10, max_depth=5, max_features=None)
    with pytest.warns(UserWarning, match='a label is rare; pass loss="gini", or take BudgetedClassifier'):
        model = BudgetedForestClassifier(small, random_state=0).fit(rows[:2000], rare[:2000])
    assert model.expected_cost_ == 0
    soft = BudgetedForestClassifier(small, loss="gini", random_state=0).fit(rows[:2000], rare[:2000])
    assert 0 < soft.expected_cost_ < 3
    assert roc_auc_score(rare[2000:], soft.predict_proba(rows[2000:])[:, 1]) > 0.8


def test_what_says_which_class_is_no_number_of_numpy() -> None:
    for kind in (BudgetedClassifier, BudgetedBoostingClassifier):
        with pytest.raises(ValueError, match="y must hold two classes or more, got one class only, 'a'"):
            kind().fit(X, np.array(["a"] * len(X)))
    with pytest.raises(
        ValueError, match="class_weight must be 'balanced' or a mapping from labels to weights, got 'zz'"
    ):
        BudgetedClassifier(class_weight="zz").fit(X, Y)
    with pytest.raises(ValueError, match="a label in class_weight must be one of 0, 1, got 2"):
        BudgetedClassifier(class_weight={2: 1}).fit(X, Y)


def test_training_rows_given_as_held_out_warn() -> None:
    rows, y = make_classification(120, 4, random_state=0)
    forests = [
        RandomForestClassifier(4, random_state=0),
        ExtraTreesClassifier(4, random_state=0),
        BaggingClassifier(n_estimators=4, random_state=0),
        DecisionTreeClassifier(random_state=0),
    ]
    for forest in forests:
        forest.fit(rows[:80], y[:80])
        with pytest.warns(UserWarning, match='X holds the rows that the forest was fitted on, with errors="holdout"'):
            budget_path(forest, rows[:80], y[:80], None)
        with pytest.warns(UserWarning, match="pass rows that it has not seen"):
            size_path(forest, rows[:80], y[:80])
        for part in (slice(40), slice(40, 120), slice(80, 120)):
            assert budget_path(forest, rows[part], y[part], None).points
        if getattr(forest, "bootstrap", False):
            assert budget_path(forest, rows[:80], y[:80], None, errors="oob").points
