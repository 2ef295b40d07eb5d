"""What a fit leaves behind: a policy that buys, a blend that predicts, and how good both were on held-out rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state

from prunopt.core.arrays import Bools, Floats
from prunopt.core.solution import Solution
from prunopt.forests.boosting.acquisition_policy import AcquisitionPolicy
from prunopt.forests.boosting.binning import QuantileBins
from prunopt.forests.boosting.boosting import known_groups
from prunopt.forests.boosting.predictors import Blend
from prunopt.forests.purchases import OnDemand, Supplier, checked_count
from prunopt.problems.forest.feature_costs import FeaturePrices


@dataclass(frozen=True, eq=False)
class BudgetedModel:
    """A model within a budget.

    Parameters
    ----------
    policy : AcquisitionPolicy
        What is bought for a row.
    blend : Blend
        Predictors on what is bought.
    bins, prices
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
    prices: FeaturePrices
    classes: NDArray[Any] | None
    names: tuple[str, ...]
    expected_cost: float
    validation_score: float
    validation_loss: float
    origin: str
    solution: Solution[Bools] | None

    def values(self, X: ArrayLike, known: Any = None) -> Floats:
        """Return class probabilities (n, C), or predictions (n, 1); ``known`` features are seen without buying."""
        codes = self.bins(self._rows(X))
        masked, _ = self.policy.masked(codes, self._visible(len(codes), known))
        return self.blend.predictions(masked)

    def predict(self, X: ArrayLike, known: Any = None) -> NDArray[Any]:
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
        """Return predictions, what was bought, and its cost; see the estimators' ``predict_on_demand``."""
        if callable(acquire_or_X):
            n = checked_count(n_rows)
            prices = self.prices.repriced(n, feature_costs, known, self.names)
            asked = Supplier(acquire_or_X, prices, self.names, batch, np.float64)
            has = np.broadcast_to(prices.known_mask if prices.known is not None else False, (n, len(self.names)))
            if has.any() and known_values is None:
                raise ValueError("known_values: give the (n, K) array that holds the values of what is known")
            cells = np.full(has.shape, np.nan) if known_values is None else self._rows(known_values)
            if cells.shape != has.shape:
                raise ValueError(f"known_values: shape {cells.shape} given, {has.shape} is needed")
            codes = self.bins(np.where(has, cells, np.nan))

            def supply(rows: NDArray[np.int64], group: int) -> NDArray[np.uint8]:
                values = asked(rows, group)
                out = np.empty(values.shape, np.uint8)
                for j, k in enumerate(asked.members[group].tolist()):
                    out[:, j] = self.bins.column(k, values[:, j])
                return out
        else:
            if n_rows is not None and n_rows != len(acquire_or_X):
                raise ValueError(
                    f"n_rows={n_rows}: {len(acquire_or_X)} rows given; n_rows is needed with a function only"
                )
            codes = self.bins(self._rows(acquire_or_X))
            n, batch = len(codes), True
            prices = self.prices.repriced(n, feature_costs, known, self.names)
            members = [np.flatnonzero(prices.group_of == g) for g in range(len(prices.group_cost))]

            def supply(rows: NDArray[np.int64], group: int) -> NDArray[np.uint8]:
                return codes[np.ix_(rows, members[group])]

        mask = known_groups(prices)
        start = np.broadcast_to(mask if len(mask) else False, (n, len(prices.group_cost))).copy()
        masked, turn = self.policy.interviews(supply, codes, start, batch)
        return OnDemand.of(self._answer(self.blend.predictions(masked)), turn, prices)

    def _visible(self, n: int, known: Any) -> FeaturePrices:
        """Prices of which only what is known matters: that of these rows, or what is known of every row."""
        if known is None:
            mask = self.prices.known if len(self.prices.known_mask) == 1 else None
            return (self.prices.base or self.prices).take(slice(0, 1)).knowing(mask)
        return FeaturePrices.of(
            (self.prices.base or self.prices).take(slice(0, 1)), len(self.names), self.names, None, known
        )

    def _rows(self, X: ArrayLike) -> Floats:
        rows = np.asarray(X, np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.names):
            raise ValueError(f"X: shape {rows.shape} given, (n, {len(self.names)}) is needed")
        return rows

    def _answer(self, values: Floats) -> NDArray[Any]:
        return values[:, 0] if self.classes is None else self.classes[values.argmax(axis=1)]


@dataclass(frozen=True, eq=False)
class ModelMixture:
    """Two models, one of which a coin chooses for each row, so that the expected cost is a budget.

    Parameters
    ----------
    cheaper, dearer : BudgetedModel
        The two.
    share : float
        Probability that the dearer one answers.
    expected_cost : float
        On the validation rows.
    """

    cheaper: BudgetedModel
    dearer: BudgetedModel
    share: float
    expected_cost: float

    def coins(self, n: int, random_state: Any = None) -> Bools:
        """Return which of ``n`` rows the dearer model answers: the i-th row has the i-th draw of ``random_state``."""
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
        parts = [m.values(X, known) for m in (self.mixture.cheaper, self.mixture.dearer)]
        return np.where(self.coin[:, None], parts[1], parts[0])

    def predict(self, X: Any, known: Any = None) -> NDArray[Any]:
        return self.mixture.cheaper._answer(self.values(X, known))

    def on_demand(self, acquire_or_X: Any, n_rows: int | None, *, feature_costs: Any = None, known: Any = None,
                  known_values: Any = None, batch: bool = False) -> OnDemand:  # fmt: skip
        first, n = self.mixture.cheaper, len(self.coin)
        prices = first.prices.repriced(n, feature_costs, known, first.names)
        turn = np.zeros((n, len(prices.group_cost)), np.int16)
        answer: NDArray[Any] | None = None
        for model, mine in ((first, ~self.coin), (self.mixture.dearer, self.coin)):
            rows = np.flatnonzero(mine)
            if not len(rows):
                continue
            asks = callable(acquire_or_X)
            source = _renumbered(acquire_or_X, rows) if asks else np.asarray(acquire_or_X)[rows]
            values = None if known_values is None else np.asarray(known_values)[rows]
            found = model.on_demand(
                source, len(rows) if asks else None, batch=batch, feature_costs=prices.take(rows), known_values=values
            )
            turn[rows] = found.purchases.turn
            answer = np.empty(n, found.predictions.dtype) if answer is None else answer
            answer[rows] = found.predictions
        assert answer is not None
        return OnDemand.of(answer, turn, prices)


def _renumbered(acquire: Any, rows: NDArray[np.intp]) -> Any:
    return lambda row, group: acquire(rows[row] if np.ndim(row) else int(rows[row]), group)
