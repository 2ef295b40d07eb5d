"""All optima of a closure over its penalty, with one proof for every penalty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunopt.core import deprecation
from prunopt.core.arrays import Bools
from prunopt.core.display import one_line
from prunopt.core.solution import relative_gap
from prunopt.core.validate import require
from prunopt.forms.closure.closure import Closure, exact_sum


class PathBlock(NamedTuple):
    """Items that leave the optimum together once the penalty rises above ``penalty``."""

    penalty: Fraction
    items: NDArray[np.int32]  # ascending
    requirements: NDArray[np.int32]  # those of its items that no earlier item pays for, ascending
    multipliers: NDArray[np.int64]  # one for each edge between the two, item by item
    denominator: int

    @property
    def price(self) -> Fraction:
        """The penalty, by its old name."""
        deprecation.warn("PathBlock.price", ".penalty")
        return self.penalty


@one_line
@dataclass(frozen=True, eq=False)
class PenaltyPath:
    r"""The optima of a `Closure` for every penalty p >= 0.

    The largest optimum shrinks as the penalty rises: it is ``always`` together with all blocks whose penalty is at
    least p. With the multipliers b of every block at its own penalty, the multipliers

    .. math:: b_e \min(1, p / p_{\mathrm{block}(e)})

    are valid at penalty p, and optimal: the Lagrangian is jointly convex in penalty and multipliers, and along the line
    from penalty 0 (where b = 0 is optimal) to the penalty of the block the optimum is one linear function. So a bound
    at any penalty costs one addition for each block, once two tree dynamic programs a block have been run: at its own
    penalty with its multipliers, and at penalty 0 with none.

    Parameters
    ----------
    closure
        The problem; its own penalty plays no part.
    always
        Items worth keeping at any penalty, those that need nothing that costs.
    blocks
        By falling penalty. Their items, with ``always``, are the largest optimum at penalty 0.
    complete
        False where a limit or an interrupt left blocks unsplit: each penalty then still has a valid closure and a valid
        bound, with the gap that `gap` tells.

    References
    ----------
    G. Gallo, M. D. Grigoriadis, R. E. Tarjan, "A fast parametric maximum flow algorithm and applications", SIAM J.
    Comput. 18 (1989), for the nestedness.
    """

    closure: Closure
    always: Bools
    blocks: tuple[PathBlock, ...]
    complete: bool = True
    stats: dict[str, float] = field(default_factory=dict)

    @cached_property
    def profits(self) -> tuple[int, ...]:
        """The profit of each block."""
        return tuple(exact_sum(self.closure.profit[b.items]) for b in self.blocks)

    @cached_property
    def costs(self) -> tuple[int, ...]:
        """The cost of each block's requirements."""
        return tuple(exact_sum(self.closure.cost[b.requirements]) for b in self.blocks)

    def kept(self, penalty: Fraction) -> Bools:
        """Return the largest optimum at ``penalty``."""
        chosen = self.always.copy()
        for block in self.blocks:
            if block.penalty >= penalty:
                chosen[block.items] = True
        return chosen

    def objective(self, penalty: Fraction) -> Fraction:
        """Return the objective of `kept` at ``penalty``."""
        profit = exact_sum(self.closure.profit[self.always])
        rows = zip(self.blocks, self.profits, self.costs, strict=True)
        total = sum((penalty * c - a for b, a, c in rows if b.penalty >= penalty), Fraction(0))
        return self.closure.unit * (total - profit)

    def bound(self, penalty: Fraction) -> float:
        """Return a lower bound on the optimum at ``penalty``, from the dynamic programs of `proofs`."""
        rest, *proofs = self.proofs
        profit = rest[1]
        for block, (own, free) in zip(self.blocks, proofs, strict=True):
            share = penalty / block.penalty if block.penalty >= penalty and block.penalty > 0 else Fraction(1)
            profit += share * own + (1 - share) * free
        return float(-self.closure.unit * profit)

    def proven_profits(self, penalties: Sequence[Fraction]) -> list[Fraction]:
        r"""Return what `bound` proves at many penalties, in one pass over the blocks, as exact rationals.

        Entry k is an upper bound on :math:`\sum_h a_h x_h - p_k \sum_j c_j w_j` over all closures, in the integers of
        the problem: ``bound(p) == float(-closure.unit * entry)``.

        Parameters
        ----------
        penalties
            Penalties >= 0, rising.
        """
        rising = all(a <= b for a, b in pairwise((Fraction(0), *penalties)))
        require(rising, "penalties", "be >= 0 in rising order", penalties)
        rest, *proofs = self.proofs
        rows = list(zip(self.blocks, proofs, strict=True))[::-1]
        # A block's bound is that at its own penalty for every higher penalty, and linear in the penalty below it.
        constant, slope = rest[1] + sum(own for _, (own, _) in rows), Fraction(0)
        out: list[Fraction] = []
        for penalty in reversed(penalties):
            while rows and rows[-1][0].penalty >= penalty and rows[-1][0].penalty > 0:
                block, (own, free) = rows.pop()
                constant += free - own
                slope += (own - free) / block.penalty
            out.append(constant + penalty * slope)
        return out[::-1]

    def gap(self, penalty: Fraction) -> float:
        """Return the certified relative gap at ``penalty``, (objective - bound) / max(1, |objective|)."""
        return relative_gap(float(self.objective(penalty)), self.bound(penalty))

    @cached_property
    def proofs(self) -> tuple[tuple[Fraction, Fraction], ...]:
        """Upper bounds on the profit of every block: at its own penalty with its multipliers, and at penalty 0.

        The first entry is for the items in no block. Costs two passes over all edges; no flow algorithm takes part.
        """
        outside = np.ones(self.closure.n_items, np.bool_)
        for block in self.blocks:
            outside[block.items] = False
        nothing = np.zeros(0, np.int32)
        left = PathBlock(Fraction(0), np.flatnonzero(outside).astype(np.int32), nothing, np.zeros(0, np.int64), 1)
        return tuple(self._prove(block) for block in (left, *self.blocks))

    def _prove(self, block: PathBlock) -> tuple[Fraction, Fraction]:
        part = self.closure.part(block.items, block.requirements, block.penalty)
        none = {"requirements": np.zeros(part.n_edges, np.int64), "denominator": block.penalty.denominator}
        own = {"requirements": block.multipliers, "denominator": block.denominator}
        return -part.rational_bound(own), -part.rational_bound(none)

    def multipliers(self, penalty: Fraction, denominator: int) -> NDArray[np.int64]:
        """Return the multipliers that prove `bound` at ``penalty``, one an edge, rounded down to 1 / denominator."""
        item_block = np.full(self.closure.n_items, -1, np.int32)
        requirement_block = np.full(self.closure.n_requirements, -2, np.int32)
        for k, block in enumerate(self.blocks):
            item_block[block.items] = k
            requirement_block[block.requirements] = k
        owner = np.repeat(item_block, np.diff(self.closure.indptr))
        owner[owner != requirement_block[self.closure.indices]] = -1
        out = np.zeros(self.closure.n_edges, np.int64)
        for k, block in enumerate(self.blocks):
            share = penalty / block.penalty if block.penalty > penalty else Fraction(1)
            factor = np.longdouble(share.numerator) / np.longdouble(share.denominator)
            factor *= np.longdouble(denominator) / np.longdouble(block.denominator)
            out[owner == k] = np.floor(block.multipliers * factor).astype(np.int64)
        return out
