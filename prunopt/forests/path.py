"""The whole trade of accuracy against feature cost: every optimal pruning of a forest over the price of features."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunopt.core.solution import CertificateError, Solution, Status, relative_gap
from prunopt.core.solver import Limits
from prunopt.forests.compaction import compacted
from prunopt.forests.routing import path_votes
from prunopt.forests.targets import targets
from prunopt.problems.forest_budget import ForestBudget
from prunopt.problems.prices import FeaturePrices
from prunopt.problems.tree_ensemble import TreeEnsemble

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from prunopt.forms.price_path import PricePath

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
TOLERANCE = 1e-9  # how far the objective of a point may lie from that of the task, relative to max(1, |objective|)


@dataclass(frozen=True, slots=True)
class PathPoint:
    """One optimal pruning, and what it is worth on the rows that the path was computed on.

    Parameters
    ----------
    price, price_exact
        The lowest price of one unit of cost, in units of error, at which the pruning is optimal; as a float, and as
        the rational that it is.
    price_end
        The highest such price; infinite for the last point.
    expected_cost
        Mean cost of a row, in the unit of the feature costs.
    training_error
        Mean error of the trees, each on the rows that judge it (see ``errors``): the error that is minimised, not
        that of the trees' common vote.
    n_nodes
        Internal nodes that stay, of all trees together.
    gap
        Certified relative gap, the largest over ``[price, price_end]``: recomputed from multipliers by a dynamic
        program that shares no code with the flow algorithm.
    bought
        The features, or groups of features, that some node still asks for.
    """

    price: float
    price_exact: Fraction
    price_end: float
    expected_cost: float
    training_error: float
    n_nodes: int
    gap: float
    bought: tuple[str, ...]


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


@dataclass(frozen=True, eq=False)
class BudgetPath:
    r"""Every optimal pruning of a forest over the price of features, as `budget_path` returns it.

    .. math:: f(\lambda) = \min_{\text{prunings}} \; \text{error} + \lambda \cdot \text{cost}

    is concave and piecewise linear in the price :math:`\lambda`; ``points`` holds its pieces, by rising price. Their
    prunings are nested: what a higher price keeps, every lower one keeps too. In the plane of cost and error they are
    the corners of the lower convex hull of all prunings.

    Parameters
    ----------
    forest
        The unpruned forest. It is not changed.
    ensemble
        Its trees as arrays.
    prices
        Features, purchase groups and their costs.
    points : tuple of PathPoint
        By rising price.
    lifetime : (m,) int64
        For each internal node, tree by tree in node-id order, the number of points that keep it: point k keeps the
        nodes with ``lifetime > k``.
    bounds : (n_points,) float
        Certified lower bound on :math:`f` at the ``price`` of every point.
    complete
        False where a time limit or an interrupt left the path coarser than it is; the gaps say how much is open.
    stats
        Counters of the computation.
    """

    forest: Any
    ensemble: TreeEnsemble
    prices: FeaturePrices
    points: tuple[PathPoint, ...]
    lifetime: NDArray[np.int64]
    bounds: Floats
    complete: bool = True
    stats: dict[str, float] = field(default_factory=dict)

    # One point.

    def index(self, *, price: float | None = None, budget: float | None = None) -> int:
        """Return the number of the point that is optimal at ``price``, or of the best one within ``budget``.

        Parameters
        ----------
        price
            Price of one unit of cost, in units of error, >= 0. Where two points are optimal, the cheaper one.
        budget
            Greatest mean cost of a row, in the unit of the feature costs. The best point within it need not be the
            best pruning within it: `solution` tells how far it may be from that.

        Raises
        ------
        ValueError
            If not exactly one of the two is given, or no pruning is as cheap as the budget.
        """
        if (price is None) == (budget is None):
            raise ValueError(f"price={price!r}, budget={budget!r}: give one of the two")
        for name, given in (("price", price), ("budget", budget)):
            if given is not None and (isinstance(given, bool) or not isinstance(given, Real)):
                raise TypeError(f"{name}={given!r}: give a number")
        if price is not None:
            if not price >= 0:
                raise ValueError(f"price={price!r}: give a number >= 0")
            return bisect.bisect_right([p.price for p in self.points], price) - 1
        cheapest = self.points[-1].expected_cost
        assert budget is not None
        if not budget >= cheapest:
            raise ValueError(
                f"budget={budget!r}: the cheapest pruning costs {cheapest:g} per row, the dearest that is worth its "
                f"price {self.points[0].expected_cost:g}; give a budget of at least {cheapest:g}"
            )
        slack = 1e-12 * max(1.0, abs(budget))  # a budget printed from a point's cost is met by that point
        return next(k for k, p in enumerate(self.points) if p.expected_cost <= budget + slack)

    def kept(self, *, price: float | None = None, budget: float | None = None) -> Bools:
        """Return which internal nodes stay, a value of `ForestBudget` (see `index` for the arguments)."""
        return np.asarray(self.lifetime > self.index(price=price, budget=budget))

    def at(self, *, price: float | None = None, budget: float | None = None) -> Any:
        """Return a pruned, genuine scikit-learn forest (see `index` for the arguments)."""
        return compacted(self.forest, self.ensemble, self.kept(price=price, budget=budget))

    def solution(self, *, price: float | None = None, budget: float | None = None) -> Solution[Bools]:
        r"""Return a point with its certificate (see `index` for the arguments).

        At a price, objective and bound are those of error + price * cost. Within a budget B the objective is the
        error, and the bound is that of Lagrange, :math:`\max_\lambda f(\lambda) - \lambda B`, which holds for every
        pruning within the budget, on the hull or not; a gap is left where B lies between the costs of two points.
        """
        k = self.index(price=price, budget=budget)
        point = self.points[k]
        if price is not None:
            objective = point.training_error + price * point.expected_cost
            bound = objective - point.gap * max(1.0, abs(objective))
            message = ""
        else:
            assert budget is not None
            objective = point.training_error
            bound = min(objective, float(np.max(self.bounds - budget * np.array([p.price for p in self.points]))))
            message = f"within {budget:g}: cost {point.expected_cost:g}, error {objective:g}, none is below {bound:g}"
        optimal = relative_gap(objective, bound) <= TOLERANCE
        return Solution(
            Status.OPTIMAL if optimal else Status.FEASIBLE,
            np.asarray(self.lifetime > k),
            objective=objective,
            bound=bound,
            stats={"price": point.price, "expected_cost": point.expected_cost, **self.stats},
            solver="min-cut path",
            message=message,
        )

    # All points.

    def curve(self, X: ArrayLike, y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Curve:
        """Return the error of the forest's vote and the mean cost of every point on other rows.

        Parameters
        ----------
        X : (n, K)
            Rows.
        y : (n,)
            Labels, or numbers for regression. A label that the forest never saw counts as wrong.
        sample_weight : (n,) or None
            Weights >= 0.
        """
        return self.vote(X, y, sample_weight=sample_weight)

    def vote(
        self, X: ArrayLike, y: ArrayLike, *, sample_weight: ArrayLike | None = None, use: Bools | None = None
    ) -> Curve:
        """Return the same as `curve` when only the trees ``use`` (T or 1, n) vote on each row; None = all of them.

        A row without voters pays, but does not count in the error.
        """
        voters = np.ones((1, 1), np.bool_) if use is None else use
        return self._votes(X, y, sample_weight, voters, self.lifetime, len(self.points))

    def unpruned(self, X: ArrayLike, y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Curve:
        """Return the same as `curve` for the forest as it was given: one entry, its price NaN."""
        whole = np.ones_like(self.lifetime)
        return self._votes(X, y, sample_weight, np.ones((1, 1), np.bool_), whole, 1)._replace(price=np.array([np.nan]))

    def _votes(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        use: Bools,
        lifetime: NDArray[np.int64],
        n_points: int,
    ) -> Curve:
        """The curve of the trees that vote on each row, ``use`` (T or 1, n)."""
        e = self.ensemble
        rows = e.rows(X)
        code, target = targets(e, y, len(rows))
        weight = np.ones(len(rows)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        if weight.shape != (len(rows),) or not np.all(np.isfinite(weight)) or np.any(weight < 0) or not weight.any():
            raise ValueError(f"sample_weight: give {len(rows)} finite weights >= 0, not all of them 0")
        use = np.ascontiguousarray(np.broadcast_to(use, (len(use), len(rows))))
        life = np.zeros(e.n_nodes, np.int64)
        life[e.internal] = lifetime
        error, square, cost = np.zeros(n_points), np.zeros(n_points), np.zeros(n_points)
        columns = (e.offsets, e.left, e.right, e.parent, e.feature, e.threshold, e.missing_left, e.value)
        group = (self.prices.group_of, self.prices.group_cost)
        total = path_votes(rows, *columns, life, *group, code, target, weight, use, error, square, cost)
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
        return Curve(np.array([p.price for p in self.points])[:n_points], cost, error, spread, score)

    def to_frame(self) -> pd.DataFrame:
        """Return the points as a pandas DataFrame, one row each."""
        try:
            import pandas as pd
        except ImportError:
            raise ImportError("to_frame needs pandas: pip install pandas") from None
        names = ("price", "price_end", "expected_cost", "training_error", "n_nodes", "gap")
        table = {name: [getattr(p, name) for p in self.points] for name in names}
        return pd.DataFrame({**table, "bought": [", ".join(p.bought) for p in self.points]})

    def plot(
        self, X: ArrayLike | None = None, y: ArrayLike | None = None, ax: Axes | None = None, *, unit: str = ""
    ) -> Axes:
        """Draw error against mean cost per row.

        Parameters
        ----------
        X, y
            Test rows, on which the vote of every point is drawn with its standard error, and that of the unpruned
            forest; None draws only the error on the rows of the path.
        ax
            Axes to draw on; None makes new ones.
        unit
            Unit of the feature costs, for the label.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        from prunopt.forests.pictures import draw_path

        return draw_path(self, X, y, ax, unit)


