"""Allocations of a transformer: an evaluator that can be sent to workers, and every method by its name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from prunopt.core.arrays import Floats
from prunopt.problems.allocation.registry import ALLOCATION_RULES, BOUNDS, allocation_rule

NAMES = tuple(ALLOCATION_RULES)


@dataclass(frozen=True)
class MaskedModel:
    """What an allocation costs a transformer whose blocks are masked by Wanda's scores: divergence or loss on text.

    Only the arguments travel to worker processes; model, scores and text are read there on first use.

    Parameters
    ----------
    model
        A folder, or ``smollm2``.
    texts
        Text files, mixed in equal parts.
    windows, length
        How many windows of how many tokens calibrate the scores; as many others (of another seed) are evaluated on.
    measure
        ``"kl"`` from the dense model, or ``"loss"``.
    seed
        Of the windows.
    """

    model: str
    texts: tuple[str, ...]
    windows: int = 8
    length: int = 512
    measure: str = "kl"
    seed: int = 0

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    @property
    def identity(self) -> dict[str, Any]:
        """What a stored search belongs to."""
        from prunopt.core.files import digest

        return {**self.__getstate__(), "texts": [digest(t) for t in self.texts]}

    @cached_property
    def _parts(self) -> tuple[Any, Any, Any]:
        import torch

        from prunopt.networks.transformers.evaluators import SparsityMasks, TextEvaluator
        from prunopt.networks.transformers.reading import read_model
        from prunopt.networks.transformers.text import read_text, token_windows

        model, tokenizer = read_model(self.model)
        model.eval()
        sets = []
        for k in range(2):
            each = max(1, self.windows // len(self.texts))
            parts = [
                token_windows(tokenizer, read_text(t), length=self.length, count=each, seed=self.seed + k)
                for t in self.texts
            ]
            sets.append(torch.cat(parts))
        masks = SparsityMasks(model, sets[0])
        return masks, TextEvaluator(masks, sets[1], measure=self.measure), sets[0]

    @property
    def masks(self) -> Any:
        """The masks of the model, ranked on the calibration windows."""
        return self._parts[0]

    @property
    def sizes(self) -> Floats:
        """Weights of every block's linear layers."""
        return np.array(self.masks.block_sizes, np.float64)

    @cached_property
    def blocks(self) -> Any:
        """`block_statistics` of the dense model on the calibration windows."""
        from prunopt.networks.transformers.block_statistics import block_statistics

        return block_statistics(self.masks.model, self._parts[2])

    def loss(self, allocation: Any, *, fidelity: float = 1.0) -> float:
        """Return the measure of an allocation, in nats per token."""
        return float(self._parts[1].loss(allocation, fidelity=fidelity))


class LoadedModel:
    """The same of a model that is in memory: masks and statistics from a calibration, divergence on its first windows.

    Parameters
    ----------
    model
        A transformer of a known family.
    calibration
        As for `prune_transformer`.
    windows
        How many of its windows an evaluation runs through.
    """

    def __init__(self, model: Any, calibration: Any, *, windows: int = 4) -> None:
        from prunopt.networks.transformers.calibration import as_calibration
        from prunopt.networks.transformers.evaluators import SparsityMasks, TextEvaluator

        self._calibration = as_calibration(calibration)
        self.masks = SparsityMasks(model, self._calibration)
        self._text = TextEvaluator(self.masks, self._calibration.windows[:windows], measure="kl")
        self.sizes: Floats = np.array(self.masks.block_sizes, np.float64)

    @cached_property
    def blocks(self) -> Any:
        """`block_statistics` of the dense model."""
        from prunopt.networks.transformers.block_statistics import block_statistics

        return block_statistics(self.masks.model, self._calibration)

    def loss(self, allocation: Any, *, fidelity: float = 1.0) -> float:
        """Return the divergence from the dense model, in nats per token."""
        return float(self._text.loss(allocation, fidelity=fidelity))


def named_allocation(name: str, evaluator: Any, sparsity: float, *, bounds: Any = BOUNDS) -> Floats:
    """Return the allocation of a rule of `prunopt.problems.allocation.registry` over the blocks of a model.

    Parameters
    ----------
    name
        One of ``ALLOCATION_RULES``.
    evaluator
        A `MaskedModel`, a `LoadedModel`, or anything with their ``sizes``, ``blocks`` and ``loss``.
    sparsity
        Fraction of all blocks' weights to remove.
    """
    from prunopt.api import solve

    return allocation_rule(name)(evaluator, sparsity, solve=solve, bounds=bounds)
