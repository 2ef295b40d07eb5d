"""Remove the smallest weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from prunopt.core.solution import Solution
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.layer.layer_least_squares import LayerLeastSquares
from prunopt.solvers.layer._answer import by_score


@dataclass(frozen=True)
class Magnitude(Solver[LayerLeastSquares]):
    r"""Remove the weights, or groups of columns, of least :math:`\sum w_{ij}^2`, whatever the inputs are.

    The answer's objective is that of the re-solved weights (``problem.lift(value)``), as for every solver of the form;
    ``stats["error without refit"]`` is the undamped error of the dense weights with the removed ones set to 0.

    References
    ----------
    .. [1] S. Han, J. Pool, J. Tran, W. J. Dally, "Learning both weights and connections for efficient neural networks",
       NeurIPS 2015.
    """

    name: ClassVar[str] = "magnitude"
    form: ClassVar[type] = LayerLeastSquares
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 90
    reference: ClassVar[str] = "Han et al., NeurIPS 2015"

    def solve(self, problem: LayerLeastSquares, limits: Limits, seed: int) -> Solution[Any]:
        """Return the answer of least total squared weight."""
        return by_score(problem, magnitude_choice(problem), self.name, Run(limits))


def magnitude_choice(problem: LayerLeastSquares) -> Any:
    """Return the published choice, of least total w^2, nothing re-solved."""
    return problem.cheapest(problem.weight**2)
