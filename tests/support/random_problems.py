"""Random small problems of every form, with their optima by brute force: what exact solvers are held against.

`random_instance` draws one; ``scale`` multiplies what the objective is made of, so that the same problem comes in every
order of magnitude, and ``rough`` adds what real data has and textbooks do not: duplicate columns, dead inputs,
Hessians of less than full rank (with damping), denormal numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from prunopt import testing
from prunopt.forms import (
    BudgetedClosure,
    CoupledKnapsack,
    EnumerableChoice,
    LinearProgram,
    MaskBlocks,
    MultipleChoiceKnapsack,
    QuadraticKnapsack,
    QuadraticSubset,
    SubsetSum,
    TileColumns,
    TransposableMask,
)
from prunopt.testing import Instance
from prunopt.testing.choices import (
    brute_force_coupled,
    brute_force_tiles,
    random_coupled,
    random_tiles,
)
from prunopt.testing.layers import brute_force_mask, brute_force_transposable, random_layer
from prunopt.testing.layers import brute_force_subset as brute_force_groups
from prunopt.testing.searches import brute_force_choice, random_budgets
from prunopt.testing.subsets import brute_force_subset

Draw = Callable[[np.random.Generator, float, bool], Instance]
TINY = 5e-324  # the least denormal number


def random_instance(form: str, seed: int, *, scale: float = 1.0, rough: bool = False) -> Instance:
    """Return a small random instance of a form; the same seed gives the same one."""
    return GENERATORS[form](np.random.default_rng([seed, len(form)]), scale, rough)


def _closure(rng: np.random.Generator, scale: float, rough: bool) -> Instance:
    problem = testing.random_closure(rng, int(rng.integers(1, 6)), arcs=bool(rng.integers(2)))
    problem = replace(problem, unit=problem.unit * Fraction(scale))
    return Instance("closure", problem, testing.brute_force_closure(problem))


def _budget(rng: np.random.Generator, scale: float, rough: bool) -> Instance:
    closure = testing.random_closure(rng, int(rng.integers(1, 6)))
    closure = replace(closure, unit=closure.unit * Fraction(scale))
    problem = BudgetedClosure(closure, closure.unit * int(rng.integers(0, 16)))
    return Instance("budget", problem, testing.brute_force_budget(problem))


def _linear(rng: np.random.Generator, scale: float, rough: bool) -> Instance:
    n, r = int(rng.integers(1, 4)), int(rng.integers(0, 4))
    A, b = rng.integers(-4, 5, (r, n)).astype(float), rng.integers(-2, 9, r).astype(float)
    c = rng.integers(-5, 6, n) * scale
    if rough and n > 1:
        A[:, 1], c[1] = A[:, 0], c[0]
    problem = LinearProgram(c, A, b, upper=float(rng.integers(1, 4)))
    return Instance("linear", problem, testing.brute_force_linear(problem))


def _knapsack(rng: np.random.Generator, scale: float, rough: bool) -> Instance:
    groups, levels = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    loss = rng.integers(-3, 9, (groups, levels)) + rng.choice([0.0, 0.25], (groups, levels))
    if rough and levels > 1:
        loss[:, 1] = loss[:, 0]
        loss[0, rng.integers(levels)] = TINY
    cost = rng.integers(0, 9, (groups, levels))
    problem = MultipleChoiceKnapsack(loss * scale, cost, int(rng.integers(0, 5 * groups)))
    return Instance("knapsack", problem, brute_force_choice(problem))


def _budgets(rng: np.random.Generator, scale: float, rough: bool) -> Instance:
    problem = random_budgets(rng, scale)
    return Instance("budgets", problem, brute_force_choice(problem))


def _coupled(rng: np.random.Generator, scale: float, rough: bool) -> Instance:
    problem = random_coupled(rng, str(rng.choice(["chain", "star", "forest", "circle"])))
    problem = CoupledKnapsack(problem.loss * scale, problem.cost, problem.edges, problem.pair_cost, problem.budget)
    return Instance("coupled", problem, brute_force_coupled(problem))


def _tiles(rng: np.random.Generator, scale: float, rough: bool) -> Instance:
    problem = random_tiles(rng)
    energy = np.array(problem.energy) * scale
    problem = TileColumns(
        energy, problem.layer, problem.capacity, problem.cost, problem.budget, problem.tile, problem.max_kept
    )
    return Instance("tiles", problem, brute_force_tiles(problem))


def _choice(rng: np.random.Generator, scale: float, rough: bool) -> Instance:
    n = int(rng.integers(1, 6))
    gain, pair = rng.normal(1, 1, n) * scale, rng.normal(0, 0.5, (n, n)) * scale
    size = 10.0 ** int(rng.integers(-12, 13)) if rough else 1.0
    cost = rng.integers(1, 5, n) * size

    def loss(kept: Any) -> float:
        return float(gain @ ~kept + ~kept @ pair @ ~kept)

    problem = EnumerableChoice(loss, cost, float(rng.integers(1, 3 * n + 1)) * size)
    return Instance("choice", problem, brute_force_subset(problem, n))


def _quadratic(rng: np.random.Generator, scale: float, rough: bool) -> Instance:
    n = int(rng.integers(2, 6))
    pair, linear = np.triu(rng.normal(0.0, 1.0, (n, n)), 1), rng.normal(-0.5, 1.0, n)
    if rough:
        linear[1], pair[0, 1] = linear[0], 0.0
    size = 10.0 ** int(rng.integers(-12, 13)) if rough else 1.0
    cost = rng.integers(0, 5, n).astype(np.float64) * size
    exactly = int(rng.integers(1, n)) if rng.random() < 0.4 else None
    room = math.inf if exactly is not None else float(rng.integers(0, 2 * n)) * size
    problem = QuadraticKnapsack(linear * scale, pair * scale, cost, room, scale * float(rng.integers(3)), (), exactly)
    return Instance("quadratic", problem, brute_force_subset(problem, n))


def _sums(rng: np.random.Generator, scale: float, rough: bool) -> Instance:
    m, n = int(rng.integers(1, 4)), int(rng.integers(1, 6))
    targets, candidates = rng.integers(-8, 9, m) / 4, rng.integers(-5, 6, (m, n)) / 4
    if rough and n > 1:
        candidates[:, 1] = candidates[:, 0]
        candidates[0, 0] = TINY / scale if scale <= 1 else candidates[0, 0]
    problem = SubsetSum(targets * scale, candidates * scale, float(rng.choice([0.1, 0.25, 0.6])) * scale)
    return Instance("sums", problem, testing.brute_force_subset_sum(problem))


def _layer(rng: np.random.Generator, rows: int, columns: int, scale: float, rough: bool) -> tuple[Any, Any, float]:
    """Weights, a Hessian, and a damping that makes it positive definite where it is not."""
    weight, hessian = random_layer(rng, rows, columns)
    damping = float(rng.choice([0.0, 0.01]))
    if rough:
        X = rng.normal(size=(columns, max(1, columns - 2)))
        X[1] = X[0]
        X[-1] = 0.0
        hessian, damping = X @ X.T, 0.01
        weight[:, 1] = weight[:, 0]
        weight[0, 0] = TINY
    return weight, hessian * scale, damping


def _groups(rng: np.random.Generator, scale: float, rough: bool) -> Instance:
    n, size = int(rng.integers(2, 5)), int(rng.integers(1, 3))
    weight, hessian, damping = _layer(rng, int(rng.integers(1, 4)), n * size, scale, rough)
    groups = np.split(rng.permutation(n * size), n)
    problem = QuadraticSubset(weight, hessian, groups, int(rng.integers(0, n + 1)), damping=damping)
    return Instance("groups", problem, brute_force_groups(problem))


def _masks(rng: np.random.Generator, scale: float, rough: bool) -> Instance:
    kinds: list[tuple[int, int, dict[str, Any]]] = [
        (1, 4, {"pattern": (2, 4)}),
        (2, 3, {"pattern": (1, 3)}),
        (2, 4, {"sparsity": 0.5}),
        (2, 3, {"sparsity": 0.5, "scope": "layer"}),
    ]
    rows, columns, options = kinds[int(rng.integers(len(kinds)))]
    weight, hessian, damping = _layer(rng, rows, columns, scale, rough)
    problem = MaskBlocks(weight, hessian, damping=damping, **options)
    return Instance("masks", problem, brute_force_mask(problem))


def _transposable(rng: np.random.Generator, scale: float, rough: bool) -> Instance:
    shape, pattern = [((2, 4), (1, 2)), ((3, 3), (1, 3)), ((3, 3), (2, 3)), ((2, 2), (2, 2))][int(rng.integers(4))]
    scores = rng.integers(-3, 9, shape) * scale
    if rough:
        scores[0], scores[-1, 0] = scores[1], TINY
    problem = TransposableMask(scores, pattern)
    return Instance("transposable", problem, brute_force_transposable(problem))


GENERATORS: dict[str, Draw] = {
    "Closure": _closure,
    "BudgetedClosure": _budget,
    "LinearProgram": _linear,
    "MultipleChoiceKnapsack": _knapsack,
    "MultipleChoiceKnapsack of several budgets": _budgets,
    "CoupledKnapsack": _coupled,
    "TileColumns": _tiles,
    "EnumerableChoice": _choice,
    "QuadraticKnapsack": _quadratic,
    "SubsetSum": _sums,
    "QuadraticSubset": _groups,
    "MaskBlocks": _masks,
    "TransposableMask": _transposable,
}
