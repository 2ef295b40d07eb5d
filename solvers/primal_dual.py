"""Dual prices for features: the primal-dual algorithm of the budget-pruning paper, and a faster way to its bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.closure import Closure, exact_sum
from prunopt.solvers.kernels import closure_repair, dual_prices

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
RULES = ("deflected", "authors")
DEFAULT_ITERATIONS = 5_000
IMPROVE_EVERY = 10  # iterations between two searches for a better closure


@dataclass(frozen=True)
class PrimalDual(Solver[Closure]):
    r"""Solve a `Closure` by dual prices: what item h pays towards requirement j is :math:`\beta_{hj} \ge 0`.

    .. math::
        q(\beta) = \sum_{\text{trees}} \max_{y \text{ closed}} \sum_h \Bigl(a_h - \sum_j \beta_{hj}\Bigr) y_h
        + \sum_j \max\Bigl(0, \sum_h \beta_{hj} - p c_j\Bigr)

    bounds the profit of every closure. Each iteration lets every tree answer the prices by a dynamic program, and moves
    the prices along a subgradient, [h chosen] - [j overpaid]. The trees' answers are closures; the best is kept. The
    bound is valid whenever the algorithm stops.

    Parameters
    ----------
    rule
        ``"authors"``: the paper's released code, prices from 0, step
        :math:`(1 + M)(q - \text{best}) / (|g|^2 (k + M))`, answers as they are. ``"deflected"`` (default): prices from
        equal shares of every cost, steps of Polyak's length along subgradients deflected by the direction before,
        halved when the bound stalls, and answers improved by dropping and adding parts of trees.
    offset
        The M of the authors' rule.
    deflection
        Share of the direction before that is kept.

    References
    ----------
    F. Nan, J. Wang, V. Saligrama, "Pruning Random Forests for Prediction on a Budget", NIPS 2016; P. Camerini, L.
    Fratta, F. Maffioli, "On improving relaxation methods by modified gradient techniques", Math. Prog. Study 3 (1975).
    """

    name: ClassVar[str] = "primal-dual"
    form: ClassVar[type] = Closure
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 40
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Nan, Wang & Saligrama, NIPS 2016"

    rule: str = "deflected"
    offset: float = 500.0
    deflection: float = 0.7

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule={self.rule!r}: give one of {', '.join(RULES)}")
        if not self.offset > 0:
            raise ValueError(f"offset={self.offset!r}: give a number > 0")
        if not 0 <= self.deflection < 1:
            raise ValueError(f"deflection={self.deflection!r}: give a share in [0, 1)")

    def solve(self, problem: Closure, limits: Limits, seed: int) -> Solution[Bools]:
        """Return the best closure seen and the best bound; without limits it stops after 5,000 iterations."""
        run = Run(limits)
        search = _Prices(problem, self)
        most = DEFAULT_ITERATIONS if limits.evaluations is None and limits.seconds is None else math.inf
        stopped = ""
        try:
            while True:
                run.evaluations = search.iterations
                run.report(search.objective, search.bound)
                if run.expired or search.iterations >= most:
                    break
                search.iterate()
        except KeyboardInterrupt:
            stopped = "interrupted"
        duals = search.duals()
        bound = problem.bound(duals)
        gap_closed = run.gap <= limits.gap
        if not gap_closed:
            stopped = (
                f"{stopped or 'stopped'} after {search.iterations} iterations; the bound is valid, the gap is open"
            )
        return Solution(
            Status.OPTIMAL if gap_closed else Status.FEASIBLE,
            search.best,
            objective=problem.objective(search.best),
            bound=bound,
            duals=duals,
            trace=run.trace,
            stats={"iterations": search.iterations, "rule": self.rule},
            solver=self.name,
            message=stopped,
        )


class _Prices:
    """The state of one solve; profits and costs as floats in the closure's own units, the costs times the price."""

    def __init__(self, problem: Closure, options: PrimalDual) -> None:
        self.problem, self.options = problem, options
        self.supply = problem.profit.astype(np.float64)
        self.capacity = problem.cost * float(problem.price)
        self.unit = float(problem.unit)
        self.price, self.arcs = np.zeros(problem.n_edges), np.zeros(len(problem.arcs))
        self.direction = np.zeros(problem.n_edges, np.float32)
        self.value, self.paid = np.zeros(problem.n_items), np.zeros(problem.n_requirements)
        self.chosen = np.zeros(problem.n_items, np.bool_)
        self.users = np.zeros(problem.n_requirements, np.int32)
        self.best, self.profit = np.zeros(problem.n_items, np.bool_), 0.0
        self.dual, self.best_price, self.best_arcs = math.inf, self.price.copy(), self.arcs.copy()
        self.iterations, self.stalled, self.damping = 0, 0, 1.0
        starts = np.flatnonzero(problem.parent < 0)
        self.roots = np.append(starts, problem.n_items)
        tree = np.searchsorted(starts, np.arange(problem.n_items), side="right")
        linked = problem.parent >= 0
        self.runs = bool(np.all(tree[linked] == tree[problem.parent[linked]]))
        if options.rule == "deflected":
            dual_prices.equal_shares(problem.indices, self.capacity, self.price)
        self._respond()

    @property
    def objective(self) -> float:
        return -self.profit * self.unit

    @property
    def bound(self) -> float:
        return -self.dual * self.unit

    def iterate(self) -> None:
        """Move the prices and let the trees answer."""
        self.iterations += 1
        p, columns = self.problem, (self.problem.indptr, self.problem.indices)
        gap = max(self.current - self.profit, 0.0)
        arc_step: Floats = np.zeros(len(self.arcs))
        if len(self.arcs):
            arc_step = self.chosen[p.arcs[:, 0]].astype(np.float64) - self.chosen[p.arcs[:, 1]]
        if self.options.rule == "authors":
            square = self.square + float(arc_step @ arc_step)
            if square == 0:
                return
            offset = self.options.offset
            step = (1 + offset) * gap / (square * (self.iterations + offset))
            dual_prices.subgradient_step(*columns, self.capacity, self.paid, self.chosen, step, self.price)
        else:
            keep = self.options.deflection
            state = (self.paid, self.chosen, keep, gap, self.damping, self.price, self.direction)
            square = dual_prices.deflected_step(*columns, self.capacity, *state)
            step = self.damping * gap / max(square, 1.0)
        self.arcs = np.maximum(0.0, self.arcs + step * arc_step)
        self._respond()

    def _respond(self) -> None:
        p = self.problem
        supply = self.supply
        if len(self.arcs):
            supply = supply.copy()
            np.subtract.at(supply, p.arcs[:, 0], self.arcs)
            np.add.at(supply, p.arcs[:, 1], self.arcs)
        state = (self.price, self.value, self.paid, self.chosen)
        self.current, self.square = dual_prices.respond(p.parent, p.indptr, p.indices, supply, self.capacity, *state)
        if self.current < self.dual - 1e-9 * abs(self.dual) or math.isinf(self.dual):
            self.stalled = 0
        else:
            self.stalled += 1
        if self.current < self.dual:
            self.dual = self.current
            self.best_price[:] = self.price
            self.best_arcs = self.arcs.copy()
        elif self.stalled >= 20 and self.options.rule == "deflected":
            # The step is too long for where the prices are: go back to the best ones with half of it.
            self.stalled, self.damping = 0, max(self.damping / 2, 1e-4)
            self.price[:] = self.best_price
            self.direction[:] = 0
        self._offer()

    def _offer(self) -> None:
        """Keep the trees' answer if it is the best closure so far, improved first every few iterations."""
        p, chosen = self.problem, self.chosen
        if len(p.arcs) and p.violation(chosen) > 0:
            return
        columns = (p.indptr, p.indices)
        improve = self.options.rule == "deflected" and self.runs and not len(p.arcs)
        if improve and self.iterations % IMPROVE_EVERY == 0:
            chosen = self._improved(chosen)
        profit = dual_prices.profit_of(*columns, self.supply, self.capacity, chosen, self.users)
        if profit > self.profit:
            self.profit, self.best = profit, chosen.copy()

    def _improved(self, chosen: Bools) -> Bools:
        """Drop what is worth less than it alone uses, add what is worth more than it newly needs, to a fixpoint."""
        p = self.problem
        current, price = chosen.copy(), float(p.price)
        arrays = (self.roots, p.parent, p.profit, p.indptr, p.indices, p.cost)
        nobody = np.zeros(p.n_items, np.bool_)
        endless = exact_sum(p.cost) + 1
        closure_repair.count_users(p.indptr, p.indices, current, self.users)
        for _ in range(10):
            before = current.copy()
            closure_repair.drop_by_price(*arrays, nobody, current, self.users, endless, -1, price)
            closure_repair.add_by_price(*arrays, nobody, current, self.users, 0, endless, price)
            if np.array_equal(before, current):
                break
        return current

    def duals(self) -> dict[str, Any]:
        """The best prices as integers, in a unit fine enough for the range of 62 bits."""
        p = self.problem
        total = float(
            np.abs(self.supply).sum() + self.best_price.sum() + 2 * self.best_arcs.sum() + self.capacity.sum()
        )
        room = max(int(2**60 / max(total, 1.0)), 1)
        denominator = max(room // p.price.denominator, 1) * p.price.denominator
        return {
            "requirements": np.floor(self.best_price * denominator).astype(np.int64),
            "arcs": np.floor(self.best_arcs * denominator).astype(np.int64),
            "denominator": denominator,
        }
