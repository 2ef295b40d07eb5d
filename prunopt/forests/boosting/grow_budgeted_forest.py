"""One forest grown at a penalty on feature costs, or for a budget: the building block on its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import wraps
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import AnyArray, Bools, Bytes, Floats
from prunopt.core.deprecation import renamed_arguments, renamed_attributes, warn
from prunopt.core.validate import Shown, floats, invalid, require
from prunopt.core.validate import sample_weight as checked_weight
from prunopt.forests.boosting.binning import QuantileBins
from prunopt.forests.boosting.cost_efficient_boosting import Problem, Shape, boost, largest_penalty
from prunopt.forests.boosting.losses import Classification, Loss, Squares
from prunopt.forests.boosting.trees import GrownForest
from prunopt.problems.forest._cost_parsing import of_rows
from prunopt.problems.forest.feature_costs import FeatureCosts

DEFAULT = Shape(learning_rate=0.3, n_trees=40)
HALVINGS = 12
F = TypeVar("F", bound=Callable[..., Any])


@renamed_attributes(price="penalty", prices="feature_costs", bought="acquired_groups")
@dataclass(frozen=True, eq=False)
class BudgetedTrees:
    """A boosted forest that knows what it acquires, as `grow_budgeted_forest` returns it.

    Parameters
    ----------
    trees : GrownForest
        The trees, over binned features.
    bins : QuantileBins
        The bins.
    loss
        What the scores mean.
    feature_costs : FeatureCosts
        Groups and their costs.
    classes : (C,) array or None
        The labels; None for regression.
    penalty
        The multiplier of the cost of a row, in units of loss (negative log likelihood, or half the squared error), that
        the trees were grown at.
    acquired_groups : (n, G) bool
        The groups acquired for each training row.
    expected_cost
        Mean cost of a training row.
    names
        Names of the features, where they have some.
    """

    trees: GrownForest
    bins: QuantileBins
    loss: Loss
    feature_costs: FeatureCosts
    classes: AnyArray | None
    penalty: float
    acquired_groups: Bools
    expected_cost: float
    names: tuple[str, ...] | None = None

    def predict(self, X: ArrayLike) -> AnyArray:
        """Return labels or numbers (n,)."""
        values = self.loss.predictions(self.trees.scores(self._codes(X)))
        return values[:, 0] if self.classes is None else self.classes[values.argmax(axis=1)]

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Return class probabilities (n, C)."""
        if self.classes is None:
            raise AttributeError("predict_proba needs classes; the trees were grown for regression")
        return self.loss.predictions(self.trees.scores(self._codes(X)))

    def acquired(self, X: ArrayLike) -> Bools:
        """Return which features are acquired for each row, (n, K): those of every group that some node asks for."""
        return self.feature_costs.features(self.trees.groups(self._codes(X), self.feature_costs))

    def costs(self, X: ArrayLike, feature_costs: Any = None, known: Any = None) -> Floats:
        """Return the cost of each row; costs and known features as they were given, unless these rows have others."""
        codes = self._codes(X)
        costs = self.feature_costs.for_other_rows(len(codes), feature_costs, known, self.names)
        groups, mask = self.trees.groups(codes, costs), costs.known_groups
        return costs.of_rows(groups & ~mask if len(mask) else groups)

    def _codes(self, X: ArrayLike) -> Bytes:
        rows = np.asarray(X, np.float64)
        fits = rows.ndim == 2 and rows.shape[1] == len(self.bins.edges)
        require(fits, "X", f"have shape (n, {len(self.bins.edges)})", rows)
        return self.bins(rows)


def _shape_from_options(function: F) -> F:
    """Let `grow_budgeted_forest` take the fields of its shape as keywords for one more release."""
    names = {field.name for field in fields(Shape)}

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        old = {name: options.pop(name) for name in names & options.keys()}
        if old:
            warn(f"grow_budgeted_forest({', '.join(sorted(old))})", "shape=Shape(...)")
            options["shape"] = replace(options.get("shape", DEFAULT), **old)
        return function(*arguments, **options)

    return call  # type: ignore[return-value]


