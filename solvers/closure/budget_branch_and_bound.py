"""The best closure within a budget: Lagrange's bound from the exact penalty path, repair, branch and bound."""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Bools
from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.forms.closure.budgeted_closure import BudgetedClosure, Decisions, Leaf, OpenPart
from prunopt.forms.closure.closure import exact_sum
from prunopt.forms.closure.parametric_closure import PathBlock, PenaltyPath
from prunopt.solvers.closure import _repair as kernel
from prunopt.solvers.closure.parametric_cut import closure_path

PROOF_BYTES = 2**28  # of the leaves' multipliers together; beyond it only the root's proof is kept
# Penalties tried in the repair of a costlier neighbor, relative to the penalty of the block that breaks the budget.
DROP_ROUNDS = 60  # each at a penalty 1.25 times the last
REPAIR_FACTORS = (1.0, 0.7, 0.4, 0.2, 0.1, 0.05, 0.02, 0.0)


class _Node(NamedTuple):
    bound: float
    branch: int  # the item to divide on, -1 where nothing is left to divide
    leaf: Leaf


@dataclass(frozen=True)
class BudgetBranchAndBound(Solver[BudgetedClosure]):
    r"""Solve a `BudgetedClosure` by branch and bound on the Lagrangian bound [1]_ [2]_.

    At every node the exact path of the contracted closure over all penalties gives the two neighbors of the budget on
    the lower hull; the line between them is Lagrange's bound, the cheaper one is a valid answer, and dropping parts of
    the costlier one tree by tree, then adding parts that still fit, gives better ones. The node is divided on the item
    of the block that breaks the budget which carries the most profit below it. Best bound first.

    Parameters
    ----------
    nodes
        Greatest number of nodes; then the best answer is returned with the proven gap.

    References
    ----------
    .. [1] M. L. Fisher, "The Lagrangian relaxation method for solving integer programming problems", Management
       Science 27 (1981).
    .. [2] A. H. Land, A. G. Doig, "An automatic method of solving discrete programming problems", Econometrica 28
       (1960).
    """

    name: ClassVar[str] = "budget-branch-and-bound"
    form: ClassVar[type] = BudgetedClosure
    exact: ClassVar[bool] = True
    rank: ClassVar[int] = 15  # behind those of knapsacks, where the problem is one
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Fisher, Management Science 1981; Land & Doig, Econometrica 1960"

    nodes: int = 100_000

    @classmethod
    def why_not_on(cls, problem: Any) -> str:
        """Arcs besides the forest are left to integer programs."""
        return "it knows forests only; pass highs-milp for other arcs" if len(problem.closure.arcs) else ""

    def solve(self, problem: BudgetedClosure, limits: Limits, seed: int) -> Solution[Bools]:
        """Return the best closure within the budget, and the bound that the open nodes leave."""
        run = Run(limits)
        search = _Search(problem, limits)
        number = itertools.count()
        root = search.node(())
        heap: list[tuple[float, int, _Node]] = [(root.bound, next(number), root)]
        closed: list[_Node] = []
        stopped = ""
        try:
            while heap:
                run.evaluations = search.nodes
                run.report(search.objective, min(heap[0][0], search.objective))
                if run.expired or search.nodes >= self.nodes:
                    break
                node = heap[0][2]
                if node.bound >= search.objective or node.branch < 0:
                    closed.append(node)
                    heapq.heappop(heap)
                    continue
                children = [search.node((*node.leaf.decisions, (node.branch, chosen))) for chosen in (True, False)]
                heapq.heappop(heap)  # only now: an interrupt leaves the parent in place of unfinished children
                for child in children:
                    heapq.heappush(heap, (child.bound, next(number), child))
        except KeyboardInterrupt:
            stopped = "interrupted"
        remaining = [entry[2] for entry in heap] + closed
        bound = min(search.objective, *(node.bound for node in remaining))
        leaves = [node.leaf for node in remaining]
        message = ""
        if sum(leaf.multipliers.nbytes for leaf in leaves) > PROOF_BYTES:
            leaves, bound = [root.leaf], min(root.bound, search.objective)
            message = "the leaves are too large to keep as a proof: the bound is that of the root"
        if bound < search.objective and heap:
            stopped = stopped or "stopped by its limits"
            message = "; ".join(filter(None, (f"{stopped} after {search.nodes} nodes", message)))
        run.report(search.objective, bound)
        return Solution(
            Status.OPTIMAL if bound >= search.objective else Status.FEASIBLE,
            search.best,
            objective=search.objective,
            bound=bound - float(problem.closure.slack),
            duals={"leaves": tuple(leaves)},
            trace=run.trace,
            stats={"nodes": search.nodes, "leaves": len(leaves), "root bound": root.bound},
            solver=self.name,
            message=message,
        )


