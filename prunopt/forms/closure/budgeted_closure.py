"""A closure whose requirements must stay within a budget: closure with one knapsack row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunopt.core.arrays import Bools
from prunopt.core.display import one_line
from prunopt.core.problem import Reduced
from prunopt.core.solution import CertificateError
from prunopt.core.validate import require
from prunopt.forms.closure._decimals import fraction
from prunopt.forms.closure.closure import Closure, exact_sum
from prunopt.forms.knapsack.multiple_choice_knapsack import MultipleChoiceKnapsack

if TYPE_CHECKING:
    import pulp

Decisions = tuple[tuple[int, bool], ...]


class Leaf(NamedTuple):
    """One part of a divided problem: decisions (item, chosen) in the order of branching, and what bounds the rest.

    ``penalty`` multiplies the budget row; ``multipliers``, in units of ``1 / denominator``, the rows x_h <= w_j between
    the undecided items and the requirements that decisions do not pay for, in the order of the edges.
    """

    decisions: Decisions
    penalty: Fraction
    multipliers: NDArray[np.int64]
    denominator: int


class OpenPart(NamedTuple):
    """What decisions leave open: the items (ascending), the closure of them, and what is already gained and spent."""

    items: NDArray[np.intp]
    closure: Closure
    inside: Bools
    profit: int
    cost: int


@one_line
@dataclass(frozen=True, eq=False)
class BudgetedClosure:
    r"""The most profitable closure whose requirements cost no more than a budget.

    .. math::
        \min_{x \in \{0,1\}^m} \; -u \sum_h a_h x_h
        \quad \text{s.t.} \quad x \text{ closed}, \quad v \sum_{j \text{ needed by } x} c_j \le B

    u and v are the closure's ``unit`` and ``cost_unit``: profits, costs and budget are all meant in the caller's
    numbers.

    The budget row breaks the total unimodularity of the closure: with it the problem is NP-hard (a knapsack is a
    closure without shared requirements). Lagrange's bound
    :math:`\max_{p \ge 0} \min_x u (p \sum c_j w_j - \sum a_h x_h - p B / v)` is the line between two neighbors on
    the path over all penalties. Profits are integers, so any bound may be rounded up to a multiple of u.

    Parameters
    ----------
    closure
        Items, requirements and unit; its own penalty plays no part. With ``arcs`` besides the forest it is a knapsack
        with precedence constraints, for integer programs.
    budget : int, float or Fraction
        Greatest total cost B >= 0 of the requirements, in the unit that the costs were given in. A float means the
        shortest decimal that reads back as it.
    """

    closure: Closure
    budget: Any

    def __post_init__(self) -> None:
        budget = fraction("budget", self.budget)
        require(budget >= 0, "budget", "be >= 0", self.budget, "choosing nothing costs 0")
        object.__setattr__(self, "budget", budget)

    @cached_property
    def objective_unit(self) -> float:
        """All profits: what gaps are relative to where that is less than 1."""
        return self.closure.objective_unit

    @property
    def forms(self) -> tuple[type, ...]:
        """What the problem can be reduced to: a knapsack, where no item shares anything or needs another item."""
        c = self.closure
        alone = not len(c.arcs) and bool(np.all(c.parent < 0)) and len(np.unique(c.indices)) == c.n_edges
        return (MultipleChoiceKnapsack,) if alone and c.n_items else ()

    def reduce(self, to: type | None = None) -> Reduced[Bools]:
        """Return a plain knapsack as a `MultipleChoiceKnapsack`: every item is left or taken."""
        fits = self.forms and (to is None or issubclass(MultipleChoiceKnapsack, to))
        require(fits, "to", "be MultipleChoiceKnapsack, for items that share nothing", to)
        c = self.closure
        gain = np.array([float(c.unit * int(a)) for a in c.profit])
        weight = np.zeros(c.n_items, np.int64)
        np.add.at(weight, np.repeat(np.arange(c.n_items), np.diff(c.indptr)), c.cost[c.indices])
        nothing = np.zeros(c.n_items, np.int64)
        form = MultipleChoiceKnapsack(
            np.c_[nothing, -gain], np.c_[nothing, weight], min(self.capacity, int(weight.sum()))
        )
        return Reduced(form, lambda x: np.asarray(x) == 1, slack=float(self.slack))

    @property
    def slack(self) -> Fraction:
        """How far the objective may lie above that of the numbers that were given."""
        return self.closure.slack

    @cached_property
    def capacity(self) -> int:
        """The budget as a number of the closure's whole units of cost, rounded down."""
        return int(self.budget // self._cost_unit)

    @property
    def _cost_unit(self) -> Fraction:
        return self.closure.cost_unit or self.closure.unit

    def cost(self, x: ArrayLike) -> Fraction:
        """Return the total cost of what the items in ``x`` need, in the unit of the budget."""
        return self._cost_unit * exact_sum(self.closure.cost[self.closure.covered(np.asarray(x))])

    def profit(self, x: ArrayLike) -> Fraction:
        """Return the total profit of the items in ``x``, in the caller's unit."""
        return self.closure.unit * exact_sum(self.closure.profit[np.asarray(x)])

    def objective(self, x: ArrayLike, /) -> float:
        """Return minus the profit of the chosen items."""
        self.closure.violation(x)  # checks the shape and type of x
        return float(-self.profit(x))

    def violation(self, x: ArrayLike, /) -> float:
        """Return the number of broken precedences, plus by how many whole units the cost is over the budget."""
        return self.closure.violation(x) + max(0.0, float(self.cost(x) / self._cost_unit - self.capacity))

    def bound(self, duals: Mapping[str, Any]) -> float:
        """Return the lower bound that the leaves of a branching tree prove.

        Parameters
        ----------
        duals
            ``"leaves"``: `Leaf` entries whose decisions divide all choices among them. The bound is the least of the
            leaves' Lagrangian bounds, each recomputed tree by tree.

        Raises
        ------
        CertificateError
            If the leaves leave a part of the problem out.
        """
        leaves: Sequence[Leaf] = duals.get("leaves", ())
        if not leaves:
            raise CertificateError("duals['leaves']: no leaf, so nothing is proven")
        _check_cover([leaf.decisions for leaf in leaves], 0)
        return min(self.leaf_bound(leaf) for leaf in leaves) - float(self.closure.slack)

    def leaf_bound(self, leaf: Leaf) -> float:
        """Return the Lagrangian lower bound of one leaf; infinite where its decisions allow no closure in budget."""
        rest = self.rest(leaf.decisions)
        if rest is None or rest.cost > self.capacity:
            return math.inf
        if leaf.penalty < 0:
            raise CertificateError(f"a leaf has the negative penalty {leaf.penalty}")
        penalized = replace(rest.closure, penalty=leaf.penalty)
        gain = -penalized.rational_bound({"requirements": leaf.multipliers, "denominator": leaf.denominator})
        unspent = Fraction(self.capacity - rest.cost) * leaf.penalty
        return float(-self.closure.unit * math.floor(gain + unspent + rest.profit))

    def rest(self, decisions: Decisions) -> OpenPart | None:
        """Return what ``decisions`` leave open; None where they contradict one another."""
        c = self.closure
        inside, outside = np.zeros(c.n_items, np.bool_), np.zeros(c.n_items, np.bool_)
        for item, chosen in decisions:
            if not chosen:
                outside[item] = True
                continue
            while item >= 0 and not inside[item]:
                inside[item] = True
                item = int(c.parent[item])
        for level in c._levels[1:]:
            outside[level] |= outside[c.parent[level]] & (c.parent[level] >= 0)
        if np.any(inside & outside):
            return None
        items = np.flatnonzero(~inside & ~outside)
        paid = c.covered(inside)
        part = c.part(items, np.flatnonzero(~paid), Fraction(0))
        return OpenPart(items, part, inside, exact_sum(c.profit[inside]), exact_sum(c.cost[paid]))

    def to_pulp(self) -> pulp.LpProblem:
        """Return the 0-1 program of the closure with the budget as one more row."""
        import pulp

        model = replace(self.closure, penalty=Fraction(0)).to_pulp()
        found = model.variablesDict()
        spent = pulp.LpAffineExpression([(found[f"w_{j}"], int(c)) for j, c in enumerate(self.closure.cost)])
        if len(self.closure.cost):
            model.addConstraint(spent <= self.capacity, "budget")
        return model

    def pulp_values(self, x: ArrayLike) -> dict[str, float]:
        """Return what the variables of the `to_pulp` model are at a closure: a start for an engine."""
        return self.closure.pulp_values(x)

    def read_pulp(self, model: pulp.LpProblem) -> Bools:
        """Return the items chosen by a solved `to_pulp` model."""
        return self.closure.read_pulp(model)


def _check_cover(paths: list[Decisions], depth: int) -> None:
    """Raise unless the decision paths are the leaves of one binary branching tree."""
    if len(paths) == 1 and len(paths[0]) == depth:
        return
    if any(len(path) <= depth for path in paths):
        raise CertificateError("duals['leaves']: two leaves overlap")
    item = paths[0][depth][0]
    if any(path[depth][0] != item for path in paths):
        raise CertificateError("duals['leaves']: the leaves of one branch divide different items")
    for chosen in (True, False):
        side = [path for path in paths if path[depth][1] == chosen]
        if not side:
            raise CertificateError(f"duals['leaves']: no leaf has item {item} {'in' if chosen else 'out'}")
        _check_cover(side, depth + 1)
