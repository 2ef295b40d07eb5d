"""Allocations by name: one registry for Python and the command line."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunopt.core.arrays import Floats
from prunopt.core.validate import one_of
from prunopt.problems.allocation.atp import best_progression
from prunopt.problems.allocation.layer_allocation import LayerAllocation
from prunopt.problems.allocation.logarithmic import logarithmic
from prunopt.problems.allocation.on_budget import uniform
from prunopt.problems.allocation.owl import owl

BOUNDS = (0.0, 0.95)


@dataclass(frozen=True)
class AllocationRule:
    """A rule that gives every block of a model its sparsity.

    Parameters
    ----------
    name
        As Python (``allocation="owl"``) and the command line (``--allocation owl``) call it.
    needs
        What it asks of the model besides ``sizes``, the weights of every block: ``"loss"``, the model's loss with an
        allocation; of the statistics ``model.blocks`` of the dense blocks ``"outliers"``, the fraction of outliers
        among each block's scores, ``"redundancy"``, the `redundancy_matrix` of the blocks' inputs, or ``"errors"``,
        each block's error at each of the sparsities ``model.blocks.levels``.
    decide
        ``decide(model, sparsity, bounds)`` returns the allocation, or a `LayerAllocation` whose optimum it is.
    """

    name: str
    needs: tuple[str, ...]
    decide: Callable[[Any, float, Any], Floats | LayerAllocation]

    def __call__(self, model: Any, sparsity: float, *, solve: Callable[[Any], Any], bounds: Any = BOUNDS) -> Floats:
        """Return the sparsity of every block.

        Parameters
        ----------
        model
            Has ``sizes``, and what ``needs`` names.
        sparsity
            Fraction of all blocks' weights to remove.
        solve
            `prunopt.solve`, for the rules that are optimization problems.
        bounds
            Least and greatest sparsity of a block.
        """
        found = self.decide(model, sparsity, bounds)
        return np.asarray(solve(found).value) if isinstance(found, LayerAllocation) else found


def allocation_rule(name: str) -> AllocationRule:
    """Return the rule of a name; ValueError names them all."""
    return ALLOCATION_RULES[one_of("allocation", name, tuple(ALLOCATION_RULES))]


def _als(model: Any, sparsity: float, scale: str) -> LayerAllocation:
    near = (max(0.0, sparsity - 0.2), min(0.95, sparsity + 0.2))
    return LayerAllocation.als(model.blocks.redundancy, model.sizes, sparsity, near, scale=scale)


def _mckp(model: Any, sparsity: float, bounds: Any) -> LayerAllocation:
    """Error curves, weighted by the divergence of pruning each block alone: one evaluation a block."""
    n = len(model.sizes)
    kl = np.array([model.loss(row) for row in sparsity * np.eye(n)]) - model.loss(np.zeros(n))
    if not np.all(kl > 0):
        lost = int((kl <= 0).sum())
        warnings.warn(f"{lost} blocks lose nothing when pruned alone; they count with 1e-6", stacklevel=4)
    weights = {"weighting": "kl", "kl": np.maximum(kl, 1e-6), "kl_level": sparsity}
    curves = model.blocks
    return LayerAllocation.from_curves(model.sizes, curves.levels, curves.errors, sparsity, bounds=bounds, **weights)


_RULES = (
    AllocationRule("uniform", (), lambda model, s, bounds: uniform(model.sizes, s, bounds)),
    AllocationRule("owl", ("outliers",), lambda model, s, b: owl(model.blocks.outliers, model.sizes, s, bounds=b)),
    AllocationRule("log", (), lambda model, s, bounds: logarithmic(model.sizes, s, bounds=bounds)),
    AllocationRule("atp", ("loss",), lambda model, s, bounds: best_progression(model.loss, model.sizes, s, bounds)),
    AllocationRule("als", ("redundancy",), lambda model, s, bounds: _als(model, s, "global")),
    AllocationRule("als-row", ("redundancy",), lambda model, s, bounds: _als(model, s, "row")),
    AllocationRule("mckp", ("loss", "errors"), _mckp),
)
ALLOCATION_RULES = {rule.name: rule for rule in _RULES}
