"""One level for each group, within a budget: the multiple-choice knapsack."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Ints
from prunopt.core.display import one_line
from prunopt.core.validate import Shown, floats, ints, refuse, require, whole_number
from prunopt.forms.knapsack._lagrangian import Choices, bound, multiplier_of

if TYPE_CHECKING:
    import pulp

LARGEST_SUM = 2**62  # sums of costs must stay within 64 bits


@one_line
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
        given = np.asarray(self.loss)
        real = given.dtype.kind in "fiu" and given.ndim == 2 and (given.size or not given.shape[0])
        require(real, "loss", "hold real numbers of shape (groups, levels)", Shown(f"{given.dtype} of {given.shape}"))
        loss = np.ascontiguousarray(floats("loss", given, finite=False))
        there = np.isfinite(loss)
        require(not np.isneginf(loss).any(), "loss", "be finite, or +infinity for a missing level", -math.inf)
        for g in np.flatnonzero(~there.any(axis=1)):
            refuse(f"loss[{g}]", "hold a finite number", Shown("missing levels only"), "give the group a level")
        cost = np.ascontiguousarray(
            ints("cost", self.cost, loss.shape, low=0, mend="scale and round the costs up, the budget down")
        )
        total = float(cost.max(axis=1).astype(np.float64).sum()) if cost.size else 0.0
        require(total <= LARGEST_SUM, "cost", "add up to 2^62 at most", total, "give larger units")
        budget = whole_number("budget", self.budget, low=0, mend="give it in the unit of the costs")
        object.__setattr__(self, "loss", loss)
        object.__setattr__(self, "cost", cost)
        object.__setattr__(self, "budget", min(budget, LARGEST_SUM))

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
        r"""Return the lower bound that a penalty, and a claim, prove.

        For every penalty :math:`\lambda \ge 0` of a unit of cost the Lagrangian bound is

        .. math:: L(\lambda) = \sum_g \min_j (\mathrm{loss}_{gj} + \lambda \, \mathrm{cost}_{gj})
                  - \lambda \, \mathrm{budget}

        A claim "no choice loses less than v" is checked by listing, group by group, the partial choices that could
        still end below v. If a choice below v remains, the bound is what it loses.

        Parameters
        ----------
        duals
            ``"penalty"``: :math:`\lambda \ge 0` (until the last release ``"price"``); ``"claim"``: v, optional.
        """
        penalty = multiplier_of(duals, "penalty", float(duals.get("price", math.nan)))
        choices = Choices(self.loss, (self.cost,), (self.budget,), self.objective_unit)
        return bound(choices, (penalty,), float(duals.get("claim", -math.inf))) if self.n_groups else 0.0

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
        return ints("x", x, (self.n_groups,), low=0, high=max(1, self.n_levels) - 1)
