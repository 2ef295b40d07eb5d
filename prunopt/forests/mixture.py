"""A budget met exactly on average: a coin decides for each row which of two prunings answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state

if TYPE_CHECKING:
    from prunopt.forests.path import BudgetPath


@dataclass(frozen=True, eq=False)
class Mixture:
    r"""Two neighbours on a path, mixed so that the expected cost is the budget.

    .. math:: \theta \, \text{cost}_{\text{dearer}} + (1 - \theta) \, \text{cost}_{\text{cheaper}} = B

    The mean error of the trees is mixed alike, which puts the mixture on the lower hull: no pruning, and no mixture of
    prunings, has a lower error at an expected cost of B.

    Parameters
    ----------
    cheaper, dearer
        Pruned, genuine scikit-learn forests.
    share : float
        Probability :math:`\theta` that the dearer one answers a row.
    expected_cost, error : float
        Of the mixture, on the rows of the path.
    """

    cheaper: Any
    dearer: Any
    share: float
    expected_cost: float
    error: float

    def predict(self, X: ArrayLike, random_state: Any = None) -> NDArray[Any]:
        """Return predictions, each by the dearer forest with probability ``share``."""
        rows = np.asarray(X)
        coin = check_random_state(random_state).random_sample(len(rows)) < self.share
        answer = np.asarray(self.cheaper.predict(rows))
        if coin.any():
            answer[coin] = self.dearer.predict(rows[coin])
        return answer


def mixture(path: BudgetPath, budget: float) -> Mixture:
    """Return the mixture of two points of ``path`` whose expected cost is ``budget``.

    A budget above the dearest point that is worth its price is not used up: that point answers alone.

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
        path.at(price=low.price),
        path.at(price=high.price),
        share,
        low.expected_cost + share * span,
        low.training_error + share * (high.training_error - low.training_error),
    )
