"""Pruning of forests for a smaller model: what costs is nodes, trees, bytes, or features once for the whole model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats, Ints, Ints32
from prunopt.core.validate import Shown, one_of, require
from prunopt.problems.forest.forest_budget import ForestBudget

if TYPE_CHECKING:
    import pulp

RESOURCES = "nodes", "trees", "bytes", "features"
NODE_BYTES, VALUE_BYTES = 64, 8  # of a node of scikit-learn's trees, and of each of its values


@dataclass(frozen=True, eq=False)
class ForestSize(ForestBudget):
    r"""Prune a forest so that its trees err little and the model is small.

    .. math::
        \min_{y \in \{0, 1\}} \; \text{mean error of the trees} + \lambda \Bigl( c_0 + \sum_j c_j \,
        [\, y_h = 1 \text{ for some } h \in N_j \,] \Bigr) \quad \text{s.t.} \quad y_h \le y_{\mathrm{parent}(h)}

    with :math:`y_h = 1` where node h stays internal. For ``"nodes"`` every internal node is a set :math:`N_j` of its
    own with cost 2 and :math:`c_0 = T`: each of the T trees starts as one leaf, each split adds two nodes. ``"bytes"``
    multiplies that by the size of a node. For ``"trees"`` the sets are the roots: a tree without a split is a constant,
    and not counted. For ``"features"`` the sets are the nodes that incur a cost component: a feature costs once,
    however many rows or nodes ask for it. All are a maximum-weight closure, as the costs of rows are.

    The value is that of `ForestBudget`.

    Parameters
    ----------
    resource
        ``"nodes"``, ``"trees"``, ``"bytes"`` or ``"features"``.

    References
    ----------
    L. Breiman, J. Friedman, R. Olshen, C. Stone, "Classification and Regression Trees", 1984 (error and size of one
    tree); F. Nan, J. Wang, V. Saligrama, "Pruning Random Forests for Prediction on a Budget", NIPS 2016.
    """

    resource: str = "nodes"

    @classmethod
    def of(cls, task: ForestBudget, resource: str) -> ForestSize:
        """Return the task with the cost of the model in place of that of rows.

        Raises
        ------
        ValueError
            For an unknown resource; for ``"features"`` whose costs, or whether they are known, differ from row to row.
        """
        one_of("resource", resource, RESOURCES)
        costs = task.feature_costs
        if resource == "features":
            each = max(len(costs.component_cost), len(costs.known_mask))
            require(each <= 1, "feature_costs", "be the same for all rows", Shown("costs per row"), "a model pays once")
        shared = {f.name: getattr(task, f.name) for f in fields(ForestBudget)}
        return cls(**shared, resource=resource)

    @property
    def fixed_cost(self) -> float:
        """What the forest costs when it is all leaves."""
        return float(self.ensemble.n_trees * self._per_node) if self.resource in ("nodes", "bytes") else 0.0

    def cost(self, kept: ArrayLike) -> float:
        """Return what the pruned forest costs: nodes, leaves included; trees that split; bytes; or features, once."""
        value, e = self._as_value(kept), self.ensemble
        if self.resource in ("nodes", "bytes"):
            return float(self._per_node * np.count_nonzero(e.leaves(value)) + self._per_node * np.count_nonzero(value))
        asking = e.internal[value]
        if self.resource == "trees":
            return float(len(np.unique(e.tree[asking])))
        costs = self.feature_costs
        asked = np.unique(e.feature[asking])
        asked = asked[~np.isin(asked, np.flatnonzero(costs.known_mask[:1]))]
        return float(sum(costs.component_cost[0, c] for c in self._incurred(costs.group_of[asked])))

    def _incurred(self, groups: Ints) -> Ints:
        found: Ints = np.unique(self.feature_costs.components_of[groups])
        return found[found >= 0]

    @property
    def _per_node(self) -> int:
        return 1 if self.resource == "nodes" else NODE_BYTES + VALUE_BYTES * self.ensemble.value.shape[1]

    @property
    def cost_factor(self) -> Fraction:
        """Cost for one unit of the closures' requirement costs."""
        return self._cost_unit or Fraction(1)

    @cached_property
    def _cost_unit(self) -> Fraction | None:
        if self.resource == "features":
            return self._unit_of(self.feature_costs.component_cost)
        return Fraction(1 if self.resource == "trees" else 2 * self._per_node)

    @cached_property
    def _requirements(self) -> tuple[Ints, Ints32, Floats]:
        e = self.ensemble
        m = len(e.internal)
        if self.resource in ("nodes", "bytes"):
            return np.arange(m + 1), np.arange(m, dtype=np.int32), np.ones(m)
        if self.resource == "trees":
            roots = e.parent[e.internal] < 0
            needed: Ints = np.cumsum(roots) - roots
            ends = np.concatenate([[0], np.cumsum(roots)]).astype(np.int64)
            return ends, needed[roots].astype(np.int32), np.ones(int(roots.sum()))
        components = self.feature_costs.components
        feature = e.feature[e.internal]
        free = np.zeros(e.n_features, np.bool_)
        free[np.flatnonzero(self.feature_costs.known_mask[:1])] = True
        asks = self._first[e.internal] & ~free[feature][:, None]
        cost = self.feature_costs.component_cost[0] / float(self._cost_unit or 1)
        whole = np.rint(cost) if self._cost_unit is not None else cost
        ends = np.concatenate([[0], np.cumsum(asks.sum(axis=1))]).astype(np.int64)
        return ends, components.of[feature][asks].astype(np.int32), whole

    # The integer program, in the paper's variables.

    def to_pulp(self) -> pulp.LpProblem:
        """Return the 0-1 program: ``z_h`` for every node h, ``w_j`` for every set of nodes that incurs a cost."""
        import pulp

        e, (indptr, indices, cost) = self.ensemble, self._requirements
        model = pulp.LpProblem("forest_size", pulp.LpMinimize)
        z = [model.add_variable(f"z_{h}", 0, 1, "Integer") for h in range(e.n_nodes)]
        w = [model.add_variable(f"w_{j}", 0, 1, "Integer") for j in range(len(cost))]
        total = self.tree_weight[e.tree] * e.n_trees
        share = np.divide(self.node_error, total, out=np.zeros_like(total), where=total > 0)
        per_unit = float(self.penalty * self.cost_factor)
        terms = [*zip(z, share.tolist(), strict=True), *zip(w, (per_unit * cost).tolist(), strict=True)]
        above: list[list[int]] = []
        for h in range(e.n_nodes):
            above.append([*(above[e.parent[h]] if e.parent[h] >= 0 else []), h])
            if e.left[h] < 0:
                model.addConstraint(pulp.lpSum(z[u] for u in above[h]) == 1)
        for k, h in enumerate(e.internal):
            for j in indices[indptr[k] : indptr[k + 1]]:
                model.addConstraint(w[j] + pulp.lpSum(z[u] for u in above[h]) >= 1)
        model.setObjective(pulp.LpAffineExpression(terms) + float(self.penalty) * self.fixed_cost)
        return model


