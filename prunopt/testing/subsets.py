"""Small instances of `EnumerableChoice` and `QuadraticKnapsack`, their optima found by looking at every subset."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from prunopt.core.arrays import Bools, Floats
from prunopt.core.validate import whole_number
from prunopt.forms.subset.quadratic_knapsack import QuadraticKnapsack
from prunopt.forms.subset.subset_choice import EnumerableChoice


class RoughLoss:
    """A loss of single items, pairs and triples of both signs, so that the removal of an item may help."""

    def __init__(self, rng: np.random.Generator, n: int) -> None:
        self.single, self.pair = rng.normal(1.0, 1.0, n), np.triu(rng.normal(0.0, 0.5, (n, n)), 1)
        self.triple = rng.normal(0.0, 0.3, (4, n))

    def __call__(self, kept: Bools) -> float:
        gone = (~kept).astype(np.float64)
        rough = np.prod(1 - np.tanh(self.triple) * gone, axis=1).sum()
        return float(10.0 + self.single @ gone + gone @ self.pair @ gone + rough)

    def scores(self, kept: Bools) -> Floats:
        """What single items say."""
        return np.abs(self.single)


def brute_force_subset(problem: Any, n: int) -> float | None:
    """Return the least objective of all feasible subsets of n items, at most 12; None if there is none."""
    whole_number("n", n, high=12, mend="brute force looks at every subset")
    subsets = (np.array(bits, np.bool_) for bits in itertools.product((False, True), repeat=n))
    least = min((problem.objective(x) for x in subsets if problem.violation(x) == 0), default=math.inf)
    return None if math.isinf(least) else least


def subset_choices() -> Iterator[tuple[str, EnumerableChoice, float | None]]:
    """Yield name, problem and optimum: limits and exact numbers, unequal costs, sets to be covered."""
    rng = np.random.default_rng(23)
    for k in range(8):
        n = int(rng.integers(1, 8))
        loss = RoughLoss(rng, n)
        cost = np.ones(n) if k % 2 else rng.integers(1, 5, n).astype(np.float64)
        cover = [[i for i in range(n) if i % 2 == r] for r in range(min(n, 2))] if k % 3 == 0 else []
        exactly = max(len(cover), n // 2) if k % 4 == 1 else None
        least = float(EnumerableChoice(loss, cost, math.inf, cover, exactly).costs.sum())
        budget = math.inf if exactly is not None else max(0.6 * least, float(cost.max()) * len(cover))
        problem = EnumerableChoice(loss, cost, budget, cover, exactly, loss.scores if k % 2 else None, "single items")
        yield f"rough-{k}", problem, brute_force_subset(problem, n)
    free = EnumerableChoice(lambda kept: float(kept.sum()), np.zeros(3), 0.0)
    yield "free", free, 0.0
    tight = EnumerableChoice(lambda kept: float((~kept).sum()), [5.0, 1.0, 4.0, 1.0], 2.0, [[0, 1], [2, 3]])
    yield "cheapest only", tight, 2.0


def quadratic_knapsacks() -> Iterator[tuple[str, QuadraticKnapsack, float | None]]:
    """Yield name, problem and optimum: as above, with subsets that are forbidden."""
    rng = np.random.default_rng(29)
    for k in range(10):
        n = int(rng.integers(2, 8))
        pair = np.triu(rng.normal(0.0, 1.0, (n, n)), 1)
        cost = np.ones(n) if k % 2 else rng.integers(0, 5, n).astype(np.float64)
        cover = [[0], list(range(1, n))] if k % 3 == 0 else []
        exactly = max(len(cover), n // 2) if k % 4 in (1, 2) else None
        budget = math.inf if k % 4 == 1 else max(0.7 * float(cost.sum()), 1.0, float(cost.max()) * len(cover))
        budget = max(budget, float(np.sort(cost)[-(exactly or 1) :].sum()))
        linear = rng.normal(-0.5, 1.0, n)
        problem = QuadraticKnapsack(linear, pair, cost, budget, float(k), cover, exactly)
        if k % 2 == 0:
            allowed = EnumerableChoice(problem.value_of, cost, budget, cover, exactly)
            best = list(allowed.every_choice())
            cuts = sorted(best, key=problem.objective)[: min(3, len(best) - 1)]
            forbidden = np.array(cuts, np.bool_).reshape(len(cuts), n)
            problem = QuadraticKnapsack(linear, pair, cost, budget, float(k), cover, exactly, forbidden)
        yield f"quadratic-{k}", problem, brute_force_subset(problem, n)
    two = np.array([[True, False], [False, True]])
    yield (
        "all forbidden",
        QuadraticKnapsack([1.0, 2.0], np.zeros((2, 2)), [1.0, 1.0], 2.0, exactly=1, forbidden=two),
        None,
    )
