"""Whole groups of input columns of a linear layer, removed so that the re-solved layer changes least."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_triangular

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.display import one_line
from prunopt.core.solution import CertificateError
from prunopt.core.validate import ints, require, whole_number
from prunopt.forms.layer._subset_bound import Rest, check_cover, least_rest, restrict
from prunopt.forms.layer.layer_least_squares import LayerLeastSquares


@one_line
@dataclass(frozen=True, eq=False)
class QuadraticSubset(LayerLeastSquares):
    r"""Remove k groups of columns of a layer and re-solve the others.

    .. math::
        \min_{|R| = k} E(S_R), \qquad E(S) = \operatorname{tr} \, W_S \, (C_{SS})^{-1} W_S^T, \quad C = H^{-1}

    where S_R are the columns of the groups in R. E(S) is exactly the least of :math:`\|WX - W'X\|^2 + \lambda \|W -
    W'\|^2` over all W' that are 0 in the columns S [1]_ [2]_. It grows with S, but is neither sub- nor supermodular.
    A group is a column of a feed-forward layer, the columns of an attention head, or those of all heads that share a
    key-value head.

    Parameters
    ----------
    weight : (out, in) float
        The dense weights W.
    hessian : (in, in) float
        X X^T of the calibration inputs, or a positive multiple.
    groups : sequence of index arrays
        Columns of each group, disjoint, at least one each. Columns in no group stay.
    remove : int
        How many groups to remove, 0 to all.
    damping : float
        Ridge lambda as a multiple of the mean diagonal of ``hessian``, default 0; it is part of the objective.

    Notes
    -----
    The value is the sorted array of the removed groups' numbers. `lift` turns it into weights.

    References
    ----------
    .. [1] B. Hassibi, D. G. Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon", NeurIPS 1992.
    .. [2] G. Ling, Z. Wang, Y. Yan, Q. Liu, "SlimGPT: layer-wise structured pruning for large language models",
       NeurIPS 2024.
    """

    groups: Any
    remove: int

    def __post_init__(self) -> None:
        super().__post_init__()
        d = self.shape[1]
        groups = _groups(self.groups, d)
        object.__setattr__(self, "groups", groups)
        object.__setattr__(self, "remove", whole_number("remove", self.remove, low=0, high=len(groups)))

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.groups)

    @cached_property
    def sizes(self) -> Ints:
        """Number of columns of each group."""
        return np.array([len(g) for g in self.groups], np.int64)

    @cached_property
    def members(self) -> tuple[Ints, ...]:
        """The columns of each group, as index arrays."""
        return tuple(np.array(g, np.int64) for g in self.groups)

    @cached_property
    def singles(self) -> bool:
        """Whether every group is a single column."""
        return bool(np.all(self.sizes == 1))

    def columns(self, value: ArrayLike) -> Ints:
        """Return the columns that ``value`` removes, sorted."""
        chosen = self._as_value(value)
        return np.sort(np.concatenate([self.members[g] for g in chosen])) if len(chosen) else np.zeros(0, np.int64)

    def objective(self, x: ArrayLike, /) -> float:
        """Return E of the removed groups ``x``, from the re-solved weights."""
        return self.error(self.lift(x), damped=True)

    def violation(self, x: ArrayLike, /) -> float:
        """Return by how many groups the number removed is off."""
        return float(abs(len(self._as_value(x)) - self.remove))

    def masked(self, value: ArrayLike) -> Floats:
        """Return the weights with the removed columns set to 0, nothing re-solved."""
        weight = np.array(self.weight)
        weight[:, self.columns(value)] = 0
        return weight

    def lift(self, value: ArrayLike) -> Floats:
        r"""Return :math:`W'`: 0 in the removed columns, :math:`W_K + W_S H_{SK} H_{KK}^{-1}` in the others K."""
        from scipy.linalg import cho_factor, cho_solve

        removed = np.zeros(self.shape[1], np.bool_)
        removed[self.columns(value)] = True
        lifted: Floats = np.array(self.weight)
        lifted[:, removed] = 0
        S, K = np.flatnonzero(removed), np.flatnonzero(~removed)
        if len(S) and len(K):
            factor = cho_factor(self.normal[np.ix_(K, K)], lower=True, overwrite_a=True, check_finite=False)
            pull = self.weight[:, S] @ self.normal[np.ix_(S, K)]
            lifted[:, K] += cho_solve(factor, pull.T, check_finite=False).T
        return lifted

    def group_totals(self, scores: ArrayLike) -> Floats:
        """Return the sum of ``scores``, (out, in) or (in,), over each group's columns, (groups,)."""
        table = np.asarray(scores, np.float64)
        per_column = table if table.ndim == 1 else table.sum(axis=0)
        return np.array([per_column[g].sum() for g in self.members])

    def cheapest(self, scores: ArrayLike) -> Ints:
        """Return the ``remove`` groups of least total score; ties go to the lower number."""
        return np.sort(np.argsort(self.group_totals(scores), kind="stable")[: self.remove])

    def removed_score(self, value: ArrayLike, scores: ArrayLike) -> float:
        """Return the total of ``scores`` over the removed columns."""
        return float(self.group_totals(scores)[self._as_value(value)].sum())

    def bound(self, duals: Mapping[str, Any]) -> float:
        """Return the lower bound on E that ``duals`` prove, recomputed without any solver's code.

        Parameters
        ----------
        duals
            Either ``"diagonal"``: (in,) numbers whose diagonal matrix dominates the inverse Hessian, see
            `LayerLeastSquares.diagonal_bound`; or a partition of all answers into leaves, ``"removed"`` and ``"kept"``:
            (leaves, groups) bool, the groups that are surely removed and surely kept, see
            `_leaves_bound`. Of both, the better counts.
        """
        best = -np.inf
        if "diagonal" in duals:
            best = max(best, self.diagonal_bound(duals["diagonal"]))
        if "removed" in duals:
            removed, kept = (np.asarray(duals.get(name)) for name in ("removed", "kept"))
            for name, flags in (("removed", removed), ("kept", kept)):
                if flags.dtype != np.bool_ or flags.ndim != 2 or flags.shape[1] != self.n_groups:
                    raise CertificateError(f"duals[{name!r}]: a bool array (leaves, {self.n_groups}) is needed")
            if removed.shape != kept.shape:
                raise CertificateError("duals: as many rows of 'removed' as of 'kept' are needed")
            best = max(best, self._leaves_bound(removed, kept))
        return float(best)

    def _leaves_bound(self, removed: Bools, kept: Bools) -> float:
        r"""Return the least of the leaves' bounds, after checking that the leaves cover every answer.

        A leaf holds the answers that remove all of F and none of the groups kept; r groups are still to be chosen
        among the open ones. After F is eliminated, with weights W' and inverse C' of what is left, every choice R costs

        .. math:: E(F \cup R) = E(F) + \operatorname{tr} W'_R (C'_{RR})^{-1} {W'_R}^T

        and the second term is bounded by `least_rest`.
        """
        check_cover(removed, kept, self.remove)
        best = math.inf
        by_removed: dict[bytes, list[int]] = {}
        for leaf in range(len(removed)):
            by_removed.setdefault(removed[leaf].tobytes(), []).append(leaf)
        for leaves in by_removed.values():
            flags = removed[leaves[0]]
            missing = self.remove - int(flags.sum())
            rest = self.eliminate(flags)
            for leaf in leaves:
                if rest.spent < best:
                    best = min(best, rest.spent + least_rest(restrict(rest, ~kept[leaf]), missing, best - rest.spent))
        return best

    def eliminate(self, removed: Bools) -> Rest:
        """Return what is left of the groups after the flagged ones are removed, from scratch."""
        W, C = np.asarray(self.weight), self.inverse
        members = self.members
        groups = np.flatnonzero(~removed)
        rest = np.concatenate([members[g] for g in groups]) if len(groups) else np.zeros(0, np.int64)
        W_rest, C_rest, spent = W[:, rest], C[np.ix_(rest, rest)], 0.0
        if removed.any():
            out = np.concatenate([members[g] for g in np.flatnonzero(removed)])
            L = np.linalg.cholesky(C[np.ix_(out, out)])
            half_W = solve_triangular(L, W[:, out].T, lower=True)
            half_C = solve_triangular(L, C[np.ix_(out, rest)], lower=True)
            spent = float(np.vdot(half_W, half_W))
            W_rest, C_rest = W_rest - half_W.T @ half_C, C_rest - half_C.T @ half_C
        return Rest(groups, self.sizes[groups], W_rest.T @ W_rest, C_rest, spent)

    def _as_value(self, x: ArrayLike) -> Ints:
        chosen = np.asarray(x)
        if chosen.size == 0:
            chosen = chosen.astype(np.int64)
        groups = np.sort(ints("x", chosen, ("removed",), low=0, high=self.n_groups - 1))
        require(np.all(np.diff(groups)), "x", "name each group once", groups)
        return groups


def _groups(given: Sequence[Any], d: int) -> tuple[tuple[int, ...], ...]:
    groups = []
    seen = np.zeros(d, np.bool_)
    for g, columns in enumerate(given):
        index = ints(f"groups[{g}]", np.atleast_1d(np.asarray(columns)), ("columns",), low=0, high=d - 1)
        require(index.size, f"groups[{g}]", "hold a column number", index)
        fresh = not np.any(seen[index]) and len(np.unique(index)) == len(index)
        require(fresh, f"groups[{g}]", "be disjoint from the other groups", index, "name each column once")
        seen[index] = True
        groups.append(tuple(index.tolist()))
    require(groups, "groups", "hold a list of columns", groups)
    return tuple(groups)
