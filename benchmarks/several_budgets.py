"""One choice a layer within several budgets: `choice-branch-and-bound` against HiGHS and CBC, and brute force.

``python -m benchmarks.several_budgets compare | agree``. The first times 36 blocks x 32 alternatives under limits of
parameters, memory and milliseconds, every solver in one thread and to a relative gap of 1e-4; the second solves 10,000
random instances of one to four resources, all of them by brute force, a share by CBC and HiGHS as well.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np

import prunopt as po
from benchmarks.machine import described, median
from benchmarks.results import load, store
from prunopt.core.validate import require
from prunopt.forms import MultipleChoiceKnapsack
from prunopt.solvers.mip.pulp import Pulp
from prunopt.testing.searches import brute_force_choice, random_budgets

GAP, INSTANCES = 1e-4, 10


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


def peers(problem: MultipleChoiceKnapsack, seconds: float) -> dict[str, tuple[float, float]]:
    """Return seconds and objective of HiGHS and CBC, the writing of the model not counted."""
    import pulp

    out = {}
    for name in ("HiGHS", "PULP_CBC_CMD"):
        model = problem.to_pulp()
        engine = getattr(pulp, name)(msg=False, gapRel=GAP, threads=1, timeLimit=seconds)
        start = time.perf_counter()
        model.solve(engine)
        taken = time.perf_counter() - start
        out[name] = (taken, problem.objective(problem.read_pulp(model)))
    return out


def compare(seconds: float = 60.0) -> None:
    """Time ten instances; what is on file stays."""
    kept: list[dict[str, Any]] = load("several_budgets", "compare", {"rows": []})["rows"]
    po.solve(model_like(99, 4), limits=po.Limits(gap=1e-2))  # compiled
    for seed in range(len(kept), INSTANCES):
        problem = model_like(seed)
        start = time.perf_counter()
        found = po.solve(problem, limits=po.Limits(gap=GAP, seconds=seconds))
        taken = time.perf_counter() - start
        start = time.perf_counter()
        po.verify(problem, found)
        row = {
            "seed": seed, "status": found.status.name, "objective": found.objective, "gap": found.gap,
            "nodes": found.stats["nodes"], "seconds": taken, "verify": time.perf_counter() - start,
        }  # fmt: skip
        for name, (other, objective) in peers(problem, seconds).items():
            row |= {f"{name} seconds": other, f"{name} objective": objective}
        kept.append(row)
        print(json.dumps(row), flush=True)
        store("several_budgets", {"compare": {**described("pulp", "highspy"), "gap": GAP, "rows": kept}})
    ours = median([r["seconds"] for r in kept])
    for name in ("HiGHS", "PULP_CBC_CMD"):
        factor = median([r[f"{name} seconds"] / r["seconds"] for r in kept])
        print(f"{name}: median {median([r[f'{name} seconds'] for r in kept]):.3f} s, ours {ours:.3f} s, {factor:.1f}x")


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
            for engine in ("HiGHS", "PULP_CBC_CMD"):
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
