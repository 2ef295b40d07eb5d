"""The sparsity of every block, from whatever names it: a rule, a file, numbers, or a rule of the user's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prunopt.api import solve
from prunopt.core import validate
from prunopt.core.arrays import Floats
from prunopt.core.files import read_json
from prunopt.networks.transformers.allocation import NAMES, SWAPS, LoadedModel, named_allocation, swapped_allocation
from prunopt.networks.transformers.calibration import Calibration
from prunopt.networks.transformers.families import blocks
from prunopt.networks.transformers.sensitivity import best_sparsities, neuron_sensitivity
from prunopt.networks.transformers.surgery import parameters_of

Allocation = str | os.PathLike[str] | Sequence[float] | NDArray[Any] | Callable[..., Any]
MOST = 0.95  # sparsity of a block
BY_SIZE = ("uniform", "log")  # rules that ask nothing of the model but its blocks' sizes


def read_allocation(path: str | os.PathLike[str]) -> list[float]:
    """Return the sparsities of blocks in a JSON file: a list, or an object with one under ``allocation``."""
    found = read_json(path)
    given = found.get("allocation", found.get("shares")) if isinstance(found, dict) else found
    if not isinstance(given, list) or not all(isinstance(s, int | float) for s in given):
        mend = "write a list, or an object with one under 'allocation'"
        raise validate.invalid("allocation", "be a JSON file of numbers", os.fspath(path), mend)
    return given


def resolved(allocation: Allocation) -> Any:
    """Return the name of a rule, numbers or a callable; a path is read."""
    names = (*NAMES, SWAPS)
    named = isinstance(allocation, str) and allocation in names
    if isinstance(allocation, str | os.PathLike) and not named and Path(allocation).is_file():
        return read_allocation(allocation)
    if isinstance(allocation, str | os.PathLike):
        return validate.one_of("allocation", allocation, names, "or pass a JSON file with the sparsity of each block")
    return allocation if callable(allocation) else np.asarray(allocation, np.float64)


def block_sparsities(
    allocation: Any, model: nn.Module, tokens: Calibration, sparsity: float, *, units: Sequence[str], damping: float
) -> tuple[Floats, tuple[str, ...]]:
    """Return the sparsity of every block, and notes on how it was found.

    Parameters
    ----------
    allocation
        What `resolved` returns. A callable is asked as ``rule(model, sparsity, solve=prunopt.solve)`` with a
        `LoadedModel`.
    model
        Dense; rules that measure mask its weights and put them back.
    units
        What is removed; empty for single weights. With ``("ffn",)`` the rule mckp measures neurons.
    """
    found = blocks(model)
    if isinstance(allocation, str) and allocation == "mckp" and tuple(units) == ("ffn",):
        # Neurons are removed until the blocks' parameters meet the budget: their mean sparsity is larger.
        sizes = [parameters_of(b) for b in found]
        neurons = sum(s["feed_forward"] for s in sizes)
        whole = neurons + sum(s["attention"] for s in sizes)
        curves = neuron_sensitivity(model, tokens, sparsity * whole / neurons, damping=damping)
        numbers, gap = best_sparsities(curves, model, sparsity)
        note = f"allocation by a knapsack on measured curves, gap {gap:.1e} (of the sum of blocks' effects)"
        return scaled_to_mean(numbers, sparsity), (note,)
    if isinstance(allocation, str):
        if allocation == "uniform":
            return np.full(len(found), sparsity), ()
        if allocation == SWAPS:
            validate.require(not units, "allocation", "be another rule for whole units", SWAPS, "or pass a pattern")
            return swapped_allocation(LoadedModel(model, tokens), sparsity), ()
        weights = [sum(parameters_of(b)[part] for part in ("attention", "feed_forward")) for b in found]
        evaluator: Any = SimpleNamespace(sizes=weights) if allocation in BY_SIZE else LoadedModel(model, tokens)
        return named_allocation(allocation, evaluator, sparsity), ()
    if callable(allocation):
        allocation = allocation(LoadedModel(model, tokens), sparsity, solve=solve)
    numbers = validate.floats("allocation", allocation, (len(found),), low=0, high=1)
    validate.require((numbers < 1).all(), "allocation", "leave something of every block", numbers.tolist())
    return scaled_to_mean(numbers, sparsity), ()


def scaled_to_mean(shape: Floats, mean: float) -> Floats:
    """Return min(c * shape, `MOST`) with c such that the mean is as asked; ValueError where no c does."""
    most = MOST * float(np.mean(shape > 0))
    mend = f"blocks lose {MOST} of their weights at most, and those with sparsity 0 nothing"
    validate.number("sparsity", mean, low=0, high=most, mend=mend)
    if mean == 0:
        return np.zeros(len(shape))
    low, high = 0.0, MOST / max(float(shape[shape > 0].min()), 1e-12)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(middle * shape, MOST).mean() < mean else (low, middle)
    return np.minimum(high * shape, MOST)
