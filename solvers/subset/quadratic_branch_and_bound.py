"""Branch and bound for subsets under a quadratic loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.subset.quadratic_knapsack import QuadraticKnapsack
from prunopt.solvers.subset._quadratic_search import Items, descend, search
from prunopt.solvers.subset._split_bound import ascend, partners_in_order, split_bound, stakes

PROOF_LEAVES = 50_000  # a search tree with more is not handed over as a proof
NODES_PER_SECOND = 2_000  # a careful guess for the first pass, to keep to a limit of time
PASSES = (0.1, 0.06, 0.03, 0.01, 0.003, 0.001)  # gaps that are proven first, relative to the objective
STEPS, WORK = 600, 6e8  # of the subgradient method, and how many shares they may look at in all
STAKED = 200  # items up to which the branching order looks at the bound of every single decision
NOISE = 0.2  # of the densities of other greedy starts
CHECK = 0.4  # of the seconds are left to the check of the tree


@dataclass(frozen=True)
class QuadraticBranchAndBound(Solver[QuadraticKnapsack]):
    r"""Depth-first branch and bound, with every pair's loss divided between its two items.

    The items with the shares of their partners make a knapsack of knapsacks, relaxed to fractions [1]_; the shares that
    bound best are found by a subgradient method. Where a number of items is asked for, half of each pair goes to either
    item. Items are decided first whose decision the bound rules out soonest; the search is repeated for smaller and
    smaller gaps, so that it has a proof of some gap whenever it stops. It starts from the best of several local
    searches (flips and exchanges). The leaves of the last complete tree are the proof: the form recomputes the bound
    of each and checks that they cover every subset. A tree of more than 50,000 leaves is not handed over.

    Parameters
    ----------
    nodes
        Maximum number of nodes.
    starts
        Number of local searches, the first from the cheapest subset, the others from random ones.

    References
    ----------
    .. [1] A. Caprara, D. Pisinger, P. Toth, "Exact solution of the quadratic knapsack problem", INFORMS J. Comput. 11
       (1999).
    """

    name: ClassVar[str] = "quadratic-branch-and-bound"
    form: ClassVar[type] = QuadraticKnapsack
    exact: ClassVar[bool] = True
    rank: ClassVar[int] = 10
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Caprara, Pisinger & Toth, INFORMS J. Comput. 1999"

    nodes: int = 5_000_000
    starts: int = 20

    def solve(self, problem: QuadraticKnapsack, limits: Limits, seed: int) -> Solution[Bools]:
        """Return the best subset; at a limit the best one yet, with the smallest gap that was proven."""
        run, n = Run(limits), problem.n_items
        value = local_search(problem, self.starts, seed)
        incumbent = math.inf if value is None else problem.objective(value)
        if limits.start is not None and problem.objective(limits.start) < incumbent:
            value = np.array(limits.start, np.bool_)
            incumbent = problem.objective(value)
        unit = min(1.0, problem.objective_unit)
        size = max(unit, abs(incumbent) if value is not None else unit)
        margin = 1.0 - 1e-6 if problem.whole else 1e-10 * size
        share, root = self._shares(problem, incumbent, run)
        order = _branching_order(problem, share, root, incumbent)
        items, ordered = items_of(problem, order), share[order[:, None], order]
        leaves = np.full((PROOF_LEAVES, n), -1, np.int8)
        duals: dict[str, Any] = {"order": order, "leaves": leaves[:1].copy(), "share": np.triu(share, 1)}
        bound, complete, before = root, False, run.seconds
        margins, cut = _margins(size, incumbent - root, margin), 0
        while margins:
            allowed, room = margins[0], self._nodes_left(run, before)
            if room <= 2 * cut:  # nothing more to hope for than in the pass that was cut off
                break
            leaves[:] = -1
            least = incumbent - problem.constant
            found = search(items, ordered, problem.forbidden[:, order], least, allowed, room, leaves)
            _, bits, better, nodes, written, undone = found
            run.evaluations += nodes
            if better:
                value = np.zeros(n, np.bool_)
                value[order] = bits
                incumbent = problem.objective(value)
            if math.isfinite(undone):
                cut = nodes
                continue
            margins, cut = margins[1:], 0
            complete = allowed <= margin
            if written < 0:
                continue
            duals["leaves"] = leaves[:written].copy()
            bound = max(bound, incumbent if complete and problem.whole else incumbent - allowed)
            run.report(incumbent, bound)
        stats: dict[str, Any] = {"nodes": run.evaluations, "leaves": len(duals["leaves"]), "root bound": root}
        if value is None:
            status = Status.INFEASIBLE if complete else Status.FAILED
            message = "every subset is forbidden" if complete else "stopped by its limits before a subset was found"
            return Solution(status, None, stats=stats, solver=self.name, message=message)
        bound = min(bound, incumbent)
        run.report(incumbent, bound)
        proven = complete and incumbent - bound <= max(margin, limits.gap * size)
        why = "" if proven else f"stopped by its limits after {run.evaluations} nodes"
        if complete and not proven:
            why = f"the tree has more than {PROOF_LEAVES} leaves; the bound is that of a smaller one"
        about: dict[str, Any] = {"stats": stats, "solver": self.name, "message": why}
        status = Status.OPTIMAL if proven else Status.FEASIBLE
        return Solution(status, value, incumbent, bound, duals=duals, trace=run.trace, **about)

    def _nodes_left(self, run: Run, before: float) -> int:
        """How many more nodes the limits allow; the search began ``before`` so many seconds."""
        limits = run.limits
        left = min(self.nodes, self.nodes if limits.evaluations is None else limits.evaluations) - run.evaluations
        if limits.seconds is None:
            return left
        spent = run.seconds - before
        rate = run.evaluations / spent if run.evaluations > 1000 and spent > 0 else NODES_PER_SECOND
        return int(min(left, rate * ((1 - CHECK) * limits.seconds - run.seconds)))

    def _shares(self, problem: QuadraticKnapsack, incumbent: float, run: Run) -> tuple[Floats, float]:
        """The shares of the best bound that the subgradient method finds, and that bound (none for a number)."""
        share = np.ascontiguousarray((problem.pair + problem.pair.T) / 2)
        if problem.exactly is not None:
            return share, -math.inf
        limit, n, seconds = float(problem.subset.limit), problem.n_items, run.limits.seconds
        first = split_bound(0, problem.linear, share, partners_in_order(share, problem.cost), problem.cost, limit)
        goal = 0.0 if math.isinf(incumbent) else incumbent - problem.constant
        best, state = share.copy(), np.array([first, 1.0, 0.0])
        steps = int(min(STEPS, WORK / (n * n)))
        while steps > 0 and state[0] < goal and not (seconds is not None and run.seconds > 0.3 * seconds):
            ascend(share, problem.linear, problem.cost, limit, goal, state, best, min(steps, 50))
            steps -= 50
        return best, float(state[0]) + problem.constant


def _margins(size: float, gap: float, margin: float) -> list[float]:
    """The gaps to prove one after another, absolute: those below what the root proves, then none."""
    return [*(p * size for p in PASSES if margin < p * size < gap), margin] if math.isfinite(gap) else [margin]


def _branching_order(problem: QuadraticKnapsack, share: Floats, root: float, incumbent: float) -> Ints:
    """The items whose decision one way raises the bound most come first; else those of the largest stake."""
    if problem.exactly is None and problem.n_items <= STAKED and incumbent > root:
        gone, kept = stakes(share, problem.linear, problem.cost, float(problem.subset.limit))
        return np.argsort(-np.maximum(gone, kept), kind="stable")
    stake = np.abs(problem.linear) + 0.5 * np.abs(problem.pair + problem.pair.T).sum(axis=1)
    return np.argsort(-stake, kind="stable")


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
        if k == 1 and problem.exactly is None:
            x = densest_subset(problem, np.zeros(problem.n_items))
        elif k % 2 and problem.exactly is None:
            x = densest_subset(problem, rng.normal(0.0, NOISE, problem.n_items))
        elif k:
            x = random_subset(problem, rng)
        descend(x, items)
        if problem.violation(x) == 0 and (value := problem.objective(x)) < least:
            best, least = x, value
    return best


def densest_subset(problem: QuadraticKnapsack, noise: Floats) -> Bools:
    """Take out, until the budget is met, the item whose loss and pairs speak least for its cost, its set allowing [2]_.

    ``noise``, relative, makes other orders of near equals.

    References
    ----------
    .. [2] A. Billionnet, F. Calmels, "Linear programming for the 0-1 quadratic knapsack problem", EJOR 92 (1996).
    """
    kept = np.ones(problem.n_items, np.bool_)
    pair = problem.pair + problem.pair.T
    worth = -(problem.linear + pair.sum(axis=1))
    spent, sets = float(problem.cost.sum()), [list(s) for s in problem.cover]
    while spent > problem.subset.limit:
        needed = [s for s in sets if kept[s].sum() == 1]
        free = kept & (problem.cost > 0)
        free[[i for s in needed for i in s]] = False
        if not free.any():
            return problem.subset.cheapest.copy()
        at = np.flatnonzero(free)
        out = int(at[np.argmin(worth[at] * (1 + noise[at]) / problem.cost[at])])
        kept[out] = False
        spent = float(problem.cost[kept].sum())
        worth += pair[out]
    return kept


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
