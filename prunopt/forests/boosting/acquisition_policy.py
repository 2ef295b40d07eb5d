"""Acquisition policies: which groups of features are bought for a row, in the order in which trees ask for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Bools, Bytes, Floats, Ints32
from prunopt.core.jit import njit
from prunopt.forests.boosting._tree_grower import goes_left
from prunopt.forests.boosting.boosting import known_groups
from prunopt.forests.boosting.trees import GrownForest
from prunopt.problems.forest.feature_costs import FeaturePrices


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
    prices : FeaturePrices
        Groups, and what they cost.
    """

    forest: GrownForest
    always: Bools
    prices: FeaturePrices

    def acquired(self, codes: Bytes) -> Bools:
        """Return the groups that are asked for, row by row, (n, G); some may be known already."""
        group_of = self.prices.group_of.astype(np.int32)
        return self.forest.purchases(codes, group_of, len(self.always)) | self.always

    def bought(self, codes: Bytes, prices: FeaturePrices) -> Bools:
        """Return the groups that are bought for rows whose ``prices`` say what is known of them, (n, G)."""
        known = known_groups(prices)
        asked = self.acquired(codes)
        return asked & ~known if len(known) else asked

    def masked(self, codes: Bytes, prices: FeaturePrices) -> tuple[Bytes, Floats]:
        """Return rows as a predictor sees them, what is neither bought nor known set to missing, and their costs."""
        known, bought = known_groups(prices), self.bought(codes, prices)
        seen = bought | known if len(known) else bought
        return np.where(prices.features(seen), codes, 0).astype(np.uint8), prices.bill(bought)

    def filled(self, groups: NDArray[np.intp]) -> AcquisitionPolicy:
        """Return the policy that buys ``groups`` for every row as well."""
        always = self.always.copy()
        always[groups] = True
        return replace(self, always=always)

    def interviews(
        self, supply: Callable[[NDArray[np.int64], int], Bytes], codes: Bytes, known: Bools, batch: bool
    ) -> tuple[Bytes, NDArray[np.int16]]:
        """Carry the policy out.

        Parameters
        ----------
        supply
            Called at most once for each row and group; returns the codes of the group's features, one line a row.
        codes : (n, K) uint8
            The rows, of which only what is ``known`` is read.
        known : (n, G) bool
            The groups known at the start.
        batch
            Whether all rows are asked for round by round, or one row after the other.

        Returns
        -------
        codes : (n, K) uint8
            The rows, what was not bought and not known missing.
        turn : (n, G) int16
            When each group was bought, from 1 on; 0 = not at all.
        """
        f, n = self.forest, len(codes)
        group_of = self.prices.group_of.astype(np.int32)
        have = known.copy()
        rows = np.where(have[:, group_of], codes, 0).astype(np.uint8)
        turn = np.zeros(have.shape, np.int16)
        count = np.zeros(n, np.int16)

        def buy(asking: NDArray[np.int64], group: int) -> None:
            if len(asking):
                count[asking] += 1
                turn[asking, group] = count[asking]
                rows[np.ix_(asking, group_of == group)] = supply(asking, group)
                have[asking, group] = True

        everyone = np.arange(n)
        for open_rows in [everyone] if batch else everyone[:, None]:
            for group in np.flatnonzero(self.always).tolist():
                buy(open_rows[~have[open_rows, group]], group)
            first, wanted = open_rows[0], np.empty(len(open_rows), np.int32)
            at = np.repeat(f.offsets[None, :-1], len(open_rows), axis=0)
            while len(open_rows):
                _wanted(open_rows, rows, have, at, first, group_of, wanted, *f.arrays())
                for group in np.unique(wanted[wanted >= 0]).tolist():
                    buy(open_rows[wanted == group], group)
                open_rows, wanted = open_rows[wanted >= 0], wanted[wanted >= 0]
        return rows, turn


@njit
def _wanted(
    open_rows: NDArray[np.int64], codes: Bytes, have: Bools, at: Ints32, first: int, group_of: Ints32, wanted: Ints32,
    offsets: Ints32, feature: Ints32, code: Ints32, missing_left: Bools, left: Ints32, right: Ints32,
) -> None:  # fmt: skip
    """Write the group that the first tree with an open question asks for, -1 = none; ``at``: where the trees stand."""
    for j in range(len(open_rows)):
        i = open_rows[j]
        wanted[j] = -1
        for t in range(len(offsets) - 1):
            h = at[i - first, t]
            while feature[h] >= 0 and have[i, group_of[feature[h]]]:
                h = left[h] if goes_left(codes[i, feature[h]], code[h], missing_left[h]) else right[h]
            at[i - first, t] = h
            if feature[h] >= 0:
                wanted[j] = group_of[feature[h]]
                break
