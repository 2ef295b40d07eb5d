"""The random network that a lottery ticket is found in: its draws, and which of them a weight may use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunopt.core.arrays import Floats, Ints
from prunopt.core.validate import Shown, invalid
from prunopt.forms.random_pools import (
    GAMMA,
    golden_levels,
    hyperbolic_samples,
    product_width,
    signed_draws,
)
from prunopt.problems.lottery.target import Target, TargetLayer

BOUNDS = {"subset-sum": 0.5, "golden-ratio": 1.0}  # on the absolute weights, for factors up to 1
COVERED = 0.25  # what one pool of products of uniform factors is proven to cover; two of them cover twice as much
CHUNK = 2**24  # products looked at in one go


@dataclass(frozen=True, eq=False)
class RandomPair:
    """Two random layers and a ReLU between them, that stand for one linear map of the target.

    Every pool holds M neurons that read one input (or nothing, for the pool of a bias).

    Parameters
    ----------
    layer
        The linear map.
    first : (n_pools, M) float
        The weight of each neuron on its input (its bias, in the pool of a bias).
    second : (out, taps, M) float
        The weights of the outputs on the neurons of the tap's pool.
    largest
        The bound on the absolute weights of the map.
    levels
        Number of intervals of the golden-ratio construction; 0 for subset sums.
    top
        Upper end of the first interval.
    factor
        Greatest absolute value of a draw; the least is ``lowest`` (0 for uniform draws).
    lowest
        See ``factor``.
    """

    layer: TargetLayer
    first: Floats
    second: Floats
    largest: float
    levels: int
    top: float
    factor: float
    lowest: float

    @property
    def width(self) -> int:
        """Neurons of each pool."""
        return int(self.first.shape[1])

    @property
    def n_sampled(self) -> int:
        """Number of parameters of the two random layers, unpruned."""
        layer, neurons = self.layer, self.first.size
        taps = layer.kernel[1] * layer.kernel[2]
        first = neurons * (layer.n_inputs + layer.has_bias)
        return first + layer.n_outputs * (neurons // layer.groups) * taps

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
        """Return more draws from the distribution of the weights."""
        return _draw(shape, self.lowest, self.factor, rng)


@dataclass(frozen=True, eq=False)
class PoolBlock:
    """Targets of one layer on one half of the ReLU, and the neurons that each may use.

    Parameters
    ----------
    pair
        Number of the pair.
    half
        +1: inputs above 0 (and biases), -1: inputs below 0.
    index : (out, taps, n) int64
        The neurons of the pool, -1 for none.
    """

    pair: int
    half: int
    index: Ints


def sample(
    target: Target, construction: str, epsilon: float, delta: float, width: int | None, rescale: bool, seed: int
) -> tuple[RandomPair, ...]:
    """Draw the pairs of random layers."""
    bound = BOUNDS[construction]
    halves = sum(layer.weights.size * (1 + layer.signed) for layer in target.layers)
    reach = [float(np.abs(layer.weights).max()) for layer in target.layers]
    beyond = [(layer.name, r) for layer, r in zip(target.layers, reach, strict=True) if r > bound]
    if beyond and not rescale:
        name, most = max(beyond, key=lambda pair: pair[1])
        raise invalid(
            f"weights of {name}",
            f"be at most {bound:g} for construction={construction!r}",
            Shown(f"{most:.6g}"),
            f"rescale=True draws random weights from a range {math.sqrt(most / bound):.4g} times as wide (the same as "
            f"dividing the layer by {most / bound:.6g}, which a ReLU network allows)",
        )
    pairs = []
    for number, layer in enumerate(target.layers):
        largest = max(reach[number], 2 * epsilon) if rescale else bound
        if construction == "subset-sum" and not rescale:
            largest = COVERED
        rngs = [np.random.default_rng([seed, number, part]) for part in (0, 1)]
        if construction == "subset-sum":
            if reach[number] <= largest:
                m = width or uniform_draws(target, layer, epsilon, delta, largest, halves)
            else:  # a weight is two halves, each within epsilon / 2 of a sum from a pool of its own
                m = width or 2 * uniform_draws(target, layer, epsilon / 2, delta, largest, 2 * halves)
            levels, top, lowest, factor = 0, 0.0, 0.0, math.sqrt(largest / COVERED)
            largest = max(largest, bound if reach[number] > largest else 0.0)
        else:
            levels = golden_levels(epsilon, largest)
            m = width or golden_draws(levels, delta, halves)
            top = largest * GAMMA
            low = top * GAMMA**levels
            # Both factors are log-uniform over as many e-foldings as the products have to cover, as in product_samples.
            middle, half = math.sqrt(math.sqrt(low * top)), math.sqrt(top / low)
            lowest, factor = middle / half, middle * half
        shapes = ((layer.n_pools, m), (*layer.weights.shape, m))
        first, second = (_draw(shape, lowest, factor, rng) for shape, rng in zip(shapes, rngs, strict=True))
        pairs.append(RandomPair(layer, first, second, largest, levels, top, factor, lowest))
    return tuple(pairs)


def uniform_draws(
    target: Target, layer: TargetLayer, epsilon: float, delta: float, largest: float, n_targets: int
) -> int:
    """Neurons of a pool for the subset-sum construction: half of delta for the sums, half for the signs."""
    needed = product_width(epsilon, delta / 2, n_weights=n_targets, largest=largest)
    return signed_draws(needed, sum(each.n_pools for each in target.layers), delta / 2)


def golden_draws(levels: int, delta: float, n_targets: int) -> int:
    r"""Neurons of a pool for the golden ratio: :math:`\lceil \ln (k N / \delta) / (p / 4) \rceil`, coupon collector.

    Every interval has the mass p = (1 + 1/k) / (2 k) under the product of two log-uniform factors; a quarter of the
    products have the signs that a target on one half of the ReLU needs. The neurons of an input serve all outputs,
    whose second weights are draws of their own.
    """
    mass = (1 + 1 / levels) / (2 * levels) / 4
    return math.ceil(math.log(levels * n_targets / delta) / mass)


def blocks(pairs: tuple[RandomPair, ...]) -> tuple[PoolBlock, ...]:
    """Return which neurons each target may use: all of the right sign, or one of each golden interval."""
    found = []
    for number, pair in enumerate(pairs):
        layer = pair.layer
        for half in (1, -1) if layer.signed else (1,):
            taps = layer.weights.shape[1] - (layer.has_bias and half < 0)
            pool = layer.pool_of[:, :taps]
            index = _golden_index(pair, half, pool) if pair.levels else _signed_index(pair.first, half)[pool]
            found.append(PoolBlock(number, half, index))
    return tuple(found)


def products(pair: RandomPair, block: PoolBlock) -> Floats:
    """Return the candidates of a block, shape (out, taps, n): 0 where there is none."""
    taps = block.index.shape[1]
    place = np.maximum(block.index, 0)
    first = pair.first[pair.layer.pool_of[:, :taps, None], place]
    found: Floats = np.where(block.index >= 0, first * np.take_along_axis(pair.second[:, :taps], place, axis=2), 0.0)
    return found


def _draw(shape: tuple[int, ...], lowest: float, factor: float, rng: np.random.Generator) -> Floats:
    """Draws that float32 holds exactly, so that a product of two is exact in float64."""
    if lowest > 0:
        values = hyperbolic_samples(shape, lowest, factor, seed=rng, signed=True)
    else:
        values = rng.uniform(-factor, factor, shape)
    return values.astype(np.float32).astype(np.float64)


def _signed_index(first: Floats, half: int) -> Ints:
    """The neurons whose first weight has the sign ``half``, in order, padded with -1."""
    right = np.sign(first) == half
    order = np.argsort(~right, axis=1, kind="stable")
    out = np.where(np.take_along_axis(right, order, axis=1), order, -1)
    return np.ascontiguousarray(out[:, : max(1, int(right.sum(axis=1).max(initial=0)))]).astype(np.int64)


def _golden_index(pair: RandomPair, half: int, pool: Ints) -> Ints:
    """The first neuron whose product lies in each interval and has the target's sign (the paper's assignment)."""
    outputs, taps = pool.shape
    index = np.full((outputs, taps, pair.levels), -1, np.int64)
    step = max(1, CHUNK // max(1, taps * pair.width))
    for start in range(0, outputs, step):
        rows = slice(start, start + step)
        first = pair.first[pool[rows]]
        product = first * pair.second[rows, :taps]
        sign = np.where(pair.layer.weights[rows, :taps, None] < 0, -1.0, 1.0)
        with np.errstate(divide="ignore"):
            level = np.floor(np.log(pair.top / np.abs(product)) / -math.log(GAMMA))
        fits = (np.sign(first) == half) & (product * sign > 0) & (level >= 0) & (level < pair.levels)
        level = np.where(fits, level, -1)
        for i in range(pair.levels):
            here = level == i
            at = here.argmax(axis=2)
            index[rows, :, i] = np.where(here.any(axis=2), at, -1)
    return index


def described(pairs: tuple[RandomPair, ...]) -> list[dict[str, Any]]:
    """Return the width and the range of the draws of each pair, for reports."""
    return [
        {
            "layer": pair.layer.name,
            "neurons_of_each_input": pair.width,
            "draws_up_to": pair.factor,
            "draws_from": pair.lowest,
            "largest_weight": float(np.abs(pair.layer.weights).max()),
            "bound_on_weights": pair.largest,
        }
        for pair in pairs
    ]
