"""Search for an allocation on the model's true loss: expressions over statistics, vectors, progressions, levels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunopt.core.arrays import Floats
from prunopt.core.problem import Reduced
from prunopt.core.validate import Shown, floats, invalid, one_of, require
from prunopt.forms.blackbox import BlackBox, Gene, LevelSearch, Point, digest, level_genes, name_of
from prunopt.problems.allocation._operators import POST, PRE, REDUCTIONS, TRANSFORMS, bounded, constant
from prunopt.problems.allocation.atp import atp, steepest
from prunopt.problems.allocation.expressions import Expression, parse
from prunopt.problems.allocation.on_budget import as_bounds, as_sizes, as_sparsity, on_budget, uniform

SPACES = ("expressions", "vector", "progression", "levels")
SPREADS = (0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.13, 0.17, 0.22, 0.3)
DIGITS = 6  # allocations that agree to this many digits are the same
NONE = "none"


@dataclass(frozen=True, eq=False)
class AllocationSearch:
    r"""Minimize a measured loss over allocations that all meet the budget exactly.

    .. math:: \min_{s \in \mathcal S} \; \mathrm{evaluator.loss}(s)
              \quad \text{s.t.} \quad \sum_l n_l s_l = S \sum_l n_l, \quad l_l \le s_l \le h_l

    Parameters
    ----------
    evaluator
        Has ``loss(allocation, fidelity=1.0)``, lower is better; may have ``statistics`` and ``identity``.
    sizes : (n,) float
        Size of each layer.
    sparsity : float
        S, the fraction of all sizes to remove.
    space
        ``"expressions"`` (DSA [1]_): formulas over per-layer statistics, see `Expression`. ``"vector"``: one real
        number for each layer. ``"progression"``: one number, the step of an arithmetic progression. ``"levels"``: a
        grid of levels, searched from ``start`` (see `level-swap`).
    bounds
        Least and greatest sparsity: one pair, or one for each layer.
    statistics
        For expressions: ``{name: [array for each layer]}``. Default: the evaluator's; else the layers' ``depth`` and
        ``size``.
    levels : (K,) float
        For ``"levels"``: fractions removed, rising. Default: steps of 0.025.
    start : (n,) float
        For ``"levels"``: an allocation to begin with; default uniform.
    fidelities
        Shares of the evidence at which a trial is compared with the others before it goes on.

    Notes
    -----
    The value is the sparsity of every layer. On levels the budget is met from above, by less than one step of a layer;
    everywhere else to rounding.

    References
    ----------
    .. [1] L. Li et al., "Discovering sparsity allocation for layer-wise pruning of large language models", NeurIPS
       2024.
    """

    evaluator: Any
    sizes: Any
    sparsity: float
    space: str = "expressions"
    bounds: Any = (0.0, 0.99)
    statistics: Mapping[str, Sequence[ArrayLike]] | None = None
    levels: Any = None
    start: Any = None
    fidelities: tuple[float, ...] = (1.0,)
    identity: Mapping[str, Any] = field(default_factory=dict)

    forms: ClassVar[tuple[type, ...]] = (BlackBox, LevelSearch)
    violation_unit: ClassVar[float] = 1e-3

    def __post_init__(self) -> None:
        if not callable(getattr(self.evaluator, "loss", None)):
            raise TypeError(f"evaluator must have a method loss(allocation, fidelity=1.0), got {self.evaluator!r}")
        one_of("space", self.space, SPACES)
        n = as_sizes(self.sizes)
        low, high = as_bounds(self.bounds, len(n))
        object.__setattr__(self, "sizes", n)
        object.__setattr__(self, "sparsity", as_sparsity(self.sparsity, n, low, high))
        object.__setattr__(self, "bounds", np.stack([low, high], axis=1))
        object.__setattr__(self, "forms", (LevelSearch if self.space == "levels" else BlackBox,))
        given = self.statistics if self.statistics is not None else getattr(self.evaluator, "statistics", None)
        if given is None:
            given = {"depth": list(np.arange(1, len(n) + 1) / len(n)), "size": list(n / n.max())}
        tables = {str(k): [np.asarray(a, np.float64).ravel() for a in v] for k, v in given.items()}
        for name, rows in tables.items():
            ok = len(rows) == len(n) and all(r.size and np.all(np.isfinite(r)) for r in rows)
            must = f"hold a finite, non-empty array for each of {len(n)} layers"
            require(ok, f"statistics[{name!r}]", must, Shown(f"{len(rows)} arrays"))
        object.__setattr__(self, "statistics", tables)
        if self.space == "levels":
            grid = np.arange(41) / 40 if self.levels is None else floats("levels", self.levels, ("K",), low=0, high=1)
            require(np.all(np.diff(grid) > 0), "levels", "rise", grid.tolist())
            object.__setattr__(self, "levels", grid)

    @cached_property
    def _scores(self) -> dict[tuple[str, tuple[str, ...], str], Floats]:
        """Reduced scalars, made when they are first asked for and kept."""
        return {}

    def scores(self, expression: Expression | str) -> Floats:
        """Return the layers' scores, shape (n,); NaN where an operator has no finite answer."""
        e = self._expression(expression)
        key = (e.source, e.pre, e.reduction)
        if key not in self._scores:
            assert self.statistics is not None
            with np.errstate(all="ignore"):
                rows = []
                for row in self.statistics[e.source]:
                    for name in e.pre:
                        row = bounded(PRE[name](np.asarray(row)))
                    rows.append(REDUCTIONS[e.reduction](np.asarray(row)))
            self._scores[key] = bounded(np.array(rows))
        x = self._scores[key]
        with np.errstate(all="ignore"):
            for name in e.transform:
                x = bounded(TRANSFORMS[name](x))
            for name in e.post:
                x = bounded(POST[name](x))
        return x

    def allocation(self, expression: Expression | str) -> Floats:
        """Return the sparsities of an expression, on budget.

        Scores that are all equal (to 12 digits) give the uniform allocation.

        Raises
        ------
        ValueError
            If the expression cannot be read, or a score is not finite.
        """
        x = self.scores(expression)
        e = self._expression(expression)
        if not np.all(np.isfinite(x)):
            layer = int(np.flatnonzero(~np.isfinite(x))[0])
            raise invalid(f"expression {str(e)!r}", "have finite scores", Shown(f"{x[layer]} for layer {layer}"))
        if constant(x):
            return uniform(self.sizes, self.sparsity, self.bounds)
        place = (x - x.min()) / np.ptp(x)
        return on_budget(self.sparsity + e.spread * (2.0 * place - 1.0), self.sizes, self.sparsity, self.bounds)

    def _expression(self, given: Expression | str) -> Expression:
        assert self.statistics is not None
        if isinstance(given, Expression):
            one_of("source", given.source, tuple(self.statistics))
            return given
        return parse(given, tuple(self.statistics))

    def objective(self, x: ArrayLike, /) -> float:
        """Return the evaluator's loss of an allocation, at full fidelity."""
        return float(self.evaluator.loss(self._as_value(x), fidelity=1.0))

    def violation(self, x: ArrayLike, /) -> float:
        """Return by how much the removed share is off, or a bound is missed. Levels may remove more than is asked."""
        s = self._as_value(x)
        off = float(self.sizes @ s / self.sizes.sum()) - self.sparsity
        low, high = self.bounds.T
        outside = max(0.0, float((low - s).max()), float((s - high).max()))
        return max(outside, -off if self.space == "levels" else abs(off), 0.0)

    def reduce(self, to: type | None = None) -> Reduced[Floats]:
        """Return the black box of the space."""
        form = self.box
        if to is not None and not isinstance(form, to):
            raise invalid("to", f"be {type(form).__name__} for space={self.space!r}", to.__name__)
        decode: Any = self.decode
        return Reduced(form, decode)

    @cached_property
    def box(self) -> BlackBox:
        """The black box: genes, the map to allocations, and the loss."""
        about = {
            "task": "AllocationSearch",
            "space": self.space,
            "sparsity": self.sparsity,
            "sizes": digest(self.sizes),
            "bounds": digest(self.bounds),
            "fidelities": list(self.fidelities),
            **({"statistics": digest(self.statistics)} if self.space == "expressions" else {}),
            **({"levels": digest(self.levels), "start": digest(self._start())} if self.space == "levels" else {}),
            "evaluator": dict(getattr(self.evaluator, "identity", {}) or {}),
            "loss": "" if getattr(self.evaluator, "identity", None) else name_of(self.evaluator.loss),
            **dict(self.identity),
        }
        common: dict[str, Any] = {"key": self.key, "fidelities": self.fidelities, "identity": about}
        if self.space == "levels":
            return LevelSearch(
                level_genes(len(self.sizes), len(self.levels)),
                self.decode,
                self._loss,
                cost=self._costs(),
                budget=self._allowance(),
                start=self._start(),
                **common,
            )
        return BlackBox(self._genes(), self.decode, self._loss, **common)

    def _genes(self) -> tuple[Gene, ...]:
        if self.space == "vector":
            return tuple(Gene(f"layer_{i}", low=-1.0, high=1.0) for i in range(len(self.sizes)))
        if self.space == "progression":
            most = steepest(len(self.sizes), self.sparsity)
            return (Gene("beta", low=-most, high=most),)
        assert self.statistics is not None
        return (
            Gene("source", tuple(self.statistics)),
            Gene("pre_1", (NONE, *PRE)),
            Gene("pre_2", (NONE, *PRE)),
            Gene("reduction", tuple(REDUCTIONS)),
            Gene("transform_1", (NONE, *TRANSFORMS)),
            Gene("transform_2", (NONE, *TRANSFORMS)),
            Gene("post", (NONE, "rank", "negate", "cumulate")),
            Gene("post_2", (NONE, "negate")),
            Gene("spread", SPREADS, ordered=True),
        )

    def expression(self, point: Point) -> Expression:
        """Return the expression of a point of the search, in canonical form."""
        pre, transform, post = (
            tuple(str(point[k]) for k in names if point[k] != NONE)
            for names in (("pre_1", "pre_2"), ("transform_1", "transform_2"), ("post", "post_2"))
        )
        found = Expression(str(point["source"]), pre, str(point["reduction"]), transform, post, float(point["spread"]))
        return found.canonical()

    def decode(self, point: Point) -> Floats | None:
        """Return the allocation of a point, None where it has none."""
        if self.space == "vector":
            raw = np.array([float(point[f"layer_{i}"]) for i in range(len(self.sizes))])
            return on_budget(self.sparsity + 0.3 * raw, self.sizes, self.sparsity, self.bounds)
        if self.space == "progression":
            return atp(self.sizes, self.sparsity, float(point["beta"]), self.bounds)
        if self.space == "levels":
            s = self.levels[np.array([int(point[f"level_{i}"]) for i in range(len(self.sizes))])]
            return s if self.violation(s) <= 1e-9 else None
        try:
            return self.allocation(self.expression(point))
        except ValueError:
            return None

    def describe(self, point: Point) -> str:
        """Return a point as text: the expression where there is one."""
        if self.space == "expressions":
            return str(self.expression(point))
        if self.space == "progression":
            return f"beta = {float(point['beta']):.6g}"
        s = self.decode(point)
        return "no allocation" if s is None else " ".join(f"{v:.4g}" for v in s)

    def key(self, allocation: ArrayLike) -> str:
        """Return the canonical name of an allocation: its digits, to `DIGITS`."""
        return digest([round(float(v), DIGITS) + 0.0 for v in np.asarray(allocation)])

    def _loss(self, allocation: Any, fidelity: float) -> float:
        return float(self.evaluator.loss(allocation, fidelity=fidelity))

    def _costs(self) -> NDArray[np.int64]:
        # Shares of the whole in units of 2^-50.
        kept = self.sizes[:, None] * (1 - self.levels[None, :]) / self.sizes.sum()
        return np.asarray(np.rint(kept * 2**50), np.int64)

    def _allowance(self) -> int:
        # A unit more for each layer, whose cost is rounded: levels that meet the budget exactly do so here as well.
        return math.floor((1 - self.sparsity) * 2**50) + len(self.sizes)

    def _start(self) -> NDArray[np.int64]:
        """The start on the grid: the nearest levels, moved up from the largest shortfall until the budget is met."""
        wanted = uniform(self.sizes, self.sparsity, self.bounds) if self.start is None else self._as_value(self.start)
        low, high = self.bounds.T
        allowed = (self.levels >= low[:, None] - 1e-12) & (self.levels <= high[:, None] + 1e-12)
        far = np.where(allowed, np.abs(self.levels - wanted[:, None]), np.inf)
        j, rows, cost = far.argmin(axis=1), np.arange(len(wanted)), self._costs()
        while cost[rows, j].sum() > self._allowance():
            short = wanted - self.levels[j]
            up = np.minimum(j + 1, len(self.levels) - 1)
            able = (up > j) & allowed[rows, up]
            require(able.any(), "levels", f"allow to remove {self.sparsity:g} of it all within the bounds", self.levels)
            best = int(np.where(able, short, -np.inf).argmax())
            j[best] += 1
        return np.asarray(j, np.int64)

    def _as_value(self, x: ArrayLike) -> Floats:
        return floats("allocation", x, self.sizes.shape)
