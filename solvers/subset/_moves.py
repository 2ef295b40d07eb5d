"""What the solvers of `SubsetChoice` share: remembered losses, moves within the constraints, the answer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from prunopt.core.arrays import Bools, Floats
from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Run
from prunopt.forms.subset.subset_choice import SubsetChoice


class Tried:
    """The losses that have been looked at, each once; `run.evaluations` counts them."""

    def __init__(self, problem: SubsetChoice, run: Run) -> None:
        self.problem, self.run = problem, run
        self.losses: dict[bytes, float] = {}
        self.best: Bools | None = None
        self.least = math.inf

    def __call__(self, kept: Bools) -> float:
        """Return the loss of a subset, feasible or not; NaN counts as infinite."""
        key = kept.tobytes()
        if key not in self.losses:
            value = self.problem.objective(kept)
            self.losses[key] = math.inf if math.isnan(value) else value
            self.run.evaluations += 1
        value = self.losses[key]
        if value < self.least and self.problem.violation(kept) == 0:
            self.best, self.least = kept.copy(), value
            self.run.report(value)
        return value

    def masks(self) -> tuple[Bools, Floats]:
        """Return all subsets looked at, and their losses."""
        masks = np.array([np.frombuffer(key, np.bool_) for key in self.losses])
        return masks, np.array(list(self.losses.values()))


def too_many(problem: SubsetChoice, kept: Bools) -> bool:
    """Whether items have to go: over the budget, or more than the number asked for."""
    over = float(problem.costs[kept].sum()) > problem.limit
    return over or (problem.exactly is not None and int(kept.sum()) > problem.exactly)


def removable(problem: SubsetChoice, kept: Bools) -> list[int]:
    """Return the items that may go without leaving a set empty, the last first: losses share what comes before."""
    locked = {int(s[kept[s]][0]) for s in problem.sets if kept[s].sum() == 1}
    return [int(i) for i in np.flatnonzero(kept)[::-1] if i not in locked]


def without(kept: Bools, items: int | Iterable[int]) -> Bools:
    """Return a subset less some items."""
    out = kept.copy()
    out[items if isinstance(items, int) else list(items)] = False
    return out


def rate(problem: SubsetChoice, change: float, item: int) -> float:
    """Return what a removal costs for what it saves: per unit of cost, where it costs anything at all."""
    return change / max(float(problem.costs[item]), 1e-300) if change > 0 else change


def cheaper_within_sets(problem: SubsetChoice, kept: Bools) -> Bools:
    """Exchange items for cheaper ones of their sets until the budget is met; every subset without spare items can."""
    out = kept.copy()
    while too_many(problem, out):
        moves = [
            (float(problem.costs[i] - problem.costs[j]), int(i), int(j))
            for i in np.flatnonzero(out)
            for j in np.flatnonzero(~out)
            if problem.costs[j] < problem.costs[i]
        ]
        moves = [m for m in moves if all(_exchanged(out, m)[s].any() for s in problem.sets)]
        if not moves:
            return problem.cheapest.copy()
        out = _exchanged(out, max(moves))
    return out


def _exchanged(kept: Bools, move: tuple[float, int, int]) -> Bools:
    out = without(kept, move[1])
    out[move[2]] = True
    return out


def shrink(problem: SubsetChoice, kept: Bools, costs: Floats) -> Bools:
    """Remove items, those of least estimated cost (for what they save) first, until the constraints are met."""
    out = kept.copy()
    while too_many(problem, out):
        items = removable(problem, out)
        if not items or (problem.exactly is not None and int(out.sum()) <= problem.exactly):
            return cheaper_within_sets(problem, out)
        out[min(items, key=lambda i: (rate(problem, float(costs[i]), i), i))] = False
    return refill(problem, out, costs)


def refill(problem: SubsetChoice, kept: Bools, costs: Floats) -> Bools:
    """Add items, those of largest estimated cost first, while the budget has room for them."""
    out = kept.copy()
    for i in np.argsort(-costs, kind="stable"):
        full = problem.exactly is not None and int(out.sum()) >= problem.exactly
        if not out[i] and not full and costs[i] > 0:
            out[i] = True
            out[i] = not too_many(problem, out)
    return out


def answer(
    tried: Tried, name: str, *, stats: dict[str, Any] | None = None, message: str = "", proven: bool = False
) -> Solution[Bools]:
    """Return the best subset looked at; its bound is its loss where every subset has been."""
    run, best = tried.run, tried.best
    stats = {"evaluations": run.evaluations, **(stats or {})}
    if best is None:
        return Solution(Status.FAILED, None, stats=stats, solver=name, message=message or "no subset was tried")
    if proven:
        run.report(tried.least, tried.least)
    about: dict[str, Any] = {"trace": run.trace, "stats": stats, "solver": name, "message": message}
    if proven:
        return Solution(Status.OPTIMAL, best, tried.least, tried.least, duals={"enumerated": True}, **about)
    return Solution(Status.FEASIBLE, best, tried.least, **about)
