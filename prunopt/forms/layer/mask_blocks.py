"""Single weights of a linear layer, removed in N:M blocks or freely, so that the re-solved layer changes least."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunopt.core.arrays import Bools, Floats
from prunopt.core.display import one_line
from prunopt.core.solution import CertificateError
from prunopt.core.validate import mask, number, one_of, require
from prunopt.forms.layer._mask_bound import floor_bound
from prunopt.forms.layer._refit import masked_least_squares
from prunopt.forms.layer.layer_least_squares import LayerLeastSquares
from prunopt.forms.layer.nm_patterns import pattern_of
from prunopt.forms.layer.quadratic_subset import QuadraticSubset

SCOPES = ("row", "layer")
ROUNDINGS = 8  # how often d^2 roundings, times the condition, a bound by exact costs is lowered


class MaskedRefit(NamedTuple):
    """Re-solved weights, and the largest entry of the gradient on what is kept, relative to that of W H."""

    weight: Floats
    residual: float


@one_line
@dataclass(frozen=True, eq=False)
class MaskBlocks(LayerLeastSquares):
    r"""Choose which weights of a layer to keep; those are re-solved together.

    .. math::
        \min_{M \in \mathcal M} \; \min_{W' = W' \odot M} \operatorname{tr} \, (W - W') H (W - W')^T

    Each row of W is a least-squares problem of its own; with S its removed columns it costs
    :math:`w_S (C_{SS})^{-1} w_S^T`, :math:`C = H^{-1}`. The masks :math:`\mathcal M` keep N of every M consecutive
    inputs of a row (``pattern``), or are free but for their number (``sparsity``).

    Parameters
    ----------
    weight : (out, in) float
        The dense weights W.
    hessian : (in, in) float
        X X^T of the calibration inputs, or a positive multiple.
    pattern : (int, int)
        (N, M): N of every M consecutive weights of a row are kept; M divides the number of inputs.
    sparsity : float
        The fraction of the weights removed, in [0, 1), rounded to a whole number per row or layer. Either this or
        ``pattern`` is given.
    scope : str
        With ``sparsity``: ``"row"`` removes as many in every row, ``"layer"`` counts over the whole layer.
    damping : float
        Ridge lambda as a multiple of the mean diagonal of ``hessian``, default 0; it is part of the objective.

    Notes
    -----
    The value is a bool array of the weight's shape, True = kept. `lift` (or `refit`) turns it into weights. What a row
    of a layer loses is solved directly up to ``_refit.DIRECT`` inputs, by conjugate gradients beyond; the last mask's
    answer is remembered.

    References
    ----------
    .. [1] E. Frantar, D. Alistarh, "SparseGPT: massive language models can be accurately pruned in one-shot",
       ICML 2023.
    """

    pattern: Any = field(default=None, kw_only=True)
    sparsity: float | None = field(default=None, kw_only=True)
    scope: str = field(default="row", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        given = (self.pattern, self.sparsity)
        require((given[0] is None) != (given[1] is None), "pattern, sparsity", "be given one without the other", given)
        one_of("scope", self.scope, SCOPES)
        if self.pattern is not None:
            pattern, d = pattern_of(self.pattern), self.shape[1]
            require(d % pattern[1] == 0, "pattern", f"be N:M with M a divisor of {d} inputs", self.pattern)
            object.__setattr__(self, "pattern", pattern)
        else:
            object.__setattr__(self, "sparsity", number("sparsity", self.sparsity, low=0.0, high=1.0, open_ends=")"))

    @cached_property
    def _last(self) -> dict[str, Any]:
        return {}

    @cached_property
    def n_removed(self) -> int:
        """Number of weights to remove from each unit: a block, a row, or the layer."""
        if self.pattern is not None:
            return int(self.pattern[1] - self.pattern[0])
        unit = self.shape[1] if self.scope == "row" else self.shape[0] * self.shape[1]
        return round(float(self.sparsity or 0.0) * unit)

    def units(self, table: ArrayLike) -> NDArray[Any]:
        """Return a table of the weight's shape as (units, weights): blocks, rows or one row for the layer."""
        array = np.asarray(table)
        if self.pattern is not None:
            return array.reshape(-1, self.pattern[1])
        return array.reshape(self.shape[0], -1) if self.scope == "row" else array.reshape(1, -1)

    def objective(self, x: ArrayLike, /) -> float:
        """Return E of the kept weights ``x``, from the re-solved weights."""
        return self.error(self.refit(x), damped=True)

    def violation(self, x: ArrayLike, /) -> float:
        """Return how many weights too many or too few are removed, over all units."""
        removed = np.count_nonzero(~self.units(self._as_value(x)), axis=1)
        return float(np.abs(removed - self.n_removed).sum())

    def refit(self, mask: ArrayLike) -> Floats:
        """Return the weights W' that lose least among those that are 0 where ``mask`` is False."""
        return np.array(self.solved(mask).weight)

    def masked(self, value: ArrayLike) -> Floats:
        """Return the weights with those removed set to 0, nothing re-solved."""
        return np.where(self._as_value(value), self.weight, 0.0)

    def lift(self, value: ArrayLike) -> Floats:
        """Return `refit` of the mask."""
        return self.refit(value)

    def solved(self, mask: ArrayLike, start: ArrayLike | None = None) -> MaskedRefit:
        """Return the re-solved weights and their optimality residual; ``start`` is where an iteration would begin."""
        kept = self._as_value(mask)
        key = hashlib.sha256(np.packbits(kept).tobytes()).hexdigest()
        if self._last.get("key") != key:
            weight, residual = masked_least_squares(self.weight, self.normal, kept, start)
            self._last.update(key=key, refit=MaskedRefit(weight, residual))
        refit: MaskedRefit = self._last["refit"]
        return refit

    def cheapest(self, scores: ArrayLike) -> Bools:
        """Return the mask that removes the least total score from each unit; ties go to the earlier weight."""
        table = self.units(np.asarray(scores, np.float64))
        order = np.argsort(table, axis=1, kind="stable")[:, : self.n_removed]
        kept = np.ones(table.shape, np.bool_)
        np.put_along_axis(kept, order, False, axis=1)
        return kept.reshape(self.shape)

    def removed_score(self, value: ArrayLike, scores: ArrayLike) -> float:
        """Return the total of ``scores`` over the removed weights."""
        return float(np.asarray(scores)[~self._as_value(value)].sum())

    def bound(self, duals: Mapping[str, Any]) -> float:
        """Return the lower bound on E that ``duals`` prove, recomputed without any solver's code.

        Parameters
        ----------
        duals
            ``"floor"``: (in,) numbers whose diagonal matrix lies below the damped Hessian, and ``"changes"``:
            (out, in), a point for each row, see `prunopt.forms.layer._mask_bound.floor_bound`; or ``"diagonal"``:
            (in,) numbers whose diagonal matrix dominates the inverse, see `LayerLeastSquares.diagonal_bound`; or, for
            free masks with as many zeros in each row, ``"rows"``: (leaves,) numbers of rows, with ``"removed"`` and
            ``"kept"``: (leaves, in) bool, which partition the answers of each row, see `QuadraticSubset.bound`. The
            best counts.
        """
        best = -np.inf
        if "diagonal" in duals:
            best = self.diagonal_bound(duals["diagonal"])
        if "floor" in duals:

            def least(scores: Floats) -> float:
                return self.removed_score(self.cheapest(scores), scores)

            best = max(best, floor_bound(self.weight, self.normal, duals["floor"], duals.get("changes"), least))
        if "rows" in duals:
            best = max(best, self._leaves_bound(*(np.asarray(duals.get(name)) for name in ("rows", "removed", "kept"))))
        return best

    def row(self, number: int) -> QuadraticSubset:
        """Return one row of a free mask, with as many zeros in each row, as a choice of columns."""
        require(self.pattern is None and self.scope == "row", "scope", "be 'row', without a pattern", self.scope)
        columns = [[j] for j in range(self.shape[1])]
        weight = self.weight[number : number + 1]
        return QuadraticSubset(weight, self.hessian, columns, self.n_removed, damping=self.damping)

    def _leaves_bound(self, rows: NDArray[Any], removed: NDArray[Any], kept: NDArray[Any]) -> float:
        d = self.shape[1]
        if rows.ndim != 1 or removed.shape != (len(rows), d) or kept.shape != removed.shape:
            raise CertificateError(f"duals: 'rows' (leaves,), 'removed' and 'kept' (leaves, {d}) are needed")
        leaves = [np.flatnonzero(rows == r) for r in range(self.shape[0])]
        total = sum(self.row(r).bound({"removed": removed[at], "kept": kept[at]}) for r, at in enumerate(leaves))
        # Costs come from the inverse, objectives from the Hessian: they differ by its condition after scaling.
        condition = float((np.diagonal(self.normal) * np.diagonal(self.inverse)).max())
        return float(total) * max(1 - ROUNDINGS * d**2 * float(np.finfo(np.float64).eps) * condition, 0.0)

    def _as_value(self, x: ArrayLike) -> Bools:
        return mask("x", x, self.shape)
