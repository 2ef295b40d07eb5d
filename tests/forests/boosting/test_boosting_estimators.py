"""BudgetedBoostingClassifier and BudgetedBoostingRegressor."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.utils.estimator_checks import parametrize_with_checks

from prunopt.core.arrays import Floats
from prunopt.core.solution import Status
from prunopt.forests.boosting import BudgetedBoostingClassifier, BudgetedBoostingRegressor
from prunopt.forests.boosting.estimators import _BudgetedBoosting
from prunopt.forests.boosting.policy_search import Proposal
from prunopt.forests.boosting.recipe import Candidate, within

COSTS = np.array([4.0, 4.0, 1.0, 2.0, 8.0, 0.5])
WEIGHTS = (
    "a weight repeats no row: rows are split at random, and each is counted once by the bins and the least leaf size"
)
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": WEIGHTS,
    "check_sample_weight_equivalence_on_sparse_data": WEIGHTS,
}


def quick(kind: type = BudgetedBoostingClassifier, **options: Any) -> Any:
    return kind(**{"feature_costs": COSTS, "n_free_trees": 12, "n_penalties": 5, "random_state": 0, **options})


def table(n: int = 450, classes: int = 2, seed: int = 0) -> tuple[Floats, NDArray[Any]]:
    """Feature 2, cheap, decides where it is far from 0, else feature 0 does; a few values are missing."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6))
    score = np.where(np.abs(X[:, 2]) > 0.7, 2 * X[:, 2], X[:, 0]) + 0.1 * rng.normal(size=n)
    X[rng.random((n, 6)) < 0.02] = np.nan
    labels = np.array(["no", "yes", "maybe", "never"])
    return X, labels[np.digitize(score, np.quantile(score, np.arange(1, classes) / classes))]


@pytest.fixture(scope="module")
def fitted() -> Any:
    return quick(budgets=[1.0, 3.0, 6.0, 19.5]).fit(*table())


@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [
        kind(n_free_trees=4, n_penalties=2, budgets=[100.0], random_state=0)
        for kind in (BudgetedBoostingClassifier, BudgetedBoostingRegressor)
    ],
    expected_failed_checks=lambda estimator: EXPECTED,
)
def test_scikit_learn(estimator: _BudgetedBoosting, check: Any) -> None:
    check(estimator)


def test_one_fit_gives_a_curve(fitted: Any) -> None:
    X, y = table(2000, seed=1)
    accuracy = []
    for budget in (1.0, 3.0, 6.0, 19.5):
        model = fitted.at(budget)
        answer = model.on_demand(X, None)
        assert model.expected_cost <= budget * (1 + 1e-6)
        assert answer.cost.mean() <= 1.1 * budget
        accuracy.append(np.mean(answer.predictions == y))
    assert 0.65 < accuracy[0] < 0.8  # the cheap feature alone
    assert accuracy[1] > 0.85  # and the costly one for the half of the rows that needs it
    assert fitted.at(5.0) is fitted.at(3.0)
    costs = [c.expected_cost for c in fitted.candidates_]
    assert costs == sorted(costs)
    assert costs[0] == 0.0
    assert costs[-1] == pytest.approx(19.5)


def test_a_budget_of_nothing_predicts_the_majority() -> None:
    X, y = table()
    y[:300] = "no"
    model = quick(budget=0.0).fit(X, y)
    assert set(model.predict(X)) == {"no"}
    assert model.expected_cost_ == 0.0
    assert model.predict_on_demand(X).cost.sum() == 0.0


def test_features_that_cost_nothing_are_used_at_a_budget_of_nothing() -> None:
    X, y = table()
    model = quick(budget=0.0, feature_costs=np.where(np.arange(6) < 3, 0.0, 1.0)).fit(X, y)
    assert np.mean(model.predict(X) == y) > 0.8
    answer = model.predict_on_demand(X)
    assert answer.acquired[:, :3].all()
    assert not answer.acquired[:, 3:].any()
    assert answer.cost.sum() == 0.0


@pytest.mark.parametrize("classes", [2, 4])
def test_asking_gives_what_knowing_gives(classes: int) -> None:
    X, y = table(classes=classes)
    model = quick(budget=6.0).fit(X, y)
    known = model.predict_on_demand(X)
    asked: list[tuple[int, int]] = []

    def acquire(row: int, group: int) -> float:
        asked.append((row, group))
        return float(X[row, group])

    answer = model.predict_on_demand(acquire, n_rows=60)
    assert np.array_equal(answer.predictions, model.predict(X)[:60])
    assert np.array_equal(answer.acquired, known.acquired[:60])
    assert np.array_equal(answer.cost, known.cost[:60])
    assert np.allclose(answer.cost, answer.acquired @ COSTS)
    assert len(asked) == len(set(asked)) == answer.acquired.sum()
    assert 0 < answer.acquired.mean() < 1


