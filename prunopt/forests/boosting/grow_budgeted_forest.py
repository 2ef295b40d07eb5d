"""One forest grown under a price on features, or for a budget: the building block, for those who want it bare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunopt.core.arrays import Bools, Floats
from prunopt.forests.boosting.binning import QuantileBins
from prunopt.forests.boosting.boosting import Problem, Shape, boost, dearest_price, known_groups
from prunopt.forests.boosting.losses import Classification, Loss, Squares
from prunopt.forests.boosting.trees import GrownForest
from prunopt.problems.forest.feature_costs import FeaturePrices

HALVINGS = 12


@dataclass(frozen=True, eq=False)
class BudgetedTrees:
    """A boosted forest that knows what it buys, as `grow_budgeted_forest` returns it.

    Parameters
    ----------
    trees : GrownForest
        The trees, over binned features.
    bins : QuantileBins
        The bins.
    loss
        What the scores mean.
    prices : FeaturePrices
        Groups and their costs.
    classes : (C,) array or None
        The labels; None for regression.
    price
        The price of one unit of cost for one row, in units of loss (negative log likelihood, or half the squared
        error), that the trees were grown at.
    bought : (n, G) bool
        The groups bought for each training row.
    expected_cost
        Mean cost of a training row.
    names
        Names of the features, where they have some.
    """

    trees: GrownForest
    bins: QuantileBins
    loss: Loss
    prices: FeaturePrices
    classes: NDArray[Any] | None
    price: float
    bought: Bools
    expected_cost: float
    names: tuple[str, ...] | None = None

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return labels or numbers (n,)."""
        values = self.loss.predictions(self.trees.scores(self._codes(X)))
        return values[:, 0] if self.classes is None else self.classes[values.argmax(axis=1)]

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Return class probabilities (n, C)."""
        if self.classes is None:
            raise AttributeError("predict_proba: grown for regression, there are no classes")
        return self.loss.predictions(self.trees.scores(self._codes(X)))

    def acquired(self, X: ArrayLike) -> Bools:
        """Return which features are bought for each row, (n, K): those of every group that some node asks for."""
        group_of = self.prices.group_of.astype(np.int32)
        return self.prices.features(self.trees.purchases(self._codes(X), group_of, len(self.prices.group_cost)))

    def costs(self, X: ArrayLike, feature_costs: Any = None, known: Any = None) -> Floats:
        """Return the cost of each row; prices and known features as they were given, unless these rows have others."""
        codes, names = self._codes(X), self.names
        prices = self.prices.repriced(len(codes), feature_costs, known, names)
        groups = self.trees.purchases(codes, prices.group_of.astype(np.int32), len(prices.group_cost))
        mask = known_groups(prices)
        return prices.bill(groups & ~mask if len(mask) else groups)

    def _codes(self, X: ArrayLike) -> NDArray[np.uint8]:
        rows = np.asarray(X, np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.bins.edges):
            raise ValueError(f"X: shape {rows.shape} given, (n, {len(self.bins.edges)}) is needed")
        return self.bins(rows)


def grow_budgeted_forest(
    X: ArrayLike,
    y: ArrayLike,
    feature_costs: ArrayLike | Mapping[str, float] | Any = None,
    *,
    price: float | None = None,
    budget: float | None = None,
    feature_groups: Any = None,
    known: Any = None,
    sample_weight: ArrayLike | None = None,
    regression: bool = False,
    n_trees: int = 40,
    learning_rate: float = 0.3,
    max_leaves: int = 16,
    max_depth: int = 8,
    min_rows: int = 5,
    ridge: float = 0.3,
    max_bins: int = 128,
) -> BudgetedTrees:
    r"""Grow a boosted forest in which every split pays for the features that its rows have not bought yet.

    .. math:: \text{worth}(\text{split of } R \text{ on } k) = \tfrac12 \sum_c \Bigl(
        \frac{G_{Lc}^2}{H_{Lc} + \rho} + \frac{G_{Rc}^2}{H_{Rc} + \rho} - \frac{G_c^2}{H_c + \rho} \Bigr)
        - \alpha \, c_{g(k)} \sum_{i \in R} w_i [\, i \text{ has not bought } g(k)]

    Trees grow leaf by leaf; all trees share the purchases; missing values go to the side that each split learns; with
    more than two classes, a leaf has a value for each. A split is made only when its worth is positive.

    Parameters
    ----------
    X : (n, K)
        Rows; NaN = missing.
    y : (n,)
        Labels, or numbers with ``regression=True``.
    feature_costs
        Cost of each feature (array, or mapping from names ``x0, x1, ...`` or a DataFrame's); None = 1 each.
    price
        The price :math:`\alpha` >= 0 of one unit of cost for one row, in units of loss; 0 = ordinary boosting,
        infinity buys nothing that costs. Give this or ``budget``.
    budget
        Greatest mean cost of a training row: the lowest price within it is found by halving. With neither, a tenth
        of the dearest price that buys anything.
    feature_groups
        Features bought together, as in `prunopt.problems.forest.feature_costs.FeaturePrices.of`.
    known
        Features that are known already, hence free: for all rows, or for each (n, K).
    sample_weight : (n,) or None
        Weights >= 0; scale loss and cost of a row alike.
    regression
        Whether ``y`` holds numbers.
    n_trees, learning_rate, max_leaves, max_depth, min_rows, ridge
        Size of the forest, see `prunopt.forests.boosting.boosting.Shape`.
    max_bins
        Most bins a feature.

    Raises
    ------
    ValueError
        For rows, prices or options that do not fit; the message names them and the mend.

    References
    ----------
    G. Ke et al., "LightGBM", NeurIPS 2017 (leaf-wise growing); F. Nan, J. Wang, V. Saligrama, "Pruning random forests
    for prediction on a budget", NIPS 2016 (one purchase for each row and feature).
    """
    names = tuple(map(str, X.columns)) if hasattr(X, "columns") else None
    rows = np.asarray(X, np.float64)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"X: shape {rows.shape} given; give at least one row and one feature, (n, K)")
    if np.any(np.isinf(rows)):
        raise ValueError("X: infinite values given; use NaN for what is missing, and finite numbers")
    if price is not None and budget is not None:
        raise ValueError(f"price={price!r}, budget={budget!r}: give one of the two, or neither")
    for name, value in (("price", price), ("budget", budget)):
        if value is not None and not value >= 0:
            raise ValueError(f"{name}={value!r}: give a number >= 0")
    for name, count in (
        ("n_trees", n_trees),
        ("max_leaves", max_leaves),
        ("max_depth", max_depth),
        ("min_rows", min_rows),
    ):
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
            raise ValueError(f"{name}={count!r}: give a whole number of at least 1")
    for name, number in (("learning_rate", learning_rate), ("ridge", ridge)):
        if not 0 < number < np.inf:
            raise ValueError(f"{name}={number!r}: give a finite number > 0")
    classes, target, loss = _target(y, len(rows), regression)
    weight = np.ones(len(rows)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    if weight.shape != (len(rows),) or not np.all(np.isfinite(weight)) or np.any(weight < 0) or not weight.any():
        raise ValueError(f"sample_weight: give {len(rows)} finite weights >= 0, not all of them 0")
    prices = FeaturePrices.of(feature_costs, rows.shape[1], names, feature_groups, known).for_rows(len(rows))
    used = np.flatnonzero(weight)
    bins = QuantileBins.of(rows[used], max_bins)
    data = Problem(
        bins(rows[used]), target[used], weight[used], prices.group_of.astype(np.int32), prices.group_cost, loss,
        bins.n_codes, None if prices.is_plain else prices.take(used),
    )  # fmt: skip
    shape = Shape(learning_rate, max_leaves, n_trees, max_depth, ridge, min_rows)
    unit = loss.scale**2 if isinstance(loss, Squares) else 1.0

    def grown(at: float) -> BudgetedTrees:
        trees, bought = boost(data, shape, at)
        everywhere = np.zeros((len(rows), bought.shape[1]), np.bool_)
        everywhere[used] = bought
        cost = float(data.weight @ data.tariff.bill(bought) / data.weight.sum())
        return BudgetedTrees(trees, bins, loss, prices, classes, at * unit, everywhere, cost, names)

    if budget is None:
        return grown(dearest_price(data, ridge, min_rows) / 10 if price is None else price / unit)
    low, high = 0.0, 2.0 * dearest_price(data, ridge, min_rows)
    best = grown(0.0)
    if best.expected_cost <= budget:
        return best
    best = grown(np.inf)
    for _ in range(HALVINGS):
        # Prices matter by their ratio; near 0 the halves become the same as quarters of the whole range.
        middle = np.sqrt(low * high) if low > 0 else high / 8
        here = grown(middle)
        if here.expected_cost <= budget:
            best, high = here, middle
        else:
            low = middle
    return best


def _target(y: ArrayLike, n: int, regression: bool) -> tuple[NDArray[Any] | None, Floats, Loss]:
    given = np.asarray(y)
    if given.shape != (n,):
        raise ValueError(f"y: shape {given.shape} given for {n} rows; give one label or number for each")
    if not regression:
        classes, code = np.unique(given, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y: one class only, {classes[0]!r}; give rows of two classes or more")
        return classes, code.astype(np.float64), Classification(len(classes))
    try:
        numbers = given.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError("y: numbers are needed for regression=True") from None
    if not np.all(np.isfinite(numbers)):
        raise ValueError("y: NaN or infinity given; drop those rows")
    return None, numbers, squares_for(numbers)


def squares_for(target: Floats) -> Squares:
    """Return the loss that standardises ``target``."""
    spread = float(target.std())
    return Squares(float(target.mean()), spread if spread > 0 else 1.0)
