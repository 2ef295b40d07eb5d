"""Alternatives of blocks chosen by what whole models lose: programs with learned weights, judged on other windows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from prunopt.core import validate
from prunopt.core.arrays import Floats, Ints
from prunopt.core.budget import Budgets
from prunopt.core.solution import SolveError
from prunopt.networks.transformers.alternatives import Alternatives, Chosen
from prunopt.networks.transformers.calibration import as_calibration
from prunopt.networks.transformers.families import blocks, replace_weight, weight_of
from prunopt.networks.transformers.text import divergence, logits_of
from prunopt.problems.allocation.learned_weights import learned_weights

WHOLE = (2.0, 4.0)  # factors of losses of parts that go as a whole, tried first; then without such parts
LEAST = 0.1  # of a learned weight
SECONDS, GAP = 5.0, 1e-9  # for a choice with weights


@dataclass(frozen=True)
class ChoiceOptions:
    """Details of `choose_by_model`.

    Parameters
    ----------
    evaluations
        Choices whose divergence is measured; 1: what the sum of losses says is taken.
    windows, judges
        Windows of the calibration, behind those that the library was measured on, on which the search measures and, on
        further ones, the best are compared with what the sum of losses says. Where there are fewer, fewer are used.
    finalists
        How many of the best are compared.
    spread
        Of the logarithms of the factors that weights are varied by.
    strength
        Of the pull of learned weights towards 1 (see `learned_weights`).
    progress
        Called with the number of choices measured, and of all.
    """

    evaluations: int = 32
    windows: int = 2
    judges: int = 4
    finalists: int = 4
    spread: float = 0.4
    strength: float = 2.0
    progress: Callable[[int, int], Any] | None = None

    def __post_init__(self) -> None:
        for name in ("evaluations", "windows", "judges", "finalists"):
            validate.whole_number(name, getattr(self, name), low=1)
        for name in ("spread", "strength"):
            validate.number(name, getattr(self, name), low=0, open_ends="(")


@dataclass(frozen=True, eq=False)
class ModelChoice:
    """A choice, and how it came about.

    Parameters
    ----------
    chosen
        The choice; its loss, bound, gap and prices are those of the program with the weights that led to it.
    judged
        Divergences on the judges' windows, by name: ``"sum of losses"``, and the finalists ``"1"``, ``"2"``; empty
        where nothing was compared.
    evaluations
        Passes of the whole model over the search's windows.
    note
        In words.
    """

    chosen: Chosen
    judged: dict[str, float]
    evaluations: int
    note: str


class ExchangedModel:
    """A model whose blocks can be given any alternatives of a library, for as long as it is open.

    Parameters
    ----------
    model
        Whole; `close` leaves it as it was.
    library
        With files of re-solved projections.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, library: Alternatives) -> None:
        validate.require(library.files is not None, "alternatives", "keep their projections", validate.Shown("none"))
        self.model, self.library, self.blocks = model, library, blocks(model)
        self._levels = np.zeros(len(self.blocks), np.int64)
        self._kept = [
            [(copy.deepcopy(weight_of(layer).detach()), copy.deepcopy(layer.bias)) for _, layer in self._parts(k)]
            for k in range(len(self.blocks))
        ]

    def _parts(self, k: int) -> list[tuple[str, Any]]:
        block = self.blocks[k]
        found = (("attention", block.attention), ("mlp", block.feed_forward))
        return [(name, part.projection) for name, part in found if part is not None]

    @torch.no_grad()
    def set(self, levels: Ints) -> None:
        """Give every block an alternative by its number; 0 is the block as it was."""
        for k in np.flatnonzero(self._levels != levels).tolist():
            sizes = {"attention": self.library.groups[k], "mlp": self.library.neurons[k]}
            gone = all(size[levels[k]] == 0 for size in sizes.values())
            for (name, layer), (weight, bias) in zip(self._parts(k), self._kept[k], strict=True):
                size, shape = int(sizes[name][levels[k]]), tuple(weight.shape)
                new = weight
                if gone:
                    new = torch.zeros_like(weight)
                elif size != sizes[name][0] and self.library.files is not None:
                    new = self.library.files.projection(k, name, size, shape)
                replace_weight(layer, new, torch.zeros_like(bias) if gone and bias is not None else bias)
        self._levels = np.array(levels)

    def close(self) -> None:
        """Leave the model as it was."""
        self.set(np.zeros_like(self._levels))


