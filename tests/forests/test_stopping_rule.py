"""Stopping a vote early: the rule against enumeration, the walk against the rule, labels and costs on rows not seen."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.special import comb
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.model_selection import train_test_split

from prunopt.forests import (
    BudgetedClassifier,
    BudgetedForestClassifier,
    BudgetedForestRegressor,
    predict_on_demand,
    probable_stopping,
)
from prunopt.forests.stopping_rule import VoteTotals, _rule, _solved, _states, votes_of_training
from prunopt.problems.forest.feature_costs import FeatureCosts


def reached(answer: Any, prior: Any, label: Any, step: Any) -> tuple[float, float]:
    """Disagreement and cost of a rule by enumerating every order of votes."""
    T = len(step)
    wrong = cost = 0.0
    for votes in product((0, 1), repeat=T):
        total = sum(votes)
        chance = prior[total] / comb(T, total)
        n = k = 0
        while n < T and answer[n, k] < 0:
            cost += chance * step[n]
            k += votes[n]
            n += 1
        if n < T:
            wrong += chance * (1 - label[total] if answer[n, k] == 1 else label[total])
    return wrong, cost


def test_the_dynamic_program_is_the_best_rule_by_enumeration() -> None:
    random = np.random.default_rng(0)
    T = 3
    prior, step = random.dirichlet(np.ones(T + 1)), random.random(T)
    label = np.array([0.0, 0.1, 0.8, 1.0])
    states = _states(prior, label)
    cells = [(n, k) for n in range(T) for k in range(n + 1)]
    for price in (0.5, 2.0, 8.0):
        found = _rule(states, step, price)
        wrong, cost = reached(found.answer, prior, label, step)
        assert (found.disagreement, found.expected_cost) == pytest.approx((wrong, cost))
        best = np.inf
        for choice in product((-1, 0, 1), repeat=len(cells)):
            answer = np.full((T + 1, T + 1), -1)
            for cell, value in zip(cells, choice, strict=True):
                answer[cell] = value
            other, spent = reached(answer, prior, label, step)
            best = min(best, price * other + spent)
        assert price * wrong + cost == pytest.approx(best)


def test_the_disagreement_is_kept() -> None:
    prior = np.full(22, 1 / 22)
    label = (np.arange(22) > 10.5).astype(float)
    before = np.inf
    for share in (0.0, 0.001, 0.01, 0.1):
        rule = _solved(prior, label, np.ones(21), share)
        assert rule.disagreement <= share
        assert rule.expected_trees < before
        before = rule.expected_trees


@pytest.fixture(scope="module")
def case() -> tuple[Any, Any, Any]:
    X, y = load_breast_cancer(return_X_y=True)
    rest, new, labels, _ = train_test_split(X, y, test_size=0.4, random_state=0)
    grown, other, labels, _ = train_test_split(rest, labels, test_size=0.33, random_state=0)
    return RandomForestClassifier(51, random_state=0).fit(grown, labels), other, new


def test_few_labels_change_and_less_is_acquired(case: tuple[Any, Any, Any]) -> None:
    forest, other, new = case
    rule = probable_stopping(forest, other, disagreement=0.005)
    assert rule.disagreement <= 0.005
    whole = predict_on_demand(forest, new, feature_costs=None)
    certain = predict_on_demand(forest, new, feature_costs=None, stop_early=True)
    probable = predict_on_demand(forest, new, feature_costs=None, stop_early=rule)
    assert np.mean(probable.predictions != whole.predictions) <= 0.02
    assert probable.cost.mean() < certain.cost.mean() < whole.cost.mean()
    assert not np.any(probable.acquired & ~whole.acquired)
    votes = np.stack([tree.predict(new) for tree in forest.estimators_], axis=1).astype(np.int64)
    trees, answers = rule.stops(votes)
    assert trees.mean() < 25
    said = np.where(answers >= 0, answers, whole.predictions)
    # A row whose label cannot change any more stops before the rule does.
    assert np.all((said == probable.predictions) | (whole.predictions == probable.predictions))
    assert np.mean(said == probable.predictions) > 0.98
    assert not np.any(probable.acquired & ~certain.acquired)


def test_a_function_is_asked_for_the_same(case: tuple[Any, Any, Any]) -> None:
    forest, other, new = case
    rule = probable_stopping(forest, other, disagreement=0.01)
    known = predict_on_demand(forest, new[:20], feature_costs=None, stop_early=rule)
    for batch in (False, True):
        asked = predict_on_demand(
            forest, lambda row, group: new[row, group], feature_costs=None, n_rows=20, stop_early=rule, batch=batch
        )
        assert np.array_equal(asked.predictions, known.predictions)
        assert np.array_equal(asked.acquired, known.acquired)


def test_what_cannot_be_stopped(case: tuple[Any, Any, Any]) -> None:
    forest, other, new = case
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="forest must tell two classes apart, got 3 classes"):
        probable_stopping(RandomForestClassifier(3, random_state=0).fit(X, y), X)
    with pytest.raises(ValueError, match="forest must tell two classes apart, got a regressor"):
        probable_stopping(RandomForestRegressor(3, random_state=0).fit(X, y), X)
    with pytest.raises(ValueError, match="disagreement must be"):
        probable_stopping(forest, other, disagreement=2)
    with pytest.raises(ValueError, match="stop_early must be True, False, \"probable\" or a StoppingRule, got 'maybe'"):
        predict_on_demand(forest, new, feature_costs=None, stop_early="maybe")
    with pytest.raises(ValueError, match=r"disagreement must be None unless labels may change, got 0.01; give it with"):
        predict_on_demand(forest, new, feature_costs=None, disagreement=0.01)
    three = RandomForestClassifier(3, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="forest must tell two classes apart, got 3 classes"):
        predict_on_demand(three, X, feature_costs=None, stop_early="probable")
    models: list[Any] = [BudgetedForestClassifier(random_state=0), BudgetedForestRegressor(random_state=0)]
    for model in models:
        with pytest.raises(
            ValueError, match="stop_early must be True or False for this model, got 'probable'; it stops"
        ):
            model.fit(X, y).predict_on_demand(X, stop_early="probable", disagreement=0.01)
    small = RandomForestClassifier(5, random_state=0).fit(other, np.arange(len(other)) % 2)
    with pytest.raises(ValueError, match="stop_early must be a rule for 5 trees"):
        predict_on_demand(small, new, feature_costs=None, stop_early=probable_stopping(forest, other))


@pytest.mark.parametrize("share", [0.001, 0.02])
def test_probable_by_name_where_no_row_is_known(case: tuple[Any, Any, Any], share: float) -> None:
    forest, _, new = case
    costs = np.arange(30) + 1.0
    whole, certain, probable = (
        predict_on_demand(forest, new, feature_costs=costs, **how)
        for how in ({}, {"stop_early": True}, {"stop_early": "probable", "disagreement": share})
    )
    assert np.mean(probable.predictions != whole.predictions) <= share + 0.01
    assert probable.cost.mean() < certain.cost.mean() < whole.cost.mean()
    asked = predict_on_demand(
        forest, lambda row, group: new[row, group], feature_costs=costs, n_rows=20, stop_early="probable",
        disagreement=share,
    )  # fmt: skip
    assert np.array_equal(asked.acquired, probable.acquired[:20])
    totals = VoteTotals.unknown(forest, FeatureCosts.of(costs, 30, None, None, None))
    assert totals.prior == pytest.approx(1 / 52)
    assert totals.step.sum() == pytest.approx(costs.sum(), rel=0.05)  # every tree together asks for nearly everything


def test_steps_add_up_to_what_rows_pay(case: tuple[Any, Any, Any]) -> None:
    forest, other, _ = case
    costs = FeatureCosts.of(np.arange(30) + 1.0, 30, None, None, [0, 3])
    totals = VoteTotals.seen(forest, other, costs)
    paid = predict_on_demand(forest, other, feature_costs=costs).cost.mean()
    assert totals.step.sum() == pytest.approx(paid, rel=1e-3)


@pytest.mark.parametrize("kind", ["pruned", "held out", "chosen"])
def test_estimators_stop_by_the_votes_that_they_were_judged_by(kind: str) -> None:
    changed, cost = [], []
    for seed in range(4):
        X, y = load_breast_cancer(return_X_y=True)
        X, new, y, _ = train_test_split(X, y, test_size=0.5, random_state=seed)
        kinds: dict[str, Any] = {
            "pruned": BudgetedForestClassifier(penalty=1e-4, random_state=0),
            "held out": BudgetedForestClassifier(penalty=1e-4, errors="holdout", random_state=0),
            "chosen": BudgetedClassifier(candidates=("features",), cv=(2, 1), n_trees=40, random_state=0),
        }
        model = kinds[kind].fit(X, y)
        assert isinstance(model.votes_, VoteTotals)
        found = [model.predict_on_demand(new, **how) for how in ({}, {"stop_early": True})]
        found.append(model.predict_on_demand(new, stop_early="probable", disagreement=0.005))
        changed.append(np.mean(found[2].predictions != found[0].predictions))
        cost.append([answer.cost.mean() for answer in found])
    assert np.mean(changed) <= 0.005 + 0.003  # 1140 rows: within a standard error and a half
    assert np.mean(cost, axis=0)[2] < np.mean(cost, axis=0)[1] <= np.mean(cost, axis=0)[0]


def test_votes_out_of_bag_are_spread_by_how_few_they_are() -> None:
    X, y = load_breast_cancer(return_X_y=True)
    costs = FeatureCosts.of(None, 30, None, None, None)
    forest = RandomForestClassifier(15, random_state=0).fit(X, y)
    bag, all_trees = votes_of_training(forest, X, costs), VoteTotals.seen(forest, X, costs)
    assert bag is not None
    assert bag.prior.sum() == pytest.approx(1)
    assert bag.prior[4:12].sum() > 2 * all_trees.prior[4:12].sum()  # votes in the bag are more united than they will be
    assert votes_of_training(RandomForestRegressor(3).fit(X, y), X, costs) is None
