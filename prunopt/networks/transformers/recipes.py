"""What `prune_transformer` and ``prunopt prune`` do where nothing else is asked for: one place for both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from prunopt.core import validate
from prunopt.core.deprecation import say, warn

SHRINKAGE = 0.2  # of Hessians towards their diagonals; what serves the whole model, see benchmarks
FORMATS = ("float32", "bfloat16", "float16")
UNITS = ("heads", "ffn")
ALL_UNITS = (*UNITS, "experts")
STRUCTURED = ("wanda", "obs-swap", "obs-greedy", "slimgpt", "magnitude", "obs-branch-and-bound")
PATTERNED = ("sparsegpt", "obc", "mask-descent", "mask-enumeration", "wanda", "magnitude", "tile-flow", "maskllm")

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
    """The defaults for one kind of request, as measured on SmolLM2: docs/results/transformers.md.

    Parameters
    ----------
    method, allocation
        Names of the solver and of the rule that gives each block its sparsity where shapes may differ.
    damping
        Of the Hessian, as a multiple of its mean diagonal.
    methods
        Names of all solvers for this kind of request.
    sparsity
        Fraction removed.
    units
        What is removed.
    shrinkage
        Of Hessians towards their diagonals where weights are re-solved.
    """

    method: str
    allocation: str
    damping: float
    methods: tuple[str, ...]
    sparsity: float = 0.2
    units: tuple[str, ...] = ()
    shrinkage: float | str = SHRINKAGE


WHOLE_UNITS = Recipe("wanda", "log", 0.1, STRUCTURED, units=("ffn",))
SINGLE_WEIGHTS = Recipe("sparsegpt", "uniform", 0.01, PATTERNED, shrinkage="auto")
FREE_WEIGHTS = replace(SINGLE_WEIGHTS, method="obc")


WHOLE_HEADS = replace(WHOLE_UNITS, method="obs-branch-and-bound", units=("heads",))
WORK = 1e8  # nodes times squared inputs of an output projection that a search for heads may take by default: seconds


def recipe_for(pattern: Any, units: Any = None) -> Recipe:
    """Return the defaults of a request: for heads or other whole units without a pattern, else for single weights."""
    if pattern is not None:
        return FREE_WEIGHTS if pattern == "unstructured" else SINGLE_WEIGHTS
    return WHOLE_HEADS if units == "heads" or list(units or ()) == ["heads"] else WHOLE_UNITS


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
        `prunopt.networks.transformers.layer.shrunk`. It helps outside the calibration's domain most. ``"auto"``: chosen
        for each layer by windows left out, see `prunopt.networks.transformers.shrinkage.chosen_shrinkage`. None: auto
        for single weights and 0.2 for whole units where weights are re-solved, but 0 for slimgpt, which is as
        published, and magnitude.
    free_shapes
        True: blocks end in shapes of their own, as the allocation says, and the folder comes with a modeling file for
        ``from_pretrained(folder, trust_remote_code=True)``. False: one shape in all blocks, which stock code loads; see
        `prunopt.networks.transformers.one_shape.one_shape_plan`. None: one shape, unless an allocation is given whose
        blocks differ, or the model's configuration cannot state what is asked for, which a note then says.
    dtype
        The number format of the result, ``"bfloat16"``, ``"float16"`` or ``"float32"``; None: that of the checkpoint.
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
    uniform
        The old name of ``free_shapes=False``.
    """

    refit: bool = True
    damping: float | None = None
    shrinkage: float | str | None = None
    free_shapes: bool | None = None
    dtype: str | None = None
    activations_dir: str | None = None
    in_place: bool = False
    progress: Callable[[int, int, Any], Any] | None = None
    evaluation: Mapping[str, Any] | None = None
    uniform: bool | None = None

    def __post_init__(self) -> None:
        if self.uniform is not None:
            warn(f"PruneOptions(uniform={self.uniform})", f"free_shapes={not self.uniform}")
            object.__setattr__(self, "free_shapes", not self.uniform)
            object.__setattr__(self, "uniform", None)
        if self.dtype is not None:
            validate.one_of("dtype", self.dtype, FORMATS)
        if self.damping is not None:
            validate.number("damping", self.damping, low=0)
        shrinkage_of(self.shrinkage, "", self.refit)


def shrinkage_of(
    shrinkage: float | str | None, method: str, refit: bool, default: float | str = SHRINKAGE
) -> float | str:
    """Return the shrinkage; the default is for weights that are re-solved, but not for what is as published."""
    if shrinkage is None:
        return default if refit and method not in ("slimgpt", "magnitude") else 0.0
    if isinstance(shrinkage, str):
        validate.require(shrinkage == "auto", "shrinkage", "be a number from 0 to 1, or 'auto'", shrinkage)
        return shrinkage
    return validate.number("shrinkage", shrinkage, low=0, high=1)
