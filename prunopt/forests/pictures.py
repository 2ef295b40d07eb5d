"""Pictures of a budget path: cost against error with its peers, and what pruning keeps of the trees."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.validate import Shown, require, whole_number
from prunopt.forests._votes import Curve
from prunopt.plots.axes import COLOURS, MARKERS, new_axes, points_of
from prunopt.plots.networks import before_after
from prunopt.problems.forest.tree_ensemble import TreeEnsemble

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Three colors of Okabe and Ito that stay apart for every common color blindness, and in gray by their lightness.
BLUE, ORANGE, BLACK = "#0072B2", "#E69F00", "#000000"
ROOM = 2.0  # between the labels of neighboring leaves, in the unit of the layout
OTHERS = tuple(pair for pair in zip(COLOURS, MARKERS, strict=True) if pair[0] not in (BLUE, ORANGE, BLACK))


class Path(Protocol):
    """What is drawn of a `BudgetPath`."""

    @property
    def ensemble(self) -> TreeEnsemble:
        """The trees."""

    @property
    def points(self) -> tuple[Any, ...]:
        """The prunings."""

    @property
    def lifetime(self) -> Ints:
        """How many of the points keep each node."""

    def curve(self, X: ArrayLike, y: ArrayLike) -> Curve:
        """Return the vote of every point."""

    def unpruned(self, X: ArrayLike, y: ArrayLike) -> Curve:
        """Return the vote of the unpruned forest."""


def draw_path(
    path: Path,
    X: ArrayLike | None,
    y: ArrayLike | None,
    ax: Axes | None,
    unit: str,
    neighbours: Mapping[str, Any] | None = None,
    folds: Any = None,
) -> Axes:
    """Draw error against mean cost per row; see `BudgetPath.plot`."""
    require((X is None) == (y is None), "y", "be given with X, or neither", Shown("one of the two"))
    ax = new_axes(ax)
    cost = np.array([p.expected_cost for p in path.points])
    error = np.array([p.training_error for p in path.points])
    classifies = path.ensemble.classes is not None
    ax.plot(
        cost,
        error,
        color=ORANGE,
        linestyle="--",
        marker="s",
        markersize=3,
        label="one tree on average, rows of the path (minimized)",
    )
    if X is not None and y is not None:
        test, whole = path.curve(X, y), path.unpruned(X, y)
        low, high = test.error - test.standard_error, test.error + test.standard_error
        # From one point to the next cheaper one nothing lies between: within a budget there is the cheaper one.
        ax.fill_between(test.expected_cost, low, high, step="pre", color=BLUE, alpha=0.2, linewidth=0)
        ax.plot(
            test.expected_cost,
            test.error,
            color=BLUE,
            drawstyle="steps-pre",
            marker="o",
            markersize=4,
            label="vote of the pruned forest, test rows (±1 standard error)",
        )
        ax.plot(
            whole.expected_cost,
            whole.error,
            color=BLACK,
            marker="*",
            markersize=11,
            linestyle="none",
            label="vote of the unpruned forest, test rows",
        )
    if folds is not None:
        at, mean, spread, count = over_folds(folds)
        bars: Any = {"color": BLUE, "marker": "o", "markersize": 4, "capsize": 2, "elinewidth": 1.0}
        label = f"vote of the pruned forest, mean of {count} folds (±1 standard deviation)"
        ax.errorbar(at, mean, yerr=spread, label=label, **bars)
    for (label, curve), (colour, marker) in zip((neighbours or {}).items(), itertools.cycle(OTHERS), strict=False):
        at, value, yerr = points_of(curve, "error", label)
        order = np.argsort(at, kind="stable")
        line: Any = {"color": colour, "marker": marker, "markersize": 5, "capsize": 2, "elinewidth": 1.0}
        ax.errorbar(at[order], value[order], yerr=None if yerr is None else yerr[order], label=label, **line)
    ax.set_xlabel(f"mean cost per row [{unit or 'unit of the feature costs'}]")
    ax.set_ylabel("share of rows misclassified" if classifies else "mean squared error [unit of the target, squared]")
    ax.set_xlim(left=min(0.0, ax.get_xlim()[0]))
    ax.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.legend(framealpha=0.85, edgecolor="none", fontsize="small")
    return ax


def over_folds(folds: Any, budgets: ArrayLike | None = None) -> tuple[Floats, Floats, Floats, int]:
    """Return budgets, the mean error of several curves within each, its standard deviation, and how many there are.

    A curve counts at a budget with its costliest point within it. ``budgets`` None: a dozen, from the cheapest that
    every curve can meet to the costliest point of any.
    """
    curves = []
    for k, curve in enumerate(folds):
        cost, error, _ = points_of(curve, "error", f"folds[{k}]")
        order = np.argsort(cost, kind="stable")
        curves.append((cost[order], error[order]))
    require(curves, "folds", "hold the curves of the folds", Shown("none"))
    least = max(float(cost[0]) for cost, _ in curves)
    grid = np.linspace(least, max(float(cost[-1]) for cost, _ in curves), 12)
    at = grid if budgets is None else np.asarray(budgets, np.float64)
    require(not np.any(at < least), "budgets", f"be at least {least:g}, which every fold can meet", at.min(initial=0))
    table = np.array([error[np.searchsorted(cost, at * (1 + 1e-12), side="right") - 1] for cost, error in curves])
    return at, table.mean(axis=0), table.std(axis=0, ddof=1 if len(table) > 1 else 0), len(table)


def draw_sizes(path: Path, ax: Axes | None, unit: str, k: int) -> Axes:
    """Draw how many internal nodes every tree keeps at point k; see `BudgetPath.plot_sizes`."""
    tree = path.ensemble.tree[path.ensemble.internal]
    before = np.bincount(tree, minlength=path.ensemble.n_trees)
    after = np.bincount(tree[path.lifetime > k], minlength=path.ensemble.n_trees)
    order = np.argsort(-before, kind="stable")
    cost = f"{path.points[k].expected_cost:.4g} {unit}".strip()
    labels = "as grown", f"kept at a mean cost of {cost}"
    return before_after(before[order], after[order], ax, what="internal nodes", part="tree, by size", labels=labels)


def draw_tree(path: Path, tree: int, ax: Axes | None, k: int, names: Mapping[str, str] | None) -> Axes:
    """Draw one tree as it was grown, what is pruned away in gray; see `BudgetPath.plot_tree`."""
    e = path.ensemble
    whole_number("tree", tree, low=0, high=e.n_trees - 1)
    nodes = np.arange(e.offsets[tree], e.offsets[tree + 1])
    split = np.zeros(e.n_nodes, np.bool_)
    split[e.internal] = path.lifetime > k
    place, depth = _layout(e.left, e.right, split, int(nodes[0]), nodes)
    ax = new_axes(ax, (max(4.8, 0.3 * float(place.max())), 1.2 + 0.62 * (int(depth.max()) + 1)))
    x, y = place, -depth.astype(np.float64)
    first = int(nodes[0])
    for h in nodes[1:]:
        u = e.parent[h]
        stays = split[u]
        colour, width = (BLACK, 1.1) if stays else ("#D5D5D5", 0.7)
        ends = ([x[u - first], x[h - first]], [y[u - first], y[h - first]])
        ax.plot(*ends, color=colour, linewidth=width, zorder=2 if stays else 1)
    shown = names or {}
    columns = e.feature_names or tuple(f"x{j}" for j in range(e.n_features))
    for h in nodes:
        parent = e.parent[h]
        if not (parent < 0 or split[parent]):
            continue
        if split[h]:
            box: Any = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": BLUE, "linewidth": 1.0}
            name = columns[e.feature[h]]
            text = f"{shown.get(name, name)} ≤ {e.threshold[h]:.3g}"
        else:
            box = {"boxstyle": "round,pad=0.25", "facecolor": "#DCEBF5", "edgecolor": "none"}
            classes, value = e.classes, e.value[h]
            text = f"{value[0]:.3g}" if classes is None else f"{classes[int(value.argmax())]}\n{value.max():.2f}"
        ax.text(x[h - first], y[h - first], text, ha="center", va="center", fontsize=7.5, bbox=box, zorder=3)
    n_before, n_after = int(np.count_nonzero(e.left[nodes] >= 0)), int(np.count_nonzero(split[nodes]))
    ax.set_title(f"tree {tree}: {n_after} of {n_before} internal nodes kept (gray: pruned away)", fontsize="medium")
    ax.set_axis_off()
    ax.margins(0.04, 0.08)
    return ax


def _layout(left: Ints, right: Ints, split: Bools, root: int, nodes: Ints) -> tuple[Floats, Ints]:
    """Where nodes go: leaves side by side, with room for what is written, parents over the middle of their children."""
    x, depth = np.zeros(len(nodes)), np.zeros(len(nodes), np.int64)
    written = np.zeros(len(nodes), np.bool_)  # leaves of the pruned tree
    written[0] = not split[root]
    for h in nodes:
        if split[h]:
            for child in (left[h], right[h]):
                written[child - root] = not split[child]
    for h in nodes:
        for child in (left[h], right[h]):
            if child >= 0:
                depth[child - root] = depth[h - root] + 1
    column, stack, since = 0.0, [root], 0.0
    while stack:
        h = stack.pop()
        if written[h - root]:
            column = max(column, since)
            since = column + ROOM
        if left[h] < 0:
            x[h - root] = column
            column += 0.5
        else:
            stack += [int(right[h]), int(left[h])]
    for h in nodes[::-1]:  # children come after their parents
        if left[h] >= 0:
            x[h - root] = (x[left[h] - root] + x[right[h] - root]) / 2
    return x, depth
