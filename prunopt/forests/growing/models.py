"""What a fit leaves behind: a policy that buys, a blend that predicts, and how good both were on held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunopt.core.solution import Solution
from prunopt.forests.growing.binning import QuantileBins
from prunopt.forests.growing.policy import AcquisitionPolicy
from prunopt.forests.growing.predictors import Blend
from prunopt.forests.ondemand import OnDemand
from prunopt.problems.prices import FeaturePrices

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


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

    def values(self, X: ArrayLike) -> Floats:
        """Return class probabilities (n, C), or predictions (n, 1)."""
        masked, _ = self.policy.masked(self.bins(self._rows(X)))
        return self._of_masked(masked)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return labels or numbers (n,)."""
        return self._answer(self.values(X))

    def on_demand(self, acquire_or_X: Any, n_rows: int | None) -> OnDemand:
        """Return predictions, what was bought, and its cost; see the estimators' ``predict_on_demand``."""
        K, G = len(self.prices.group_of), len(self.prices.group_cost)
        if callable(acquire_or_X):
            if isinstance(n_rows, bool) or not isinstance(n_rows, int | np.integer) or n_rows < 1:
                raise ValueError(f"n_rows={n_rows!r}: with a function, give the number of rows, at least 1")
            masked = np.zeros((int(n_rows), K), np.uint8)
            bought = np.zeros((int(n_rows), G), np.bool_)
            for i in range(int(n_rows)):
                row, bought[i] = self.policy.interview(partial(self._asked, acquire_or_X, i))
                masked[i] = row[0]
        else:
            if n_rows is not None and n_rows != len(acquire_or_X):
                raise ValueError(
                    f"n_rows={n_rows}: {len(acquire_or_X)} rows given; n_rows is needed with a function only"
                )
            codes = self.bins(self._rows(acquire_or_X))
            bought = self.policy.acquired(codes)
            masked = np.where(bought[:, self.policy.group_of], codes, 0).astype(np.uint8)
        cost = np.asarray(bought @ self.prices.group_cost, np.float64)
        return OnDemand(self._answer(self._of_masked(masked)), self.prices.features(bought), cost)

    def _rows(self, X: ArrayLike) -> Floats:
        rows = np.asarray(X, np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.names):
            raise ValueError(f"X: shape {rows.shape} given, (n, {len(self.names)}) is needed")
        return rows

    def _of_masked(self, masked: NDArray[np.uint8]) -> Floats:
        return self.blend.predictions(masked)

    def _answer(self, values: Floats) -> NDArray[Any]:
        return values[:, 0] if self.classes is None else self.classes[values.argmax(axis=1)]

    def _asked(self, acquire: Callable[[int, int], Any], row: int, group: int) -> list[int]:
        """The codes of a group's features, from what the caller's function returns."""
        members = np.flatnonzero(self.prices.group_of == group)
        wanted = [self.names[k] for k in members]
        answer = acquire(row, group)
        call = f"acquire({row}, {group})"
        if isinstance(answer, Mapping):
            named = {self.names[k] if isinstance(k, int | np.integer) else str(k): v for k, v in answer.items()}
            if set(named) != set(wanted):
                raise ValueError(f"{call} returned {sorted(named)}; return one value for each of {', '.join(wanted)}")
            answer = [named[name] for name in wanted]
        cells = list(answer) if np.ndim(answer) else [answer]
        if len(cells) != len(wanted):
            raise ValueError(f"{call} returned {len(cells)} value(s); return {len(wanted)}, for {', '.join(wanted)}")
        out = []
        for k, cell in zip(members, cells, strict=True):
            try:
                value = float("text" if isinstance(cell, str | bytes) else cell)
            except (TypeError, ValueError):
                raise ValueError(
                    f"{call} returned {cell!r} for {self.names[k]!r}; return a number, NaN for unknown"
                ) from None
            if np.isinf(value):
                raise ValueError(f"{call} returned {cell!r} for {self.names[k]!r}; return a finite number")
            out.append(self.bins.encode(int(k), value))
        return out
