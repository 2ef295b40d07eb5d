"""Lagrangian primal-dual methods for closures: dual prices of requirements, one dynamic program for each tree."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Bools, Ints
from prunopt.core.solution import Solution, Status, relative_gap
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import number, one_of
from prunopt.forms.closure.closure import Closure, exact_sum
from prunopt.solvers.closure import _dual_prices as kernel

RULES = ("blocks", "authors")
ROOMY = 2**52  # multipliers that add up to less are exact in floating point
LARGEST = 2**61  # multipliers that add up to less can be checked exactly
EDGES_PER_ITEM = 4  # a block has this many edges for each item, so that the regressions take about a third of the time
LEAST_BLOCKS = 8
PATIENCE = 200  # passes without a better bound or value after which rounding is what is left
UNLIMITED = 1000  # iterations, where no limit is given
WORTH_KEEPING = 0.05  # a better bound is copied when it closes this share of the gap


@dataclass(frozen=True)
class PrimalDual(Solver[Closure]):
    r"""Bound a `Closure` by splitting every requirement's scaled cost among the items that need it.

    With a multiplier b >= 0 on every x_h <= w_j the problem falls apart into trees, each solved by dynamic
    programming [1]_:

    .. math::
        \max_b \; -u \Bigl( \sum_{\text{trees}} \max_{y \text{ closed}} \sum_h \bigl(a_h - \sum_j b_{hj}\bigr) y_h
        + \sum_j \max\bigl(0, \sum_h b_{hj} - p c_j\bigr) \Bigr)

    Every b proves a bound and every iterate's trees are a closure, so both are valid whenever the method stops. A
    subgradient method crawls where the bound is not smooth. The default rule instead minimizes

    .. math::
        \tfrac12 \sum_h \omega_h t_h(b)^2, \qquad t(b) = \arg\min \bigl\{ \sum_h \omega_h
        (t_h - (a_h - \sum_j b_{hj}) / \omega_h)^2 : t_h \le t_{\mathrm{parent}(h)} \bigr\},
        \qquad \sum_h b_{hj} = p c_j,

    the dual of the closure with a quadratic term: smooth, and at its minimum the items with t_h > 0 are the least
    optimal closure for any weights omega > 0 [2]_. It is minimized by projected steps on one random block of
    requirements at a time, each followed by the regression t on all trees [3]_; on forests of real data some tens of
    passes over the edges close the gap completely, and then the answer is optimal and proven. Among the closures
    {t > s} of all levels s the best is taken, and improved by choosing each tree again with what the others have
    bought for free.

    Parameters
    ----------
    rule
        ``"blocks"``: the default. ``"authors"``: the projected subgradient method of [1]_ as published in code: start
        at b = 0, step (1 + m)(best primal - dual) / (\|g\|^2 (iteration + m)), projection on b >= 0, no improvement of
        the trees' closures. Requirements merged into one count once in \|g\|.
    base
        The m of the authors' step.
    relaxation
        Length of the block steps, in (0, 2); 1 is the inverse of the curvature.

    Notes
    -----
    ``limits.evaluations`` counts iterations: passes over all edges. Multipliers are integers with a denominator, which
    `Closure.exact_bound` takes. Memory is about 40 bytes per edge.

    References
    ----------
    .. [1] F. Nan, J. Wang, V. Saligrama, "Pruning Random Forests for Prediction on a Budget", NIPS 2016.
    .. [2] S. Jegelka, F. Bach, S. Sra, "Reflection methods for user-friendly submodular optimization", NIPS 2013.
    .. [3] A. Ene, H. L. Nguyen, "Random coordinate descent methods for minimizing decomposable submodular functions",
       ICML 2015.
    """

    name: ClassVar[str] = "primal-dual"
    form: ClassVar[type] = Closure
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 40
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Nan, Wang & Saligrama, NIPS 2016; Ene & Nguyen, ICML 2015"

    rule: str = "blocks"
    base: float = 500.0
    relaxation: float = 1.8

    def __post_init__(self) -> None:
        one_of("rule", self.rule, RULES)
        number("base", self.base, low=0.0)
        check_relaxation(self.relaxation)

    def solve(self, problem: Closure, limits: Limits, seed: int) -> Solution[Bools]:
        """Return the best closure found, with the best bound and its multipliers."""
        run = Run(limits)
        method: _Method
        if self.rule == "authors":
            method = _Subgradient(problem, self.base)
        else:
            method = _Blocks(problem, self.relaxation, np.random.default_rng(seed))
        why = ""
        try:
            method.start(run)
            why = iterate(method, run)
        except KeyboardInterrupt:
            why = "interrupted"
        duals = method.duals()
        bound, objective = problem.bound(duals), problem.objective(method.chosen)
        run.report(objective, bound)
        solved = relative_gap(objective, bound) <= limits.gap
        return Solution(
            Status.OPTIMAL if solved else Status.FEASIBLE,
            method.chosen,
            objective=objective,
            bound=bound,
            duals=duals,
            trace=run.trace,
            stats={"rule": self.rule, "iterations": run.evaluations, **method.stats},
            solver=self.name,
            message="" if solved else f"{why}: the best closure found so far, with a valid bound",
        )


class Iterative(Protocol):
    """A method that can be stopped anywhere."""

    patience: int | None  # idle iterations after which rounding is all that is left

    def advance(self, run: Run) -> bool:
        """Make one iteration and report; return whether anything became better."""


class _Method(Iterative, Protocol):
    chosen: Bools
    stats: dict[str, Any]

    def start(self, run: Run) -> None:
        """Report a first closure and bound."""

    def duals(self) -> dict[str, Any]:
        """Return the multipliers of the best bound."""


def iterate(method: Iterative, run: Run) -> str:
    """Advance until solved, out of time, or without progress; return why it stopped."""
    endless = run.limits.seconds is None and run.limits.evaluations is None
    idle = 0
    while not run.expired:
        if endless and run.evaluations >= UNLIMITED:
            return f"stopped after {UNLIMITED} iterations, as no limit was given"
        if method.patience is not None and idle >= method.patience:
            return f"stopped after {idle} iterations without progress"
        idle = 0 if method.advance(run) else idle + 1
        run.evaluations += 1
    return "stopped by its limits"


def check_relaxation(relaxation: float) -> None:
    """Raise ValueError unless 0 < relaxation < 2."""
    number("relaxation", relaxation, low=0.0, high=2.0, open_ends="()", mend="longer steps do not converge")


@dataclass(frozen=True)
class Units:
    """The units of ``unit / scale`` in which multipliers are integers, and their sums stay within 64 bits."""

    penalty: Fraction
    scale: int
    gains: int  # the sum of all positive profits, in these units
    ceiling: int  # the most that a requirement can be paid: nothing pays more than all gains
    rounded: bool  # whether scaled costs are rounded down, because no unit that divides them fits into 64 bits

    @classmethod
    def of(cls, profit: Ints, total_cost: int, n_requirements: int, penalty: Fraction, n_arcs: int = 0) -> Units:
        """Return fine units for a closure."""
        gains, size = exact_sum(np.maximum(profit, 0)), exact_sum(np.abs(profit))
        # No multiplier of an arc needs to be more than all gains, so that arcs take their part of the room.
        whole = size + int(penalty * total_cost) + 2 * n_arcs * gains + 1
        rounded = whole * penalty.denominator >= LARGEST
        unit, capped = (1, whole >= ROOMY) if rounded else (penalty.denominator, False)
        if capped:  # penalties far above all gains; cut down, no sum of them is beyond 64 bits
            whole = size + 1
        scale = unit << max((ROOMY // (whole * unit)).bit_length() - 1, 0)
        ceiling = min(gains * scale, 2 * LARGEST // (n_requirements + 1)) if capped else gains * scale
        return cls(penalty, scale, gains * scale, ceiling, rounded)

    def capacity(self, cost: Ints) -> Ints:
        """Return costs times the penalty; where no product fits into 64 bits, up to a few units less."""
        factor = self.penalty * self.scale
        if exact_sum(cost) * factor.numerator < 2 * LARGEST and factor.denominator < LARGEST:
            return np.minimum(cost * factor.numerator // factor.denominator, self.ceiling)
        wide = np.longdouble
        below = wide(factor.numerator) / wide(factor.denominator) * (1 - 8 * np.finfo(wide).eps)
        return np.asarray(np.minimum(np.floor(cost * below), wide(self.ceiling)), np.int64)

    def objective(self, profit: int, unit: Fraction) -> float:
        """Return the objective of a profit given in these units."""
        return float(-unit * Fraction(profit, self.scale))


def _units(problem: Closure) -> Units:
    total = exact_sum(problem.cost)
    return Units.of(problem.profit, total, problem.n_requirements, problem.penalty, len(problem.arcs))


def block_ends(offsets: Ints, n_items: int) -> Ints:
    """Return the requirements at which blocks of about equally many edges begin, and the end of the last."""
    n_requirements = len(offsets) - 1
    count = max(int(offsets[-1]) // (EDGES_PER_ITEM * max(n_items, 1)), min(LEAST_BLOCKS, n_requirements), 1)
    inner = np.searchsorted(offsets, np.linspace(0, int(offsets[-1]), count + 1)[1:-1])
    return np.unique(np.concatenate([[0], inner, [n_requirements]])).astype(np.int64)


def bound_of(forest: kernel.Forest) -> int:
    """Return the most profit that the present shares allow (no requirement is paid more than its scaled cost)."""
    return int(kernel.best_profit(forest.parent, forest.supply - forest.spent))


def ranked(forest: kernel.Forest) -> tuple[NDArray[np.int32], Ints]:
    """Return each item's rank by level, highest first, equal levels alike, and the total profit at each rank."""
    _, rank = np.unique(-forest.level, return_inverse=True)
    profit = np.zeros(int(rank.max(initial=-1)) + 1, np.int64)
    np.add.at(profit, rank, forest.supply)
    return rank.astype(np.int32), profit


