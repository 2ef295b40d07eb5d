"""What `prune_transformer` and ``prunopt prune`` do where nothing else is asked for: one place for both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prunopt.core import validate
from prunopt.core.deprecation import say

SHRINKAGE = 0.2  # of Hessians towards their diagonals; what serves the whole model, see benchmarks
UNITS = ("heads", "ffn")
STRUCTURED = ("wanda", "obs-swap", "obs-greedy", "slimgpt", "magnitude", "obs-branch-and-bound")
PATTERNED = ("sparsegpt", "mask-descent", "mask-enumeration", "wanda", "magnitude", "maskllm")

REMOVED = {  # options that measurements rejected
    "rarity": "weights of rare tokens made perplexity worse at 2:4, in the calibration's domain and outside it",
    "correction": "taking back what earlier blocks changed made perplexity worse outside the calibration's domain",
}


def refuse_removed(options: dict[str, Any]) -> None:
    """Take removed options out; ValueError says why one is gone, unless it has its old default."""
    for name in REMOVED.keys() & options.keys():
        value, why = options.pop(name), REMOVED[name]
        validate.require(not value, name, "be left out", value, f"it was removed: {why}")
        say(f"{name} is deprecated: it was removed, {why}")


@dataclass(frozen=True)
class Recipe:
    """The defaults for one kind of request: the row "ours" of the tables of SmolLM2 in benchmarks/RESULTS.md.

    Parameters
    ----------
    method, allocation
        Names of the solver and of the rule that gives each block its sparsity.
    damping
        Of the Hessian, as a multiple of its mean diagonal.
    methods
        Names of all solvers for this kind of request.
    sparsity
        Fraction removed.
    units
        What is removed.
    """

    method: str
    allocation: str
    damping: float
    methods: tuple[str, ...]
    sparsity: float = 0.2
    units: tuple[str, ...] = ()


WHOLE_UNITS = Recipe("wanda", "log", 0.1, STRUCTURED, units=("ffn",))
SINGLE_WEIGHTS = Recipe("sparsegpt", "uniform", 0.01, PATTERNED)


def recipe_for(pattern: Any) -> Recipe:
    """Return the defaults of a request: for whole units where no pattern is given, for single weights otherwise."""
    return WHOLE_UNITS if pattern is None else SINGLE_WEIGHTS


@dataclass(frozen=True)
class PruneOptions:
    r"""Details of `prune_transformer`.

    Parameters
    ----------
    refit
        Re-solve the kept weights together. False: wanda, magnitude and sparsegpt end with their published weights.
    damping
        :math:`\lambda` as a multiple of the mean diagonal; None: 0.1 for units, 0.01 for patterns. It goes up tenfold
        where the Hessian cannot be factored, and the report says so.
    shrinkage
        :math:`\rho` from 0 to 1: the Hessians' off-diagonal entries count :math:`1 - \rho`, see
        `prunopt.networks.transformers.layer.shrunk`. It helps outside the calibration's domain most. None: 0.2 where
        weights are re-solved, but 0 for slimgpt, which is as published, and magnitude.
    uniform
        The same shape in all blocks, so that stock code loads the result: widths are multiples of 64 or 8, and as many
        heads stay as the model's configuration can state.
    activations_dir
        A folder for memory-mapped activations; None: they are in memory.
    in_place
        Change the given model instead of a copy.
    progress
        Called with the number of layers done, of all layers, and the report of each.
    evaluation
        Windows of tokens (n, length), by the name of their text, on which the model is scored before and after; two
        named ``"calibration"`` (held out of it) and ``"second_text"`` are compared with one another. None: the model's
        size alone is told.
    """

    refit: bool = True
    damping: float | None = None
    shrinkage: float | None = None
    uniform: bool = False
    activations_dir: str | None = None
    in_place: bool = False
    progress: Callable[[int, int, Any], Any] | None = None
    evaluation: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.damping is not None:
            validate.number("damping", self.damping, low=0)
        if self.shrinkage is not None:
            validate.number("shrinkage", self.shrinkage, low=0, high=1)


def shrinkage_of(shrinkage: float | None, method: str, refit: bool) -> float:
    """Return the shrinkage; by default `SHRINKAGE` where weights are re-solved, but not for what is as published."""
    if shrinkage is None:
        return SHRINKAGE if refit and method not in ("slimgpt", "magnitude") else 0.0
    return validate.number("shrinkage", shrinkage, low=0, high=1)
