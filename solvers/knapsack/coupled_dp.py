"""Choices coupled on a forest, under one budget: dynamic programming over undominated states, a proven optimum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Floats, Ints
from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import whole_number
from prunopt.forms.knapsack.coupled_knapsack import CoupledKnapsack
from prunopt.solvers.knapsack._states import ROUNDING, undominated


class Front(NamedTuple):
    """Undominated states of a subtree: loss, cost, and the option chosen for each of its groups (a column each)."""

    lost: Floats
    used: Floats
    chosen: NDArray[np.int16]


class TooManyStatesError(Exception):
    """More states than allowed, or no time left."""


@dataclass(frozen=True)
class CoupledDp(Solver[CoupledKnapsack]):
    r"""Solve a `CoupledKnapsack` on a forest exactly; on other graphs, answer by its Lagrangian relaxation.

    From the leaves to the roots every group holds, for each of its options, the undominated pairs (loss, cost) of the
    groups below it. A pair is dropped when its own Lagrangian value and the least of everything else (the
    min-marginals of `CoupledKnapsack.messages`) exceed a threshold. The threshold starts just above the Lagrangian
    bound and is raised until an answer lies below it, at the latest at the best answer that the relaxation gave by
    itself.

    Parameters
    ----------
    max_states
        Most states held by one group; beyond, the best answer of the relaxation is returned, not proven optimal.

    References
    ----------
    .. [1] H. Kellerer, U. Pferschy, D. Pisinger, "Knapsack problems", Springer 2004, chapter 11.
    """

    name: ClassVar[str] = "coupled-dp"
    form: ClassVar[type] = CoupledKnapsack
    exact: ClassVar[bool] = False  # exact on forests only, which is a matter of the instance
    rank: ClassVar[int] = 10
    reference: ClassVar[str] = "Kellerer, Pferschy & Pisinger 2004"

    max_states: int = 2_000_000

    @classmethod
    def exact_on(cls, problem: Any) -> bool:
        """On forests, as are chains of layers."""
        return bool(problem.is_forest)

    def __post_init__(self) -> None:
        whole_number("max_states", self.max_states, low=1)

    def solve(self, problem: CoupledKnapsack, limits: Limits, seed: int) -> Solution[Any]:
        """Return the best choice found; OPTIMAL on a forest unless stopped."""
        run = Run(limits)
        if problem.is_infeasible_by(None):
            message = f"nearest feasible request: budget={problem.least_cost:.8g}"
            return Solution(Status.INFEASIBLE, None, solver=self.name, duals={"ray": np.zeros(1)}, message=message)
        multiplier, incumbent = relaxation(problem)
        lower = problem.bound({"multiplier": multiplier})
        stats: dict[str, Any] = {"lagrangian bound": lower}
        if incumbent is None:
            message = "the relaxation found no answer within the budget; solve it with pulp"
            return Solution(Status.FAILED, None, solver=self.name, stats=stats, message=message)
        best = problem.objective(incumbent)
        run.report(best, lower)
        value, why = incumbent, ""
        proven = best <= lower + limits.gap * max(1.0, abs(best))
        if not proven and problem.is_forest:
            try:
                value, proven = self._exact(problem, multiplier, lower, best, run), True
            except TooManyStatesError as stop:
                why = str(stop)
        elif not proven:
            why = "the graph has circles: the relaxation's answer and its bound; pulp proves more"
        objective = problem.objective(value)
        bound = objective if proven else lower
        run.report(objective, bound)
        duals = {"multiplier": multiplier, "claim": objective} if proven else {"multiplier": multiplier}
        status = Status.OPTIMAL if proven else Status.FEASIBLE
        return Solution(status, value, objective, bound, duals, run.trace, stats, self.name, why)

    def _exact(self, problem: CoupledKnapsack, multiplier: float, lower: float, best: float, run: Run) -> Ints:
        above = max((best - lower) / 256, 1e-12 * max(1.0, abs(best)))
        while True:
            most = min(lower + above, best)
            found = self._below(problem, multiplier, most, run)
            if found is not None:
                return found
            if most >= best:
                raise TooManyStatesError("rounding hid the relaxation's own answer")
            above *= 4

    def _below(self, problem: CoupledKnapsack, multiplier: float, most: float, run: Run) -> Ints | None:
        """The best answer that loses at most ``most``, or None where there is none."""
        order, parent, edge = problem.rooted
        inner, outer = problem.messages(multiplier)
        scale = abs(most) + multiplier * problem.budget
        ceiling = most + multiplier * problem.budget + ROUNDING * max(scale, 1e-300)
        purse = problem.budget * (1 + ROUNDING)
        fronts: list[dict[int, Front]] = [{} for _ in order]
        members: list[list[int]] = [[i] for i in range(problem.n_groups)]
        for i, k in np.argwhere(np.isfinite(problem.loss)).tolist():
            if inner[i, k] + outer[i, k] <= ceiling:
                single = np.array([[k]], np.int16)
                fronts[i][k] = Front(problem.loss[i, k : k + 1], problem.cost[i, k : k + 1], single)
        told = inner.copy()  # what the children not yet merged may add, by option
        told -= np.where(np.isfinite(problem.loss), problem.loss + multiplier * problem.cost, 0.0)
        roots: Front | None = None
        root_members: list[int] = []
        rest_of_roots = math.fsum(inner[i].min() for i in order if parent[i] < 0)
        for i in reversed(order):
            if run.out_of_time:
                raise TooManyStatesError("stopped by its limits")
            p = parent[i]
            if p >= 0:
                table = problem.pair(edge[i], p)
                message = (multiplier * table + inner[i][None, :]).min(axis=1)
                told[p] -= np.where(np.isfinite(problem.loss[p]), message, 0.0)
                for a in list(fronts[p]):
                    room = ceiling - outer[p, a] - told[p, a]
                    below = self._joined(
                        fronts[i], table[a], multiplier, ceiling - outer[p, a] - inner[p, a] + message[a]
                    )
                    merged = self._sum(fronts[p][a], below, multiplier, room, purse, run) if below else None
                    if merged is None:
                        del fronts[p][a]
                    else:
                        fronts[p][a] = merged
                members[p] = members[p] + members[i]
                fronts[i] = {}
            else:
                rest_of_roots -= inner[i].min()
                whole = self._joined(fronts[i], np.zeros(problem.loss.shape[1]), multiplier, math.inf)
                if whole is None:
                    return None
                done = roots is None
                roots = (
                    whole if roots is None else self._sum(roots, whole, multiplier, ceiling - rest_of_roots, purse, run)
                )
                root_members = members[i] if done else root_members + members[i]
                if roots is None:
                    return None
        if roots is None:
            return np.zeros(0, np.int64)
        value = np.zeros(problem.n_groups, np.int64)
        for at in np.argsort(roots.lost, kind="stable"):
            value[root_members] = roots.chosen[at]
            if problem.used(value) <= problem.budget:
                return value if roots.lost[at] <= most + ROUNDING * max(1.0, scale) else None
        return None

    def _joined(self, fronts: dict[int, Front], extra: Floats, multiplier: float, room: float) -> Front | None:
        """All options of a subtree together, each with its extra cost."""
        if not fronts:
            return None
        lost = np.concatenate([f.lost for f in fronts.values()])
        used = np.concatenate([f.used + extra[b] for b, f in fronts.items()])
        at = np.flatnonzero(lost + multiplier * used <= room)
        at = at[undominated(lost[at], used[None, at])]
        chosen = np.concatenate([f.chosen for f in fronts.values()])
        return Front(lost[at], used[at], chosen[at]) if len(at) else None

    def _sum(self, first: Front, second: Front, multiplier: float, room: float, purse: float, run: Run) -> Front | None:
        """Every pair of states of two subtrees that fits."""
        value_1, value_2 = first.lost + multiplier * first.used, second.lost + multiplier * second.used
        order = np.argsort(value_2, kind="stable")
        counts = np.searchsorted(value_2[order], room - value_1, side="right")
        total = int(counts.sum())
        run.evaluations += total
        if total > 16 * self.max_states or run.out_of_time:
            raise TooManyStatesError(f"more than {self.max_states} states, or out of time: not proven optimal")
        i = np.repeat(np.arange(len(counts)), counts)
        j = order[np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)]
        lost, used = first.lost[i] + second.lost[j], first.used[i] + second.used[j]
        at = np.flatnonzero(used <= purse)
        at = at[undominated(lost[at], used[None, at])]
        if len(at) > self.max_states:
            raise TooManyStatesError(f"more than {self.max_states} states: not proven optimal")
        if not len(at):
            return None
        return Front(lost[at], used[at], np.concatenate([first.chosen[i[at]], second.chosen[j[at]]], axis=1))


def relaxation(problem: CoupledKnapsack) -> tuple[float, Ints | None]:
    """Return the multiplier of the greatest Lagrangian bound, and the best answer met on the way to it."""
    if not problem.n_groups:
        return 0.0, np.zeros(0, np.int64)
    best: tuple[float, Ints] | None = None
    top: tuple[float, float] = (-math.inf, 0.0)

    def look(multiplier: float) -> bool:
        nonlocal best, top
        top = max(top, (problem.bound({"multiplier": multiplier}), -multiplier))
        value = minimiser(problem, multiplier)
        within = problem.used(value) <= problem.budget
        if within and (best is None or problem.objective(value) < best[0]):
            best = (problem.objective(value), value)
        return within

    if look(0.0):
        return 0.0, None if best is None else best[1]
    finite = problem.loss[np.isfinite(problem.loss)]
    span = float(finite.max() - finite.min()) * problem.n_groups
    high = max(span, 1e-12) / max(problem.budget, 1e-12)
    for _ in range(200):
        if look(high):
            break
        high *= 4
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        if look(middle):
            high = middle
        else:
            low = middle
        if high - low <= 1e-12 * high:
            break
    if best is None:
        cheapest = minimiser(problem, high * 1e12)
        if problem.used(cheapest) <= problem.budget:
            best = (problem.objective(cheapest), cheapest)
    return -top[1], None if best is None else best[1]


def minimiser(problem: CoupledKnapsack, multiplier: float) -> Ints:
    """Return the options of least loss + multiplier * cost on the spanning forest."""
    order, parent, edge = problem.rooted
    inner, _ = problem.messages(multiplier)
    value = np.zeros(problem.n_groups, np.int64)
    for i in order:
        row = inner[i]
        if parent[i] >= 0:
            row = row + multiplier * problem.pair(edge[i], parent[i])[value[parent[i]]]
        value[i] = int(np.argmin(row))
    return value
