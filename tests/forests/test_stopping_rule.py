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

from prunopt.forests import predict_on_demand, probable_stopping
from prunopt.forests.stopping_rule import _rule, _solved, _states


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
    assert np.array_equal(said, probable.predictions)


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
    with pytest.raises(ValueError, match="stop_early must be True, False or a StoppingRule, got 'probable'"):
        predict_on_demand(forest, new, feature_costs=None, stop_early="probable")  # type: ignore[arg-type]
    small = RandomForestClassifier(5, random_state=0).fit(other, np.arange(len(other)) % 2)
    with pytest.raises(ValueError, match="stop_early must be a rule for 5 trees"):
        predict_on_demand(small, new, feature_costs=None, stop_early=probable_stopping(forest, other))
