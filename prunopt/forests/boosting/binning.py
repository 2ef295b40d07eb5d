"""Quantile bins: every feature as a small code, with a code of its own for missing values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunopt.core.arrays import Bytes, Floats
from prunopt.core.validate import whole_number

MAX_BINS = 254  # with the code of missing values they fit into a byte


@dataclass(frozen=True, eq=False)
class QuantileBins:
    """Bins whose edges are quantiles of the rows they were made from.

    A value x of feature k has the code ``1 + #{edges of k below x}``, a missing value has the code 0. So a split
    "code <= b" with b >= 1 is the split "x <= edges[k][b - 1]", and the missing values are free to go to either side.

    Parameters
    ----------
    edges : tuple of (m_k,) float64
        Rising edges of each feature; a value equal to an edge lies below it.
    """

    edges: tuple[Floats, ...]

    @classmethod
    def of(cls, X: Floats, max_bins: int = 128) -> QuantileBins:
        """Make bins from rows ``X`` (n, K), NaN = missing; at most ``max_bins`` a feature."""
        whole_number("max_bins", max_bins, low=2, high=MAX_BINS)
        return cls(tuple(_edges(column[~np.isnan(column)], max_bins) for column in X.T))

    @property
    def n_codes(self) -> int:
        """One more than the greatest code."""
        return max((len(e) for e in self.edges), default=0) + 2

    def __call__(self, X: Floats) -> Bytes:
        """Return the codes of the rows ``X`` (n, K)."""
        codes = np.zeros(X.shape, np.uint8)
        for k, edges in enumerate(self.edges):
            known = ~np.isnan(X[:, k])
            codes[known, k] = 1 + np.searchsorted(edges, X[known, k], side="left")
        return codes

    def column(self, feature: int, values: Floats) -> Bytes:
        """Return the codes of values of one feature."""
        codes = 1 + np.searchsorted(self.edges[feature], values, side="left")
        return np.where(np.isnan(values), 0, codes).astype(np.uint8)

    def encode(self, feature: int, value: float) -> int:
        """Return the code of one value."""
        return 0 if np.isnan(value) else 1 + int(np.searchsorted(self.edges[feature], value, side="left"))


def _edges(values: Floats, max_bins: int) -> Floats:
    distinct = np.unique(values)
    if len(distinct) <= max_bins:
        # Halfway between neighbors, written so that it cannot overflow.
        return distinct[:-1] + (distinct[1:] - distinct[:-1]) / 2 if len(distinct) else distinct
    inner = np.linspace(0.0, 1.0, max_bins + 1)[1:-1]
    return np.unique(np.quantile(values, inner))