def budget_path(
    forest: Any,
    X: ArrayLike,
    y: ArrayLike,
    feature_costs: Any,
    *,
    feature_groups: Any = None,
    sample_weight: ArrayLike | None = None,
    loss: str = "misclassification",
    errors: str = "holdout",
    limits: Limits | None = None,
) -> BudgetPath:
    r"""Return every optimal pruning of a fitted forest over the price of features, exactly.

    .. math:: \min_{\text{prunings}} \; \text{mean error of the trees} + \lambda \cdot \text{mean cost of a row}

    is solved for all :math:`\lambda \ge 0` at once, each row paying for a feature (or group) once, wherever in the
    forest it is asked for. Prices at which the optimum changes are exact rationals.

    Parameters
    ----------
    forest
        A fitted random forest, extra trees, bagging of trees, or single tree of scikit-learn. It is not changed.
    X, y
        Rows and targets: held-out ones for ``errors="holdout"``, those that the forest was fitted on otherwise.
    feature_costs
        One price for each feature: an array, a mapping from names, or None (each costs 1).
    feature_groups
        Features that are bought together (see `prunopt.problems.prices.FeaturePrices.of`).
    sample_weight : (n,) or None
        Scales error and cost of a row alike.
    loss
        ``"misclassification"``, ``"gini"`` or ``"log"`` for classifiers; regressors use ``"squared"``.
    errors
        ``"holdout"``, ``"oob"`` or ``"inbag"`` (see `ForestBudget.from_forest`).
    limits
        Time limit; an incomplete path is valid, its gaps tell what is open.

    References
    ----------
    F. Nan, J. Wang, V. Saligrama, "Pruning Random Forests for Prediction on a Budget", NIPS 2016 (the problem).
    """
    from prunopt.solvers.price_path import closure_path

    task = ForestBudget.from_forest(
        forest,
        X,
        y,
        feature_costs,
        0,
        feature_groups=feature_groups,
        sample_weight=sample_weight,
        errors=errors,
        loss=loss,
    )
    return path_of(task, forest, closure_path, limits)


