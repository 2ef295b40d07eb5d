"""What all pictures share: colors, markers, axes, and what counts as a curve."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colors, which stay apart for every common color blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*"
LINES = ("-", "--", ":")
GREY = "#CCCCCC"


class MissingExtra(ImportError, ValueError):
    """A picture was asked for, and matplotlib is not installed."""


def styles() -> Iterator[tuple[str, str, str]]:
    """Yield colors, markers and line styles; no two of the first 21 are alike."""
    for line in itertools.cycle(LINES):
        for colour, marker in zip(COLOURS, MARKERS, strict=True):
            yield colour, marker, line


def new_axes(ax: Axes | None, size: tuple[float, float] = (6.4, 4.4)) -> Axes:
    """Return ``ax``, or new axes where it is None."""
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError:
        raise MissingExtra("pictures need matplotlib: pip install 'prunopt[plot]'") from None
    return pyplot.figure(figsize=size, layout="constrained").add_subplot()


def finish(ax: Axes, *, legend: bool) -> None:
    """Lay a light grid below what is drawn, and the legend where it is wanted."""
    ax.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    ax.set_axisbelow(True)
    if legend:
        ax.legend(framealpha=0.85, edgecolor="none", fontsize="small")


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
