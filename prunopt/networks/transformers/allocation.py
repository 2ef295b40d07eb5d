"""Allocations of a transformer: an evaluator that can be sent to workers, and every method by its name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from prunopt.core import validate
from prunopt.core.arrays import Floats
from prunopt.problems.allocation.registry import ALLOCATION_RULES, BOUNDS, allocation_rule

NAMES = tuple(ALLOCATION_RULES)
SWAPS = "swaps"  # mckp, then swaps of levels on the model's own loss
TRIALS, TOP = 60, 8
SEARCHED, JUDGED = 4, 6  # windows of the calibration


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

    def __init__(self, model: Any, calibration: Any, *, windows: int = SEARCHED) -> None:
        from prunopt.networks.transformers.calibration import as_calibration
        from prunopt.networks.transformers.evaluators import SparsityMasks, TextEvaluator

        self._calibration, self._used = as_calibration(calibration), windows
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

    def judge(self, windows: int = JUDGED) -> Any:
        """Return the same divergence on windows of the calibration that `loss` does not see."""
        from prunopt.networks.transformers.evaluators import TextEvaluator

        others = self._calibration.windows[self._used : self._used + windows]
        must, mend = f"have more than {self._used} windows to judge a search", "pass more --windows"
        validate.require(len(others), "calibration", must, validate.Shown(str(len(self._calibration.windows))), mend)
        return TextEvaluator(self.masks, others, measure="kl")


def swapped_allocation(model: LoadedModel, sparsity: float, *, bounds: Any = BOUNDS) -> Floats:
    """Return the allocation of mckp, improved by swaps of levels on the model's divergence from the dense one.

    `TRIALS` trials of `LevelSwap` from there; the best `TOP` of them and the start are judged on other windows.
    """
    from prunopt.problems.allocation.allocation_search import AllocationSearch
    from prunopt.study.run import search

    judge = model.judge()
    start = named_allocation("mckp", model, sparsity, bounds=bounds)
    task = AllocationSearch(model, model.sizes, sparsity, "levels", bounds=bounds, start=start, fidelities=(0.5, 1.0))
    found = search(task, trials=TRIALS, solver="level-swap").chosen(judge, TOP)
    return start if judge.loss(start) < found.attributes["judged"] else np.asarray(found.decision, np.float64)


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
