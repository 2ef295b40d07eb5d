"""Curves: error against cost with peers, and how a solver came to its answer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from prunopt.core.solution import Solution
from prunopt.plots.axes import COLOURS, finish, new_axes, points_of, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def pareto(
    curves: Any, ax: Axes | None = None, *, unit: str = "", measure: str = "error", who: str = "row", step: bool = False
) -> Axes:
    """Draw error, or score, against mean cost.

    Parameters
    ----------
    curves
        One curve, or a mapping from labels to curves. A curve is a `BudgetPath` (its own points: mean error of the
        trees), what `BudgetPath.curve` returns (drawn with its standard error), or arrays: ``(cost, value)`` or
        ``(cost, value, spread)``, the spread being drawn as a band.
    ax
        Axes to draw on.
    unit
        Unit of the costs, for the label: ``"CAD"``.
    measure
        ``"error"``, ``"score"``, or any other name of the values; says which of the two a curve shows.
    who
        What a row is: ``"patient"``.
    step
        Draw steps: at a budget between two points, the cheaper one is what one gets.
    """
    ax = new_axes(ax)
    named = curves if isinstance(curves, Mapping) else {"": curves}
    if not named:
        raise ValueError("curves: none given; give a mapping from labels to curves")
    style = styles()
    for _ in ax.get_lines():  # go on where an earlier call on these axes has stopped
        next(style)
    for label, curve in named.items():
        cost, value, spread = points_of(curve, measure, label)
        colour, marker, line = next(style)
        order = np.argsort(cost, kind="stable")
        cost, value = cost[order], value[order]
        way: Any = "steps-post" if step else "default"
        size = 4.0 if len(cost) <= 60 else 0.0
        look: Any = {"color": colour, "marker": marker, "linestyle": line, "markersize": size, "drawstyle": way}
        ax.plot(cost, value, label=label or None, **look)
        if spread is not None:
            spread = spread[order]
            band: Any = "post" if step else None
            ax.fill_between(cost, value - spread, value + spread, color=colour, alpha=0.18, linewidth=0, step=band)
    ax.set_xlabel(f"mean cost per {who} [{unit or 'unit of the costs'}]")
    ax.set_ylabel(measure)
    ax.set_xlim(left=min(0.0, ax.get_xlim()[0]))
    finish(ax, legend=any(named))
    return ax


def solver_trace(solutions: Any, ax: Axes | None = None, *, unit: str = "") -> Axes:
    """Draw objective and bound against time: what is between the two lines is not proven yet.

    Parameters
    ----------
    solutions
        A `Solution`, or a mapping from labels to solutions of the same problem.
    ax
        Axes to draw on.
    unit
        Unit of the objective, for the label.
    """
    named = solutions if isinstance(solutions, Mapping) else {getattr(solutions, "solver", ""): solutions}
    for label, solution in named.items():
        if not isinstance(solution, Solution):
            raise TypeError(f"solutions[{label!r}]: {type(solution).__name__} given; give what prunopt.solve returns")
        if not solution.trace:
            raise ValueError(f"solutions[{label!r}]: its trace is empty; the solver reported nothing on its way")
    ax = new_axes(ax)
    end = max(s.trace[-1].seconds for s in named.values())
    for (label, solution), colour in zip(named.items(), itertools.cycle(COLOURS)):
        steps = [*solution.trace]
        seconds = np.array([s.seconds for s in steps] + [max(end, steps[-1].seconds)])
        objective = np.array([s.objective for s in steps] + [solution.objective])
        bound = np.array([s.bound for s in steps] + [solution.bound])
        objective[~np.isfinite(objective)] = np.nan
        bound[~np.isfinite(bound)] = np.nan
        gap = f", gap {solution.gap:.2g}" if math.isfinite(solution.gap) else ", no bound"
        size = 3.0 if len(steps) <= 40 else 0.0
        ax.step(seconds, objective, where="post", color=colour, marker="o", markersize=size, label=f"{label}{gap}")
        ax.step(seconds, bound, where="post", color=colour, linestyle="--", marker="^", markersize=size)
        if len(named) == 1:
            ax.fill_between(seconds, bound, objective, step="post", color=colour, alpha=0.15, linewidth=0)
    ax.plot([], [], color="#666666", label="objective")
    ax.plot([], [], color="#666666", linestyle="--", label="bound")
    ax.set_xlabel("time [s]")
    ax.set_ylabel(f"objective, minimized [{unit}]" if unit else "objective (minimized)")
    finish(ax, legend=True)
    return ax
