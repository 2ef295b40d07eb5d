"""How many channels every group of a network keeps, under a budget that couples neighboring groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats, Ints
from prunopt.core.display import one_line
from prunopt.core.problem import Reduced
from prunopt.core.validate import ints, number, one_of, require
from prunopt.forms.knapsack.coupled_knapsack import CoupledKnapsack


@one_line
@dataclass(frozen=True, eq=False)
class LayerCost:
    """What one layer costs by the widths at its ends.

    Parameters
    ----------
    source, target : int
        The groups that it reads and writes; -1 for an end whose width does not change. Both may be the same group.
    table : (K, K) float
        The cost by the option of the source (rows) and of the target (columns); an end of -1 has its cost in option 0.
    """

    source: int
    target: int
    table: Any


@one_line
@dataclass(frozen=True, eq=False)
class ChannelWidths:
    r"""Choose a width for every group of channels.

    .. math::
        \min_w \; \sum_g \ell_g(w_g) \quad \text{s.t.} \quad \sum_f c_f(w_{in(f)}, w_{out(f)}) \le B

    A layer's cost is a function of both of its widths (for multiply-adds their product), so the groups are coupled
    along the layers: exact dynamic programming where the groups form a forest, an integer program otherwise.

    Parameters
    ----------
    widths : sequence of int sequences
        The widths that each group may take.
    loss : sequence of float sequences
        What each width loses, as ``widths``.
    layers : sequence of `LayerCost`
        The layers that cost something.
    budget : float
        The most that all layers may cost.

    Notes
    -----
    The value is an int array of shape (groups,): the width of every group.
    """

    widths: Sequence[Sequence[int]]
    loss: Sequence[Sequence[float]]
    layers: Sequence[LayerCost]
    budget: float
    forms: ClassVar[tuple[type, ...]] = (CoupledKnapsack,)
    violation_unit: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        n = len(self.widths)
        require(len(self.loss) == n, "loss", f"hold {n} groups as widths", len(self.loss))
        for g, (w, values) in enumerate(zip(self.widths, self.loss, strict=True)):
            good = len(w) == len(values) > 0 and len(set(w)) == len(w) and min(w) >= 0
            require(good, f"widths[{g}]", "be different widths >= 0, one loss each", w)
        number("budget", self.budget, low=0.0)
        for i, layer in enumerate(self.layers):
            ends = (layer.source, layer.target)
            require(all(-1 <= g < n for g in ends), f"layers[{i}]", f"join groups -1 to {n - 1}", ends)
        least, mend = self.form.least_cost, "raise it or offer smaller widths"
        require(least <= self.budget * (1 + 1e-12), "budget", f"be >= {least:g}", self.budget, mend)

    @cached_property
    def form(self) -> CoupledKnapsack:
        """The task as options of groups."""
        n, k = len(self.widths), max((len(w) for w in self.widths), default=1)
        loss, cost = np.full((n + 1, k), np.inf), np.zeros((n + 1, k))
        loss[n, 0] = 0.0  # a group of one option holds the costs that do not depend on any width
        pairs: dict[tuple[int, int], Floats] = {}
        for g, values in enumerate(self.loss):
            loss[g, : len(values)] = values
        for layer in self.layers:
            table = np.asarray(layer.table, np.float64)
            rows = len(self.widths[layer.source]) if layer.source >= 0 else 1
            columns = len(self.widths[layer.target]) if layer.target >= 0 else 1
            fits = table.shape[0] >= rows and table.shape[1] >= columns
            require(fits, "table", f"have shape ({rows}, {columns}) or more", table)
            table = table[:rows, :columns]
            if layer.source == layer.target:
                g = layer.source if layer.source >= 0 else n
                cost[g, :rows] += np.diagonal(table)
            elif layer.source < 0:
                cost[layer.target, :columns] += table[0]
            elif layer.target < 0:
                cost[layer.source, :rows] += table[:, 0]
            else:
                i, j = sorted((layer.source, layer.target))
                full = pairs.setdefault((i, j), np.zeros((k, k)))
                turned = table if i == layer.source else table.T
                full[: turned.shape[0], : turned.shape[1]] += turned
        edges = np.array(list(pairs), np.int64).reshape(-1, 2)
        tables = np.array(list(pairs.values())).reshape(-1, k, k)
        return CoupledKnapsack(loss, cost, edges, tables, self.budget)

    def options(self, x: ArrayLike) -> Ints:
        """Return the option of every group (and the one of the constant) by its width."""
        w = ints("x", x, (len(self.widths),))
        out = np.zeros(len(w) + 1, np.int64)
        for g, (width, offered) in enumerate(zip(w.tolist(), self.widths, strict=True)):
            one_of(f"x[{g}]", width, [int(v) for v in offered])
            out[g] = list(offered).index(width)
        return out

    def objective(self, x: ArrayLike, /) -> float:
        """Return the loss of the widths."""
        return self.form.objective(self.options(x))

    def violation(self, x: ArrayLike, /) -> float:
        """Return 0 within the budget, else by what share it is exceeded."""
        return self.form.violation(self.options(x))

    def used(self, x: ArrayLike) -> float:
        """Return what the widths cost."""
        return self.form.used(self.options(x))

    def reduce(self, to: type | None = None) -> Reduced[Ints]:
        """Return the task as a `CoupledKnapsack`."""
        require(to is None or issubclass(CoupledKnapsack, to), "to", "be CoupledKnapsack", to)
        return Reduced(self.form, self._widths_of)

    def _widths_of(self, options: Any) -> Ints:
        return np.array([self.widths[g][int(k)] for g, k in enumerate(np.asarray(options)[:-1])], np.int64)
