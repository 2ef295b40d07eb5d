"""Masks that are N:M by rows and by columns: a layer and its transpose are sparse alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Bools
from prunopt.core.display import one_line
from prunopt.core.validate import floats, mask, require
from prunopt.forms.layer.nm_patterns import pattern_of

if TYPE_CHECKING:
    import pulp

ROUNDINGS = 4  # times the precision: sums of three numbers closer to 0 are taken again, exactly


@one_line
@dataclass(frozen=True, eq=False)
class TransposableMask:
    r"""Keep N of every M consecutive weights of each row, and of each column, losing the least score.

    .. math::
        \min_{x \in \{0, 1\}} \; \sum_{ij} s_{ij} (1 - x_{ij}) \quad \text{s.t.} \quad
        \sum_{j \in J} x_{ij} = N, \; \sum_{i \in I} x_{ij} = N \text{ in every tile } I \times J \text{ of M x M}

    Both W and its transpose are then N:M sparse, as forward and backward passes of sparse training need [1]_. A tile is
    a bipartite b-matching, so its linear relaxation has whole solutions [2]_ and prices prove them optimal.

    Parameters
    ----------
    scores : (out, in) float
        What removing each weight loses, such as :math:`w^2 E x^2`.
    pattern : (int, int)
        (N, M), or text such as ``"2:4"``; M divides both numbers of ``scores``.

    Notes
    -----
    The value is a bool array of the scores' shape, True = kept.

    References
    ----------
    .. [1] I. Hubara et al., "Accelerated sparse neural training: a provable and efficient method to find N:M
       transposable masks", NeurIPS 2021.
    .. [2] A. Schrijver, "Combinatorial optimization", 2003, section 21.2.
    """

    scores: Any
    pattern: Any = (2, 4)

    violation_unit = 1.0

    def __post_init__(self) -> None:
        scores = np.ascontiguousarray(floats("scores", self.scores, (None, None)))
        kept, size = pattern_of(self.pattern)
        fits = scores.shape[0] % size == 0 and scores.shape[1] % size == 0
        require(fits, "pattern", f"be N:M with M a divisor of {scores.shape[0]} and {scores.shape[1]}", self.pattern)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "pattern", (kept, size))

    @property
    def shape(self) -> tuple[int, int]:
        """The scores' shape."""
        return int(self.scores.shape[0]), int(self.scores.shape[1])

    @property
    def n_tiles(self) -> int:
        """Number of tiles of M x M weights."""
        size = self.pattern[1]
        return int(self.scores.size) // int(size) ** 2

    @cached_property
    def objective_unit(self) -> float:
        """The sum of the sizes of all scores."""
        return math.fsum(np.abs(self.scores).ravel())

    def tiles(self, table: ArrayLike) -> Any:
        """Return a table of the scores' shape as (tiles, M, M), tiles counted along the rows."""
        size = self.pattern[1]
        rows, columns = self.shape[0] // size, self.shape[1] // size
        return np.asarray(table).reshape(rows, size, columns, size).transpose(0, 2, 1, 3).reshape(-1, size, size)

    def untiled(self, tiles: ArrayLike) -> Any:
        """Return what `tiles` made of a table."""
        size = self.pattern[1]
        rows, columns = self.shape[0] // size, self.shape[1] // size
        return np.asarray(tiles).reshape(rows, columns, size, size).transpose(0, 2, 1, 3).reshape(self.shape)

    def objective(self, x: ArrayLike, /) -> float:
        """Return the total score of the removed weights."""
        return math.fsum(self.scores[~self._as_value(x)])

    def violation(self, x: ArrayLike, /) -> float:
        """Return how many weights too many or too few are kept, over all rows and columns of tiles."""
        tiles = self.tiles(self._as_value(x))
        off = [np.abs(tiles.sum(axis=axis) - self.pattern[0]).sum() for axis in (1, 2)]
        return float(sum(off))

    def bound(self, duals: Mapping[str, Any]) -> float:
        r"""Return the lower bound that prices of rows and columns prove.

        For all :math:`u_{tr}` and :math:`v_{tc}`, one for each row and column of each tile t,

        .. math:: \sum_{ij} s_{ij} - \sum_t \Big( N \sum_r u_{tr} + N \sum_c v_{tc}
                  + \sum_{rc} (s_{trc} - u_{tr} - v_{tc})^+ \Big)

        is no more than any mask loses. It is the exact sum, rounded down.

        Parameters
        ----------
        duals
            ``"rows"`` and ``"columns"``: (tiles, M) finite numbers u and v.
        """
        kept, size = self.pattern
        u, v = (floats(name, duals[name], (self.n_tiles, size)) for name in ("rows", "columns"))
        parts = np.broadcast_arrays(self.tiles(self.scores), -u[:, :, None], -v[:, None, :])
        over = parts[0] + parts[1] + parts[2]
        doubt = np.abs(over) <= ROUNDINGS * np.finfo(np.float64).eps * sum(np.abs(part) for part in parts)
        over[doubt] = [math.fsum(row) for row in zip(*(part[doubt].tolist() for part in parts), strict=True)]
        taken = over > 0  # exactly those that add to the last sum
        terms = [parts[0][~taken]]
        for prices, axis in ((u, 2), (v, 1)):
            times = taken.sum(axis=axis) - kept
            terms.append(np.repeat((prices * np.sign(times)).ravel(), np.abs(times).ravel()))
        total = math.fsum(np.concatenate([term.ravel() for term in terms]).tolist())
        return math.nextafter(total, -math.inf) if total else total

    def to_pulp(self) -> pulp.LpProblem:
        """Return the 0-1 program with variables ``x_t_r_c``; its linear relaxation has whole solutions."""
        import pulp

        model = pulp.LpProblem("transposable_mask", pulp.LpMinimize)
        scores, (kept, size) = self.tiles(self.scores), self.pattern
        x = {
            (t, r, c): model.add_variable(f"x_{t}_{r}_{c}", 0, 1, pulp.LpBinary)
            for t in range(len(scores))
            for r in range(size)
            for c in range(size)
        }
        lost = pulp.LpAffineExpression([(v, -float(scores[key])) for key, v in x.items()])
        model.setObjective(lost + math.fsum(scores.ravel()))
        for t in range(len(scores)):
            for r in range(size):
                row = pulp.LpAffineExpression([(x[t, r, c], 1) for c in range(size)])
                column = pulp.LpAffineExpression([(x[t, c, r], 1) for c in range(size)])
                model.addConstraint(row == kept, f"row_{t}_{r}")
                model.addConstraint(column == kept, f"column_{t}_{r}")
        return model

    def pulp_values(self, x: ArrayLike) -> dict[str, float]:
        """Return what the variables of the `to_pulp` model are at a mask: a start for an engine."""
        held = self.tiles(np.asarray(x, np.bool_))
        return {f"x_{t}_{r}_{c}": float(kept) for (t, r, c), kept in np.ndenumerate(held)}

    def read_pulp(self, model: pulp.LpProblem) -> Bools:
        """Return the mask of a solved `to_pulp` model."""
        found = model.variablesDict()
        held = np.zeros((self.n_tiles, self.pattern[1], self.pattern[1]), np.bool_)
        for t, r, c in np.ndindex(*held.shape):
            variable = found.get(f"x_{t}_{r}_{c}")
            held[t, r, c] = variable is not None and (variable.varValue or 0.0) > 0.5
        kept: Bools = self.untiled(held)
        return kept

    def _as_value(self, x: ArrayLike) -> Bools:
        return mask("x", x, self.shape)
