"""Groups of columns removed so that the worst of several calibration domains changes least."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats
from prunopt.core.display import one_line
from prunopt.core.solution import CertificateError
from prunopt.forms.layer.quadratic_subset import QuadraticSubset

STEPS = 60  # of the ascent over the multipliers of a fixed choice
SETTLED = 1e-7  # relative gap between the worst domain and the multipliers' bound at which that ascent ends


@one_line
@dataclass(frozen=True, eq=False)
class RobustQuadraticSubset:
    r"""Remove k groups of columns; one W' must serve every domain.

    .. math::
        \min_{|R| = k} \; \min_{W'_{S_R} = 0} \; \max_d \; \frac{E_d(W')}{s_d}, \qquad
        E_d(W') = \operatorname{tr} (W - W') H_d (W - W')^T

    For multipliers :math:`p \ge 0, \sum p_d = 1` the mixture :math:`H(p) = \sum_d p_d H_d / s_d` is the Hessian of an
    ordinary `QuadraticSubset`, whose least value is a lower bound; for a fixed R the best p makes it exact (the inner
    problem is convex in W').

    Parameters
    ----------
    weight : (out, in) float
        The dense weights W.
    hessians : (domains, in, in) float
        X X^T of each domain.
    groups, remove
        As of `QuadraticSubset`.
    scales : (domains,) float
        s_d > 0; None for :math:`\operatorname{tr} W H_d W^T`, so that errors are relative to each domain's own outputs.
    damping : float
        Ridge of every scaled Hessian as a multiple of its mean diagonal, part of the objective.

    Notes
    -----
    The value is the sorted array of the removed groups' numbers; `lift` gives the shared weights.
    """

    weight: Any
    hessians: Any
    groups: Any
    remove: int
    scales: Any = field(default=None, kw_only=True)
    damping: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        hessians = np.ascontiguousarray(np.asarray(self.hessians, np.float64))
        if hessians.ndim != 3 or not len(hessians) or not np.all(np.isfinite(hessians)):
            raise ValueError(f"hessians: shape {hessians.shape} given, (domains, in, in) finite numbers are needed")
        weight = np.ascontiguousarray(np.asarray(self.weight, np.float64))
        if self.scales is None:
            scales = np.array([float(np.vdot(weight @ H, weight)) for H in hessians])
        else:
            scales = np.asarray(self.scales, np.float64)
        if scales.shape != (len(hessians),) or not np.all(np.isfinite(scales)) or np.any(scales <= 0):
            raise ValueError(
                f"scales={self.scales!r}: give {len(hessians)} numbers > 0; a domain's inputs may be all 0"
            )
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "hessians", hessians)
        object.__setattr__(self, "scales", scales)
        form = self.mixed(np.full(len(scales), 1 / len(scales)))
        object.__setattr__(self, "groups", form.groups)
        object.__setattr__(self, "remove", form.remove)

    @property
    def n_domains(self) -> int:
        """Number of domains."""
        return len(self.hessians)

    @cached_property
    def _scaled(self) -> Floats:
        scaled = self.hessians / self.scales[:, None, None]
        d = np.arange(scaled.shape[1])
        scaled[:, d, d] += self.damping * np.einsum("dii->d", scaled)[:, None] / len(d)
        return np.asarray(scaled)

    def mixed(self, multipliers: ArrayLike) -> QuadraticSubset:
        """Return the `QuadraticSubset` of the mixture H(p); its least value is a lower bound."""
        p = np.asarray(multipliers, np.float64)
        if p.shape != (self.n_domains,) or np.any(p < 0) or not abs(p.sum() - 1) <= 1e-9:
            raise ValueError(f"multipliers: {self.n_domains} numbers >= 0 that sum to 1 are needed")
        mixture = np.tensordot(p, self._scaled, axes=1)
        return QuadraticSubset(self.weight, (mixture + mixture.T) / 2, self.groups, self.remove)

    def domain_errors(self, candidate: ArrayLike) -> Floats:
        """Return E_d(W') / s_d of any weights, (domains,), the damping's term included."""
        change = self.weight - np.asarray(candidate, np.float64)
        return np.array([float(np.vdot(change @ H, change)) for H in self._scaled])

    def objective(self, x: ArrayLike, /) -> float:
        """Return the worst domain's error of the weights `lift` gives."""
        return float(self.domain_errors(self.lift(x)).max())

    def violation(self, x: ArrayLike, /) -> float:
        """Return by how many groups the number removed is off."""
        return self._any.violation(x)

    @cached_property
    def _any(self) -> QuadraticSubset:
        return self.mixed(np.full(self.n_domains, 1 / self.n_domains))

    def lift(self, value: ArrayLike) -> Floats:
        """Return the shared weights that do best in the worst domain, up to `SETTLED`."""
        return self.balanced(value)[0]

    def balanced(self, value: ArrayLike) -> tuple[Floats, Floats, float]:
        r"""Return the weights for a choice, the multipliers, and the lower bound on that choice which these prove.

        Multiplicative ascent on the concave function p -> E_{H(p)}(R), keeping the best weights and the best bound;
        the weights may also be an average of two iterates, which only lowers a convex maximum.
        """
        from scipy.linalg import cho_factor, cho_solve

        columns = self._any.columns(value)
        K = np.setdiff1d(np.arange(self.weight.shape[1]), columns)
        p = np.full(self.n_domains, 1 / self.n_domains)
        best, best_p, bound, average = np.zeros_like(self.weight), p, -np.inf, np.zeros_like(self.weight)
        worst = float(self.domain_errors(best).max())
        rate = 2.0
        for step in range(STEPS):
            H = np.tensordot(p, self._scaled, axes=1)
            candidate = np.array(self.weight)
            candidate[:, columns] = 0
            if len(columns) and len(K):
                pull = self.weight[:, columns] @ H[np.ix_(columns, K)]
                factor = cho_factor(H[np.ix_(K, K)], lower=True)
                candidate[:, K] += cho_solve(factor, pull.T).T
            average = candidate if step == 0 else average + (candidate - average) / (step + 1)
            errors = self.domain_errors(candidate)
            value_here = float(p @ errors)
            if value_here > bound:
                bound, best_p = value_here, p
            for other in (candidate, average):
                highest = float(self.domain_errors(other).max())
                if highest < worst:
                    best, worst = other.copy(), highest
            if worst - bound <= SETTLED * max(worst, 1e-300) or self.n_domains == 1:
                break
            p = p * np.exp(rate * (errors / max(float(errors.max()), 1e-300) - 1))
            p /= p.sum()
            rate *= 0.97
        return best, best_p, bound

    def bound(self, duals: Mapping[str, Any]) -> float:
        """Return the bound that ``duals`` prove: ``"multipliers"`` p, and leaves of the mixture's `QuadraticSubset`."""
        if "multipliers" not in duals:
            raise CertificateError("duals: 'multipliers' are needed")
        rest = {name: value for name, value in duals.items() if name != "multipliers"}
        return self.mixed(duals["multipliers"]).bound(rest)
