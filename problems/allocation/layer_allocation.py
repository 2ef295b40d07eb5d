"""Layer-wise sparsity: how much to remove from which layer, on measured curves or by ALS's redundancy."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats, Ints
from prunopt.core.problem import Reduced
from prunopt.forms.knapsack.multiple_choice_knapsack import MultipleChoiceKnapsack
from prunopt.forms.linear_program import LinearProgram
from prunopt.problems.allocation.als import density_program, importance
from prunopt.problems.allocation.baselines import as_bounds, as_sizes, as_sparsity

FINEST = 2**44  # units that a budget is divided into where the numbers are no simple fractions


@dataclass(frozen=True, eq=False)
class LayerAllocation:
    r"""Choose a sparsity for every layer so that the predicted loss is least and enough is removed.

    On curves measured at levels :math:`v_{l1} < v_{l2} < \dots`,

    .. math:: \min_s \sum_l e_l(s_l) \quad \text{s.t.} \quad \sum_l n_l s_l \ge S \sum_l n_l, \quad s_l \in \{v_{lj}\}

    is a multiple-choice knapsack, solved exactly; with the linear weights of ALS it is a linear program. Make one with
    `from_curves` or `als`. "Optimal" refers to the sum of the curves, which leaves out that errors accumulate from
    layer to layer: check the allocation against the uniform one on the model, and refine it by `level-swap`.

    Parameters
    ----------
    sizes : (n,) float
        What a layer counts for: parameters, FLOPs.
    sparsity : float
        S, the fraction of all sizes to remove at least (or of ``resource``, where that is given).
    levels, losses : (n, K) float or None
        Levels, rising, and the loss of each.
    weights : (n,) float or None
        ALS: worth of a layer's density.
    bounds : (n, 2) float
        Least and greatest sparsity.
    resource : (n, K) float or None
        What a layer still uses at each level (measured milliseconds), falling; None: size times density.

    Notes
    -----
    The value is the sparsity of every layer, an array of shape (n,).
    """

    sizes: Any
    sparsity: float
    levels: Any = None
    losses: Any = None
    weights: Any = None
    bounds: Any = (0.0, 1.0)
    resource: Any = None

    forms: ClassVar[tuple[type, ...]] = (MultipleChoiceKnapsack, LinearProgram)
    violation_unit: ClassVar[float] = 1e-3  # violations are fractions of the whole: 1e-9 is still met

    def __post_init__(self) -> None:
        n = as_sizes(self.sizes)
        object.__setattr__(self, "sizes", n)
        if (self.losses is None) == (self.weights is None):
            raise ValueError("losses: give either levels and losses (from_curves), or weights (als)")
        object.__setattr__(self, "forms", (LinearProgram,) if self.losses is None else (MultipleChoiceKnapsack,))
        if self.losses is None:
            low, high = as_bounds(self.bounds, len(n))
            object.__setattr__(self, "bounds", np.stack([low, high], axis=1))
            object.__setattr__(self, "sparsity", as_sparsity(self.sparsity, n, low, high))
            weights = np.asarray(self.weights, np.float64)
            if weights.shape != n.shape or not np.all(np.isfinite(weights)):
                raise ValueError(f"weights: shape {weights.shape} given; {len(n)} finite numbers are needed")
            object.__setattr__(self, "weights", weights)
            return
        losses = np.asarray(self.losses, np.float64)
        if losses.ndim != 2 or len(losses) != len(n) or np.any(np.isnan(losses)):
            raise ValueError(f"errors: shape {losses.shape} given; one row of numbers for each of {len(n)} layers")
        levels = np.asarray(self.levels, np.float64)
        if levels.shape not in (losses.shape, losses.shape[1:]):
            raise ValueError(f"levels: shape {levels.shape} given for errors of shape {losses.shape}")
        levels = np.broadcast_to(levels, losses.shape).copy()
        if not (np.all(levels >= 0) and np.all(levels <= 1) and np.all(np.diff(levels, axis=1) > 0)):
            raise ValueError("levels: give rising fractions removed, 0 to 1")
        low, high = as_bounds(self.bounds, len(n))
        losses = np.where((levels < low[:, None] - 1e-12) | (levels > high[:, None] + 1e-12), np.inf, losses)
        if not np.isfinite(losses).any(axis=1).all():
            raise ValueError(f"bounds={self.bounds!r}: a layer has no level within them")
        for name, value in (("levels", levels), ("losses", losses), ("bounds", np.stack([low, high], axis=1))):
            object.__setattr__(self, name, value)
        if self.resource is not None:
            used = np.asarray(self.resource, np.float64)
            if used.shape != losses.shape or not np.all(np.isfinite(used)) or used.min() < 0:
                raise ValueError(f"resource: shape {used.shape} given; {losses.shape} finite numbers >= 0 are needed")
            object.__setattr__(self, "resource", used)
        s, most = float(self.sparsity), self._removed(np.where(np.isfinite(losses), self._used, np.inf).min(axis=1))
        if not 0 <= s <= 1:
            raise ValueError(f"sparsity={self.sparsity!r}: give the fraction removed, 0 to 1")
        if s > most + 1e-12:
            raise ValueError(
                f"sparsity={self.sparsity!r}: the highest levels remove {most:.6g} of it all; ask for at most that"
            )
        object.__setattr__(self, "sparsity", s)

    @classmethod
    def from_curves(
        cls,
        sizes: ArrayLike,
        levels: ArrayLike,
        errors: ArrayLike,
        sparsity: float,
        *,
        weighting: str = "given",
        kl: ArrayLike | None = None,
        kl_level: float = 0.5,
        bounds: Any = (0.0, 1.0),
        resource: ArrayLike | None = None,
    ) -> LayerAllocation:
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
        resource : (n, K) float
            What a layer still uses at each level, in any unit; ``sparsity`` is then the fraction of the dense use to
            save (dense: the first level must be 0).
        """
        e = np.asarray(errors, np.float64)
        if weighting not in ("given", "kl", "unweighted"):
            raise ValueError(f"weighting={weighting!r}: give 'given', 'kl' or 'unweighted'")
        if (weighting == "kl") != (kl is not None):
            raise ValueError("kl: give the divergences together with weighting='kl', and only then")
        if weighting == "kl":
            e = kl_weights(levels, e, kl, kl_level)[:, None] * e
        elif weighting == "unweighted":
            warnings.warn(
                "weighting='unweighted': errors of layers do not add up to a loss of the model; on the models measured "
                "such an allocation was worse than a uniform one (weighting='kl' was the best)",
                stacklevel=2,
            )
        return cls(sizes, sparsity, levels=levels, losses=e, bounds=bounds, resource=resource)

    @classmethod
    def als(
        cls,
        redundancy: ArrayLike,
        sizes: ArrayLike,
        sparsity: float,
        bounds: Any = (0.3, 0.7),
        *,
        scale: str = "global",
        by_size: bool = False,
    ) -> LayerAllocation:
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
        by_size
            Divide weights by relative sizes (a reading of its weight norm).

        References
        ----------
        .. [1] W. Li et al., "ALS: adaptive layer sparsity for large language models via activation correlation
           assessment", NeurIPS 2024.
        """
        n, weights = as_sizes(sizes), importance(redundancy, scale=scale)
        if len(weights) != len(n):
            raise ValueError(f"redundancy: {len(weights)} rows for {len(n)} sizes")
        return cls(n, sparsity, weights=weights / (n / n.mean()) if by_size else weights, bounds=bounds)

    @property
    def _used(self) -> Floats:
        used: Floats = self.sizes[:, None] * (1.0 - self.levels) if self.resource is None else self.resource
        return used

    @property
    def _whole(self) -> float:
        """What the dense model uses."""
        return float(self.sizes.sum() if self.resource is None else self.resource[:, 0].sum())

    def _removed(self, used: Floats) -> float:
        return 1.0 - float(used.sum()) / self._whole

    def objective(self, x: ArrayLike, /) -> float:
        """Return the sum of the curves, linear between the levels; for ALS minus the weighted density."""
        s = self._as_value(x)
        if self.losses is None:
            return float(-(self.weights @ (1.0 - s)))
        return math.fsum(self.interpolate(self.losses, s))

    def violation(self, x: ArrayLike, /) -> float:
        """Return by how much too little is removed, as a fraction of the whole, or by how much a bound is missed."""
        s = self._as_value(x)
        low, high = self.bounds.T
        outside = max(0.0, float((low - s).max()), float((s - high).max()))
        used = self.sizes * (1 - s) if self.resource is None else self.interpolate(self.resource, s)
        return max(outside, 0.0, self.sparsity - self._removed(used))

    def interpolate(self, rows: Floats, s: Floats) -> Floats:
        """Return each layer's row at its sparsity, linear between the levels, the end values beyond them."""
        return np.array([np.interp(v, grid, row) for v, grid, row in zip(s, self.levels, rows, strict=True)])

    def on_grid(self, allocation: ArrayLike) -> Floats:
        """Return the nearest levels, moved up, cheapest first by loss, until enough is removed."""
        if self.losses is None:
            raise ValueError("on_grid: a task of ALS has no levels")
        s = self._as_value(allocation)
        far = np.where(np.isfinite(self.losses), np.abs(self.levels - s[:, None]), np.inf)
        j, rows = far.argmin(axis=1), np.arange(len(s))
        while self.violation(self.levels[rows, j]) > 1e-12:
            up = np.minimum(j + 1, self.levels.shape[1] - 1)
            saved = self._used[rows, j] - self._used[rows, up]
            with np.errstate(invalid="ignore", divide="ignore"):
                rate = np.where(saved > 0, (self.losses[rows, up] - self.losses[rows, j]) / saved, np.inf)
            best = int(np.argmin(rate))
            if not math.isfinite(rate[best]):
                raise ValueError("allocation: no level is left to go up to")
            j[best] = up[best]
        return np.array(self.levels[rows, j])

    def reduce(self, to: type | None = None) -> Reduced[Floats]:
        """Return the multiple-choice knapsack of the curves, or ALS's linear program."""
        if to is not None and not any(issubclass(form, to) for form in self.forms):
            raise ValueError(f"to={to.__name__}: this task reduces to {', '.join(f.__name__ for f in self.forms)}")
        if self.losses is None:
            form = density_program(self.weights, self.sizes, self.sparsity, self.bounds)
            high = self.bounds[:, 1]
            # The answer may leave the budget unspent where a weight is 0; the budget is then met with room to spare.
            return Reduced(form, lambda x: np.clip(high - x, *self.bounds.T), -float(self.weights @ (1.0 - high)))
        costs, budget = self._whole_costs()
        rows = np.arange(len(self.sizes))
        return Reduced(MultipleChoiceKnapsack(self.losses, costs, budget), lambda j: self.levels[rows, j].copy())

    def _whole_costs(self) -> tuple[Ints, int]:
        """Costs and budget in whole units: exact where sizes and levels are simple fractions, else rounded up."""
        share = Fraction(self.sparsity).limit_denominator(10**6)
        if self.resource is None and abs(float(share) - self.sparsity) < 1e-12:
            fractions = [[Fraction(v).limit_denominator(10**4) for v in row] for row in self.levels.tolist()]
            close = all(
                abs(float(f) - v) < 1e-12
                for fs, vs in zip(fractions, self.levels.tolist(), strict=True)
                for f, v in zip(fs, vs, strict=True)
            )
            whole = [Fraction(v) for v in self.sizes.tolist()]
            unit = math.lcm(*(f.denominator for fs in fractions for f in fs), *(f.denominator for f in whole))
            if close and unit * unit * sum(whole) < 2**61:
                costs = [[int(n * (1 - f) * unit * unit) for f in fs] for n, fs in zip(whole, fractions, strict=True)]
                common = math.gcd(*(c for row in costs for c in row)) or 1
                budget = math.floor((1 - share) * sum(whole) * unit * unit)
                return np.array(costs, np.int64) // common, budget // common
        unit_size = self._whole / FINEST
        tiny = 1e-12 * self._whole
        budget_units = math.floor(((1.0 - self.sparsity) * self._whole + tiny) / unit_size)
        return np.ceil(self._used / unit_size - 1e-3).astype(np.int64), budget_units

    def _as_value(self, x: ArrayLike) -> Floats:
        s = np.asarray(x, np.float64)
        if s.shape != self.sizes.shape or not np.all(np.isfinite(s)):
            raise ValueError(f"x: shape {s.shape} given; a sparsity for each of {len(self.sizes)} layers is needed")
        return s


def kl_weights(levels: ArrayLike, errors: ArrayLike, kl: ArrayLike | None, level: float = 0.5) -> Floats:
    r"""Return :math:`\gamma_l = KL_l / e_l(v)`, which turns errors of layers into divergences of the model."""
    e, divergence = np.asarray(errors, np.float64), np.asarray(kl, np.float64)
    if divergence.shape != (len(e),) or not np.all(np.isfinite(divergence)) or divergence.min() < 0:
        raise ValueError(f"kl: shape {divergence.shape} given; a finite number >= 0 for each of {len(e)} layers")
    grid = np.broadcast_to(np.asarray(levels, np.float64), e.shape)
    at = np.array([np.interp(level, v, row) for v, row in zip(grid, e, strict=True)])
    if not np.all(at > 0):
        raise ValueError(f"errors: layer {int(np.argmin(at))} has the error {at.min():g} at {level:g}; it must be > 0")
    return np.asarray(divergence / at, np.float64)
