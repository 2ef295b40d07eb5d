"""A budget met exactly on average: a coin decides for each row which of two prunings answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax
from sklearn.utils import check_random_state

from prunopt.core.arrays import AnyArray, Bools, Floats, Ints
from prunopt.core.deprecation import renamed_attributes
from prunopt.forests._votes import len_of
from prunopt.forests.acquisitions import OnDemand, by_parts, some_rows
from prunopt.forests.on_demand import predict_on_demand
from prunopt.problems.forest.feature_costs import FeatureCosts

if TYPE_CHECKING:
    from prunopt.forests.leaf_refit import Refit
    from prunopt.forests.path import BudgetPath


@renamed_attributes(dearer="costlier")
@dataclass(frozen=True, eq=False)
class Mixture:
    r"""Two neighbors on a path, mixed so that the expected cost is the budget.

    .. math:: \theta \, \text{cost}_{\text{costlier}} + (1 - \theta) \, \text{cost}_{\text{cheaper}} = B

    The mean error of the trees is mixed alike, which puts the mixture on the lower hull: no pruning, and no mixture of
    prunings, has a lower error at an expected cost of B.

    Parameters
    ----------
    cheaper, costlier
        Pruned, genuine scikit-learn forests.
    share : float
        Probability :math:`\theta` that the costlier one answers a row.
    expected_cost, error : float
        Of the mixture, on the rows of the path.
    temperatures
        Those of the two forests' probabilities, see `prunopt.forests.leaf_refit.LeafRefit`; None = as they are.
    """

    cheaper: Any
    costlier: Any
    share: float
    expected_cost: float
    error: float
    temperatures: tuple[float | None, float | None] = (None, None)

    def coins(self, n: int, random_state: Any = None) -> Bools:
        """Return which of ``n`` rows the costlier forest answers: row i has the i-th draw of ``random_state``."""
        return np.asarray(check_random_state(random_state).random_sample(n) < self.share)

    def predict(self, X: ArrayLike, random_state: Any = None) -> AnyArray:
        """Return predictions, each by the costlier forest with probability ``share``."""
        return self._each(X, random_state, lambda forest, _, rows: forest.predict(rows))

    def predict_proba(self, X: ArrayLike, random_state: Any = None) -> Floats:
        """Return class probabilities, with the coins of `predict`."""
        return np.asarray(self._each(X, random_state, probabilities), np.float64)

    def _each(self, X: Any, random_state: Any, answer: Callable[[Any, float | None, Any], Any]) -> AnyArray:
        """The answers of the two forests, each to its own rows."""
        n = len_of(X)
        coin = self.coins(n, random_state)
        out: AnyArray | None = None
        for forest, own, rows in self._parts(coin):
            found = np.asarray(answer(forest, own, some_rows(X, rows)))
            if out is None:
                out = np.empty((n, *found.shape[1:]), found.dtype)
            out[rows] = found
        assert out is not None
        return out

    def _parts(self, coin: Bools) -> list[tuple[Any, float | None, Ints]]:
        pairs = zip((self.cheaper, self.costlier), self.temperatures, (~coin, coin), strict=True)
        return [(forest, own, np.flatnonzero(mine)) for forest, own, mine in pairs if mine.any()]

    def on_demand(
        self, acquire_or_X: Any, costs: FeatureCosts, n: int, random_state: Any, *, known_values: Any, **options: Any
    ) -> OnDemand:
        """Predict with the coins of `predict`, and ask for a feature only at the first node that tests it.

        The rows of the cheaper forest are asked for first; ``costs`` are those of the n rows.
        """
        parts = [
            (rows, partial(predict_on_demand, forest, **options))
            for forest, _, rows in self._parts(self.coins(n, random_state))
        ]
        return by_parts(parts, acquire_or_X, costs, known_values)

    def refitted(self, refit: Refit) -> Mixture:
        """Return the mixture with the leaves of both forests refitted; costs stay."""
        (low, cool), (high, warm) = refit(self.cheaper), refit(self.costlier)
        return replace(self, cheaper=low, costlier=high, temperatures=(cool, warm))


def probabilities(forest: Any, temperature: float | None, X: Any) -> Floats:
    """Return the class probabilities of a forest whose leaves may have been refitted."""
    votes = forest.predict_proba(X)
    return np.asarray(votes if temperature is None else softmax(votes / temperature, axis=1))


def mixture(path: BudgetPath, budget: float) -> Mixture:
    """Return the mixture of two points of ``path`` whose expected cost is ``budget``.

    A budget above the costliest point is not used up: that point answers alone.

    Raises
    ------
    ValueError
        If no pruning is as cheap as the budget.
    """
    k = path.index(budget=budget)
    low = path.points[k]
    high = path.points[max(k - 1, 0)]
    span = high.expected_cost - low.expected_cost
    share = (budget - low.expected_cost) / span if span > 0 else 0.0
    share = min(max(share, 0.0), 1.0)
    return Mixture(
        path.at(penalty=low.penalty),
        path.at(penalty=high.penalty),
        share,
        low.expected_cost + share * span,
        low.training_error + share * (high.training_error - low.training_error),
    )
