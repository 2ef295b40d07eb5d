"""Pictures. Every function takes axes and returns them; ``ax=None`` makes new ones. Needs the extra ``plot``.

Colours are those of Okabe and Ito, which stay apart for every common colour blindness; lines also differ by marker.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunopt.core.solution import Solution

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from prunopt.forests.path import BudgetPath

__all__ = ["COLOURS", "MissingExtra", "features_bought", "head_curves", "head_map", "pareto", "solver_trace"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*"
LEAST_WIDTH = 0.004  # of the axis: a pruning that is best for a sliver of budgets is still seen


class MissingExtra(ImportError, ValueError):
    """A picture was asked for, and matplotlib is not installed."""


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
    style = itertools.cycle(zip(COLOURS, MARKERS, strict=True))
    for _ in ax.get_lines():  # go on where an earlier call on these axes has stopped
        next(style)
    for label, curve in named.items():
        cost, value, spread = points_of(curve, measure, label)
        colour, marker = next(style)
        order = np.argsort(cost, kind="stable")
        cost, value = cost[order], value[order]
        way: Any = "steps-post" if step else "default"
        size = 4.0 if len(cost) <= 60 else 0.0
        ax.plot(cost, value, color=colour, marker=marker, markersize=size, drawstyle=way, label=label or None)
        if spread is not None:
            spread = spread[order]
            band: Any = "post" if step else None
            ax.fill_between(cost, value - spread, value + spread, color=colour, alpha=0.18, linewidth=0, step=band)
    ax.set_xlabel(f"mean cost per {who} [{unit or 'unit of the costs'}]")
    ax.set_ylabel(measure)
    ax.set_xlim(left=min(0.0, ax.get_xlim()[0]))
    _finish(ax, legend=any(named))
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
    ax.set_ylabel(f"objective, minimised [{unit}]" if unit else "objective (minimised)")
    _finish(ax, legend=True)
    return ax


def features_bought(
    path: BudgetPath,
    X: ArrayLike | None = None,
    ax: Axes | None = None,
    *,
    unit: str = "",
    who: str = "row",
    names: Mapping[str, str] | None = None,
) -> Axes:
    """Draw which features (or groups of features) are bought at which budget.

    Parameters
    ----------
    path
        What `prunopt.forests.budget_path` returns, or ``path_`` of an estimator.
    X : (n, K) or None
        Rows, for the share of them that buys each feature; None shades a feature as soon as any node asks for it.
    ax
        Axes to draw on.
    unit, who
        Unit of the costs and what a row is, for the labels: ``"CAD"``, ``"patient"``.
    names
        What to call the features (or groups), where the forest was fitted on columns without names.
    """
    called = names or {}
    shares = _asked(path) if X is None else _shares(path, X)
    ax = new_axes(ax, (7.2, 0.9 + 0.28 * len(shares)))
    # By rising budget: the last point of the path is the cheapest.
    cost = np.array([p.expected_cost for p in path.points])[::-1]
    shares = shares[:, ::-1]
    top = max(float(cost[-1]), 1e-12) * 1.04
    edges = np.append(np.maximum.accumulate(cost), top)
    for k in range(len(edges) - 2, 0, -1):
        edges[k] = min(edges[k], edges[k + 1] - LEAST_WIDTH * top)
    edges = np.maximum.accumulate(np.maximum(edges, 0.0))
    order = np.lexsort((path.prices.group_cost, shares @ np.diff(edges)))
    mesh = ax.pcolormesh(edges, np.arange(len(order) + 1), shares[order], cmap="Blues", vmin=0.0, vmax=1.0)
    labels = [called.get(name, name) for name in path.prices.group_names]
    labels = [f"{labels[g]} ({path.prices.group_cost[g]:g})" for g in order]
    ax.set_yticks(np.arange(len(order)) + 0.5, labels, fontsize="small")
    ax.hlines(np.arange(1, len(order)), edges[0], top, color="white", linewidth=1.0)
    ax.set_xlim(edges[0], top)
    ax.set_xlabel(f"budget: mean cost per {who} [{unit or 'unit of the costs'}]")
    ax.set_ylabel(f"feature (price{f', {unit}' if unit else ''})")
    if X is not None:
        ax.figure.colorbar(mesh, ax=ax, label=f"share of {who}s that buy it", pad=0.02)
    return ax


def points_of(
    curve: Any, measure: str, label: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]:
    """Cost, value and spread of whatever a user gives as a curve."""
    if hasattr(curve, "points"):
        if measure == "score":
            raise ValueError(f'curves[{label!r}]: a path holds errors; draw path.curve(X, y), or measure="error"')
        points = curve.points
        return np.array([p.expected_cost for p in points]), np.array([p.training_error for p in points]), None
    if hasattr(curve, "expected_cost"):
        if measure == "score":
            # The standard error of R^2 is not that of the mean squared error.
            spread = curve.standard_error if np.allclose(curve.score, 1.0 - curve.error) else None
            return curve.expected_cost, curve.score, spread
        return curve.expected_cost, curve.error, curve.standard_error
    try:
        columns = [np.asarray(column, np.float64) for column in curve]
    except (TypeError, ValueError):
        columns = []
    if (
        len(columns) not in (2, 3)
        or len({c.shape for c in columns}) != 1
        or columns[0].ndim != 1
        or not len(columns[0])
    ):
        raise ValueError(f"curves[{label!r}]: give a BudgetPath, what its curve() returns, or (cost, value[, spread])")
    return columns[0], columns[1], columns[2] if len(columns) == 3 else None


def _asked(path: BudgetPath) -> NDArray[np.float64]:
    """1 where a point of the path asks for a group at all, shape (G, points)."""
    return np.array([[float(name in p.bought) for p in path.points] for name in path.prices.group_names])


def _shares(path: BudgetPath, X: ArrayLike) -> NDArray[np.float64]:
    """The share of the rows that buys each group at each point, shape (G, points)."""
    from prunopt.problems.forest_rows import bought_groups

    e = path.ensemble
    rows = e.rows(X)
    known = path.prices.known_mask if len(path.prices.known_mask) <= 1 else path.prices.known_mask[:0]
    columns = (rows, e.offsets, e.left, e.right, e.feature, e.threshold, e.missing_left, path.prices.group_of, known)
    shares = np.zeros((len(path.prices.group_cost), len(path.points)))
    for k in range(len(path.points)):
        split = np.zeros(e.n_nodes, np.bool_)
        split[e.internal] = path.lifetime > k
        bought = np.zeros((len(rows), len(shares)), np.bool_)
        bought_groups(*columns, split, bought)
        shares[:, k] = bought.mean(axis=0)
    return shares


def new_axes(ax: Axes | None, size: tuple[float, float] = (6.4, 4.4)) -> Axes:
    """Return ``ax``, or new axes where it is None."""
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError:
        raise MissingExtra("pictures need matplotlib: pip install 'prunopt[plot]'") from None
    return pyplot.figure(figsize=size, layout="constrained").add_subplot()


def _finish(ax: Axes, *, legend: bool) -> None:
    ax.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    ax.set_axisbelow(True)
    if legend:
        ax.legend(framealpha=0.85, edgecolor="none", fontsize="small")


def head_map(
    scores: ArrayLike, n_heads: Sequence[int], ax: Axes | None = None, *, kept: ArrayLike | None = None, label: str = ""
) -> Axes:
    """Draw what heads are worth, by layer and head; heads that go are crossed out.

    Parameters
    ----------
    scores : (heads,) float
        Layer after layer.
    n_heads : sequence of int
        Heads of each layer.
    ax
        Where to draw.
    kept : (heads,) bool
        Which heads stay.
    label
        What the scores are.
    """
    numbers = np.asarray(scores, np.float64)
    if numbers.shape != (sum(n_heads),):
        raise ValueError(f"scores: shape {numbers.shape} given; {sum(n_heads)} numbers, one a head, are needed")
    size = (1.6 + 0.42 * max(n_heads), 1.2 + 0.42 * len(n_heads))
    ax = new_axes(ax, (max(3.6, size[0]), max(2.2, size[1])))
    grid = np.full((len(n_heads), max(n_heads)), np.nan)
    gone: list[tuple[int, int]] = []
    flags = np.ones(len(numbers), np.bool_) if kept is None else np.asarray(kept, np.bool_)
    start = 0
    for layer, n in enumerate(n_heads):
        grid[layer, :n] = numbers[start : start + n]
        gone += [(layer, int(h)) for h in np.flatnonzero(~flags[start : start + n])]
        start += n
    picture = ax.imshow(grid, aspect="auto", cmap="cividis")
    for layer, head in gone:
        ax.plot(head, layer, marker="x", color="white", markersize=9, markeredgewidth=3)
        ax.plot(head, layer, marker="x", color="black", markersize=8, markeredgewidth=1.4)
    ax.set_xlabel("head")
    ax.set_ylabel("layer")
    ax.set_xticks(range(0, max(n_heads), max(1, max(n_heads) // 12)))
    ax.set_yticks(range(0, len(n_heads), max(1, len(n_heads) // 12)))
    figure = ax.get_figure()
    assert figure is not None
    figure.colorbar(picture, ax=ax, label=label)
    return ax


def head_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], ax: Axes | None = None, *, measure: str = "loss", total: int = 0
) -> Axes:
    """Draw the loss against the heads that stay, a line for each method.

    Parameters
    ----------
    curves
        ``{method: (heads kept, loss)}``.
    ax
        Where to draw.
    measure
        What the loss is.
    total
        Heads of the whole model, for the axis; 0 leaves it out.
    """
    if not curves:
        raise ValueError("curves: none given; give {method: (heads kept, loss)}")
    ax = new_axes(ax)
    styles = itertools.cycle(zip(COLOURS, MARKERS, strict=True))
    for (name, (heads, losses)), (colour, marker) in zip(curves.items(), styles, strict=False):
        ax.plot(heads, losses, marker=marker, markersize=4, color=colour, label=name)
    ax.set_xlabel(f"heads kept of {total}" if total else "heads kept")
    ax.set_ylabel(measure)
    _finish(ax, legend=True)
    return ax
