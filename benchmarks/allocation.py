"""Allocation and search: the exact knapsack against CBC, searches compared, and trials a second with many workers.

``python -m benchmarks.allocation knapsack | throughput | efficiency | efficiency-model``. The last compares searches on
SmolLM2 itself, the one before on its measured curves. Allocations are compared by `benchmarks.allocation_model`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import prunopt as po
from benchmarks.machine import described, interleaved, median
from benchmarks.results import load, store
from prunopt.core.arrays import Floats
from prunopt.forms import MultipleChoiceKnapsack
from prunopt.problems import AllocationSearch
from prunopt.solvers.mip.pulp import Pulp

SEEDS, COUNTS = 5, (50, 100, 200)
SOLVERS = ("dsa-evolution", "random-search", "tpe")


def large(seed: int) -> MultipleChoiceKnapsack:
    """32 layers of 7 modules with 21 levels, the sizes of a model of seven billion parameters, noisy power curves."""
    rng = np.random.default_rng(seed)
    levels = np.arange(21) / 20
    sizes = np.tile([4096 * 4096] * 4 + [4096 * 11008] * 3, 32)
    loss = rng.uniform(0.1, 3, (224, 1)) * levels ** rng.uniform(1.2, 4, (224, 1)) * (1 + 0.05 * rng.random((224, 21)))
    return MultipleChoiceKnapsack(loss, sizes[:, None] * (20 - np.arange(21)), int(sizes.sum() * 20 * 0.4))


def knapsack(limit: float = 60.0) -> None:
    """Time of `choice-dp` and of CBC and HiGHS on the same integer program, and equality with brute force."""
    kept: list[dict[str, Any]] = load("allocation", "knapsack", {"rows": []})["rows"]
    rows: list[dict[str, Any]] = []
    about = described("pulp", "highspy")
    for seed in range(3):
        held = next((r for r in kept if r["seed"] == seed), None)
        rows.append(held or _knapsack_row(seed, limit))
        store("allocation", {"knapsack": {**about, "rows": rows}})
        print(json.dumps(rows[-1]), flush=True)
    equal = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        small = MultipleChoiceKnapsack(rng.normal(size=(5, 4)), rng.integers(0, 12, (5, 4)), int(rng.integers(25, 45)))
        choices = (np.array(x) for x in itertools.product(range(4), repeat=5))
        best = min(small.objective(x) for x in choices if small.violation(x) == 0)
        equal += abs(po.solve(small, "choice-dp").objective - best) < 1e-12
    said = f"{equal} of 300 equal"
    store("allocation", {"knapsack": {**about, "rows": rows, "brute force": said}})
    print(f"brute force: {said}")


def _knapsack_row(seed: int, limit: float) -> dict[str, Any]:
    problem = large(seed)
    ours = interleaved({"choice-dp": lambda: po.solve(problem, "choice-dp")}, runs=7)["choice-dp"]
    answer = po.solve(problem, "choice-dp")
    row: dict[str, Any] = {"seed": seed, "choice-dp": median(ours), "status": answer.status.name, "gap": answer.gap}
    for engine in ("PULP_CBC_CMD", "HiGHS"):
        start = time.perf_counter()
        found = po.solve(problem, Pulp(engine), limits=po.Limits(seconds=limit), throw=False)
        row[engine] = time.perf_counter() - start
        row[f"{engine} status"], row[f"{engine} excess"] = found.status.name, found.objective - answer.objective
    start = time.perf_counter()
    relaxed = po.solve(problem, "choice-lagrange")
    return {**row, "choice-lagrange": time.perf_counter() - start, "lagrange gap": relaxed.gap, "limit": limit}


class Sleepy:
    """An evaluator that sleeps: what is measured is the storage."""

    def __init__(self, nap: float) -> None:
        self.nap = nap

    def loss(self, allocation: Any, *, fidelity: float = 1.0) -> float:
        """Sleep and return a smooth number."""
        time.sleep(self.nap)
        return float(np.square(allocation).sum())


def _worker(path: str, nap: float, trials: int, barrier: Any) -> None:
    from prunopt.solvers.blackbox.dsa_evolution import DsaEvolution
    from prunopt.study.storages import open_search
    from prunopt.study.workers import work

    statistics = {"w": [np.linspace(0, i + 1, 50) for i in range(30)]}
    task = AllocationSearch(Sleepy(nap), np.ones(30), 0.6, statistics=statistics)
    study, box = open_search(task, DsaEvolution(), storage=path, seed=0, name=None, wait=60)
    box.decode({g.name: g.options[0] for g in box.genes})
    barrier.wait()
    work(study, box, trials=trials)


def throughput(nap: float = 2.0, each: int = 10) -> None:
    """Trials a second of 1, 2 and 8 workers on one journal, from the moment when all are ready to the last trial."""
    rows: list[dict[str, Any]] = []
    context = multiprocessing.get_context("spawn")
    for workers in (1, 2, 8):
        with tempfile.TemporaryDirectory() as folder:
            path, trials = str(Path(folder) / "a.journal"), each * workers
            barrier = context.Barrier(workers + 1)
            team = [context.Process(target=_worker, args=(path, nap, trials, barrier)) for _ in range(workers)]
            for process in team:
                process.start()
            barrier.wait()
            start = time.perf_counter()
            for process in team:
                process.join()
            taken = time.perf_counter() - start
            from prunopt.study.journal import open_journal

            held = open_journal(path)
            found = held.get_all_trials(held.get_study_id_from_name("search"))
            done = [t for t in found if t.state.name == "COMPLETE"]
            copies = sum("copy_of" in t.user_attrs for t in done)
            rows.append(
                {
                    "workers": workers,
                    "trials": len(done),
                    "copied": copies,
                    "seconds": taken,
                    "rate": len(done) / taken,
                    "ratio": (len(done) / taken) / rows[0]["rate"] if rows else 1.0,
                }
            )
        print(json.dumps(rows[-1]), flush=True)
    store("allocation", {"throughput": {**described("optuna"), "nap": nap, "rows": rows}})


class Surrogate:
    """The measured curves of SmolLM2's blocks, weighted by what each costs the model with all others pruned."""

    def __init__(self, levels: Floats, losses: Floats) -> None:
        self.levels, self.losses = levels, losses

    def loss(self, allocation: Any, *, fidelity: float = 1.0) -> float:
        """Return the sum of the curves."""
        rows = zip(allocation, self.losses, strict=True)
        return float(sum(np.interp(s, self.levels, row) for s, row in rows))


