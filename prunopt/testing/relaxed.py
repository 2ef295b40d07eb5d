"""Small instances of `RelaxedMask`: linear layers with N:M masks, and widths, their optima found by enumeration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from prunopt.core.arrays import Floats
from prunopt.forms.layer.nm_patterns import candidates
from prunopt.forms.relaxed.relaxed_mask import RelaxedMask, expected_quadratic


def linear_layer(rng: np.random.Generator, rows: int, blocks: int, pattern: tuple[int, int] = (2, 4)) -> RelaxedMask:
    """Return N:M masks of a random linear layer, the loss its squared output error relative to the output."""
    table, d = candidates(*pattern), blocks * pattern[1]
    inputs = rng.normal(size=(4 * d, d)) * rng.uniform(0.3, 3.0, d)
    weight, hessian = rng.normal(size=(rows, d)), inputs.T @ inputs / len(inputs)
    whole = float(np.einsum("ij,jk,ik->", weight, hessian, weight))

    def loss(points: Sequence[Floats]) -> float:
        removed = weight * (1 - points[0].reshape(rows, d))
        return float(np.einsum("ij,jk,ik->", removed, hessian, removed)) / whole

    def relaxed_loss(points: Sequence[Any], step: int) -> Any:
        import torch

        w, h = (torch.from_numpy(a).to(points[0].dtype) for a in (weight, hessian))
        removed = w * (1 - points[0].reshape(rows, d))
        return ((removed @ h) * removed).sum() / whole

    def expected_loss(probabilities: Sequence[Any], step: int) -> Any:
        import torch

        p = probabilities[0]
        w, h, a = (torch.from_numpy(v).to(p.dtype) for v in (weight, hessian, table.astype(np.float64)))
        return expected_quadratic(w, h, p, a) / whole

    energy = (weight**2).reshape(-1, pattern[1])
    return RelaxedMask([rows * blocks], [table], loss, relaxed_loss, energy=[energy], expected_loss=expected_loss)


def widths(rng: np.random.Generator) -> RelaxedMask:
    """Return two groups of channels whose first so many stay, under a smooth loss."""
    tables = [np.tril(np.ones((n, n))) for n in (3, 4)]
    aims = [rng.uniform(size=(1, n)) for n in (3, 4)]

    def loss(points: Sequence[Any]) -> Any:
        pairs = zip(points, aims, strict=True)
        return sum(((z - (a if isinstance(z, np.ndarray) else z.new_tensor(a))) ** 2).sum() for z, a in pairs)

    return RelaxedMask([1, 1], tables, lambda z: float(loss(z)), lambda z, step: loss(z))


def brute_force_relaxed(problem: RelaxedMask) -> float:
    """Return the least loss, by looking at every combination of candidates."""
    lists = [a for g, a in zip(problem.groups, problem.tables, strict=True) for _ in range(g)]
    ends, least = np.cumsum(problem.groups)[:-1], math.inf
    for rows in product(*lists):
        parts = [np.stack(rows[a:b]) for a, b in zip([0, *ends], [*ends, len(rows)], strict=True)]
        least = min(least, problem.loss(parts))
    return least


def relaxed_masks() -> Iterator[tuple[str, RelaxedMask, float]]:
    """Yield name, problem and optimum."""
    rng = np.random.default_rng(17)
    shapes = [("2:4", 1, 3, (2, 4)), ("1:4", 2, 2, (1, 4)), ("2:3", 1, 2, (2, 3))]
    for name, rows, blocks, pattern in shapes:
        problem = linear_layer(rng, rows, blocks, pattern)
        yield name, problem, brute_force_relaxed(problem)
    problem = widths(rng)
    yield "widths", problem, brute_force_relaxed(problem)
