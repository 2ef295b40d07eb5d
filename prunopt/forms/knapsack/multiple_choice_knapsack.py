"""One level for each group, within one budget or several: the multiple-choice knapsack."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core import validate
from prunopt.core.arrays import Ints
from prunopt.core.display import one_line
from prunopt.core.validate import Shown, floats, ints, refuse, require, whole_number
from prunopt.forms.knapsack._choice_tree import Options, tree_bound
from prunopt.forms.knapsack._lagrangian import Choices, bound, counted_bound, multiplier_of

if TYPE_CHECKING:
    import pulp

LARGEST_SUM = 2**62  # sums of costs must stay within 64 bits
UNITS = "scale and round the costs up, the budget down"


@one_line
@dataclass(frozen=True, eq=False)
class MultipleChoiceKnapsack:
    r"""A multiple-choice knapsack: pick one level of every group, spend at most the budgets, lose least.

    .. math::
        \min_{j_1, \dots, j_G} \; \sum_g \mathrm{loss}_{g, j_g}
        \quad \text{s.t.} \quad \sum_g \mathrm{cost}_{r, g, j_g} \le \mathrm{budget}_r \quad (r = 1, \dots, R)

    Parameters
    ----------
    loss : (G, L) float
        What each level of each group loses; ``inf`` where a group does not have that level (not in all).
    cost : (G, L) or (R, G, L) int
        What each level spends of each resource, >= 0, in whole units; or a mapping from names of resources to (G, L).
    budget : int or (R,) int
        The greatest total costs, >= 0; a mapping from the same names where the costs are one.
    resources
        Names of the resources; taken from a mapping, else ``"cost"``, or ``"cost_0"`` and so on.
    spans
        Options of several groups at once: ``(first, last, loss, costs)`` takes the place of the levels of groups
        ``first`` to ``last``, both included, loses and costs (R numbers, or one) so much for all of them together.

    Notes
    -----
    The value is the array of chosen levels, shape (G,); ``L + s`` in all groups of span number s where it is chosen.

    References
    ----------
    .. [1] D. Pisinger, "A minimal algorithm for the multiple-choice knapsack problem", EJOR 83 (1995).
    """

    loss: Any
    cost: Any
    budget: Any
    resources: Any = None
    spans: Any = ()

    violation_unit = 1.0

    def __post_init__(self) -> None:
        given = np.asarray(self.loss)
        real = given.dtype.kind in "fiu" and given.ndim == 2 and (given.size or not given.shape[0])
        require(real, "loss", "hold real numbers of shape (groups, levels)", Shown(f"{given.dtype} of {given.shape}"))
        loss = np.ascontiguousarray(floats("loss", given, finite=False))
        there = np.isfinite(loss)
        require(not np.isneginf(loss).any(), "loss", "be finite, or +infinity for a missing level", -math.inf)
        for g in np.flatnonzero(~there.any(axis=1)):
            refuse(f"loss[{g}]", "hold a finite number", Shown("missing levels only"), "give the group a level")
        cost, limits, names = self._resources(loss.shape)
        object.__setattr__(self, "loss", loss)
        object.__setattr__(self, "cost", cost[0] if len(cost) == 1 else cost)
        object.__setattr__(self, "budget", int(limits[0]) if len(cost) == 1 else limits)
        object.__setattr__(self, "resources", names)
        object.__setattr__(self, "spans", tuple(self._span(k, s) for k, s in enumerate(self.spans)))
        total = float(cost.max(axis=2).astype(np.float64).sum(axis=1).max()) if cost.size else 0.0
        total += sum(float(max(span[3])) for span in self.spans)
        require(total <= LARGEST_SUM, "cost", "add up to 2^62 at most", total, "give larger units")

    def _resources(self, shape: tuple[int, ...]) -> tuple[Ints, Ints, tuple[str, ...]]:
        """Return costs (R, G, L), limits (R,) and names."""
        cost, budget, names = self.cost, self.budget, self.resources
        if isinstance(cost, Mapping):
            require(cost, "cost", "name a resource", Shown("none"))
            same = isinstance(budget, Mapping) and set(budget) == set(cost)
            given = Shown(f"{sorted(budget)}" if isinstance(budget, Mapping) else repr(budget))
            require(same, "budget", f"map the resources of cost, {sorted(cost)}, to limits", given)
            names, budget = tuple(cost), [budget[name] for name in cost]
            cost = [ints(f"cost[{name!r}]", table, shape, low=0, mend=UNITS) for name, table in cost.items()]
        array = np.asarray(cost)
        if array.ndim == 2 or np.ndim(budget) == 0:
            array = ints("cost", cost, shape, low=0, mend=UNITS)[None]
        else:
            array = ints("cost", cost, ("R", *shape), low=0, mend=UNITS)
        limits = np.atleast_1d(np.asarray(budget))
        require(limits.shape == array.shape[:1] and len(array), "budget", f"hold {max(1, len(array))} limits", budget)
        mend = "give it in the unit of the costs"
        where = "budget" if len(array) == 1 else "budget[{}]"
        whole = [whole_number(where.format(r), b, low=0, mend=mend) for r, b in enumerate(limits.tolist())]
        if names is None:
            names = ("cost",) if len(array) == 1 else tuple(f"cost_{r}" for r in range(len(array)))
        names = tuple(str(name) for name in names)
        validate.unique("resources", names)
        require(len(names) == len(array), "resources", f"be {len(array)} names", names)
        return np.ascontiguousarray(array), np.array([min(b, LARGEST_SUM) for b in whole], np.int64), names

    def _span(self, k: int, given: Any) -> tuple[int, int, float, tuple[int, ...]]:
        """Return a span as plain numbers."""
        must = "be (first, last, loss, costs)"
        require(isinstance(given, Sequence) and len(given) == 4, f"spans[{k}]", must, given)
        last = whole_number(f"last group of spans[{k}]", given[1], low=0, high=self.n_groups - 1)
        first = whole_number(f"first group of spans[{k}]", given[0], low=0, high=last)
        costs = ints(f"costs of spans[{k}]", np.atleast_1d(given[3]), (self.n_resources,), low=0, mend=UNITS)
        require(costs.max() <= LARGEST_SUM, f"costs of spans[{k}]", "be at most 2^62", costs)
        return first, last, validate.number(f"loss of spans[{k}]", given[2]), tuple(costs.tolist())

    @property
    def n_groups(self) -> int:
        """Number of groups G."""
        return len(self.loss)

    @property
    def n_levels(self) -> int:
        """Number of levels L."""
        return int(self.loss.shape[1])

    @property
    def n_resources(self) -> int:
        """Number of resources R."""
        return len(self.resources)

    @property
    def limits(self) -> Ints:
        """The budgets, (R,)."""
        return np.atleast_1d(np.asarray(self.budget, np.int64))

    @property
    def is_plain(self) -> bool:
        """Whether there is one resource, and no span."""
        return self.n_resources == 1 and not self.spans

    @cached_property
    def options(self) -> Options:
        """Levels and spans side by side, the latter as columns behind the levels."""
        costs = self.cost if self.cost.ndim == 3 else self.cost[None]
        n = len(self.spans)
        loss = np.pad(self.loss, ((0, 0), (0, n)), constant_values=np.inf)
        costs = np.pad(costs, ((0, 0), (0, 0), (0, n)))
        for s, (first, last, lost, spent) in enumerate(self.spans):
            loss[first : last + 1, self.n_levels + s] = 0.0
            loss[first, self.n_levels + s], costs[:, first, self.n_levels + s] = lost, spent
        ends = np.array([span[:2] for span in self.spans], np.int64).reshape(n, 2)
        return Options(loss, costs, self.limits.astype(np.float64), self.n_levels, ends[:, 0], ends[:, 1])

    @cached_property
    def objective_unit(self) -> float:
        """The sum of the largest losses: what gaps are relative to where that is less than 1."""
        loss = self.options.loss if self.spans else self.loss
        return math.fsum(np.abs(np.where(np.isfinite(loss), loss, 0.0)).max(axis=1, initial=0.0))

    @cached_property
    def least_costs(self) -> Ints:
        """The cost of the cheapest choice, of each resource for itself, (R,)."""
        costs = self.cost if self.cost.ndim == 3 else self.cost[None]
        least = np.where(np.isfinite(self.loss), costs, LARGEST_SUM).min(axis=2, initial=LARGEST_SUM)
        if not self.spans:
            found: Ints = least.sum(axis=1)
            return found
        ahead = np.zeros((self.n_groups + 1, self.n_resources), np.int64)
        for g in range(self.n_groups):
            ahead[g + 1] = ahead[g] + least[:, g]
            for first, last, _, spent in self.spans:
                if last == g:
                    ahead[g + 1] = np.minimum(ahead[g + 1], ahead[first] + np.array(spent))
        return np.array(ahead[-1])

    @property
    def least_cost(self) -> int:
        """The cost of the cheapest choice, of the first resource."""
        return int(self.least_costs[0])

    def objective(self, x: ArrayLike, /) -> float:
        """Return the total loss of the chosen levels."""
        loss = self.options.loss if self.spans else self.loss
        return math.fsum(loss[np.arange(self.n_groups), self._as_value(x)])

    def used(self, x: ArrayLike) -> Ints:
        """Return the total costs of the chosen levels, (R,)."""
        chosen: Ints = self.options.costs[:, np.arange(self.n_groups), self._as_value(x)].sum(axis=1)
        return chosen

    def spent(self, x: ArrayLike) -> int:
        """Return the total cost of the chosen levels, of the first resource."""
        if self.is_plain:
            return int(self.cost[np.arange(self.n_groups), self._as_value(x)].sum())
        return int(self.used(x)[0])

    def violation(self, x: ArrayLike, /) -> float:
        """Return by how much the costs are over the budgets, added up; infinite for missing levels, parts of spans."""
        if not math.isfinite(self.objective(x)):
            return math.inf
        if self.is_plain:
            return float(max(0, self.spent(x) - self.budget))
        value = self._as_value(x)
        for s, (first, last, _, _) in enumerate(self.spans):
            taken = value == self.n_levels + s
            if taken.any() and (not taken[first : last + 1].all() or taken.sum() > last + 1 - first):
                return math.inf
        return float(np.maximum(self.used(value) - self.limits, 0).sum())

    def bound(self, duals: Mapping[str, Any]) -> float:
        r"""Return the lower bound that penalties, and a claim or a search tree, prove.

        For all penalties :math:`\lambda_r \ge 0` of a unit of cost the Lagrangian bound is

        .. math:: L(\lambda) = \sum_g \min_j \Bigl(\mathrm{loss}_{gj} + \sum_r \lambda_r \, \mathrm{cost}_{rgj}\Bigr)
                  - \sum_r \lambda_r \, \mathrm{budget}_r

        With one budget and no spans a claim "no choice loses less than v" is checked by listing, group by group, the
        partial choices that could still end below v. If a choice below v remains, the bound is what it loses. In all
        cases the nodes of a search tree may have penalties of their own: the bound is the least of its leaves'. A
        ``"split"`` K says that choices of fewer than K groups above their cheapest level, and those of K or more, have
        penalties of their own, of the budget and of that number: the bound is the lesser of the two.

        Parameters
        ----------
        duals
            ``"penalty"``: :math:`\lambda \ge 0` (until the last release ``"price"``), R numbers where there are
            several; ``"claim"``: v, optional. A tree: ``"penalties"`` (nodes, R), ``"parent"``, ``"second"``,
            ``"group"`` (nodes,), ``"levels"`` (nodes, L + spans), and ``"claim"``. ``"split"``: K, with ``"sides"``
            (2, 2), the penalties of the budget and of the number for fewer, and for K or more.
        """
        if not self.n_groups:
            return 0.0
        if "penalties" in duals or not self.is_plain:
            return tree_bound(self.options, duals)
        penalty = multiplier_of(duals, "penalty", float(duals.get("price", math.nan)))
        choices = Choices(self.loss, (self.cost,), (self.budget,), self.objective_unit)
        claim = float(duals.get("claim", -math.inf))
        counted = counted_bound(choices, duals) if "split" in duals else -math.inf
        return max(counted, bound(choices, (penalty,), claim if counted < claim else -math.inf))

    def is_infeasible_by(self, ray: Any) -> bool:
        """Return whether nothing is within the budgets.

        It is so where the cheapest choice is over one of them, or where a ``ray``, penalties or a tree of them as of
        `bound`, proves that every choice is over one: the bound with all losses 0 is then above 0.
        """
        if not self.n_groups:
            return False
        if (self.least_costs > self.limits).any():
            return True
        if not isinstance(ray, Mapping):
            return False
        free = self.options._replace(loss=np.where(np.isfinite(self.options.loss), 0.0, np.inf))
        return tree_bound(free, {"claim": math.inf, **ray}, whole=False) > 0

    def explain(self, nearest: ArrayLike | None = None) -> str:
        """Return why nothing fits, and the nearest request that does.

        Parameters
        ----------
        nearest
            A choice that is over the budgets as little as can be; None: budgets are looked at one by one.
        """
        if self.is_plain:
            name = "budget" if self.resources == ("cost",) else self.resources[0]
            return (
                f"the cheapest choice costs {self.least_cost}, the {name} is {self.budget} at most; "
                f"nearest feasible request: {name}={self.least_cost}"
            )
        least = self.least_costs if nearest is None else self.used(nearest)
        over = [r for r in range(self.n_resources) if least[r] > self.limits[r]]
        names = ", ".join(f"{self.resources[r]} (the limit is {self.limits[r]})" for r in over)
        alone = [r for r in over if self.least_costs[r] > self.limits[r]]
        why = "; ".join(f"the least {self.resources[r]} of any choice is {self.least_costs[r]}" for r in alone)
        ask = ", ".join(f"{self.resources[r]}={least[r]}" for r in over)
        together = why or f"the {self.n_resources} limits cannot be met together"
        return f"in the way: {names}; {together}; nearest feasible request: {ask}, the other limits as they are"

    def to_pulp(self) -> pulp.LpProblem:
        """Return the 0-1 program with variables ``y_g_j``, and ``span_s`` for spans."""
        import pulp

        model = pulp.LpProblem("multiple_choice_knapsack", pulp.LpMinimize)
        there, costs = np.isfinite(self.loss), self.cost if self.cost.ndim == 3 else self.cost[None]
        y = {(g, j): model.add_variable(f"y_{g}_{j}", 0, 1, pulp.LpBinary) for g, j in np.argwhere(there).tolist()}
        z = [model.add_variable(f"span_{s}", 0, 1, pulp.LpBinary) for s in range(len(self.spans))]
        terms = [(v, float(self.loss[key])) for key, v in y.items()]
        terms += [(v, span[2]) for v, span in zip(z, self.spans, strict=True)]
        model.setObjective(pulp.LpAffineExpression(terms))
        for g in range(self.n_groups):
            mine = [(y[g, j], 1) for j in np.flatnonzero(there[g]).tolist()]
            mine += [(v, 1) for v, span in zip(z, self.spans, strict=True) if span[0] <= g <= span[1]]
            model.addConstraint(pulp.LpAffineExpression(mine) == 1, f"group_{g}")
        for r in range(self.n_resources if y else 0):
            row = [(v, int(costs[(r, *key)])) for key, v in y.items()]
            row += [(v, span[3][r]) for v, span in zip(z, self.spans, strict=True)]
            unit = math.gcd(*(c for _, c in row)) or 1
            spent = pulp.LpAffineExpression([(v, c // unit) for v, c in row])
            name = "budget" if self.n_resources == 1 else f"budget_{r}"
            model.addConstraint(spent <= int(self.limits[r]) // unit, name)
        return model

    def pulp_values(self, x: ArrayLike) -> dict[str, float]:
        """Return what the variables of the `to_pulp` model are at a choice: a start for an engine."""
        chosen = np.asarray(x, np.int64)
        spans = {f"span_{s}": float(chosen[span[0]] == self.n_levels + s) for s, span in enumerate(self.spans)}
        return spans | {f"y_{g}_{j}": float(chosen[g] == j) for g, j in np.argwhere(np.isfinite(self.loss)).tolist()}

    def read_pulp(self, model: pulp.LpProblem) -> Ints:
        """Return the chosen levels of a solved `to_pulp` model."""
        found = model.variablesDict()
        held = np.full(self.loss.shape, -1.0)
        for g, j in np.argwhere(np.isfinite(self.loss)).tolist():
            variable = found.get(f"y_{g}_{j}")
            held[g, j] = 0.0 if variable is None else variable.varValue or 0.0
        value = held.argmax(axis=1).astype(np.int64) if held.size else np.zeros(0, np.int64)
        for s, (first, last, _, _) in enumerate(self.spans):
            variable = found.get(f"span_{s}")
            if variable is not None and (variable.varValue or 0.0) > 0.5:
                value[first : last + 1] = self.n_levels + s
        return value

    def _as_value(self, x: ArrayLike) -> Ints:
        return ints("x", x, (self.n_groups,), low=0, high=max(1, self.n_levels + len(self.spans)) - 1)
