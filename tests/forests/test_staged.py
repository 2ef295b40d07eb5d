"""Stages of features, what candidates are chosen by, and limits for rows and models."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from prunopt.forests import BudgetedClassifier, BudgetedRegressor
from prunopt.forests.scoring import Scoring, scoring_of
from prunopt.forests.staged import Logistic, StagedModel, policies
from prunopt.forests.subset_search import RIDGE, SubsetSearch, _columns
from prunopt.problems.forest.feature_costs import FeatureCosts

RNG = np.random.default_rng(0)
X = pd.DataFrame(RNG.normal(size=(160, 4)), columns=["scan", "lab", "age", "noise"])
Y = np.where(1.5 * X.age + X.lab + 0.8 * X.scan > 0, "ill", "well")
COSTS = {"noise": 2.0, "age": 1.0, "lab": 10.0, "scan": 100.0}
QUICK: dict[str, Any] = {"feature_costs": COSTS, "cv": (3, 1), "n_trees": 20, "random_state": 0}


@pytest.fixture(scope="module")
def staged() -> Any:
    return BudgetedClassifier(budget=40, candidates=("staged",), **QUICK).fit(X, Y)


def test_rows_in_doubt_go_on(staged: Any) -> None:
    model = staged.model_
    assert isinstance(model, StagedModel)
    assert len(model.stages) > 1
    answer = staged.predict_on_demand(X)
    assert 0 < answer.cost.mean() <= 40 * 1.15
    assert np.array_equal(answer.cost, answer.acquired @ [COSTS[name] for name in X.columns])
    assert len(np.unique(answer.cost)) > 1
    assert np.array_equal(answer.predictions, staged.predict(X))
    # What is not acquired is not read, and rows stop exactly where their doubt is within the limit.
    hidden = pd.DataFrame(np.where(answer.acquired, X, np.nan), columns=X.columns)
    assert np.array_equal(staged.predict_proba(hidden), staged.predict_proba(X))
    doubt = 1 - model.stages[0].values(X.to_numpy()).max(axis=1)
    first = model.feature_costs.features(model.stages[0].groups)
    assert np.array_equal(answer.acquired[:, ~first].any(axis=1), doubt > model.limits[0])


def test_a_function_is_asked_stage_by_stage(staged: Any) -> None:
    rows = X.to_numpy()
    known = staged.predict_on_demand(X.iloc[:25])
    for batch in (False, True):
        asked = staged.predict_on_demand(lambda row, group: rows[row, group], n_rows=25, batch=batch)
        assert np.array_equal(asked.predictions, known.predictions)
        assert np.array_equal(asked.acquired, known.acquired)
    free = staged.predict_on_demand(X.iloc[:25], known=["age"])
    assert np.array_equal(free.predictions, known.predictions)
    assert np.allclose(known.cost - free.cost, known.acquired[:, 2])


def test_policies_by_enumeration() -> None:
    random = np.random.default_rng(1)
    sets = [np.array(s, np.bool_) for s in ([0, 0], [0, 1], [1, 0], [1, 1])]
    risk, utility, bill = random.random((3, 4, 30))
    found = policies(sets, risk, utility, bill, np.ones(30))
    assert {p.chain for p in found} == {
        (0,), (1,), (2,), (3,), (0, 1), (0, 2), (0, 3), (1, 3), (2, 3), (0, 1, 3), (0, 2, 3)
    }  # fmt: skip
    for policy in found:
        at = [next((k for k in policy.chain[:-1] if risk[k, i] <= policy.limit), policy.chain[-1]) for i in range(30)]
        assert policy.utility == pytest.approx(np.mean([utility[k, i] for i, k in enumerate(at)]))
        assert policy.cost == pytest.approx(np.mean([bill[k, i] for i, k in enumerate(at)]))


def test_logistic_is_that_of_scikit_learn() -> None:
    rows, code = X.to_numpy(), (Y == "well").astype(np.int64) + (X.noise > 1).to_numpy()
    mine = Logistic.fit(rows, code, np.ones(160), 4)
    scaled = np.clip((rows - rows.mean(axis=0)) / rows.std(axis=0), -4, 4)
    other = LogisticRegression(C=0.3, max_iter=200).fit(scaled, code).predict_proba(scaled)
    assert np.allclose(mine.values(rows)[:, :3], other)
    assert not mine.values(rows)[:, 3].any()
    assert np.isfinite(
        Logistic.fit(np.full((4, 1), np.nan), np.array([0, 1, 0, 1]), np.ones(4), 2).values(rows[:, :1])
    ).all()


def test_the_whole_has_every_candidate_of_its_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    # Folds are smaller than the limit for logistic regressions, all rows together are not.
    monkeypatch.setattr("prunopt.forests.recipes.LINEAR_ROWS", 60)
    rows, labels = X[:80].to_numpy(), np.where(X.age[:80] > 0, 1, 0)
    budgets = [1.0, 11.0, 40.0, 113.0]
    model = BudgetedClassifier(feature_costs=[2, 1, 10, 100], budgets=budgets, candidates=("staged",), cv=(3, 1),
                               n_trees=8, random_state=0).fit(rows, labels)  # fmt: skip
    assert "forest and logistic regression" not in {recipe.option for recipe in model.table_.recipes}
    assert set(model.path_) == set(budgets)


def test_a_set_of_its_own_for_every_bundle() -> None:
    costs = FeatureCosts.of([1.0, 1.0, 20.0, 30.0, 40.0], 5, None, None)
    rows = np.random.default_rng(1).normal(size=(120, 5))
    # The third feature is a worse reading of the fourth, and cheaper.
    rows[:, 2] = rows[:, 3] + np.random.default_rng(2).normal(size=120)
    code = (rows[:, 0] + 2 * rows[:, 3] + rows[:, 4] > 0).astype(np.int64)
    family = SubsetSearch(rows, code, np.ones(120), costs, 2, 0).family()
    spent = [float(costs.group_cost @ groups) for groups in family]
    assert spent == sorted(spent)
    assert {20.0, 30.0, 40.0} <= set(spent)


def test_forests_fill_what_their_errors_cannot_tell() -> None:
    random = np.random.default_rng(3)
    rows = random.normal(size=(300, 12))
    code = (rows[:, :3].sum(axis=1) > 0).astype(np.int64)
    costs = FeatureCosts.of(np.arange(1.0, 13.0), 12, None, None)
    search = SubsetSearch(rows, code, np.ones(300), costs, 2, 0, additive=False)
    assert search.within(78.0).all()
    assert search.family()[-1].all()
    for budget in (7.0, 20.0, 50.0):
        assert search.cost(search.within(budget)) <= budget
    assert search.within(20.0)[:3].all()


def test_mistakes_count_in_the_choice_of_stages() -> None:
    assert Scoring("accuracy", np.ones(2)).worth is None
    scoring = scoring_of(None, [[0, 4], [10, 0]], None, np.array(["a", "b"]), np.array([0, 1, 1]))
    assert scoring.worth == 7.0
    # Where a mistake costs less than any feature, no stage acquires a thing.
    model = BudgetedClassifier(feature_costs=[2, 1, 10, 100], misclassification_costs=[[0, 0.5], [0.5, 0]], cv=(3, 1),
                               candidates=("staged",), n_trees=8, random_state=0)  # fmt: skip
    with pytest.warns(UserWarning, match="for every row"):
        model.fit(X.to_numpy(), Y)
    assert model.cost_per_row(X.to_numpy()).max() == 0.0


def test_leave_one_out_is_leaving_one_out() -> None:
    rows, code, weight = X.to_numpy()[:40], (Y[:40] == "well").astype(np.int64), np.ones(40)
    costs = FeatureCosts.of(COSTS, 4, tuple(X.columns))
    search = SubsetSearch(rows, code, weight, costs, 2, 0)
    groups = np.array([True, True, False, False])
    basis = np.hstack([_columns(rows[:, k]) for k in (0, 1)])
    truth = np.eye(2)[code]
    error = 0.0
    for i in range(40):
        rest = np.arange(40) != i
        # The mean is kept: it is of all rows in closed form, so leave it in the ridge as a column without penalty.
        model = Ridge(alpha=RIDGE).fit(basis[rest], truth[rest])
        error += np.square(model.predict(basis[i : i + 1]) - truth[i]).sum() / 40
    assert search.error(groups) == pytest.approx(error, rel=0.02)


def test_few_groups_are_searched_exactly() -> None:
    code = (Y == "well").astype(np.int64)
    search = SubsetSearch(X.to_numpy(), code, np.ones(160), FeatureCosts.of(COSTS, 4, tuple(X.columns)), 2, 0)
    every = [np.array(choice, np.bool_) for choice in product((False, True), repeat=4)]
    for budget in (0, 2, 11, 102, 113):
        inside = [search.error(groups) for groups in every if search.cost(groups) <= budget]
        assert search.error(search.within(budget)) == pytest.approx(min(inside))


def test_scores_are_the_measures() -> None:
    y = np.random.default_rng(0).integers(0, 2, 80)
    chance = np.random.default_rng(1).random(80).round(1)
    values = np.stack([1 - chance, chance], axis=1)
    says = values.argmax(axis=1)

    def mean(name: str, costs: Any = None) -> float:
        return float(Scoring(name, np.ones(2), costs).of_rows(values, y)[0].mean())

    assert mean("accuracy") == np.mean(says == y)
    assert mean("balanced_accuracy") == pytest.approx(balanced_accuracy_score(y, says))
    assert mean("roc_auc") == pytest.approx(roc_auc_score(y, chance))
    right = np.clip(np.where(y == 1, chance, 1 - chance), 1e-4, 1)
    assert mean("neg_log_loss") == pytest.approx(np.log(right).mean())
    costs = np.array([[0.0, 3.0], [50.0, 0.0]])
    assert mean("misclassification_costs", costs) == pytest.approx(-costs[y, says].mean())


def test_mistakes_in_money() -> None:
    costly = {"ill": {"well": 5000.0}, "well": {"ill": 500.0}}
    new = pd.DataFrame(np.random.default_rng(5).normal(size=(800, 4)), columns=X.columns)
    truth = np.where(1.5 * new.age + new.lab + 0.8 * new.scan > 0, "ill", "well")
    model = BudgetedClassifier(misclassification_costs=costly, candidates=("staged",), **QUICK).fit(X, Y)
    plain = BudgetedClassifier(candidates=("staged",), **QUICK).fit(X, Y)

    def total(m: Any) -> float:
        answer = m.predict_on_demand(new)
        missed = np.where(answer.predictions == truth, 0, np.where(truth == "ill", 5000.0, 500.0))
        return float(missed.mean() + answer.cost.mean())

    assert total(model) < 0.9 * total(plain)
    cheap = BudgetedClassifier(misclassification_costs=[[0, 0.5], [0.5, 0]], candidates=("staged",), **QUICK)
    with pytest.warns(UserWarning, match="for every row"):  # no feature is worth half a unit
        assert cheap.fit(X, Y).cost_per_row(X).mean() == 0


def test_no_row_costs_more_than_its_cap() -> None:
    model = BudgetedClassifier(budget_per_row=12, **QUICK).fit(X, Y)
    assert model.cost_per_row(X).max() <= 12
    assert {r.kind for r in model.table_.recipes} <= {"default", "features", "staged"}
    with pytest.raises(ValueError, match="candidates must hold one of features, staged"):
        BudgetedClassifier(budget_per_row=12, candidates=("boosted",), **QUICK).fit(X, Y)


def test_a_feature_is_paid_for_once() -> None:
    model = BudgetedClassifier(budget=20, cost_scope="model", **QUICK).fit(X, Y)
    assert model.expected_cost_ <= 20
    used = X.columns[model.feature_costs_.features(model.model_.used)]
    assert sum(COSTS[name] for name in used) <= 20


def test_rare_labels_are_not_given_up() -> None:
    random = np.random.default_rng(3)
    rows = random.normal(size=(1200, 4))
    rare = (rows[:, 0] + 0.7 * rows[:, 1] + 0.5 * random.normal(size=1200) > 2.8).astype(int)
    assert 0.005 < rare.mean() < 0.03
    model = BudgetedClassifier(cv=(3, 1), n_trees=30, candidates=("features", "staged"), random_state=0).fit(rows, rare)
    assert model.scoring_.name == "roc_auc"
    assert roc_auc_score(rare, model.predict_proba(rows)[:, 1]) > 0.9
    assert model.cost_per_row(rows).mean() <= 2.5
    assert model.comparison_.difference > -0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scoring": "acc"}, "scoring must be one of"),
        ({"scoring": "accuracy", "misclassification_costs": [[0, 1], [1, 0]]}, "scoring must be None with"),
        ({"misclassification_costs": [[0, 1], [1, 2]]}, "must have zeros on the diagonal, got 2"),
        ({"misclassification_costs": [[0, 1, 1]]}, "misclassification_costs must"),
        ({"misclassification_costs": [[0, -1], [1, 0]]}, "misclassification_costs must"),
        ({"misclassification_costs": {"ill": {"sick": 1}}}, "must be one of 'ill', 'well', got 'sick'"),
        (
            {"misclassification_costs": {"ill": {"well": 500}}},
            "misclassification_costs must hold the cost of saying 'ill' for 'well', got none; a pair that is left out",
        ),
        ({"misclassification_costs": {"ill": {"well": "much"}}}, "must be a finite number >= 0, got 'much'"),
        ({"class_weight": "even"}, "class_weight must be 'balanced' or a mapping"),
        ({"budget_per_row": -1}, "budget_per_row must be a finite number >= 0"),
        ({"cost_scope": "forest"}, "cost_scope must be one of 'row', 'model'"),
    ],
)
def test_bad_parameters(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BudgetedClassifier(**change).fit(X, Y)


def test_numbers_have_no_classes() -> None:
    with pytest.raises(ValueError, match="class_weight must be None for numbers"):
        BudgetedRegressor(class_weight="balanced").fit(X, X.scan)


def test_balanced_weights() -> None:
    code = np.repeat([0, 1], [90, 10])
    classes = np.array(["a", "b"])
    assert np.allclose(scoring_of(None, None, "balanced", classes, code).class_weight, [100 / 180, 5])
    assert np.allclose(scoring_of("balanced_accuracy", None, None, classes, code).class_weight, [100 / 180, 5])
    assert np.allclose(scoring_of(None, None, {"a": 1, "b": 3}, classes, code).class_weight, [1, 3])
