"""How many channels every group of a network keeps, under a budget that couples neighbouring groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Floats, Ints
from prunopt.core.problem import Reduced
from prunopt.forms.knapsack.coupled_knapsack import CoupledChoice


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
    forms: ClassVar[tuple[type, ...]] = (CoupledChoice,)
    violation_unit: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.loss):
            raise ValueError(f"loss: {len(self.loss)} groups given, widths has {len(self.widths)}")
        for g, (w, values) in enumerate(zip(self.widths, self.loss, strict=True)):
            if len(w) != len(values) or not len(w) or len(set(w)) != len(w) or min(w) < 0:
                raise ValueError(f"widths[{g}]: different widths >= 0, one loss each, are needed")
        if not 0 <= self.budget < math.inf:
            raise ValueError(f"budget={self.budget!r}: give a finite number >= 0")
        for i, layer in enumerate(self.layers):
            n = len(self.widths)
            if not (-1 <= layer.source < n and -1 <= layer.target < n):
                raise ValueError(f"layers[{i}]: groups -1 to {n - 1} are known, not {layer.source}, {layer.target}")
        if self.form.least_cost > self.budget * (1 + 1e-12):
            raise ValueError(
                f"budget={self.budget:g}: below the least that these widths allow, {self.form.least_cost:g}; "
                "raise it or offer smaller widths"
            )

    @cached_property
    def form(self) -> CoupledChoice:
        """The task as options of groups."""
        n, k = len(self.widths), max((len(w) for w in self.widths), default=1)
        loss, cost = np.full((n + 1, k), np.inf), np.zeros((n + 1, k))
        loss[n, 0] = 0.0  # a group of one option bears what does not depend on any width
        pairs: dict[tuple[int, int], Floats] = {}
        for g, values in enumerate(self.loss):
            loss[g, : len(values)] = values
        for layer in self.layers:
            table = np.asarray(layer.table, np.float64)
            rows = len(self.widths[layer.source]) if layer.source >= 0 else 1
            columns = len(self.widths[layer.target]) if layer.target >= 0 else 1
            if table.shape[0] < rows or table.shape[1] < columns:
                raise ValueError(f"layers: a table of shape {table.shape}, ({rows}, {columns}) or more is needed")
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
        return CoupledChoice(loss, cost, edges, tables, self.budget)

    def options(self, x: ArrayLike) -> Ints:
        """Return the option of every group (and the one of the constant) by its width."""
        w = np.asarray(x)
        if w.shape != (len(self.widths),) or w.dtype.kind not in "iu":
            raise ValueError(f"x: {w.dtype} {w.shape} given, {len(self.widths)} integer widths are needed")
        out = np.zeros(len(w) + 1, np.int64)
        for g, (width, offered) in enumerate(zip(w.tolist(), self.widths, strict=True)):
            if width not in offered:
                raise ValueError(f"x[{g}]={width}: not among the widths offered, {list(offered)}")
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
        """Return the task as a `CoupledChoice`."""
        if to is not None and not issubclass(CoupledChoice, to):
            raise ValueError(f"to={to.__name__}: ChannelWidths reduces to CoupledChoice")
        return Reduced(self.form, self._widths_of)

    def _widths_of(self, options: Any) -> Ints:
        return np.array([self.widths[g][int(k)] for g, k in enumerate(np.asarray(options)[:-1])], np.int64)