@dataclass(frozen=True, eq=False)
class ForestUses(ForestSize):
    r"""Prune a forest so that its trees err little, and little is used of several resources together.

    .. math:: \min_{\text{prunings}} \; \text{mean error of the trees} + \lambda \sum_j w_j c_j

    with the costs :math:`c_j` of other tasks for the same forest. Their closures have the same items, so the sum is
    the closure of all their requirements.

    Parameters
    ----------
    parts
        Tasks for one forest and its rows: `ForestBudget` or `ForestSize`.
    factors
        The weights w_j >= 0.
    """

    parts: tuple[ForestBudget, ...] = ()
    factors: tuple[float, ...] = ()

    @classmethod
    def summed(cls, parts: Sequence[ForestBudget], factors: ArrayLike) -> ForestUses:
        """Return the sum of tasks for the same forest."""
        shared = {f.name: getattr(parts[0], f.name) for f in fields(ForestBudget)}
        factors = tuple(np.asarray(factors, np.float64).tolist())
        return cls(**shared, resource="sum", parts=tuple(parts), factors=factors)

    def _sum(self, of_parts: Sequence[float]) -> float:
        return float(sum(w * c for w, c in zip(self.factors, of_parts, strict=True)))

    @property
    def fixed_cost(self) -> float:
        """What the forest costs when it is all leaves."""
        return self._sum([part.fixed_cost for part in self.parts])

    def cost(self, kept: ArrayLike) -> float:
        """Return the weighted sum of the costs."""
        return self._sum([part.cost(kept) for part in self.parts])

    @property
    def cost_factor(self) -> Fraction:
        """Cost for one unit of the closures' requirement costs."""
        return Fraction(1)

    @cached_property
    def _cost_unit(self) -> Fraction | None:
        return None

    @cached_property
    def _requirements(self) -> tuple[Ints, Ints32, Floats]:
        m = len(self.ensemble.internal)
        owners, needed, costs, shift = [], [], [], 0
        for part, factor in zip(self.parts, self.factors, strict=True):
            indptr, indices, cost = part._requirements
            owners.append(np.repeat(np.arange(m), np.diff(indptr)))
            needed.append(indices + shift)
            costs.append(factor * float(part.cost_factor) * cost)
            shift += len(cost)
        owner = np.concatenate(owners)
        ends = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=m))]).astype(np.int64)
        return ends, np.concatenate(needed)[np.argsort(owner, kind="stable")].astype(np.int32), np.concatenate(costs)
