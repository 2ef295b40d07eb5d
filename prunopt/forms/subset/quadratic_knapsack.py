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
from prunopt.core.deadline import is_over
from prunopt.core.display import one_line
from prunopt.core.solution import CertificateError
from prunopt.core.validate import floats, mask, require
from prunopt.forms.subset.subset_choice import SubsetChoice

if TYPE_CHECKING:
    import pulp

CHUNK = 1000  # leaves that are checked between two looks at the clock


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

        Where no number is asked for, ``duals["share"]`` (n, n) says above its diagonal which part :math:`s_{ij}` of
        :math:`q_{ij}` item i answers for, j answering for the rest :math:`s_{ji}` (half each without it) [1]_, and with
        B' the budget that is left a leaf is worth at least

        .. math::
            L(x_D) + \min_{y \in [0, 1]^R, \, c y \le B'} \sum_{i \in R} \Big(l_i + \sum_{j \in D} q_{ij} x_j
            + \min_{z \in [0, 1]^{R \setminus i}, \, c z \le B' - c_i} \sum_j s_{ij} z_j\Big) y_i

        Where all coefficients are whole numbers, so is the loss, and the bound is rounded up.

        Raises
        ------
        CertificateError
            If the leaves leave out a subset.

        References
        ----------
        .. [1] A. Caprara, D. Pisinger, P. Toth, "Exact solution of the quadratic knapsack problem", INFORMS J. Comput.
           11 (1999).
        """
        if "leaves" not in duals:
            return -math.inf
        order, leaves = np.asarray(duals["order"], np.int64), np.asarray(duals["leaves"], np.int8)
        if not np.array_equal(np.sort(order), np.arange(self.n_items)) or leaves.shape[1:] != order.shape:
            raise CertificateError("duals: an order of all items, and leaves of as many columns, are needed")
        _check_cover(leaves)
        pair = (self.pair + self.pair.T)[order[:, None], order]
        if self.exactly is None:
            least = self._split_bound(order, leaves, pair, duals.get("share"))
        else:
            least = min((self._leaf(leaf, order, pair) for leaf in leaves), default=math.inf)
        return math.ceil(least - 1e-6) if self.whole and math.isfinite(least) else least

    @cached_property
    def whole(self) -> bool:
        """Whether every loss is a whole number, below 2^50."""
        numbers = np.concatenate([[self.constant], self.linear, self.pair.ravel()])
        return bool(np.all(np.rint(numbers) == numbers)) and float(np.abs(numbers).sum()) < 2.0**50

    def _split_bound(self, order: NDArray[np.int64], leaves: NDArray[np.int8], pair: Floats, given: Any) -> float:
        from prunopt.forms.subset._split_check import Split, leaf_bounds

        first = np.triu(self.pair / 2 if given is None else floats("share", given, self.pair.shape), 1)
        share = (first + (self.pair - first).T)[order[:, None], order]
        problem = Split(self.linear[order], pair, share, self.cost[order], float(self.subset.limit))
        depths, worth = (leaves >= 0).sum(axis=1), np.empty(len(leaves))
        for start in range(0, len(leaves), CHUNK):
            part = slice(start, start + CHUNK)
            if start and is_over():  # proven are the leaves together: by the one that leaves all open
                leaves, depths, worth = np.full((1, len(order)), -1, np.int8), np.zeros(1, np.int64), np.empty(1)
                leaf_bounds(problem, leaves, depths, worth)
                break
            leaf_bounds(problem, leaves[part], depths[part], worth[part])
        for k in np.flatnonzero(np.isfinite(worth) & (depths > 0)):
            decided, opened = np.zeros(len(order), np.bool_), np.ones(len(order), np.bool_)
            decided[order[: depths[k]]] = leaves[k, : depths[k]] == 1
            opened[order[: depths[k]]] = False
            empty = any(not (decided | opened)[list(s)].any() for s in self.cover)
            if empty or (depths[k] == len(order) and self.violation(decided) > 0):
                worth[k] = math.inf
        return float(worth.min()) + self.constant

    def _leaf(self, leaf: NDArray[np.int8], order: NDArray[np.int64], pair: Floats) -> float:
        assert self.exactly is not None
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
        wanted = self.exactly - count
        if not 0 <= wanted <= len(left):
            return math.inf
        np.fill_diagonal(among, np.inf)
        partners = np.sort(among, axis=1)[:, : max(0, wanted - 1)].sum(axis=1)
        return self.value_of(decided) + float(np.sort(single + partners / 2)[:wanted].sum())

    def to_pulp(self) -> pulp.LpProblem:
        """Return the integer model with its products linearized: y_ij <= x_i, y_ij <= x_j, y_ij >= x_i + x_j - 1."""
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

    def pulp_values(self, x: ArrayLike) -> dict[str, float]:
        """Return what the variables of the `to_pulp` model are at a subset: a start for an engine."""
        kept = np.asarray(x, np.bool_)
        both = {f"y_{i}_{j}": float(kept[i] and kept[j]) for i, j in np.argwhere(self.pair)}
        return {f"x_{i}": float(v) for i, v in enumerate(kept)} | both

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
