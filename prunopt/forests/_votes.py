"""What the prunings of a path are worth on rows: the forest's vote, and what the rows pay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunopt.core.arrays import Bools, Floats
from prunopt.forests._routing import path_votes
from prunopt.problems.forest.feature_costs import FeaturePrices
from prunopt.problems.forest.node_errors import targets

if TYPE_CHECKING:
    from prunopt.forests.path import BudgetPath


class Curve(NamedTuple):
    """What the points of a path are worth on some rows; one entry for each point, by rising price.

    Parameters
    ----------
    price
        Lowest price at which the point is optimal.
    expected_cost
        Mean cost of a row.
    error
        Error of the forest's vote: the share of wrong labels, or the mean squared error.
    standard_error
        Standard error of ``error`` as a mean over rows.
    score
        What ``forest.score`` returns: accuracy, or R^2.
    """

    price: Floats
    expected_cost: Floats
    error: Floats
    standard_error: Floats
    score: Floats


def len_of(X: Any) -> int:
    """Return the number of rows of whatever has rows."""
    return int(X.shape[0]) if hasattr(X, "shape") else len(X)


def votes(
    path: BudgetPath,
    X: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    use: Bools | None,
    lifetime: NDArray[np.int64] | None,
    prices: FeaturePrices,
) -> Curve:
    """Return the curve of the trees that vote on each row, ``use`` (T or 1, n); None = all.

    ``lifetime`` says at how many points each internal node stays; None = one point, at which everything stays.
    """
    e, whole = path.ensemble, lifetime is None
    rows = e.rows(X)
    prices.for_rows(len(rows))
    code, target = targets(e, y, len(rows))
    weight = np.ones(len(rows)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    if weight.shape != (len(rows),) or not np.all(np.isfinite(weight)) or np.any(weight < 0) or not weight.any():
        raise ValueError(f"sample_weight: give {len(rows)} finite weights >= 0, not all of them 0")
    voters = np.ones((1, 1), np.bool_) if use is None else use
    voters = np.ascontiguousarray(np.broadcast_to(voters, (len(voters), len(rows))))
    life = np.zeros(e.n_nodes, np.int64)
    life[e.internal] = np.ones(len(e.internal), np.int64) if lifetime is None else lifetime
    n_points = 1 if whole else len(path.points)
    error, square, cost = np.zeros(n_points), np.zeros(n_points), np.zeros(n_points)
    columns = (e.offsets, e.left, e.right, e.parent, e.feature, e.threshold, e.missing_left, e.value)
    charges = (prices.feature_charges, prices.charge_cost, prices.known_mask)
    total = path_votes(rows, *columns, life, *charges, code, target, weight, voters, error, square, cost)
    if total == 0:
        raise ValueError("errors: no row has a tree that may vote on it")
    error, square, cost = error / total, square / total, cost / weight.sum()
    spread = np.sqrt(np.maximum(square - error**2, 0.0) * np.square(weight).sum()) / weight.sum()
    if e.classes is None:
        mean = np.average(target, weights=weight)
        variance = np.average(np.square(target - mean), weights=weight)
        score = 1.0 - error / variance if variance > 0 else np.where(error == 0, 1.0, 0.0)
    else:
        score = 1.0 - error
    price = np.array([np.nan]) if whole else np.array([p.price for p in path.points])
    return Curve(price, cost, error, spread, score)
