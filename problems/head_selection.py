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
from prunopt.core.validate import Shown, bools, floats, ints, invalid, number, require
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
            raise TypeError(f"loss must be a function of a bool array of kept heads, got {self.loss!r}")
        if not isinstance(self.budget, Budget):
            raise TypeError(f"budget must be a Budget, got {self.budget!r}; pass one, or use from_loss(keep=)")
        layers = _counts("n_heads", self.n_heads)
        sizes = _counts("heads_per_group", self.heads_per_group)
        sizes = sizes * len(layers) if len(sizes) == 1 else sizes
        whole = len(sizes) == len(layers) and not any(n % g for n, g in zip(layers, sizes, strict=True))
        require(whole, "heads_per_group", f"divide the heads of each layer {layers}", self.heads_per_group)
        cost = np.ones(sum(layers)) if self.cost is None else floats("cost", self.cost, (sum(layers),), low=0)
        number("fixed", self.fixed, low=0)
        budget = self.budget
        if budget.share is not None and budget.total is None:
            budget = replace(budget, total=self.fixed + float(cost.sum()))
        for name, value in (("n_heads", layers), ("heads_per_group", sizes), ("cost", cost), ("budget", budget)):
            object.__setattr__(self, name, value)
        if self.exactly is not None:
            alike = len(set(sizes)) == 1
            require(alike, "exactly", "be None where group sizes differ", self.exactly, "pass a budget instead")
            require(
                self.exactly % sizes[0] == 0, "exactly", f"be a multiple of {sizes[0]} (whole groups)", self.exactly
            )
        least = self.fixed + float(np.sum([min(c) for c in self._group_costs() if self.at_least_one_per_layer]))
        if self.budget.allowed() * (1 + SLACK) < least:
            what = "one head (group) a layer" if self.at_least_one_per_layer else "the model without heads"
            must = f"be at least {least:g} {self.budget.resource}, the cost of {what}"
            mend = f"raise it to {least:g}" + (" or let layers lose all heads" if self.at_least_one_per_layer else "")
            raise invalid("budget", must, self.budget.allowed(), mend)
        _ = self.form

    @classmethod
    def from_loss(
        cls,
        loss: Callable[[Bools], float],
        n_heads: int | Sequence[int],
        keep: int | float | Budget,
        *,
        exactly: bool = False,
        **options: Any,
    ) -> HeadSelection:
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
            require(not exactly, "keep", "be a number of heads for exactly=True", keep)
            budget = keep
        else:
            if isinstance(keep, bool) or not isinstance(keep, int | float | np.integer | np.floating):
                raise TypeError(f"keep must be a number of heads, a fraction of them, or a Budget, got {keep!r}")
            whole = isinstance(keep, int | np.integer)
            inside = 0 <= keep <= total if whole else 0 < keep < 1
            require(inside, "keep", f"be 0 to {total} heads, or a fraction within (0, 1)", keep)
            heads = int(keep) if whole else math.floor(keep * total + 1e-9)
            budget = Budget("heads", heads, total)
            plain = options.get("cost") is None
            require(plain, "keep", "be a Budget in the unit of the costs where cost is given", keep)
            if exactly:
                options["exactly"] = heads
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
        layers = np.split(np.asarray(self.cost), np.cumsum(self.layers)[:-1])
        return [c.reshape(-1, g).sum(axis=1) for c, g in zip(layers, sizes, strict=True)]

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
            empty = sum(not layer.any() for layer in np.split(kept, np.cumsum(self.layers)[:-1]))
        return over + split + empty + (0 if self.exactly is None else abs(int(kept.sum()) - self.exactly))

    @cached_property
    def form(self) -> SubsetChoice:
        """The task over key-value groups; an `EnumerableChoice` where they are few."""
        costs, cover = self._group_costs(), []
        if self.at_least_one_per_layer:
            ends = np.cumsum([len(c) for c in costs]).tolist()
            cover = [list(range(end - len(c), end)) for c, end in zip(costs, ends, strict=True)]
        sizes: Any = self.heads_per_group
        scores = self.scores

        def group_scores(kept: Bools) -> Floats:
            assert scores is not None
            return np.bincount(self.group_of, np.asarray(scores(self.heads_of(kept)), np.float64)).astype(np.float64)

        exactly = None if self.exactly is None else self.exactly // sizes[0]
        limits = (np.concatenate(costs), self.budget.allowed() - self.fixed, cover, exactly)
        known = None if scores is None else group_scores
        form = SubsetChoice(lambda kept: self.loss(self.heads_of(kept)), *limits, known, self.scores_name)
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
            raise invalid("to", f"be {type(self.form).__name__} for this task", to.__name__)
        return Reduced(self.form, self.heads_of)

    def _as_value(self, x: ArrayLike) -> Bools:
        kept = np.asarray(x)
        require(kept.dtype == np.bool_, "x", "hold True and False", Shown(f"dtype {kept.dtype}"))
        return bools("x", kept, (sum(self.layers),))


def _counts(name: str, given: int | Sequence[int]) -> tuple[int, ...]:
    numbers = tuple(ints(name, np.atleast_1d(np.asarray(given)), ("layers",), low=1).tolist())
    require(numbers, name, "hold a number for each layer", given)
    return numbers
