"""One level for each group, within a budget: the multiple-choice knapsack."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats, Ints
from prunopt.core.solution import CertificateError

if TYPE_CHECKING:
    import pulp

LARGEST_SUM = 2**62  # sums of costs must stay within 64 bits
STATES = 4_000_000  # partial choices that a proof may hold at once


@dataclass(frozen=True, eq=False)
class MultipleChoiceKnapsack:
    r"""A multiple-choice knapsack: pick one level of every group, spend at most the budget, lose least.

    .. math::
        \min_{j_1, \dots, j_G} \; \sum_g \mathrm{loss}_{g, j_g}
        \quad \text{s.t.} \quad \sum_g \mathrm{cost}_{g, j_g} \le \mathrm{budget}

    Parameters
    ----------
    loss : (G, L) float
        What each level of each group loses; ``inf`` where a group does not have that level (not in all).
    cost : (G, L) int
        What each level spends, >= 0, in whole units.
    budget : int
        The greatest total cost, >= 0.

    Notes
    -----
    The value is the array of chosen levels, shape (G,).

    References
    ----------
    .. [1] D. Pisinger, "A minimal algorithm for the multiple-choice knapsack problem", EJOR 83 (1995).
    """

    loss: Any
    cost: Any
    budget: int

    violation_unit = 1.0

    def __post_init__(self) -> None:
        loss = np.asarray(self.loss)
        if loss.dtype.kind not in "fiu" or loss.ndim != 2 or (loss.size == 0 and loss.shape[0]):
            raise ValueError(
                f"loss: {loss.dtype} of shape {loss.shape} given, (groups, levels) real numbers are needed"
            )
        loss = np.ascontiguousarray(loss, np.float64)
        if np.any(np.isnan(loss)) or np.any(loss == -np.inf):
            raise ValueError("loss: NaN or -infinity given; give finite numbers, +infinity for a level that is missing")
        empty = np.flatnonzero(~np.isfinite(loss).any(axis=1))
        if len(empty):
            raise ValueError(f"loss: group {empty[0]} has no level of finite loss; give it one")
        given = np.asarray(self.cost)
        if given.shape != loss.shape:
            raise ValueError(f"cost: shape {given.shape} given, {loss.shape} as loss is needed")
        if given.dtype.kind not in "iu" and not np.array_equal(given, np.rint(np.asarray(given, np.float64))):
            raise ValueError("cost: whole numbers are needed; scale and round them up, the budget down")
        cost = np.ascontiguousarray(given).astype(np.int64)
        if np.any(cost < 0):
            raise ValueError(f"cost: {cost.min()} given; every cost must be >= 0")
        if cost.size and float(cost.max(axis=1).astype(np.float64).sum()) > LARGEST_SUM:
            raise ValueError("cost: the costs add up to more than 2^62; give larger units")
        budget = self.budget
        if isinstance(budget, bool) or budget != int(budget) or budget < 0:
            raise ValueError(f"budget={budget!r}: give a whole number >= 0, in the unit of the costs")
        object.__setattr__(self, "loss", loss)
        object.__setattr__(self, "cost", cost)
        object.__setattr__(self, "budget", min(int(budget), LARGEST_SUM))

    @property
    def n_groups(self) -> int:
        """Number of groups G."""
        return len(self.loss)

    @property
    def n_levels(self) -> int:
        """Number of levels L."""
        return int(self.loss.shape[1])

    @cached_property
    def objective_unit(self) -> float:
        """The sum of the largest losses: what gaps are relative to where that is less than 1."""
        return math.fsum(np.abs(np.where(np.isfinite(self.loss), self.loss, 0.0)).max(axis=1, initial=0.0))

    @cached_property
    def least_cost(self) -> int:
        """The cost of the cheapest choice."""
        return int(np.where(np.isfinite(self.loss), self.cost, LARGEST_SUM).min(axis=1, initial=LARGEST_SUM).sum())

    def objective(self, x: ArrayLike, /) -> float:
        """Return the total loss of the chosen levels."""
        return math.fsum(self.loss[np.arange(self.n_groups), self._as_value(x)])

    def spent(self, x: ArrayLike) -> int:
        """Return the total cost of the chosen levels."""
        return int(self.cost[np.arange(self.n_groups), self._as_value(x)].sum())

    def violation(self, x: ArrayLike, /) -> float:
        """Return by how much the cost is over the budget; infinite where a missing level is chosen."""
        if not math.isfinite(self.objective(x)):
            return math.inf
        return float(max(0, self.spent(x) - self.budget))

    def bound(self, duals: Mapping[str, Any]) -> float:
        r"""Return the lower bound that a price, and a claim, prove.

        For every price :math:`\lambda \ge 0` of a unit of cost the Lagrangian bound is

        .. math:: L(\lambda) = \sum_g \min_j (\mathrm{loss}_{gj} + \lambda \, \mathrm{cost}_{gj})
                  - \lambda \, \mathrm{budget}

        A claim "no choice loses less than v" is checked by listing, group by group, the partial choices that could
        still end below v: a choice loses :math:`L(\lambda)` plus the reduced losses
        :math:`\mathrm{loss}_{gj} + \lambda \mathrm{cost}_{gj} - \min_{j'} (\dots)` of its levels, plus
        :math:`\lambda` for every unit not spent. Of partial choices of equal groups one that neither costs nor loses
        more than another replaces it. If a choice below v remains, the bound is what it loses.

        Parameters
        ----------
        duals
            ``"price"``: :math:`\lambda \ge 0`; ``"claim"``: v, optional.
        """
        price = float(duals.get("price", math.nan))
        if not 0 <= price < math.inf:
            raise CertificateError(f"duals['price']: {price}, a finite number >= 0 is needed")
        if not self.n_groups:
            return 0.0
        priced = self.loss + price * self.cost
        least = priced.min(axis=1)
        # Lowered by what rounding may add: large prices drown the losses.
        slack = 2.0**-50 * (self.objective_unit + float(np.abs(least).sum()) + price * abs(self.budget))
        relaxed = math.fsum([*least, -price * self.budget]) - slack
        claim = float(duals.get("claim", -math.inf))
        if not relaxed < claim < math.inf:
            return relaxed
        return max(relaxed, self._least_below(claim, relaxed, priced - least[:, None], price))

    def _least_below(self, claim: float, relaxed: float, reduced: Floats, price: float) -> float:
        """The least loss below ``claim``, the claim where there is none, -inf where too many choices remain."""
        room = claim - relaxed
        count = np.count_nonzero(reduced < room, axis=1)
        second = np.partition(reduced, 1, axis=1)[:, 1] if self.n_levels > 1 else np.full(self.n_groups, np.inf)
        order = np.argsort(np.where(count > 1, second, np.inf), kind="stable")
        cheapest = np.where(reduced < room, self.cost, LARGEST_SUM).min(axis=1)[order]
        dearest = np.where(reduced < room, self.cost, -1).max(axis=1)[order]
        still_least = np.concatenate([np.cumsum(cheapest[::-1])[::-1], [0]])
        still_most = np.concatenate([np.cumsum(dearest[::-1])[::-1], [0]])
        costs, losses = np.zeros(1, np.int64), np.zeros(1)
        for place, g in enumerate(order):
            levels = np.flatnonzero(reduced[g] < room)
            if len(costs) * len(levels) > STATES:
                return -math.inf
            costs = (costs[:, None] + self.cost[g, levels]).ravel()
            losses = (losses[:, None] + reduced[g, levels]).ravel()
            unspent = np.maximum(self.budget - costs - still_most[place + 1], 0)
            held = (losses + price * unspent < room) & (costs + still_least[place + 1] <= self.budget)
            costs, losses = costs[held], losses[held]
            if not len(costs):
                return claim
            real = losses - price * costs  # what the levels lose, but for a constant
            by_cost = np.lexsort((real, costs))
            costs, losses, real = costs[by_cost], losses[by_cost], real[by_cost]
            better = real < np.minimum.accumulate(np.concatenate([[np.inf], real[:-1]]))
            costs, losses = costs[better], losses[better]
        found = relaxed + losses + price * (self.budget - costs)
        return float(min(claim, found.min(initial=np.inf)))

    def is_infeasible_by(self, ray: Any) -> bool:
        """Return whether the cheapest choice is over the budget (``ray`` plays no part: the costs are the proof)."""
        return self.n_groups > 0 and self.least_cost > self.budget

    def explain(self) -> str:
        """Return why nothing fits, and the nearest request that does."""
        return (
            f"the cheapest choice costs {self.least_cost}, the budget is {self.budget}; "
            f"nearest feasible request: budget={self.least_cost}"
        )

    def to_pulp(self) -> pulp.LpProblem:
        """Return the 0-1 program with variables ``y_g_j``."""
        import pulp

        model = pulp.LpProblem("multiple_choice_knapsack", pulp.LpMinimize)
        there = np.isfinite(self.loss)
        y = {(g, j): model.add_variable(f"y_{g}_{j}", 0, 1, pulp.LpBinary) for g, j in np.argwhere(there).tolist()}
        model.setObjective(pulp.LpAffineExpression([(v, float(self.loss[key])) for key, v in y.items()]))
        for g in range(self.n_groups):
            mine = [(y[g, j], 1) for j in np.flatnonzero(there[g]).tolist()]
            model.addConstraint(pulp.LpAffineExpression(mine) == 1, f"group_{g}")
        if y:
            unit = math.gcd(*(int(self.cost[key]) for key in y)) or 1
            spent = pulp.LpAffineExpression([(v, int(self.cost[key]) // unit) for key, v in y.items()])
            model.addConstraint(spent <= self.budget // unit, "budget")
        return model

    def read_pulp(self, model: pulp.LpProblem) -> Ints:
        """Return the chosen levels of a solved `to_pulp` model."""
        found = model.variablesDict()
        held = np.full(self.loss.shape, -1.0)
        for g, j in np.argwhere(np.isfinite(self.loss)).tolist():
            variable = found.get(f"y_{g}_{j}")
            held[g, j] = 0.0 if variable is None else variable.varValue or 0.0
        return held.argmax(axis=1).astype(np.int64) if held.size else np.zeros(0, np.int64)

    def _as_value(self, x: ArrayLike) -> Ints:
        v = np.asarray(x)
        if v.shape != (self.n_groups,) or (v.size and v.dtype.kind not in "iu"):
            raise ValueError(f"x: {v.dtype} of shape {v.shape} given, ({self.n_groups},) levels are needed")
        if np.any(v < 0) or np.any(v >= max(1, self.n_levels)):
            raise ValueError(f"x: level {v.min() if np.any(v < 0) else v.max()}, they go from 0 to {self.n_levels - 1}")
        return v.astype(np.int64)
