"""What heads cost in milliseconds, measured: the budget of a `HeadSelection` in time."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from prunopt.core.arrays import Floats
from prunopt.networks.cnn.latency import interleaved
from prunopt.networks.heads.layers import HeadLayer, head_layers
from prunopt.networks.heads.losses import Batch
from prunopt.networks.heads.surgery import prune_heads


@dataclass(frozen=True, eq=False)
class HeadTimes:
    """Milliseconds of a model, linear in its heads.

    Parameters
    ----------
    dense
        Of the whole model.
    cost : (heads,) float
        Of each head: what its layer takes less without any heads, shared out among them.
    """

    dense: float
    cost: Floats

    @property
    def fixed(self) -> float:
        """Of the model without heads."""
        return max(0.0, self.dense - float(self.cost.sum()))


def head_milliseconds(model: nn.Module, batch: Batch, *, repeats: int = 15, threads: int = 1) -> HeadTimes:
    """Time the model against copies in which one layer has lost all heads: interleaved, medians.

    Layers of the same shape share one measurement. Time is not exactly linear in the number of heads: measure the
    model that comes out, too.

    Parameters
    ----------
    batch
        The inputs that it is timed on: their size and length are part of what is measured.
    repeats, threads
        Rounds, and threads of torch.
    """
    layers = head_layers(model)
    shapes = [_shape(layer) for layer in layers]
    models: dict[Any, nn.Module] = {"dense": model.eval()}
    flags = np.ones(sum(layer.n_heads for layer in layers), np.bool_)
    ends = np.cumsum([layer.n_heads for layer in layers])
    for k, shape in enumerate(shapes):
        if shape not in models and layers[k].n_heads:
            kept = flags.copy()
            kept[ends[k] - layers[k].n_heads : ends[k]] = False
            models[shape] = prune_heads(model, kept).model
    jobs = {str(name): _job(m, batch) for name, m in models.items()}
    taken = {name: statistics.median(times) for name, times in interleaved(jobs, repeats, threads).items()}
    dense = taken["dense"]
    parts = [
        np.full(layer.n_heads, max(0.0, dense - taken[str(shape)]) / max(1, layer.n_heads))
        for layer, shape in zip(layers, shapes, strict=True)
        if layer.n_heads
    ]
    return HeadTimes(dense, np.concatenate([*parts, np.zeros(0)]))


def time_models(models: dict[str, nn.Module], batch: Batch, *, repeats: int = 15, threads: int = 1) -> dict[str, float]:
    """Return milliseconds of several models on one batch: interleaved, medians."""
    jobs = {name: _job(m, batch) for name, m in models.items()}
    return {name: statistics.median(times) for name, times in interleaved(jobs, repeats, threads).items()}


def _shape(layer: HeadLayer) -> tuple[int, int, int]:
    return layer.n_heads, layer.n_groups, layer.head_dim


def _job(model: nn.Module, batch: Batch) -> Any:
    def run() -> None:
        with torch.inference_mode():
            batch.run(model)

    return run


def even_batch(batches: Sequence[Batch]) -> Batch:
    """Return the batch of middle length, to time a model on."""
    return sorted(batches, key=lambda b: _length(b))[len(batches) // 2]


def _length(batch: Batch) -> int:
    tensor = next(iter(batch.inputs.values())) if hasattr(batch.inputs, "values") else batch.inputs
    return int(tensor.shape[1])
