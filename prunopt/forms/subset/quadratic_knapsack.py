"""A subset within a budget under a quadratic loss: a surrogate for a loss that can only be evaluated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunopt.core.arrays import Bools, Floats
from prunopt.core.display import one_line
from prunopt.core.solution import CertificateError
from prunopt.core.validate import floats, mask, require
from prunopt.forms.subset.subset_choice import SubsetChoice

if TYPE_CHECKING:
    import pulp


@one_line
@dataclass(frozen=True, eq=False)
class QuadraticKnapsack:
    r"""Choose which of n items stay, under a loss of single items and pairs.

    .. math::
        \min_{x \in \{0,1\}^n} a + \sum_i l_i x_i + \sum_{i < j} q_{ij} x_i x_j
        \quad \text{s.t.} \quad \sum_i c_i x_i \le B, \quad \sum_{i \in S} x_i \ge 1 \;\; \forall S \in \mathcal{S},
        \quad \Big(\sum_i x_i = K\Big), \quad x \ne f \;\; \forall f \in \mathcal{F}

    Parameters
    ----------
    linear : (n,) float
        l.
    pair : (n, n) float
        q, above the diagonal; what is on it or below must be 0.
    cost : (n,) float
        c >= 0.
    budget : float
        B.
    constant : float
        a.
    cover, exactly
        As in `SubsetChoice`.
    forbidden : (m, n) bool
        Subsets that are not to be chosen again (no-good cuts).
    """

    linear: Any
    pair: Any
    cost: Any
    budget: float
    constant: float = 0.0
    cover: Sequence[Sequence[int]] = ()
    exactly: int | None = None
    forbidden: Any = None

    def __post_init__(self) -> None:
        linear = np.array(floats("linear", self.linear, ("n",)))
        n = len(linear)
        require(n, "linear", "hold a number", linear)
        pair = np.array(floats("pair", self.pair, (n, n)))
        require(not np.tril(pair).any(), "pair", "be 0 on and below the diagonal", pair)
        cuts = np.zeros((0, n), np.bool_) if self.forbidden is None else np.array(self.forbidden)
        mask("forbidden", cuts, ("m", n))
        for name, array in (("linear", linear), ("pair", pair), ("forbidden", cuts)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "cost", self.subset.costs)
        object.__setattr__(self, "cover", tuple(tuple(int(i) for i in s) for s in self.subset.sets))

    @cached_property
    def subset(self) -> SubsetChoice:
        """The same constraints, but for the cuts."""
        cost = floats("cost", self.cost, self.linear.shape)
        return SubsetChoice(self.value_of, cost, self.budget, self.cover, self.exactly)

    @property
    def n_items(self) -> int:
        """n."""
        return len(self.linear)

    def value_of(self, x: Bools) -> float:
        """Return the loss of a subset."""
        at = np.flatnonzero(x)
        pairs = self.pair[at[:, None], at].ravel()
        return math.fsum([self.constant, *self.linear[at].tolist(), *pairs[pairs != 0].tolist()])

    @cached_property
    def objective_unit(self) -> float:
        """The sum of all coefficients: what gaps are relative to where that is less than 1."""
        return math.fsum(np.abs([self.constant, *self.linear, *self.pair.ravel()]))

    def objective(self, x: ArrayLike, /) -> float:
        """Return the loss of a subset."""
        return self.subset.objective(x)

    def violation(self, x: ArrayLike, /) -> float:
        """Return that of `SubsetChoice`, plus 1 for a forbidden subset."""
        missing = self.subset.violation(x)
        return missing + float((self.forbidden == np.asarray(x)).all(axis=1).any())

    def bound(self, duals: Mapping[str, Any]) -> float:
        r"""Return the least bound of the leaves of a search tree, after checking that they cover all subsets.

        ``duals["order"]`` is the order of the items that the tree branches in, ``duals["leaves"]`` (m, n) int8 holds
        0 or 1 for the items that a leaf has decided, in that order, and -1 for the others. With D the decided, R the
        undecided items, r of which are to stay, a leaf is worth at least

        .. math::
            L(x_D) + \min_{T \subseteq R, |T| = r} \sum_{i \in T} \Big(l_i + \sum_{j \in D} q_{ij} x_j
            + \tfrac12 \min_{T' \subseteq R \setminus i, |T'| = r - 1} \sum_{j \in T'} q_{ij}\Big)

        and where no number is asked for, the minimum over all T that the budget has room for, by its LP relaxation.

        Raises
        ------
        CertificateError
            If the leaves leave out a subset.
        """
        if "leaves" not in duals:
            return -math.inf
        order, leaves = np.asarray(duals["order"], np.int64), np.asarray(duals["leaves"], np.int8)
        if not np.array_equal(np.sort(order), np.arange(self.n_items)) or leaves.shape[1:] != order.shape:
            raise CertificateError("duals: an order of all items, and leaves of as many columns, are needed")
        _check_cover(leaves)
        pair = (self.pair + self.pair.T)[order[:, None], order]
        return min((self._leaf(leaf, order, pair) for leaf in leaves), default=math.inf)

    def _leaf(self, leaf: NDArray[np.int8], order: NDArray[np.int64], pair: Floats) -> float:
        depth = int((leaf >= 0).sum())
        decided = np.zeros(self.n_items, np.bool_)
        decided[order[:depth]] = leaf[:depth] == 1
        spent, count = float(self.cost[decided].sum()), int(decided.sum())
        left = order[depth:]
        open_items = np.zeros(self.n_items, np.bool_)
        open_items[left] = True
        if spent > self.subset.limit or any(not (decided | open_items)[list(s)].any() for s in self.cover):
            return math.inf
        if depth == self.n_items and self.violation(decided) > 0:
            return math.inf
        single = self.linear[left] + pair[depth:, :depth] @ (leaf[:depth] == 1)
        among = pair[depth:, depth:].copy()
        if self.exactly is not None:
            wanted = self.exactly - count
            if not 0 <= wanted <= len(left):
                return math.inf
            np.fill_diagonal(among, np.inf)
            partners = np.sort(among, axis=1)[:, : max(0, wanted - 1)].sum(axis=1)
            return self.value_of(decided) + float(np.sort(single + partners / 2)[:wanted].sum())
        gains = single + np.minimum(among, 0.0).sum(axis=1) / 2
        return self.value_of(decided) + _fractional(gains, self.cost[left], self.subset.limit - spent)

    def to_pulp(self) -> pulp.LpProblem:
        """Return the integer model with its products linearised: y_ij <= x_i, y_ij <= x_j, y_ij >= x_i + x_j - 1."""
        import pulp

        model = pulp.LpProblem("quadratic_knapsack", pulp.LpMinimize)
        x = [model.add_variable(f"x_{i}", cat="Binary") for i in range(self.n_items)]
        terms = [float(v) * x[i] for i, v in enumerate(self.linear)]
        for i, j in np.argwhere(self.pair):
            y, q = model.add_variable(f"y_{i}_{j}", 0, 1), float(self.pair[i, j])
            terms.append(q * y)
            if q > 0:  # only the side that the objective pushes against is needed
                model += y >= x[i] + x[j] - 1, f"both_{i}_{j}"
            else:
                model += y <= x[i], f"first_{i}_{j}"
                model += y <= x[j], f"second_{i}_{j}"
        model.setObjective(pulp.lpSum(terms) + self.constant)
        if self.budget < self.cost.sum():
            model += pulp.lpSum(float(c) * v for c, v in zip(self.cost, x, strict=True)) <= self.budget, "budget"
        for k, s in enumerate(self.cover):
            model += pulp.lpSum(x[i] for i in s) >= 1, f"set_{k}"
        if self.exactly is not None:
            model += pulp.lpSum(x) == self.exactly, "number"
        for k, cut in enumerate(self.forbidden):
            flips = [-1.0 * v if f else 1.0 * v for f, v in zip(cut, x, strict=True)]
            model += pulp.lpSum(flips) >= 1 - int(cut.sum()), f"cut_{k}"
        return model

    def read_pulp(self, model: pulp.LpProblem) -> Bools:
        """Return the subset held by the variables of a solved model."""
        found = model.variablesDict()
        values = [found[f"x_{i}"].varValue if f"x_{i}" in found else 0.0 for i in range(self.n_items)]
        return np.array([(v or 0.0) > 0.5 for v in values], np.bool_)


def _check_cover(leaves: NDArray[np.int8]) -> None:
    """Every 0-1 vector has one leaf that it extends: leaves are prefixes, none extends another, and they weigh 1."""
    decided = leaves >= 0
    depths = decided.sum(axis=1)
    if leaves.size and (leaves.min() < -1 or leaves.max() > 1):
        raise CertificateError("duals: the entries of a leaf are 0, 1, or -1 for what is open")
    if (decided != (np.arange(leaves.shape[1]) < depths[:, None])).any() or not len(leaves):
        raise CertificateError("duals: a leaf has to decide the first items of the order, and only those")
    seen = {leaf[:d].tobytes() for leaf, d in zip(leaves, depths, strict=True)}
    nested = any(leaf[:k].tobytes() in seen for leaf, d in zip(leaves, depths, strict=True) for k in range(d))
    n = leaves.shape[1]
    if nested or len(seen) < len(leaves) or sum(1 << (n - int(d)) for d in depths) != 1 << n:
        raise CertificateError("duals: the leaves of the search tree do not cover every subset once")


def _fractional(gains: Floats, cost: Floats, room: float) -> float:
    """The least sum of gains that fit into the room, parts of the last item allowed."""
    useful = np.flatnonzero(gains < 0)
    total = 0.0
    for i in useful[np.argsort(gains[useful] / np.maximum(cost[useful], 1e-300), kind="stable")]:
        share = 1.0 if cost[i] <= room else max(0.0, room) / cost[i]
        total += share * gains[i]
        room -= share * cost[i]
        if room <= 0 and cost[i] > 0:
            break
    return float(total)
