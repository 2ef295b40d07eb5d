"""Maximum-weight closure by one minimum cut, in integers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prunopt.core.jit import ctrl_c_held
from prunopt.core.solution import Solution, Status
from prunopt.core.solver import Limits, Run, Solver
from prunopt.core.validate import require
from prunopt.forms.closure.closure import INT64_SAFE, Closure, exact_sum
from prunopt.solvers.closure import _pseudoflow as normalized
from prunopt.solvers.closure import _push_relabel as kernel

SLICE = 20_000_000  # arc scans between two looks at the clock, without a time limit
FIRST, LOOK = 1_000_000, 0.05  # the first slice under a limit; how long the others shall take, in seconds
NO_GUESS = np.zeros(0, np.float32)


@dataclass(frozen=True)
class MinCut(Solver[Closure]):
    r"""Solve a `Closure` exactly by a minimum s-t cut [1]_ [2]_.

    The cut separates the items that are worth what they need from the others; push-relabel finds it on the forest and
    the bipartite layer of requirements without storing an infinite arc. Where items need other items alone, as the
    blocks of a mine, a pseudoflow on normalized trees [3]_ is found first, and push-relabel completes it to a cut.
    Among all optima it returns the largest. The
    flow on the arcs, read as Lagrange multipliers, proves the optimum: the bound is recomputed from it by
    `Closure.exact_bound`, tree by tree. Numbers whose totals do not fit into 62 bits are refused, never wrapped.

    References
    ----------
    .. [1] J.-C. Picard, "Maximal closure of a graph and applications to combinatorial problems", Management Science 22
       (1976).
    .. [2] A. V. Goldberg, R. E. Tarjan, "A new approach to the maximum-flow problem", J. ACM 35 (1988).
    .. [3] D. S. Hochbaum, "The pseudoflow algorithm: a new algorithm for the maximum-flow problem", Operations Research
       56 (2008).
    """

    name: ClassVar[str] = "min-cut"
    form: ClassVar[type] = Closure
    exact: ClassVar[bool] = True
    rank: ClassVar[int] = 10
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    reference: ClassVar[str] = "Picard, Management Science 1976; Goldberg & Tarjan, J. ACM 1988"

    def solve(self, problem: Closure, limits: Limits, seed: int) -> Solution[NDArray[np.bool_]]:
        """Return the largest optimal closure; stopped early, the best one seen with the bound of the preflow."""
        run = Run(limits)
        supply, capacity = integer_capacities(problem)
        indptr, indices, place = arcs_merged(problem)
        trees: normalized.NormalizedTrees | None = None
        done, interrupted = False, False
        try:
            with ctrl_c_held():
                graph = kernel.build_graph(problem.parent, indptr, indices, problem.n_requirements)
                flow = kernel.start_flow(graph, supply, capacity, NO_GUESS, NO_GUESS, NO_GUESS, 1.0)
                if len(problem.arcs) and not problem.n_requirements:
                    trees = normalized.NormalizedTrees(supply, problem.parent, problem.arcs, (indptr, indices, place))
        except KeyboardInterrupt:
            interrupted = True
        ready, scans = run.seconds, SLICE if limits.seconds is None else FIRST
        # The checks of the answer read the problem about as often as the preparations did: they get as much time.
        most = math.inf if limits.seconds is None else max(limits.seconds - 2 * ready, ready + limits.seconds / 2)
        available = exact_sum(np.maximum(supply, 0))

        def bound_of_flow() -> float:
            absorbed = int(flow.paid.sum()) + int(flow.lost.sum())
            return float(problem.unit * Fraction(absorbed - available, problem.penalty.denominator) - problem.slack)

        try:
            while not (done or interrupted or run.out_of_time) and run.seconds < most:
                start = run.seconds
                if trees is None:
                    done = kernel.advance(graph, flow, supply, capacity, scans)
                elif trees.advance(scans):
                    trees.hand_over(place, graph, flow, supply)
                    trees = None
                if limits.seconds is not None:
                    scans = int(min(max(scans * LOOK / max(run.seconds - start, 1e-3), FIRST / 10), SLICE))
                if trees is None:
                    run.report(0.0, bound_of_flow())  # nothing chosen costs nothing
        except KeyboardInterrupt:
            interrupted = True
        if trees is not None:  # stopped: what flows by now is a preflow too
            trees.hand_over(place, graph, flow, supply)
        edge = flow.edge[place] if len(problem.arcs) else flow.edge
        duals: dict[str, Any] = {
            "requirements": edge[: problem.n_edges],
            "arcs": edge[problem.n_edges :],
            "denominator": problem.penalty.denominator,
        }
        if not done:
            kernel.relabel_globally(graph, flow, supply, capacity)
        # What cannot reach the sink is closed, and worth the excess that it holds.
        value: NDArray[np.bool_] = flow.label[problem.n_requirements :] >= kernel.FAR
        if not done:
            value = min(value, _repair(problem, duals), key=problem.exact_objective)
        bound = bound_of_flow()
        run.report(problem.objective(value), bound)
        stats = {
            "edges": len(indices),
            "discharges": int(flow.state[3]),
            "global relabellings": int(flow.state[4]),
        }
        why = "interrupted" if interrupted else "stopped by its limits"
        return Solution(
            Status.OPTIMAL if done else Status.FEASIBLE,
            value,
            objective=run.objective,
            bound=bound,
            duals=duals,
            trace=run.trace,
            stats=stats,
            solver=self.name,
            message="" if done else f"{why}: the best closure found so far, with a valid bound",
        )


def integer_capacities(problem: Closure) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return profits and costs times the penalty, as integers in units of ``1 / penalty.denominator``."""
    penalty = problem.penalty
    for what, numbers, factor in (
        ("profit", problem.profit, penalty.denominator),
        ("cost", problem.cost, penalty.numerator),
    ):
        total = exact_sum(np.abs(numbers)) * factor
        mend = "use a coarser unit, or a penalty with a smaller denominator (Fraction.limit_denominator)"
        require(total < INT64_SAFE, f"{what} times {factor}", f"add up to less than 2**62 at {penalty=!s}", total, mend)
    return problem.profit * penalty.denominator, problem.cost * penalty.numerator


def arcs_merged(problem: Closure) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Return the arcs of every item to requirements (vertex j) and to other items (vertex W + b), as one adjacency.

    The third array says where each arc went, those to requirements first; it is empty where there are none to items.
    """
    if not len(problem.arcs):
        return problem.indptr, problem.indices, np.zeros(0, np.int32)
    tail, head = problem.arcs[:, 0], problem.arcs[:, 1] + np.int32(problem.n_requirements)
    if problem.n_edges:
        owner = np.repeat(np.arange(problem.n_items, dtype=np.int32), np.diff(problem.indptr))
        tail, head = np.concatenate([owner, tail]), np.concatenate([problem.indices, head])
    return normalized.by_tail(np.ascontiguousarray(tail), np.ascontiguousarray(head), problem.n_items)


def _repair(problem: Closure, duals: dict[str, Any]) -> NDArray[np.bool_]:
    """A good closure from the multipliers of an unfinished flow: what pays tree by tree, if that is worth anything."""
    empty = np.zeros(problem.n_items, np.bool_)
    edge = np.concatenate([[0], np.cumsum(duals["requirements"])])
    weight = problem.profit * problem.penalty.denominator - (edge[problem.indptr[1:]] - edge[problem.indptr[:-1]])
    chosen = problem.tree_closure(weight)
    if problem.violation(chosen) > 0 or problem.exact_objective(chosen) > 0:
        return empty
    return chosen
