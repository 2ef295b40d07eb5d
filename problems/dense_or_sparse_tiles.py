"""The task of choosing which tiles of a layer stay dense and which become N:M."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.problem import Reduced
from prunopt.core.validate import floats, invalid, mask, number, require, whole_number
from prunopt.forms import MultipleChoiceKnapsack
from prunopt.forms.layer.nm_patterns import pattern_of


@dataclass(frozen=True, eq=False)
class DenseOrSparseTiles:
    r"""Keep tiles of a layer dense or make them N:M, so that few weights stay and the least score is removed [1]_.

    .. math::
        \min_{y \in \{0, 1\}^T} \; \sum_t (1 - y_t) \, r_t \quad \text{s.t.} \quad
        \sum_t \big( y_t + (1 - y_t) N / M \big) n_t \le \mathrm{density} \cdot \sum_t n_t

    :math:`r_t` is the score that the best N:M mask of tile t removes, and :math:`n_t` its number of weights. It is a
    multiple-choice knapsack of two levels a tile, exactly.

    Parameters
    ----------
    scores : (out, in) float
        What removing each weight loses, such as :math:`w^2 E x^2`; >= 0.
    density : float
        The fraction of the weights that may stay, from N/M to 1.
    pattern : (int, int)
        (N, M), or text such as ``"2:4"``: N of every M consecutive weights of a row stay in a sparse tile.
    tile : (int, int)
        Rows and columns of a tile, the columns a multiple of M; tiles at the edges are smaller.

    Notes
    -----
    The value is a bool mask of the scores' shape, True = kept.

    References
    ----------
    .. [1] Y. Hourri et al., "PATCH: learnable tile-level hybrid sparsity for LLMs", 2025.
    """

    scores: Any
    density: float
    pattern: Any = (2, 4)
    tile: tuple[int, int] = (128, 128)

    forms: ClassVar[tuple[type, ...]] = (MultipleChoiceKnapsack,)
    violation_unit: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        scores = np.ascontiguousarray(floats("scores", self.scores, (None, None), low=0))
        kept, size = pattern_of(self.pattern)
        require(scores.shape[1] % size == 0, "pattern", f"be N:M with M a divisor of {scores.shape[1]}", self.pattern)
        rows, columns = (whole_number("tile", n, low=1) for n in self.tile)
        require(columns % size == 0, "tile", f"have a number of columns that is a multiple of {size}", self.tile)
        number("density", self.density, low=kept / size, high=1, mend=f"{kept}:{size} keeps {kept / size:g}")
        for name, value in (("scores", scores), ("pattern", (kept, size)), ("tile", (rows, columns))):
            object.__setattr__(self, name, value)

    @cached_property
    def sparse(self) -> Bools:
        """The best N:M mask of all tiles; ties go to the earlier weight."""
        kept, size = self.pattern
        order = np.argsort(-self.scores.reshape(-1, size), axis=1, kind="stable")[:, :kept]
        out = np.zeros((self.scores.size // size, size), np.bool_)
        np.put_along_axis(out, order, True, axis=1)
        return out.reshape(self.scores.shape)

    @cached_property
    def number(self) -> Ints:
        """The number of each weight's tile, of the scores' shape."""
        rows, columns = (np.arange(n) // size for n, size in zip(self.scores.shape, self.tile, strict=True))
        across = int(columns[-1]) + 1 if len(columns) else 0
        out: Ints = (rows[:, None] * across + columns[None, :]).astype(np.int64)
        return out

    def _by_tile(self, table: Any) -> Floats:
        out: Floats = np.bincount(self.number.ravel(), np.asarray(table, np.float64).ravel()).astype(np.float64)
        return out

    @property
    def most(self) -> int:
        """How many weights may stay."""
        return int(np.floor(self.density * self.scores.size + 1e-9))

    def objective(self, x: ArrayLike, /) -> float:
        """Return the total score of the removed weights."""
        return float(self.scores[~self._as_value(x)].sum())

    def violation(self, x: ArrayLike, /) -> float:
        """Return how many weights too many stay, and how many blocks of tiles that are not dense are not N:M."""
        value, (kept, size) = self._as_value(x), self.pattern
        dense = self._by_tile(value) == self._by_tile(np.ones(value.shape))
        blocks = value.reshape(-1, size).sum(axis=1) != kept
        wrong = blocks & ~dense[self.number.reshape(-1, size)[:, 0]]
        return float(max(0, int(value.sum()) - self.most) + int(wrong.sum()))

    def reduce(self, to: type | None = None) -> Reduced[Bools]:
        """Return the multiple-choice knapsack: level 0 of a tile is N:M, level 1 dense."""
        if to not in (None, MultipleChoiceKnapsack):
            raise invalid("form", "be MultipleChoiceKnapsack", to)
        removed = self._by_tile(np.where(self.sparse, 0.0, self.scores))
        sizes, kept = (self._by_tile(table).astype(np.int64) for table in (np.ones(self.scores.shape), self.sparse))
        loss, cost = np.stack([removed, np.zeros(len(removed))], axis=1), np.stack([kept, sizes], axis=1)

        def back(levels: Ints) -> Bools:
            value: Bools = self.sparse | (np.asarray(levels) == 1)[self.number]
            return value

        slack = 1e-13 * float(self.scores.sum())  # sums by tile and over all round differently
        return Reduced(MultipleChoiceKnapsack(loss, cost, self.most), back, slack=slack)

    def _as_value(self, x: ArrayLike) -> Bools:
        return mask("x", x, self.scores.shape)
