"""Cost lists as people have them: full costs, groups with a part in common, several currencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats, Ints
from prunopt.core.deprecation import renamed_names
from prunopt.core.validate import Shown, bools, invalid, number, require
from prunopt.problems.forest._cost_parsing import Part, decimal, plain, summed


@dataclass(frozen=True, eq=False)
class CostList:
    r"""What features cost, and which of them share a part of their cost.

    .. math:: c(S) = \sum_{k \in S} c_k - \sum_g d_g \max(0, |S \cap g| - 1)

    is the cost of the features S: the first acquired feature of group g has its full cost, every other one costs d_g
    less, because the common part d_g (drawing blood once) is covered already. In other words, each feature has a part
    :math:`c_k - d_g` of its own, and the group has the part d_g, each incurred once for a row. A group without a common
    cost has no discount; it only says which features belong together.

    A feature in ``derived_from`` is computed from others: it costs what they cost together, and nothing once they are
    acquired. (Where its own listed cost is below that, it has that cost, and the others make it no cheaper.)

    Parameters
    ----------
    feature_names : tuple of str
        The K features, in the order of the columns.
    costs : (K,) float64
        Full cost of each feature, in ``currency``.
    groups : dict of str to tuple of str
        Features that belong together; a feature is in one group at most.
    common : dict of str to float
        Common part of the costs of a group, incurred once.
    currency : str
        Unit of all costs; "" where the file does not say.
    derived_from : dict of str to tuple of str
        Features that are computed from others.
    """

    feature_names: tuple[str, ...]
    costs: Floats
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    common: dict[str, float] = field(default_factory=dict)
    currency: str = ""
    derived_from: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def total(self, acquired: ArrayLike) -> Floats:
        """Return the cost of the ``acquired`` features, bool of shape (K,) or (n, K), group discounts taken off."""
        K = len(self.costs)
        mask = bools("acquired", acquired)
        require(mask.shape[-1:] == (K,), "acquired", f"hold a bool for each of {K} features", mask)
        part = self.parts(self.feature_names, np.arange(K), K)
        rows = mask.reshape(-1, K)
        incurred = np.zeros((len(rows), part.cost.shape[1]), np.bool_)
        for k, components in enumerate(part.incurs):
            incurred[:, list(components)] |= rows[:, [k]]
        return np.asarray(incurred @ part.cost[0], np.float64).reshape(mask.shape[:-1])

    def parts(self, names: tuple[str, ...], group_of: Ints, n_groups: int) -> Part:
        """Return the cost components of the list: each feature's own part, and what groups have in common."""
        listed = self.feature_names
        unnamed = names == tuple(f"x{k}" for k in range(len(names)))
        if len(listed) != len(names) or (set(listed) != set(names) and not unnamed):
            missing = [name for name in names if name not in listed] or [name for name in listed if name not in names]
            mend = f"one of the two lacks {', '.join(missing[:3])}; give one cost for each feature"
            raise invalid("feature_costs", f"list {len(names)} features", Shown(f"a list of {len(listed)}"), mend)
        # A forest that was fitted on columns without names has those of the list, in its order.
        place = {name: k for k, name in enumerate(names if set(listed) == set(names) else listed)}
        pairs = zip(listed, self.costs, strict=True)
        full = {name: decimal(cost, f"feature_costs[{name!r}]") for name, cost in pairs}
        own, incurs = dict(full), {name: {name} for name in listed}
        for group, common in self.common.items():
            shared = decimal(common, f"common[{group!r}]")
            for name in self.groups[group]:
                own[name] -= shared
                require(own[name] >= 0, f"common[{group!r}]", f"be at most what {name!r} costs", common)
                incurs[name].add(f"common part: {group}")
            own[f"common part: {group}"] = shared
        derived = []
        for name, sources in self.derived_from.items():
            bundle = set[str]().union(*(incurs[source] for source in sources))
            if sum(own[c] for c in bundle) <= full[name] and name not in bundle:
                incurs[name] = bundle
                derived.append((place[name], tuple(place[source] for source in sources)))
        single = n_groups == len(names) or not self.derived_from
        mend = "a cost list with derived_from gives the costs of single features"
        require(single, "feature_groups", "be None", Shown(f"{n_groups} groups"), mend)
        shared_at = {c: n_groups + j for j, c in enumerate(c for c in own if c not in full)}
        whole = [Fraction(0)] * (n_groups + len(shared_at))
        groups: list[set[int]] = [{g} for g in range(n_groups)]
        for name in listed:
            g = int(group_of[place[name]])
            groups[g] |= {shared_at.get(c, int(group_of[place[c]]) if c in place else -1) for c in incurs[name]}
            if name in incurs[name]:
                whole[g] += own[name]
        for c, j in shared_at.items():
            whole[j] = own[c]
        made = [(g, *sorted(c for c in parts if c != g and whole[c] > 0)) for g, parts in enumerate(groups)]
        return Part(np.array([[float(c) for c in whole]]), made, tuple(derived))


@dataclass(frozen=True, eq=False)
class CostSum:
    r"""Several currencies as one cost.

    .. math:: c(S) = \sum_u \omega_u \, c_u(S)

    Parameters
    ----------
    costs : mapping from names of currencies
        What is given as ``feature_costs`` elsewhere: an array, a mapping from feature names, or `CostList`.
    weights : mapping from the same names
        What one unit of each currency is worth, >= 0, in the unit of the sum: ``{"CAD": 1, "minutes": 0.5}``.

    Raises
    ------
    ValueError
        If the two do not name the same currencies, or a weight is negative or not finite.
    """

    costs: Mapping[str, Any]
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if not self.costs or set(self.costs) != set(self.weights):
            costs, weights = (", ".join(map(str, given)) or "none" for given in (self.costs, self.weights))
            raise invalid("weights", f"name the currencies of costs ({costs})", Shown(weights), "give each one weight")
        for name, weight in self.weights.items():
            number(f"weights[{name!r}]", weight, low=0)

    @property
    def currency(self) -> str:
        """The unit of the sum, in words."""
        return " + ".join(f"{self.weights[name]:g} {name}" for name in self.costs)


def part_of(given: Any, names: tuple[str, ...], group_of: Ints, group_names: tuple[str, ...], grouped: bool) -> Part:
    """Return the cost components of whatever a user gives as costs."""
    if isinstance(given, CostSum):
        parts = {name: part_of(costs, names, group_of, group_names, grouped) for name, costs in given.costs.items()}
        return summed([(float(given.weights[name]), part) for name, part in parts.items()])
    if isinstance(given, CostList):
        return given.parts(names, group_of, len(group_names))
    return plain(given, names, group_of, group_names, grouped)


__getattr__ = renamed_names(__name__, Prices="CostList")
