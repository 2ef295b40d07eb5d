"""One choice a layer within several budgets: `choice-branch-and-bound` against HiGHS and CBC, and brute force.

``python -m benchmarks.several_budgets compare | agree``. The first times 36 blocks x 32 alternatives under limits of
parameters, memory and milliseconds, every solver in one thread and to a relative gap of 1e-4, in processor seconds;
the second solves 10,000
random instances of one to four resources, all of them by brute force, a share by CBC and HiGHS as well.
"""

from __future__ import annotations

import argparse
import json
import resource
from typing import Any

import numpy as np

import prunopt as po
from benchmarks.machine import described, median
from benchmarks.results import store
from prunopt.core.validate import require
from prunopt.forms import MultipleChoiceKnapsack
from prunopt.solvers.mip.pulp import Pulp
from prunopt.testing.searches import brute_force_choice, random_budgets

GAP, INSTANCES, RUNS = 1e-4, 10, 5
PEERS = ("HiGHS", "PULP_CBC_CMD")


def model_like(seed: int, blocks: int = 36) -> MultipleChoiceKnapsack:
    """A model's blocks, each with four sizes of attention times eight of the MLP: noisy power curves as losses.

    Parameters and bytes follow from the sizes (8 key-value groups of 64, 2,048 inputs, 8,192 neurons, a cache of 32,768
    tokens); nanoseconds differ a little from block to block, as measured ones do. The loss counts micro-nats.
    """
    rng = np.random.default_rng(seed)
    kept = np.array([(a, f) for a in (1, 0.75, 0.5, 0) for f in (1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0)])
    attention, mlp = kept.T
    loss = rng.uniform(0.5, 2, (blocks, 1)) * (1 - attention) ** rng.uniform(1.2, 3, (blocks, 1))
    loss = loss + rng.uniform(0.5, 2, (blocks, 1)) * (1 - mlp) ** rng.uniform(1.2, 3, (blocks, 1))
    loss = 5e4 * loss * np.exp(rng.normal(0, 0.05, loss.shape))
    parameters = np.tile(4 * 2048**2 * attention + 3 * 2048 * 8192 * mlp, (blocks, 1))
    memory = 2 * parameters + attention * 2 * 8 * 64 * 2 * 32768
    time_ns = attention * 1.1e6 + mlp * 1.9e6 + 1e5 * ((attention > 0).astype(float) + (mlp > 0))
    costs = {
        "parameters": parameters,
        "memory": memory,
        "latency_ns": time_ns * np.exp(rng.normal(0, 0.03, loss.shape)),
    }
    whole = {name: np.ceil(table).astype(np.int64) for name, table in costs.items()}
    shares = dict(zip(costs, (0.72, 0.70, 0.71), strict=True))
    limits = {name: int(shares[name] * table[:, 0].sum()) for name, table in whole.items()}
    return MultipleChoiceKnapsack(loss, whole, limits)


def processor() -> float:
    """Return the processor seconds of this process and of those it waited for: a busy machine changes them least."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def peer(problem: MultipleChoiceKnapsack, name: str, seconds: float) -> tuple[float, float]:
    """Return processor seconds and objective of HiGHS or CBC, the writing of the model not counted."""
    import pulp

    model = problem.to_pulp()
    engine = getattr(pulp, name)(msg=False, gapRel=GAP, threads=1, timeLimit=seconds)
    start = processor()
    model.solve(engine)
    return processor() - start, problem.objective(problem.read_pulp(model))


def compare(seconds: float = 60.0) -> None:
    """Time ten instances again: medians of `RUNS` rounds in which all solvers take turns."""
    rows: list[dict[str, Any]] = []
    po.solve(model_like(99, 4), limits=po.Limits(gap=1e-2))  # compiled
    for seed in range(INSTANCES):
        problem = model_like(seed)
        taken: dict[str, list[float]] = {name: [] for name in ("ours", *PEERS)}
        others: dict[str, float] = {}
        for _ in range(RUNS):
            start = processor()
            found = po.solve(problem, limits=po.Limits(gap=GAP, seconds=seconds))
            taken["ours"].append(processor() - start)
            for name in PEERS:
                other, others[name] = peer(problem, name, seconds)
                taken[name].append(other)
        start = processor()
        po.verify(problem, found)
        row = {
            "seed": seed, "status": found.status.name, "objective": found.objective, "gap": found.gap,
            "nodes": found.stats["nodes"], "seconds": median(taken["ours"]), "verify": processor() - start,
        }  # fmt: skip
        for name in PEERS:
            row |= {f"{name} seconds": median(taken[name]), f"{name} objective": others[name]}
        rows.append(row)
        print(json.dumps(row), flush=True)
    store("several_budgets", {"compare": {**described("pulp", "highspy"), "gap": GAP, "rounds": RUNS, "rows": rows}})
    ours = median([r["seconds"] for r in rows])
    for name in PEERS:
        factor = median([r[f"{name} seconds"] / r["seconds"] for r in rows])
        print(f"{name}: median {median([r[f'{name} seconds'] for r in rows]):.3f} s, ours {ours:.4f} s, {factor:.1f}x")


def agree(count: int = 10_000, every: int = 50) -> None:
    """Hold random instances against brute force, every fiftieth against CBC and HiGHS too."""
    rng, infeasible, resources = np.random.default_rng(2026), 0, [0] * 5
    for k in range(count):
        problem = random_budgets(rng)
        best, found = brute_force_choice(problem), po.solve(problem, "choice-branch-and-bound", throw=False)
        infeasible += best is None
        resources[problem.n_resources] += 1
        status = po.Status.INFEASIBLE if best is None else po.Status.OPTIMAL
        require(found.status is status, f"instance {k}", f"end {status.name}", found.status.name)
        if best is not None:
            require(abs(found.objective - best) < 1e-9, f"instance {k}", f"lose {best}", found.objective)
        po.verify(problem, found)
        if k % every == 0:
            for engine in PEERS:
                other = po.solve(problem, Pulp(engine), throw=False)
                require(other.status is status, f"instance {k} by {engine}", f"end {status.name}", other.status.name)
                if best is not None:
                    require(abs(other.objective - best) < 1e-6, f"instance {k} by {engine}", f"lose {best}", other)
    row = {"instances": count, "infeasible": infeasible, "resources": resources[1:], "by engines": -(-count // every)}
    print(json.dumps(row))
    store("several_budgets", {"agree": {**described("pulp", "highspy"), **row}})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("compare", "agree"))
    if parser.parse_args().what == "compare":
        compare()
    else:
        agree()
