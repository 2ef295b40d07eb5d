"""What a fit returns: a policy that acquires, a blend that predicts, and how good both were on held-out rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state

from prunopt.core.arrays import AnyArray, Bools, Bytes, Floats, Ints
from prunopt.core.deprecation import renamed_attributes
from prunopt.core.solution import Solution
from prunopt.core.validate import require
from prunopt.forests.acquisitions import OnDemand, Supplier, by_parts, checked_count, checked_known, checked_rows
from prunopt.forests.boosting.acquisition_policy import AcquisitionPolicy
from prunopt.forests.boosting.binning import QuantileBins
from prunopt.forests.boosting.predictors import Blend
from prunopt.problems.forest.feature_costs import FeatureCosts


@renamed_attributes(prices="feature_costs")
@dataclass(frozen=True, eq=False)
class BudgetedModel:
    """A model within a budget.

    Parameters
    ----------
    policy : AcquisitionPolicy
        What is acquired for a row.
    blend : Blend
        Predictors on what is acquired.
    bins, feature_costs
        Bins of the features; groups and their costs.
    classes : (C,) array or None
        The labels; None for regression.
    names : tuple of str
        Names of the features.
    expected_cost
        Mean cost of a row, measured on the validation rows.
    validation_score, validation_loss
        Accuracy (or minus the mean squared error) and loss there, before the last fit on all rows.
    origin
        Where the policy comes from.
    solution : Solution or None
        The certificate of the policy's trees as an optimal pruning: exact for the second-order surrogate on the rows
        the path was computed on, silent about the error of the blend. None for policies that no path gave.
    """

    policy: AcquisitionPolicy
    blend: Blend
    bins: QuantileBins
    feature_costs: FeatureCosts
    classes: AnyArray | None
    names: tuple[str, ...]
    expected_cost: float
    validation_score: float
    validation_loss: float
    origin: str
    solution: Solution[Bools] | None

    def values(self, X: ArrayLike, known: Any = None) -> Floats:
        """Return class probabilities (n, C), or predictions (n, 1); ``known`` features are seen without acquiring."""
        codes = self.bins(self._rows(X))
        masked, _ = self.policy.masked(codes, self._visible(len(codes), known))
        return self.blend.predictions(masked)

    def predict(self, X: ArrayLike, known: Any = None) -> AnyArray:
        """Return labels or numbers (n,)."""
        return self._answer(self.values(X, known))

    def on_demand(
        self,
        acquire_or_X: Any,
        n_rows: int | None,
        *,
        batch: bool = False,
        feature_costs: Any = None,
        known: Any = None,
        known_values: Any = None,
    ) -> OnDemand:
        """Return predictions, what was acquired, and its cost; see the estimators' ``predict_on_demand``."""
        if callable(acquire_or_X):
            n = checked_count(n_rows)
            costs = self.feature_costs.for_other_rows(n, feature_costs, known, self.names)
            asked = Supplier(acquire_or_X, costs, self.names, batch, np.float64)
            has = np.broadcast_to(costs.known_mask if costs.known is not None else False, (n, len(self.names)))
            checked_known(known_values, has)
            cells = np.full(has.shape, np.nan) if known_values is None else self._rows(known_values)
            require(cells.shape == has.shape, "known_values", f"have shape {has.shape}", cells)
            codes = self.bins(np.where(has, cells, np.nan))

            def supply(rows: Ints, group: int) -> Bytes:
                values = asked(rows, group)
                out = np.empty(values.shape, np.uint8)
                for j, k in enumerate(asked.members[group].tolist()):
                    out[:, j] = self.bins.column(k, values[:, j])
                return out
        else:
            checked_rows(n_rows, len(acquire_or_X))
            codes = self.bins(self._rows(acquire_or_X))
            n, batch = len(codes), True
            costs = self.feature_costs.for_other_rows(n, feature_costs, known, self.names)
            members = [np.flatnonzero(costs.group_of == g) for g in range(len(costs.group_cost))]

            def supply(rows: Ints, group: int) -> Bytes:
                return codes[np.ix_(rows, members[group])]

        mask = costs.known_groups
        start = np.broadcast_to(mask if len(mask) else False, (n, len(costs.group_cost))).copy()
        masked, turn = self.policy.interviews(supply, codes, start, batch)
        return OnDemand.of(self._answer(self.blend.predictions(masked)), turn, costs)

    def _visible(self, n: int, known: Any) -> FeatureCosts:
        """Costs of which only what is known matters: that of these rows, or what is known of every row."""
        costs = self.feature_costs
        first = (costs.base or costs).take(slice(0, 1))
        if known is None:
            return first.knowing(costs.known if len(costs.known_mask) == 1 else None)
        return FeatureCosts.of(first, len(self.names), self.names, None, known)

    def _rows(self, X: ArrayLike) -> Floats:
        rows = np.asarray(X, np.float64)
        fits = rows.ndim == 2 and rows.shape[1] == len(self.names)
        require(fits, "X", f"have shape (n, {len(self.names)})", rows)
        return rows

    def _answer(self, values: Floats) -> AnyArray:
        return values[:, 0] if self.classes is None else self.classes[values.argmax(axis=1)]


@renamed_attributes(dearer="costlier")
@dataclass(frozen=True, eq=False)
class ModelMixture:
    """Two models, one of which a coin chooses for each row, so that the expected cost is a budget.

    Parameters
    ----------
    cheaper, costlier : BudgetedModel
        The two.
    share : float
        Probability that the costlier one answers.
    expected_cost : float
        On the validation rows.
    """

    cheaper: BudgetedModel
    costlier: BudgetedModel
    share: float
    expected_cost: float

    def coins(self, n: int, random_state: Any = None) -> Bools:
        """Return which of ``n`` rows the costlier model answers: row i has the i-th draw of ``random_state``."""
        return np.asarray(check_random_state(random_state).random_sample(n) < self.share)

    def model_at(self, n: int, random_state: Any = None) -> _Tossed:
        """Return what answers ``n`` rows."""
        return _Tossed(self, self.coins(n, random_state))


@dataclass(frozen=True, eq=False)
class _Tossed:
    """A mixture whose coins for some rows have fallen."""

    mixture: ModelMixture
    coin: Bools

    def values(self, X: Any, known: Any = None) -> Floats:
        parts = [m.values(X, known) for m in (self.mixture.cheaper, self.mixture.costlier)]
        return np.where(self.coin[:, None], parts[1], parts[0])

    def predict(self, X: Any, known: Any = None) -> AnyArray:
        return self.mixture.cheaper._answer(self.values(X, known))

    def on_demand(
        self,
        acquire_or_X: Any,
        n_rows: int | None,
        *,
        batch: bool = False,
        feature_costs: Any = None,
        known: Any = None,
        known_values: Any = None,
    ) -> OnDemand:
        first, n = self.mixture.cheaper, len(self.coin)
        costs = first.feature_costs.for_other_rows(n, feature_costs, known, first.names)
        pairs = ((first, np.flatnonzero(~self.coin)), (self.mixture.costlier, np.flatnonzero(self.coin)))
        parts = [(rows, partial(model.on_demand, batch=batch)) for model, rows in pairs if len(rows)]
        return by_parts(parts, acquire_or_X, costs, known_values)