def best_level(rank: NDArray[np.int32], profit: Ints, cost: Ints) -> tuple[Bools, int]:
    """Return the most profitable of the sets of items up to a rank, and its profit; at worst the empty set."""
    total = np.cumsum(profit - cost)
    if not len(total) or total.max() <= 0:
        return np.zeros(len(rank), np.bool_), 0
    best = int(total.argmax())
    return rank <= best, int(total[best])


class _Blocks:
    """Descent of the smoothed dual, one block of requirements after another."""

    patience: int | None = PATIENCE

    def __init__(self, problem: Closure, relaxation: float, rng: np.random.Generator) -> None:
        self.problem, self.relaxation, self.rng = problem, relaxation, rng
        self.chosen = np.zeros(problem.n_items, np.bool_)
        self.stats: dict[str, Any] = {}
        self.profit = 0
        self.ready = False

    def start(self, run: Run) -> None:
        """Split all scaled costs equally."""
        run.report(0.0)
        p = self.problem
        self.units = _units(p)
        self.supply, self.scaled = p.profit * self.units.scale, self.units.capacity(p.cost)
        self.place = self.rng.permutation(p.n_requirements)
        offsets, items = kernel.by_requirement(p.indptr, p.indices, self.place)
        capacity = np.empty_like(self.scaled)
        capacity[self.place] = self.scaled
        self.needs = kernel.Needs(offsets, items, capacity, np.zeros(p.n_edges, np.int64))
        self.priced = kernel.Priced(p.parent, self.supply, p.indptr, p.indices, self.scaled, p.arcs)
        self.arc_shares = np.zeros(len(p.arcs), np.int64)
        degree = np.bincount(p.arcs.ravel(), minlength=p.n_items).astype(np.float64)
        self.forest = kernel.forest_of(p.parent, self.supply, degree)
        kernel.adopt(self.needs, self.forest.spent, degree)
        np.maximum(degree, 1.0, out=degree)
        self.ends = block_ends(offsets, p.n_items)
        self.arc_ends = np.linspace(0, len(p.arcs), min(LEAST_BLOCKS, len(p.arcs)) + 1).astype(np.int64)
        widest = int(np.diff(offsets).max(initial=0))
        self.step, self.move, self.buffer = np.zeros(p.n_items), np.zeros(p.n_items), np.zeros(widest)
        self.users = np.zeros(p.n_requirements, np.int32)
        self.seen = self.chosen
        self.kept: tuple[int, Ints, Ints] | None = None
        self.trees = _trees(p.parent)
        self.stats = {"blocks": len(self.ends) - 1, "rounded costs": self.units.rounded}
        self.ready = True
        self._look(run)

    def advance(self, run: Run) -> bool:
        """Pass over all blocks in random order."""
        n_blocks = len(self.ends) - 1
        for k in self.rng.permutation(n_blocks + len(self.arc_ends) - 1):
            if run.out_of_time:
                break
            kernel.regress(self.forest)
            if k < n_blocks:
                first, last = self.ends[k], self.ends[k + 1]
                space = (self.step, self.move, self.buffer)
                kernel.redistribute(self.forest, self.needs, first, last, self.relaxation, *space)
            else:
                part = slice(self.arc_ends[k - n_blocks], self.arc_ends[k - n_blocks + 1])
                arcs = (self.problem.arcs[part], self.arc_shares[part], self.units.gains, self.relaxation)
                kernel.shift_along_arcs(self.forest, *arcs, self.step)
        return self._look(run)

    def _look(self, run: Run) -> bool:
        """Report what the present shares prove and suggest; return whether either is better than before."""
        bound, before = bound_of(self.forest), self.profit
        kernel.regress(self.forest)
        rank, profit = ranked(self.forest)
        cost = np.zeros_like(profit)
        kernel.add_costs_by_rank(self.needs, rank, cost)
        self._try(best_level(rank, profit, cost)[0], run)
        if len(self.problem.arcs):
            self._try(self.forest.level > 0, run)
        if self.profit > before:
            run.report(self.units.objective(self.profit, self.problem.unit))
        last = None if self.kept is None else self.kept[0]
        if last is None or bound <= self.profit or last - bound > WORTH_KEEPING * (last - self.profit):
            self._keep(bound)
            run.report(bound=self.units.objective(bound, self.problem.unit))
        return self.profit > before or last is None or bound < last

    def _try(self, chosen: Bools, run: Run) -> None:
        """Improve a set of items tree by tree, and keep it if it is the best so far."""
        p = self.problem
        if len(p.arcs):
            kernel.drop_unmet(p.parent, p.arcs, chosen)
        if np.array_equal(chosen, self.seen):
            return
        self.seen = chosen.copy()
        profit = int(kernel.profit_of(self.priced, chosen, self.users))
        if not len(p.arcs):
            value, wanted = np.zeros(p.n_items, np.int64), np.zeros(p.n_items, np.bool_)
            gain = 1
            while gain > 0 and not run.out_of_time:
                gain = int(kernel.best_responses(*self.trees, self.priced, chosen, self.users, value, wanted))
                profit += gain
        if self.units.rounded:
            profit = floor(-p.exact_objective(chosen) / p.unit * self.units.scale)
        if profit > self.profit:
            self.chosen, self.profit = chosen, profit

    def _keep(self, bound: int) -> None:
        if self.kept is None:
            self.kept = (bound, self.needs.shares.copy(), self.arc_shares.copy())
            return
        np.copyto(self.kept[1], self.needs.shares)
        np.copyto(self.kept[2], self.arc_shares)
        self.kept = (bound, *self.kept[1:])

    def duals(self) -> dict[str, Any]:
        """Return the multipliers, in the order of the problem's edges."""
        p = self.problem
        out = np.zeros(p.n_edges, np.int64)
        if not self.ready:
            return {"requirements": out, "arcs": np.zeros(len(p.arcs), np.int64), "denominator": p.penalty.denominator}
        shares, arc_shares = self.needs.shares, self.arc_shares
        if self.kept is not None and self.kept[0] < bound_of(self.forest):
            _, shares, arc_shares = self.kept
        kernel.by_item(p.indices, self.place, self.needs.offsets, shares, out)
        return {"requirements": out, "arcs": arc_shares.copy(), "denominator": self.units.scale}


