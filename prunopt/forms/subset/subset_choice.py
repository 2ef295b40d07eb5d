"""A subset within a budget under any loss: the form of problems whose loss can only be tried out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.display import one_line
from prunopt.core.validate import Shown, floats, ints, mask, require, whole_number

MOST_ENUMERATED = 1 << 16
SLACK = 1e-9  # relative: sums of costs this far over the budget are rounding


@one_line
@dataclass(frozen=True, eq=False)
class SubsetChoice:
    r"""Choose which of n items stay, so that a loss is least of which nothing is known but its values.

    .. math::
        \min_{x \in \{0,1\}^n} L(x) \quad \text{s.t.} \quad \sum_i c_i x_i \le B, \quad
        \sum_{i \in S} x_i \ge 1 \;\; \forall S \in \mathcal{S}, \quad \text{and, if asked for, } \sum_i x_i = K

    Parameters
    ----------
    loss : callable
        ``loss(kept) -> float``, ``kept`` a bool array (n,). Deterministic; solvers call it for one mask at a time, in
        an order in which neighbors share their first items, so that it may keep what it has computed for them.
    cost : (n,) float
        :math:`c_i \ge 0`, what keeping an item costs.
    budget : float
        B.
    cover : sequence of index lists
        :math:`\mathcal{S}`, disjoint; of each set one item stays at least.
    exactly : int, optional
        K, where the number of items is given and not just limited.
    scores : callable, optional
        ``scores(kept) -> (n,) floats``: what a cheap estimate says that the removal of each item costs.
    scores_name : str
        What that estimate is called.

    Notes
    -----
    L need not grow when items go. So no bound holds but the one from looking at every choice.

    Raises
    ------
    ValueError
        If no subset meets the constraints; the message says what the least possible budget is.
    """

    loss: Callable[[Bools], float]
    cost: ArrayLike
    budget: float
    cover: Sequence[Sequence[int]] = ()
    exactly: int | None = None
    scores: Callable[[Bools], ArrayLike] | None = None
    scores_name: str = ""

    def __post_init__(self) -> None:
        cost = floats("cost", self.cost, ("n",), low=0.0)
        require(cost.size, "cost", "hold a number", cost)
        if not callable(self.loss):
            raise TypeError(f"loss must be a function of a bool array ({cost.size},), got {type(self.loss).__name__}")
        require(not math.isnan(self.budget), "budget", "be a number", self.budget)
        cover = tuple(np.unique(ints("cover", np.asarray(s), low=0, high=cost.size - 1)) for s in self.cover)
        members = np.concatenate([*cover, np.zeros(0, np.int64)])
        require(all(s.size for s in cover), "cover", "hold sets that are not empty", self.cover)
        require(len(np.unique(members)) == len(members), "cover", "hold sets that share no item", self.cover)
        if self.exactly is not None:
            whole_number("exactly", self.exactly, low=len(cover), high=cost.size)
        object.__setattr__(self, "cost", cost)
        object.__setattr__(self, "cover", cover)
        least = float(cost[self.cheapest].sum())
        why = f"{int(self.cheapest.sum())} items have to stay"
        require(least <= self.limit, "budget", f"be >= {least:g}", self.budget, why)

    @property
    def costs(self) -> Floats:
        """The costs as an array."""
        return self.cost  # type: ignore[return-value]

    @property
    def sets(self) -> tuple[Ints, ...]:
        """The cover as arrays."""
        return self.cover  # type: ignore[return-value]

    @property
    def n_items(self) -> int:
        """n."""
        return len(self.costs)

    @property
    def limit(self) -> float:
        """The budget with room for the rounding of sums."""
        return self.budget + SLACK * abs(self.budget)

    @cached_property
    def cheapest(self) -> Bools:
        """The subset of least cost that meets the constraints on numbers."""
        kept = np.zeros(self.n_items, np.bool_)
        for s in self.sets:
            kept[s[np.argmin(self.costs[s])]] = True
        rest = [i for i in np.argsort(self.costs, kind="stable") if not kept[i]]
        kept[rest[: max(0, (self.exactly or 0) - int(kept.sum()))]] = True
        return kept

    def objective(self, x: ArrayLike, /) -> float:
        """Return L of a subset."""
        return float(self.loss(self._as_value(x)))

    def violation(self, x: ArrayLike, /) -> float:
        """Return what is spent over the budget, plus sets without an item, plus items too many or too few."""
        kept = self._as_value(x)
        spent = float(self.costs[kept].sum())
        over = max(0.0, spent - self.budget) if spent > self.limit else 0.0
        empty = sum(not kept[s].any() for s in self.sets)
        return over + empty + (0 if self.exactly is None else abs(int(kept.sum()) - self.exactly))

    @property
    def n_raw(self) -> int:
        """Number of subsets before costs and cover are looked at."""
        return 2**self.n_items if self.exactly is None else math.comb(self.n_items, self.exactly)

    def _as_value(self, x: ArrayLike) -> Bools:
        return mask("x", x, (self.n_items,))


@one_line
@dataclass(frozen=True, eq=False)
class EnumerableChoice(SubsetChoice):
    """A `SubsetChoice` with so few subsets (2^16 at most, before costs are looked at) that all can be tried.

    Raises
    ------
    ValueError
        If there may be more.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        count = Shown(f"about {self.n_raw:.3g}")
        require(self.n_raw <= MOST_ENUMERATED, "subsets", f"be {MOST_ENUMERATED} at most", count, "use SubsetChoice")

    def every_choice(self) -> Iterator[Bools]:
        """Yield every subset that meets the constraints; those that share their first items come together."""
        yield from self._extended(np.zeros(self.n_items, np.bool_), 0, 0.0, 0)

    def _extended(self, kept: Bools, i: int, spent: float, count: int) -> Iterator[Bools]:
        if i == self.n_items:
            if self.violation(kept) == 0:
                yield kept.copy()
            return
        short = self.exactly is not None and count + self.n_items - i <= self.exactly
        if not short:
            yield from self._extended(kept, i + 1, spent, count)
        if spent + self.costs[i] <= self.limit and (self.exactly is None or count < self.exactly):
            kept[i] = True
            yield from self._extended(kept, i + 1, spent + float(self.costs[i]), count + 1)
            kept[i] = False

    def bound(self, duals: Mapping[str, Any]) -> float:
        """Return the least loss of all subsets, each tried out again, where ``duals["enumerated"]`` asks for it."""
        if not duals.get("enumerated"):
            return -math.inf
        return min(self.objective(x) for x in self.every_choice())
