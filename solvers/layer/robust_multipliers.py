"""Groups of columns for several domains: an ordinary layer for a mixture of Hessians, the mixture then corrected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Ints
from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.layer.robust_subset import RobustQuadraticSubset
from prunopt.solvers.layer._obs_exchange import best_exchange
from prunopt.solvers.layer.obs_greedy import ObsGreedy
from prunopt.solvers.layer.obs_swap import ObsSwap


@dataclass(frozen=True)
class RobustMultipliers(Solver[RobustQuadraticSubset]):
    r"""Multiplicative weights over the domains, a greedy choice for each mixture.

    For multipliers p the mixture :math:`H(p)` is pruned by `obs-greedy` (or `obs-swap`); the choice is judged by its
    worst domain with the best weights shared by all, and :math:`p_d` grows with the error of domain d. The best
    choice met is
    returned, with the bound that the multipliers of equal shares prove at the root.

    Parameters
    ----------
    rounds
        Mixtures tried, >= 1.
    rate
        Step of the multipliers' exponents, > 0.
    swaps
        Whether every mixture is solved by `obs-swap`, and the best choice then improved by exchanges.

    References
    ----------
    .. [1] S. Arora, E. Hazan, S. Kale, "The multiplicative weights update method", Theory of Computing 8 (2012).
    """

    name: ClassVar[str] = "robust-multipliers"
    form: ClassVar[type] = RobustQuadraticSubset
    exact: ClassVar[bool] = False
    rank: ClassVar[int] = 30
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Arora, Hazan & Kale, Theory of Computing 2012"

    rounds: int = 8
    rate: float = 2.0
    swaps: bool = False

    def __post_init__(self) -> None:
        if int(self.rounds) != self.rounds or self.rounds < 1:
            raise ValueError(f"rounds={self.rounds!r}: give a whole number >= 1")
        if not self.rate > 0:
            raise ValueError(f"rate={self.rate!r}: give a number > 0")

    def solve(self, problem: RobustQuadraticSubset, limits: Limits, seed: int) -> Solution[Ints]:
        """Return the groups removed."""
        run = Run(limits)
        inner: Any = ObsSwap() if self.swaps else ObsGreedy()
        p = np.full(problem.n_domains, 1 / problem.n_domains)
        best: Ints = np.zeros(0, np.int64)
        worst, errors_of_best, used = np.inf, np.zeros(problem.n_domains), 0
        while used < self.rounds and not (used and run.out_of_time):
            value = inner.solve(problem.mixed(p), Limits(), seed).value
            errors = problem.domain_errors(problem.lift(value))
            used += 1
            run.evaluations += 1
            if float(errors.max()) < worst:
                best, worst, errors_of_best = value, float(errors.max()), errors
                run.report(worst)
            apart = problem.domain_errors(problem.mixed(p).lift(value))
            if problem.n_domains == 1 or not apart.max() > 0:
                break
            p = p * np.exp(self.rate * (apart / apart.max() - 1))
            p /= p.sum()
        exchanges = 0
        while self.swaps and not run.out_of_time:
            better = _exchanged(problem, best, worst)
            if better is None:
                break
            best, errors_of_best = better
            worst, exchanges = float(errors_of_best.max()), exchanges + 1
            run.report(worst)
        stats = {
            "exchanges": exchanges,
            "mixtures": used,
            "domain errors": errors_of_best.tolist(),
            "damping": problem.damping,
        }
        none = np.zeros((1, len(problem.groups)), np.bool_)
        small = len(problem.groups) <= SMALL
        equal = np.full(problem.n_domains, 1 / problem.n_domains)
        duals = {"multipliers": equal, "removed": none, "kept": none} if small else {}
        bound = problem.bound(duals) if duals else -np.inf
        return Solution(
            Status.FEASIBLE,
            best,
            objective=problem.objective(best),
            bound=bound,
            duals=duals,
            trace=run.trace,
            stats=stats,
            solver=self.name,
            message="a heuristic's answer" + ("" if duals else ", no bound"),
        )


def _exchanged(problem: RobustQuadraticSubset, best: Ints, worst: float) -> tuple[Ints, NDArray[np.float64]] | None:
    """The best exchange of two groups for the mixture that proves the error of ``best``, if the worst domain gains."""
    _, multipliers, _ = problem.balanced(best)
    removed = np.zeros(len(problem.groups), np.bool_)
    removed[best] = True
    change, s, t = best_exchange(problem.mixed(multipliers), removed)
    if change >= 0:
        return None
    removed[s], removed[t] = False, True
    value = np.flatnonzero(removed)
    errors = problem.domain_errors(problem.lift(value))
    return (value, errors) if errors.max() < worst * (1 - 1e-9) else None


SMALL = 256  # groups up to which the bound of the root is computed