def path_of(task: ForestBudget, forest: Any, closure_path: Any, limits: Limits | None) -> BudgetPath:
    """Compute the path of a task, and check it in the task's own terms."""
    closure, price_unit, error_slack, cost_slack = task.path_closure()
    found: PricePath = closure_path(closure, limits)
    # Blocks leave by rising price. One that costs without gaining (price 0), or whose gain is no more than what
    # rounding may have made of nothing, is never worth having.
    noise = Fraction(error_slack) / closure.unit
    worth = [block.price for block, profit in zip(found.blocks, found.profits, strict=True) if profit > noise]
    leaving = sorted(set(worth))
    starts = [Fraction(0), *leaving]
    rank = {price: r for r, price in enumerate(leaving, start=1)}
    lifetime = np.zeros(closure.n_items, np.int64)
    lifetime[found.always] = len(starts)
    gained, spent = np.zeros(len(starts), object), np.zeros(len(starts), object)
    gained[:] = int(closure.profit[found.always].sum())
    for block, profit, cost in zip(found.blocks, found.profits, found.costs, strict=True):
        stays = rank.get(block.price, 0)
        lifetime[block.items] = stays
        gained[:stays] += profit
        spent[:stays] += cost
    nothing = Fraction(task.error(np.zeros(closure.n_items, np.bool_)))
    errors = [float(nothing - closure.unit * int(a)) for a in gained]
    costs = [float(closure.unit / price_unit * int(c)) for c in spent]
    shift = float(nothing)

    proofs = [shift - float(closure.unit * a) for a in _proven_profits(found, starts)]

    def proven(k: int, start: int) -> tuple[float, float]:
        """The certified bound on the task's optimum where point ``start`` begins, and the gap of point k there."""
        price = float(starts[start] * price_unit)
        bound = proofs[start] - error_slack - price * cost_slack
        objective = errors[k] + price * costs[k]
        # Sums of rationals were rounded to floats on both sides: within that, a proven optimum has gap 0.
        rounding = 1e-13 * max(1.0, abs(objective))
        return min(bound, objective), relative_gap(objective, bound + rounding)

    at_start = [proven(k, k) for k in range(len(starts))]
    at_end = [proven(k, min(k + 1, len(starts) - 1)) for k in range(len(starts))]
    bought = _asked_groups(task, lifetime, len(starts))
    points = tuple(
        PathPoint(
            price=float(p * price_unit),
            price_exact=p * price_unit,
            price_end=math.inf if k + 1 == len(starts) else float(starts[k + 1] * price_unit),
            expected_cost=costs[k],
            training_error=errors[k],
            n_nodes=int(np.count_nonzero(lifetime > k)),
            gap=max(at_start[k][1], at_end[k][1]),
            bought=bought[k],
        )
        for k, p in enumerate(starts)
    )
    _recheck(task, points, lifetime, error_slack, cost_slack)
    bounds = np.array([bound for bound, _ in at_start])
    return BudgetPath(forest, task.ensemble, task.prices, points, lifetime, bounds, found.complete, dict(found.stats))


