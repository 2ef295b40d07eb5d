"""The grower: acquisitions, costs, missing values, bins, pruning paths, refit."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from prunopt.core.arrays import Floats
from prunopt.forests.boosting import BudgetedTrees, grow_budgeted_forest
from prunopt.forests.boosting.binning import QuantileBins
from prunopt.forests.boosting.cost_efficient_boosting import Problem, Shape, boost, largest_penalty
from prunopt.forests.boosting.losses import Classification, Loss, Squares
from prunopt.forests.boosting.predictors import refitted
from prunopt.forests.boosting.surrogate_path import surrogate_closure, surrogate_path, surrogate_profits
from prunopt.forests.boosting.trees import GrownForest
from prunopt.problems.forest.feature_costs import FeatureCosts


def rows(n: int = 400, K: int = 5, classes: int = 2, seed: int = 0) -> tuple[Floats, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, K))
    score = X[:, 0] + 0.8 * X[:, 1] * (X[:, 2] > 0) + 0.3 * rng.normal(size=n)
    return X, np.digitize(score, np.quantile(score, np.arange(1, classes) / classes))


def problem(classes: int = 2, seed: int = 0, costs: Any = (1, 2, 3, 4, 5), loss: Loss | None = None) -> Problem:
    X, y = rows(classes=classes, seed=seed)
    bins = QuantileBins.of(X, 32)
    target = y.astype(np.float64) if loss is None else X[:, 0] + X[:, 1]
    given = FeatureCosts.of(np.array(costs, np.float64), 5)
    return Problem(bins(X), target, np.ones(len(y)), given, loss or Classification(classes), bins.n_codes)


def walk(forest: GrownForest, row: NDArray[np.uint8], keep: NDArray[np.bool_] | None = None) -> tuple[Floats, set[int]]:
    """Score and tested features of one row, the slow way."""
    score, tested = forest.base.copy(), set()
    for root in forest.offsets[:-1]:
        h = int(root)
        while forest.feature[h] >= 0 and (keep is None or keep[h]):
            k = int(forest.feature[h])
            tested.add(k)
            left = bool(forest.missing_left[h]) if row[k] == 0 else row[k] <= forest.code[h]
            h = int(forest.left[h] if left else forest.right[h])
        score += forest.value[h]
    return score, tested


# Bins.


def test_bins_split_as_their_edges_say() -> None:
    X = np.array([[1.0], [2.0], [2.0], [5.0], [np.nan]])
    bins = QuantileBins.of(X, 16)
    assert bins(X)[:, 0].tolist() == [1, 2, 2, 3, 0]
    assert [bins.encode(0, v) for v in (1.5, 1.6, 99.0, np.nan)] == [1, 2, 3, 0]


def test_many_values_make_no_more_bins_than_asked() -> None:
    X = np.random.default_rng(0).normal(size=(5000, 1))
    codes = QuantileBins.of(X, 10)(X)
    assert codes.min() == 1
    assert codes.max() == 10
    assert np.bincount(codes[:, 0])[1:].min() > 400


def test_a_column_of_missing_values_and_a_constant_one_are_no_use() -> None:
    X, y = rows()
    X[:, 3], X[:, 4] = np.nan, 7.0
    grown = grow_budgeted_forest(X, y, penalty=0.0)
    assert not grown.acquired(X)[:, 3:].any()


# Acquisitions and costs.


@pytest.mark.parametrize("classes", [2, 4])
def test_acquisitions_are_what_the_trees_test_and_nothing_else(classes: int) -> None:
    X, y = rows(classes=classes)
    grown = grow_budgeted_forest(X, y, [1, 2, 3, 4, 5], shape=Shape(0.3, n_trees=8))
    codes = grown.bins(X)
    costs = []
    for i in range(len(X)):
        tested = walk(grown.trees, codes[i])[1]
        assert tested == set(np.flatnonzero(grown.acquired_groups[i]).tolist())
        costs.append(sum(k + 1 for k in tested))
    assert grown.expected_cost == pytest.approx(np.mean(costs))
    assert grown.costs(X).tolist() == costs
    assert 0 < grown.expected_cost < 15


def test_an_infinite_penalty_buys_nothing_that_costs() -> None:
    X, y = rows()
    nothing = grow_budgeted_forest(X, y, penalty=np.inf)
    assert nothing.expected_cost == 0
    assert nothing.trees.n_trees == 0
    free = grow_budgeted_forest(X, y, [0, 1, 1, 1, 1], penalty=np.inf)
    assert free.expected_cost == 0
    assert free.trees.n_trees > 0
    assert set(free.trees.feature.tolist()) == {-1, 0}


def test_a_penalty_of_zero_is_ordinary_boosting() -> None:
    X, y = rows()
    plain = grow_budgeted_forest(X, y, [0, 0, 0, 0, 0])
    free = grow_budgeted_forest(X, y, [1, 9, 1, 9, 1], penalty=0.0)
    assert np.array_equal(plain.trees.feature, free.trees.feature)
    assert np.array_equal(plain.trees.value, free.trees.value)
    loss = -np.log(free.predict_proba(X)[np.arange(len(y)), y]).mean()
    assert loss < 0.1


def test_the_first_split_is_the_best_of_all_by_brute_force() -> None:
    data = problem()
    penalty = 0.01
    forest, _ = boost(data, Shape(1.0, 2, 1, ridge=0.5, min_rows=7), penalty)
    p = data.target.mean()
    g, h = p - data.target, np.full(len(data.target), p * (1 - p))

    def value(mask: NDArray[np.bool_]) -> float:
        return float(g[mask].sum() ** 2 / (h[mask].sum() + 0.5))

    everyone = np.ones(len(g), np.bool_)
    worth = {}
    for k in range(5):
        for b in range(1, data.n_codes - 1):
            left = data.codes[:, k] <= b
            if min(left.sum(), (~left).sum()) >= 7:
                gain = (value(left) + value(~left) - value(everyone)) / 2
                worth[k, b] = gain - penalty * data.feature_costs.group_cost[k] * len(g)
    assert (forest.feature[0], forest.code[0]) == max(worth, key=lambda kb: worth[kb])


def test_above_the_largest_penalty_nothing_is_bought_below_it_something() -> None:
    data = problem()
    shape = Shape(0.3, 8, 3)
    largest = largest_penalty(data, shape.ridge, shape.min_rows)
    assert boost(data, shape, largest * 1.001)[0].n_trees == 0
    assert boost(data, shape, largest * 0.999)[0].n_trees > 0


def test_what_is_known_already_costs_nothing_again() -> None:
    data = problem()
    known = np.zeros((400, 5), np.bool_)
    known[:, 4] = True
    forest, acquired = boost(data, Shape(0.3, 8, 5), np.inf, acquired=known)
    assert set(forest.feature.tolist()) == {-1, 4}
    assert np.array_equal(acquired.all(axis=0), [False, False, False, False, True])


def test_the_larger_child_by_subtraction_is_that_of_a_fresh_count(monkeypatch: pytest.MonkeyPatch) -> None:
    data = problem(classes=3)
    shape = Shape(0.3, 12, 6)
    quick, acquired = boost(data, shape, 0.002)
    monkeypatch.setattr("prunopt.forests.boosting.cost_efficient_boosting.POOL_BYTES", 0)
    slow, again = boost(data, shape, 0.002)
    assert np.array_equal(quick.feature, slow.feature)
    assert np.array_equal(acquired, again)
    assert np.allclose(quick.value, slow.value)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_budget_is_kept_on_the_training_rows(share: float) -> None:
    X, y = rows(600)
    costs = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    grown = grow_budgeted_forest(X, y, costs, budget=share * costs.sum())
    assert 0 < grown.expected_cost <= share * costs.sum()
    assert grown.expected_cost == pytest.approx(grown.costs(X).mean())


def test_a_group_is_bought_as_one() -> None:
    X, y = rows()
    grown = grow_budgeted_forest(X, y, [2.0, 1.0, 1.0], feature_groups=[[0, 1], [2], [3, 4]], penalty=1e-4)
    acquired = grown.acquired(X)
    assert np.array_equal(acquired[:, 0], acquired[:, 1])
    assert grown.costs(X).max() <= 4.0
    assert np.allclose(grown.costs(X), 2.0 * acquired[:, 0] + acquired[:, 2] + acquired[:, 3])


# Missing values.


@pytest.mark.parametrize("missing_is_high", [False, True])
def test_each_split_learns_where_missing_values_go(missing_is_high: bool) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=500)
    y = (x > 0).astype(int)
    gone = rng.random(500) < 0.3
    y[gone] = int(missing_is_high)
    x[gone] = np.nan
    grown = grow_budgeted_forest(x[:, None], y, penalty=0.0, shape=Shape(1.0, 2, 1))
    assert np.array_equal(grown.predict(x[:, None]), y)
    assert grown.trees.missing_left[0] != missing_is_high


def test_missing_alone_can_be_a_split() -> None:
    x = np.random.default_rng(0).normal(size=300)
    y = (np.arange(300) % 3 == 0).astype(int)
    x[y == 1] = np.nan
    grown = grow_budgeted_forest(x[:, None], y, penalty=0.0, shape=Shape(1.0, 2, 1))
    assert np.array_equal(grown.predict(x[:, None]), y)


# Regression, weights.


def test_regression_learns_and_pays() -> None:
    X, _ = rows(800)
    y = 100.0 + 50.0 * X[:, 0] + 20.0 * X[:, 1] ** 2
    free = grow_budgeted_forest(X, y, penalty=0.0, regression=True)
    assert np.mean((free.predict(X) - y) ** 2) < 0.05 * y.var()
    costly = grow_budgeted_forest(X, y, budget=1.0, regression=True)
    assert costly.expected_cost <= 1.0
    assert np.mean((costly.predict(X) - y) ** 2) < 0.6 * y.var()
    with pytest.raises(AttributeError, match="regression"):
        free.predict_proba(X)


def test_the_penalty_is_in_the_unit_of_the_loss() -> None:
    X, _ = rows()
    y = X[:, 0] + X[:, 1]
    one = grow_budgeted_forest(X, y, penalty=0.05, regression=True)
    other = grow_budgeted_forest(X, 10.0 * y + 3.0, penalty=5.0, regression=True)
    assert np.array_equal(one.trees.feature, other.trees.feature)
    assert 0 < one.expected_cost < 5


def test_rows_of_weight_zero_are_not_there() -> None:
    X, y = rows()
    weight = (np.arange(400) < 250).astype(float)
    a = grow_budgeted_forest(X, y, sample_weight=weight, penalty=1e-3)
    b = grow_budgeted_forest(X[:250], y[:250], penalty=1e-3)
    assert np.array_equal(a.predict_proba(X), b.predict_proba(X))
    assert not a.acquired_groups[250:].any()


# Pruning, refit.


def test_pruned_forests_and_families_agree_with_a_slow_walk() -> None:
    data = problem(classes=3)
    forest, _ = boost(data, Shape(0.3, 10, 6), 0.001)
    path = surrogate_path(forest, data)
    points = np.unique(np.linspace(0, len(path.cost) - 1, 5).astype(int))
    lifetime = path.lifetimes(points)
    scores, costs = forest.family(data.codes, lifetime, len(points), data.feature_costs)
    for k in range(len(points)):
        keep = lifetime > k
        small = forest.pruned(keep)
        assert np.allclose(small.scores(data.codes), scores[k])
        for i in (0, 7, 100, 399):
            score, tested = walk(forest, data.codes[i], keep)
            assert np.allclose(scores[k, i], score)
            assert costs[k, i] == sum(data.feature_costs.group_cost[g] for g in tested)
        # By falling cost, and what the path says it costs.
        assert costs[k].mean() == pytest.approx(path.cost[points[::-1][k]])


@pytest.mark.parametrize("loss", [Classification(2), Squares()])
def test_every_point_of_the_path_beats_all_other_prunings(loss: Loss) -> None:
    data = problem(loss=loss if isinstance(loss, Squares) else None)
    forest, _ = boost(data, Shape(0.5, 4, 2), 0.001)
    closure, _, _ = surrogate_closure(forest, data, surrogate_profits(forest, data))
    path = surrogate_path(forest, data, keep_proof=True).path
    assert path is not None
    assert closure.n_items <= 8
    every = [np.array(list(f"{k:0{closure.n_items}b}")) == "1" for k in range(2**closure.n_items)]
    feasible = [x for x in every if closure.violation(x) == 0]
    for block in path.blocks:
        for penalty in (block.penalty, block.penalty * Fraction(3, 4)):
            spent = [int(closure.cost[closure.covered(x)].sum()) for x in feasible]
            best = min(penalty * c - int(closure.profit[x].sum()) for c, x in zip(spent, feasible, strict=True))
            assert path.objective(penalty) == best
            assert path.gap(penalty) <= 1e-9


def test_the_profit_of_a_split_is_the_fall_of_the_second_order_loss() -> None:
    data = problem()
    forest, _ = boost(data, Shape(0.5, 2, 1), 0.0)
    profit = surrogate_profits(forest, data)
    g, h = data.loss.derivatives(np.tile(forest.base, (400, 1)), data.target)

    def loss(values: Floats) -> float:
        return float((g[:, 0] * values + h[:, 0] * values**2 / 2).sum())

    split = forest.scores(data.codes)[:, 0] - forest.base[0]
    assert profit[0] == pytest.approx(loss(np.full(400, forest.value[0, 0])) - loss(split))
    assert profit[1:].tolist() == [0.0, 0.0]


def test_a_row_of_weight_two_is_two_rows_to_the_path() -> None:
    data = problem()
    forest, _ = boost(data, Shape(0.4, 8, 4), 0.001)
    twice = np.flatnonzero(data.target == 1)
    weight = np.where(data.target == 1, 2.0, 1.0)
    weighted = surrogate_path(forest, replace(data, weight=weight))
    repeated = surrogate_path(forest, data.take(np.concatenate([np.arange(400), twice])))
    assert len(weighted.cost) == len(repeated.cost)
    assert np.allclose(weighted.cost, repeated.cost)
    assert np.allclose(weighted.profit, repeated.profit, atol=1e-6)
    assert np.allclose(weighted.penalty[1:], repeated.penalty[1:], rtol=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_refitting_lowers_the_penalised_loss_and_buys_nothing(classes: int) -> None:
    data = problem(classes=classes)
    forest, _ = boost(data, Shape(0.1, 8, 5), 0.001)
    better = refitted(forest, data, ridge=1.0, iterations=50)

    def objective(f: GrownForest) -> float:
        leaves = f.value[f.feature < 0]
        return float(data.loss.rows(f.scores(data.codes), data.target).sum() + np.square(leaves).sum() / 2)

    assert objective(better) < 0.95 * objective(forest)
    assert np.array_equal(better.feature, forest.feature)
    # At an optimum, moving any one leaf does not help.
    for leaf in np.flatnonzero(better.feature < 0)[:6]:
        for step in (-0.3, 0.3):
            value = better.value.copy()
            value[leaf, 0] += step
            moved = GrownForest(
                better.feature, better.code, better.missing_left, better.left, better.right, value, better.offsets,
                better.base,
            )  # fmt: skip
            assert objective(moved) > objective(better)


# Bad input.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": -1.0}, "penalty must be a number >= 0, got -1.0"),
        ({"budget": float("nan")}, "budget must be a number >= 0.*, got nan"),
        ({"penalty": 1.0, "budget": 1.0}, "one of the two"),
        ({"shape": {"n_trees": 0}}, "n_trees must be a whole number >= 1, got 0"),
        ({"shape": {"learning_rate": 0.0}}, "learning_rate must be"),
        ({"shape": {"max_bins": 1}}, "max_bins must be a whole number .*, got 1"),
        ({"feature_costs": [1.0, 2.0]}, "feature_costs"),
        ({"feature_costs": [1, 1, 1, 1, -1]}, "feature_costs"),
        ({"sample_weight": np.zeros(400)}, "sample_weight"),
        ({"feature_groups": [["a"]]}, "feature_groups"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    def grown() -> BudgetedTrees:
        given: Any = {k: Shape(**v) if k == "shape" else v for k, v in options.items()}
        return grow_budgeted_forest(*rows(), **given)

    with pytest.raises(ValueError, match=message):
        grown()


def test_bad_rows_are_named() -> None:
    X, y = rows()
    with pytest.raises(ValueError, match="X must have "):
        grow_budgeted_forest(X[:, 0], y)
    with pytest.raises(ValueError, match="finite numbers, got infinity"):
        grow_budgeted_forest(np.where(X > 2, np.inf, X), y)
    with pytest.raises(ValueError, match="one class only"):
        grow_budgeted_forest(X, np.zeros(400))
    with pytest.raises(ValueError, match="y must have shape"):
        grow_budgeted_forest(X, y[:-1])
    with pytest.raises(ValueError, match="y must be an array of numbers"):
        grow_budgeted_forest(X, np.array(["a", "b"] * 200), regression=True)
    grown: BudgetedTrees = grow_budgeted_forest(X, y, shape=Shape(0.3, n_trees=1))
    with pytest.raises(ValueError, match="X must have "):
        grown.predict(X[:, :2])
