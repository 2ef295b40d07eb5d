"""Maximum-weight closure with costs of requirements: the totally unimodular form of pruning under feature costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunopt.core.arrays import Bools, Ints
from prunopt.core.deprecation import renamed_arguments, renamed_fields
from prunopt.core.display import one_line
from prunopt.core.problem import Reduced
from prunopt.core.solution import CertificateError
from prunopt.core.validate import ints, mask, refuse, require
from prunopt.forms.closure._decimals import INT64_SAFE as INT64_SAFE
from prunopt.forms.closure._decimals import whole
from prunopt.forms.linear_program import LinearProgram

if TYPE_CHECKING:
    import networkx as nx
    import pulp


def _no_arcs() -> NDArray[np.int32]:
    return np.zeros((0, 2), np.int32)


@renamed_fields(price="penalty")
@one_line
@dataclass(frozen=True, eq=False)
class Closure:
    r"""Choose items that bring profit, together with all that they need.

    .. math::
        \min_{x \in \{0,1\}^m} \; u \Bigl( p \sum_{j} c_j w_j - \sum_h a_h x_h \Bigr)
        \quad \text{s.t.} \quad x_h \le x_{\mathrm{parent}(h)}, \quad x_h \le w_j \ (j \in R_h), \quad
        x_a \le x_b \ ((a, b) \in \mathrm{arcs})

    Every constraint is a difference of two variables, so the matrix is totally unimodular, the linear relaxation
    is integral, and one minimum s-t cut solves the problem [1]_. All numbers are integers or exact rationals.

    Parameters
    ----------
    profit : (m,) int64
        Profit a_h of each item, of any sign.
    parent : (m,) int32
        The item that item h needs, ``parent[h] < h``, or -1 for none: a forest.
    indptr, indices : (m + 1,) int64 and (E,) int32
        ``indices[indptr[h]:indptr[h + 1]]`` are the requirements R_h of item h, each named once.
    cost : (W,) int64
        Cost c_j >= 0 of each requirement, paid once however many items need it.
    penalty : Fraction
        The factor p >= 0 on all costs.
    unit : Fraction
        The factor u > 0 that turns the integers into the caller's unit.
    arcs : (k, 2) int32
        More pairs (a, b): item a needs item b. May contain cycles, whose items come together or not at all.
    cost_unit : Fraction, optional
        The factor that turns the costs into the caller's unit of cost, in which a budget is given; ``unit`` by default.
    slack : Fraction
        How far, at most, the objective lies above that of the numbers that the integers stand for (0 where they are
        exact). Every bound is lowered by it.

    Notes
    -----
    The value is a bool array of shape (m,), True = the item is chosen. Build one by hand with `Closure.of`.

    References
    ----------
    .. [1] J.-C. Picard, "Maximal closure of a graph and applications to combinatorial problems", Management
       Science 22 (1976).
    """

    forms: ClassVar[tuple[type, ...]] = (LinearProgram,)

    profit: Ints
    parent: NDArray[np.int32]
    indptr: Ints
    indices: NDArray[np.int32]
    cost: Ints
    penalty: Fraction = Fraction(1)
    unit: Fraction = Fraction(1)
    arcs: NDArray[np.int32] = field(default_factory=_no_arcs)
    cost_unit: Fraction | None = None
    slack: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        for name, dtype in (
            ("profit", np.int64),
            ("parent", np.int32),
            ("indptr", np.int64),
            ("indices", np.int32),
            ("cost", np.int64),
            ("arcs", np.int32),
        ):
            object.__setattr__(self, name, _integers(name, getattr(self, name), np.dtype(dtype)))
        object.__setattr__(self, "penalty", Fraction(self.penalty))
        object.__setattr__(self, "unit", Fraction(self.unit))
        object.__setattr__(self, "slack", Fraction(self.slack))
        if self.cost_unit is not None:
            object.__setattr__(self, "cost_unit", Fraction(self.cost_unit))
        self._check()

    def _check(self) -> None:
        m, w = len(self.profit), len(self.cost)
        require(self.parent.shape == (m,), "parent", f"hold {m} entries, one an item", self.parent)
        for h in np.flatnonzero((self.parent >= np.arange(m)) | (self.parent < -1)):
            refuse(f"parent[{h}]", "be an earlier item, or -1", self.parent[h], "others belong in arcs")
        offsets = self.indptr.shape == (m + 1,) and self.indptr[0] == 0 and self.indptr[-1] == len(self.indices)
        require(offsets, "indptr", f"hold {m + 1} offsets from 0 to len(indices)={len(self.indices)}", self.indptr)
        require(np.all(np.diff(self.indptr) >= 0), "indptr", "not fall", self.indptr)
        ints("indices", self.indices, low=0, high=w - 1)
        ints("cost", self.cost, low=0, mend="a gain belongs in profit")
        require(self.penalty >= 0, "penalty", "be >= 0", self.penalty)
        require(self.unit > 0, "unit", "be > 0", self.unit)
        require(self.cost_unit is None or self.cost_unit > 0, "cost_unit", "be > 0", self.cost_unit)
        require(self.slack >= 0, "slack", "be >= 0", self.slack)
        ints("arcs", self.arcs, ("k", 2), low=0, high=m - 1)
        for name in ("profit", "cost"):
            total = exact_sum(np.abs(getattr(self, name)))
            require(total < INT64_SAFE, name, "add up to less than 2**62", total, "use a coarser unit")

    @classmethod
    @renamed_arguments(price="penalty")
    def of(
        cls,
        profit: Sequence[Any] | NDArray[Any],
        *,
        arcs: Sequence[tuple[int, int]] | NDArray[Any] = (),
        requirements: Sequence[Sequence[int]] | None = None,
        cost: Sequence[Any] | NDArray[Any] = (),
        penalty: Any = 1,
    ) -> Closure:
        """Build a closure from plain lists of ints, Fractions, or floats of any size.

        A float means the shortest decimal that reads back as it: 0.1 is 1/10. Numbers that are too many or too fine for
        exact integers are rounded to about 18 digits of their total, to the safe side; ``slack`` says how much that
        can amount to, and every stated gap includes it.

        Parameters
        ----------
        profit
            Profit of each item.
        arcs
            Pairs (a, b): item a needs item b.
        requirements
            For each item, the requirements that it needs.
        cost
            Cost of each requirement.
        penalty
            Factor on all costs.
        """
        numbers = whole(profit, cost, penalty)
        m = len(numbers.profit)
        needs = [[] for _ in range(m)] if requirements is None else [sorted(set(map(int, r))) for r in requirements]
        require(len(needs) == m, "requirements", f"be {m} lists, one an item", len(needs))
        parent, extra = np.full(m, -1, np.int32), []
        for a, b in arcs:
            if 0 <= b < a < m and parent[a] < 0:
                parent[a] = b
            else:
                extra.append((a, b))
        return cls(
            profit=numbers.profit,
            parent=parent,
            indptr=np.cumsum([0, *map(len, needs)]),
            indices=np.array([j for r in needs for j in r], np.int64),
            cost=numbers.cost,
            penalty=numbers.penalty,
            unit=numbers.unit,
            arcs=np.array(extra, np.int32).reshape(-1, 2),
            cost_unit=numbers.cost_unit,
            slack=numbers.slack,
        )

    @cached_property
    def objective_unit(self) -> float:
        """All profits: what gaps are relative to where that is less than 1."""
        return float(self.unit * exact_sum(np.abs(self.profit)))

    @property
    def n_items(self) -> int:
        """Number of items m."""
        return len(self.profit)

    @property
    def n_requirements(self) -> int:
        """Number of requirements W."""
        return len(self.cost)

    @property
    def n_edges(self) -> int:
        """Number of (item, requirement) pairs E."""
        return len(self.indices)

    def covered(self, x: Bools) -> Bools:
        """Return which requirements the items in ``x`` need, shape (W,)."""
        needed = np.zeros(self.n_requirements, np.bool_)
        needed[self.indices[np.repeat(x, np.diff(self.indptr))]] = True
        return needed

    def exact_objective(self, x: ArrayLike) -> Fraction:
        """Return the objective of ``x`` as an exact rational."""
        chosen = self._as_value(x)
        spent = exact_sum(self.cost[self.covered(chosen)])
        return self.unit * (self.penalty * spent - exact_sum(self.profit[chosen]))

    def objective(self, x: ArrayLike, /) -> float:
        """Return penalty * cost of what is needed - profit of what is chosen, in the caller's unit."""
        return float(self.exact_objective(x))

    def violation(self, x: ArrayLike, /) -> float:
        """Return how many chosen items lack an item that they need."""
        chosen = self._as_value(x)
        child = self.parent >= 0
        broken = np.count_nonzero(chosen[child] & ~chosen[self.parent[child]])
        return float(broken + np.count_nonzero(chosen[self.arcs[:, 0]] > chosen[self.arcs[:, 1]]))

    def _as_value(self, x: ArrayLike) -> Bools:
        return mask("x", x, (self.n_items,))

    def part(self, items: NDArray[Any], requirements: NDArray[Any], penalty: Fraction) -> Closure:
        """Return the closure of some items (ascending) and requirements, at a penalty; links to others are dropped.

        Dropping links relaxes the problem: a closure's profit is at most the sum over the parts that divide it. The
        edges of the part are those of the whole between the two, in the same order; its unit is 1.
        """
        sizes = self.indptr[items + 1] - self.indptr[items]
        starts = np.repeat(self.indptr[items] - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes)
        heads = _places(requirements, self.indices[starts + np.arange(len(starts))], self.n_requirements)
        inside = heads >= 0
        count = np.bincount(np.repeat(np.arange(len(items)), sizes)[inside], minlength=len(items))
        return Closure(
            self.profit[items],
            _places(items, self.parent[items], self.n_items),
            np.concatenate([[0], np.cumsum(count)]).astype(np.int64),
            heads[inside],
            self.cost[requirements],
            penalty=penalty,
        )

    def bound(self, duals: Mapping[str, Any]) -> float:
        """Return the lower bound that Lagrange multipliers prove (see `exact_bound`).

        Multipliers in units finer than 62 bits can add up exactly are summed in extended floating point, and the most
        that its rounding can amount to is taken off the bound.
        """
        bound = self.rational_bound(duals)
        value = float(bound)
        return math.nextafter(value, -math.inf) if self.slack and value > bound else value

    def rational_bound(self, duals: Mapping[str, Any]) -> Fraction:
        """Return the bound as a rational that is safe to compute with: exact, or a little below what is proven."""
        try:
            return self.exact_bound(duals) - self.slack
        except OverflowError:
            return Fraction(math.nextafter(self._rounded_bound(duals), -math.inf)) - self.slack

    def exact_bound(self, duals: Mapping[str, Any]) -> Fraction:
        r"""Return the Lagrangian lower bound of ``duals``, as an exact rational.

        With multipliers b >= 0 on x_h <= w_j and g >= 0 on x_a <= x_b the problem falls apart into one tree
        dynamic program for each tree and one comparison for each requirement:

        .. math::
            -u \Bigl( \sum_{\text{trees}} \max_{y \text{ closed}} \sum_h (a_h - \sum_j b_{hj} \mp g) y_h
            + \sum_j \max(0, \sum_h b_{hj} - p c_j) \Bigr)

        No flow algorithm takes part: this is the independent check of every solver of the form.

        Parameters
        ----------
        duals
            ``"requirements"``: (E,) integers, ``"arcs"``: (k,) integers (may be left out without arcs), and
            ``"denominator"``: all of them are in units of ``unit / denominator``; for an exact bound, a multiple of
            the penalty's denominator.

        Raises
        ------
        CertificateError
            If the multipliers are of the wrong shape or sign.
        OverflowError
            If they, or the penalty's terms, are too large to be added in 64 bits.
        """
        scale = int(duals.get("denominator", self.penalty.denominator))
        if scale <= 0:
            raise CertificateError(f"denominator {scale}: a positive integer is needed")
        if scale % self.penalty.denominator:
            raise OverflowError(f"denominator {scale} must be a multiple of the penalty's, {self.penalty.denominator}")
        edge = _multipliers("requirements", duals.get("requirements", ()), self.n_edges)
        arc = _multipliers("arcs", duals.get("arcs", ()), len(self.arcs))
        factor = self.penalty.numerator * (scale // self.penalty.denominator)
        largest = max(
            scale * exact_sum(np.abs(self.profit)) + exact_sum(edge) + 2 * exact_sum(arc),
            factor * exact_sum(self.cost),
        )
        if largest >= INT64_SAFE:
            raise OverflowError(f"the multipliers add up to {largest}, too large for an exact check in 64 bits")
        running = np.concatenate([[0], np.cumsum(edge)])
        weight = scale * self.profit - (running[self.indptr[1:]] - running[self.indptr[:-1]])
        used = np.flatnonzero(arc)
        np.subtract.at(weight, self.arcs[used, 0], arc[used])
        np.add.at(weight, self.arcs[used, 1], arc[used])
        surplus = -factor * self.cost
        np.add.at(surplus, self.indices, edge)
        profit = exact_sum(self.tree_values(weight)) + exact_sum(np.maximum(surplus, 0))
        return -self.unit * Fraction(profit, scale)

    def _rounded_bound(self, duals: Mapping[str, Any]) -> float:
        wide = np.longdouble
        scale = wide(int(duals.get("denominator", self.penalty.denominator)))
        edge = _multipliers("requirements", duals.get("requirements", ()), self.n_edges).astype(wide) / scale
        arc = _multipliers("arcs", duals.get("arcs", ()), len(self.arcs)).astype(wide) / scale
        penalty = wide(self.penalty.numerator) / wide(self.penalty.denominator)
        running = np.concatenate([np.zeros(1, wide), np.cumsum(edge)])
        weight = self.profit.astype(wide) - (running[self.indptr[1:]] - running[self.indptr[:-1]])
        np.subtract.at(weight, self.arcs[:, 0], arc)
        np.add.at(weight, self.arcs[:, 1], arc)
        surplus = -penalty * self.cost.astype(wide)
        np.add.at(surplus, self.indices, edge)
        size = wide(exact_sum(np.abs(self.profit))) + edge.sum() + arc.sum() + penalty * wide(exact_sum(self.cost))
        terms = self.n_edges + len(self.arcs) + self.n_items + self.n_requirements + 8
        rounding = size * terms * np.finfo(wide).eps
        profit = self.tree_values(weight).sum() + np.maximum(surplus, 0).sum() + rounding
        return float(-profit * (wide(self.unit.numerator) / wide(self.unit.denominator)))

    def tree_closure(self, weight: Ints, *, ties: bool = False) -> Bools:
        """Return the best closure of each tree for the item weights ``weight``, requirements left aside.

        The least of the best by default, the largest with ``ties``.
        """
        value = self._subtree_values(weight)
        chosen: Bools = value >= 0 if ties else value > 0
        for level in self._levels[1:]:
            chosen[level] &= chosen[self.parent[level]]
        return chosen

    def tree_values(self, weight: NDArray[Any]) -> NDArray[Any]:
        """Return the greatest weight of a closure of each tree, for the item weights ``weight``."""
        return np.asarray(np.maximum(self._subtree_values(weight)[self._levels[0]], 0))

    def _subtree_values(self, weight: NDArray[Any]) -> NDArray[Any]:
        value = weight.copy()
        for level in reversed(self._levels[1:]):
            np.add.at(value, self.parent[level], np.maximum(value[level], 0))
        return value

    @cached_property
    def _levels(self) -> list[NDArray[np.intp]]:
        """Items by depth below their root."""
        depth = np.zeros(self.n_items, np.int64)
        step = self.parent.copy()
        while np.any(live := step >= 0):
            depth[live] += 1
            step[live] = self.parent[step[live]]
        order = np.argsort(depth, kind="stable")
        return np.split(order, np.cumsum(np.bincount(depth, minlength=1))[:-1])

    def reduce(self, to: type | None = None) -> Reduced[Bools]:
        """Return the linear relaxation, which is integral: every level set of an optimum is an optimal closure."""
        require(to is None or issubclass(LinearProgram, to), "to", "be LinearProgram", to)
        slack = float(self.slack)
        return Reduced(self.to_linear_program(), lambda v: np.asarray(v[: self.n_items] > 0.5), slack=slack)

    def to_linear_program(self) -> LinearProgram:
        """Return the `LinearProgram` over (x, w) in [0, 1]^(m + W) with one row for each difference."""
        from scipy import sparse

        m, child = self.n_items, np.flatnonzero(self.parent >= 0)
        owner = np.repeat(np.arange(m), np.diff(self.indptr))
        low = np.concatenate([child, self.arcs[:, 0], owner])
        high = np.concatenate([self.parent[child], self.arcs[:, 1], m + self.indices])
        row = np.arange(len(low))
        data = np.concatenate([np.ones(len(row)), -np.ones(len(row))])
        shape = (len(row), m + self.n_requirements)
        rows = sparse.csr_array((data, (np.concatenate([row, row]), np.concatenate([low, high]))), shape=shape)
        unit, factor = float(self.unit), float(self.unit * self.penalty)
        return LinearProgram(np.concatenate([-unit * self.profit, factor * self.cost]), rows, np.zeros(len(row)))

    def to_pulp(self) -> pulp.LpProblem:
        """Return the 0-1 program in x (items) and w (requirements)."""
        import pulp

        model = pulp.LpProblem("closure", pulp.LpMinimize)
        x = [model.add_variable(f"x_{h}", 0, 1, "Integer") for h in range(self.n_items)]
        w = [model.add_variable(f"w_{j}", 0, 1, "Integer") for j in range(self.n_requirements)]
        unit, factor = float(self.unit), float(self.unit * self.penalty)
        terms = [(v, -unit * int(a)) for v, a in zip(x, self.profit, strict=True)]
        model.setObjective(
            pulp.LpAffineExpression(terms + [(v, factor * int(c)) for v, c in zip(w, self.cost, strict=True)])
        )
        for h, p in enumerate(self.parent):
            if p >= 0:
                model.addConstraint(x[h] <= x[p])
            for j in self.indices[self.indptr[h] : self.indptr[h + 1]]:
                model.addConstraint(x[h] <= w[j])
        for a, b in self.arcs:
            model.addConstraint(x[a] <= x[b])
        return model

    def pulp_values(self, x: ArrayLike) -> dict[str, float]:
        """Return what the variables of the `to_pulp` model are at a closure: a start for an engine."""
        chosen = np.asarray(x, np.bool_)
        values = {f"x_{h}": float(v) for h, v in enumerate(chosen)}
        needed = np.zeros(self.n_requirements, np.bool_)
        needed[self.indices[np.repeat(chosen, np.diff(self.indptr))]] = True
        return values | {f"w_{j}": float(v) for j, v in enumerate(needed)}

    def read_pulp(self, model: pulp.LpProblem) -> Bools:
        """Return the items chosen by a solved `to_pulp` model."""
        found = model.variablesDict()
        return np.array([(found[f"x_{h}"].varValue or 0.0) > 0.5 for h in range(self.n_items)], np.bool_)

    def to_networkx(self) -> nx.DiGraph[Any]:
        """Return the s-t graph whose minimum cut is the optimum: nodes ``"s"``, ``"t"``, ``("x", h)``, ``("w", j)``.

        Capacities are integers in units of ``unit / penalty.denominator``; arcs without a capacity are infinite. The
        items on the source side of a minimum cut are an optimal closure, and
        ``objective = (cut - source capacity) * unit / penalty.denominator``.
        """
        import networkx as nx

        graph: nx.DiGraph[Any] = nx.DiGraph()
        graph.add_nodes_from(["s", "t"])
        scale = self.penalty.denominator
        for h, a in enumerate(self.profit):
            graph.add_node(("x", h))
            if a > 0:
                graph.add_edge("s", ("x", h), capacity=int(a) * scale)
            elif a < 0:
                graph.add_edge(("x", h), "t", capacity=-int(a) * scale)
            if self.parent[h] >= 0:
                graph.add_edge(("x", h), ("x", int(self.parent[h])))
            for j in self.indices[self.indptr[h] : self.indptr[h + 1]]:
                graph.add_edge(("x", h), ("w", int(j)))
        for a, b in self.arcs:
            graph.add_edge(("x", int(a)), ("x", int(b)))
        for j, c in enumerate(self.cost):
            graph.add_edge(("w", j), "t", capacity=int(c) * self.penalty.numerator)
        return graph


def exact_sum(values: NDArray[Any]) -> int:
    """Return the sum of an integer array as a Python integer, right however large it is."""
    if not len(values):
        return 0
    if int(np.abs(values).max()) * len(values) < INT64_SAFE:
        return int(values.sum(dtype=np.int64))
    half = values.astype(np.int64)
    return (int((half >> 32).sum(dtype=np.int64)) << 32) + int((half & 0xFFFFFFFF).sum(dtype=np.int64))


DENSE = 16  # looking one up by halves takes about as long as filling this many entries of a table


def _places(ids: NDArray[Any], wanted: NDArray[Any], n: int) -> NDArray[np.int32]:
    """Return where each of ``wanted`` (-1, or below ``n``) is among the ascending ``ids``; -1 = nowhere."""
    if DENSE * len(wanted) > n:  # one table of all, which many small parts have no time for
        table = np.full(n + 1, -1, np.int32)  # the last entry answers for -1
        table[ids] = np.arange(len(ids), dtype=np.int32)
        return np.asarray(table[wanted])
    if not len(ids):
        return np.full(len(wanted), -1, np.int32)
    at = np.searchsorted(ids, wanted)
    found = ids[np.minimum(at, len(ids) - 1)] == wanted
    return np.where(found, at, -1).astype(np.int32)


def _integers(name: str, values: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    array = np.asarray(values)
    if array.size == 0:
        return array.astype(dtype)
    if array.dtype.kind not in "iuO":
        raise TypeError(f"{name} must hold integers, got {array.dtype}; Closure.of takes floats and Fractions")
    limits = np.iinfo(dtype)
    if array.dtype != dtype and (int(array.min()) < limits.min or int(array.max()) > limits.max):
        refuse(name, f"hold numbers within {dtype}", array, "use a coarser unit")
    return np.ascontiguousarray(array.astype(dtype, copy=False))


def _multipliers(name: str, values: Any, length: int) -> Ints:
    array = np.asarray(values)
    if array.size == 0 and length == 0:
        return np.zeros(0, np.int64)
    if array.shape != (length,) or array.dtype.kind not in "iu":
        raise CertificateError(f"duals[{name!r}] must be {length} integers, got {array.dtype} of {array.shape}")
    if array.min() < 0:
        raise CertificateError(f"duals[{name!r}]: a multiplier is negative ({array.min()})")
    # The view has numpy's own type object: with that of arrays out of numba's cache `ufunc.at` is ten times slower.
    return array.astype(np.int64, copy=False).view(np.int64)
