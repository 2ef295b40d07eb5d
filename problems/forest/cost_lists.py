"""Price lists as people have them: full prices, groups with a part in common, several currencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats


@dataclass(frozen=True, eq=False)
class Prices:
    r"""What features cost, and which of them share a part of their price.

    .. math:: c(S) = \sum_{k \in S} c_k - \sum_g d_g \max(0, |S \cap g| - 1)

    is the price of the features S: the first of group g that is bought pays its full price, every further one pays
    d_g less, because the common part d_g (drawing blood once) is paid already. In other words, each feature has a part
    :math:`c_k - d_g` of its own, and the group has the part d_g, each paid once for a row. A group without a common
    price has no discount; it only says which features belong together.

    A feature in ``derived_from`` is computed from others: it costs what they cost together, and nothing once they are
    paid. (Where its own listed price is below that, it is bought for that price, and the others make it no cheaper.)

    Parameters
    ----------
    feature_names : tuple of str
        The K features, in the order of the columns.
    costs : (K,) float64
        Full price of each feature, in ``currency``.
    groups : dict of str to tuple of str
        Features that belong together; a feature is in one group at most.
    common : dict of str to float
        Common part of the prices of a group, paid once.
    currency : str
        Unit of all prices; "" where the file does not say.
    derived_from : dict of str to tuple of str
        Features that are computed from others.
    """

    feature_names: tuple[str, ...]
    costs: Floats
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    common: dict[str, float] = field(default_factory=dict)
    currency: str = ""
    derived_from: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def total(self, bought: ArrayLike) -> Floats:
        """Return the price of the features ``bought``, bool of shape (K,) or (n, K), group discounts taken off."""
        from prunopt.problems.forest.feature_costs import FeaturePrices

        mask = np.asarray(bought)
        if mask.dtype != np.bool_ or mask.ndim == 0 or mask.shape[-1] != len(self.costs):
            raise ValueError(
                f"bought: {mask.dtype} of shape {mask.shape}; give a bool for each of {len(self.costs)} features"
            )
        prices = FeaturePrices.of(self, len(self.costs), self.feature_names)
        return prices.bill(mask.reshape(-1, len(self.costs))).reshape(mask.shape[:-1])


@dataclass(frozen=True, eq=False)
class CostSum:
    r"""Several currencies as one cost.

    .. math:: c(S) = \sum_u \omega_u \, c_u(S)

    Parameters
    ----------
    costs : mapping from names of currencies
        What is given as ``feature_costs`` elsewhere: an array, a mapping from feature names, or `Prices`.
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
            raise ValueError(
                f"weights: given for {', '.join(map(str, self.weights)) or 'nothing'}, costs for "
                f"{', '.join(map(str, self.costs)) or 'nothing'}; give one weight for each currency"
            )
        for name, weight in self.weights.items():
            if isinstance(weight, bool) or not isinstance(weight, Real) or not 0 <= float(weight) < np.inf:
                raise ValueError(f"weights[{name!r}]={weight!r}: give a finite number >= 0")

    @property
    def currency(self) -> str:
        """The unit of the sum, in words."""
        return " + ".join(f"{self.weights[name]:g} {name}" for name in self.costs)
