"""The task of choosing a width for every group of channels while the network is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats, Ints
from prunopt.core.problem import Reduced
from prunopt.core.validate import ints, invalid, one_of, require
from prunopt.forms.knapsack.coupled_knapsack import CoupledKnapsack
from prunopt.forms.relaxed.relaxed_mask import RelaxedMask
from prunopt.forms.relaxed.trained_mask import TrainedMask, Trainee


@dataclass(frozen=True, eq=False)
class SoftMask:
    r"""Choose a width for every group of channels so that the network of these widths loses least.

    .. math::
        \min_{\theta, c} L(\theta \odot m(c)) \quad \text{s.t.} \quad F(c) \le B

    A group's channels go in the order of importance: width c keeps the first c. The relaxation has a distribution p
    over the widths of each group, and gates :math:`w_r = \sum_{c > r} p_c` that fall along the order.

    Parameters
    ----------
    widths : sequence of int sequences
        The widths that each group may take, rising; the last is all of it.
    costs : CoupledKnapsack
        What widths cost, alone and by layers that join two groups, and the budget B. Its option k of group g is
        ``widths[g][k]``; groups behind the last have one option, constants. Its losses are not read.
    loss : callable
        ``loss(widths) -> float`` at an int array, over all the data, at the weights of the moment.
    relaxed_loss : callable, optional
        ``relaxed_loss(gates, step) -> torch scalar``, a list of one (channels,) tensor a group, weights frozen.
    trainee : Trainee, optional
        Trains the weights along with the masks; its points have the shape (1, channels).
    identity : str
        Names network, data and options for checkpoints.

    Notes
    -----
    The value is an int array of widths. `prunopt.networks.soft_mask` builds the task from a network.

    References
    ----------
    .. [1] W. Lin, S. Tang, C. Yu, P. Ye, T. Chen, "S2HPruner: soft-to-hard distillation bridges the discretization
       gap in pruning", NeurIPS 2024.
    """

    widths: Sequence[Sequence[int]]
    costs: CoupledKnapsack
    loss: Callable[[Ints], float]
    relaxed_loss: Callable[[list[Any], int], Any] | None = None
    trainee: Trainee | None = None
    identity: str = ""
    forms: ClassVar[tuple[type, ...]] = (TrainedMask,)
    violation_unit: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        require(len(self.widths), "widths", "hold a group of channels", self.widths)
        for g, row in enumerate(self.widths):
            steps = ints(f"widths[{g}]", row, ("steps",), low=1)
            require(steps.size and np.all(np.diff(steps) > 0), f"widths[{g}]", "rise", row)
        _ = self.form  # checks costs and budget

    @cached_property
    def form(self) -> TrainedMask:
        """The task as a `TrainedMask`: a table of one group for each group of channels."""
        tables = [(np.arange(row[-1])[None, :] < np.asarray(row)[:, None]).astype(np.float64) for row in self.widths]

        def loss(points: list[Floats]) -> float:
            return self.loss(np.array([round(float(z.sum())) for z in points], np.int64))

        def sample(points: list[Any], step: int) -> Any:
            assert self.relaxed_loss is not None
            return self.relaxed_loss([z[0] for z in points], step)

        relaxed = None if self.relaxed_loss is None else sample
        options: dict[str, Any] = {"identity": self.identity, "costs": self.costs, "trainee": self.trainee}
        return TrainedMask([1] * len(tables), tables, loss, relaxed, **options)

    def options(self, x: ArrayLike) -> tuple[Ints, ...]:
        """Return widths as a value of the form."""
        given = ints("x", x, (len(self.widths),)).tolist()
        rows = [[int(k) for k in row] for row in self.widths]
        found = (row.index(one_of(f"x[{g}]", w, row)) for g, (w, row) in enumerate(zip(given, rows, strict=True)))
        return tuple(np.array([k]) for k in found)

    def widths_of(self, choice: Sequence[ArrayLike]) -> Ints:
        """Return a value of the form as widths."""
        return np.array([r[int(np.asarray(k)[0])] for r, k in zip(self.widths, choice, strict=True)], np.int64)

    def objective(self, x: ArrayLike, /) -> float:
        """Return the loss of the network of these widths."""
        return self.form.objective(self.options(x))

    def violation(self, x: ArrayLike, /) -> float:
        """Return 0 within the budget, else by what share it is exceeded."""
        return self.form.violation(self.options(x))

    def used(self, x: ArrayLike) -> float:
        """Return what the widths cost."""
        return self.form.used(self.options(x))

    def reduce(self, to: type | None = None) -> Reduced[Ints]:
        """Return the task as a `TrainedMask`."""
        if to is not None and to not in (TrainedMask, RelaxedMask):
            raise invalid("to", "be TrainedMask for this task", to.__name__)
        return Reduced(self.form, self.widths_of)
