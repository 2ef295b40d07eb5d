"""One option for every group, costs of single options and of pairs on a graph, one budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats, Ints
from prunopt.core.solution import CertificateError
from prunopt.forms.knapsack._proof import TooManyError, least_below

if TYPE_CHECKING:
    import networkx as nx
    import pulp


@dataclass(frozen=True, eq=False)
class CoupledChoice:
    r"""A multiple-choice knapsack whose costs couple neighbouring groups.

    .. math::
        \min_{x} \; \sum_i \ell_i(x_i)
        \quad \text{s.t.} \quad \sum_i c_i(x_i) + \sum_{(i,j) \in E} d_{ij}(x_i, x_j) \le B

    The widths of a network's layers are such choices: a convolution costs inputs times outputs, hence a term for the
    pair of channel groups that it joins. Without edges it is the multiple-choice knapsack [1]_.

    Parameters
    ----------
    loss : (n, K) float
        What option k of group i loses; infinite where there is no such option.
    cost : (n, K) float
        What it costs, >= 0 (ignored where there is no such option).
    edges : (m, 2) int
        Pairs of different groups, each pair once at most.
    pair_cost : (m, K, K) float
        What the options of each pair cost together, >= 0.
    budget : float
        The most that all costs may come to.

    Notes
    -----
    The value is an int array of shape (n,): the option of every group.

    References
    ----------
    .. [1] H. Kellerer, U. Pferschy, D. Pisinger, "Knapsack problems", Springer 2004, chapter 11.
    """

    loss: Any
    cost: Any
    edges: Any
    pair_cost: Any
    budget: float
    violation_unit: ClassVar[float] = 1.0  # violations are shares of the budget

    def __post_init__(self) -> None:
        loss, cost = np.array(self.loss, np.float64), np.array(self.cost, np.float64)
        if loss.ndim != 2 or cost.shape != loss.shape:
            raise ValueError(f"loss: shape {loss.shape}, cost: {cost.shape}; the same (groups, options) are needed")
        n, k = loss.shape
        edges = np.array(self.edges, np.int64).reshape(-1, 2)
        pair_cost = np.array(self.pair_cost, np.float64).reshape(-1, k, k)
        if len(pair_cost) != len(edges):
            raise ValueError(f"pair_cost: {len(pair_cost)} tables given for {len(edges)} edges")
        there = ~np.isposinf(loss)
        cost = np.where(there, cost, 0.0)
        if np.any(np.isnan(loss)) or np.any(np.isneginf(loss)):
            raise ValueError("loss: NaN or minus infinity given; finite numbers, or infinity for no such option")
        for i in np.flatnonzero(~there.any(axis=1))[:1]:
            raise ValueError(f"loss: group {i} has no option; give at least one finite loss")
        if not np.all(np.isfinite(cost)) or np.any(cost < 0):
            raise ValueError("cost: finite numbers >= 0 are needed")
        if len(edges) and (np.any(edges < 0) or np.any(edges >= n) or np.any(edges[:, 0] == edges[:, 1])):
            raise ValueError(f"edges: pairs of different groups 0 to {n - 1} are needed")
        if len({tuple(sorted(e)) for e in edges.tolist()}) != len(edges):
            raise ValueError("edges: a pair is given twice; add up its tables")
        for e, (i, j) in enumerate(edges):
            pair_cost[e] = np.where(there[i][:, None] & there[j][None, :], pair_cost[e], 0.0)
        if not np.all(np.isfinite(pair_cost)) or np.any(pair_cost < 0):
            raise ValueError("pair_cost: finite numbers >= 0 are needed")
        if not 0 <= float(self.budget) < math.inf:
            raise ValueError(f"budget={self.budget!r}: give a finite number >= 0")
        for name, array in (("loss", loss), ("cost", cost), ("edges", edges), ("pair_cost", pair_cost)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "budget", float(self.budget))

    @property
    def n_groups(self) -> int:
        """Number of groups n."""
        return len(self.loss)

    def objective(self, x: ArrayLike, /) -> float:
        """Return the sum of the losses of the options chosen."""
        v = self._as_value(x)
        return float(math.fsum(self.loss[np.arange(len(v)), v]))

    def used(self, x: ArrayLike) -> float:
        """Return what the options cost in all, pairs included."""
        v = self._as_value(x)
        single = self.cost[np.arange(len(v)), v]
        pairs = self.pair_cost[np.arange(len(self.edges)), v[self.edges[:, 0]], v[self.edges[:, 1]]]
        return float(math.fsum(np.concatenate([single, pairs])))

    def violation(self, x: ArrayLike, /) -> float:
        """Return 0 within the budget, else by what share it is exceeded; infinite where an option does not exist."""
        v = self._as_value(x)
        if np.any(np.isinf(self.loss[np.arange(len(v)), v])):
            return math.inf
        over = self.used(v) - self.budget
        return max(0.0, over / self.budget if self.budget else math.inf * over if over > 0 else 0.0)

    def _as_value(self, x: ArrayLike) -> Ints:
        v = np.asarray(x)
        n, k = self.loss.shape
        if v.shape != (n,) or v.dtype.kind not in "iu" or (v.size and (v.min() < 0 or v.max() >= k)):
            raise ValueError(f"x: {v.dtype} {v.shape} given; {n} integers from 0 to {k - 1} are needed")
        return v.astype(np.int64)

    def to_networkx(self) -> nx.Graph[int]:
        """Return the graph of the groups; edge attribute ``index`` is the row of ``edges``."""
        import networkx as nx

        graph: nx.Graph[int] = nx.Graph()
        graph.add_nodes_from(range(self.n_groups))
        graph.add_edges_from((int(i), int(j), {"index": e}) for e, (i, j) in enumerate(self.edges))
        return graph

    @cached_property
    def is_forest(self) -> bool:
        """Whether the graph has no circle: then dynamic programming is exact, and `bound` is the Lagrangian dual."""
        import networkx as nx

        return self.n_groups == 0 or bool(nx.is_forest(self.to_networkx()))

    @cached_property
    def rooted(self) -> tuple[list[int], Ints, Ints]:
        """A spanning forest: groups in an order with parents first, the parent of each (-1: root), and its edge."""
        import networkx as nx

        graph = self.to_networkx()
        order: list[int] = []
        parent, edge = np.full(self.n_groups, -1, np.int64), np.full(self.n_groups, -1, np.int64)
        for part in sorted(nx.connected_components(graph), key=min):
            root = min(part)
            order.append(root)
            for i, j in nx.bfs_edges(graph, root):
                order.append(j)
                parent[j], edge[j] = i, graph.edges[i, j]["index"]
        return order, parent, edge

    def pair(self, edge: int, first: int) -> Floats:
        """Return the table of an edge with group ``first`` along the rows."""
        table: Floats = self.pair_cost[edge]
        return table if self.edges[edge, 0] == first else table.T

    def messages(self, multiplier: float) -> tuple[Floats, Floats]:
        r"""Minimise loss + multiplier * cost over the spanning forest, edges outside of it at their least.

        Returns
        -------
        inner : (n, K) float
            The least of the subtree below each group, by its option.
        outer : (n, K) float
            The least of everything else, given the option of the group; ``inner + outer`` are the min-marginals, all
            of them lower bounds on loss + multiplier * cost of the whole.
        """
        order, parent, edge = self.rooted
        inner = self.loss + multiplier * self.cost
        for i in reversed(order):
            if parent[i] >= 0:
                inner[parent[i]] += (multiplier * self.pair(edge[i], parent[i]) + inner[i][None, :]).min(axis=1)
        roots = [i for i in order if parent[i] < 0]
        least = {i: float(inner[i].min()) for i in roots}
        rest = sum(least.values()) + self.outside(multiplier)
        outer = np.zeros_like(inner)
        root_of = np.zeros(self.n_groups, np.int64)
        for i in order:
            if parent[i] < 0:
                root_of[i] = i
                outer[i] = rest - least[i]
                continue
            p = parent[i]
            root_of[i] = root_of[p]
            table = multiplier * self.pair(edge[i], p)
            with np.errstate(invalid="ignore"):
                above = outer[p] + inner[p] - (table + inner[i][None, :]).min(axis=1)
            outer[i] = (np.where(np.isnan(above), np.inf, above)[:, None] + table).min(axis=0)
        return inner, outer

    def outside(self, multiplier: float) -> float:
        """Return what the edges outside of the spanning forest cost at least, times the multiplier."""
        inside = set(self.rooted[2].tolist())
        return multiplier * sum(
            float(self.pair_cost[e][np.ix_(np.isfinite(self.loss[i]), np.isfinite(self.loss[j]))].min())
            for e, (i, j) in enumerate(self.edges)
            if e not in inside
        )

    def bound(self, duals: Mapping[str, Any]) -> float:
        r"""Return the Lagrangian bound of ``"multiplier"`` >= 0: the least of loss + multiplier * (cost - budget).

        On a forest the least is found exactly; edges that close a circle count with their least entry. A ``"claim"``,
        that no choice loses less, is checked by listing what could still end below it; where too many partial choices
        remain, it does not count. Both are lowered by what sums may be off (`rounding`).
        """
        multiplier = float(duals.get("multiplier", 0.0))
        if not 0 <= multiplier < math.inf:
            raise CertificateError(f"duals['multiplier']={multiplier}: a finite number >= 0 is needed")
        inner, _ = self.messages(multiplier)
        roots = self.rooted[1] < 0
        relaxed = float(math.fsum(inner[roots].min(axis=1)) + self.outside(multiplier) - multiplier * self.budget)
        relaxed -= self.rounding(multiplier)
        claim = float(duals.get("claim", -math.inf))
        if not relaxed < claim < math.inf:
            return relaxed
        try:
            return max(relaxed, least_below(self, multiplier, claim))
        except TooManyError:
            return relaxed

    def rounding(self, multiplier: float) -> float:
        """Return by how much sums of loss + multiplier * cost may be off: large multipliers drown the losses."""
        costs = self.cost.max(axis=1, initial=0.0).sum() + self.pair_cost.max(axis=(1, 2), initial=0.0).sum()
        steps = 4 * (self.n_groups + len(self.edges)) + 8
        return float(steps * 2.0**-53 * (self.objective_unit + multiplier * (costs + self.budget)))

    @cached_property
    def objective_unit(self) -> float:
        """The sum of the largest losses: what gaps are relative to where that is less than 1."""
        return math.fsum(np.abs(np.where(np.isfinite(self.loss), self.loss, 0.0)).max(axis=1, initial=0.0))

    @cached_property
    def least_cost(self) -> float:
        """A lower bound on the cost of any answer, the least itself on a forest."""
        if not self.n_groups:
            return 0.0
        flat = CoupledChoice(
            np.where(np.isinf(self.loss), np.inf, 0.0), self.cost, self.edges, self.pair_cost, self.budget
        )
        inner, _ = flat.messages(1.0)
        return float(math.fsum(inner[self.rooted[1] < 0].min(axis=1)) + flat.outside(1.0))

    def is_infeasible_by(self, ray: Any) -> bool:
        """Return whether even `least_cost` is beyond the budget; ``ray`` is not read."""
        return self.least_cost > self.budget * (1 + 1e-12)

    def to_pulp(self) -> pulp.LpProblem:
        """Return the local polytope with binary ``x_i_k``: pair variables have their options as marginals."""
        import pulp

        model = pulp.LpProblem("coupled_choice", pulp.LpMinimize)
        options = [np.flatnonzero(np.isfinite(row)).tolist() for row in self.loss]
        x = {(i, k): model.add_variable(f"x_{i}_{k}", 0, 1, pulp.LpBinary) for i, ks in enumerate(options) for k in ks}
        unit = self.budget or 1.0
        spent = [(v, float(self.cost[key]) / unit) for key, v in x.items()]
        model.setObjective(pulp.LpAffineExpression([(v, float(self.loss[key])) for key, v in x.items()]))
        for i, ks in enumerate(options):
            model.addConstraint(pulp.lpSum(x[i, k] for k in ks) == 1, f"group_{i}")
        for e, (i, j) in enumerate(self.edges.tolist()):
            y = {(a, b): model.add_variable(f"y_{e}_{a}_{b}", 0, 1) for a in options[i] for b in options[j]}
            spent += [(v, float(self.pair_cost[e, a, b]) / unit) for (a, b), v in y.items()]
            for a in options[i]:
                model.addConstraint(pulp.lpSum(y[a, b] for b in options[j]) == x[i, a], f"row_{e}_{a}")
            for b in options[j]:
                model.addConstraint(pulp.lpSum(y[a, b] for a in options[i]) == x[j, b], f"column_{e}_{b}")
        # a sum that meets the budget exactly must not miss it by how decimals are written
        model.addConstraint(pulp.LpAffineExpression(spent) <= self.budget / unit * (1 + 1e-9), "budget")
        return model

    def read_pulp(self, model: pulp.LpProblem) -> Ints:
        """Return the options held by the variables of a solved `to_pulp` model."""
        found, value = model.variablesDict(), np.zeros(self.n_groups, np.int64)
        for i, k in np.argwhere(np.isfinite(self.loss)).tolist():
            variable = found.get(f"x_{i}_{k}")
            if variable is not None and (variable.varValue or 0.0) > 0.5:
                value[i] = k
        return value
