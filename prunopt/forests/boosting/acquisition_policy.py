"""Acquisition policies: which groups of features are acquired for a row, in the order in which trees ask for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Bools, Bytes, Floats
from prunopt.core.deprecation import renamed_attributes
from prunopt.forests.boosting.trees import GrownForest
from prunopt.forests.on_demand import Walk, interviews
from prunopt.problems.forest.feature_costs import FeatureCosts


@renamed_attributes(prices="feature_costs", bought="acquired")
@dataclass(frozen=True, eq=False)
class AcquisitionPolicy:
    """Acquire the groups ``always``, then follow the trees and acquire what they test.

    What is acquired for a row depends on acquired values alone, so the policy can be carried out before anything else
    is known of the row.

    Parameters
    ----------
    forest : GrownForest
        The pruned forest that asks.
    always : (G,) bool
        Groups acquired for every row: those that cost nothing, and what filled up a budget.
    feature_costs : FeatureCosts
        Groups, and what they cost.
    """

    forest: GrownForest
    always: Bools
    feature_costs: FeatureCosts

    def acquired(self, codes: Bytes, feature_costs: FeatureCosts | None = None) -> Bools:
        """Return the groups that are asked for, row by row, (n, G), less those that ``feature_costs`` say are known."""
        asked = self.forest.groups(codes, self.feature_costs) | self.always
        known = np.zeros((0, 0), np.bool_) if feature_costs is None else feature_costs.known_groups
        return asked & ~known if len(known) else asked

    def masked(self, codes: Bytes, costs: FeatureCosts) -> tuple[Bytes, Floats]:
        """Return rows as a predictor sees them, what is neither acquired nor known set to missing, and their costs."""
        known, acquired = costs.known_groups, self.acquired(codes, costs)
        seen = acquired | known if len(known) else acquired
        return np.where(costs.features(seen), codes, 0).astype(np.uint8), costs.of_rows(acquired)

    @classmethod
    def of_nothing(cls, feature_costs: FeatureCosts, base: Floats) -> AcquisitionPolicy:
        """Return the policy that acquires what costs nothing, and asks no tree."""
        return cls(GrownForest.empty(base), feature_costs.free_groups, feature_costs)

    def filled(self, groups: NDArray[np.intp]) -> AcquisitionPolicy:
        """Return the policy that also acquires ``groups`` for every row."""
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
            The rows, what was not acquired and not known missing.
        turn : (n, G) int16
            When each group was acquired, from 1 on; 0 = not at all.
        """
        trees, group_of = self.forest.arrays, self.feature_costs.group_of
        have = known[:, group_of]
        rows = np.where(have, codes, 0).astype(np.uint8)
        nothing = np.zeros((self.forest.n_nodes, 0))
        walk = Walk(trees, group_of, self.forest.left < 0, nothing, nothing)
        always = np.flatnonzero(self.always).tolist()
        turn, _, _ = interviews(walk, supply, rows, have, n_groups=known.shape[1], batch=batch, always=always)
        return rows, turn
