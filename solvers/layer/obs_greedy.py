"""Groups of columns removed one after the other, always the cheapest by its exact cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunopt.core.arrays import Ints
from prunopt.core.solution import Solution
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import number, one_of, whole_number
from prunopt.forms.layer.quadratic_subset import QuadraticSubset
from prunopt.solvers.layer._answer import answer
from prunopt.solvers.layer._obs_kernel import PRECISIONS, Elimination, greedy_in_pool


@dataclass(frozen=True)
class ObsGreedy(Solver[QuadraticSubset]):
    r"""Greedy removal by the exact cost of a block, :math:`\operatorname{tr} W_h (C_{hh})^{-1} W_h^T`, with downdates.

    The inverse Hessian is formed once; every removal takes a product of rank |S| from it, :math:`O(d^2 |S|)` instead
    of the :math:`O(d^3)` of a new inversion. Single columns go in batches: of the ``pool * batch`` cheapest columns a
    batch is chosen one at a time, with exact costs among them, and then eliminated in one product.

    Parameters
    ----------
    batch
        Single columns removed by one downdate, >= 1; 1 is plain greedy. Larger groups always go one at a time.
    pool
        Candidates for a batch, as a multiple of it, >= 1.
    precision
        ``"double"``, or ``"single"`` for layers of many thousand inputs: half the memory and time. The choice is then
        made with rounded costs; the objective is evaluated in double precision.

    References
    ----------
    .. [1] X. Meng, S. Ibrahim, K. Behdin, H. Hazimeh, N. Ponomareva, R. Mazumder, "OSSCAR: one-shot structured
       pruning in vision and language models with combinatorial optimization", ICML 2024.
    """

    name: ClassVar[str] = "obs-greedy"
    form: ClassVar[type] = QuadraticSubset
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 30
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Hassibi & Stork, NeurIPS 1992; Meng et al. (OSSCAR), ICML 2024"

    batch: int = 64
    pool: float = 2.0
    precision: str = "double"

    def __post_init__(self) -> None:
        whole_number("batch", self.batch, low=1)
        number("pool", self.pool, low=1)
        one_of("precision", self.precision, PRECISIONS)

    def solve(self, problem: QuadraticSubset, limits: Limits, seed: int) -> Solution[Ints]:
        """Return the groups removed."""
        run = Run(limits)
        value, layer, steps = greedy(problem, run, self.batch, self.pool, self.precision)
        stats: dict[str, Any] = {"downdates": steps}
        if len(value) < problem.remove:  # out of time: the rest by the last costs
            value = fill(problem, value, layer)
            stats["groups chosen without update"] = problem.remove - steps
            return answer(
                problem, value, self.name, run, stats=stats, message="stopped by its limits; a heuristic's answer"
            )
        objective = layer.cost if self.precision == "double" else None
        return answer(problem, value, self.name, run, objective=objective, stats=stats)


def greedy(
    problem: QuadraticSubset, run: Run, batch: int = 64, pool: float = 2.0, precision: str = "double"
) -> tuple[Ints, Elimination, int]:
    """Return the groups removed, the layer that is left, and the number of downdates; fewer groups when out of time."""
    layer = Elimination(problem.weight, problem.inverse, precision=precision)
    chosen: list[int] = []
    steps = 0
    owner = np.full(problem.shape[1], -1, np.int64)
    for g, columns in enumerate(problem.members):
        owner[columns] = g
    while len(chosen) < problem.remove and not run.out_of_time:
        missing = problem.remove - len(chosen)
        if problem.singles:
            columns = _batch(layer, owner, min(batch, missing), pool)
            layer.remove(columns)
            chosen.extend(owner[columns].tolist())
        else:
            free = [g for g in range(problem.n_groups) if g not in set(chosen)]
            best = free[int(np.argmin(layer.costs([problem.members[g] for g in free])))]
            layer.remove(problem.members[best])
            chosen.append(best)
        steps += 1
        run.evaluations += 1
    return np.sort(np.array(chosen, np.int64)), layer, steps


def _batch(layer: Elimination, owner: Ints, count: int, pool: float) -> Ints:
    """The next columns to go, as columns of the layer."""
    costs = layer.column_costs()
    costs[owner[layer.columns] < 0] = np.inf
    usable = int(np.isfinite(costs).sum())
    size = min(usable, max(count, int(np.ceil(pool * count)))) if count > 1 else 1
    at = np.argpartition(costs, size - 1)[:size]
    at = at[np.lexsort((layer.columns[at], costs[at]))]
    if size > count:
        W = layer.W[:, at]
        gram = np.ascontiguousarray((W.T @ W).astype(np.float64))
        at = at[greedy_in_pool(gram, np.ascontiguousarray(layer.C[at[:, None], at], np.float64), count)]
    return np.asarray(layer.columns[at])


def fill(problem: QuadraticSubset, chosen: Ints, layer: Elimination) -> Ints:
    """Add the cheapest groups, by their costs now, until enough are removed."""
    free = np.setdiff1d(np.arange(problem.n_groups), chosen)
    costs = layer.costs([problem.members[g] for g in free])
    more = free[np.argsort(costs, kind="stable")[: problem.remove - len(chosen)]]
    return np.sort(np.concatenate([chosen, more]))
