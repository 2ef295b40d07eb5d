"""Which blocks of a transformer are dropped, by what dropping single blocks and pairs of them costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Bools, Floats
from prunopt.core.problem import Reduced
from prunopt.core.validate import Shown, bools, floats, require, whole_number
from prunopt.forms.subset.quadratic_knapsack import QuadraticKnapsack


@dataclass(frozen=True, eq=False)
class DepthSelection:
    r"""Drop so many of n blocks that the loss, to second order, is least.

    .. math::
        \min_{x \in \{0,1\}^n} \sum_i L_i x_i + \sum_{i<j} (L_{ij} - L_i - L_j) \, x_i x_j
        \quad \text{s.t.} \quad \sum_i x_i = k

    :math:`L_i` and :math:`L_{ij}` are the measured losses without block i, and without i and j. For small changes of
    the outputs the divergence is a quadratic form of them, so that this is its value for any set; for large ones it is
    a model, and the answer has to be judged on the network itself.

    Parameters
    ----------
    single : (n,) float
        :math:`L_i`; infinite for blocks that may not be dropped.
    pair : (n, n) float
        :math:`L_{ij}` for i < j; what is on the diagonal or below does not count.
    remove : int
        k.

    Notes
    -----
    The value is a bool array (n,); True = dropped.
    """

    single: Any
    pair: Any
    remove: int

    forms: ClassVar[tuple[type, ...]] = (QuadraticKnapsack,)

    def __post_init__(self) -> None:
        single = floats("single", self.single, ("n",), finite=False)
        require(not np.isneginf(single).any(), "single", "be finite, or +infinity for a block that stays", -math.inf)
        n = len(single)
        given = np.asarray(self.pair, np.float64)
        require(given.shape == (n, n), "pair", f"have shape ({n}, {n})", Shown(f"shape {given.shape}"))
        pair = np.triu(np.where(np.eye(n, dtype=bool), 0.0, given), 1)
        at = np.flatnonzero(np.isfinite(single))
        inside = pair[at[:, None], at]
        require(np.isfinite(inside).all(), "pair", "be finite for all blocks that may be dropped", self.pair)
        mend = f"{len(at)} of {n} blocks may be dropped"
        whole_number("remove", self.remove, low=0, high=len(at), mend=mend)
        object.__setattr__(self, "single", single)
        object.__setattr__(self, "pair", pair)

    @property
    def interactions(self) -> Floats:
        """What a pair loses beyond its two blocks, (n, n) above the diagonal; 0 where a block may not be dropped."""
        there = np.isfinite(self.single)
        single, both = np.where(there, self.single, 0.0), there[:, None] & there[None, :]
        return np.triu(np.where(both, self.pair, 0.0) - np.where(both, single[:, None] + single, 0.0), 1)

    def objective(self, x: ArrayLike, /) -> float:
        """Return the modeled loss of a set of dropped blocks."""
        at = np.flatnonzero(bools("x", x, self.single.shape))
        return math.fsum([*self.single[at].tolist(), *self.interactions[at[:, None], at].ravel().tolist()])

    def violation(self, x: ArrayLike, /) -> float:
        """Return by how many blocks the number is missed; infinite where a block goes that may not."""
        dropped = bools("x", x, self.single.shape)
        if np.isinf(self.single[dropped]).any():
            return math.inf
        return float(abs(int(dropped.sum()) - self.remove))

    def reduce(self, to: type | None = None) -> Reduced[Bools]:
        """Return the quadratic knapsack of the blocks that may be dropped."""
        require(to in (None, QuadraticKnapsack), "to", "be QuadraticKnapsack", to)
        at = np.flatnonzero(np.isfinite(self.single))
        require(len(at), "single", "let a block be dropped", self.single)
        pair = self.interactions[at[:, None], at]
        form = QuadraticKnapsack(self.single[at], pair, np.ones(len(at)), float(self.remove), exactly=self.remove)

        def back(x: Any) -> Bools:
            dropped = np.zeros(len(self.single), np.bool_)
            dropped[at] = x
            return dropped

        return Reduced(form, back)
