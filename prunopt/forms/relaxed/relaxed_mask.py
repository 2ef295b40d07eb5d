"""One vector of a short list for every group, under a loss that is differentiable between the vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunopt.core.arrays import Floats, Ints
from prunopt.core.display import one_line
from prunopt.core.validate import Shown, floats, ints, require

Choices = tuple[Ints, ...]

MOST_ENUMERATED = 1 << 20
CHUNK = 1 << 14


@one_line
@dataclass(frozen=True, eq=False)
class RelaxedMask:
    r"""Choose a candidate for every group, so that a loss is least that is differentiable on their convex hulls.

    Groups come in tables; table t has :math:`G_t` groups, which all choose among the rows of the same
    :math:`A_t \in \mathbb{R}^{C_t \times M_t}`:

    .. math::
        \min_{k_{t,g} \in \{0, \dots, C_t - 1\}} L(Z), \qquad Z_{t,g} = (A_t)_{k_{t,g}}

    A relaxation puts :math:`Z_{t,g} = p_{t,g} A_t` with :math:`p_{t,g}` on the simplex, where L is differentiable. For
    N:M masks a group is a block of M weights and A lists its masks; for widths a group is a set of coupled channels and
    the rows of A are its widths, in order of importance.

    Parameters
    ----------
    groups : sequence of int
        :math:`G_t`.
    candidates : sequence of (C_t, M_t) arrays
        :math:`A_t`.
    loss : callable
        ``loss(points) -> float``: L at a list of (G_t, M_t) float arrays, over all the data. Deterministic.
    relaxed_loss : callable
        ``relaxed_loss(points, step) -> torch scalar``: an unbiased sample of L (one batch, chosen by the number of the
        step), differentiable in the list of (G_t, M_t) tensors. It must be a function of its arguments alone.
    expected_loss : callable, optional
        ``expected_loss(probabilities, step) -> torch scalar``: the mean of L over independent choices, differentiable
        in the list of (G_t, C_t) tensors of probabilities. A quadratic loss has it in closed form, see
        `prunopt.forms.relaxed.relaxed_mask.expected_quadratic`.
    prior : sequence of (G_t, M_t) arrays, optional
        A point to start near, such as the masks that another method has found.
    energy : sequence of (G_t, M_t) arrays, optional
        What an entry of Z carries, :math:`w^2` for weights: the bonus :math:`\sum w^2 z^2` keeps gradients alive.
    identity : str
        What the losses stand for, such as a digest of model and data: a checkpoint is resumed only where it agrees.

    Notes
    -----
    A value is a tuple of int arrays, the choice of each group. Nothing is assumed of L, so that there is no bound but
    by looking at every choice.
    """

    groups: Sequence[int]
    candidates: Sequence[ArrayLike]
    loss: Callable[[list[Floats]], float]
    relaxed_loss: Callable[[list[Any], int], Any] | None = None
    prior: Sequence[ArrayLike] | None = None
    energy: Sequence[ArrayLike] | None = None
    identity: str = ""
    expected_loss: Callable[[list[Any], int], Any] | None = None

    def __post_init__(self) -> None:
        groups = tuple(int(g) for g in self.groups)
        require(groups and min(groups) >= 1, "groups", "name a table, each with a group or more", self.groups)
        tables = tuple(floats("candidates", a, ("candidates", "entries")) for a in self.candidates)
        require(len(tables) == len(groups), "candidates", f"be {len(groups)} tables, as many as groups", len(tables))
        require(all(a.size for a in tables), "candidates", "be tables that are not empty", [a.shape for a in tables])
        object.__setattr__(self, "groups", groups)
        object.__setattr__(self, "candidates", tables)
        for name in ("prior", "energy"):
            given = getattr(self, name)
            if given is None:
                continue
            arrays = tuple(np.asarray(a, np.float64) for a in given)
            shapes, wanted = [a.shape for a in arrays], [(g, a.shape[1]) for g, a in zip(groups, tables, strict=True)]
            require(shapes == wanted, name, f"have shapes {wanted}", shapes)
            object.__setattr__(self, name, arrays)

    @property
    def tables(self) -> tuple[Floats, ...]:
        """The candidates as arrays."""
        return self.candidates  # type: ignore[return-value]

    @cached_property
    def n_groups(self) -> int:
        """Number of groups in all tables."""
        return sum(self.groups)

    @cached_property
    def n_choices(self) -> int:
        """Number of values, as an exact integer."""
        return math.prod(len(a) ** g for g, a in zip(self.groups, self.tables, strict=True))

    def points(self, x: Sequence[ArrayLike]) -> list[Floats]:
        """Return Z of a value, (G_t, M_t) for each table."""
        return [a[k] for a, k in zip(self.tables, self._as_value(x), strict=True)]

    def nearest(self, points: Sequence[NDArray[Any]]) -> Choices:
        """Return the candidates with the largest inner product with the points; ties go to the earlier."""
        chosen = []
        for z, a in zip(points, self.tables, strict=True):
            # All inner products of 4:8 at once would take 70 numbers a block.
            parts = (np.asarray(z[k : k + CHUNK], np.float64) for k in range(0, len(z), CHUNK))
            chosen.append(np.concatenate([np.argmax(part @ a.T, axis=1) for part in parts]).astype(np.int64))
        return tuple(chosen)

    def objective(self, x: Sequence[ArrayLike], /) -> float:
        """Return L of a value."""
        return float(self.loss(self.points(x)))

    def violation(self, x: Sequence[ArrayLike], /) -> float:
        """Return how many groups have chosen what is not in their list."""
        pairs = zip(self._shaped(x), self.tables, strict=True)
        return float(sum(int(((k < 0) | (k >= len(a))).sum()) for k, a in pairs))

    def every_choice(self) -> Iterator[Choices]:
        """Yield every value, the last group changing fastest.

        Raises
        ------
        ValueError
            If there are more than 2^20.
        """
        count = Shown(f"{self.n_choices:.3g}")
        require(self.n_choices <= MOST_ENUMERATED, "choices", f"be {MOST_ENUMERATED} at most to be enumerated", count)
        lists = [range(len(a)) for g, a in zip(self.groups, self.tables, strict=True) for _ in range(g)]
        ends = np.cumsum(self.groups)[:-1]
        for choice in product(*lists):
            yield tuple(np.split(np.array(choice, np.int64), ends))

    def bound(self, duals: Mapping[str, Any]) -> float:
        """Return the least loss of all values, each looked at again, where ``duals["enumerated"]`` asks for it."""
        if not duals.get("enumerated"):
            return -math.inf
        return min(self.objective(x) for x in self.every_choice())

    def _shaped(self, x: Sequence[ArrayLike]) -> Choices:
        given = tuple(np.asarray(k) for k in x)
        shapes, wanted = [k.shape for k in given], [(g,) for g in self.groups]
        require(shapes == wanted, "x", f"be arrays of shapes {wanted}", shapes)
        return tuple(ints("x", k) for k in given)

    def _as_value(self, x: Sequence[ArrayLike]) -> Choices:
        value = self._shaped(x)
        require(not self.violation(value), "x", "choose from each group's candidates", value)
        return value


def expected_quadratic(weight: Any, hessian: Any, probabilities: Any, candidates: Any) -> Any:
    r"""Return the mean of :math:`\sum_r v_r H v_r^\top`, v = w (1 - z), over independent choices z of every block.

    .. math::
        \sum_r \bar v_r H \bar v_r^\top + \sum_b \operatorname{tr}\bigl(\operatorname{diag}(w_b) H_{bb}
        \operatorname{diag}(w_b) \operatorname{Cov}(z_b)\bigr)

    Blocks are independent, so that only the diagonal blocks of H see a covariance.

    Parameters
    ----------
    weight : (out, in) tensor
    hessian : (in, in) tensor
    probabilities : (out * in / M, C) tensor
        Of the candidates of each block, row after row.
    candidates : (C, M) tensor
        Zeros and ones.
    """
    m, (rows, columns) = candidates.shape[1], weight.shape
    mean = probabilities @ candidates
    removed = weight * (1 - mean.reshape(rows, columns))
    second = (probabilities[:, :, None] * candidates[None]).transpose(1, 2) @ candidates
    covariance = (second - mean[:, :, None] * mean[:, None, :]).reshape(rows, columns // m, m, m)
    places = hessian.reshape(columns // m, m, columns // m, m).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    parts = weight.reshape(rows, columns // m, m)
    own = (parts[..., :, None] * parts[..., None, :] * places * covariance).sum()
    return ((removed @ hessian) * removed).sum() + own
