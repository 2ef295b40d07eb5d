"""Widths of channels under several budgets at once: surrogate constraints, each solved exactly, bound the optimum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prunopt.api import solve
from prunopt.core import validate
from prunopt.core.arrays import Floats, Ints
from prunopt.core.solution import Solution, SolveError, Status
from prunopt.problems.channel_widths import ChannelWidths, LayerCost

ROUNDS = 12  # of other weights of the budgets
AWAY = 8.0  # of the logarithm of a weight that starts as next to nothing
SHRINKS, LEAST = 8, 0.02  # of the joint limit, until all budgets hold; by how much at least
CLOSE = 1e-9  # of objectives
ROUNDING = 1e-12  # of sums of costs, as in `CoupledKnapsack`


@dataclass(frozen=True, eq=False)
class WidthsWithin:
    """Widths that meet every budget.

    Parameters
    ----------
    solution
        Value, objective, and the greatest bound that a surrogate constraint proved.
    used
        What the widths cost, by resource.
    prices
        By how much the bound would fall with one more unit of each resource.
    """

    solution: Solution[Ints]
    used: dict[str, float]
    prices: dict[str, float]


def widths_within(
    widths: Sequence[Sequence[int]], losses: Sequence[Sequence[float]], layers: Mapping[str, Sequence[LayerCost]],
    limits: Mapping[str, float], *, solver: Any = None, seed: int = 0,
) -> WidthsWithin:  # fmt: skip
    r"""Choose widths of least loss so that every resource stays within its limit.

    Weights :math:`\mu \ge 0` of sum 1 make one constraint of all,

    .. math:: \sum_r \frac{\mu_r}{B_r} \, c_r(w) \le 1

    which every choice within all budgets meets: its optimum, found by `CoupledDp` on forests, is a lower bound, and the
    answer if it meets all budgets itself. The weights move towards what is over [1]_. With a smaller right-hand side it
    gives choices within all budgets; the best of them gets back what still fits, group by group.

    Parameters
    ----------
    widths, losses
        As of `ChannelWidths`, widths from the largest.
    layers, limits
        Costs of layers, and limits, by the same names of resources.
    solver
        For each choice; None: by the form.
    seed
        Of the solver.

    Raises
    ------
    SolveError
        If no choice is within the limits, or none was found; the message names the resource in the way.

    References
    ----------
    .. [1] F. Glover, "Surrogate constraint duality in mathematical programming", Operations Research 23 (1975).
    """
    names = list(limits)
    tasks = {r: _task(widths, losses, layers[r], limits[r], r) for r in names}
    used = {r: tasks[r].used for r in names}

    def share(value: Ints) -> Floats:
        return np.array([used[r](value) / limits[r] for r in names])

    def joint_task(weights: Floats, right: float) -> ChannelWidths:
        joint = [
            LayerCost(layer.source, layer.target, np.asarray(layer.table) * (w / limits[r]))
            for r, w in zip(names, weights, strict=True)
            for layer in layers[r]
        ]
        return ChannelWidths(widths, losses, joint, right)

    def answer(weights: Floats, right: float) -> Solution[Ints] | None:
        try:
            task = joint_task(weights, right)
        except ValueError:  # even the narrowest widths are over it
            return None
        return solve(task, solver or ("coupled-dp" if task.form.is_forest else "pulp"), seed=seed)

    best: tuple[float, Floats, Solution[Ints]] | None = None
    feasible: list[Ints] = []
    violated = np.zeros(len(names), np.bool_)
    log, step = np.zeros(len(names)), 2.0
    for k in range(len(names) + ROUNDS):
        if k < len(names):  # each budget alone; those that no other choice violates hardly count from then on
            weights = np.eye(len(names))[k]
        else:
            log = np.where(violated, 0.0, -AWAY) if k == len(names) else log
            weights = np.exp(log - log.max())
            weights /= weights.sum()
        found = answer(weights, 1.0)
        if found is None:
            raise SolveError(_none(names, limits, "no widths on offer meet the budgets together"))
        over = share(np.asarray(found.value)) - 1.0
        better = best is None or found.bound > best[0]
        if better:
            best = found.bound, weights, found
        violated |= over > ROUNDING
        if not (over > ROUNDING).any():
            feasible = [np.asarray(found.value)]
            break
        if k >= len(names):
            feasible += _shrunk(answer, share, weights, float(over.max())) if better or not feasible else []
            log = log + step * np.where(over > 0, over / over.max(), over / max(-over.min(), ROUNDING))
            step *= 0.85
    assert best is not None
    narrow = np.array([min(w) for w in widths], np.int64)
    feasible += [narrow] if (share(narrow) <= 1.0 + ROUNDING).all() else []
    if not feasible:
        raise SolveError(_none(names, limits, "none was found: offer more widths, or raise a budget"))
    value = min((_filled(tasks[names[0]], share, w) for w in feasible), key=tasks[names[0]].objective)
    bound, weights, found = best
    objective = tasks[names[0]].objective(value)
    proven = objective <= bound + CLOSE * max(1.0, abs(objective))
    multiplier = price_of(joint_task(weights, 1.0), found)
    answered = replace(
        found, value=value, objective=objective, bound=min(bound, objective), duals={},
        status=Status.OPTIMAL if proven else Status.FEASIBLE,
        message="" if proven else "several budgets: the bound is that of their best surrogate constraint",
    )  # fmt: skip
    prices = {r: multiplier * w / limits[r] for r, w in zip(names, weights.tolist(), strict=True)}
    return WidthsWithin(answered, {r: used[r](value) for r in names}, prices)


def price_of(task: ChannelWidths, found: Solution[Any]) -> float:
    """Return by how much the bound falls with one more unit of cost: the multiplier of the Lagrangian relaxation.

    Integer programs have none of their own; the relaxation is then solved for it.
    """
    if "multiplier" not in found.duals:
        found = solve(task, "coupled-dp", throw=False)
    return float(found.duals.get("multiplier", 0.0))


def _task(widths: Any, losses: Any, layers: Sequence[LayerCost], limit: float, resource: str) -> ChannelWidths:
    validate.number(f"budget of {resource}", limit, low=0, open_ends="(")
    return ChannelWidths(widths, losses, layers, limit)


def _none(names: Sequence[str], limits: Mapping[str, float], why: str) -> Solution[Any]:
    asked = ", ".join(f"{r}={limits[r]:.6g}" for r in names)
    return Solution(Status.FAILED, None, solver="surrogate constraints", message=f"{why} ({asked})")


def _shrunk(answer: Any, share: Any, weights: Floats, over: float) -> list[Ints]:
    """Return the first choice within all budgets, as the right-hand side goes down; none where there is none."""
    right = 1.0
    for _ in range(SHRINKS):
        right /= 1.0 + max(over, LEAST)
        found = answer(weights, right)
        if found is None:
            return []
        over = float(share(np.asarray(found.value)).max() - 1.0)
        if over <= ROUNDING:
            return [np.asarray(found.value)]
    return []


def _filled(task: ChannelWidths, share: Any, value: Ints) -> Ints:
    """Widen groups, the one of the greatest gain first, while every budget holds."""
    value = np.array(value)
    while True:
        gains = []
        for g, (offered, lost) in enumerate(zip(task.widths, task.loss, strict=True)):
            now = lost[list(offered).index(int(value[g]))]
            gains += [(now - loss, g, w) for w, loss in zip(offered, lost, strict=True) if loss < now]
        for _, g, width in sorted(gains, reverse=True):
            other = value.copy()
            other[g] = width
            if (share(other) <= 1.0 + ROUNDING).all():
                value = other
                break
        else:
            return value