def _trees(parent: NDArray[np.int32]) -> tuple[Ints, Ints]:
    """Return the items by tree: where each tree ends, and the items, ascending within a tree."""
    root = np.where(parent >= 0, parent, np.arange(len(parent)))
    while not np.array_equal(above := root[root], root):
        root = above
    members = np.argsort(root, kind="stable").astype(np.int64)
    sizes = np.bincount(root, minlength=len(parent))[parent < 0]
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), members


class _Subgradient:
    """The authors' projected subgradient method."""

    patience: int | None = None

    def __init__(self, problem: Closure, base: float) -> None:
        self.problem, self.base = problem, base
        self.chosen = np.zeros(problem.n_items, np.bool_)
        self.beta, self.gamma = np.zeros(problem.n_edges), np.zeros(len(problem.arcs))
        self.best = (self.beta.copy(), self.gamma.copy())
        self.stats: dict[str, Any] = {"step base": base}
        self.bound = self.dual = np.inf
        self.profit, self.norm = -np.inf, 0.0
        m, w = problem.n_items, problem.n_requirements
        gain, scaled = problem.profit.astype(np.float64), np.asarray(problem.cost * float(problem.penalty), np.float64)
        self.priced = kernel.Priced(problem.parent, gain, problem.indptr, problem.indices, scaled, problem.arcs)
        self.relaxed = kernel.Relaxed(np.zeros(m, np.bool_), np.zeros(w), np.zeros(w, np.bool_), np.zeros(m))

    def start(self, run: Run) -> None:
        """Evaluate the trees at multipliers 0."""
        run.report(0.0)
        self._evaluate(run)

    def advance(self, run: Run) -> bool:
        """Step along the subgradient at the present multipliers, and evaluate the new ones."""
        if self.norm > 0:
            iteration = run.evaluations + 1
            eta = (1 + self.base) * (self.dual - self.profit) / (self.norm * (iteration + self.base))
            kernel.subgradient_step(self.priced, self.relaxed, eta, self.beta, self.gamma)
        return self._evaluate(run)

    def _evaluate(self, run: Run) -> bool:
        p, before = self.problem, (self.bound, self.profit)
        self.dual, value, self.norm = kernel.lagrangian(self.priced, self.beta, self.gamma, self.relaxed)
        chosen = self.relaxed.chosen.copy()
        if len(p.arcs):
            kernel.drop_unmet(p.parent, p.arcs, chosen)
            value = -float(p.exact_objective(chosen) / p.unit)
        if value > self.profit:
            if value > max(self.profit, 0.0):
                self.chosen = chosen
            self.profit = value
        if self.dual < self.bound:
            np.copyto(self.best[0], self.beta)
            np.copyto(self.best[1], self.gamma)
            self.bound = self.dual
        unit = float(p.unit)
        run.report(-unit * max(self.profit, 0.0), -unit * self.bound)
        return (self.bound, -self.profit) < (before[0], -before[1])

    def duals(self) -> dict[str, Any]:
        """Return the multipliers of the best bound, rounded down to integers."""
        scale = _units(self.problem).scale
        edge, arc = (np.floor(np.minimum(b * scale, 2.0**62)).astype(np.int64) for b in self.best)
        return {"requirements": edge, "arcs": arc, "denominator": scale}
