"""Time and memory of the exact cut and the exact path, against HiGHS and OR-tools on the same closures.

    python -m benchmarks.forest_speed            # the whole table, about 10 minutes on one core
    python -m benchmarks.forest_speed magic      # one part: magic, highs, letter, memory, primal-dual, unlimited

The forests: magic, 10,000 rows, 40 trees of depth 8; letter, 15,000 rows, 100 trees of depth 10; costs are integers
1 to 20. A "single cut" is the cut of the full instance at the median of the path's breakpoints.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from benchmarks.datasets import fetch
from benchmarks.machine import described, in_fresh_process, interleaved, median, peak_bytes, seconds
from benchmarks.results import store
from prunopt.core.solver import Limits
from prunopt.forms import Closure, LinearProgram
from prunopt.problems import ForestBudget
from prunopt.solvers.closure.min_cut import MinCut, integer_capacities
from prunopt.solvers.closure.parametric_cut import closure_path
from prunopt.solvers.closure.primal_dual import PrimalDual
from prunopt.solvers.mip.highs import Highs

SHAPES = {"magic": (10_000, 40, 8), "letter": (15_000, 100, 10)}
MAGIC_PRICE = Fraction(1, 20)


def task(name: str) -> ForestBudget:
    """The forest of one set, pruned on its training rows."""
    from sklearn.ensemble import RandomForestClassifier

    n_rows, n_trees, depth = SHAPES[name]
    X, y, _ = fetch(name)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(X))[:n_rows]
    costs = rng.integers(1, 21, X.shape[1])
    forest = RandomForestClassifier(n_trees, max_depth=depth, random_state=0).fit(X[order], y[order])
    return ForestBudget.from_forest(forest, X[order], y[order], costs, 0)


def ortools_cut(closure: Closure) -> int:
    """The optimum profit of a closure by OR-tools' push-relabel: building the graph and solving it."""
    from ortools.graph.python import max_flow

    supply, capacity = integer_capacities(closure)
    m, w = closure.n_items, closure.n_requirements
    source, sink, endless = m + w, m + w + 1, 2**60
    gain, loss, child = np.flatnonzero(supply > 0), np.flatnonzero(supply < 0), np.flatnonzero(closure.parent >= 0)
    owner = np.repeat(np.arange(m), np.diff(closure.indptr))
    tails = [np.full(len(gain), source), loss, child, owner, m + np.arange(w)]
    heads = [gain, np.full(len(loss), sink), closure.parent[child], m + closure.indices, np.full(w, sink)]
    room = [supply[gain], -supply[loss], np.full(len(child), endless), np.full(len(owner), endless), capacity]
    solver = max_flow.SimpleMaxFlow()
    solver.add_arcs_with_capacity(*(np.concatenate(column) for column in (tails, heads, room)))
    if solver.solve(source, sink) != solver.OPTIMAL:
        raise RuntimeError("OR-tools did not solve the flow")
    return int(supply[gain].sum()) - solver.optimal_flow()


