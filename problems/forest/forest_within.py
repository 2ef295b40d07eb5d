"""Pruning a forest to a hard budget: the least error among all prunings whose expected cost is within it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Bools
from prunopt.core.problem import Reduced
from prunopt.core.validate import number, require
from prunopt.forms.closure.budgeted_closure import BudgetedClosure
from prunopt.problems.forest.forest_budget import ForestBudget, PathClosure


@dataclass(frozen=True, eq=False)
class ForestWithin:
    r"""Prune a forest so that its trees err least, within a budget of expected cost.

    .. math:: \min_{\text{prunings}} \; \text{mean error of the trees} \quad \text{s.t.} \quad
        \text{mean cost of a row} \le B

    Unlike `ForestBudget` with its penalty, this is NP-hard: the best pruning within a budget need not be optimal at any
    penalty. It reduces to a `BudgetedClosure`, whose solver proves how far its answer is from the best.

    Parameters
    ----------
    task
        The forest, its rows and its costs; the task's own penalty plays no part.
    budget
        Greatest mean cost B of a row, in the unit of the feature costs.
    """

    forms: ClassVar[tuple[type, ...]] = (BudgetedClosure,)

    task: ForestBudget
    budget: float

    def __post_init__(self) -> None:
        least = self.task.fixed_cost
        number("budget", self.budget, low=least, mend=f"keeping nothing costs {least:g}")

    def objective(self, kept: ArrayLike, /) -> float:
        """Return the mean error of the trees."""
        return self.task.error(kept)

    def violation(self, kept: ArrayLike, /) -> float:
        """Return the number of broken precedences, plus by how much the mean cost is over the budget.

        Mean costs are sums of rounded numbers: what rounding may add counts as within the budget.
        """
        over = self.task.cost(kept) - self.budget
        return self.task.violation(kept) + (over if over > 1.001 * self._rounding + self._open.cost_slack else 0.0)

    @property
    def _rounding(self) -> float:
        return 1e-12 * max(1.0, self.budget) + self._open.cost_slack

    def reduce(self, to: type | None = None) -> Reduced[Bools]:
        """Return the task as a `BudgetedClosure`.

        Costs are held against a budget that is higher by what rounding may add: a lower one would shut out prunings
        that cost just the budget, and its bound would not hold for them.
        """
        require(to is None or issubclass(BudgetedClosure, to), "to", "be BudgetedClosure", to)
        closure, penalty_unit, error_slack, _ = self._open
        left = Fraction(repr(float(self.budget))) - Fraction(self.task.fixed_cost)
        within = left + Fraction(self._rounding)
        form = BudgetedClosure(replace(closure, cost_unit=closure.unit / penalty_unit), within)
        shift = self.task.error(np.zeros(closure.n_items, np.bool_))
        return Reduced(form, lambda x: x, shift=shift, slack=error_slack)

    @cached_property
    def _open(self) -> PathClosure:
        return self.task.path_closure()
