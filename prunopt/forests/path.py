"""The whole trade of accuracy against feature cost: every optimal pruning of a forest over the penalty of cost."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.deprecation import renamed_arguments, renamed_attributes
from prunopt.core.solution import Solution, Status, relative_gap
from prunopt.core.validate import Shown, require
from prunopt.forests._votes import Curve, len_of, votes
from prunopt.forests.sklearn_trees import compacted
from prunopt.problems.forest.feature_costs import FeatureCosts
from prunopt.problems.forest.tree_ensemble import TreeEnsemble

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

TOLERANCE = 1e-9  # how far the objective of a point may lie from that of the task, relative to max(1, |objective|)


def pruned_model(forest: Any, ensemble: TreeEnsemble, kept: Bools) -> Any:
    """Return the forest or booster in which only the internal nodes ``kept`` stay split, in its own library."""
    from prunopt.forests.boosters.reading import booster_of, in_its_library

    booster = booster_of(forest)
    return compacted(forest, ensemble, kept) if booster is None else in_its_library(forest, booster.pruned(kept))


@renamed_attributes(price="penalty", price_exact="penalty_exact", price_end="penalty_end", bought="acquired")
@dataclass(frozen=True, slots=True)
class PathPoint:
    """One optimal pruning, and what it is worth on the rows that the path was computed on.

    Parameters
    ----------
    penalty, penalty_exact
        The lowest penalty, in units of error for one unit of cost, at which the pruning is optimal; as a float, and as
        the rational that it is.
    penalty_end
        The highest such penalty; infinite for the last point.
    expected_cost
        Mean cost of a row, in the unit of the feature costs.
    training_error
        Mean error of the trees, each on the rows that judge it (see ``errors``): the error that is minimized, not
        that of the trees' common vote.
    n_nodes
        Internal nodes that stay, of all trees together.
    gap
        Certified relative gap, the largest over ``[penalty, penalty_end]``: recomputed from multipliers by a dynamic
        program that shares no code with the flow algorithm.
    acquired
        The features, or groups of features, that some node still asks for.
    """

    penalty: float
    penalty_exact: Fraction
    penalty_end: float
    expected_cost: float
    training_error: float
    n_nodes: int
    gap: float
    acquired: tuple[str, ...]


@renamed_attributes(prices="feature_costs", prices_for="costs_for")
@dataclass(frozen=True, eq=False)
class BudgetPath:
    r"""Every optimal pruning of a forest over the penalty of cost, as `budget_path` returns it.

    .. math:: f(\lambda) = \min_{\text{prunings}} \; \text{error} + \lambda \cdot \text{cost}

    is concave and piecewise linear in the penalty :math:`\lambda`; ``points`` holds its pieces, by rising penalty.
    Their prunings are nested: what a higher penalty keeps, every lower one keeps too. In the plane of cost and error
    they are the corners of the lower convex hull of all prunings.

    Parameters
    ----------
    forest
        The unpruned forest. It is not changed.
    ensemble
        Its trees as arrays.
    feature_costs
        Features, their groups and costs.
    points : tuple of PathPoint
        By rising penalty.
    lifetime : (m,) int64
        For each internal node, tree by tree in node-id order, the number of points that keep it: point k keeps the
        nodes with ``lifetime > k``.
    bounds : (n_points,) float
        Certified lower bound on :math:`f` at the ``penalty`` of every point.
    complete
        False where a time limit or an interrupt left the path coarser than it is; the gaps say how much is open.
    stats
        Counters of the computation.
    """

    forest: Any
    ensemble: TreeEnsemble
    feature_costs: FeatureCosts
    points: tuple[PathPoint, ...]
    lifetime: Ints
    bounds: Floats
    complete: bool = True
    stats: dict[str, float] = field(default_factory=dict)

    # One point.

    @renamed_arguments(price="penalty")
    def index(self, *, penalty: float | None = None, budget: float | None = None) -> int:
        """Return the number of the point that is optimal at ``penalty``, or of the best one within ``budget``.

        Parameters
        ----------
        penalty
            Multiplier of the cost, >= 0, in units of error. Where two points are optimal, the cheaper one.
        budget
            Greatest mean cost of a row, in the unit of the feature costs. The best point within it need not be the
            best pruning within it: `solution` tells how far it may be from that.

        Raises
        ------
        ValueError
            If not exactly one of the two is given, or no pruning is as cheap as the budget.
        """
        both = Shown(f"penalty={penalty!r} and budget={budget!r}")
        require((penalty is None) != (budget is None), "penalty", "be given, or budget, not both", both)
        for name, given in (("penalty", penalty), ("budget", budget)):
            if given is not None and (isinstance(given, bool) or not isinstance(given, Real)):
                raise TypeError(f"{name} must be a number, got {given!r}")
        if penalty is not None:
            require(penalty >= 0, "penalty", "be a number >= 0", penalty)
            return bisect.bisect_right([p.penalty for p in self.points], penalty) - 1
        cheapest = self.points[-1].expected_cost
        assert budget is not None
        most = self.points[0].expected_cost
        mend = f"the prunings of the path cost {cheapest:g} to {most:g} per row"
        require(budget >= cheapest, "budget", f"be at least {cheapest:g}", budget, mend)
        slack = 1e-12 * max(1.0, abs(budget))  # a budget printed from a point's cost is met by that point
        return next(k for k, p in enumerate(self.points) if p.expected_cost <= budget + slack)

    @renamed_arguments(price="penalty")
    def kept(self, *, penalty: float | None = None, budget: float | None = None) -> Bools:
        """Return which internal nodes stay, a value of `ForestBudget` (see `index` for the arguments)."""
        return np.asarray(self.lifetime > self.index(penalty=penalty, budget=budget))

    @renamed_arguments(price="penalty")
    def at(self, *, penalty: float | None = None, budget: float | None = None) -> Any:
        """Return a pruned model of the forest's own library (see `index` for the arguments)."""
        return pruned_model(self.forest, self.ensemble, self.kept(penalty=penalty, budget=budget))

    @renamed_arguments(price="penalty")
    def solution(self, *, penalty: float | None = None, budget: float | None = None) -> Solution[Bools]:
        r"""Return a point with its certificate (see `index` for the arguments).

        At a penalty, objective and bound are those of error + penalty * cost. Within a budget B the objective is the
        error, and the bound is that of Lagrange, :math:`\max_\lambda f(\lambda) - \lambda B`, which holds for every
        pruning within the budget, on the hull or not; a gap is left where B lies between the costs of two points.
        """
        k = self.index(penalty=penalty, budget=budget)
        point = self.points[k]
        if penalty is not None:
            objective = point.training_error + penalty * point.expected_cost
            bound = objective - point.gap * max(1.0, abs(objective))
            message = ""
        else:
            assert budget is not None
            objective = point.training_error
            bound = min(objective, float(np.max(self.bounds - budget * np.array([p.penalty for p in self.points]))))
            message = f"within {budget:g}: cost {point.expected_cost:g}, error {objective:g}, none is below {bound:g}"
        optimal = relative_gap(objective, bound) <= TOLERANCE
        return Solution(
            Status.OPTIMAL if optimal else Status.FEASIBLE,
            np.asarray(self.lifetime > k),
            objective=objective,
            bound=bound,
            stats={"penalty": point.penalty, "expected_cost": point.expected_cost, **self.stats},
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
            Costs of these rows, and what is known of them, where they differ from those of the path (see
            `prunopt.forests.FeatureCosts.of`; groups stay those of the path). A path with costs or known features for
            each of its rows needs the same for other rows.
        use : (T or 1, n) bool or None
            Which trees vote on each row; None = all of them. A row without voters counts in the cost, not
            in the error.
        """
        costs = self.costs_for(len_of(X), feature_costs, known)
        penalty = np.array([p.penalty for p in self.points])
        return votes(self.ensemble, penalty, self.lifetime, X, y, costs, sample_weight=sample_weight, use=use)

    def unpruned(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        feature_costs: Any = None,
        known: Any = None,
    ) -> Curve:
        """Return the same as `curve` for the forest as it was given: one entry, its penalty NaN."""
        costs = self.costs_for(len_of(X), feature_costs, known)
        everything = np.ones_like(self.lifetime)
        return votes(self.ensemble, np.array([np.nan]), everything, X, y, costs, sample_weight=sample_weight)

    def costs_for(self, n: int, feature_costs: Any = None, known: Any = None) -> FeatureCosts:
        """Return the costs of ``n`` rows: those of the path, or others for the same groups."""
        return self.feature_costs.for_other_rows(n, feature_costs, known, self.ensemble.feature_names)

    def to_frame(self) -> pd.DataFrame:
        """Return the points as a pandas DataFrame, one row each."""
        try:
            import pandas as pd
        except ImportError:
            raise ImportError("to_frame needs pandas: pip install pandas") from None
        names = ("penalty", "penalty_end", "expected_cost", "training_error", "n_nodes", "gap")
        table = {name: [getattr(p, name) for p in self.points] for name in names}
        return pd.DataFrame({**table, "acquired": [", ".join(p.acquired) for p in self.points]})

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

    @renamed_arguments(price="penalty")
    def plot_sizes(
        self, ax: Axes | None = None, *, penalty: float | None = None, budget: float | None = None, unit: str = ""
    ) -> Axes:
        """Draw how many internal nodes every tree had, and how many one point of the path keeps (see `index`)."""
        from prunopt.forests.pictures import draw_sizes

        return draw_sizes(self, ax, unit, self.index(penalty=penalty, budget=budget))

    @renamed_arguments(price="penalty")
    def plot_tree(
        self,
        tree: int,
        ax: Axes | None = None,
        *,
        penalty: float | None = None,
        budget: float | None = None,
        names: Mapping[str, str] | None = None,
    ) -> Axes:
        """Draw one tree, and in gray what one point of the path prunes away (see `index`).

        Parameters
        ----------
        tree
            Number of the tree.
        ax
            Axes to draw on; None makes new ones, large enough for trees of a few dozen leaves.
        penalty, budget
            Which point.
        names
            What to call the features, where the forest was fitted on columns without names: from ``x0`` and so on.
        """
        from prunopt.forests.pictures import draw_tree

        return draw_tree(self, tree, ax, self.index(penalty=penalty, budget=budget), names)