def speed(name: str) -> dict[str, Any]:
    """Cut and path against OR-tools on one instance."""
    closure = task(name).path_closure().closure
    path = closure_path(closure)
    prices = sorted(b.penalty for b in path.blocks)
    middle = prices[len(prices) // 2]
    at = {"middle": middle, "quarter": prices[len(prices) // 4], "three quarters": prices[3 * len(prices) // 4]}
    if name == "magic":
        at["1/20"] = MAGIC_PRICE
    cuts: dict[str, Any] = {}
    for label, price in at.items():
        priced = replace(closure, penalty=price)
        ours = MinCut().solve(priced, Limits(), 0)
        assert Fraction(ortools_cut(priced), price.denominator) * closure.unit == -priced.exact_objective(ours.value)
        taken = interleaved(
            {"cut": partial(MinCut().solve, priced, Limits(), 0), "ortools": partial(ortools_cut, priced)}
        )
        cuts[label] = {"price": float(price), **{k: median(v) for k, v in taken.items()}}
    both = interleaved(
        {
            "path": lambda: closure_path(closure),
            "cut": partial(MinCut().solve, replace(closure, penalty=middle), Limits(), 0),
        },
        runs=3,
    )
    certify = seconds(lambda: max(path.gap(p) for p in prices))
    return {
        "items": closure.n_items,
        "edges": closure.n_edges,
        "requirements": closure.n_requirements,
        "breakpoints": len(prices),
        "cuts": cuts,
        "path seconds": median(both["path"]),
        "single cut seconds": median(both["cut"]),
        "path in single cuts": median(both["path"]) / median(both["cut"]),
        "certify seconds": certify,
        "largest certified gap": max(path.gap(p) for p in prices),
    }


def highs() -> dict[str, Any]:
    """The linear program of the magic closure by HiGHS' interior point method, beside the cut."""
    closure = replace(task("magic").path_closure().closure, penalty=MAGIC_PRICE)
    linear: LinearProgram = closure.to_linear_program()
    MinCut().solve(closure, Limits(), 0)
    answers: dict[str, Any] = {}

    def by_highs() -> None:
        answers["highs"] = Highs(method="ipm").solve(linear, Limits(), 0)

    def by_cut() -> None:
        answers["cut"] = MinCut().solve(closure, Limits(), 0)

    cut = [seconds(by_cut) for _ in range(3)]
    lp = seconds(by_highs)
    cut += [seconds(by_cut) for _ in range(2)]
    ours, theirs = answers["cut"].objective, answers["highs"].objective
    return {
        "rows": len(linear.b),
        "highs seconds": lp,
        "cut seconds": median(cut),
        "ratio": lp / median(cut),
        "cut objective": ours,
        "highs objective": theirs,
        "relative difference": abs(ours - theirs) / abs(ours),
    }


def memory_of(name: str, what: str) -> dict[str, float]:
    """Growth of the peak memory of this process over one cut or path, in bytes for each edge."""
    tiny = Closure.of([3, 2], requirements=[[0], [0]], cost=[1])
    MinCut().solve(tiny, Limits(), 0)
    closure_path(tiny)
    closure = task(name).path_closure().closure
    edges = closure.n_edges
    held = closure.indices.nbytes + closure.indptr.nbytes + closure.profit.nbytes + closure.cost.nbytes
    before = peak_bytes()
    # The peak of building the closure is over; what the solver adds shows only above it, so fill that up first.
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * 4096
    ballast = np.ones(max(before - resident, 0), np.uint8)
    start = peak_bytes()
    if what == "cut":
        MinCut().solve(replace(closure, penalty=Fraction(1, 20)), Limits(), 0)
    else:
        closure_path(closure)
    grown = peak_bytes() - start
    return {
        "edges": edges,
        "ballast": len(ballast),
        "solver": grown / edges,
        "with the closure": (grown + held) / edges,
    }


def primal_dual(budget: float = 20.0) -> dict[str, Any]:
    """The gap of the subgradient method after 20 s on magic, with the authors' step rule and with ours."""
    whole = task("magic")
    factor = whole.path_closure()
    priced = whole.at_penalty(MAGIC_PRICE * factor.penalty_unit)
    import prunopt as po

    exact = po.solve(priced, "min-cut")
    rows = {}
    for label, solver in {"authors": PrimalDual(rule="authors"), "ours": PrimalDual()}.items():
        po.solve(priced, solver, limits=Limits(evaluations=2))
        found = po.solve(priced, solver, limits=Limits(seconds=budget))
        rows[label] = {
            "objective": found.objective,
            "bound": found.bound,
            "gap": (found.objective - found.bound) / found.objective,
            "above optimum": found.objective / exact.objective - 1,
            "bound below optimum": 1 - found.bound / exact.objective,
            "seconds": found.trace[-1].seconds,
        }
    return {"optimum": exact.objective, "after seconds": budget, "rules": rows}


def unlimited() -> dict[str, Any]:
    """Time and peak memory of `budget_path` for 100 trees without a limit of depth, 20,000 made rows of 50 features."""
    import time

    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier

    from prunopt.forests import budget_path

    shape: dict[str, Any] = {"n_informative": 12, "n_redundant": 10, "flip_y": 0.05, "class_sep": 0.8}
    X, y = make_classification(40_000, 50, random_state=0, **shape)
    n, costs = 20_000, np.random.default_rng(0).integers(1, 21, 50).astype(float)
    small = RandomForestClassifier(5, random_state=0).fit(X[:300], y[:300])
    budget_path(small, X[300:600], y[300:600], costs)  # compiles the kernels
    forest = RandomForestClassifier(100, random_state=0).fit(X[:n], y[:n])
    before, start = peak_bytes(), time.process_time()
    path = budget_path(forest, X[n:], y[n:], costs)
    return {
        "cpu seconds": time.process_time() - start,
        "points": len(path.points),
        "nodes": len(path.lifetime),
        "greatest gap": max(point.gap for point in path.points),
        "peak bytes": peak_bytes(),
        "peak bytes before": before,
    }


def part(name: str) -> dict[str, Any]:
    """Measure one part of the table."""
    if name in SHAPES:
        return speed(name)
    if name == "memory":
        kinds = [(data, what) for data in SHAPES for what in ("cut", "path")]
        return {" ".join(k): in_fresh_process("benchmarks.forest_speed", "memory_of", *k) for k in kinds}
    return {"highs": highs, "primal-dual": primal_dual, "unlimited": unlimited}[name]()


def main(parts: list[str]) -> None:
    """Measure the parts asked for, each in a process of its own, and save them.

    OR-tools brings a HiGHS of its own: in one process the two get in each other's way.
    """
    for name in parts or [*SHAPES, "highs", "memory", "primal-dual", "unlimited"]:
        figures = in_fresh_process("benchmarks.forest_speed", "part", name)
        peers = () if name == "unlimited" else ("highspy", "ortools")
        store("forest_speed", {name: {"figures": figures, "machine": described(*peers)}})
        print(name, figures, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
