"""Branch and bound over the groups of columns of a layer: the best set to remove, with a proof."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import whole_number
from prunopt.forms.layer._subset_bound import Costs, Rest, exact_costs, least_rest, restrict
from prunopt.forms.layer.quadratic_subset import QuadraticSubset
from prunopt.solvers.layer.obs_greedy import fill, greedy
from prunopt.solvers.layer.obs_swap import exchange

MOST = 4096  # groups up to which a bound is computed at all
FIRST = 0.4  # of the seconds go to the first answer at most
HELD = 2**30  # bytes of inverses that open nodes hold; the others form theirs again


class Node(NamedTuple):
    """The answers that remove ``removed``, keep ``kept``, and choose ``missing`` more of the others."""

    bound: float
    number: int
    removed: Bools
    kept: Bools
    missing: int
    rest: Rest | None


@dataclass(frozen=True)
class ObsBranchAndBound(Solver[QuadraticSubset]):
    r"""Prove which groups to remove.

    A node removes some groups, whose columns are eliminated exactly, keeps some, and leaves the others open; it is
    bounded by `prunopt.forms.layer._subset_bound.least_rest`: exact costs of one and two more groups, and matrices that
    dominate the inverse. The best bound is branched on first, on the open group whose removal costs most: removing it
    is soon ruled out, keeping it leaves fewer. The first answer is that of `obs-swap`.

    The closed and open leaves of the tree go into the solution's duals; `QuadraticSubset.bound` checks that they hold
    every answer and recomputes the bound of each. Up to about 24 groups it ends with a proof; stopped by its limits it
    returns the best answer with a valid bound.

    Parameters
    ----------
    nodes
        Maximum number of nodes that are bounded, >= 1.
    largest
        Problems of more groups are not branched on: the answer is that of `obs-swap`, with the bound of the root (none
        beyond 4096 groups).

    References
    ----------
    .. [1] A. H. Land, A. G. Doig, "An automatic method of solving discrete programming problems", Econometrica 28
    (1960).
    """

    name: ClassVar[str] = "obs-branch-and-bound"
    form: ClassVar[type] = QuadraticSubset
    exact: ClassVar[bool] = True
    rank: ClassVar[int] = 10
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Land & Doig, Econometrica 1960"

    nodes: int = 100_000
    largest: int = 64

    def __post_init__(self) -> None:
        whole_number("nodes", self.nodes, low=1)
        whole_number("largest", self.largest, low=1)

    def solve(self, problem: QuadraticSubset, limits: Limits, seed: int) -> Solution[Ints]:
        """Return the groups removed, with a proof or with the best bound found."""
        run = Run(limits)
        first = limits if limits.seconds is None else replace(limits, seconds=FIRST * limits.seconds)
        beginning = Run(replace(first, callback=None))
        removed = _first_answer(problem, beginning)
        run.evaluations, start = beginning.evaluations, run.seconds
        tree = _Tree(problem, removed, limits.gap)
        run.report(tree.cost, tree.bound)
        searched = problem.n_groups <= self.largest

        def late() -> bool:
            """Whether the check of the leaves, which takes about as long as the tree, would end too late."""
            return run.out_of_time or (limits.seconds is not None and 2 * run.seconds - start >= limits.seconds)

        while searched and tree.open and not late() and tree.bounded < self.nodes:
            tree.step()
            run.evaluations += 1
            run.report(tree.cost, tree.bound)
        value = np.flatnonzero(tree.best)
        leaves = tree.leaves()
        stats = {"nodes": tree.bounded, "leaves": len(leaves[0]), "damping": problem.damping, "ridge": problem.ridge}
        why = "" if not tree.open else "stopped by its limits: an answer of obs-swap, or the best found since"
        if tree.open and not searched:
            why = f"{problem.n_groups} groups, more than {self.largest}: an answer of obs-swap, the bound of the root"
        duals = {"removed": leaves[0], "kept": leaves[1]} if problem.n_groups <= MOST else {}
        status, bound = Status.FEASIBLE if tree.open else Status.OPTIMAL, tree.bound if duals else -math.inf
        about: dict[str, Any] = {"trace": run.trace, "stats": stats, "solver": self.name, "message": why}
        return Solution(status, value, problem.objective(value), bound, duals=duals, **about)


def _first_answer(problem: QuadraticSubset, run: Run) -> Bools:
    value, layer, _ = greedy(problem, run)
    if len(value) < problem.remove:
        value = fill(problem, value, layer)
    removed = np.zeros(problem.n_groups, np.bool_)
    removed[value] = True
    exchange(problem, removed, layer.cost, run, 30 if problem.singles else None)
    return removed


class _Tree:
    """The leaves of the search: ``open`` by bound, ``closed`` ones ruled out or settled."""

    def __init__(self, problem: QuadraticSubset, first: Bools, gap: float) -> None:
        self.problem, self.gap = problem, gap
        self.best, self.cost = first.copy(), problem.objective(np.flatnonzero(first))
        self.open: list[Node] = []
        self.closed: list[Node] = []
        self.least_closed = math.inf
        self.bounded = 0
        self._held = 0
        if problem.n_groups > MOST:
            self.open.append(Node(-math.inf, 0, np.zeros_like(first), np.zeros_like(first), problem.remove, None))
            return
        none = np.zeros(problem.n_groups, np.bool_)
        rest = problem.eliminate(none)
        self._add(none, none.copy(), problem.remove, rest, exact_costs(rest))

    @property
    def bound(self) -> float:
        """The least bound of all leaves."""
        return min(self.least_closed, self.open[0].bound if self.open else math.inf, self.cost)

    def leaves(self) -> tuple[Bools, Bools]:
        """Return what the leaves remove and keep, (leaves, groups) each."""
        nodes = [*self.closed, *self.open]
        return np.array([n.removed for n in nodes]), np.array([n.kept for n in nodes])

    def _ruled_out(self, bound: float) -> bool:
        return bound >= self.cost - self.gap * abs(self.cost)

    def _add(self, removed: Bools, kept: Bools, missing: int, rest: Rest, costs: Costs) -> None:
        """Bound a node, note the answer where it is settled by that, and file it."""
        self.bounded += 1
        bound = rest.spent + least_rest(rest, missing, self.cost - rest.spent, costs)
        if missing <= 2 and bound < self.cost:
            more = _cheapest(rest, costs, missing)
            self.best = removed.copy()
            self.best[more] = True
            self.cost = bound
        if missing <= 2 or self._ruled_out(bound):
            self._close(Node(bound, self.bounded, removed, kept, missing, None))
            return
        size = rest.gram.nbytes + rest.inverse.nbytes
        held = self._held + size <= HELD
        self._held += size if held else 0
        heapq.heappush(self.open, Node(bound, self.bounded, removed, kept, missing, rest if held else None))

    def _close(self, node: Node) -> None:
        self.closed.append(node)
        self.least_closed = min(self.least_closed, node.bound)

    def step(self) -> None:
        """Branch on the node of least bound: peel off groups that cannot go, then one that may go or stay."""
        node = heapq.heappop(self.open)
        rest = node.rest
        if rest is None:
            rest = restrict(self.problem.eliminate(node.removed), ~node.kept)
        else:
            self._held -= rest.gram.nbytes + rest.inverse.nbytes
        if self._ruled_out(node.bound):
            self._close(node._replace(rest=None))
            return
        costs, kept = exact_costs(rest), node.kept.copy()
        others = costs.two + np.diag(np.full(len(costs.one), np.inf))
        with_it = rest.spent + np.partition(others, node.missing - 2, axis=1)[:, node.missing - 2]
        order = np.argsort(-with_it, kind="stable")
        impossible = [int(g) for g in order if self._ruled_out(float(with_it[g]))]
        chosen = next((int(g) for g in order if not self._ruled_out(float(with_it[g]))), None)
        for g in impossible if chosen is not None else [int(g) for g in order]:
            removed = node.removed.copy()
            removed[rest.groups[g]] = True
            self.bounded += 1
            self._close(Node(float(with_it[g]), self.bounded, removed, kept.copy(), node.missing - 1, None))
            kept[rest.groups[g]] = True
            if (~(kept | node.removed)).sum() < node.missing:
                return
        if chosen is None:
            return
        removed = node.removed.copy()
        removed[rest.groups[chosen]] = True
        left, fewer = restrict(rest, ~kept), kept.copy()
        at = int(np.flatnonzero(left.groups == rest.groups[chosen])[0])
        taken = without(left, at)
        self._add(removed, kept, node.missing - 1, taken, exact_costs(taken))
        fewer[rest.groups[chosen]] = True
        stay = restrict(left, ~fewer)
        if len(stay.groups) >= node.missing:
            self._add(node.removed.copy(), fewer, node.missing, stay, exact_costs(stay))


def _cheapest(rest: Rest, costs: Costs, missing: int) -> Ints:
    if missing == 0:
        return np.zeros(0, np.int64)
    if missing == 1:
        return rest.groups[[int(np.argmin(costs.one))]]
    pairs = costs.two + np.diag(np.full(len(costs.one), np.inf))
    return rest.groups[list(np.unravel_index(int(np.argmin(pairs)), pairs.shape))]


def without(rest: Rest, at: int) -> Rest:
    """Return the rest after group number ``at`` of it is removed: one downdate."""
    gone = np.zeros(int(rest.sizes.sum()), np.bool_)
    start = int(rest.sizes[:at].sum())
    gone[start : start + int(rest.sizes[at])] = True
    G, C = rest.gram, rest.inverse
    pull = np.linalg.solve(C[np.ix_(gone, gone)], C[np.ix_(gone, ~gone)])
    cross = G[np.ix_(~gone, gone)] @ pull
    gram: Floats = G[np.ix_(~gone, ~gone)] - cross - cross.T + pull.T @ G[np.ix_(gone, gone)] @ pull
    inverse: Floats = C[np.ix_(~gone, ~gone)] - C[np.ix_(~gone, gone)] @ pull
    spent = rest.spent + float(np.trace(np.linalg.solve(C[np.ix_(gone, gone)], G[np.ix_(gone, gone)])))
    groups = np.delete(rest.groups, at)
    return Rest(groups, np.delete(rest.sizes, at), gram, inverse, spent)
