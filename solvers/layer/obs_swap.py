"""Greedy removal, then exchanges of a removed group for a kept one until none helps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunopt.core.arrays import Bools, Ints
from prunopt.core.solution import Solution
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import whole_number
from prunopt.forms.layer.quadratic_subset import QuadraticSubset
from prunopt.solvers.layer._answer import answer
from prunopt.solvers.layer._obs_exchange import best_exchange
from prunopt.solvers.layer.obs_greedy import ObsGreedy, fill, greedy

TOLERANCE = 1e-12  # relative: an exchange that gains less is rounding


@dataclass(frozen=True)
class ObsSwap(Solver[QuadraticSubset]):
    r"""`obs-greedy`, then the best exchange of one removed and one kept group, again and again, while it helps.

    The change by every exchange is exact: taking a group back borders the inverse of the kept Hessian, removing another
    one is the block cost in that state. For single columns the whole table of exchanges is a few matrix products.

    Parameters
    ----------
    exchanges
        Maximum number of exchanges of single columns, >= 0; groups of several columns are exchanged until no exchange
        helps. ``stats["exchanges left"]`` says whether an exchange that helps was left.
    batch, pool
        Options of `obs-greedy`.

    References
    ----------
    .. [1] X. Meng, S. Ibrahim, K. Behdin, H. Hazimeh, N. Ponomareva, R. Mazumder, "OSSCAR: one-shot structured
       pruning in vision and language models with combinatorial optimization", ICML 2024.
    """

    name: ClassVar[str] = "obs-swap"
    form: ClassVar[type] = QuadraticSubset
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 20
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Meng et al. (OSSCAR), ICML 2024"

    exchanges: int = 30
    batch: int = 64
    pool: float = 2.0

    def __post_init__(self) -> None:
        whole_number("exchanges", self.exchanges, low=0)
        ObsGreedy(batch=self.batch, pool=self.pool)

    def solve(self, problem: QuadraticSubset, limits: Limits, seed: int) -> Solution[Ints]:
        """Return the groups removed."""
        run = Run(limits)
        value, layer, _ = greedy(problem, run, self.batch, self.pool)
        if len(value) < problem.remove:
            value = fill(problem, value, layer)
            return answer(problem, value, self.name, run, stats={"exchanges": 0}, message="stopped by its limits")
        run.report(layer.cost)
        removed = np.zeros(problem.n_groups, np.bool_)
        removed[value] = True
        most = self.exchanges if problem.singles else None
        done, left = exchange(problem, removed, layer.cost, run, most)
        stats: dict[str, Any] = {"exchanges": done, "exchanges left": left, "error of greedy": layer.cost}
        message = "stopped by its limits" if left else "no exchange of two groups helps; no bound"
        return answer(problem, np.flatnonzero(removed), self.name, run, stats=stats, message=message)


def exchange(
    problem: QuadraticSubset, removed: Bools, cost: float, run: Run, most: int | None = None
) -> tuple[int, bool]:
    """Make the best exchange again and again, in place; return how many, and whether one that helps may be left."""
    done = 0
    while not run.out_of_time and (most is None or done < most):
        change, s, t = best_exchange(problem, removed, lambda: run.out_of_time)
        run.evaluations += 1
        if change >= -TOLERANCE * cost:
            return done, run.out_of_time
        removed[s], removed[t] = False, True
        cost += change
        done += 1
        run.report(cost)
    return done, True
