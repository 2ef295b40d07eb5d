"""Layer-wise sparsity: how much to remove from which layer, on measured curves or by ALS's redundancy."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats, Ints
from prunopt.core.problem import Reduced
from prunopt.core.validate import Shown, floats, invalid, number, one_of, require
from prunopt.forms.knapsack.multiple_choice_knapsack import MultipleChoiceKnapsack
from prunopt.forms.linear_program import LinearProgram
from prunopt.problems.allocation.als import density_program, importance
from prunopt.problems.allocation.on_budget import as_bounds, as_sizes, as_sparsity

FINEST = 2**44  # units that a budget is divided into where the numbers are not simple fractions


class LayerAllocation(ABC):
    r"""Choose a sparsity for every layer so that the predicted loss is least and enough is removed.

    Make one with `from_curves`, a multiple-choice knapsack on measured curves, or `als`, a linear program. "Optimal"
    refers to the sum of the curves, which leaves out that errors accumulate from layer to layer: check the allocation
    against the uniform one on the model, and refine it by `level-swap`.

    Notes
    -----
    The value is the sparsity of every layer, an array of shape (n,).
    """

    sizes: Any
    sparsity: float
    bounds: Any
    forms: ClassVar[tuple[type, ...]] = (MultipleChoiceKnapsack, LinearProgram)
    violation_unit: ClassVar[float] = 1e-3  # violations are fractions of the whole: 1e-9 is still met

    @staticmethod
    def from_curves(
        sizes: ArrayLike,
        levels: ArrayLike,
        errors: ArrayLike,
        sparsity: float,
        *,
        weighting: str = "given",
        kl: ArrayLike | None = None,
        kl_level: float = 0.5,
        bounds: Any = (0.0, 1.0),
    ) -> CurveAllocation:
        r"""Return the task on measured curves.

        Parameters
        ----------
        sizes : (n,) float
            Size of each layer.
        levels : (K,) or (n, K) float
            Fractions removed at which the curves are known, rising.
        errors : (n, K) float
            What each layer's level loses.
        sparsity : float
            The fraction of all sizes to remove.
        weighting
            ``"given"``: ``errors`` are in the unit of the model's loss already and add up. ``"kl"``: they are errors
            of layers, turned into the model's loss by :math:`\gamma_l = KL_l / e_l` at ``kl_level``.
            ``"unweighted"``: errors of layers, added up as they are; a warning says what that does.
        kl : (n,) float
            For ``"kl"``: the divergence of the model's output when this layer alone is pruned to ``kl_level``.
        bounds
            Least and greatest sparsity: one pair, or one for each layer.
        """
        e = np.asarray(errors, np.float64)
        one_of("weighting", weighting, ("given", "kl", "unweighted"))
        require((weighting == "kl") == (kl is not None), "kl", "come together with weighting='kl', and only then", kl)
        if kl is not None:
            e = _kl_weights(levels, e, kl, kl_level)[:, None] * e
        elif weighting == "unweighted":
            warnings.warn(
                "weighting='unweighted': errors of layers do not add up to a loss of the model; on the models measured "
                "such an allocation was worse than a uniform one (weighting='kl' was the best)",
                stacklevel=2,
            )
        return CurveAllocation(sizes, sparsity, levels, e, bounds)

    @staticmethod
    def als(
        redundancy: ArrayLike,
        sizes: ArrayLike,
        sparsity: float,
        bounds: Any = (0.3, 0.7),
        *,
        scale: str = "global",
    ) -> AlsAllocation:
        """Return the linear program of ALS [1]_ in densities (see `prunopt.problems.allocation.als`).

        Parameters
        ----------
        redundancy : (n, n) float
            `redundancy_matrix` of the layers' inputs.
        sizes : (n,) float
            Size of each layer.
        sparsity : float
            The fraction of all sizes to remove.
        bounds
            Least and greatest sparsity, (0.3, 0.7) in the publication.
        scale
            ``"global"`` or ``"row"``: the two readings of the publication's scale.

        References
        ----------
        .. [1] W. Li et al., "ALS: adaptive layer sparsity for large language models via activation correlation
           assessment", NeurIPS 2024.
        """
        n, weights = as_sizes(sizes), importance(redundancy, scale=scale)
        require(len(weights) == len(n), "redundancy", f"have {len(n)} rows, one a size", Shown(f"{len(weights)} rows"))
        return AlsAllocation(n, sparsity, weights, bounds)

    @abstractmethod
    def objective(self, x: ArrayLike, /) -> float:
        """Return the predicted loss of an allocation."""

    @abstractmethod
    def reduce(self, to: type | None = None) -> Reduced[Floats]:
        """Return the task as its form."""

    def violation(self, x: ArrayLike, /) -> float:
        """Return by how much too little is removed, as a fraction of the whole, or by how much a bound is missed."""
        s = self._as_value(x)
        low, high = self.bounds.T
        return max(float((low - s).max()), float((s - high).max()), 0.0, self.sparsity - self._removed(s))

    def _removed(self, s: Floats) -> float:
        """The fraction of the whole that an allocation removes."""
        return 1.0 - float((self.sizes * (1 - s)).sum()) / float(self.sizes.sum())

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _check_form(self, to: type | None) -> None:
        if to is not None and not issubclass(self.forms[0], to):
            raise invalid("to", f"be {self.forms[0].__name__} for this task", to.__name__)

    def _as_value(self, x: ArrayLike) -> Floats:
        return floats("x", x, self.sizes.shape)


@dataclass(frozen=True, eq=False)
class CurveAllocation(LayerAllocation):
    r"""The allocation on curves measured at levels :math:`v_{l1} < v_{l2} < \dots`, a multiple-choice knapsack.

    .. math:: \min_s \sum_l e_l(s_l) \quad \text{s.t.} \quad \sum_l n_l s_l \ge S \sum_l n_l, \quad s_l \in \{v_{lj}\}

    Parameters
    ----------
    sizes : (n,) float
        What a layer counts for: parameters, FLOPs.
    sparsity : float
        S, the fraction of all sizes to remove at least.
    levels, losses : (n, K) float
        Levels, rising, and the loss of each.
    bounds : (n, 2) float
        Least and greatest sparsity.
    """

    sizes: Any
    sparsity: float
    levels: Any
    losses: Any
    bounds: Any = (0.0, 1.0)

    forms: ClassVar[tuple[type, ...]] = (MultipleChoiceKnapsack,)

    def __post_init__(self) -> None:
        n = as_sizes(self.sizes)
        losses = floats("errors", self.losses, (len(n), "levels"), finite=False)
        levels = floats("levels", self.levels, low=0, high=1)
        fits = levels.shape in (losses.shape, losses.shape[1:])
        require(fits, "levels", f"fit errors of shape {losses.shape}", Shown(f"shape {levels.shape}"))
        levels = np.broadcast_to(levels, losses.shape).copy()
        require(np.all(np.diff(levels, axis=1) > 0), "levels", "rise", levels[0].tolist())
        low, high = as_bounds(self.bounds, len(n))
        losses = np.where((levels < low[:, None] - 1e-12) | (levels > high[:, None] + 1e-12), np.inf, losses)
        some = np.isfinite(losses).any(axis=1)
        require(some.all(), "bounds", "leave every layer a level", self.bounds)
        self._set(sizes=n, levels=levels, losses=losses, bounds=np.stack([low, high], axis=1))
        s = number("sparsity", self.sparsity, low=0, high=1)
        most = self._removed(np.where(np.isfinite(losses), levels, -np.inf).max(axis=1))
        enough = s <= most + 1e-12
        require(enough, "sparsity", f"be at most {most:.6g}, what the highest levels remove of it all", self.sparsity)
        self._set(sparsity=s)

    def objective(self, x: ArrayLike, /) -> float:
        """Return the sum of the curves, linear between the levels."""
        s = self._as_value(x)
        return math.fsum(np.interp(v, *curve) for v, *curve in zip(s, self.levels, self.losses, strict=True))

    def reduce(self, to: type | None = None) -> Reduced[Floats]:
        """Return the multiple-choice knapsack of the curves."""
        self._check_form(to)
        costs, budget = self._whole_costs()
        rows = np.arange(len(self.sizes))
        return Reduced(MultipleChoiceKnapsack(self.losses, costs, budget), lambda j: self.levels[rows, j].copy())

    def _whole_costs(self) -> tuple[Ints, int]:
        """Costs and budget in whole units: exact where sizes and levels are simple fractions, else rounded up."""
        share = Fraction(self.sparsity).limit_denominator(10**6)
        if abs(float(share) - self.sparsity) < 1e-12:
            fractions = [[Fraction(v).limit_denominator(10**4) for v in row] for row in self.levels.tolist()]
            close = np.all(np.abs(np.array(fractions, np.float64) - self.levels) < 1e-12)
            whole = [Fraction(v) for v in self.sizes.tolist()]
            unit = math.lcm(*(f.denominator for fs in fractions for f in fs), *(f.denominator for f in whole))
            if close and unit * unit * sum(whole) < 2**61:
                costs = [[int(n * (1 - f) * unit * unit) for f in fs] for n, fs in zip(whole, fractions, strict=True)]
                common = math.gcd(*(c for row in costs for c in row)) or 1
                budget = math.floor((1 - share) * sum(whole) * unit * unit)
                return np.array(costs, np.int64) // common, budget // common
        dense = float(self.sizes.sum())
        budget_units = math.floor(((1.0 - self.sparsity) * dense + 1e-12 * dense) / (dense / FINEST))
        used: Floats = self.sizes[:, None] * (1.0 - self.levels)
        return np.ceil(used / (dense / FINEST) - 1e-3).astype(np.int64), budget_units


@dataclass(frozen=True, eq=False)
class AlsAllocation(LayerAllocation):
    r"""ALS's allocation: the greatest weighted density :math:`\sum_i c_i (1 - s_i)` within the budget.

    Parameters
    ----------
    sizes : (n,) float
        What a layer counts for: parameters, FLOPs.
    sparsity : float
        S, the fraction of all sizes to remove at least.
    weights : (n,) float
        :math:`c_i`, what a layer's density is worth.
    bounds : (n, 2) float
        Least and greatest sparsity.
    """

    sizes: Any
    sparsity: float
    weights: Any
    bounds: Any = (0.3, 0.7)

    forms: ClassVar[tuple[type, ...]] = (LinearProgram,)

    def __post_init__(self) -> None:
        n = as_sizes(self.sizes)
        low, high = as_bounds(self.bounds, len(n))
        s = as_sparsity(self.sparsity, n, low, high)
        weights = floats("weights", self.weights, n.shape)
        self._set(sizes=n, sparsity=s, weights=weights, bounds=np.stack([low, high], axis=1))

    def objective(self, x: ArrayLike, /) -> float:
        """Return minus the weighted density."""
        return float(-(self.weights @ (1.0 - self._as_value(x))))

    def reduce(self, to: type | None = None) -> Reduced[Floats]:
        """Return ALS's linear program."""
        self._check_form(to)
        form = density_program(self.weights, self.sizes, self.sparsity, self.bounds)
        high = self.bounds[:, 1]
        # The answer may leave the budget unspent where a weight is 0; the budget is then met with room to spare.
        return Reduced(form, lambda x: np.clip(high - x, *self.bounds.T), -float(self.weights @ (1.0 - high)))


def _kl_weights(levels: ArrayLike, errors: Floats, kl: ArrayLike, level: float) -> Floats:
    r"""Return :math:`\gamma_l = KL_l / e_l(v)`, which turns errors of layers into divergences of the model."""
    divergence = floats("kl", kl, (len(errors),), low=0)
    grid = np.broadcast_to(np.asarray(levels, np.float64), errors.shape)
    at = np.array([np.interp(level, v, row) for v, row in zip(grid, errors, strict=True)])
    worst = Shown(f"{at.min():g} for layer {int(np.argmin(at))}")
    require(np.all(at > 0), "errors", f"be > 0 at the level {level:g} of every layer", worst)
    return np.asarray(divergence / at, np.float64)
