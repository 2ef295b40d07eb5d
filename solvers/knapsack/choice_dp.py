"""The multiple-choice knapsack by dynamic programming over a growing core of groups."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from prunopt.core.arrays import Ints
from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import whole_number
from prunopt.forms.knapsack._lagrangian import NEAR, lattice
from prunopt.forms.knapsack.multiple_choice_knapsack import MultipleChoiceKnapsack
from prunopt.solvers.knapsack._level_exchange import exchanged
from prunopt.solvers.knapsack.choice_lagrange import ChoiceLagrange

FIRST = 20_000  # partial choices for one group before the number of groups gets a multiplier


@dataclass(frozen=True)
class ChoiceDp(Solver[MultipleChoiceKnapsack]):
    r"""Exact dynamic programming around the answer of the linear relaxation [1]_.

    At the penalty of the relaxation every choice loses the Lagrangian bound, plus the reduced losses of its levels,
    plus the penalty of what it leaves unspent. Starting from the levels that the relaxation takes, groups join one
    after another, those first whose second-best level has the least reduced loss; a partial choice (a cost and a
    reduced loss) goes as soon as it cannot beat the best choice known, or another one costs and loses no more. When no
    partial choice is left, the best one known is optimal. The answer's bound claims just that, and the form checks the
    claim by a list of its own (`MultipleChoiceKnapsack.bound`). Where partial choices are many, and groups have two
    levels, the choices are split by how many groups are above their cheapest level, and that number gets a penalty of
    its own [2]_: losses that are costs plus a constant need it.

    Parameters
    ----------
    states
        Partial choices that may be held for one group; beyond it the best choice so far is returned, with the
        Lagrangian bound.

    References
    ----------
    .. [1] D. Pisinger, "A minimal algorithm for the multiple-choice knapsack problem", EJOR 83 (1995).
    .. [2] S. Martello, P. Toth, "Upper bounds and algorithms for hard 0-1 knapsack problems", Oper. Res. 45 (1997).
    """

    name: ClassVar[str] = "choice-dp"
    form: ClassVar[type] = MultipleChoiceKnapsack
    exact: ClassVar[bool] = True
    rank: ClassVar[int] = 10
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Pisinger, EJOR 1995"

    states: int = 4_000_000

    def __post_init__(self) -> None:
        whole_number("states", self.states, low=1)

    @classmethod
    def why_not_on(cls, problem: MultipleChoiceKnapsack) -> str:
        """Refuse several budgets, and spans."""
        return "" if problem.is_plain else "one budget and no spans: pass choice-branch-and-bound"

    def solve(self, problem: MultipleChoiceKnapsack, limits: Limits, seed: int) -> Solution[Ints]:
        """Return the optimal choice; a limit returns the best one yet with the Lagrangian bound."""
        run = Run(limits)
        first = ChoiceLagrange().solve(problem, Limits(gap=limits.gap), seed)
        if first.status is Status.INFEASIBLE or not problem.n_groups:
            return Solution(
                first.status,
                first.value,
                first.objective,
                first.bound,
                solver=self.name,
                duals=first.duals,
                message=first.message,
            )
        if limits.start is not None and (given := problem.objective(limits.start)) < first.objective:
            first = replace(first, value=np.array(limits.start, np.int64), objective=given)
        first = replace(first, value=exchanged(problem, first.value))
        first = replace(first, objective=problem.objective(first.value))
        run.report(first.objective, first.bound)
        value, duals, note = first.value, dict(first.duals), ""
        stats: dict[str, Any] = {"groups joined": 0, "states": 0}
        if not run.solved:
            value, note = self._search(problem, first, run, stats, min(self.states, FIRST))
            if (note or stats["states"] > FIRST) and self.states > FIRST and not run.out_of_time:
                done = not note  # a list this long takes the form's check its time: a bound of its own may do instead
                first, duals = self._counted(problem, replace(first, value=value, objective=run.objective), run)
                value, note = first.value, ""
                if not run.solved and not done:
                    value, note = self._search(problem, first, run, stats, self.states)
            if not note and not run.solved:
                duals["claim"] = run.objective
        bound = problem.bound(duals)
        run.report(run.objective, bound)
        done = run.solved
        return Solution(
            Status.OPTIMAL if done else Status.FEASIBLE,
            value,
            objective=run.objective,
            bound=bound,
            duals=duals,
            trace=run.trace,
            stats=stats,
            solver=self.name,
            message=note or ("" if done else "the claim could not be checked within the form's memory"),
        )

    @staticmethod
    def _counted(
        problem: MultipleChoiceKnapsack, first: Solution[Any], run: Run
    ) -> tuple[Solution[Any], dict[str, Any]]:
        """Improve choice and bound of two levels a group by a multiplier of the groups above their cheapest level."""
        from prunopt.solvers.knapsack._count_split import split

        parts = split(problem)
        duals = dict(first.duals) | ({} if parts is None else parts.duals)
        if parts is None:
            return first, duals
        bound = problem.bound(duals)
        run.report(first.objective, bound)
        value = parts.improved(first.value, lambda change: run.out_of_time or first.objective + change <= bound)
        if problem.objective(value) < first.objective:
            first = replace(first, value=value, objective=problem.objective(value))
            run.report(first.objective, bound)
        return first, duals

    def _search(
        self, problem: MultipleChoiceKnapsack, first: Solution[Any], run: Run, stats: dict[str, Any], most: int
    ) -> tuple[Ints, str]:
        """Return the best choice, and why the search stopped early (empty where it did not)."""
        from prunopt.solvers.knapsack._choice_kernel import grow, slopes

        penalty, budget = float(first.duals["penalty"]), problem.budget
        penalized = problem.loss + penalty * problem.cost
        base = penalized.argmin(axis=1)
        groups = np.arange(problem.n_groups)
        reduced = penalized - penalized[groups, base][:, None]
        change = problem.cost - problem.cost[groups, base][:, None]
        relaxed = float(penalized.min(axis=1).sum()) - penalty * budget
        steps = lattice(problem.loss, problem.objective_unit)
        # By less than this no better choice differs from the best one.
        apart = 1e-12 * max(1.0, abs(first.objective)) if steps is None else (1 - NEAR) * steps.step
        room = first.objective - relaxed - apart
        useful = reduced < room
        second = np.partition(reduced, 1, axis=1)[:, 1] if problem.n_levels > 1 else np.full(len(groups), np.inf)
        order = np.argsort(second, kind="stable")
        order = order[useful[order].sum(axis=1) > 1]
        up, down = slopes(reduced, change, useful)
        least_up = np.append(np.minimum.accumulate(up[order][::-1])[::-1], np.inf)
        least_down = np.append(np.minimum.accumulate(down[order][::-1])[::-1], np.inf)

        spent, lost = np.array([problem.cost[groups, base].sum()]), np.zeros(1)
        history: list[tuple[int, Ints, Ints, Ints]] = []
        best: tuple[int, int] | None = None
        for place, g in enumerate(order):
            levels = np.flatnonzero(useful[g])
            if run.out_of_time:
                return self._trace_back(first.value, base, history, best), "out of time; the bound is the relaxation's"
            if len(spent) * len(levels) > most or (most < self.states and stats["states"] > 10 * most):
                note = f"over {most} partial choices; the bound is the relaxation's"
                return self._trace_back(first.value, base, history, best), note
            run.evaluations += 1
            spent, lost, parent, which = grow(
                spent,
                lost,
                change[g, levels],
                reduced[g, levels],
                budget,
                penalty,
                room,
                least_up[place + 1],
                least_down[place + 1],
            )
            history.append((int(g), levels, parent, which))
            stats["groups joined"], stats["states"] = place + 1, stats["states"] + len(spent)
            fits = np.flatnonzero(spent <= budget)
            if len(fits):
                ends = lost[fits] + penalty * (budget - spent[fits])
                if ends.min() < room:
                    best, room = (len(history) - 1, int(fits[ends.argmin()])), float(ends.min())
                    room -= 0.0 if steps is None else apart
                    value = self._trace_back(first.value, base, history, best)
                    run.report(problem.objective(value), first.bound)
            if not len(spent):
                break
        return self._trace_back(first.value, base, history, best), ""

    @staticmethod
    def _trace_back(
        known: Ints, base: Ints, history: list[tuple[int, Ints, Ints, Ints]], best: tuple[int, int] | None
    ) -> Ints:
        """The levels of the best partial choice: those it names, the relaxation's elsewhere."""
        if best is None:
            return known
        value = base.astype(np.int64)
        stage, state = best
        for group, levels, parent, which in reversed(history[: stage + 1]):
            value[group] = levels[which[state]]
            state = int(parent[state])
        return value
