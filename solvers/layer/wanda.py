"""Remove the weights that carry least of the activations' norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunopt.core.solution import Solution
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.layer.layer_least_squares import LayerLeastSquares
from prunopt.solvers.layer._answer import by_score


@dataclass(frozen=True)
class Wanda(Solver[LayerLeastSquares]):
    r"""Remove the weights, or groups of columns, of least :math:`\sum w_{ij}^2 \|x_j\|^2` [1]_.

    :math:`\|x_j\|^2` is the undamped diagonal of the Hessian. For single weights the order is that of the published
    :math:`|w_{ij}| \|x_j\|`; compared within rows as published for ``MaskBlocks(scope="row")`` and N:M patterns. For
    groups the scores of a group's weights are added up ("Wanda-sp").

    The answer's objective is that of the re-solved weights (``problem.lift(value)``: Wanda with refit);
    ``stats["error without refit"]`` is the published method's own error, and ``problem.masked(value)`` its weights.

    References
    ----------
    .. [1] M. Sun, Z. Liu, A. Bair, J. Z. Kolter, "A simple and effective pruning approach for large language models",
       ICLR 2024.
    """

    name: ClassVar[str] = "wanda"
    form: ClassVar[type] = LayerLeastSquares
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 80
    reference: ClassVar[str] = "Sun et al., ICLR 2024"

    def solve(self, problem: LayerLeastSquares, limits: Limits, seed: int) -> Solution[Any]:
        """Return the answer of least total score."""
        return by_score(problem, wanda_choice(problem), self.name, Run(limits))


def wanda_choice(problem: LayerLeastSquares) -> Any:
    """Return the published choice, of least total w^2 times the input's energy, nothing re-solved."""
    return problem.cheapest(problem.weight**2 * np.diagonal(problem.hessian))
