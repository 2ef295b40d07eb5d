"""Costs of features: acquisitions, the cost components that they incur, and what is known already."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import AnyArray, Bools, Floats, Ints
from prunopt.core.deprecation import renamed_attributes, renamed_names
from prunopt.core.validate import Shown, floats, invalid, require
from prunopt.problems.forest._cost_parsing import groups_of, known_mask
from prunopt.problems.forest.cost_lists import CostList, part_of


class Components(NamedTuple):
    """The cost components of features, as kernels read them.

    Row i incurs ``cost[i or 0, c]`` for each component c >= 0 in ``of[k]``, once, when it acquires feature k;
    ``known`` (0, 1 or n, K) features cost nothing.
    """

    of: AnyArray
    cost: Floats
    known: Bools


@renamed_attributes(repriced="for_other_rows", bill="of_rows", charged="incurred")
@dataclass(frozen=True, eq=False)
class FeatureCosts:
    r"""What can be acquired, and what it costs.

    .. math:: \text{cost}_i(B) = \sum_c p_{ic} \, [\text{some group } g \in B \text{ incurs the component } c]

    is the cost of row i for the acquired groups B. Every group has a component of its own; several groups can have one
    in common, which is incurred once: drawing blood, for the first blood test. A feature that is known already is not
    acquired. (All of this is a weighted coverage, hence a closure: discounts for quantity are not.)

    Parameters
    ----------
    group_of : (K,) int64
        The group of each feature, acquired as one; a feature outside every group is a group of its own.
    group_cost : (G,) float64
        The cost of each group alone, incurred once for a row however many of its features are used; the mean over the
        rows, where costs are per row.
    group_names : tuple of str
        One name for each group.
    components_of : (G, L) int64
        The cost components of each group, -1 = none. Left out: one each.
    component_cost : (1 or n, C) float64
        What each component costs, for all rows or for each. Left out: ``group_cost``.
    known : (1 or n, K) bool or None
        Which features are known already, for all rows or for each: they cost nothing. None = none. (Set by `knowing`.)
    derived : tuple of (feature, features)
        Features that are computed from others.
    base
        The same costs while nothing is known; None = these.
    """

    group_of: Ints
    group_cost: Floats
    group_names: tuple[str, ...]
    components_of: Ints = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    component_cost: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    known: Bools | None = None
    derived: tuple[tuple[int, tuple[int, ...]], ...] = ()
    base: FeatureCosts | None = None

    def __post_init__(self) -> None:
        if self.components_of.size == 0:
            object.__setattr__(self, "components_of", np.arange(len(self.group_cost))[:, None])
        if self.component_cost.size == 0:
            object.__setattr__(self, "component_cost", np.asarray(self.group_cost, np.float64)[None, :])

    @property
    def n_rows(self) -> int | None:
        """How many rows the costs are for; None = any."""
        rows = [len(a) for a in (self.component_cost, self.known) if a is not None and len(a) != 1]
        return rows[0] if rows else None

    @property
    def total(self) -> float:
        """The cost of everything for one row, nothing being known; the mean where costs are per row."""
        used = np.unique(self.components_of[self.components_of >= 0])
        return float(self.component_cost[:, used].sum() / len(self.component_cost))

    @property
    def is_plain(self) -> bool:
        """Whether a cost is a number for each group, the same for all rows, with nothing in common or known."""
        return self.components_of.shape[1] == 1 and self.n_rows is None and self.known is None

    def features(self, groups: Bools) -> Bools:
        """Return which features are known once the ``groups`` (G,) are acquired; also for rows of groups (n, G)."""
        return np.asarray(groups[..., self.group_of])

    def incurred(self, acquired: Bools) -> Bools:
        """Return which components the ``acquired`` groups (n, G) incur, (n, C)."""
        out = np.zeros((len(acquired), self.component_cost.shape[1]), np.bool_)
        for groups in self.components_of.T:
            for g in np.flatnonzero(groups >= 0):
                out[:, groups[g]] |= acquired[:, g]
        return out

    def of_rows(self, acquired: Bools) -> Floats:
        """Return the cost of each row for the ``acquired`` groups (n, G)."""
        incurred = self.for_rows(len(acquired)).incurred(acquired)
        if len(self.component_cost) == 1:
            return np.asarray(incurred @ self.component_cost[0], np.float64)
        return np.asarray((incurred * self.component_cost).sum(axis=1))

    @property
    def components(self) -> Components:
        """The components of features, not of groups: what kernels read."""
        return Components(np.ascontiguousarray(self.components_of[self.group_of]), self.component_cost, self.known_mask)

    @property
    def known_mask(self) -> Bools:
        """`known`, (0, K) where nothing is."""
        return np.zeros((0, len(self.group_of)), np.bool_) if self.known is None else self.known

    @property
    def known_groups(self) -> Bools:
        """Which groups are known, (0, 1 or n, G); a group of which only a part is known is refused."""
        mask, group_of, G = self.known_mask, self.group_of, len(self.group_cost)
        whole, part = np.ones((len(mask), G), np.bool_), np.zeros((len(mask), G), np.bool_)
        for k in range(mask.shape[1]):
            whole[:, group_of[k]] &= mask[:, k]
            part[:, group_of[k]] |= mask[:, k]
        for i, g in np.argwhere(part & ~whole)[:1]:
            mend = "a policy acquires whole groups: give all of its features as known, or none"
            raise invalid("known", "hold whole groups", Shown(f"a part of {self.group_names[g]!r} in row {i}"), mend)
        return whole

    @property
    def free_groups(self) -> Bools:
        """Which groups cost no row anything, (G,)."""
        costly = np.append(np.any(self.component_cost > 0, axis=0), False)  # the component -1 is none
        known = self.known_groups
        everywhere = known.all(axis=0) if len(known) else np.zeros(len(self.group_cost), np.bool_)
        return np.asarray(~costly[self.components_of].any(axis=1) | everywhere)

    # Other rows.

    def for_rows(self, n: int) -> FeatureCosts:
        """Return the costs, which have to be those of ``n`` rows."""
        if self.n_rows not in (None, n):
            given = Shown(f"costs of {self.n_rows} rows for {n} rows of X")
            raise invalid("feature_costs", "be those of the rows of X", given, "pass the costs of the same rows")
        return self

    def take(self, rows: Any) -> FeatureCosts:
        """Return the costs of some of the rows."""
        cost = self.component_cost if len(self.component_cost) == 1 else self.component_cost[rows]
        known = self.known if self.known is None or len(self.known) == 1 else self.known[rows]
        base = None if self.base is None else self.base.take(rows)
        return replace(self, component_cost=cost, known=known, base=base)

    def knowing(self, known: Bools | None) -> FeatureCosts:
        """Return the costs when ``known`` (1 or n, K) is known, instead of what was known before.

        What is computed from known features alone is known, too; what is computed from some that are known and some
        that are not costs what the latter cost.
        """
        start = self.base or self
        if known is None:
            return start
        mask, cost = known.copy(), start.component_cost
        for _ in self.derived:  # a feature may be computed from computed ones
            for feature, sources in self.derived:
                mask[:, feature] |= mask[:, list(sources)].all(axis=1)
        if self.derived:
            cost = np.broadcast_to(cost, (max(len(cost), len(mask)), cost.shape[1])).copy()
            for k in {source for _, sources in self.derived for source in sources}:
                # What only k and features computed from it incur costs no row that knows k.
                others = [g for g in range(len(mask[0])) if g != k and k not in dict(self.derived).get(g, ())]
                own = np.setdiff1d(start.components_of[k], start.components_of[others])
                cost[np.ix_(np.broadcast_to(mask[:, k], len(cost)), own[own >= 0])] = 0.0
        return replace(start, component_cost=cost, known=mask, base=start)

    def for_other_rows(
        self, n: int, feature_costs: Any = None, known: Any = None, names: tuple[str, ...] | None = None
    ) -> FeatureCosts:
        """Return the costs of ``n`` other rows for the same groups; None keeps what is there."""
        if feature_costs is None and known is None:
            return self.for_rows(n)
        K = len(self.group_of)
        members = [np.flatnonzero(self.group_of == g).tolist() for g in range(len(self.group_names))]
        groups = members if len(members) < K else None
        if isinstance(feature_costs, FeatureCosts) or feature_costs is None:
            other = (self.base or self) if feature_costs is None else feature_costs
            other = FeatureCosts.of(other, K, names, None, known)
        else:
            other = FeatureCosts.of(feature_costs, K, names, groups, known)
        same = np.array_equal(other.group_of, self.group_of)
        require(same, "feature_costs", "have the groups of the forest", Shown("other groups"))
        if known is None and other.known is None and self.known is not None and len(self.known) == 1:
            other = other.knowing(self.known)
        return replace(other, group_names=self.group_names).for_rows(n)

    def scaled(self, factor: ArrayLike) -> FeatureCosts:
        """Return the costs of rows that cost ``factor`` (n,) times as much (or of all rows, for one number)."""
        times = floats("factor", np.atleast_1d(np.asarray(factor, np.float64)), ("n",), low=0.0)
        n = len(self.component_cost)
        require(n in (1, len(times)), "factor", f"hold a number for each of {n} rows", Shown(f"{len(times)} numbers"))
        base = None if self.base is None else self.base.scaled(factor)
        cost = self.component_cost * times[:, None]
        return replace(self, group_cost=self.group_cost * times.mean(), component_cost=cost, base=base)

    @classmethod
    def of(
        cls,
        feature_costs: Any,
        n_features: int,
        feature_names: tuple[str, ...] | None = None,
        feature_groups: Any = None,
        known: Any = None,
    ) -> FeatureCosts:
        """Check and normalize what a user gives as costs and groups.

        Parameters
        ----------
        feature_costs
            One cost for each feature (array, or a mapping from names, all of them), or, with ``feature_groups``, one
            cost for each group. None = every feature costs 1. The cost of a group whose features are listed one by one
            is the sum of their costs: the whole group is acquired. An array of shape (n, K) holds the costs of each
            row. A `CostList` has discounts within its groups (which are another thing than ``feature_groups``: a group
            of ``feature_groups`` is acquired as one); `CostSum` adds up several currencies.
        n_features
            Number of features K.
        feature_names
            Their names; where the forest has none, those of a cost list, or ``x0, x1, ...``.
        feature_groups
            Features acquired together: a mapping from a group's name to its features, a list of lists of features
            (indices or names), or one group label for each feature.
        known
            Features that are known already, hence free: a bool for each feature, for each row and feature (n, K), or
            a list of features. A group of which only a part is known has its whole cost for a row that needs the rest.

        Raises
        ------
        ValueError
            For costs of the wrong length, negative, NaN or infinite, and for unknown names.
        """
        names = feature_names or tuple(f"x{k}" for k in range(n_features))
        if feature_names is None and isinstance(feature_costs, CostList) and len(feature_costs.costs) == n_features:
            names = feature_costs.feature_names
        mask = known_mask(known, names)
        if isinstance(feature_costs, FeatureCosts):
            require(feature_groups is None, "feature_groups", "be None", feature_groups, "the FeatureCosts have groups")
            n = len(feature_costs.group_of)
            require(n == n_features, "feature_costs", f"be those of {n_features} features", Shown(f"costs of {n}"))
            return feature_costs if mask is None else feature_costs._checked(mask)
        group_of, group_names = groups_of(feature_groups, names)
        part = part_of(feature_costs, names, group_of, group_names, grouped=feature_groups is not None)
        components = np.full((len(group_names), max(map(len, part.incurs))), -1, np.int64)
        for g, incurred in enumerate(part.incurs):
            components[g, : len(incurred)] = incurred
        alone = np.stack([part.cost[:, list(incurred)].sum(axis=1) for incurred in part.incurs], axis=1)
        costs = cls(group_of, alone.mean(axis=0), group_names, components, part.cost, derived=part.derived)
        return costs._checked(mask)

    def _checked(self, known: Bools | None) -> FeatureCosts:
        n = len((self.base or self).component_cost)
        fits = known is None or n == 1 or len(known) in (1, n)
        require(fits, "known", f"have {n} rows, as feature_costs has", Shown(f"{0 if known is None else len(known)}"))
        return self.knowing(known)


__getattr__ = renamed_names(__name__, FeaturePrices="FeatureCosts")