class _Search:
    """The best answer so far, and how nodes are bounded."""

    def __init__(self, problem: BudgetedClosure, limits: Limits) -> None:
        self.problem = problem
        self.limits = limits
        self.nodes = 0
        self.best: Bools = np.zeros(problem.closure.n_items, np.bool_)
        self.objective = 0.0
        self._gain = 0

    def node(self, decisions: Decisions) -> _Node:
        """Bound what decisions leave open, improve the best answer on the way, and choose the item to divide on."""
        self.nodes += 1
        rest = self.problem.rest(decisions)
        if rest is None or rest.cost > self.problem.capacity:
            return _Node(math.inf, -1, Leaf(decisions, Fraction(0), np.zeros(0, np.int64), 1))
        budget = self.problem.capacity - rest.cost
        path = closure_path(rest.closure, Limits(seconds=self.limits.seconds))
        chosen, breaking = _within(path, budget)
        self._offer(rest, chosen)
        penalty = breaking.penalty if breaking is not None else Fraction(0)
        leaf = _leaf(decisions, path, penalty)
        bound = self.problem.leaf_bound(leaf)
        if breaking is None:
            return _Node(bound, -1 if path.complete else _widest(rest, path.blocks[0]), leaf)
        if bound < self.objective:
            for candidate in _repaired(rest, chosen, breaking, budget):
                self._offer(rest, candidate)
        return _Node(bound, _widest(rest, breaking), leaf)

    def _offer(self, rest: OpenPart, chosen: Bools) -> None:
        gain = rest.profit + exact_sum(rest.closure.profit[chosen])
        if gain > self._gain:
            value = rest.inside.copy()
            value[rest.items[chosen]] = True
            self.best, self._gain = value, gain
            self.objective = float(-self.problem.closure.unit * gain)


def _within(path: PenaltyPath, budget: int) -> tuple[Bools, PathBlock | None]:
    """The most expensive optimum of the path within the budget, and the block that comes next (None at its end)."""
    chosen, spent = path.always.copy(), 0
    for block, cost in zip(path.blocks, path.costs, strict=True):
        if spent + cost > budget:
            return chosen, block
        spent += cost
        chosen[block.items] = True
    return chosen, None


def _leaf(decisions: Decisions, path: PenaltyPath, penalty: Fraction) -> Leaf:
    """The path's proof at one penalty, in units so fine that no bound moves by one unit of profit."""
    closure = path.closure
    largest = exact_sum(np.abs(closure.profit)) + math.ceil(penalty * exact_sum(closure.cost)) + 1
    denominator = 1 << max((2**60 // largest).bit_length() - 1, 0)
    return Leaf(decisions, penalty, path.multipliers(penalty, denominator), denominator)


def _widest(rest: OpenPart, block: PathBlock) -> int:
    """The item of a block with the most profit in it and below it, as an item of the whole problem."""
    inside = np.zeros(rest.closure.n_items, np.bool_)
    inside[block.items] = True
    total = np.where(inside, np.abs(rest.closure.profit), 0)
    for level in reversed(rest.closure._levels[1:]):
        np.add.at(total, rest.closure.parent[level], total[level])
    # An item at the top of its tree decides most; among those, the one with the most below it.
    return int(rest.items[block.items[np.argmax(total[block.items])]])


def _repaired(rest: OpenPart, chosen: Bools, breaking: PathBlock, budget: int) -> list[Bools]:
    """Closures within the budget between the two neighbors on the hull, and around them."""
    c = rest.closure
    roots = np.append(np.flatnonzero(c.parent < 0), c.n_items)
    if not _trees_are_runs(c.parent, roots):
        return []
    trees = kernel.Trees(roots, c.parent, c.profit, c.indptr, c.indices, c.cost)
    users = np.zeros(c.n_requirements, np.int32)
    nobody = np.zeros(c.n_items, np.bool_)
    penalty = float(breaking.penalty)
    costlier = chosen.copy()
    costlier[breaking.items] = True
    found = []
    for dropping in (True, False):
        current = (costlier if dropping else chosen).copy()
        kernel.count_users(c.indptr, c.indices, current, users)
        spent = exact_sum(c.cost[users > 0])
        for power in range(DROP_ROUNDS if dropping else 0):
            if spent <= budget:
                break
            spent = kernel.drop_by_penalty(trees, chosen, current, users, spent, budget, penalty * 1.25**power)
        if spent > budget:
            continue
        for share in REPAIR_FACTORS:
            spent = kernel.add_by_penalty(trees, nobody, current, users, spent, budget, penalty * share)
        found.append(current)
    return found


def _trees_are_runs(parent: NDArray[np.int32], roots: NDArray[np.intp]) -> bool:
    """Whether every tree is a run of consecutive items, as forests are built."""
    tree = np.searchsorted(roots, np.arange(len(parent)), side="right")
    linked = parent >= 0
    return bool(np.all(tree[linked] == tree[parent[linked]]))
