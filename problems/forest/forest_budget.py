"""Budget pruning of random forests: a feature costs once a row, wherever the forest asks for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Bools, Floats, Ints, Ints32, Singles
from prunopt.core.deprecation import renamed_arguments, renamed_attributes
from prunopt.core.problem import Reduced
from prunopt.core.validate import Shown, invalid, require
from prunopt.core.validate import sample_weight as checked_weight
from prunopt.forms.closure.closure import Closure
from prunopt.forms.linear_program import LinearProgram
from prunopt.problems.forest._cost_parsing import of_rows
from prunopt.problems.forest.feature_costs import FeatureCosts
from prunopt.problems.forest.node_errors import LOSSES, node_errors, tree_weights
from prunopt.problems.forest.tree_ensemble import TreeEnsemble

if TYPE_CHECKING:
    import pulp

GRID = 2**59  # integers of a rounded closure add up to at most this
PATH_GRID = 2**56  # the same for the path, whose cuts scale them further
MOST_COSTS = 10_000  # different costs beyond which no common unit is looked for


class PathClosure(NamedTuple):
    """A `ForestBudget` as a closure whose penalty is left open.

    A penalty p of the closure is the penalty ``p * penalty_unit`` of the task. Rounding may move the task's objective
    at penalty q by at most ``error_slack + q * cost_slack``; both are 0 where the closure is exact.
    """

    closure: Closure
    penalty_unit: Fraction
    error_slack: float
    cost_slack: float


@renamed_attributes(price="penalty", prices="feature_costs", at_price="at_penalty", bought="acquired")
@dataclass(frozen=True, eq=False)
class ForestBudget:
    r"""Prune a forest so that its trees err little and its features cost little.

    .. math::
        \min_{z, w \in \{0, 1\}} \; \frac1T \sum_{t,h} \frac{e_h}{N_t} z_h
        + \lambda \sum_{i,c} \frac{s_i}{N} p_{ic} w_{ic}
        \quad \text{s.t.} \quad \sum_{u \in \text{path to leaf}} z_u = 1, \quad
        w_{ic} + \sum_{u \in \text{path to } h} z_u \ge 1

    with z_h = 1 where node h is a leaf of the pruned tree, and w_ic = 1 where row i incurs the cost component c, once
    for all trees: that of a feature (or group) it acquires, or a part that several features share. The second
    constraint is there for every row i and every node h that is the first on the row's path in its tree to incur the
    component c, its feature not being known for that row. With :math:`y_h = 1 - \sum_u z_u` ("h stays internal") every
    constraint is a difference of two variables, which is the totally unimodular `Closure` that `reduce` returns.

    The value is a bool array over the internal nodes, tree by tree in node-id order: True = stays internal.

    Parameters
    ----------
    ensemble
        The trees.
    X : (n, K) float32
        The rows that costs and errors are means over.
    feature_costs
        Features, their groups and costs.
    penalty
        The multiplier lambda >= 0 of the cost, in units of error for one unit of cost.
    weight : (n,) float
        Sample weights s_i.
    node_error : (n_nodes,) float
        Weighted error e_h of every node, were it a leaf, on the rows of its tree.
    tree_weight : (T,) float
        Weight N_t of the rows that the errors of each tree were measured on.

    References
    ----------
    F. Nan, J. Wang, V. Saligrama, "Pruning Random Forests for Prediction on a Budget", NIPS 2016.
    """

    forms: ClassVar[tuple[type, ...]] = (Closure, LinearProgram)

    ensemble: TreeEnsemble
    X: Singles
    feature_costs: FeatureCosts
    penalty: Fraction
    weight: Floats
    node_error: Floats
    tree_weight: Floats
    loss: str = "misclassification"

    @classmethod
    @renamed_arguments(price="penalty")
    def from_forest(
        cls,
        forest: Any,
        X: ArrayLike,
        y: ArrayLike,
        feature_costs: Any,
        penalty: float | Fraction,
        *,
        feature_groups: Any = None,
        sample_weight: ArrayLike | None = None,
        errors: str = "holdout",
        loss: str = "misclassification",
        known: Any = None,
    ) -> ForestBudget:
        """Cast the pruning of a fitted forest as a problem.

        Parameters
        ----------
        forest
            A fitted random forest, extra trees, bagging of trees, or single tree of scikit-learn.
        X, y
            Rows and targets. The rows of ``errors="oob"`` and ``"inbag"`` are those that the forest was fitted on.
        feature_costs, feature_groups, known
            Costs of features, alone or in groups, with discounts, per row, or in several currencies, and the features
            that are known already: see `prunopt.problems.forest.feature_costs.FeatureCosts.of`.
        penalty
            The multiplier of the cost, in units of error: at 0.01 a pruning may raise the mean error of the trees by
            one point for every unit of cost that it saves.
        sample_weight : (n,) or None
            Scales error and cost of a row alike.
        errors
            ``"holdout"``: every tree is judged on every row. ``"oob"``: every tree on the rows that its bootstrap
            left out. ``"inbag"``: every tree on its bootstrap sample. Costs are always means over all rows.
        loss
            ``"misclassification"``, ``"gini"`` (Brier score) or ``"log"`` for classifiers, whose nodes predict
            their majority class or class frequencies; regressors use ``"squared"``, whatever is said here.
        """
        ensemble = TreeEnsemble.from_sklearn(forest)
        rows = ensemble.rows(X)
        columns = ensemble.n_features, ensemble.feature_names
        feature_costs = of_rows(feature_costs, X)
        costs = FeatureCosts.of(feature_costs, *columns, feature_groups, known).for_rows(len(rows))
        weight = checked_weight(sample_weight, len(rows))
        per_tree = tree_weights(forest, errors, ensemble.n_trees, weight)
        name = loss if ensemble.classes is not None else "squared"
        node_error, tree_weight = node_errors(ensemble, rows, y, per_tree, name)
        return cls(ensemble, rows, costs, _penalty(penalty), weight, node_error, tree_weight, name)

    def at_penalty(self, penalty: float | Fraction) -> ForestBudget:
        """Return the same problem at another penalty; what was computed from the rows is shared."""
        other = replace(self, penalty=_penalty(penalty))
        for name in ("_requirements", "_first", "_cost_unit"):
            if name in self.__dict__:
                other.__dict__[name] = self.__dict__[name]
        return other

    # The objective, from scratch: leaves of the pruned trees, and every row walked through them.

    def error(self, kept: ArrayLike) -> float:
        """Return the mean over trees of the (weighted) mean error of the pruned trees."""
        leaf = self.ensemble.leaves(self._as_value(kept))
        per_tree = np.add.reduceat(np.where(leaf, self.node_error, 0.0), self.ensemble.offsets[:-1])
        share = np.divide(per_tree, self.tree_weight, out=np.zeros_like(per_tree), where=self.tree_weight > 0)
        return math.fsum(share) / self.ensemble.n_trees

    def acquired(self, kept: ArrayLike, X: ArrayLike | None = None) -> Bools:
        """Return which groups each row acquires, shape (n, G), for the task's rows or for other rows ``X``.

        Of other rows, only those features are known that are known for all rows.
        """
        from prunopt.problems.forest._routing import acquired_groups

        e, costs = self.ensemble, self.feature_costs
        rows = self.X if X is None else e.rows(X)
        split = np.zeros(e.n_nodes, np.bool_)
        split[e.internal] = self._as_value(kept)
        known = costs.known_mask
        if X is not None and len(known) > 1:
            known = known[:0]
        out = np.zeros((len(rows), len(costs.group_cost)), np.bool_)
        acquired_groups(rows, e.arrays, costs.group_of, known, split, out)
        return out

    def cost(self, kept: ArrayLike) -> float:
        """Return the (weighted) mean cost of a row: every component that it incurs in any tree, once."""
        incurred, cost = self.feature_costs.incurred(self.acquired(kept)), self.feature_costs.component_cost
        if len(cost) == 1:
            return float((self.weight @ incurred / self.weight.sum()) @ cost[0])
        return float(self.weight @ (incurred * cost).sum(axis=1) / self.weight.sum())

    def objective(self, kept: ArrayLike, /) -> float:
        """Return the mean error of the trees + penalty * mean cost per row."""
        return self.error(kept) + float(self.penalty) * self.cost(kept)

    def violation(self, kept: ArrayLike, /) -> float:
        """Return how many nodes stay internal although their parent does not."""
        value = self._as_value(kept)
        split = np.ones(self.ensemble.n_nodes, np.bool_)
        split[self.ensemble.internal] = value
        parent = self.ensemble.parent[self.ensemble.internal]
        return float(np.count_nonzero(value & (parent >= 0) & ~split[parent]))

    def _as_value(self, kept: ArrayLike) -> Bools:
        value = np.asarray(kept)
        shape = (len(self.ensemble.internal),)
        given = Shown(f"{value.dtype} of shape {value.shape}")
        require(value.shape == shape and value.dtype == np.bool_, "value", f"be bool of shape {shape}", given)
        return value

    # The reduction.

    def reduce(self, to: type | None = None) -> Reduced[Bools]:
        """Return the task as a `Closure`, or as the integral `LinearProgram` of that closure."""
        closure, slack = self.closure()
        shift = self.error(np.zeros(len(self.ensemble.internal), np.bool_)) + float(self.penalty) * self.fixed_cost
        if to is None or issubclass(Closure, to):
            return Reduced(closure, lambda x: x, shift=shift, slack=slack)
        if issubclass(LinearProgram, to):
            linear = closure.reduce(LinearProgram)
            return Reduced(linear.form, linear.back, shift=shift, slack=slack)
        raise invalid("to", "be Closure or LinearProgram", Shown(to.__name__))

    def closure(self) -> tuple[Closure, float]:
        """Return the closure at this penalty, and how far rounding may move its objective (0 = exact integers)."""
        exact = self._integer_closure()
        if exact is not None:
            closure = replace(exact, penalty=self.penalty * self.cost_factor / exact.unit)
            whole = int(np.abs(closure.profit).sum()) * closure.penalty.denominator
            if max(whole, int(closure.cost.sum()) * closure.penalty.numerator) < GRID:
                return closure, 0.0
        indptr, indices, cost = self._requirements
        profit = self._profits
        spent = cost * float(self.penalty * self.cost_factor)  # the penalized costs
        size = max(np.abs(profit).sum(), spent.sum(), 1e-300)
        unit = Fraction(float(size)) / GRID
        step = float(unit)
        rounded = Closure(
            np.rint(profit / step).astype(np.int64),
            self._parents,
            indptr,
            indices,
            np.rint(spent / step).astype(np.int64),
            unit=unit,
        )
        return rounded, (len(profit) + len(spent)) * step / 2 + float(size) * 2**-50

    def path_closure(self) -> PathClosure:
        """Return the closure whose penalty is left open, for the path over all penalties."""
        exact = self._integer_closure()
        if exact is not None:
            return PathClosure(exact, exact.unit / self.cost_factor, 0.0, 0.0)
        indptr, indices, cost = self._requirements
        step = max(float(np.abs(self._profits).sum()), 1e-300) / PATH_GRID
        exact_costs = float(cost.sum()) < 2**53 and np.array_equal(cost, np.rint(cost))
        grain = 1.0 if exact_costs else max(float(cost.sum()), 1e-300) / PATH_GRID
        profit, whole = np.rint(self._profits / step).astype(np.int64), np.rint(cost / grain).astype(np.int64)
        closure = Closure(profit, self._parents, indptr, indices, whole, unit=Fraction(step))
        per_cost = Fraction(grain) * self.cost_factor
        slack = 0.0 if exact_costs else len(cost) / 2 * float(per_cost)
        return PathClosure(closure, Fraction(step) / per_cost, len(profit) * step / 2, slack)

    def _integer_closure(self) -> Closure | None:
        """The closure with integer profits and costs, its penalty left open; None if they are not integers."""
        totals = np.unique(self.tree_weight)
        if not self._weights_are_whole or self.loss != "misclassification" or len(totals) != 1:
            return None
        if self._cost_unit is None:
            return None
        indptr, indices, cost = self._requirements
        unit = Fraction(1, self.ensemble.n_trees * int(totals[0]))
        e, inner = self.node_error, self.ensemble.internal
        profit = e[inner] - e[self.ensemble.left[inner]] - e[self.ensemble.right[inner]]
        if np.abs(profit).sum() >= 2**53 or cost.sum() >= 2**53:
            return None
        return Closure(profit.astype(np.int64), self._parents, indptr, indices, cost.astype(np.int64), unit=unit)

    @property
    def cost_factor(self) -> Fraction:
        """Mean cost per row for one unit of the closures' requirement costs."""
        return (self._cost_unit or Fraction(1)) / Fraction(float(self.weight.sum()))

    @property
    def fixed_cost(self) -> float:
        """What costs whatever is pruned."""
        return 0.0

    @cached_property
    def _weights_are_whole(self) -> bool:
        return bool(np.all(self.weight == np.rint(self.weight)) and self.weight.sum() < 2**40)

    @cached_property
    def _cost_unit(self) -> Fraction | None:
        return self._unit_of(self.feature_costs.component_cost)

    @staticmethod
    def _unit_of(costs: Floats) -> Fraction | None:
        """The largest unit of which all costs, read as decimals, are whole multiples; None if it is too fine."""
        distinct = np.unique(costs)
        if len(distinct) > MOST_COSTS:
            return None
        shares = [Fraction(repr(float(c))) for c in distinct if c > 0]
        if not shares:
            return Fraction(1)
        denominator = math.lcm(*(s.denominator for s in shares))
        if denominator > 10**6:
            return None
        return Fraction(math.gcd(*(int(s * denominator) for s in shares)), denominator)

    @cached_property
    def _profits(self) -> Floats:
        """What keeping each internal node takes off the objective, in the task's own unit."""
        e, inner = self.node_error, self.ensemble.internal
        profit = e[inner] - e[self.ensemble.left[inner]] - e[self.ensemble.right[inner]]
        total = self.tree_weight[self.ensemble.tree[inner]] * self.ensemble.n_trees
        return np.divide(profit, total, out=np.zeros_like(profit), where=total > 0)

    @cached_property
    def _parents(self) -> Ints32:
        inner = self.ensemble.internal
        place = np.full(self.ensemble.n_nodes + 1, -1, np.int32)
        place[inner] = np.arange(len(inner))
        return place[self.ensemble.parent[inner]]  # the parent -1 of a root reads the last entry, -1

    @cached_property
    def _first(self) -> Bools:
        from prunopt.problems.forest._routing import first_uses

        e, costs = self.ensemble, self.feature_costs
        costly = np.any(costs.component_cost > 0, axis=0)
        return first_uses(e.arrays, e.parent, costs.components.of, costly, costs.known is not None)

    @property
    def _order(self) -> Ints:
        """The rows in the order of the leaves of the first tree."""
        from prunopt.problems.forest._routing import add_leaves

        leaf = np.empty((len(self.X), 1), np.int32)
        add_leaves(self.X, self.ensemble.arrays._replace(offsets=self.ensemble.offsets[:2]), leaf)
        return np.argsort(leaf[:, 0], kind="stable")

    @cached_property
    def _requirements(self) -> tuple[Ints, Ints32, Floats]:
        """The cost components that each internal node needs: indptr, indices, and the weighted cost of each.

        Components that the same nodes need are one requirement: they are incurred together or not at all. Costs are
        in units of the cost unit times the weights' own unit, so that whole numbers stay whole.
        """
        from prunopt.problems.forest import _routing as kernels

        # Rows that trees keep together are numbered together: the cuts then find their requirements close in memory.
        e, order = self.ensemble, self._order
        X, weight, costs = self.X[order], self.weight[order], self.feature_costs.take(order)
        walks = (X, e.arrays, costs.components, self._first)
        shape = (len(X), costs.component_cost.shape[1])
        component_cost = costs.component_cost / float(self._cost_unit or 1)
        if self._cost_unit is not None:
            component_cost = np.rint(component_cost)
        low, high = np.zeros(shape, np.uint64), np.zeros(shape, np.uint64)
        kernels.sign_requirements(*walks, low, high)
        owner, cost = kernels.merge_requirements(low, high, weight, component_cost)
        del low, high
        count = np.zeros(e.n_nodes, np.int64)
        kernels.fill_edges(*walks, owner, count, np.empty(0, np.int32))
        ends = np.cumsum(count)
        indices = np.empty(int(ends[-1]), np.int32)
        kernels.fill_edges(*walks, owner, ends - count, indices)
        return np.concatenate([[0], np.cumsum(count[e.internal])]), indices, cost

    # The paper's integer program, in its own variables.

    def to_pulp(self) -> pulp.LpProblem:
        """Return the paper's 0-1 program: ``z_h`` for every node h, ``w_i_c`` for every component that can occur."""
        import pulp

        e, cost = self.ensemble, self.feature_costs.component_cost
        model = pulp.LpProblem("forest_budget", pulp.LpMinimize)
        z = [model.add_variable(f"z_{h}", 0, 1, "Integer") for h in range(e.n_nodes)]
        factor = float(self.penalty) * self.weight / self.weight.sum()
        total = self.tree_weight[e.tree] * e.n_trees
        share = np.divide(self.node_error, total, out=np.zeros_like(total), where=total > 0)
        terms = [(v, float(s)) for v, s in zip(z, share, strict=True)]
        paths: list[list[int]] = []
        for h in range(e.n_nodes):
            paths.append([*(paths[e.parent[h]] if e.parent[h] >= 0 else []), h])
            if e.left[h] < 0:
                model.addConstraint(pulp.lpSum(z[u] for u in paths[h]) == 1)
        w: dict[tuple[int, int], pulp.LpVariable] = {}
        for root in e.offsets[:-1]:
            for i, row in enumerate(self.X):
                h, made = int(root), set[int]()
                while e.left[h] >= 0:
                    value = row[e.feature[h]]
                    for c in self._components(i, h) - made:
                        made.add(c)
                        if (i, c) not in w:
                            w[i, c] = model.add_variable(f"w_{i}_{c}", 0, 1, "Integer")
                            terms.append((w[i, c], float(factor[i] * cost[i % len(cost), c])))
                        model.addConstraint(w[i, c] + pulp.lpSum(z[u] for u in paths[h]) >= 1)
                    left = e.missing_left[h] if np.isnan(value) else value <= e.threshold[h]
                    h = int(e.left[h] if left else e.right[h])
        model.setObjective(pulp.LpAffineExpression(terms))
        return model

    def _components(self, i: int, h: int) -> set[int]:
        """The components that node h incurs for row i, where its feature is not known."""
        costs, feature = self.feature_costs, self.ensemble.feature[h]
        known = costs.known_mask
        if self.weight[i] == 0 or (len(known) and known[i % len(known), feature]):
            return set()
        cost = costs.component_cost[i % len(costs.component_cost)]
        return {int(c) for c in costs.components_of[costs.group_of[feature]] if c >= 0 and cost[c] > 0}

    def read_pulp(self, model: pulp.LpProblem) -> Bools:
        """Return which internal nodes a solved `to_pulp` model keeps: those with no leaf on their root path."""
        found = model.variablesDict()
        kept = np.zeros(self.ensemble.n_nodes, np.bool_)
        for h in self.ensemble.internal:
            above = self.ensemble.parent[h]
            kept[h] = (above < 0 or kept[above]) and (found[f"z_{h}"].varValue or 0.0) < 0.5
        return kept[self.ensemble.internal]


def _penalty(penalty: float | Fraction) -> Fraction:
    """The penalty as the rational that its decimal digits say."""
    try:
        exact = penalty if isinstance(penalty, Fraction | int) else Fraction(repr(float(penalty)))
    except (TypeError, ValueError):
        exact = Fraction(-1)
    require(exact >= 0, "penalty", "be a finite number >= 0", penalty, "0 ignores costs")
    return Fraction(exact)


__all__ = ["LOSSES", "ForestBudget"]
