"""Small instances of the forms behind convolutional networks, their optima found by looking at every answer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from prunopt.forms import CoupledKnapsack, TileColumns


def brute_force_tiles(problem: TileColumns) -> float | None:
    """Return the optimum by looking at every number of vectors of every product; None where there is no answer."""
    counts = itertools.product(*(range(n + 1) for n in problem.capacity.tolist()))
    values = (np.array(k, np.int64) for k in counts)
    return min((problem.objective(x) for x in values if problem.violation(x) <= 1e-12), default=None)


def brute_force_coupled(problem: CoupledKnapsack) -> float | None:
    """Return the optimum by looking at every choice; None where there is no answer."""
    choices = itertools.product(range(problem.loss.shape[1]), repeat=problem.n_groups)
    values = (np.array(c, np.int64) for c in choices)
    return min((problem.objective(x) for x in values if problem.violation(x) <= 1e-12), default=None)


def random_tiles(rng: np.random.Generator, tile: int = 2) -> TileColumns:
    """Return layers of one or two products, the last of a layer short; latencies by tile need not rise or exist."""
    n_layers, n = int(rng.integers(1, 4)), 2 * tile + 1
    products = np.minimum(rng.integers(1, 3, n_layers), 1 if n_layers == 3 else 2)
    layer = np.repeat(np.arange(n_layers), products)
    capacity = np.full(len(layer), n)
    last = np.cumsum(products) - 1
    capacity[last] = rng.integers(1, n + 1, n_layers)
    energy = -np.sort(-(rng.normal(size=(len(layer), n)) ** 2), axis=1)
    energy = np.where(np.arange(n) < capacity[:, None], energy, 0.0)
    steps = rng.integers(-2, 9, (n_layers, 3))
    cost = np.maximum(np.cumsum(np.c_[np.zeros(n_layers), steps], axis=1), 0).astype(float)
    budget = float(rng.integers(0, int(cost.max(axis=1).sum()) + 1))
    cost[:, :2] = np.where(rng.random((n_layers, 2)) < 0.2, np.inf, cost[:, :2])
    limit = math.inf if rng.random() < 0.4 else float(rng.integers(0, int(capacity.sum()) + 1))
    return TileColumns(energy / energy.sum(), layer, capacity, cost, budget, tile, limit)


def random_coupled(rng: np.random.Generator, shape: str) -> CoupledKnapsack:
    """Return a random coupled choice on a chain, a star, a forest with single groups, or a circle."""
    n, k = int(rng.integers(3, 6)), int(rng.integers(2, 5))
    edges = {
        "chain": [(i, i + 1) for i in range(n - 1)],
        "star": [(i, 0) for i in range(1, n)],
        "forest": [(0, 1)],
        "circle": [(i, (i + 1) % n) for i in range(n)],
    }[shape]
    loss = np.sort(rng.random((n, k)), axis=1)[:, ::-1].copy()
    loss[0, 1:] = np.where(rng.random(k - 1) < 0.3, np.inf, loss[0, 1:])
    cost = np.sort(rng.integers(0, 9, (n, k)), axis=1).astype(float)
    pair = np.sort(np.sort(rng.integers(0, 9, (len(edges), k, k)), axis=1), axis=2).astype(float)
    low = float(cost[:, 0].sum() + pair[:, 0, 0].sum())
    high = float(cost[:, -1].sum() + pair[:, -1, -1].sum())
    return CoupledKnapsack(loss, cost, edges, pair, float(np.floor(rng.uniform(low, high + 1))))


def tile_columns() -> Iterator[tuple[str, Any, float | None]]:
    """Tiles: limits on latency and vectors, tight and loose, forbidden numbers of tiles, out of reach."""
    rng = np.random.default_rng(17)
    for k in range(16):
        problem = random_tiles(rng)
        yield f"vectors-{k}", problem, brute_force_tiles(problem)
    energy, ones = [[4.0, 3.0, 2.0, 1.0]] * 2, np.array([[0.0, 1.0, 2.0]] * 2)
    some = TileColumns(energy, [0, 1], [4, 4], [[0, 1, np.inf], [np.inf, 1, 2]], 2.5, 2)
    yield "forbidden", some, brute_force_tiles(some)
    yield "unlimited", TileColumns(energy, [0, 1], [4, 4], ones, math.inf, 2), 0.0
    yield "nothing kept", TileColumns(energy, [0, 1], [4, 4], ones, 0.0, 2), 20.0
    yield "out of reach", TileColumns(energy, [0, 1], [4, 4], ones + 1, 1.5, 2), None
    yield "part of a tile", TileColumns([[5.0, 4.0]], [0], [2], [[0.0, 1.0]], 1.0, 2, 1), 4.0
    yield "part of a tile, forced", TileColumns([[5.0, 4.0]], [0], [2], [[np.inf, 1.0]], 1.0, 2, 1), 4.0
    both = TileColumns(energy, [0, 1], [4, 4], [[9.0, 9.0, 1.0], [0.0, 1.0, 2.0]], 3.0, 2, 4.0)
    yield "more tiles cost less", both, brute_force_tiles(both)


def coupled_knapsacks() -> Iterator[tuple[str, Any, float | None]]:
    """Coupled choices: chains, stars, forests, circles, no edges at all, a budget out of reach."""
    rng = np.random.default_rng(19)
    for k in range(16):
        shape = ("chain", "star", "forest", "circle")[k % 4]
        problem = random_coupled(rng, shape)
        yield f"{shape}-{k}", problem, brute_force_coupled(problem)
    single = CoupledKnapsack([[3.0, 1.0, 0.0]], [[0.0, 1.0, 2.0]], [], [], 1.0)
    yield "one group", single, 1.0
    yield "out of reach", CoupledKnapsack([[1.0, 0.0]] * 2, [[1.0, 2.0]] * 2, [(0, 1)], [[[1, 1], [1, 1]]], 2.5), None