def test_what_is_not_bought_is_not_read(fitted: Any) -> None:
    X, _ = table()
    model = fitted.at(6.0)
    acquired = model.on_demand(X, None).acquired
    spoiled = np.where(acquired, X, 1e6)
    assert np.array_equal(model.values(X), model.values(spoiled))
    assert not acquired.all(axis=0).all()


def test_groups_come_together_and_answers_may_be_lists_or_mappings() -> None:
    X, y = table()
    model = quick(feature_costs=[5.0, 1.0, 2.0, 1.0], feature_groups=[[0, 1], [2], [3], [4, 5]], budget=6.5).fit(X, y)
    known = model.predict_on_demand(X)
    assert np.array_equal(known.acquired[:, 0], known.acquired[:, 1])
    members = [np.flatnonzero(model.feature_costs_.group_of == g) for g in range(4)]
    a = model.predict_on_demand(lambda i, g: X[i, members[g]], n_rows=20)
    b = model.predict_on_demand(lambda i, g: {f"x{k}": X[i, k] for k in members[g]}, n_rows=20)
    for answer in (a, b):
        assert np.array_equal(answer.predictions, known.predictions[:20])
        assert np.array_equal(answer.cost, known.cost[:20])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1.0, 2.0], "got 2 value"),
        ("high", "return a number"),
        (np.inf, "finite"),
        ({"y": 1.0}, "one value for each"),
        (None, "return a number"),
    ],
)
def test_bad_answers_are_named(fitted: Any, answer: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted.predict_on_demand(lambda i, g: answer, n_rows=3)


def test_the_certificate_is_recomputed_and_says_what_it_is_about() -> None:
    X, y = table(900)
    model = quick(budgets=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0]).fit(X, y)
    proven = [m.solution for _, m in model.path_ if m.solution is not None]
    assert proven, "no model of the ladder came from a pruning path"
    for solution in proven:
        assert solution.status is Status.OPTIMAL
        assert solution.bound == pytest.approx(solution.objective, abs=1e-9)
        assert solution.objective <= 0.0
        assert "surrogate" in solution.message


def test_regression() -> None:
    X, _ = table(900)
    known = np.nan_to_num(X)
    y = 1000.0 + 100.0 * np.where(np.abs(known[:, 2]) > 0.7, 2 * known[:, 2], known[:, 0])
    model = quick(BudgetedBoostingRegressor, budgets=[1.0, 6.0, 19.5]).fit(X[:600], y[:600])
    scores = []
    for budget in (1.0, 6.0, 19.5):
        answer = model.at(budget).on_demand(X[600:], None)
        assert answer.cost.mean() <= 1.15 * budget
        scores.append(1 - np.mean((answer.predictions - y[600:]) ** 2) / y[600:].var())
    assert 0.4 < scores[0] < 0.88
    assert min(scores[1:]) > 0.9
    assert model.score(X[600:], y[600:]) == pytest.approx(scores[2])


def test_without_free_trees_the_policy_predicts() -> None:
    X, y = table()
    model = quick(n_free_trees=0, budget=6.0).fit(X, y)
    assert model.model_.blend.extra is None
    assert model.model_.blend.boosted is None
    assert np.mean(model.predict(*table(1000, seed=5)[:1]) == table(1000, seed=5)[1]) > 0.75


def test_data_frames_name_costs_and_answers() -> None:
    pandas = pytest.importorskip("pandas")
    X, y = table()
    frame = pandas.DataFrame(X, columns=list("abcdef"))
    costs = dict(zip("abcdef", COSTS, strict=True))
    model = quick(feature_costs=costs, budget=6.0).fit(frame, y)
    plain = quick(budget=6.0).fit(X, y)
    assert np.array_equal(model.predict(frame), plain.predict(X))
    asked = model.predict_on_demand(lambda i, g: {"abcdef"[g]: X[i, g]}, n_rows=5)
    assert np.array_equal(asked.predictions, plain.predict(X)[:5])
    with pytest.raises(ValueError, match="must name features"):
        quick(feature_costs={**costs, "z": 1.0}).fit(frame, y)


def test_the_same_seed_gives_the_same_model_and_it_survives_pickling() -> None:
    X, y = table()
    model = quick(budget=5.0).fit(X, y)
    again = clone(model).set_params(n_jobs=2).fit(X, y)
    assert np.array_equal(model.predict_proba(X), again.predict_proba(X))
    copy = pickle.loads(pickle.dumps(model))
    assert np.array_equal(copy.predict_proba(X), model.predict_proba(X))
    assert copy.predict_on_demand(X).cost.sum() == model.predict_on_demand(X).cost.sum()


