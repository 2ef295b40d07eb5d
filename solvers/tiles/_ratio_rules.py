"""The published rules that turn one pruning ratio into vectors kept, and the ratio at which a rule meets the limits."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunopt.core.arrays import Ints
from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import number
from prunopt.forms.knapsack.tile_columns import TileColumns

GRID = 400  # pruning ratios tried where none is given
SHARES = (1 - 1e-9, 1e-9, *np.linspace(0.9, 0.1, 17))  # of latency against vectors where no ratio fits


def by_threshold(problem: TileColumns, ratio: float) -> Ints:
    """DCP: in every layer, keep its ``1 - ratio`` largest vectors, wherever they lie."""
    kept = np.zeros(len(problem.layer), np.int64)
    for a in range(problem.n_layers):
        mine = np.flatnonzero(problem.layer == a)
        capacity = problem.capacity[mine]
        real = np.arange(problem.energy.shape[1]) < capacity[:, None]
        product = np.nonzero(real)[0]
        order = np.argsort(-problem.energy[mine][real], kind="stable")
        stay = round((1 - ratio) * int(capacity.sum()))
        kept[mine] = np.bincount(product[order[:stay]], minlength=len(mine))
    return kept


def balanced(problem: TileColumns, ratio: float) -> Ints:
    """Balanced workload: the same number of vectors in every product of a layer."""
    widest = np.zeros(problem.n_layers, np.int64)
    np.maximum.at(widest, problem.layer, problem.capacity)
    each = np.rint((1 - ratio) * widest).astype(np.int64)
    return np.asarray(np.minimum(each[problem.layer], problem.capacity))


def recalibrated(problem: TileColumns, ratio: float) -> Ints:
    r"""Hardware-aware recalibration: the half of the layers that gain most per vector lose their last, unfilled tile.

    :math:`\beta_l = \alpha_l / \epsilon_l`, where :math:`\epsilon_l` vectors lie in the unfilled tile and
    :math:`\alpha_l` is the latency that goes with it; the other half fills it up. Layers that are aligned stay.
    """
    tile = problem.tile
    widest = np.zeros(problem.n_layers, np.int64)
    np.maximum.at(widest, problem.layer, balanced(problem, ratio))
    over = widest % tile
    floor, ceiling = widest // tile, -(-widest // tile)
    rows = np.arange(problem.n_layers)
    with np.errstate(invalid="ignore", divide="ignore"):
        gain = np.where(over > 0, (problem.cost[rows, ceiling] - problem.cost[rows, floor]) / over, -np.inf)
    loose = np.flatnonzero(over > 0)
    ranked = loose[np.argsort(-gain[loose], kind="stable")]
    tiles = ceiling.copy()
    down = ranked[: (len(ranked) + 1) // 2]
    tiles[down] = floor[down]
    return problem.filled(tiles)


def follow(
    problem: TileColumns, rule: Callable[[TileColumns, float], Ints], ratio: float | None, name: str, run: Run
) -> Solution[Any]:
    """Answer by a rule: at the ratio given, or at the one of a grid that loses least within the limits."""
    if problem.is_infeasible_by(None):
        return infeasible(problem, name)
    stats: dict[str, Any] = {}
    if ratio is not None:
        value = rule(problem, ratio)
        stats["ratio"] = ratio
        if problem.violation(value) > 0:
            message = (
                f"the rule takes {problem.latency(value):.6g} at a ratio of {ratio:g}, beyond the limits; raise it"
            )
            return Solution(Status.FAILED, None, solver=name, stats=stats, message=message)
    else:
        found = _least_within(problem, rule)
        if found is None:
            stats["changed"] = "no ratio of the grid meets the limits: every layer takes its cheapest option"
            cheapest = next((x for x in _cheapest(problem) if problem.violation(x) == 0), None)
            if cheapest is None:
                return Solution(Status.FAILED, None, solver=name, stats=stats, message="no ratio meets the limits")
            value = cheapest
        else:
            stats["ratio"], value = found
    objective = problem.objective(value)
    run.report(objective)
    return Solution(Status.FEASIBLE, value, objective, -math.inf, trace=run.trace, stats=stats, solver=name)


def _cheapest(problem: TileColumns) -> Iterator[Ints]:
    """The options of each layer that take least of the limits: latency first, vectors first, and shares of both."""
    tiles, kept, _, cost = problem.options
    limits = ((cost, problem.budget), (kept, problem.max_kept))
    latency, vectors = (np.where(tiles >= 0, of, 0.0) / max(limit, 1e-300) for of, limit in limits)
    for share in SHARES:
        used = share * latency + (1 - share) * vectors
        yield problem.value_of(np.where(tiles >= 0, used, np.inf).argmin(axis=1))


def _least_within(problem: TileColumns, rule: Callable[[TileColumns, float], Ints]) -> tuple[float, Ints] | None:
    best: tuple[float, float, Ints] | None = None
    for step in range(GRID + 1):
        value = rule(problem, step / GRID)
        if problem.violation(value) == 0:
            lost = problem.objective(value)
            if best is None or lost < best[0]:
                best = (lost, step / GRID, value)
            elif lost > best[0] + problem.loss[np.isfinite(problem.loss)].max():
                break
    return None if best is None else best[1:]


def infeasible(problem: TileColumns, name: str) -> Solution[Any]:
    """Return the answer that names the nearest feasible request."""
    latency, kept = problem.least()
    message = f"nearest feasible request: budget={latency:.6g}, max_kept={kept:g} (each by itself)"
    return Solution(Status.INFEASIBLE, None, solver=name, duals={"ray": np.zeros(1)}, message=message)


@dataclass(frozen=True)
class RatioRule(Solver[TileColumns]):
    """A published rule that turns one pruning ratio into an answer; solvers name the rule.

    Parameters
    ----------
    ratio
        The fraction of each layer's vectors to be removed, as published; an answer beyond the problem's limits is a
        failure. None takes the ratio, in steps of 1/400, that loses least within the limits.
    """

    form: ClassVar[type] = TileColumns
    exact: ClassVar[bool] = False
    reference: ClassVar[str] = "Park et al., NeurIPS 2024"
    ratio: float | None = None

    @staticmethod
    @abstractmethod
    def rule(problem: TileColumns, ratio: float, /) -> Ints:
        """Return the vectors kept in each product."""

    def __post_init__(self) -> None:
        if self.ratio is not None:
            number("ratio", self.ratio, low=0.0, high=1.0, mend="give the fraction of vectors to remove, or None")

    def solve(self, problem: TileColumns, limits: Limits, seed: int) -> Solution[Any]:
        """Return the rule's answer, without a bound."""
        return follow(problem, self.rule, self.ratio, self.name, Run(limits))
