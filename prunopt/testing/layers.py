"""Small layers to be pruned, their optima found by looking at every answer."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from prunopt.core.arrays import Floats
from prunopt.core.validate import whole_number
from prunopt.forms import MaskBlocks, QuadraticSubset, TransposableMask


def random_layer(rng: np.random.Generator, rows: int, columns: int) -> tuple[Floats, Floats]:
    """Return weights and a positive definite Hessian of correlated inputs."""
    X = rng.normal(size=(columns, columns)) @ rng.normal(size=(columns, 4 * columns + 4))
    return rng.normal(size=(rows, columns)), X @ X.T / (4 * columns + 4)


def quadratic_subsets() -> Iterator[tuple[str, Any, float]]:
    """Column groups: single columns, heads, uneven groups, columns in no group, none or all of them removed."""
    rng = np.random.default_rng(17)
    for k in range(10):
        n, size = int(rng.integers(2, 7)), int(rng.integers(1, 4))
        uneven = [int(s) for s in rng.integers(1, 4, n)] if k % 3 == 2 else [size] * n
        order = rng.permutation(sum(uneven) + int(rng.integers(0, 3)))
        weight, hessian = random_layer(rng, int(rng.integers(1, 6)), len(order))
        groups = np.split(order, np.cumsum(uneven))[:n]
        remove = int(rng.integers(0, n + 1)) if k else n
        problem = QuadraticSubset(weight, hessian, groups, remove, damping=float(rng.choice([0.0, 0.01])))
        yield f"groups-{k}", problem, brute_force_subset(problem)
    twins = QuadraticSubset([[1.0, 1.0, 0.5]], np.diag([2.0, 2.0, 1.0]), [[0], [1], [2]], 2)
    yield "tie", twins, 2.25
    yield "dead column", QuadraticSubset([[3.0, 1.0]], np.diag([0.0, 1.0]), [[0], [1]], 1, damping=0.5), 1.25
    yield "no weights", QuadraticSubset(np.zeros((2, 3)), np.eye(3), [[0], [1], [2]], 2), 0.0


def brute_force_subset(problem: QuadraticSubset) -> float:
    """Return the optimum of a quadratic subset of at most 12 groups by looking at every choice."""
    n_groups = len(problem.groups)
    whole_number("groups", n_groups, high=12, mend="brute force looks at every choice")
    choices = itertools.combinations(range(n_groups), problem.remove)
    return min(problem.objective(np.array(choice, np.int64)) for choice in choices)


def mask_blocks() -> Iterator[tuple[str, Any, float]]:
    """Masks: 2:4, 1:3, 4:8, unstructured by row and by layer, nothing removed."""
    rng = np.random.default_rng(19)
    kinds: list[tuple[int, int, dict[str, Any]]] = [
        (2, 8, {"pattern": (2, 4)}),
        (1, 12, {"pattern": (2, 4)}),
        (3, 6, {"pattern": (1, 3)}),
        (2, 8, {"pattern": (4, 8)}),
        (2, 7, {"sparsity": 0.5}),
        (1, 9, {"sparsity": 0.3}),
        (3, 4, {"sparsity": 0.5, "scope": "layer"}),
        (2, 6, {"sparsity": 0.75, "scope": "layer"}),
        (2, 5, {"sparsity": 0.0}),
        (2, 4, {"pattern": (4, 4)}),
    ]
    for k, (rows, columns, options) in enumerate(kinds):
        weight, hessian = random_layer(rng, rows, columns)
        problem = MaskBlocks(weight, hessian, damping=0.01 * (k % 2), **options)
        yield f"masks-{k}", problem, brute_force_mask(problem)


def brute_force_mask(problem: MaskBlocks) -> float:
    """Return the optimum of a small mask problem by looking at every mask."""
    shape = problem.units(np.zeros(problem.shape)).shape
    size = shape[1]
    ways = [np.isin(np.arange(size), w, invert=True) for w in itertools.combinations(range(size), problem.n_removed)]
    whole_number("masks", len(ways) ** shape[0], high=5000, mend="brute force looks at every mask")
    masks = (np.concatenate(choice).reshape(problem.shape) for choice in itertools.product(ways, repeat=shape[0]))
    return min(problem.objective(mask) for mask in masks)


def transposable_masks() -> Iterator[tuple[str, Any, float]]:
    """Transposable masks: 2:4, 1:3, 2:3, 1:2, all kept, several tiles, scores of both signs, ties."""
    rng = np.random.default_rng(23)
    kinds = [((4, 4), (2, 4)), ((4, 8), (2, 4)), ((3, 3), (1, 3)), ((6, 3), (2, 3)), ((4, 6), (1, 2)), ((2, 4), (2, 2))]
    for k, (shape, pattern) in enumerate(kinds):
        scores = rng.normal(size=shape) if k % 2 else rng.integers(0, 4, shape).astype(float)
        problem = TransposableMask(scores, pattern)
        yield f"transposable-{k}", problem, brute_force_transposable(problem)
    yield "no scores", TransposableMask(np.zeros((4, 4)), (2, 4)), 0.0


def brute_force_transposable(problem: TransposableMask) -> float:
    """Return the optimum of a few small tiles by looking at every mask."""
    kept, size = problem.pattern
    rows = [np.isin(np.arange(size), way) for way in itertools.combinations(range(size), kept)]
    masks = [np.array(choice) for choice in itertools.product(rows, repeat=size)]
    masks = [m for m in masks if (m.sum(axis=0) == kept).all()]
    whole_number("masks", len(masks) ** problem.n_tiles, high=10_000, mend="brute force looks at every mask")
    values = itertools.product(masks, repeat=problem.n_tiles)
    return min(problem.objective(problem.untiled(np.array(tiles))) for tiles in values)