def test_validation_rows_can_be_named() -> None:
    X, y = table()
    mask = np.arange(450) >= 300
    model = quick(budget=6.0).fit(X, y, validation_rows=mask)
    assert model.expected_cost_ == pytest.approx(model.predict_on_demand(X[mask]).cost.mean())
    with pytest.raises(ValueError, match="validation_rows"):
        quick().fit(X, y, validation_rows=np.ones(450, bool))
    with pytest.raises(ValueError, match="validation_rows"):
        quick().fit(X, y, validation_rows=[1, 2])


def test_the_choice_takes_the_best_of_those_that_cost_about_as_much() -> None:
    rng = np.random.default_rng(0)

    def candidate(cost: float, utility: float, noise: float = 0.5) -> Candidate:
        proposal: Any = Proposal(None, "", None, cost, 0.0)  # type: ignore[arg-type]
        rows = rng.normal(size=200)
        rows = utility + noise * (rows - rows.mean()) / rows.std()
        return Candidate(cost, utility, 0.0, rows, 1.0, proposal)

    every = [candidate(c, u) for c, u in ((0, 0.5), (4, 0.82), (7, 0.7), (9, 0.8), (10, 0.75), (12, 0.95))]
    assert within(every, 10.0).cost == 9  # not 4, which is cheap and lucky; not 12, which is too costly
    assert within(every, 3.0).cost == 0
    assert within(every, 12.0).cost == 12
    assert within([*every, candidate(2, 1.5)], 10.0).cost == 2  # cheap and certainly better


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": -1.0}, "budget must be a finite number >= 0, got -1.0"),
        ({"budget": float("nan")}, "budget must be a finite number >= 0.*, got nan"),
        ({"budgets": []}, "budgets"),
        ({"budgets": [1.0, -2.0]}, "budgets"),
        ({"n_free_trees": -1}, "n_free_trees must be a whole number >= 0, got -1"),
        ({"n_free_trees": 2.5}, "n_free_trees must be a whole number >= 0, got 2.5"),
        ({"n_penalties": 0}, "n_penalties must be a whole number >= 1, got 0"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"profits": "test"}, "profits"),
        ({"max_bins": 300}, "max_bins must be a whole number .*, got 300"),
        ({"feature_costs": [1.0]}, "feature_costs"),
    ],
)
def test_bad_parameters_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick(**options).fit(*table())


def test_budgets_below_all_models_and_bad_rows_are_named(fitted: Any) -> None:
    with pytest.raises(ValueError, match=r"must be at least 1, got 0\.5"):
        fitted.at(0.5)
    with pytest.raises(ValueError, match="budget must be a number >= 0, got -1"):
        fitted.at(-1)
    with pytest.raises(ValueError, match="n_rows"):
        fitted.predict_on_demand(lambda i, g: 1.0)
    with pytest.raises(ValueError, match="one class"):
        quick().fit(table()[0], np.zeros(450))
    with pytest.raises(ValueError, match="infinity"):
        fitted.predict(np.full((1, 6), np.inf))


def test_two_models_mixed_cost_the_budget() -> None:
    X, y = load_breast_cancer(return_X_y=True)
    options: dict[str, Any] = {"n_free_trees": 6, "n_penalties": 3, "random_state": 0}
    model = BudgetedBoostingClassifier(budget=1.5, randomised=True, **options).fit(X, y)
    mixed = model.mixture_
    assert mixed.cheaper.expected_cost <= 1.5 < mixed.costlier.expected_cost
    assert model.expected_cost_ == pytest.approx(1.5, rel=1e-12)
    labels, acquired, cost = model.predict_on_demand(X)
    assert np.array_equal(labels, model.predict(X))
    assert np.array_equal(model.predict(X), model.predict(X))
    assert np.array_equal(model.classes_[model.predict_proba(X).argmax(axis=1)], labels)
    coin = mixed.coins(len(X), 0)
    assert np.array_equal(cost[coin], mixed.costlier.on_demand(X, None).cost[coin])
    assert np.array_equal(cost[~coin], mixed.cheaper.on_demand(X, None).cost[~coin])
    asked = model.predict_on_demand(lambda i, g: X[i, g], n_rows=40)
    assert np.array_equal(asked.acquired, acquired[:40])
    many = model.predict_on_demand(lambda rows, g: X[rows, g], n_rows=40, batch=True)
    assert np.array_equal(many.acquisitions.turn, asked.acquisitions.turn)
    with pytest.raises(ValueError, match="budget must be given with randomised=True"):
        BudgetedBoostingClassifier(randomised=True).fit(X, y)
