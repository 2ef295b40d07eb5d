"""Instances of choices and of black boxes for the conformance suite, with optima by brute force."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from prunopt.forms.blackbox import BlackBox, Gene, LevelSearch, level_genes
from prunopt.forms.knapsack.multiple_choice_knapsack import MultipleChoiceKnapsack


def brute_force_choice(problem: MultipleChoiceKnapsack) -> float | None:
    """Return the optimum of a small multiple-choice knapsack by looking at every choice; None if nothing fits."""
    columns = range(problem.n_levels + len(problem.spans))
    choices = (np.array(x, np.int64) for x in itertools.product(columns, repeat=problem.n_groups))
    return min((problem.objective(x) for x in choices if problem.violation(x) == 0), default=None)


def random_budgets(rng: np.random.Generator, scale: float = 1.0) -> MultipleChoiceKnapsack:
    """Return a small knapsack of one to four resources, some with missing levels, some with spans."""
    resources, groups, levels = int(rng.integers(1, 5)), int(rng.integers(1, 6)), int(rng.integers(1, 5))
    loss = rng.integers(-3, 9, (groups, levels)) + rng.choice([0.0, 0.25], (groups, levels))
    if levels > 1:
        loss[rng.random(groups) < 0.2, int(rng.integers(levels))] = np.inf
    cost, spans = rng.integers(0, 9, (resources, groups, levels)), []
    if rng.random() < 0.4 and (levels + 2) ** groups < 2000:
        for _ in range(int(rng.integers(1, 3))):
            first = int(rng.integers(groups))
            lost, last = float(rng.integers(-3, 9)) * scale, int(rng.integers(first, groups))
            spans.append((first, last, lost, rng.integers(0, 9, resources)))
    limits = rng.integers(0, 6, resources) + rng.integers(1, 6, resources) * groups
    return MultipleChoiceKnapsack(loss * scale, cost, limits, spans=spans)


def knapsacks() -> Iterator[tuple[str, Any, float | None]]:
    """Multiple-choice knapsacks: ties, missing levels, free and worthless levels, tight and hopeless budgets."""
    rng = np.random.default_rng(19)
    for k in range(14):
        groups, levels = int(rng.integers(1, 6)), int(rng.integers(1, 5))
        loss = rng.integers(-3, 9, (groups, levels)) + rng.choice([0.0, 0.25], (groups, levels))
        if levels > 1:
            loss[rng.random(groups) < 0.2, int(rng.integers(levels))] = np.inf
        problem = MultipleChoiceKnapsack(loss, rng.integers(0, 9, (groups, levels)), int(rng.integers(0, 5 * groups)))
        yield f"random-{k}", problem, brute_force_choice(problem)
    subset = MultipleChoiceKnapsack([[0.0, -3.0], [0.0, -4.0], [0.0, -5.0]], [[0, 4], [0, 5], [0, 6]], 9)
    yield "knapsack", subset, -7.0
    yield "over budget", MultipleChoiceKnapsack([[1.0, 0.0]], [[3, 5]], 2), None
    yield "exactly in budget", MultipleChoiceKnapsack([[1.0, 0.0]], [[3, 5]], 5), 0.0
    yield "equal levels", MultipleChoiceKnapsack(np.ones((3, 3)), np.ones((3, 3), np.int64), 3), 3.0
    yield "no groups", MultipleChoiceKnapsack(np.zeros((0, 2)), np.zeros((0, 2), np.int64), 0), 0.0
    for k in range(16):
        problem = random_budgets(rng)
        yield f"budgets-{k}", problem, brute_force_choice(problem)
    apart = MultipleChoiceKnapsack([[0.0, 1.0]] * 2, {"a": [[2, 0]] * 2, "b": [[0, 2]] * 2}, {"a": 1, "b": 1})
    yield "limits apart, not together", apart, None
    together = MultipleChoiceKnapsack([[0.0, 9.0]] * 3, [[4, 0]] * 3, 4, spans=[(0, 1, 2.0, 1), (1, 2, 1.5, 0)])
    yield "spans", together, 1.5


def _bowl(point: Any, fidelity: float) -> float:
    kinds = {"red": 0.0, "green": 0.5, "blue": 2.0}
    return float(kinds[point["kind"]] + (point["a"] - 2) ** 2 + (point["b"] + 1.0) ** 2 + 0.1 * (1 - fidelity))


def _decode(point: Any) -> Any:
    return None if point["kind"] == "blue" and point["a"] == 0 else dict(point)


def bowl(fidelities: tuple[float, ...] = (1.0,)) -> BlackBox:
    """Return a black box of two categorical genes and a real one, with least value 0."""
    genes = (
        Gene("kind", ("red", "green", "blue")),
        Gene("a", (0, 1, 2, 3), ordered=True),
        Gene("b", low=-3.0, high=3.0),
    )
    return BlackBox(genes, _decode, _bowl, fidelities=fidelities, identity={"problem": "bowl"})


def black_boxes() -> Iterator[tuple[str, Any, float | None]]:
    """Black boxes: categorical and real genes, points without a decision, several fidelities."""
    yield "bowl", bowl(), 0.0
    yield "two fidelities", bowl((0.5, 1.0)), 0.0
    few = BlackBox((Gene("a", (1, 2)), Gene("b", (1, 2))), lambda p: {"sum": p["a"] + p["b"]}, lambda d, f: -d["sum"])
    yield "three decisions", few, -4.0


def level_search(groups: int = 3, levels: int = 3, budget: int = 4) -> LevelSearch:
    """Return a search over levels whose loss has an interaction of neighbors."""
    cost = np.tile(np.arange(levels)[::-1], (groups, 1))
    weight = np.linspace(1, 2, groups)

    def decode(point: Any) -> Any:
        x = [point[f"level_{g}"] for g in range(groups)]
        return x if cost[np.arange(groups), x].sum() <= budget else None

    def loss(x: Any, fidelity: float) -> float:
        return float(weight @ np.square(x)) + 0.3 * float(np.prod(x))

    start = np.full(groups, levels - 1)
    return LevelSearch(level_genes(groups, levels), decode, loss, cost=cost, budget=budget, start=start)


def level_searches() -> Iterator[tuple[str, Any, float | None]]:
    """Searches over levels within a budget."""
    for k, (groups, budget) in enumerate([(3, 4), (4, 3)]):
        problem = level_search(groups, 3, budget)
        points = ({f"level_{g}": v for g, v in enumerate(x)} for x in itertools.product(range(3), repeat=groups))
        yield f"levels-{k}", problem, min(problem.objective(p) for p in points)
