"""How many heads and neurons leave each block, so that a budget of parameters is met to one unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Floats
from prunopt.networks.transformers.families import Block
from prunopt.networks.transformers.surgery import parameters_of

UNITS = ("heads", "ffn")
LAST_TO_FIRST = 4.0  # SlimGPT's recipe: the last layer loses four times the share of the first
WIDTH_STEPS = (
    64,
    8,
    1,
)  # widths stay multiples of the first of these that the dense width is a multiple of, twice over


@dataclass(frozen=True)
class Plan:
    """What leaves the model.

    Parameters
    ----------
    groups, neurons
        Head groups and neurons removed from each block.
    removed, target, total
        Parameters that leave, those that were asked for, and those of all blocks' linear layers.
    unit
        Parameters of the smallest unit that could leave: removed and target differ by less.
    """

    groups: tuple[int, ...]
    neurons: tuple[int, ...]
    removed: int
    target: int
    total: int
    unit: int


def incremental(n: int, mean: float, ratio: float = LAST_TO_FIRST) -> Floats:
    r"""Return SlimGPT's shares, :math:`r_i = r_0 + (r_{n-1} - r_0) \ln(1 + i) / \ln n`, with the given mean.

    The published code has ln 32 for every depth; here it is ln n, and r_0 is solved for, with r_{n-1} = ratio r_0.
    Shares above 0.95 are cut there and the others raised.
    """
    if n == 1:
        return np.array([mean])
    shape = 1 + (ratio - 1) * np.log1p(np.arange(n)) / math.log(n)
    return scaled_to_mean(shape, mean)


def scaled_to_mean(shape: Floats, mean: float, most: float = 0.95) -> Floats:
    """Return min(c * shape, most) with c such that the mean is as asked; ValueError where no c does."""
    if mean > most * np.mean(shape > 0):
        raise ValueError(
            f"sparsity={mean!r}: the shares of layers stay within {most}, so {most} is the most on average"
        )
    low, high = 0.0, most / max(float(shape[shape > 0].min()), 1e-12)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(middle * shape, most).mean() < mean else (low, middle)
    return np.minimum(high * shape, most)


def shares_of(allocation: str | Sequence[float] | NDArray[Any], n: int, sparsity: float) -> Floats:
    """Return the share removed of each of n blocks, their mean as asked.

    Parameters
    ----------
    allocation
        ``"uniform"``, ``"log"`` (`incremental`), or the shares themselves, which are scaled to the sparsity.
    """
    if isinstance(allocation, str):
        if allocation == "uniform":
            return np.full(n, sparsity)
        if allocation == "log":
            return incremental(n, sparsity)
        raise ValueError(f"allocation={allocation!r}: give 'uniform', 'log', or {n} numbers, one for each block")
    given = np.asarray(allocation, np.float64)
    if given.shape != (n,) or not np.isfinite(given).all() or (given < 0).any() or (given >= 1).any():
        raise ValueError(f"allocation: {given.size} numbers given; {n} numbers from 0 to below 1 are needed")
    if sparsity == 0 or not given.any():
        return np.zeros(n)
    return scaled_to_mean(given, sparsity)


def check_sparsity(sparsity: float) -> float:
    """Return the sparsity; ValueError unless it is in [0, 1)."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float | np.floating) or not 0 <= sparsity < 1:
        raise ValueError(f"sparsity={sparsity!r}: give the fraction of the blocks' parameters to remove, 0 <= x < 1")
    return float(sparsity)


def structured_plan(
    blocks: Sequence[Block], sparsity: float, *, units: Sequence[str] = UNITS, shares: Floats, uniform: bool = False
) -> Plan:
    """Return how many units leave each block.

    Head groups leave first, the nearest whole number to a block's share, one at least staying; neurons make up the
    rest, and single neurons are added or taken back until the total is within one unit of the budget.

    Parameters
    ----------
    sparsity
        Fraction removed of the parameters of all blocks' linear layers.
    units
        Of ``"heads"`` and ``"ffn"``.
    shares
        Share removed of each block, before rounding.
    uniform
        The same shapes in all blocks, widths multiples of 64 or 8: stock code can load the result. The budget is then
        met to one such step in all blocks together.
    """
    wanted = tuple(units)
    if not wanted or any(u not in UNITS for u in wanted) or len(set(wanted)) < len(wanted):
        raise ValueError(f"units={units!r}: give some of {', '.join(UNITS)}")
    sizes = [parameters_of(b) for b in blocks]
    total = sum(s["attention"] + s["feed_forward"] for s in sizes)
    target = round(check_sparsity(sparsity) * total)
    if uniform and np.ptp(shares) > 0:
        raise ValueError("uniform=True: asks for the same shape in all blocks; use allocation='uniform' with it")
    groups = [0] * len(blocks)
    if "heads" in wanted:
        for k, block in enumerate(blocks):
            if block.attention is not None:
                most = block.attention.n_groups - 1
                groups[k] = int(min(most, math.floor(shares[k] * block.attention.n_groups + 0.5)))
    neurons = [0] * len(blocks)
    widths = [0 if b.feed_forward is None else b.feed_forward.width for b in blocks]
    if "ffn" in wanted:
        for k, size in enumerate(sizes):
            share = shares[k] * (size["attention"] + size["feed_forward"]) - groups[k] * size["group"]
            neurons[k] = int(np.clip(round(share / max(1, size["neuron"])), 0, max(0, widths[k] - 1)))
    step = 1
    if uniform:
        step = next(s for s in WIDTH_STEPS if all(w % s == 0 and w >= 8 * s for w in widths) or s == 1)
        neurons = [int(min(w - step, round(c / step) * step)) for c, w in zip(neurons, widths, strict=True)]
    plan = _settled(sizes, widths, groups, neurons, target, "ffn" in wanted and not uniform)
    unit = max((s["neuron"] for s in sizes), default=1) if "ffn" in wanted else max(s["group"] for s in sizes)
    if uniform:
        unit *= step * len(blocks)
    removed = sum(g * s["group"] + n * s["neuron"] for g, n, s in zip(groups, plan, sizes, strict=True))
    if removed < target - unit * (1 if "ffn" in wanted else len(blocks)):
        raise ValueError(
            f"sparsity={sparsity!r}: {wanted} can give up {removed} of {total} parameters at most, {target} are asked "
            f"for; ask for {removed / total:.3f} or less, or for more units"
        )
    return Plan(tuple(groups), tuple(plan), removed, target, total, unit)


def _settled(
    sizes: list[dict[str, int]], widths: list[int], groups: list[int], neurons: list[int], target: int, free: bool
) -> list[int]:
    """Add or take back single neurons, in turn from the widest block, until the budget is met to one neuron."""
    out = list(neurons)
    if not free:
        return out
    missing = target - sum(g * s["group"] + n * s["neuron"] for g, n, s in zip(groups, out, sizes, strict=True))
    sign = 1 if missing > 0 else -1
    while True:
        room = [k for k in range(len(out)) if (out[k] < widths[k] - 1 if sign > 0 else out[k] > 0)]
        room = [k for k in room if abs(missing - sign * sizes[k]["neuron"]) < abs(missing)]
        if not room:
            return out
        # The block that has given least (or most, when taking back) of its width goes first.
        k = min(room, key=lambda i: (sign * out[i] / widths[i], i))
        out[k] += sign
        missing -= sign * sizes[k]["neuron"]
