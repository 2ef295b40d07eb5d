"""Branch and bound for subsets under a quadratic loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunopt.core.arrays import Bools, Ints
from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.subset.quadratic_knapsack import QuadraticKnapsack
from prunopt.solvers.subset._quadratic_search import Items, descend, search

PROOF_LEAVES = 20_000  # a search tree with more is not handed over as a proof
NODES_PER_SECOND = 100_000  # a careful guess, to keep to a limit of time


@dataclass(frozen=True)
class QuadraticBranchAndBound(Solver[QuadraticKnapsack]):
    r"""Depth-first branch and bound; every node's bound takes half of each undecided pair for either of its items.

    The items with the largest stake, :math:`|l_i| + \frac12 \sum_j |q_{ij}|`, are decided first. It starts from the
    best of several local searches (flips and exchanges). The leaves of its tree are the proof: the form recomputes
    the bound of each and checks that they cover every subset. With more than 20,000 leaves the bound is the search's
    claim, as ``stats["bound"]`` says.

    Parameters
    ----------
    nodes
        Maximum number of nodes.
    starts
        Number of local searches, the first from the cheapest subset, the others from random ones.
    """

    name: ClassVar[str] = "quadratic-branch-and-bound"
    form: ClassVar[type] = QuadraticKnapsack
    exact: ClassVar[bool] = True
    rank: ClassVar[int] = 10
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Caprara, Pisinger & Toth, INFORMS J. Comput. 1999"

    nodes: int = 20_000_000
    starts: int = 20

    def solve(self, problem: QuadraticKnapsack, limits: Limits, seed: int) -> Solution[Bools]:
        """Return the best subset."""
        run = Run(limits)
        n = problem.n_items
        stake = np.abs(problem.linear) + 0.5 * np.abs(problem.pair + problem.pair.T).sum(axis=1)
        order = np.argsort(-stake, kind="stable")
        start = local_search(problem, self.starts, seed)
        incumbent = math.inf if start is None else problem.objective(start)
        unit = min(1.0, problem.objective_unit)
        margin = 1e-10 * max(unit, abs(incumbent) if start is not None else unit)
        leaves = np.full((PROOF_LEAVES, n), -1, np.int8)
        most = self.nodes if limits.evaluations is None else min(self.nodes, limits.evaluations)
        if limits.seconds is not None:
            most = int(min(most, limits.seconds * NODES_PER_SECOND))
        least = incumbent - problem.constant
        found_by = search(items_of(problem, order), problem.forbidden[:, order], least, margin, most, leaves)
        _, best_bits, found, nodes, written, undone = found_by
        value = start
        if found:
            value = np.zeros(n, np.bool_)
            value[order] = best_bits
        run.evaluations = nodes
        stats: dict[str, Any] = {"nodes": nodes, "leaves": written}
        whole = math.isinf(undone)
        if value is None:
            status = Status.INFEASIBLE if whole else Status.FAILED
            message = "every subset is forbidden" if whole else "stopped by its limits before a subset was found"
            return Solution(status, None, stats=stats, solver=self.name, message=message)
        objective = problem.objective(value)
        bound = objective - margin if whole else min(objective, undone + problem.constant)
        duals: dict[str, Any] = {}
        if whole and written >= 0:
            duals, stats["bound"] = {"order": order, "leaves": leaves[:written]}, "proven by its tree"
        else:
            stats["bound"] = "claimed by the search" if whole else "of the nodes that were left"
        run.report(objective, bound)
        status, message = Status.OPTIMAL if whole else Status.FEASIBLE, f"stopped by its limits after {nodes} nodes"
        about: dict[str, Any] = {"stats": stats, "solver": self.name, "message": "" if whole else message}
        return Solution(status, value, objective, bound, duals=duals, trace=run.trace, **about)


def items_of(problem: QuadraticKnapsack, order: Ints) -> Items:
    """Return the problem as the kernel takes it, its items in this order."""
    set_of, pair = np.full(problem.n_items, -1, np.int64), problem.pair + problem.pair.T
    for k, s in enumerate(problem.cover):
        set_of[list(s)] = k
    exactly = -1 if problem.exactly is None else problem.exactly
    arrays = (problem.linear[order], pair[order[:, None], order], problem.cost[order])
    return Items(*arrays, problem.subset.limit, set_of[order], len(problem.cover), exactly)


def local_search(problem: QuadraticKnapsack, starts: int, seed: int) -> Bools | None:
    """Return the best subset that is not forbidden of several local searches, None if all end in forbidden ones."""
    rng, items = np.random.default_rng(seed), items_of(problem, np.arange(problem.n_items))
    best: Bools | None = None
    least = math.inf
    for k in range(max(1, starts)):
        x = problem.subset.cheapest.copy()
        if k:
            x = random_subset(problem, rng)
        descend(x, items)
        if problem.violation(x) == 0 and (value := problem.objective(x)) < least:
            best, least = x, value
    return best


def random_subset(problem: QuadraticKnapsack, rng: np.random.Generator) -> Bools:
    """Return a random subset within the constraints on costs, sets and number."""
    kept = problem.subset.cheapest.copy()
    if problem.exactly is not None:
        for i in rng.permutation(problem.n_items):
            j = int(rng.integers(problem.n_items))
            trial = kept.copy()
            trial[[i, j]] = trial[[j, i]]
            if problem.subset.violation(trial) == 0:
                kept = trial
        return kept
    for i in rng.permutation(problem.n_items)[: int(rng.integers(problem.n_items + 1))]:
        kept[i] = True
        if problem.subset.violation(kept) > 0:
            kept[i] = False
    return kept
