"""A `RelaxedMask` under a budget, whose weights may be trained along with the choice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Ints
from prunopt.core.display import one_line
from prunopt.core.validate import require
from prunopt.forms.knapsack.coupled_knapsack import CoupledKnapsack
from prunopt.forms.relaxed.relaxed_mask import Choices, RelaxedMask


class Lesson(NamedTuple):
    """What one step of training tells about the masks.

    Parameters
    ----------
    soft, hard
        Task loss of the soft and of the hard network on the batch.
    distance
        Their divergence, as far as it was trained on; 0 without distillation.
    task, distillation : list of (G_t, M_t) tensors
        Gradients of the task loss and of the distillation with respect to the points Z.
    stopped
        Why the step was not taken; empty where it was.
    """

    soft: float
    hard: float
    distance: float
    task: list[Any]
    distillation: list[Any]
    stopped: str = ""


class Trainee(Protocol):
    """Weights that are trained while masks are learned."""

    def learn(self, soft: list[Any], hard: list[Any], step: int, learned: bool = True) -> Lesson:
        """Take one step with the weights, the masks being (G_t, M_t) tensors, soft and hard.

        Where the masks are not ``learned`` any more their gradients may be zeros.
        """

    def state(self) -> dict[str, Any]:
        """Return all that a later `restore` needs, tensors by name."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""


@one_line
@dataclass(frozen=True, eq=False)
class TrainedMask(RelaxedMask):
    r"""Choose a candidate for every group within a budget; the weights behind the loss may learn at the same time.

    .. math::
        \min_{k} L(Z) \quad \text{s.t.} \quad \sum_i c_i(k_i) + \sum_{(i, j) \in E} d_{ij}(k_i, k_j) \le B

    Parameters
    ----------
    costs : CoupledKnapsack, optional
        Costs and budget: its group i is the i-th group of all tables, its option k their candidate k; groups behind
        the last one have one option. Its losses are not read.
    trainee : Trainee, optional
        Who owns the weights. L is then the loss at the weights of the moment, at the end those of the answer.

    Notes
    -----
    The expected cost of a relaxation with probabilities p is :math:`\sum_i p_i c_i + \sum_{(i,j)} p_i^T d_{ij} p_j`.
    """

    costs: CoupledKnapsack | None = None
    trainee: Trainee | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.costs is None:
            return
        sizes = [len(a) for g, a in zip(self.groups, self.tables, strict=True) for _ in range(g)]
        there = np.isfinite(self.costs.loss).sum(axis=1).tolist()
        fits = there[: len(sizes)] == sizes and all(n == 1 for n in there[len(sizes) :])
        require(fits, "costs", f"have {sizes} options, and 1 for every constant behind them", there)
        require(
            not self.costs.is_infeasible_by(None),
            "costs.budget",
            f"be >= {self.costs.least_cost:g}, the least that any choice costs",
            self.costs.budget,
            "raise it or offer smaller candidates",
        )

    def options(self, x: Sequence[ArrayLike]) -> Ints:
        """Return the choices in the numbering of ``costs``."""
        assert self.costs is not None
        flat = np.concatenate(self._as_value(x))
        return np.concatenate([flat, np.zeros(self.costs.n_groups - len(flat), np.int64)])

    def choices(self, options: ArrayLike) -> Choices:
        """Return options of ``costs`` as a value."""
        flat = np.asarray(options, np.int64)[: self.n_groups]
        return tuple(np.split(flat, np.cumsum(self.groups)[:-1]))

    def used(self, x: Sequence[ArrayLike]) -> float:
        """Return what a value costs, 0 without costs."""
        return 0.0 if self.costs is None else self.costs.used(self.options(x))

    def violation(self, x: Sequence[ArrayLike], /) -> float:
        """Return how many groups have chosen what is not in their list, or by what share the budget is exceeded."""
        wrong = super().violation(x)
        if wrong or self.costs is None:
            return wrong
        return self.costs.violation(self.options(x))

    def every_choice(self) -> Iterator[Choices]:
        """Yield every value within the budget."""
        return (x for x in super().every_choice() if not self.violation(x))

    def _as_value(self, x: Sequence[ArrayLike]) -> Choices:
        value = self._shaped(x)
        require(not super().violation(value), "x", "choose from each group's candidates", value)  # budget or not
        return value
