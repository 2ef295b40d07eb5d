"""A linear layer whose pruned weights are re-solved: what `QuadraticSubset` and `MaskBlocks` have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats
from prunopt.core.display import one_line
from prunopt.core.solution import CertificateError
from prunopt.core.validate import Shown, floats, number, of_shape, require

DEPENDENT = 1e-13  # a column with less than this share of its own energy left after the others counts as dependent
ASYMMETRY = 1e-5  # relative: Hessians summed up in single precision are symmetric to about this
LADDER = 10.0 ** np.arange(-10, 1)  # dampings tried for the error message, as multiples of the mean diagonal


@one_line
@dataclass(frozen=True, eq=False)
class LayerLeastSquares(ABC):
    r"""Remove weights of the layer y = W x, and re-solve those that stay.

    With calibration inputs X and :math:`H = X X^T + \lambda I`, every answer S is judged by

    .. math::
        E(S) = \min_{W'_S = 0} \; \operatorname{tr} \, (W - W') H (W - W')^T
             = \min_{W'_S = 0} \; \|WX - W'X\|_F^2 + \lambda \|W - W'\|_F^2

    Parameters
    ----------
    weight : (out, in) float
        The dense weights W.
    hessian : (in, in) float
        X X^T, or any positive multiple of it (a mean over tokens), symmetric.
    damping : float
        :math:`\lambda` as a multiple of the mean diagonal of ``hessian``. Nothing is damped without being asked: a
        Hessian that is not positive definite is refused, and the message names a damping that would do.
    """

    weight: Any
    hessian: Any
    damping: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        weight = _numbers("weight", self.weight)
        hessian = _numbers("hessian", self.hessian)
        require(weight.ndim == 2 and weight.size, "weight", "have shape (out, in)", Shown(f"shape {weight.shape}"))
        square = (weight.shape[1],) * 2
        require(hessian.shape == square, "hessian", f"have shape {square}", Shown(f"shape {hessian.shape}"))
        skew, size = float(np.abs(hessian - hessian.T).max()), float(np.abs(hessian).max())
        differ = Shown(f"entries that differ by {skew:.3g}")
        require(skew <= ASYMMETRY * size, "hessian", "be symmetric", differ, "give X @ X.T")
        damping = number("damping", self.damping, low=0.0, mend="give a multiple of the hessian's mean diagonal")
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "hessian", hessian if skew == 0 else (hessian + hessian.T) / 2)
        object.__setattr__(self, "damping", damping)
        _ = self.factor

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the weight."""
        return (self.weight.shape[0], self.weight.shape[1])

    @cached_property
    def ridge(self) -> float:
        """The damping in the Hessian's own unit, lambda."""
        return self.damping * float(np.diagonal(self.hessian).mean())

    @cached_property
    def normal(self) -> Floats:
        """The damped Hessian H, (in, in)."""
        if self.ridge == 0:
            return np.asarray(self.hessian)
        damped = np.array(self.hessian)
        damped[np.diag_indices_from(damped)] += self.ridge
        return damped

    @cached_property
    def factor(self) -> Floats:
        """The lower Cholesky factor of `normal`."""
        factor, failed = _cholesky(self.normal)
        if factor is None:
            raise ValueError(self._not_definite(failed))
        return factor

    @cached_property
    def inverse(self) -> Floats:
        """The inverse of `normal`, C."""
        from scipy.linalg import lapack

        inverse, info = lapack.dpotri(self.factor, lower=1)
        if info:
            raise ValueError(f"hessian: cannot be inverted (LAPACK potri: {info}); give damping > 0")
        return _mirrored(inverse)

    @cached_property
    def energy(self) -> float:
        """What a layer of zeros would lose, tr W H W^T: divide by it for relative errors."""
        return float(np.vdot(self.weight @ self.normal, self.weight))

    @cached_property
    def objective_unit(self) -> float:
        """What a layer of zeros would lose: what gaps are relative to where that is less than 1."""
        return self.energy

    def error(self, candidate: ArrayLike, *, damped: bool = False) -> float:
        """Return ||WX - W'X||^2 of any weights W', shape (out, in); with the damping's term where ``damped``."""
        change = self.weight - of_shape("candidate", candidate, self.shape)
        return float(np.vdot(change @ (self.normal if damped else self.hessian), change))

    @abstractmethod
    def objective(self, x: Any, /) -> float:
        """Return E of the value ``x``, from the re-solved weights."""

    @abstractmethod
    def violation(self, x: Any, /) -> float:
        """Return how many groups or weights too few or too many ``x`` removes."""

    @abstractmethod
    def cheapest(self, scores: ArrayLike) -> Any:
        """Return the value that removes the least total of ``scores``, (out, in): a linear problem, solved exactly."""

    @abstractmethod
    def removed_score(self, value: Any, scores: ArrayLike) -> float:
        """Return the total of ``scores``, (out, in), over the weights that ``value`` removes."""

    @abstractmethod
    def masked(self, value: Any) -> Floats:
        """Return the dense weights with those that ``value`` removes set to 0, nothing re-solved."""

    @abstractmethod
    def lift(self, value: Any) -> Floats:
        """Return the weights that stay, re-solved: the W' that attains E, shape (out, in)."""

    def diagonal_bound(self, diagonal: ArrayLike) -> float:
        r"""Return a lower bound on E from a diagonal matrix D that dominates the inverse, D - C >= 0.

        :math:`C_{SS} \preceq D_{SS}` gives :math:`E(S) \ge \sum_{(i,j) \in S} w_{ij}^2 / D_{jj}`, a sum that `cheapest`
        minimizes. That D dominates is checked by a Cholesky factorization.
        """
        D = np.asarray(diagonal, np.float64)
        d = self.shape[1]
        if D.shape != (d,) or not np.all(np.isfinite(D)) or np.any(D <= 0):
            raise CertificateError(f"duals['diagonal']: {d} numbers > 0 are needed")
        if not dominates(np.diag(D), self.inverse):
            raise CertificateError("duals['diagonal']: it does not dominate the inverse of the Hessian")
        scores = self.weight**2 / D
        return self.removed_score(self.cheapest(scores), scores)

    def _not_definite(self, column: int) -> str:
        mean = float(np.diagonal(self.hessian).mean())
        dead = int(np.count_nonzero(np.diagonal(self.hessian) <= 0))
        text = f"hessian: not positive definite with damping={self.damping:g}; column {column} depends on those before"
        text += f", {dead} columns are dead (no input reaches them)" if dead else ""
        if not mean > 0:
            return (
                f"{text}; its diagonal sums to {mean * len(self.hessian):g}, so no damping helps: check the calibration"
            )
        d = np.arange(len(self.hessian))
        for damping in LADDER:
            if damping <= self.damping:
                continue
            damped = np.array(self.hessian)
            damped[d, d] += damping * mean
            if _cholesky(damped)[0] is not None:
                return f"{text}; damping={damping:g} (times the mean diagonal) would do, so would more calibration rows"
        return f"{text}; not even damping=1 would do: it has negative eigenvalues, so it is no X @ X.T"


def dominates(large: Floats, small: Floats) -> bool:
    """Whether ``large - small`` is positive semidefinite, up to rounding in the last digits."""
    from scipy.linalg import lapack

    slack = np.asarray(large - small, order="F")
    slack[np.diag_indices_from(slack)] += 1e-12 * np.abs(np.diagonal(large))
    return int(lapack.dpotrf(slack, lower=1, overwrite_a=1)[1]) == 0


def _cholesky(matrix: Floats) -> tuple[Floats | None, int]:
    """The lower Cholesky factor, or None and the first column that depends on those before it."""
    from scipy.linalg import lapack

    factor, info = lapack.dpotrf(matrix, lower=1, clean=1)
    if info:
        return None, int(info) - 1
    left = np.diagonal(factor) ** 2
    poor = np.flatnonzero(left <= DEPENDENT * np.diagonal(matrix))
    return (None, int(poor[0])) if len(poor) else (factor, -1)


def _mirrored(lower: Floats) -> Floats:
    """Fill the upper triangle from the lower one, in place."""
    step = 512
    for start in range(0, len(lower), step):
        stop = min(start + step, len(lower))
        block = lower[start:stop, start:stop]
        block[...] = np.tril(block) + np.tril(block, -1).T
        lower[start:stop, stop:] = lower[stop:, start:stop].T
    return np.ascontiguousarray(lower)


def _numbers(name: str, given: Any) -> Floats:
    return np.ascontiguousarray(floats(name, given, mend="check the calibration activations of this layer"))
