"""Pruning one linear layer: remove weights or groups of columns, re-solve the rest, change its outputs least."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core import validate
from prunopt.core.arrays import Floats
from prunopt.core.problem import Reduced
from prunopt.core.validate import Shown, floats, invalid, require
from prunopt.forms.layer.mask_blocks import MaskBlocks
from prunopt.forms.layer.quadratic_subset import QuadraticSubset


@dataclass(frozen=True, eq=False)
class LayerReconstruction:
    r"""Prune the layer y = W x so that its outputs on calibration inputs X change least.

    .. math::
        \min_{W'} \; \|WX - W'X\|_F^2 + \lambda \|W - W'\|_F^2
        \quad \text{s.t. } W' \text{ has the zeros asked for}

    Parameters
    ----------
    weight : (out, in) float
        The dense weights W.
    hessian : (in, in) float
        X X^T, or a positive multiple of it; `from_inputs` forms it.
    groups, remove
        Groups of input columns and how many of them to remove, see `QuadraticSubset`; or one of
    pattern, sparsity, scope
        an N:M pattern, or the fraction of single weights removed, see `MaskBlocks`.
    damping : float
        lambda as a multiple of the mean diagonal of the Hessian, part of the objective.

    Notes
    -----
    The value is the pruned weight W', shape (out, in).
    """

    weight: Any
    hessian: Any
    groups: Any = field(default=None, kw_only=True)
    remove: int | None = field(default=None, kw_only=True)
    pattern: Any = field(default=None, kw_only=True)
    sparsity: float | None = field(default=None, kw_only=True)
    scope: str = field(default="row", kw_only=True)
    damping: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        require((self.groups is None) == (self.remove is None), "remove", "come together with groups", self.remove)
        asked = [n for n in ("groups", "pattern", "sparsity") if getattr(self, n) is not None]
        require(len(asked) == 1, "one of groups, pattern, sparsity", "be given", Shown(", ".join(asked) or "none"))
        _ = self.form

    @classmethod
    def from_inputs(
        cls, weight: ArrayLike, inputs: ArrayLike, *, sample_weight: ArrayLike | None = None, **options: Any
    ) -> LayerReconstruction:
        """Return the task for calibration inputs, shape (tokens, in); the Hessian is their (weighted) mean of x x^T.

        Parameters
        ----------
        weight : (out, in) float
            The dense weights.
        inputs : (tokens, in) float
            What the layer was given.
        sample_weight : (tokens,) float
            How much each token counts, >= 0; None for all alike, 0 for padding.
        options
            As of the class.
        """
        X = floats("inputs", inputs, ("tokens", "in"))
        require(len(X), "inputs", "hold a token", X)
        w = validate.sample_weight(sample_weight, len(X))
        scaled = X * np.sqrt(w / w.sum())[:, None]
        return cls(weight, scaled.T @ scaled, **options)

    @property
    def forms(self) -> tuple[type, ...]:
        """What the task can be reduced to."""
        return (type(self.form),)

    @cached_property
    def form(self) -> QuadraticSubset | MaskBlocks:
        """The task as its form."""
        if self.groups is not None and self.remove is not None:
            return QuadraticSubset(self.weight, self.hessian, self.groups, self.remove, damping=self.damping)
        asked = {name: getattr(self, name) for name in ("pattern", "sparsity", "scope", "damping")}
        return MaskBlocks(self.weight, self.hessian, **asked)

    def objective(self, x: ArrayLike, /) -> float:
        """Return ||WX - W'X||^2 (+ lambda ||W - W'||^2) of the pruned weight ``x``."""
        return self.form.error(x, damped=True)

    def relative_error(self, x: ArrayLike) -> float:
        """Return the objective as a share of what a layer of zeros would lose."""
        return self.objective(x) / self.form.energy

    def violation(self, x: ArrayLike, /) -> float:
        """Return how many groups, or single weights, too few are zero."""
        W = np.asarray(x, np.float64)
        require(W.shape == self.form.shape, "x", f"have shape {self.form.shape}", Shown(f"shape {W.shape}"))
        if isinstance(self.form, QuadraticSubset):
            zero = sum(not W[:, g].any() for g in self.form.members)
            return float(max(0, self.form.remove - zero))
        zeros = np.count_nonzero(self.form.units(W == 0), axis=1)
        return float(np.maximum(self.form.n_removed - zeros, 0).sum())

    def reduce(self, to: type | None = None) -> Reduced[Floats]:
        """Return the task as a `QuadraticSubset` or a `MaskBlocks`; the way back re-solves the weights."""
        if to is not None and not isinstance(self.form, to):
            raise invalid("to", f"be {type(self.form).__name__} for this task", to.__name__)
        return Reduced(self.form, self.form.lift)
