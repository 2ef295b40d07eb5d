"""Which attention heads of a transformer stay, within a budget of heads, parameters or milliseconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.budget import Budget
from prunopt.core.problem import Reduced
from prunopt.forms.subset.subset_choice import MOST_ENUMERATED, SLACK, EnumerableChoice, SubsetChoice


@dataclass(frozen=True, eq=False)
class HeadSelection:
    r"""Keep the attention heads with which the loss is least.

    .. math::
        \min_{\xi \in \{0,1\}^{n}} \; E_x L(f_\xi(x)) \quad \text{s.t.} \quad
        c_0 + \sum_h c_h \xi_h \le B, \qquad \Big(\sum_{h \in l} \xi_h \ge 1 \;\; \forall l\Big)

    with one gate :math:`\xi_h` on the output of each head [1]_. Query heads that share a key-value head stay or go
    together. The loss need not grow when heads go: only `enumeration` proves an answer.

    Parameters
    ----------
    loss : callable
        ``loss(kept) -> float``, ``kept`` a bool array with an entry for each head.
    n_heads : int or sequence of int
        Heads of each layer; one number is one layer.
    budget : Budget
        What the heads that stay may cost, in any resource: heads, parameters, milliseconds.
    cost : (n,) float, optional
        :math:`c_h`, of each head in the unit of the budget; None: 1.
    fixed : float
        :math:`c_0`, what the model costs without any heads.
    heads_per_group : int or sequence of int
        Query heads that share a key-value head, for all layers or for each.
    at_least_one_per_layer : bool
        Whether every layer keeps a head (a group).
    exactly : int, optional
        The number of heads, where it is given and not only limited.
    scores : callable, optional
        ``scores(kept) -> (n,) float``, an estimate of what the removal of each head costs, for `head-importance`.
    scores_name : str
        What that estimate is called.

    Notes
    -----
    The value is a bool array with an entry for each head, layer after layer; True = stays.

    Raises
    ------
    ValueError
        If the budget is below what has to stay.

    References
    ----------
    .. [1] P. Michel, O. Levy, G. Neubig, "Are sixteen heads really better than one?", NeurIPS 2019.
    """

    loss: Callable[[Bools], float]
    n_heads: int | Sequence[int]
    budget: Budget
    cost: ArrayLike | None = field(default=None, kw_only=True)
    fixed: float = field(default=0.0, kw_only=True)
    heads_per_group: int | Sequence[int] = field(default=1, kw_only=True)
    at_least_one_per_layer: bool = field(default=False, kw_only=True)
    exactly: int | None = field(default=None, kw_only=True)
    scores: Callable[[Bools], ArrayLike] | None = field(default=None, kw_only=True)
    scores_name: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if not callable(self.loss):
            raise TypeError(f"loss: {type(self.loss).__name__} given; give a function of a bool array of kept heads")
        if not isinstance(self.budget, Budget):
            raise TypeError(f"budget: {type(self.budget).__name__} given; give a Budget, or use from_loss(keep=)")
        layers = _counts("n_heads", self.n_heads)
        sizes = _counts("heads_per_group", self.heads_per_group)
        sizes = sizes * len(layers) if len(sizes) == 1 else sizes
        if len(sizes) != len(layers) or any(n % g for n, g in zip(layers, sizes, strict=True)):
            raise ValueError(
                f"heads_per_group={self.heads_per_group!r}: give one number, or one for each of {len(layers)} layers, "
                f"that divides the layer's heads {layers}"
            )
        cost = np.ones(sum(layers)) if self.cost is None else np.asarray(self.cost, np.float64)
        if cost.shape != (sum(layers),) or not np.isfinite(cost).all() or (cost < 0).any():
            raise ValueError(
                f"cost: shape {cost.shape} given; {sum(layers)} finite numbers >= 0, one a head, are needed"
            )
        if not 0 <= self.fixed < math.inf:
            raise ValueError(f"fixed={self.fixed!r}: give a finite number >= 0")
        budget = self.budget
        if budget.share is not None and budget.total is None:
            budget = replace(budget, total=self.fixed + float(cost.sum()))
        for name, value in (("n_heads", layers), ("heads_per_group", sizes), ("cost", cost), ("budget", budget)):
            object.__setattr__(self, name, value)
        if self.exactly is not None and self.exactly % min(sizes) and len(set(sizes)) == 1:
            raise ValueError(f"exactly={self.exactly}: groups of {sizes[0]} heads stay whole; give a multiple of that")
        if self.exactly is not None and len(set(sizes)) > 1:
            raise ValueError("exactly: groups differ in size from layer to layer; give a budget instead")
        least = self.fixed + float(np.sum([min(c) for c in self._group_costs() if self.at_least_one_per_layer]))
        if self.budget.allowed() * (1 + SLACK) < least:
            what = "one head (group) a layer" if self.at_least_one_per_layer else "the model without heads"
            raise ValueError(
                f"budget: {self.budget.describe()}, {what} takes {least:g}; raise the "
                f"budget to {least:g}" + (" or let layers lose all heads" if self.at_least_one_per_layer else "")
            )
        _ = self.form

    @classmethod
    def from_loss(
        cls, loss: Callable[[Bools], float], n_heads: int | Sequence[int], keep: int | float | Budget,
        *, exactly: bool = False, **options: Any,
    ) -> HeadSelection:  # fmt: skip
        """Return the task for a loss of the kept heads.

        Parameters
        ----------
        loss
            As of the class; where it has attributes ``scores`` (a method) and ``scores_name`` they are used, too.
        n_heads
            Heads of each layer; one number is one layer.
        keep
            At most so many heads (an int), this fraction of them (a float in (0, 1), rounded down), or a `Budget` in
            the unit of ``cost``.
        exactly
            Whether so many heads are to stay, and not fewer.
        options
            As of the class.
        """
        total = sum(_counts("n_heads", n_heads))
        if isinstance(keep, Budget):
            if exactly:
                raise ValueError("exactly=True: give keep as a number of heads")
            budget = keep
        else:
            if isinstance(keep, bool) or not isinstance(keep, int | float | np.integer | np.floating):
                raise TypeError(f"keep={keep!r}: give a number of heads, a fraction of them, or a Budget")
            whole = isinstance(keep, int | np.integer)
            if not (0 <= keep <= total if whole else 0 < keep < 1):
                raise ValueError(
                    f"keep={keep!r}: give 0 to {total} heads as a whole number, or a fraction within (0, 1)"
                )
            number = int(keep) if whole else math.floor(keep * total + 1e-9)
            budget = Budget("heads", number, total)
            if options.get("cost") is not None:
                raise ValueError("cost: keep counts heads; give keep as a Budget in the unit of the costs")
            if exactly:
                options["exactly"] = number
        if hasattr(loss, "scores"):
            options.setdefault("scores", loss.scores)
            options.setdefault("scores_name", getattr(loss, "scores_name", ""))
        return cls(loss, n_heads, budget, **options)

    @property
    def layers(self) -> tuple[int, ...]:
        """Heads of each layer."""
        return self.n_heads  # type: ignore[return-value]

    @cached_property
    def group_of(self) -> Ints:
        """The number of the key-value group of each head."""
        sizes: Any = self.heads_per_group
        counts = [g for n, g in zip(self.layers, sizes, strict=True) for _ in range(n // g)]
        return np.repeat(np.arange(len(counts)), counts)

    def _group_costs(self) -> list[Floats]:
        """The costs of each layer's groups."""
        sizes: Any = self.heads_per_group
        out, start = [], 0
        for n, g in zip(self.layers, sizes, strict=True):
            out.append(np.asarray(self.cost)[start : start + n].reshape(-1, g).sum(axis=1))
            start += n
        return out

    def used(self, x: ArrayLike) -> float:
        """Return what the heads that stay cost, in the budget's unit."""
        return self.fixed + float(np.asarray(self.cost)[self._as_value(x)].sum())

    def objective(self, x: ArrayLike, /) -> float:
        """Return the loss with the heads that stay."""
        return float(self.loss(self._as_value(x)))

    def violation(self, x: ArrayLike, /) -> float:
        """Return what is over the budget, plus groups that are split, layers without a head, heads too many or few."""
        kept = self._as_value(x)
        over = self.budget.violation(self.used(kept))
        if over <= SLACK * self.budget.allowed():
            over = 0.0
        some, every = np.zeros(self.group_of[-1] + 1, np.bool_), np.ones(self.group_of[-1] + 1, np.bool_)
        np.logical_or.at(some, self.group_of, kept)
        np.logical_and.at(every, self.group_of, kept)
        split = float((some != every).sum())
        empty = 0
        if self.at_least_one_per_layer:
            ends = np.cumsum(self.layers)
            empty = sum(not kept[e - n : e].any() for n, e in zip(self.layers, ends, strict=True))
        return over + split + empty + (0 if self.exactly is None else abs(int(kept.sum()) - self.exactly))

    @cached_property
    def form(self) -> SubsetChoice:
        """The task over key-value groups; an `EnumerableChoice` where they are few."""
        costs, cover, start = self._group_costs(), [], 0
        for c in costs:
            if self.at_least_one_per_layer:
                cover.append(list(range(start, start + len(c))))
            start += len(c)
        sizes: Any = self.heads_per_group
        scores = self.scores

        def group_scores(kept: Bools) -> Floats:
            assert scores is not None
            return np.bincount(self.group_of, np.asarray(scores(self.heads_of(kept)), np.float64)).astype(np.float64)

        form = SubsetChoice(
            lambda kept: self.loss(self.heads_of(kept)),
            np.concatenate(costs),
            self.budget.allowed() - self.fixed,
            cover,
            None if self.exactly is None else self.exactly // sizes[0],
            None if scores is None else group_scores,
            self.scores_name,
        )
        if form.n_raw > MOST_ENUMERATED:
            return form
        return EnumerableChoice(**{f.name: getattr(form, f.name) for f in fields(form)})

    @property
    def forms(self) -> tuple[type, ...]:
        """What the task can be reduced to."""
        return (type(self.form),)

    def heads_of(self, groups: Bools) -> Bools:
        """Return the heads of the groups that stay."""
        return np.asarray(groups)[self.group_of]

    def reduce(self, to: type | None = None) -> Reduced[Bools]:
        """Return the task as a `SubsetChoice` of groups."""
        if to is not None and not isinstance(self.form, to):
            raise ValueError(f"to={to.__name__}: this HeadSelection is a {type(self.form).__name__}")
        return Reduced(self.form, self.heads_of)

    def _as_value(self, x: ArrayLike) -> Bools:
        kept = np.asarray(x)
        if kept.shape != (sum(self.layers),) or kept.dtype != np.bool_:
            raise ValueError(f"x: {kept.dtype} of shape {kept.shape} given, bool of shape ({sum(self.layers)},) needed")
        return kept


def _counts(name: str, given: int | Sequence[int]) -> tuple[int, ...]:
    try:
        numbers = tuple(int(n) for n in np.atleast_1d(np.asarray(given)))
        whole = np.asarray(given).dtype.kind in "iu"
    except (TypeError, ValueError):
        numbers, whole = (), False
    if not numbers or not whole or min(numbers) < 1:
        raise ValueError(f"{name}={given!r}: give a whole number >= 1, or one for each layer")
    return numbers