def surrogate(sparsity: float = 0.6) -> AllocationSearch:
    """The search that the samplers are compared on; needs the figures of `benchmarks.allocation_model`."""
    from benchmarks.datasets import cache_folder

    cells = load("allocation_model", f"wanda-{round(100 * sparsity)}")
    with np.load(cache_folder() / "smollm2" / "block-statistics.npz", allow_pickle=False) as arrays:
        levels, errors = arrays["levels"], arrays["errors"]
        samples = {k.split("/")[1]: list(arrays[k]) for k in arrays.files if k.startswith("sample/")}
    kl = np.array([cells[f"alone {sparsity:g} {i}"]["kl"] for i in range(len(errors))])
    gamma = kl / np.array([np.interp(sparsity, levels, e) for e in errors])
    return AllocationSearch(
        Surrogate(levels, gamma[:, None] * errors),
        np.ones(len(errors)),
        sparsity,
        bounds=(0.2, 0.9),
        statistics=samples,
    )


def on_the_model(sparsity: float = 0.6) -> AllocationSearch:
    """The same search, judged by the perplexity of SmolLM2 under Wanda's masks on 256 tokens."""
    from benchmarks.allocation_model import Bench

    bench = Bench("wanda", "one window")
    evaluator = TextPerplexity(bench.kl)
    return AllocationSearch(evaluator, bench.sizes, sparsity, bounds=bench.bounds, statistics=bench.samples)


class TextPerplexity:
    """Perplexity on the windows of an evaluator that knows the loss."""

    def __init__(self, evaluator: Any) -> None:
        self.evaluator = evaluator
        self.evaluator.measure = "loss"

    def loss(self, allocation: Any, *, fidelity: float = 1.0) -> float:
        """Return the perplexity."""
        return math.exp(self.evaluator.loss(allocation))


def efficiency(name: str = "efficiency") -> None:
    """Least loss after 50, 100 and 200 evaluations, five seeds, each decision once; goes on where it stopped."""
    task = surrogate() if name == "efficiency" else on_the_model()
    rows: dict[str, Any] = load("allocation", name, {}).get("rows", {})
    flat = task.evaluator.loss(np.full(len(task.sizes), task.sparsity))
    for seed, solver in itertools.product(range(SEEDS), SOLVERS):
        curves = rows.setdefault(solver, {"all": []})["all"]
        if len(curves) > seed:
            continue
        curves.append(_least(task, solver, seed, name))
        mean, error = np.mean(curves, axis=0), np.std(curves, axis=0, ddof=min(1, seed)) / np.sqrt(len(curves))
        rows[solver] |= {"mean": mean.tolist(), "standard error": error.tolist(), "seeds": len(curves)}
        store("allocation", {name: {**described("optuna"), "uniform": flat, "counts": COUNTS, "rows": rows}})
        print(seed, solver, np.round(mean, 4), np.round(error, 4), flush=True)


def _least(task: AllocationSearch, solver: str, seed: int, name: str) -> list[float]:
    """Least losses after each of `COUNTS` evaluations; copies of known decisions are none."""
    from benchmarks.datasets import cache_folder

    place, trials = cache_folder() / f"allocation_{name}" / f"{solver}-{seed}.journal", COUNTS[-1]
    place.parent.mkdir(parents=True, exist_ok=True)
    while True:
        run = po.search(task, trials=trials, solver=solver, seed=seed, storage=place)
        values = [float(t.value or 0.0) for t in run.finished if t.copy_of is None]
        if len(values) >= COUNTS[-1]:
            return [min(values[:c]) for c in COUNTS]
        trials += COUNTS[-1] - len(values)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    jobs: dict[str, Any] = {
        "knapsack": knapsack, "throughput": throughput, "efficiency": efficiency,
        "efficiency-model": lambda: efficiency("efficiency_model"),
    }  # fmt: skip
    parser.add_argument("what", choices=tuple(jobs))
    jobs[parser.parse_args().what]()
