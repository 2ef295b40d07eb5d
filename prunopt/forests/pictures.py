"""Pictures of a budget path."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from prunopt.forests.path import BudgetPath

# Three colours of Okabe and Ito that stay apart for every common colour blindness, and in grey by their lightness.
BLUE, ORANGE, BLACK = "#0072B2", "#E69F00", "#000000"


def draw_path(path: BudgetPath, X: ArrayLike | None, y: ArrayLike | None, ax: Axes | None, unit: str) -> Axes:
    """Draw error against mean cost per row; see `BudgetPath.plot`."""
    if (X is None) != (y is None):
        raise ValueError("X, y: give test rows with their targets, or neither")
    if ax is None:
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError("plot needs matplotlib: pip install 'prunopt[plot]'") from None
        from matplotlib import pyplot

        figure: Figure = pyplot.figure(figsize=(6.4, 4.4), layout="constrained")
        ax = figure.add_subplot()
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
        label="one tree on average, rows of the path (minimised)",
    )
    if X is not None and y is not None:
        test, whole = path.curve(X, y), path.unpruned(X, y)
        low, high = test.error - test.standard_error, test.error + test.standard_error
        ax.fill_between(test.expected_cost, low, high, color=BLUE, alpha=0.2, linewidth=0)
        ax.plot(
            test.expected_cost,
            test.error,
            color=BLUE,
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
    ax.set_xlabel(f"mean cost per row [{unit or 'unit of the feature costs'}]")
    ax.set_ylabel("share of rows misclassified" if classifies else "mean squared error [unit of the target, squared]")
    ax.set_xlim(left=min(0.0, ax.get_xlim()[0]))
    ax.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.legend(frameon=False, fontsize="small")
    return ax
