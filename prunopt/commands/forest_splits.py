"""The same analysis on many random splits: what one small test set says about a curve is mostly chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from prunopt.forests.path import BudgetPath

FEW_ROWS, SPLITS = 1000, 20  # up to so many rows, so many splits unless the user says otherwise
GRID = 120  # budgets of the mean curve


@dataclass(frozen=True)
class Splits:
    """Test scores of the paths of many splits, each at the same budgets.

    Parameters
    ----------
    budgets : (B,) float
        Rising.
    scores : (S, B) float
        Score on the test rows of each split of the best point of its path within each budget.
    unpruned : (S,) float
        Score of its unpruned forest.
    stopped
        Whether an interrupt came before the last split.
    """

    budgets: NDArray[np.float64]
    scores: NDArray[np.float64]
    unpruned: NDArray[np.float64]
    stopped: bool

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean score at each budget."""
        return np.asarray(self.scores.mean(axis=0))

    @property
    def spread(self) -> NDArray[np.float64]:
        """Standard deviation of the score from split to split. (Splits share rows: no standard error of the mean.)"""
        return np.asarray(self.scores.std(axis=0, ddof=1 if len(self.scores) > 1 else 0))

    def at(self, budget: float) -> float:
        """Return the mean score within ``budget``."""
        return float(self.mean[self.index(budget)])

    def index(self, budget: float) -> int:
        """Return which of the budgets is the largest within ``budget``."""
        return max(int(np.searchsorted(self.budgets, budget * (1 + 1e-12), side="right")) - 1, 0)


def default_splits(n_rows: int) -> int:
    """Return how many splits a table of ``n_rows`` is worth."""
    return SPLITS if n_rows <= FEW_ROWS else 0


def repeated(
    analyse: Callable[[int], tuple[BudgetPath, Any, Any]], n_splits: int, budgets: NDArray[np.float64], seed: int
) -> Splits | None:
    """Analyze ``n_splits`` random splits.

    Parameters
    ----------
    analyse
        From a seed to a path, and its test rows and targets.
    n_splits
        How many; an interrupt leaves those that are done, None if it is none.
    budgets
        Costs that have to be among the budgets.
    seed
        The first seed; the others follow it.
    """
    grid = np.unique(np.concatenate([np.linspace(0.0, float(budgets.max()), GRID), budgets]))
    scores: list[NDArray[np.float64]] = []
    whole: list[float] = []
    stopped = False
    try:
        for k in range(n_splits):
            path, X, y = analyse(seed + k)
            score = path.curve(X, y).score
            least = path.points[-1].expected_cost
            at = [path.index(budget=max(float(b), least)) for b in grid]
            unpruned = float(path.unpruned(X, y).score[0])
            scores.append(score[at])
            whole.append(unpruned)
    except KeyboardInterrupt:
        stopped = True
    if not scores:
        return None
    return Splits(grid, np.array(scores), np.array(whole), stopped)
