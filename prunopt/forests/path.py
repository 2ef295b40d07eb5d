"""The whole trade of accuracy against feature cost: every optimal pruning of a forest over the price of features."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunopt.core.arrays import Bools, Floats
from prunopt.core.solution import Solution, Status, relative_gap
from prunopt.core.solver import Limits
from prunopt.forests._votes import Curve, len_of, votes
from prunopt.forests.sklearn_trees import compacted
from prunopt.problems.forest.feature_costs import FeaturePrices
from prunopt.problems.forest.tree_ensemble import TreeEnsemble

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

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

    def curve(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        feature_costs: Any = None,
        known: Any = None,
        use: Bools | None = None,
    ) -> Curve:
        """Return the error of the forest's vote and the mean cost of every point on other rows.

        Parameters
        ----------
        X : (n, K)
            Rows.
        y : (n,)
            Labels, or numbers for regression. A label that the forest never saw counts as wrong.
        sample_weight : (n,) or None
            Weights >= 0.
        feature_costs, known
            Prices of these rows, and what is known of them, where they differ from those of the path (see
            `prunopt.forests.FeaturePrices.of`; purchase groups stay those of the path). A path with a price or known
            features for each of its rows needs the like for other rows.
        use : (T or 1, n) bool or None
            Which trees vote on each row; None = all of them. A row without voters pays, but does not count in the
            error.
        """
        return votes(self, X, y, sample_weight, use, self.lifetime, self.prices_for(len_of(X), feature_costs, known))

    def unpruned(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        feature_costs: Any = None,
        known: Any = None,
    ) -> Curve:
        """Return the same as `curve` for the forest as it was given: one entry, its price NaN."""
        prices = self.prices_for(len_of(X), feature_costs, known)
        return votes(self, X, y, sample_weight, None, None, prices)

    def prices_for(self, n: int, feature_costs: Any = None, known: Any = None) -> FeaturePrices:
        """Return the prices of ``n`` rows: those of the path, or others for the same purchase groups."""
        return self.prices.repriced(n, feature_costs, known, self.ensemble.feature_names)

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
        self,
        X: ArrayLike | None = None,
        y: ArrayLike | None = None,
        ax: Axes | None = None,
        *,
        unit: str = "",
        neighbours: Mapping[str, Any] | None = None,
        folds: Any = None,
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
        neighbours
            What to compare with: from labels to ``(cost, error)`` or ``(cost, error, spread)`` arrays, to what `curve`
            returns, or to other paths. A spread is drawn as error bars.
        folds
            Curves of several folds or splits (each what `curve` of its own path returns, or ``(cost, error)``): their
            mean within each of a dozen budgets is drawn, with the standard deviation from fold to fold.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        from prunopt.forests.pictures import draw_path

        return draw_path(self, X, y, ax, unit, neighbours, folds)

    def plot_sizes(
        self, ax: Axes | None = None, *, price: float | None = None, budget: float | None = None, unit: str = ""
    ) -> Axes:
        """Draw how many tests every tree had, and how many one point of the path keeps (see `index`)."""
        from prunopt.forests.pictures import draw_sizes

        return draw_sizes(self, ax, unit, price, budget)

    def plot_tree(
        self,
        tree: int,
        ax: Axes | None = None,
        *,
        price: float | None = None,
        budget: float | None = None,
        names: Mapping[str, str] | None = None,
    ) -> Axes:
        """Draw one tree, and in grey what one point of the path prunes away (see `index`).

        Parameters
        ----------
        tree
            Number of the tree.
        ax
            Axes to draw on; None makes new ones, large enough for trees of a few dozen leaves.
        price, budget
            Which point.
        names
            What to call the features, where the forest was fitted on columns without names: from ``x0`` and so on.
        """
        from prunopt.forests.pictures import draw_tree

        return draw_tree(self, tree, ax, self.index(price=price, budget=budget), names)


def budget_path(
    forest: Any,
    X: ArrayLike,
    y: ArrayLike,
    feature_costs: Any,
    *,
    feature_groups: Any = None,
    known: Any = None,
    sample_weight: ArrayLike | None = None,
    loss: str = "misclassification",
    errors: str = "holdout",
    limits: Limits | None = None,
    n_jobs: int | None = None,
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
        One price for each feature: an array, a mapping from names, or None (each costs 1); a price for each row and
        feature (n, K); `Prices` with discounts for further tests of a group; or a `CostSum` of several currencies.
    feature_groups
        Features that are bought together (see `prunopt.problems.forest.feature_costs.FeaturePrices.of`).
    known
        Features that are known already, hence free: a bool for each feature, for each row and feature (n, K), or a
        list of names.
    sample_weight : (n,) or None
        Scales error and cost of a row alike.
    loss
        ``"misclassification"``, ``"gini"`` or ``"log"`` for classifiers; regressors use ``"squared"``.
    errors
        ``"holdout"``, ``"oob"`` or ``"inbag"`` (see `ForestBudget.from_forest`).
    limits
        Time limit; an incomplete path is valid, its gaps tell what is open.
    n_jobs
        Intervals of prices solved at the same time through joblib, as `joblib.parallel_config` says (a Dask or Ray
        cluster, too). None: one after the other. The path is the same.

    References
    ----------
    F. Nan, J. Wang, V. Saligrama, "Pruning Random Forests for Prediction on a Budget", NIPS 2016 (the problem).
    """
    from prunopt.forests.breakpoints import path_of
    from prunopt.problems.forest.forest_budget import ForestBudget
    from prunopt.solvers.closure.parametric_cut import closure_path

    task = ForestBudget.from_forest(
        forest,
        X,
        y,
        feature_costs,
        0,
        feature_groups=feature_groups,
        known=known,
        sample_weight=sample_weight,
        errors=errors,
        loss=loss,
    )
    return path_of(task, forest, partial(closure_path, n_jobs=n_jobs), limits)
