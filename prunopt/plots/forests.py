"""Which features the prunings of a path acquire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats
from prunopt.plots.axes import new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from prunopt.forests.path import BudgetPath

LEAST_WIDTH = 0.004  # of the axis: a pruning that is best for a sliver of budgets is still seen
MOST_GROUPS = 60  # that a picture has lines for


def acquired_features(
    path: BudgetPath,
    X: ArrayLike | None = None,
    ax: Axes | None = None,
    *,
    unit: str = "",
    who: str = "row",
    names: Mapping[str, str] | None = None,
) -> Axes:
    """Draw which features (or groups of features) are acquired at which budget, the most acquired ones of many.

    Parameters
    ----------
    path
        What `prunopt.forests.budget_path` returns, or ``path_`` of an estimator.
    X : (n, K) or None
        Rows, for the share of them that acquires each feature; None shades a feature as soon as any node asks for it.
    ax
        Axes to draw on.
    unit, who
        Unit of the costs and what a row is, for the labels: ``"CAD"``, ``"patient"``.
    names
        What to call the features (or groups), where the forest was fitted on columns without names.
    """
    called = names or {}
    shares = _asked(path) if X is None else _shares(path, X)
    ax = new_axes(ax, (7.2, 0.9 + 0.28 * min(len(shares), MOST_GROUPS)))
    # By rising budget: the last point of the path is the cheapest.
    cost = np.array([p.expected_cost for p in path.points])[::-1]
    shares = shares[:, ::-1]
    top = max(float(cost[-1]), 1e-12) * 1.04
    edges = np.append(np.maximum.accumulate(cost), top)
    for k in range(len(edges) - 2, 0, -1):
        edges[k] = min(edges[k], edges[k + 1] - LEAST_WIDTH * top)
    edges = np.maximum.accumulate(np.maximum(edges, 0.0))
    order = np.lexsort((path.feature_costs.group_cost, shares @ np.diff(edges)))[-MOST_GROUPS:]
    mesh = ax.pcolormesh(edges, np.arange(len(order) + 1), shares[order], cmap="Blues", vmin=0.0, vmax=1.0)
    labels = [called.get(name, name) for name in path.feature_costs.group_names]
    labels = [f"{labels[g]} ({path.feature_costs.group_cost[g]:g})" for g in order]
    ax.set_yticks(np.arange(len(order)) + 0.5, labels, fontsize="small")
    ax.hlines(np.arange(1, len(order)), edges[0], top, color="white", linewidth=1.0)
    ax.set_xlim(edges[0], top)
    ax.set_xlabel(f"budget: mean cost per {who} [{unit or 'unit of the costs'}]")
    some = f"{len(order)} most acquired of {len(shares)} features" if len(order) < len(shares) else "feature"
    ax.set_ylabel(f"{some} (cost{f', {unit}' if unit else ''})")
    if X is not None:
        ax.figure.colorbar(mesh, ax=ax, label=f"share of {who}s that acquire it", pad=0.02)
    return ax


def _asked(path: BudgetPath) -> Floats:
    """1 where a point of the path asks for a group at all, shape (G, points)."""
    return np.array([[float(name in p.acquired) for p in path.points] for name in path.feature_costs.group_names])


def _shares(path: BudgetPath, X: ArrayLike) -> Floats:
    """The share of the rows that acquires each group at each point, shape (G, points)."""
    from prunopt.problems.forest._routing import acquired_groups

    e, costs = path.ensemble, path.feature_costs
    rows = e.rows(X)
    known = costs.known_mask if len(costs.known_mask) <= 1 else costs.known_mask[:0]
    shares = np.zeros((len(costs.group_cost), len(path.points)))
    for k in range(len(path.points)):
        split = np.zeros(e.n_nodes, np.bool_)
        split[e.internal] = path.lifetime > k
        acquired = np.zeros((len(rows), len(shares)), np.bool_)
        acquired_groups(rows, e.arrays, costs.group_of, known, split, acquired)
        shares[:, k] = acquired.mean(axis=0)
    return shares
