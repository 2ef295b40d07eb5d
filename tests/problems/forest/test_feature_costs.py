"""Realistic costs: discounts, costs per row, currencies, known features; each exact, by every solver."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

import prunopt as po
from prunopt.forests import budget_path
from prunopt.forests.datasets import load_heart, load_hypothyroid
from prunopt.problems import ForestBudget
from prunopt.problems.forest.cost_lists import CostList, CostSum
from prunopt.problems.forest.feature_costs import FeatureCosts
from prunopt.problems.forest.forest_within import ForestWithin

K, N = 5, 40
NAMES = tuple(f"x{k}" for k in range(K))
LISTED = CostList(
    NAMES,
    np.array([7.27, 5.2, 3.0, 1.0, 4.5]),
    {"blood": ("x0", "x1"), "scan": ("x2", "x4"), "chat": ("x3",)},
    {"blood": 2.1, "scan": 3.0},
)
INDEX = CostList(
    NAMES, np.array([2.0, 3.0, 4.9, 1.0, 1.0]), {"blood": ("x0", "x1", "x2")}, {"blood": 1.5}, "", {"x2": ("x0", "x1")}
)


def rows(seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 4, (N, K)).astype(float)
    return X, ((X[:, 0] > 1) ^ (X[:, 2] + X[:, 4] > 3) ^ (rng.random(N) < 0.15)).astype(int)


def listed_bill(costs: CostList, used: set[int], free: set[int]) -> float:
    """What a cost list says in words: the first of a group in full, further ones less the common part."""
    acquire = used - free
    for k, name in enumerate(costs.feature_names):
        if k in acquire and name in costs.derived_from:
            acquire = (acquire | {costs.feature_names.index(s) for s in costs.derived_from[name]}) - {k} - free
    total = sum(costs.costs[k] for k in acquire)
    for group, common in costs.common.items():
        of_group = [k for k in sorted(acquire) if costs.feature_names[k] in costs.groups[group]]
        total -= common * max(len(of_group) - 1, 0)
    return float(total)


RNG = np.random.default_rng(7)
MATRIX = RNG.integers(0, 6, (N, K)) / 2
KNOWN_ROWS = RNG.random((N, K)) < 0.3
MINUTES = np.array([1.0, 0, 2, 5, 1])
WORTH = {"CAD": 1.0, "minutes": 0.25}


def listed(costs: CostList) -> Any:
    return lambda i, used, free: listed_bill(costs, used, free)


def matrix(i: int, used: set[int], free: set[int]) -> float:
    return float(sum(MATRIX[i, k] for k in used - free))


# What is given, what is known, and what row i pays for features ``used`` when it knows ``free``.
KINDS: dict[str, tuple[Any, Any, Any]] = {
    "discounts": (LISTED, None, listed(LISTED)),
    "derived": (INDEX, None, listed(INDEX)),
    "per row": (MATRIX, None, matrix),
    "known": (
        [3, 1, 2, 5, 1],
        [True, False, False, True, False],
        lambda i, u, f: float(sum({1: 1, 2: 2, 4: 1}.get(k, 0) for k in u)),
    ),
    "known by name": (LISTED, ["x0", "x4"], listed(LISTED)),
    "known per row": (LISTED, KNOWN_ROWS, listed(LISTED)),
    "derived, known per row": (INDEX, KNOWN_ROWS, listed(INDEX)),
    "derived, known": (INDEX, ["x0"], listed(INDEX)),
    "known and per row": (MATRIX, KNOWN_ROWS, matrix),
    "currencies": (
        CostSum({"CAD": LISTED, "minutes": MINUTES}, WORTH),
        None,
        lambda i, u, f: listed_bill(LISTED, u, f) + 0.25 * sum(MINUTES[k] for k in u),
    ),
    "currencies, derived": (
        CostSum({"minutes": MINUTES, "CAD": INDEX}, WORTH),
        KNOWN_ROWS,
        lambda i, u, f: listed_bill(INDEX, u, f) + 0.25 * sum(MINUTES[k] for k in u - f - ({2} if {0, 1} <= f else set())),  # noqa: E501
    ),
    "currencies per row": (
        CostSum({"a": MATRIX, "b": LISTED}, {"a": 0.5, "b": 2}),
        None,
        lambda i, u, f: 0.5 * matrix(i, u, f) + 2 * listed_bill(LISTED, u, f),
    ),
}  # fmt: skip


def cast(
    kind: str, seed: int = 0, penalty: Any = 0.02, n_trees: int = 3
) -> tuple[ForestBudget, RandomForestClassifier]:
    X, y = rows(seed)
    forest = RandomForestClassifier(n_trees, max_leaf_nodes=5, random_state=seed).fit(X, y)
    given, known, _ = KINDS[kind]
    return ForestBudget.from_forest(forest, X, y, given, penalty, known=known), forest


def used_features(task: ForestBudget, kept: NDArray[np.bool_]) -> list[set[int]]:
    e = task.ensemble
    split = np.zeros(e.n_nodes, np.bool_)
    split[e.internal] = kept
    out = []
    for row in task.X:
        used = set()
        for root in e.offsets[:-1]:
            h = int(root)
            while e.left[h] >= 0 and split[h]:
                used.add(int(e.feature[h]))
                h = int(e.left[h] if row[e.feature[h]] <= e.threshold[h] else e.right[h])
        out.append(used)
    return out


def mask_of(known: Any) -> NDArray[np.bool_]:
    if known is None:
        return np.zeros((N, K), np.bool_)
    if isinstance(known[0], str):
        return np.broadcast_to(np.isin(NAMES, known), (N, K))
    return np.broadcast_to(np.asarray(known), (N, K))


def closed_sets(task: ForestBudget) -> list[NDArray[np.bool_]]:
    m = len(task.ensemble.internal)
    every = (np.array(bits, bool) for bits in itertools.product([False, True], repeat=m))
    return [kept for kept in every if task.violation(kept) == 0]


@pytest.mark.parametrize("kind", KINDS)
def test_cost_and_closure_are_what_the_words_say(kind: str) -> None:
    _, known, bill = KINDS[kind]
    free = [set(np.flatnonzero(row).tolist()) for row in mask_of(known)]
    task, _ = cast(kind)
    reduced = task.reduce()
    path_closure, penalty_unit, _, _ = task.path_closure()
    rng = np.random.default_rng(1)
    sets = closed_sets(task)
    for at in rng.choice(len(sets), 25):
        kept = sets[at]
        paid = [bill(i, used, free[i]) for i, used in enumerate(used_features(task, kept))]
        assert task.cost(kept) == pytest.approx(np.mean(paid), abs=1e-12)
        assert task.feature_costs.of_rows(task.acquired(kept)) == pytest.approx(paid, abs=1e-12)
        assert reduced.form.objective(kept) + reduced.shift == pytest.approx(task.objective(kept), abs=1e-12)
        spent = path_closure.cost[path_closure.covered(kept)].sum()
        assert float(path_closure.unit / penalty_unit * int(spent)) == pytest.approx(np.mean(paid), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_exact_solver_finds_the_optimum(kind: str, seed: int) -> None:
    task, _ = cast(kind, seed, penalty=0.03)
    best = min(task.objective(kept) for kept in closed_sets(task))
    names = {row.name for row in po.solvers(task) if row.exact}
    assert {"min-cut", "highs", "pulp"} <= names
    for name in sorted(names):
        solution = po.solve(task, name)
        assert solution.status is po.Status.OPTIMAL, name
        assert solution.objective == pytest.approx(best, abs=1e-9), name
        po.verify(task, solution)


@pytest.mark.parametrize("kind", KINDS)
def test_the_path_is_exact_and_agrees_with_on_demand(kind: str) -> None:
    from prunopt.forests import predict_on_demand

    task, forest = cast(kind)
    given, known, _ = KINDS[kind]
    X, y = rows(0)
    path = budget_path(forest, X, y, given, known=known)
    sets = closed_sets(task)
    worth = [(task.error(kept), task.cost(kept)) for kept in sets]
    assert len(path.points) >= 2
    for k, point in enumerate(path.points):
        assert point.gap <= 1e-12
        for penalty in (point.penalty, point.penalty * 1.01 + 1e-6):
            least = min(error + penalty * cost for error, cost in worth)
            at = path.points[path.index(penalty=penalty)]
            assert at.training_error + penalty * at.expected_cost == pytest.approx(least, abs=1e-12)
        pruned = path.at(penalty=point.penalty)
        asked = predict_on_demand(pruned, X, feature_costs=given, known=known)
        assert asked.cost.mean() == pytest.approx(point.expected_cost, abs=1e-12)
        assert path.curve(X, y, known=known).expected_cost[k] == pytest.approx(point.expected_cost, abs=1e-12)
    within = path.points[0].expected_cost * 0.6
    solution = po.solve(ForestWithin(task, within))
    best = min(error for error, cost in worth if cost <= within + 1e-12)
    assert solution.objective == pytest.approx(best, abs=1e-9)
    assert task.cost(solution.value) <= within + 1e-12


@pytest.mark.parametrize("load", [load_heart, lambda: load_hypothyroid(measured_flags=False)])
def test_the_published_rule_of_discounts(load: Any) -> None:
    box = load()
    costs = box.costs()
    got = FeatureCosts.of(costs, len(box.feature_names), box.feature_names)
    rng = np.random.default_rng(0)
    acquired = rng.random((200, len(box.feature_names))) < 0.4
    for row, paid in zip(acquired, got.of_rows(acquired), strict=True):
        assert paid == pytest.approx(listed_bill(costs, set(np.flatnonzero(row).tolist()), set()))
    assert np.array_equal(costs.total(acquired), got.of_rows(acquired))
    if box.name == "heart":
        everything = 4 * 1.0 + 7.27 + 3.1 + 15.5 + 102.9 + 1 + 87.3 + 1 + 1 + 100.9
        assert got.total == pytest.approx(everything)
        assert got.group_cost == pytest.approx(costs.costs)


def test_rows_that_pay_more_and_rows_taken() -> None:
    costs = FeatureCosts.of(LISTED, K)
    factor = np.array([1.0, 0.5, 2.0])
    per_row = costs.scaled(factor)
    acquired = np.array([[True] * 5, [True, True, False, False, False], [False, True, False, True, False]])
    assert per_row.of_rows(acquired) == pytest.approx(costs.of_rows(acquired) * factor)
    assert per_row.take([2, 0]).of_rows(acquired[[2, 0]]) == pytest.approx((costs.of_rows(acquired) * factor)[[2, 0]])
    assert per_row.total == pytest.approx(costs.total * factor.mean())
    with pytest.raises(ValueError, match="got costs of 3 rows for 2 rows of X"):
        per_row.of_rows(acquired[:2])


def test_groups_bought_as_one_keep_their_discounts() -> None:
    costs = FeatureCosts.of(LISTED, K, feature_groups=[[0, 3], [2]])
    # 0+3 | 2 | 1 | 4: the first group is in "blood" with 1, the second in "scan" with 4.
    assert costs.group_cost == pytest.approx([8.27, 3.0, 5.2, 4.5])
    assert costs.of_rows(np.array([[True, False, True, False]])) == pytest.approx([8.27 + 5.2 - 2.1])
    assert costs.of_rows(np.array([[False, True, False, True]])) == pytest.approx([4.5])
    assert FeatureCosts.of(MATRIX, K, feature_groups=[[0, 3]]).component_cost.shape == (N, 4)


def test_costs_of_a_list_follow_the_names_of_the_forest() -> None:
    turned = CostList(NAMES[::-1], LISTED.costs[::-1].copy(), LISTED.groups, LISTED.common)
    assert np.array_equal(FeatureCosts.of(turned, K, NAMES).group_cost, FeatureCosts.of(LISTED, K, NAMES).group_cost)
    unnamed = FeatureCosts.of(CostList(tuple("abcde"), LISTED.costs), K)
    assert np.array_equal(unnamed.group_cost, LISTED.costs)
    assert unnamed.group_names == tuple("abcde")
    assert FeatureCosts.of(CostList(tuple("abcde"), LISTED.costs), K, known=["c"]).known_mask.tolist() == [
        [False, False, True, False, False]
    ]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"feature_costs": np.ones((N, K + 1))}, r"given for 5 features, got shape \(40, 6\)"),
    ({"feature_costs": -MATRIX - 1}, r"feature_costs\[0, 0\] must be a finite number >= 0, got -"),
    ({"feature_costs": np.ones((N - 1, K))}, "got costs of 39 rows for 40 rows of X"),
    ({"feature_costs": CostList(("a", "b"), np.ones(2))}, "must list 5 features, got a list of 2"),
    ({"feature_costs": CostList(NAMES, np.ones(K), {"g": ("x0",)}, {"g": 2.0})}, "must be at most what 'x0' costs"),
    ({"feature_costs": CostList(NAMES, -np.ones(K))}, "finite number"),
    ({"feature_costs": INDEX, "feature_groups": [[0, 1]]}, "derived_from gives the costs of single features"),
    ({"feature_costs": LISTED, "known": np.ones((N, 2), bool)}, r"known must have shape .*, got shape \(40, 2\)"),
    ({"feature_costs": LISTED, "known": ["blood"]}, "known must name features, got 'blood'"),
    ({"feature_costs": LISTED, "known": "x0"}, "known must be a bool for each feature.*'x0'"),
    ({"feature_costs": LISTED, "known": [0.5]}, "known must be a bool for each feature"),
    ({"feature_costs": MATRIX, "known": KNOWN_ROWS[:7]}, "known must have 40 rows, as feature_costs has, got 7"),
    ({"feature_costs": CostSum({"a": MATRIX, "b": MATRIX[:9]}, {"a": 1, "b": 1})}, "the same rows in every currency"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_costs(change: dict[str, Any], message: str) -> None:
    X, y = rows(0)
    forest = RandomForestClassifier(2, max_depth=2, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match=message):
        ForestBudget.from_forest(forest, X, y, penalty=0.1, **change)


@pytest.mark.parametrize(
    ("costs", "weights", "message"),
    [
        ({"a": [1]}, {}, "give each one weight"),
        ({}, {}, "give each one weight"),
        ({"a": [1]}, {"a": -1}, r"weights\['a'\] must be a finite number >= 0, got -1"),
        ({"a": [1]}, {"a": float("nan")}, "finite number"),
        ({"a": [1]}, {"a": "2"}, "finite number"),
    ],
)
def test_bad_currencies(costs: Any, weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CostSum(costs, weights)
