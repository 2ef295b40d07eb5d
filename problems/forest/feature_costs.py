"""Prices of features: purchases, the charges that they make, and what is known already."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.problems.forest._cost_parsing import groups_of, known_mask, part_of
from prunopt.problems.forest.cost_lists import Prices


@dataclass(frozen=True, eq=False)
class FeaturePrices:
    r"""What a purchase is, and what it costs.

    .. math:: \text{cost}_i(B) = \sum_c p_{ic} \, [\text{some purchase } g \in B \text{ makes the charge } c]

    is what row i pays for the purchases B. Every purchase makes a charge of its own; several purchases can have a
    charge in common, which is paid once: drawing blood, for the first blood test. A feature that is known already is
    no purchase. (All of this is a weighted coverage, hence a closure: discounts for quantity are not.)

    Parameters
    ----------
    group_of : (K,) int64
        The purchase group of each feature; a feature outside every group is a group of its own.
    group_cost : (G,) float64
        The price of each group bought alone, paid once for a row however many of its features are used; the mean over
        the rows, where prices are per row.
    group_names : tuple of str
        One name for each group.
    charges_of : (G, L) int64
        The charges that each group makes, -1 = none. Left out: one each.
    charge_cost : (1 or n, C) float64
        What each charge is, for all rows or for each. Left out: ``group_cost``.
    known : (1 or n, K) bool or None
        Which features are known already, for all rows or for each: they cost nothing. None = none. (Set by `knowing`.)
    derived : tuple of (feature, features)
        Features that are computed from others.
    base
        The same prices while nothing is known; None = these.
    """

    group_of: Ints
    group_cost: Floats
    group_names: tuple[str, ...]
    charges_of: Ints = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    charge_cost: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    known: Bools | None = None
    derived: tuple[tuple[int, tuple[int, ...]], ...] = ()
    base: FeaturePrices | None = None

    def __post_init__(self) -> None:
        if self.charges_of.size == 0:
            object.__setattr__(self, "charges_of", np.arange(len(self.group_cost))[:, None])
        if self.charge_cost.size == 0:
            object.__setattr__(self, "charge_cost", np.asarray(self.group_cost, np.float64)[None, :])

    @property
    def n_rows(self) -> int | None:
        """How many rows the prices are for; None = any."""
        rows = [len(a) for a in (self.charge_cost, self.known) if a is not None and len(a) != 1]
        return rows[0] if rows else None

    @property
    def total(self) -> float:
        """The price of everything for one row, nothing being known; the mean where prices are per row."""
        used = np.unique(self.charges_of[self.charges_of >= 0])
        return float(self.charge_cost[:, used].sum() / len(self.charge_cost))

    @property
    def is_plain(self) -> bool:
        """Whether a price is a number for each group, the same for all rows, with nothing in common or known."""
        return self.charges_of.shape[1] == 1 and self.n_rows is None and self.known is None

    def features(self, groups: Bools) -> Bools:
        """Return which features are known once the ``groups`` (G,) are bought; also for rows of groups (n, G)."""
        return np.asarray(groups[..., self.group_of])

    def charged(self, bought: Bools) -> Bools:
        """Return which charges the purchases ``bought`` (n, G) make, (n, C)."""
        out = np.zeros((len(bought), self.charge_cost.shape[1]), np.bool_)
        for groups in self.charges_of.T:
            for g in np.flatnonzero(groups >= 0):
                out[:, groups[g]] |= bought[:, g]
        return out

    def bill(self, bought: Bools) -> Floats:
        """Return what each row pays for the purchases ``bought`` (n, G)."""
        charged = self.for_rows(len(bought)).charged(bought)
        if len(self.charge_cost) == 1:
            return np.asarray(charged @ self.charge_cost[0], np.float64)
        return np.asarray((charged * self.charge_cost).sum(axis=1))

    # Kernels read features, not groups.

    @property
    def feature_charges(self) -> Ints:
        """The charges that each feature makes, (K, L), -1 = none."""
        return np.ascontiguousarray(self.charges_of[self.group_of])

    @property
    def known_mask(self) -> Bools:
        """`known`, (0, K) where nothing is."""
        return np.zeros((0, len(self.group_of)), np.bool_) if self.known is None else self.known

    # Other rows.

    def for_rows(self, n: int) -> FeaturePrices:
        """Return the prices, which have to be those of ``n`` rows."""
        if self.n_rows not in (None, n):
            raise ValueError(
                f"feature_costs: prices of {self.n_rows} rows given, {n} rows are to pay; give those of these very rows"
            )
        return self

    def take(self, rows: Any) -> FeaturePrices:
        """Return the prices of some of the rows."""
        cost = self.charge_cost if len(self.charge_cost) == 1 else self.charge_cost[rows]
        known = self.known if self.known is None or len(self.known) == 1 else self.known[rows]
        base = None if self.base is None else self.base.take(rows)
        return replace(self, charge_cost=cost, known=known, base=base)

    def knowing(self, known: Bools | None) -> FeaturePrices:
        """Return the prices when ``known`` (1 or n, K) is known, instead of what was known before.

        What is computed from known features alone is known, too; what is computed from some that are known and some
        that are not costs what the latter cost.
        """
        start = self.base or self
        if known is None:
            return start
        mask, cost = known.copy(), start.charge_cost
        for _ in self.derived:  # a feature may be computed from computed ones
            for feature, sources in self.derived:
                mask[:, feature] |= mask[:, list(sources)].all(axis=1)
        if self.derived:
            cost = np.broadcast_to(cost, (max(len(cost), len(mask)), cost.shape[1])).copy()
            for k in {source for _, sources in self.derived for source in sources}:
                # What only k and features computed from it charge, nobody pays who knows k.
                others = [g for g in range(len(mask[0])) if g != k and k not in dict(self.derived).get(g, ())]
                own = np.setdiff1d(start.charges_of[k], start.charges_of[others])
                cost[np.ix_(np.broadcast_to(mask[:, k], len(cost)), own[own >= 0])] = 0.0
        return replace(start, charge_cost=cost, known=mask, base=start)

    def repriced(
        self, n: int, feature_costs: Any = None, known: Any = None, names: tuple[str, ...] | None = None
    ) -> FeaturePrices:
        """Return the prices of ``n`` other rows for the same purchase groups; what is None stays as it is."""
        if feature_costs is None and known is None:
            return self.for_rows(n)
        K = len(self.group_of)
        members = [np.flatnonzero(self.group_of == g).tolist() for g in range(len(self.group_names))]
        groups = members if len(members) < K else None
        if isinstance(feature_costs, FeaturePrices) or feature_costs is None:
            other = (self.base or self) if feature_costs is None else feature_costs
            other = FeaturePrices.of(other, K, names, None, known)
        else:
            other = FeaturePrices.of(feature_costs, K, names, groups, known)
        if not np.array_equal(other.group_of, self.group_of):
            raise ValueError("feature_costs: prices of other purchase groups than those of the forest")
        if known is None and other.known is None and self.known is not None and len(self.known) == 1:
            other = other.knowing(self.known)
        return replace(other, group_names=self.group_names).for_rows(n)

    def scaled(self, factor: ArrayLike) -> FeaturePrices:
        """Return the prices of rows that pay ``factor`` (n,) times as much (or of all rows, for one number)."""
        times = np.atleast_1d(np.asarray(factor, np.float64))
        if times.ndim != 1 or not np.all(np.isfinite(times)) or np.any(times < 0):
            raise ValueError("factor: give a finite number >= 0, or one for each row")
        if len(self.charge_cost) not in (1, len(times)):
            raise ValueError(f"factor: {len(times)} given for the prices of {len(self.charge_cost)} rows")
        base = None if self.base is None else self.base.scaled(factor)
        cost = self.charge_cost * times[:, None]
        return replace(self, group_cost=self.group_cost * times.mean(), charge_cost=cost, base=base)

    @classmethod
    def of(
        cls,
        feature_costs: Any,
        n_features: int,
        feature_names: tuple[str, ...] | None = None,
        feature_groups: Any = None,
        known: Any = None,
    ) -> FeaturePrices:
        """Check and normalise what a user gives as costs and groups.

        Parameters
        ----------
        feature_costs
            One price for each feature (array, or a mapping from names, all of them), or, with ``feature_groups``, one
            price for each group. None = every feature costs 1. The price of a group whose features are priced one by
            one is the sum of their prices: who buys a group buys all of it. An array of shape (n, K) prices each row
            by itself. `Prices` have discounts within their groups (which are another thing than ``feature_groups``: a
            group of ``feature_groups`` is bought as one); `CostSum` adds up several currencies.
        n_features
            Number of features K.
        feature_names
            Their names; where the forest has none, those of a price list, or ``x0, x1, ...``.
        feature_groups
            Features bought together: a mapping from a group's name to its features, a list of lists of features
            (indices or names), or one group label for each feature.
        known
            Features that are known already, hence free: a bool for each feature, for each row and feature (n, K), or
            a list of features. A group some of whose features are not known has its whole price for who needs those.

        Raises
        ------
        ValueError
            For costs of the wrong length, negative, NaN or infinite, and for unknown names.
        """
        names = feature_names or tuple(f"x{k}" for k in range(n_features))
        if feature_names is None and isinstance(feature_costs, Prices) and len(feature_costs.costs) == n_features:
            names = feature_costs.feature_names
        mask = known_mask(known, names)
        if isinstance(feature_costs, FeaturePrices):
            if feature_groups is not None:
                raise ValueError("feature_groups: the FeaturePrices given as feature_costs have groups; leave it out")
            if len(feature_costs.group_of) != n_features:
                raise ValueError(
                    f"feature_costs: prices of {len(feature_costs.group_of)} features, the forest has {n_features}"
                )
            return feature_costs if mask is None else feature_costs._checked(mask)
        group_of, group_names = groups_of(feature_groups, names)
        part = part_of(feature_costs, names, group_of, group_names, grouped=feature_groups is not None)
        width = max(map(len, part.makes))
        charges = np.full((len(group_names), width), -1, np.int64)
        for g, made in enumerate(part.makes):
            charges[g, : len(made)] = made
        alone = np.stack([part.cost[:, list(made)].sum(axis=1) for made in part.makes], axis=1)
        prices = cls(group_of, alone.mean(axis=0), group_names, charges, part.cost, derived=part.derived)
        return prices._checked(mask)

    def _checked(self, known: Bools | None) -> FeaturePrices:
        n = len((self.base or self).charge_cost)
        if known is not None and n > 1 and len(known) not in (1, n):
            raise ValueError(f"known: {len(known)} rows given, feature_costs has {n}")
        return self.knowing(known)