def _proven_profits(found: PricePath, prices: Sequence[Fraction]) -> list[Fraction]:
    """`PricePath.bound` at many rising prices, as profits: one pass over the blocks instead of one for each price."""
    rest, *proofs = found.proofs
    rows = list(zip(found.blocks, proofs, strict=True))
    # A block's bound is that at its own price for every higher price, and linear in the price below it.
    constant = rest[1] + sum(own for _, (own, _) in rows)
    slope = Fraction(0)
    out: list[Fraction] = []
    for price in reversed(prices):
        while rows and rows[0][0].price >= price and rows[0][0].price > 0:
            block, (own, free) = rows.pop(0)
            constant += free - own
            slope += (own - free) / block.price
        out.append(constant + price * slope)
    return out[::-1]


def _asked_groups(task: ForestBudget, lifetime: NDArray[np.int64], n_points: int) -> list[tuple[str, ...]]:
    """The names of the groups that the nodes of each point ask for."""
    group = task.prices.group_of[task.ensemble.feature[task.ensemble.internal]]
    until = np.zeros(len(task.prices.group_cost), np.int64)
    np.maximum.at(until, group, lifetime)
    names = task.prices.group_names
    return [tuple(name for name, u in zip(names, until, strict=True) if u > k) for k in range(n_points)]


def _recheck(
    task: ForestBudget, points: Sequence[PathPoint], lifetime: NDArray[np.int64], error_slack: float, cost_slack: float
) -> None:
    """Evaluate the first, middle and last point from scratch: trees walked row by row."""
    for k in sorted({0, len(points) // 2, len(points) - 1}):
        kept, point = lifetime > k, points[k]
        if task.violation(kept) > 0:
            raise CertificateError(f"point {k} of the path keeps nodes whose parent it drops")
        for what, stated, found, slack in (
            ("error", point.training_error, task.error(kept), error_slack),
            ("cost", point.expected_cost, task.cost(kept), cost_slack),
        ):
            if abs(stated - found) > TOLERANCE * max(1.0, abs(found)) + slack:
                raise CertificateError(f"point {k} of the path states the {what} {stated}, it is {found}")
