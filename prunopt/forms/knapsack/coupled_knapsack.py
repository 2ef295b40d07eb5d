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
from prunopt.core.display import one_line
from prunopt.core.validate import Shown, floats, ints, number, refuse, require
from prunopt.forms.knapsack._lagrangian import multiplier_of
from prunopt.forms.knapsack._proof import States, TooManyChoicesError, sums, together

if TYPE_CHECKING:
    import networkx as nx
    import pulp


@one_line
@dataclass(frozen=True, eq=False)
class CoupledKnapsack:
    r"""A multiple-choice knapsack whose costs couple neighboring groups.

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
        loss = np.array(floats("loss", self.loss, ("groups", "options"), finite=False))
        n, k = loss.shape
        there = ~np.isposinf(loss)
        require(not np.isneginf(loss).any(), "loss", "be finite, or +infinity for a missing option", -math.inf)
        for i in np.flatnonzero(~there.any(axis=1)):
            refuse(f"loss[{i}]", "hold a finite number", Shown("missing options only"), "give the group an option")
        given = np.asarray(self.cost, np.float64)
        require(given.shape == loss.shape, "cost", f"have shape {loss.shape} as loss", Shown(f"shape {given.shape}"))
        cost = floats("cost", np.where(there, given, 0.0), low=0.0)
        edges = ints("edges", np.asarray(self.edges).reshape(-1, 2), low=0, high=n - 1)
        require(np.all(edges[:, 0] != edges[:, 1]), "edges", "join different groups", edges)
        pairs = {tuple(sorted(e)) for e in edges.tolist()}
        require(len(pairs) == len(edges), "edges", "name each pair once", edges, "add up the tables of a pair")
        pair_cost = np.array(self.pair_cost, np.float64).reshape(-1, k, k)
        require(len(pair_cost) == len(edges), "pair_cost", f"hold {len(edges)} tables, one an edge", len(pair_cost))
        for e, (i, j) in enumerate(edges):
            pair_cost[e] = np.where(there[i][:, None] & there[j][None, :], pair_cost[e], 0.0)
        pair_cost = floats("pair_cost", pair_cost, low=0.0)
        for name, array in (("loss", loss), ("cost", cost), ("edges", edges), ("pair_cost", pair_cost)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "budget", number("budget", self.budget, low=0.0))

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
        n, k = self.loss.shape
        return ints("x", x, (n,), low=0, high=k - 1)

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
        r"""Minimize loss + multiplier * cost over the spanning forest, edges outside of it at their least.

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
        multiplier = multiplier_of(duals, "multiplier", 0.0)
        inner, _ = self.messages(multiplier)
        roots = self.rooted[1] < 0
        relaxed = float(math.fsum(inner[roots].min(axis=1)) + self.outside(multiplier) - multiplier * self.budget)
        relaxed -= self.rounding(multiplier)
        claim = float(duals.get("claim", -math.inf))
        if not relaxed < claim < math.inf:
            return relaxed
        try:
            return max(relaxed, self._least_below(multiplier, claim))
        except TooManyChoicesError:
            return relaxed

    def _least_below(self, multiplier: float, claim: float) -> float:
        r"""Return the least loss below ``claim``; where no choice loses less, the claim less what sums may be off.

        From the leaves to the roots of the spanning forest, partial choices are listed by the option of their uppermost
        group. One is dropped when its Lagrangian value and the least of everything else (the min-marginals of
        `messages`) come to the claim, or when another of the same option neither costs nor loses more.

        Raises
        ------
        TooManyChoicesError
            If too many partial choices remain.
        """
        order, parent, edge = self.rooted
        inner, outer = self.messages(multiplier)
        # A sum that comes to the ceiling may be off by the slack, and so truly comes to the claim less twice that.
        slack = self.rounding(multiplier)
        ceiling = claim + multiplier * self.budget - slack
        there = np.isfinite(self.loss)
        states: list[dict[int, States]] = [{} for _ in order]
        for i, k in np.argwhere(there & (inner + outer < ceiling)).tolist():
            states[i][k] = self.loss[i, k : k + 1], self.cost[i, k : k + 1]
        waiting = np.where(there, inner - np.where(there, self.loss, 0.0) - multiplier * self.cost, 0.0)
        roots = [i for i in order if parent[i] < 0]
        later = math.fsum(float(inner[i].min()) for i in roots)
        done: States = np.zeros(1), np.zeros(1)
        fixed = self.outside(multiplier)
        for i in reversed(order):
            p = int(parent[i])
            if p < 0:
                later -= float(inner[i].min())
                done = sums(
                    done,
                    together(states[i], np.zeros(there.shape[1])),
                    multiplier,
                    ceiling - later - fixed,
                    self.budget,
                )
            else:
                table = self.pair(int(edge[i]), p)
                waiting[p] -= np.where(there[p], (multiplier * table + inner[i][None, :]).min(axis=1), 0.0)
                for a, above in list(states[p].items()):
                    room = ceiling - outer[p, a] - waiting[p, a]
                    states[p][a] = sums(above, together(states[i], table[a]), multiplier, room, self.budget)
                    if not len(states[p][a][0]):
                        del states[p][a]
            states[i] = {}
            if not len(done[0]):
                return claim - 2 * slack
        return min(claim - 2 * slack, float(done[0].min(initial=math.inf)))

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
        flat = CoupledKnapsack(
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

        model = pulp.LpProblem("coupled_knapsack", pulp.LpMinimize)
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

    def pulp_values(self, x: ArrayLike) -> dict[str, float]:
        """Return what the binaries of the `to_pulp` model are at a choice: a start for an engine."""
        chosen = np.asarray(x, np.int64)
        return {f"x_{i}_{k}": float(chosen[i] == k) for i, k in np.argwhere(np.isfinite(self.loss)).tolist()}

    def read_pulp(self, model: pulp.LpProblem) -> Ints:
        """Return the options held by the variables of a solved `to_pulp` model."""
        found, value = model.variablesDict(), np.zeros(self.n_groups, np.int64)
        for i, k in np.argwhere(np.isfinite(self.loss)).tolist():
            variable = found.get(f"x_{i}_{k}")
            if variable is not None and (variable.varValue or 0.0) > 0.5:
                value[i] = k
        return value