@torch.no_grad()
def choose_by_model(
    model: nn.Module, calibration: Any, library: Alternatives, budgets: Budgets, *,
    options: ChoiceOptions | None = None, seed: int = 0,
) -> ModelChoice:  # fmt: skip
    r"""Choose alternatives within budgets by the divergence of the whole model with all of them in place.

    Losses of blocks that were measured one by one do not add up: blocks that go together lose more. So programs are
    solved with weights, :math:`\min \sum_k \gamma_k \, \mathrm{loss}_{k, j_k}`, one for each block's parts that shrink
    and one for those that go as a whole; each choice is put in place and the whole model measured, weights are learned
    from all choices so far (`learned_weights`), and varied. Every choice is within the budgets, as the knapsack
    proves. The best few are compared on windows that took no part, with the choice by the sum of losses.

    Parameters
    ----------
    model, calibration
        As of `measure_alternatives`, whose windows come first.
    library
        With files of re-solved projections.
    budgets
        As of `Alternatives.choose`.
    options
        Details.
    seed
        Same seed, same choice.
    """
    options, windows = options or ChoiceOptions(), as_calibration(calibration).windows
    first = library.choose(budgets)
    rest = windows[int(library.about["windows"]) :]
    judges = rest[len(rest) - min(options.judges, len(rest) // 2) :]
    search = rest[: len(rest) - len(judges)][: options.windows]
    if options.evaluations == 1 or library.files is None or not len(judges):
        why = "one evaluation was asked for" if options.evaluations == 1 else ""
        why = why or ("the library keeps no projections" if library.files is None else "it needs 2 windows more")
        return ModelChoice(first, {}, 0, f"chosen by the sum of losses; no search on the whole model: {why}")
    dense = [logits_of(model, w[None])[0].float().log_softmax(-1) for w in (*search, *judges)]
    place = ExchangedModel(model, library)
    try:
        tried: dict[bytes, tuple[float, Chosen]] = {}
        for choice in _proposed(library, budgets, first, tried, options, np.random.default_rng(seed)):
            place.set(choice.levels)
            tried[choice.levels.tobytes()] = divergence(model, dense[: len(search)], search), choice
            if options.progress is not None:
                options.progress(len(tried), options.evaluations)
        best = sorted(tried.values(), key=lambda pair: pair[0])[: options.finalists]
        judged, found = {}, {"sum of losses": first} | {str(n + 1): pair[1] for n, pair in enumerate(best)}
        for name, choice in found.items():
            place.set(choice.levels)
            judged[name] = divergence(model, dense[len(search) :], judges)
    finally:
        place.close()
    name = min(judged, key=lambda n: judged[n])
    note = (
        f"divergence with all alternatives in place, on {len(judges)} other windows: {judged[name]:.3f} nats per token "
        f"(by the sum of losses {judged['sum of losses']:.3f}); {len(tried)} choices tried"
    )
    return ModelChoice(found[name], judged, len(tried), note)


def _proposed(
    library: Alternatives, budgets: Any, first: Chosen, tried: dict[bytes, tuple[float, Chosen]],
    options: ChoiceOptions, rng: np.random.Generator,
) -> Iterator[Chosen]:  # fmt: skip
    """Give choices that are not tried yet; the caller writes down what each loses before it asks for the next."""
    went = ((library.groups == 0) & (library.groups[:, :1] > 0)) | (
        (library.neurons == 0) & (library.neurons[:, :1] > 0)
    )
    yield first
    # large factors would drown the other losses: what is not to go is left out instead
    kept = replace(library, loss=np.where(went, np.inf, library.loss))
    for part, factor in [*((library, f) for f in WHOLE), (kept, 1.0)]:
        choice = _choice(part, budgets, np.where(went, factor, 1.0))
        if choice is not None and choice.levels.tobytes() not in tried and len(tried) < options.evaluations:
            yield choice
    n, idle = len(library.loss), 0
    while len(tried) < options.evaluations and idle < 2 * options.evaluations:
        gamma = _learned(library, went, tried, options.strength)
        if idle or len(tried) % 3:  # every third choice is what was learned, as it is
            gamma = gamma * np.exp(rng.normal(0.0, options.spread, 2 * n))
        choice = _choice(library, budgets, np.where(went, gamma[n:, None], gamma[:n, None]))
        if choice is None or choice.levels.tobytes() in tried:
            idle += 1
            continue
        idle = 0
        yield choice


def _choice(library: Alternatives, budgets: Any, factors: Floats) -> Chosen | None:
    try:
        return library.choose(budgets, factors=factors, seconds=SECONDS, gap=GAP)
    except SolveError:  # nothing was found within the seconds
        return None


def _learned(library: Alternatives, went: Any, tried: dict[bytes, tuple[float, Chosen]], strength: float) -> Floats:
    """Return the weights of each block's parts that shrink, then of those that go, (2 blocks,)."""
    rows = np.arange(len(library.loss))
    levels = np.array([choice.levels for _, choice in tried.values()])
    losses = library.loss[rows, levels]
    gone = went[rows, levels]
    errors = np.hstack([np.where(gone, 0.0, losses), np.where(gone, losses, 0.0)])
    found = learned_weights(errors, [loss for loss, _ in tried.values()], np.ones(errors.shape[1]), strength=strength)
    return np.maximum(found, LEAST)
