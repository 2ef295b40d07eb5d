"""Acquisition policies: which groups of features are bought for a row, in the order in which trees ask for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prunopt.forests.growing.trees import GrownForest

Codes = NDArray[np.uint8]
Ints = NDArray[np.int32]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class AcquisitionPolicy:
    """Buy the groups ``always``, then follow the trees and buy what they test.

    What is bought for a row depends on bought values alone, so the policy can be carried out before anything else is
    known of the row.

    Parameters
    ----------
    forest : GrownForest
        The pruned forest that asks.
    always : (G,) bool
        Groups bought for every row: those that cost nothing, and what filled up a budget.
    group_of : (K,) int32
        The group of each feature.
    group_cost : (G,) float64
        Cost of each group, paid once a row.
    """

    forest: GrownForest
    always: Bools
    group_of: Ints
    group_cost: Floats

    def acquired(self, codes: Codes) -> Bools:
        """Return the groups bought for each row, (n, G)."""
        return self.forest.purchases(codes, self.group_of, len(self.group_cost)) | self.always

    def masked(self, codes: Codes) -> tuple[Codes, Floats]:
        """Return the rows as a predictor sees them, what was not bought set to missing, and the cost of each row."""
        bought = self.acquired(codes)
        return np.where(bought[:, self.group_of], codes, 0).astype(np.uint8), bought @ self.group_cost

    def filled(self, groups: NDArray[np.intp]) -> AcquisitionPolicy:
        """Return the policy that buys ``groups`` for every row as well."""
        always = self.always.copy()
        always[groups] = True
        return replace(self, always=always)

    def interview(self, acquire: Callable[[int], list[int]]) -> tuple[Codes, Bools]:
        """Carry the policy out for one row.

        Parameters
        ----------
        acquire
            Called at most once for each group; returns the codes of the group's features.

        Returns
        -------
        codes : (1, K) uint8
            The row, what was not bought missing.
        bought : (G,) bool
            The groups bought.
        """
        row = np.zeros((1, len(self.group_of)), np.uint8)
        bought = np.zeros(len(self.group_cost), np.bool_)

        def buy(group: int) -> None:
            bought[group] = True
            row[0, self.group_of == group] = acquire(group)

        for group in np.flatnonzero(self.always):
            buy(int(group))
        f = self.forest
        for root in f.offsets[:-1]:
            h = int(root)
            while f.feature[h] >= 0:
                k = int(f.feature[h])
                if not bought[self.group_of[k]]:
                    buy(int(self.group_of[k]))
                code = int(row[0, k])
                h = int(f.left[h] if (f.missing_left[h] if code == 0 else code <= f.code[h]) else f.right[h])
        return row, bought
