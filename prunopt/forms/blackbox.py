"""Objectives that can only be evaluated: genes, what they decode to, and what that loses."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from prunopt.core.display import one_line
from prunopt.core.validate import ints, require, unique

Point = Mapping[str, Any]


def digest(data: Any) -> str:
    """Return a short text that is equal for equal ``data`` (anything JSON has a word for, and arrays)."""
    text = json.dumps(data, sort_keys=True, default=lambda a: a.tolist() if hasattr(a, "tolist") else str(a))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def name_of(function: Any) -> str:
    """Return what a loss is called and the names that it uses: what tells two losses apart in every process alike."""
    call = function if hasattr(function, "__qualname__") else type(function).__call__
    code = getattr(getattr(call, "__func__", call), "__code__", None)
    called = getattr(function, "__qualname__", type(function).__qualname__)
    return " ".join((str(called), *sorted(set(code.co_names if code is not None else ()))))


@dataclass(frozen=True)
class Gene:
    """One coordinate of a search: one of ``options`` (text or numbers), or a real number between ``low`` and ``high``.

    Parameters
    ----------
    name
        What the trials of a search call it.
    options
        The choices; empty for a real number.
    low, high
        The range of a real number.
    ordered
        Whether neighboring options are alike, so that a small change is a step to the next one.
    """

    name: str
    options: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 1.0
    ordered: bool = False

    def __post_init__(self) -> None:
        if not self.options:
            real = math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high
            require(real, f"gene {self.name!r}", "have low < high, both finite", (self.low, self.high))
        unique(f"gene {self.name!r}, options", self.options)

    def allows(self, value: Any) -> bool:
        """Return whether ``value`` is one of the options, or lies in the range."""
        if self.options:
            return value in self.options
        return isinstance(value, int | float) and self.low <= value <= self.high


@one_line
@dataclass(frozen=True, eq=False)
class BlackBox:
    r"""Minimize a loss that can only be evaluated, over genes that decode to a decision.

    .. math:: \min_{u \in U_1 \times \dots \times U_n} \; \mathrm{loss}(\mathrm{decode}(u))

    Many points may decode to one decision; ``key`` names the decision, and a search evaluates no key twice.

    Parameters
    ----------
    genes
        The coordinates.
    decode
        Turns a point, ``{name: value}``, into a decision; None for a point that stands for none.
    loss
        ``loss(decision, fidelity)``, lower is better; fidelity in (0, 1] is the share of the evidence to look at.
    key
        A text for each decision, equal for equal decisions. Default: a digest of its JSON.
    fidelities
        Shares of the evidence at which a search may look before it goes on, rising; the last is 1.
    identity
        What the problem is, as JSON: a stored search belongs to one identity. Without an entry ``"loss"``, the name of
        the loss and the names that it uses stand for it; losses that differ in data alone need an entry of their own.

    Notes
    -----
    The value is a point. There is no bound: no answer of a search is called optimal.
    """

    genes: tuple[Gene, ...]
    decode: Callable[[Point], Any]
    loss: Callable[[Any, float], float]
    key: Callable[[Any], str] = digest
    fidelities: tuple[float, ...] = (1.0,)
    identity: Mapping[str, Any] = field(default_factory=dict)

    violation_unit: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        genes = tuple(self.genes)
        names = [g.name for g in genes]
        require(genes, "genes", "hold one gene or more", names)
        unique("genes", names)
        steps = tuple(float(f) for f in self.fidelities)
        rising = steps[-1:] == (1.0,) and all(0 < a < b for a, b in itertools.pairwise((*steps, 2.0)))
        require(rising, "fidelities", "be rising shares in (0, 1] that end with 1", self.fidelities)
        object.__setattr__(self, "genes", genes)
        object.__setattr__(self, "fidelities", steps)

    def objective(self, x: Point, /) -> float:
        """Return the loss of what the point decodes to, at full fidelity."""
        self._check(x)
        decision = self.decode(x)
        return math.inf if decision is None else float(self.loss(decision, 1.0))

    def violation(self, x: Point, /) -> float:
        """Return 0 for a point that decodes to a decision, else infinity."""
        self._check(x)
        return math.inf if self.decode(x) is None else 0.0

    def _check(self, x: Point) -> None:
        names = [g.name for g in self.genes]
        require(isinstance(x, Mapping) and set(x) == set(names), "x", f"be a mapping of {', '.join(names)}", x)
        for gene in self.genes:
            allowed = f"one of {gene.options}" if gene.options else f"a number from {gene.low} to {gene.high}"
            require(gene.allows(x[gene.name]), f"x[{gene.name!r}]", f"be {allowed}", x[gene.name])


@one_line
@dataclass(frozen=True, eq=False)
class LevelSearch(BlackBox):
    r"""A black box over the levels of a multiple-choice knapsack.

    .. math:: \min_j \; \mathrm{loss}(j) \quad \text{s.t.} \quad \sum_g \mathrm{cost}_{g, j_g} \le \mathrm{budget}

    The genes are ``level_0, level_1, ...``, one for each group, with options 0 to L - 1; a point over the budget
    decodes to None.

    Parameters
    ----------
    cost : (G, L) int
        What each level of each group spends, in whole units, falling with the level.
    budget : int
        The greatest total cost.
    start : (G,) int
        Where to begin: levels within the budget.
    """

    cost: Any = None
    budget: int = 0
    start: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        cost = ints("cost", self.cost, (len(self.genes), "levels"))
        for g, gene in enumerate(self.genes):
            level = gene.name == f"level_{g}" and gene.options == tuple(range(cost.shape[1]))
            require(level, f"genes[{g}]", "be that of level_genes(G, L)", gene)
        given = np.zeros(len(cost), np.int64) if self.start is None else self.start
        start = ints("start", given, (len(cost),), low=0, high=cost.shape[1] - 1)
        spent = int(cost[np.arange(len(cost)), start].sum())
        require(spent <= self.budget, "start", f"cost at most the budget {self.budget}", spent)
        object.__setattr__(self, "cost", cost)
        object.__setattr__(self, "start", start)


def level_genes(groups: int, levels: int) -> tuple[Gene, ...]:
    """Return the genes of a `LevelSearch`."""
    return tuple(Gene(f"level_{g}", tuple(range(levels)), ordered=True) for g in range(groups))
