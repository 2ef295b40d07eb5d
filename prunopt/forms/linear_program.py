"""Linear programs over a box."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats
from prunopt.core.display import one_line
from prunopt.core.solution import CertificateError
from prunopt.core.validate import floats, of_shape, require

if TYPE_CHECKING:
    import pulp

# A reduced cost this small against the data is rounding, not a way to minus infinity.
REDUCED_COST_TOLERANCE = 1e-7


@one_line
@dataclass(frozen=True, eq=False)
class LinearProgram:
    r"""A linear program over a box.

    .. math:: \min_x \; c^\top x \quad \text{s.t.} \quad A x \le b, \quad 0 \le x \le \mathrm{upper}

    .. warning:: ``upper`` is **1** unless it is given: the programs of this library relax choices. Users of scipy and
       cvxpy want ``upper=inf``, or `Model.of` with ``A_ub, b_ub, A_eq, b_eq, lower, upper``: it takes equalities, lower
       bounds and free variables, has x >= 0 without upper bounds by default, and duals of its own rows.

    Parameters
    ----------
    c : (n,) float
        Costs.
    A : (r, n) array or sparse array
        Rows; kept as ``scipy.sparse.csr_array``.
    b : (r,) float
        Right-hand sides.
    upper : float or (n,) float
        Upper bounds, 1 by default, ``inf`` allowed.
    """

    c: Any
    A: Any
    b: Any
    upper: Any = 1.0

    def __post_init__(self) -> None:
        from scipy import sparse

        c = np.atleast_1d(np.asarray(self.c, np.float64))
        b = np.atleast_1d(np.asarray(self.b, np.float64))
        rows: Any = self.A if sparse.issparse(self.A) else np.asarray(self.A, np.float64)
        if rows.ndim == 1:
            rows = rows.reshape(len(b), len(c) if not len(b) else -1)
        A = sparse.csr_array(rows)
        fits = c.ndim == b.ndim == 1 and A.shape == (len(b), len(c))
        require(fits, "A", f"have shape ({len(b)}, {len(c)}), a row for each of b, a column for each of c", A.shape)
        upper = floats("upper", self.upper, None if np.ndim(self.upper) == 0 else c.shape, low=0.0, finite=False)
        upper = np.broadcast_to(upper, c.shape).copy()
        for name, values in (("c", c), ("A", A.data), ("b", b)):
            floats(name, values, mend="drop rows without a limit")
        for name, value in (("c", c), ("A", A.astype(np.float64)), ("b", b), ("upper", upper)):
            object.__setattr__(self, name, value)

    @cached_property
    def violation_unit(self) -> float:
        """The size of the largest right-hand side or finite upper bound, 1 at least: what rounding is relative to."""
        sides = np.concatenate([np.abs(self.b), self.upper[np.isfinite(self.upper)], [1.0]])
        return float(sides.max())

    @cached_property
    def objective_unit(self) -> float:
        """What all terms can add up to (1 without upper bounds): gaps are relative to it where it is less than 1."""
        bounded = np.isfinite(self.upper)
        return float(np.abs(self.c[bounded]) @ self.upper[bounded]) if bounded.all() else 1.0

    def objective(self, x: ArrayLike, /) -> float:
        """Return c'x."""
        return float(self.c @ self._as_value(x))

    def violation(self, x: ArrayLike, /) -> float:
        """Return the largest amount by which a row or a bound is missed."""
        v = self._as_value(x)
        over = self.A @ v - self.b
        return float(max(0.0, over.max(initial=0.0), -v.min(initial=0.0), (v - self.upper).max(initial=0.0)))

    def bound(self, duals: Mapping[str, Any]) -> float:
        r"""Return the Lagrangian bound :math:`-b^\top y + \sum_i \min(0, c_i + (A^\top y)_i) \, \mathrm{upper}_i`.

        Parameters
        ----------
        duals
            ``"rows"``: multipliers y >= 0, shape (r,). Negative entries count as 0.

        Notes
        -----
        Where a variable has no upper bound, a reduced cost of at least -1e-7 (relative to the data) counts as 0.
        """
        y = np.asarray(duals.get("rows", ()), np.float64)
        if y.shape != self.b.shape or not np.all(np.isfinite(y)):
            raise CertificateError(f"duals['rows'] must be {len(self.b)} finite numbers, got shape {y.shape}")
        y = np.maximum(y, 0.0)
        slope = np.minimum(self.c + self.A.T @ y, 0.0)
        free = np.isinf(self.upper)
        size = 1.0 + abs(self.c).max(initial=0.0)
        if np.any(slope[free] < -REDUCED_COST_TOLERANCE * size):
            return -math.inf
        return float(-(self.b @ y) + slope[~free] @ self.upper[~free])

    def is_infeasible_by(self, ray: ArrayLike) -> bool:
        r"""Return whether the Farkas ray y >= 0 proves that no x is feasible: :math:`\min_x y^\top (A x - b) > 0`."""
        y = np.maximum(np.asarray(ray, np.float64), 0.0)
        if y.shape != self.b.shape or not np.all(np.isfinite(y)):
            return False
        slope = np.minimum(self.A.T @ y, 0.0)
        free = np.isinf(self.upper)
        size = 1.0 + float(abs(y) @ abs(self.b))
        if np.any(slope[free] < -REDUCED_COST_TOLERANCE * size):
            return False
        return float(slope[~free] @ self.upper[~free] - self.b @ y) > 1e-9 * size

    def to_pulp(self) -> pulp.LpProblem:
        """Return the program as a PuLP model with variables ``x_0, x_1, ...``."""
        import pulp

        model = pulp.LpProblem("linear_program", pulp.LpMinimize)
        tops = [None if math.isinf(u) else float(u) for u in self.upper]
        x = [model.add_variable(f"x_{i}", 0, top) for i, top in enumerate(tops)]
        model.setObjective(pulp.LpAffineExpression([(v, float(k)) for v, k in zip(x, self.c, strict=True)]))
        for r in range(len(self.b)):
            span = slice(self.A.indptr[r], self.A.indptr[r + 1])
            terms = [(x[i], float(k)) for i, k in zip(self.A.indices[span], self.A.data[span], strict=True)]
            model.addConstraint(pulp.LpAffineExpression(terms) <= float(self.b[r]), f"row_{r}")
        return model

    def pulp_values(self, x: ArrayLike) -> dict[str, float]:
        """Return what the variables of the `to_pulp` model are at x: a start for an engine."""
        return {f"x_{i}": float(v) for i, v in enumerate(self._as_value(x))}

    def read_pulp(self, model: pulp.LpProblem) -> Floats:
        """Return x from a solved `to_pulp` model."""
        found = model.variablesDict()
        return np.array([found[f"x_{i}"].varValue or 0.0 if f"x_{i}" in found else 0.0 for i in range(len(self.c))])

    def _as_value(self, x: ArrayLike) -> Floats:
        return of_shape("x", x, self.c.shape)
