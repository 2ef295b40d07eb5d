"""Instances of the solvers' literature, generated as published, beside HiGHS and OR-tools.

``python -m benchmarks.instances [knapsacks] [quadratic] [closures] [sums]`` prints one line an instance and writes
``results/instances.json.gz``; what is on file is not measured again. Processor seconds of one thread, ours with the
check of the answer; compilation is done before. A peer that needs a process of its own (OR-tools beside HiGHS) draws
the same instance there. No instance is shipped: every one is drawn from its seed.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import geometric_mean
from typing import Any

import numpy as np

import prunopt as po
from benchmarks.machine import in_fresh_process, recorded
from prunopt.core import engines
from prunopt.forms import Closure, MultipleChoiceKnapsack, QuadraticKnapsack, SubsetSum

LIMIT = 10.0  # seconds for every solver and instance
RANGE = 1000  # of weights and profits
SIZES = (100, 1000, 10_000, 100_000)
Numbers = np.ndarray[Any, np.dtype[np.int64]]


def family(name: str, n: int, seed: int) -> tuple[Numbers, Numbers, int]:
    """Draw profits, weights and a capacity of one of Pisinger's families ("Where are the hard knapsack problems?")."""
    rng = np.random.default_rng([len(name), n, seed])
    w, tenth = rng.integers(1, RANGE + 1, n), RANGE // 10
    if name == "uncorrelated":
        p = rng.integers(1, RANGE + 1, n)
    elif name == "weakly correlated":
        p = np.maximum(1, w + rng.integers(-tenth, tenth + 1, n))
    elif name == "strongly correlated":
        p = w + tenth
    elif name == "inverse strongly correlated":
        p = rng.integers(1, RANGE + 1, n)
        w = p + tenth
    elif name == "almost strongly correlated":
        p = w + tenth + rng.integers(-RANGE // 500, RANGE // 500 + 1, n)
    elif name == "subset sum":
        p = w
    else:  # even-odd: weights even, the capacity odd
        w = 2 * rng.integers(1, RANGE // 2 + 1, n)
        p = w
    capacity = max(int(w.max()), int(w.sum()) * (1 + seed) // 4)
    return p, w, capacity | 1 if name == "even-odd subset sum" else capacity


FAMILIES = ("uncorrelated", "weakly correlated", "strongly correlated", "inverse strongly correlated",
            "almost strongly correlated", "subset sum", "even-odd subset sum")  # fmt: skip


def timed(job: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a job returns, and its processor seconds."""
    start = time.process_time()
    return job(), time.process_time() - start


def highs_knapsack(p: Numbers, w: Numbers, capacity: int) -> dict[str, Any]:
    """HiGHS on the 0-1 program, by its own interface."""
    import highspy

    n = len(p)
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = n, 1
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = -p.astype(float), np.zeros(n), np.ones(n)
    lp.row_lower_, lp.row_upper_ = np.array([-highspy.kHighsInf]), np.array([float(capacity)])
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_, lp.a_matrix_.index_ = np.array([0, n], np.int32), np.arange(n, dtype=np.int32)
    lp.a_matrix_.value_ = w.astype(float)
    lp.integrality_ = [highspy.HighsVarType.kInteger] * n
    engine = engines.new_engine({"time_limit": LIMIT, "mip_rel_gap": 0.0, "mip_abs_gap": 0.99, "parallel": "off"})
    engines.pass_model(engine, lp)
    status, seconds = timed(lambda: engines.run(engine))
    info = engine.getInfo()
    found = {"objective": info.objective_function_value, "bound": info.mip_dual_bound}
    kept = {name: value if math.isfinite(value) else None for name, value in found.items()}
    return {"proven": status == highspy.HighsModelStatus.kOptimal, "seconds": seconds, **kept}


def told(solution: Any, seconds: float) -> dict[str, Any]:
    """Return what is kept of an answer of ours."""
    gap = solution.gap if math.isfinite(solution.gap) else None
    value = solution.objective if math.isfinite(solution.objective) else None
    return {"proven": solution.status is po.Status.OPTIMAL, "objective": value, "seconds": seconds,
            "gap": gap, "solver": solution.solver}  # fmt: skip


def knapsack(name: str, n: int, seed: int) -> dict[str, Any]:
    """One instance of one family."""
    p, w, capacity = family(name, n, seed)
    ours = told(*timed(partial(po.solve, as_choice(p, w, capacity), limits=LIMIT)))
    return {"ours": ours, "peer": highs_knapsack(p, w, capacity)}


def as_choice(p: Numbers, w: Numbers, capacity: int) -> MultipleChoiceKnapsack:
    """Return a plain knapsack as a choice of two levels for each item."""
    return MultipleChoiceKnapsack(np.column_stack([0 * p, -p]), np.column_stack([0 * w, w]), capacity)


def quadratic_problem(n: int, density: float, seed: int) -> QuadraticKnapsack:
    """Draw as Gallo, Hammer and Simeone, and Billionnet and Soutif, did: profits 1 to 100, weights 1 to 50."""
    rng = np.random.default_rng([n, int(100 * density), seed])
    gains = np.triu(np.where(rng.random((n, n)) < density, rng.integers(1, 101, (n, n)), 0))
    w = rng.integers(1, 51, n)
    budget = float(rng.integers(50, max(51, int(w.sum())) + 1))
    return QuadraticKnapsack(-np.diag(gains).astype(float), -np.triu(gains, 1).astype(float), w.astype(float), budget)


def quadratic(n: int, density: float, seed: int) -> dict[str, Any]:
    """One quadratic knapsack, and CP-SAT on the same with a variable for each pair."""
    ours = told(*timed(partial(po.solve, quadratic_problem(n, density, seed), limits=LIMIT)))
    return {
        "ours": ours,
        "peer": in_fresh_process("benchmarks.instances", "cp_quadratic", str(n), str(density), str(seed)),
    }


def cp_quadratic(n: str, density: str, seed: str) -> dict[str, Any]:
    """CP-SAT, one worker."""
    from ortools.sat.python import cp_model

    problem = quadratic_problem(int(n), float(density), int(seed))
    model = cp_model.CpModel()
    x = [model.new_bool_var("") for _ in problem.linear]
    terms = [int(v) * x[i] for i, v in enumerate(problem.linear)]
    for i, j in np.argwhere(problem.pair):
        both = model.new_bool_var("")
        model.add_implication(both, x[i])
        model.add_implication(both, x[j])
        terms.append(int(problem.pair[i, j]) * both)
    model.add(sum(int(c) * v for c, v in zip(problem.cost, x, strict=True)) <= int(problem.budget))
    model.minimize(sum(terms))
    return _cp_answer(model)


def _cp_answer(model: Any) -> dict[str, Any]:
    from ortools.sat.python import cp_model

    solver = cp_model.CpSolver()
    solver.parameters.num_workers, solver.parameters.max_time_in_seconds = 1, LIMIT
    status, seconds = timed(lambda: solver.solve(model))
    ended = status in (cp_model.OPTIMAL, cp_model.INFEASIBLE)
    value = solver.objective_value if status in (cp_model.OPTIMAL, cp_model.FEASIBLE) else None
    return {"proven": ended, "objective": value, "seconds": seconds, "infeasible": status == cp_model.INFEASIBLE}


def closure_problem(n: int, seed: int) -> Closure:
    """Draw a bipartite closure: 7 items for 3 requirements, each item needing three of them."""
    rng = np.random.default_rng([n, seed])
    items, needs = n * 7 // 10, n - n * 7 // 10
    ends = np.sort(rng.integers(0, needs, (items, 3)).astype(np.int32), axis=1).ravel()
    profit, cost = rng.integers(-20, 100, items), rng.integers(1, 200 + 60 * seed, needs)
    return Closure(profit, np.full(items, -1, np.int32), np.arange(0, 3 * items + 1, 3), ends, cost)


def closure(n: int, seed: int) -> dict[str, Any]:
    """One closure of n vertices: the cut of ours with the check of its proof, and OR-tools' maximum flow."""
    problem = closure_problem(n, seed)
    ours = told(*timed(partial(po.solve, problem)))
    return {"ours": ours, "peer": in_fresh_process("benchmarks.instances", "flow_closure", str(n), str(seed))}


def flow_closure(n: str, seed: str) -> dict[str, Any]:
    """OR-tools' push-relabel: building the graph and solving it."""
    from benchmarks.forest_speed import ortools_cut

    problem = closure_problem(int(n), int(seed))
    profit, seconds = timed(lambda: ortools_cut(problem))
    return {"proven": True, "objective": -float(profit), "seconds": seconds}


def sum_problem(kind: str, n: int, seed: int) -> SubsetSum:
    """Draw a subset sum, to be met exactly by the fewest numbers: kinds of Pisinger's and Todd's."""
    rng = np.random.default_rng([n, seed, len(kind)])
    if kind == "even, odd target":
        numbers = 2 * rng.integers(1, 500, n)
        target = int(numbers.sum()) // 2 | 1
    else:
        top = {"to 1000": 1000, "to 100000": 100_000}[kind]
        numbers = rng.integers(1, top + 1, n)
        target = int(numbers.sum()) // 4
    return SubsetSum([float(target)], numbers.astype(float), 0.5)


def sums(kind: str, n: int, seed: int) -> dict[str, Any]:
    """One subset sum."""
    problem = sum_problem(kind, n, seed)
    answer, seconds = timed(partial(po.solve, problem, limits=LIMIT, throw=False))
    ours = told(answer, seconds)
    if answer.value is None:
        ours |= {"objective": None, "proven": answer.status is po.Status.INFEASIBLE}
    return {"ours": ours, "peer": in_fresh_process("benchmarks.instances", "cp_sums", kind, str(n), str(seed))}


def cp_sums(kind: str, n: str, seed: str) -> dict[str, Any]:
    """CP-SAT, one worker: the fewest numbers that add up."""
    from ortools.sat.python import cp_model

    problem = sum_problem(kind, int(n), int(seed))
    model = cp_model.CpModel()
    x = [model.new_bool_var("") for _ in problem.candidates]
    model.add(sum(int(a) * v for a, v in zip(problem.candidates, x, strict=True)) == int(problem.targets[0]))
    model.minimize(sum(x))
    return _cp_answer(model)


def parts() -> dict[str, dict[str, Callable[[], Any]]]:
    """Return the rows of every library."""
    return {
        "knapsacks": {f"{f}, {n}, {s}": partial(knapsack, f, n, s) for f in FAMILIES for n in SIZES for s in (0, 1)},
        "quadratic": {
            f"n = 100, {d:.0%}, {s}": partial(quadratic, 100, d, s) for d in (0.25, 0.5, 0.75, 1.0) for s in range(3)
        },
        "closures": {f"{n}, {s}": partial(closure, n, s) for n in (100_000, 1_000_000) for s in range(3)},
        "sums": {
            f"{k}, {n}, {s}": partial(sums, k, n, s)
            for k in ("to 1000", "to 100000", "even, odd target")
            for n in (40, 100)
            for s in (0, 1)
        },
    }


def compiled() -> None:
    """Solve a small one of each form, so that compilation is not timed."""
    for name in FAMILIES[:3]:
        po.solve(as_choice(*family(name, 50, 0)))
    po.solve(quadratic_problem(12, 0.5, 0))
    po.solve(closure_problem(100, 0))
    for n in (12, 50):
        po.solve(sum_problem("to 1000", n, 0), throw=False)


def show(name: str, rows: dict[str, Any]) -> None:
    """Print how many were proven on either side, agreement, and the ratio of times where both proved."""
    ours, peer = [r["ours"] for r in rows.values()], [r["peer"] for r in rows.values()]
    both = [(a, b) for a, b in zip(ours, peer, strict=True) if a["proven"] and b["proven"]]
    differ = sum(a["objective"] != b["objective"] and abs((a["objective"] or 0) - (b["objective"] or 0)) > 1e-6
                 for a, b in both)  # fmt: skip
    ratios = [max(a["seconds"], 1e-3) / max(b["seconds"], 1e-3) for a, b in both]
    mean = geometric_mean(ratios) if ratios else math.nan
    print(f"{name}: {len(rows)} instances, proven {sum(a['proven'] for a in ours)}, by the peer "
          f"{sum(b['proven'] for b in peer)}; {differ} differ; seconds ours / peer: mean {mean:.3g}, "
          f"from {min(ratios, default=math.nan):.3g} to {max(ratios, default=math.nan):.3g}")  # fmt: skip


def main(names: list[str]) -> None:
    """Measure the libraries named, or all, and print their summaries."""
    for name, rows in parts().items():
        if names and name not in names:
            continue
        compiled()
        found = recorded("instances", name, rows, "highspy", *(() if name == "knapsacks" else ("ortools",)))["rows"]
        for f in FAMILIES if name == "knapsacks" else ():
            show(f, {k: v for k, v in found.items() if k.startswith(f"{f}, ")})
        show(name, found)


if __name__ == "__main__":
    main(sys.argv[1:])