@_shape_from_options
@renamed_arguments(price="penalty")
def grow_budgeted_forest(
    X: ArrayLike,
    y: ArrayLike,
    feature_costs: Any = None,
    *,
    penalty: float | None = None,
    budget: float | None = None,
    feature_groups: Any = None,
    known: Any = None,
    sample_weight: ArrayLike | None = None,
    regression: bool = False,
    shape: Shape = DEFAULT,
) -> BudgetedTrees:
    r"""Grow a boosted forest in which every split is penalized for the features that its rows have not acquired yet.

    .. math:: \text{worth}(\text{split of } R \text{ on } k) = \tfrac12 \sum_c \Bigl(
        \frac{G_{Lc}^2}{H_{Lc} + \rho} + \frac{G_{Rc}^2}{H_{Rc} + \rho} - \frac{G_c^2}{H_c + \rho} \Bigr)
        - \lambda \, c_{g(k)} \sum_{i \in R} w_i [\, i \text{ has not acquired } g(k)]

    Trees grow leaf by leaf; all trees share the acquired features; missing values go to the side that each split
    learns; with more than two classes, a leaf has a value for each. A split is made only when its worth is positive.

    Parameters
    ----------
    X : (n, K)
        Rows; NaN = missing.
    y : (n,)
        Labels, or numbers with ``regression=True``.
    feature_costs
        Cost of each feature (array, or mapping from names ``x0, x1, ...`` or a DataFrame's); None = 1 each.
    penalty
        The multiplier :math:`\lambda` >= 0 of the cost of a row, in units of loss; 0 = ordinary boosting, infinity
        acquires nothing that costs. Give this or ``budget``.
    budget
        Greatest mean cost of a training row: the lowest penalty within it is found by halving. With neither, a tenth
        of the largest penalty that acquires anything.
    feature_groups
        Features acquired together, as in `prunopt.problems.forest.feature_costs.FeatureCosts.of`.
    known
        Features that are known already, hence free: for all rows, or for each (n, K).
    sample_weight : (n,) or None
        Weights >= 0; scale loss and cost of a row alike.
    regression
        Whether ``y`` holds numbers.
    shape
        Size of the forest, see `prunopt.forests.boosting.Shape`.

    Raises
    ------
    ValueError
        For rows, costs or options that do not fit; the message names them and the mend.

    References
    ----------
    G. Ke et al., "LightGBM", NeurIPS 2017 (leaf-wise growing); F. Nan, J. Wang, V. Saligrama, "Pruning random forests
    for prediction on a budget", NIPS 2016 (each feature costs a row once).
    """
    names = tuple(map(str, X.columns)) if hasattr(X, "columns") else None
    rows = np.asarray(X, np.float64)
    require(rows.ndim == 2 and rows.size, "X", "have at least one row and one feature, (n, K)", rows)
    require(not np.any(np.isinf(rows)), "X", "hold finite numbers", Shown("infinity"), "NaN is missing")
    given = Shown(f"penalty={penalty!r} and budget={budget!r}")
    require(penalty is None or budget is None, "penalty", "be given without budget", given, "give one of the two")
    for name, value in (("penalty", penalty), ("budget", budget)):
        require(value is None or value >= 0, name, "be a number >= 0", value)
    classes, target, loss = _target(y, len(rows), regression)
    weight = checked_weight(sample_weight, len(rows))
    feature_costs = of_rows(feature_costs, X)
    costs = FeatureCosts.of(feature_costs, rows.shape[1], names, feature_groups, known).for_rows(len(rows))
    used = np.flatnonzero(weight)
    bins = QuantileBins.of(rows[used], shape.max_bins)
    data = Problem(bins(rows[used]), target[used], weight[used], costs.take(used), loss, bins.n_codes)
    unit = loss.scale**2 if isinstance(loss, Squares) else 1.0

    def grown(at: float) -> BudgetedTrees:
        trees, acquired = boost(data, shape, at)
        everywhere = np.zeros((len(rows), acquired.shape[1]), np.bool_)
        everywhere[used] = acquired
        cost = float(data.weight @ data.feature_costs.of_rows(acquired) / data.weight.sum())
        return BudgetedTrees(trees, bins, loss, costs, classes, at * unit, everywhere, cost, names)

    largest = largest_penalty(data, shape.ridge, shape.min_rows) if penalty is None else 0.0
    if budget is None:
        return grown(largest / 10 if penalty is None else penalty / unit)
    low, high = 0.0, 2.0 * largest
    best = grown(0.0)
    if best.expected_cost <= budget:
        return best
    best = grown(np.inf)
    for _ in range(HALVINGS):
        # Penalties matter by their ratio; near 0 the halves become the same as quarters of the whole range.
        middle = np.sqrt(low * high) if low > 0 else high / 8
        here = grown(middle)
        if here.expected_cost <= budget:
            best, high = here, middle
        else:
            low = middle
    return best


def _target(y: ArrayLike, n: int, regression: bool) -> tuple[AnyArray | None, Floats, Loss]:
    given = np.asarray(y)
    require(given.shape == (n,), "y", f"have shape ({n},)", Shown(f"shape {given.shape}"))
    if not regression:
        classes, code = np.unique(given, return_inverse=True)
        if len(classes) < 2:
            raise invalid("y", "hold two classes or more", Shown(f"one class only, {classes[0]!r}"))
        return classes, code.astype(np.float64), Classification(len(classes))
    numbers = floats("y", given, mend="drop those rows")
    return None, numbers, squares_for(numbers)


def squares_for(target: Floats) -> Squares:
    """Return the loss that standardizes ``target``."""
    spread = float(target.std())
    return Squares(float(target.mean()), spread if spread > 0 else 1.0)
