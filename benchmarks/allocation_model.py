"""Allocations on SmolLM2-135M-Instruct: searched on calibration text, compared on text that took no part.

``python -m benchmarks.allocation_model 0.6`` prunes every block by Wanda's scores (ranked on the dense model) to the
sparsities of each method. With ``--by sparsegpt`` (masks by SparseGPT, kept weights re-solved together) and with
``--by ffn`` (whole neurons, the projection down re-solved), both with shrunk Hessians, every block is solved at every
level of a grid on the dense model's activations, and allocations are taken to that grid.

Everything chosen is chosen on WikiText-2's validation text, by a bfloat16 copy of the model: the best eight decisions
of a search are judged on other windows of it (`SearchRun.chosen`). Perplexities are those of the test text, in
float32. Every cell is written as it is finished: a second call goes on. Token counts: `TOKENS`.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import prunopt as po
from benchmarks.datasets import cache_folder
from benchmarks.layer_data import text
from benchmarks.machine import described
from benchmarks.results import load, store
from prunopt.core.arrays import Floats
from prunopt.problems.allocation.allocation_search import AllocationSearch
from prunopt.problems.allocation.atp import atp as progression
from prunopt.problems.allocation.layer_allocation import LayerAllocation
from prunopt.problems.allocation.learned_weights import learned_weights
from prunopt.problems.allocation.logarithmic import logarithmic
from prunopt.problems.allocation.on_budget import uniform
from prunopt.problems.allocation.owl import owl

TOKENS = {"calibration": 4096, "heldout": 4096}
LENGTH = 512
# What is searched on: on more text for Wanda at 60 %, on less for the other columns.
EFFORT = {
    "full": {"windows": 2, "length": 512},
    "light": {"windows": 2, "length": 256},
    "one window": {"windows": 1, "length": 256},
}
# Swaps begin near the optimum, where differences are small: fewer trials than dsa, each on more text.
TRIALS, SWAPPED = {"dsa": 200, "swaps": 60}, {"windows": 8, "length": 256}
LONGER = {("sparsegpt", 0.6)}  # where dsa was ahead of the first swaps: swaps from the learned allocation as well
FURTHER = 24  # windows of the test text, drawn again, for `--further`
STRENGTHS = (1.0, 2.0, 4.0, 8.0)  # of the prior, for weights learned from trials
TOP, JUDGES = 8, 6  # the best decisions of a search are judged on so many windows that took no part in it
BETAS = (-0.004, 0.002, 0.004, 0.008)
BOUNDS = {"wanda": (0.2, 0.9), "sparsegpt": (0.35, 0.85), "ffn": (0.0, 0.6)}
GRIDS = {"wanda": np.arange(8, 37) / 40, "sparsegpt": np.arange(7, 18) / 20, "ffn": np.arange(0, 13) / 20}


class Bench:
    """The model, its masks, its statistics, and two texts."""

    def __init__(self, by: str = "wanda", effort: str = "full") -> None:
        import torch

        from benchmarks.level_weights import LevelWeights
        from prunopt.networks.transformers.block_statistics import block_statistics
        from prunopt.networks.transformers.evaluators import SparsityMasks, TextEvaluator
        from prunopt.networks.transformers.reading import read_model
        from prunopt.networks.transformers.text import token_windows

        torch.set_num_threads(1)
        self.model, tokenizer = read_model("smollm2")
        self.model.eval()

        def windows(name: str, count: int, seed: int | None, length: int = LENGTH) -> Any:
            return token_windows(tokenizer, text(name), length=length, count=count, seed=seed)

        self.effort = EFFORT[effort]
        calibration = windows("calibration", TOKENS["calibration"] // LENGTH, 0)
        self.by, self.bounds, self.grid = by, BOUNDS[by], GRIDS[by]
        self.masks: Any
        if by == "wanda":
            self.masks = SparsityMasks(self.model, calibration)
        else:
            units, method = ("ffn", "wanda") if by == "ffn" else ("weights", by)
            self.masks = LevelWeights(
                self.model,
                calibration,
                self.grid[self.grid > 0],
                folder=cache_folder() / "smollm2" / by,
                units=units,
                method=method,
                refit=by == "sparsegpt",
                progress=lambda k, n: print(f"block {k} of {n}", flush=True),
            )
        fast = self.masks.on(copy.deepcopy(self.model).bfloat16())
        self.kl = TextEvaluator(
            fast, windows("calibration", self.effort["windows"], 1, self.effort["length"]), measure="kl"
        )
        fresh = windows("calibration", SWAPPED["windows"], 4, SWAPPED["length"])
        self.swapped = TextEvaluator(fast, fresh, measure="kl")
        self.judge = TextEvaluator(fast, windows("calibration", JUDGES, 3), measure="kl")
        self.held = TextEvaluator(self.masks, windows("heldout", TOKENS["heldout"] // LENGTH, 2))
        self.further = windows("heldout", FURTHER, 5)
        self.sizes = np.array(self.masks.block_sizes, np.float64)
        file = cache_folder() / "smollm2" / "block-statistics.npz"
        if not file.exists():
            found = block_statistics(self.model, calibration)
            file.parent.mkdir(parents=True, exist_ok=True)
            samples = {f"sample/{k}": np.array(v) for k, v in found.samples.items()}
            np.savez(
                file,
                redundancy=found.redundancy,
                levels=found.levels,
                errors=found.errors,
                outliers=found.outliers,
                **samples,
            )
        with np.load(file, allow_pickle=False) as arrays:
            self.redundancy, self.levels = arrays["redundancy"], arrays["levels"]
            self.errors, self.outliers = arrays["errors"], arrays["outliers"]
            self.samples = {k.split("/")[1]: list(arrays[k]) for k in arrays.files if k.startswith("sample/")}
        if by != "wanda":
            self.levels, self.errors = self.masks.levels, self.masks.errors
            if self.grid[0] == 0:
                self.levels, self.errors = self.grid, np.pad(self.errors, ((0, 0), (1, 0)))

    def journal(self, cells: Cells, what: str) -> Path:
        """Where a column's search is kept, so that it goes on."""
        return cache_folder() / "smollm2" / f"{cells.column}.{what}.journal"

    def taken(self, allocation: Any) -> Floats:
        """The allocation that is really applied: on the grid where blocks are solved level by level."""
        a = np.asarray(allocation, np.float64)
        return a if self.by == "wanda" else np.asarray(self.masks.snapped(a))


class Cells:
    """Results of one column by name; a cell that is there is not computed again."""

    def __init__(self, by: str, sparsity: float) -> None:
        self.column = f"{by}-{round(100 * sparsity)}"
        self.data: dict[str, Any] = load("allocation_model", self.column, {})

    def get(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if name not in self.data:
            start = time.perf_counter()
            self.data[name] = {**make(), "seconds": round(time.perf_counter() - start, 1)}
            store("allocation_model", {self.column: self.data})
            shown = {k: v for k, v in self.data[name].items() if isinstance(v, int | float | str)}
            print(name, json.dumps(shown), flush=True)
        return dict(self.data[name])


def single_kl(bench: Bench, cells: Cells, level: float) -> Floats:
    """KL of pruning one block alone, each a cell of its own."""
    n = len(bench.sizes)
    found = []
    for i in range(n):
        alone = np.where(np.arange(n) == i, level, 0.0)
        found.append(cells.get(f"alone {level:g} {i}", lambda a=alone: {"kl": bench.kl.loss(a)})["kl"])  # type: ignore[misc]
    return np.array(found)


def company_slopes(bench: Bench, cells: Cells, base: Floats, step: float = 0.1) -> Floats:
    """What each block's error is worth with all others pruned: the fall of KL over that of the error, >= 0."""
    n = len(bench.sizes)
    here = cells.get("company base", lambda: {"kl": bench.kl.loss(base)})["kl"]
    found = []
    for i in range(n):
        move = -step if base[i] - step >= bench.bounds[0] - 1e-9 else step
        eased = base + np.where(np.arange(n) == i, move, 0.0)
        there = cells.get(f"company {i}", lambda a=eased: {"kl": bench.kl.loss(a)})["kl"]  # type: ignore[misc]
        e = bench.errors[i]
        fall = np.interp(base[i], bench.levels, e) - np.interp(eased[i], bench.levels, e)
        found.append(max((here - there) * np.sign(-move), 1e-4) / abs(fall))
    return np.array(found)


def learned(bench: Bench, cells: Cells, sparsity: float, runs: dict[str, Any]) -> dict[str, Any]:
    """The knapsack once more, with weights learned from the trials of both searches; strength chosen by the judge."""
    n, trials = len(bench.sizes), [(k, t) for k, run in runs.items() for t in run.finished if t.state == "COMPLETE"]
    taken = np.array([bench.taken(t.decision) for _, t in trials])
    curves = [np.interp(taken[:, i], bench.levels, bench.errors[i]) for i in range(n)]
    alone = np.array([np.interp(sparsity, bench.levels, e) for e in bench.errors])
    prior = single_kl(bench, cells, sparsity) / alone
    tried = {}
    for strength in STRENGTHS:
        gamma = learned_weights(
            np.stack(curves, axis=1), [t.value for _, t in trials], prior, strength=strength,
            searches=[k for k, _ in trials],
        )  # fmt: skip
        task = LayerAllocation.from_curves(
            bench.sizes, bench.levels, gamma[:, None] * bench.errors, sparsity, bounds=bench.bounds
        )
        answer = po.solve(task)
        assert answer.status is po.Status.OPTIMAL
        a = bench.taken(answer.value)
        judged = cells.get(f"learned {strength:g}", lambda a=a: {"judged": bench.judge.loss(a)})["judged"]  # type: ignore[misc]
        tried[judged] = {"allocation": a.tolist(), "judged": judged, "strength": strength, "trials": len(trials)}
    return tried[min(tried)]


def allocations(bench: Bench, cells: Cells, sparsity: float) -> dict[str, Callable[[], dict[str, Any]]]:
    """The methods: name -> a function that gives an allocation and what it took."""
    sizes, bounds = bench.sizes, bench.bounds

    def fixed(a: Floats, **more: Any) -> dict[str, Any]:
        return {"allocation": bench.taken(a).tolist(), **more}

    def curves(**options: Any) -> Floats:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            task = LayerAllocation.from_curves(sizes, bench.levels, bench.errors, sparsity, **options)
        answer = po.solve(task)
        assert answer.status is po.Status.OPTIMAL
        return np.asarray(answer.value)

    def als(scale: str) -> Floats:
        low, high = max(bounds[0], sparsity - 0.2), min(bounds[1], sparsity + 0.2)
        return np.asarray(
            po.solve(LayerAllocation.als(bench.redundancy, sizes, sparsity, (low, high), scale=scale)).value
        )

    def atp() -> dict[str, Any]:
        tried = {b: progression(sizes, sparsity, b, bounds) for b in BETAS}
        kl = {b: cells.get(f"atp {b}", lambda a=a: {"kl": bench.kl.loss(a)})["kl"] for b, a in tried.items()}  # type: ignore[misc]
        best = min(kl, key=lambda b: kl[b])
        return fixed(tried[best], beta=best)

    def chosen(run: Any, **more: Any) -> dict[str, Any]:
        found = run.chosen(bench.judge, TOP)
        kl = {"kl": found.value, "judged": found.attributes["judged"], "best kl": run.best.value}
        return fixed(found.decision, **kl, expression=found.text, evaluations=run.evaluations, **more)

    def search_dsa() -> Any:
        task = AllocationSearch(
            bench.kl, sizes, sparsity, bounds=bounds, statistics=bench.samples, fidelities=(0.5, 1.0)
        )
        return po.search(task, trials=TRIALS["dsa"], storage=bench.journal(cells, "dsa"))

    def company() -> Floats:
        base = np.array(cells.data["mckp"]["allocation"])
        gamma = company_slopes(bench, cells, base)
        near = np.stack([np.maximum(base - 0.15, bounds[0]), np.minimum(base + 0.15, bounds[1])], axis=1)
        task = LayerAllocation.from_curves(sizes, bench.levels, gamma[:, None] * bench.errors, sparsity, bounds=near)
        return np.asarray(po.solve(task).value)

    def learned_swaps() -> dict[str, Any]:
        start = np.array(cells.data["mckp, learned"]["allocation"])
        return chosen(search_swaps(start, "learned-swaps"), start="mckp, learned")

    def best_start() -> tuple[str, Floats, float]:
        starts = {
            name: np.array(cells.data[name]["allocation"]) for name in ("mckp", "mckp in context") if name in cells.data
        }
        kl = {
            k: cells.get(f"start {k}", lambda a=a: {"judged": bench.judge.loss(a)})["judged"] for k, a in starts.items()
        }  # type: ignore[misc]
        best = min(kl, key=lambda k: kl[k])
        return best, starts[best], kl[best]

    def search_swaps(start: Floats, journal: str = "swaps") -> Any:
        task = AllocationSearch(
            bench.swapped, sizes, sparsity, "levels", bounds=bounds, levels=bench.grid, start=start,
            fidelities=(0.5, 1.0),
        )  # fmt: skip
        return po.search(task, trials=TRIALS["swaps"], storage=bench.journal(cells, journal), solver="level-swap")

    def swaps() -> dict[str, Any]:
        name, start, judged = best_start()
        found = chosen(search_swaps(start), start=name)
        if judged < found["judged"]:  # the swaps did not carry over to text that they had not seen
            return {**found, "allocation": bench.taken(start).tolist(), "judged": judged, "kept": "the start"}
        return found

    return {
        "uniform": lambda: fixed(uniform(sizes, sparsity)),
        "owl": lambda: fixed(owl(bench.outliers, sizes, sparsity, bounds=bounds)),
        "log": lambda: fixed(logarithmic(sizes, sparsity, bounds=bounds)),
        "als global": lambda: fixed(als("global")),
        "als row": lambda: fixed(als("row")),
        "mckp unweighted": lambda: fixed(curves(weighting="unweighted", bounds=bounds)),
        "mckp": lambda: fixed(
            curves(weighting="kl", kl=single_kl(bench, cells, sparsity), kl_level=sparsity, bounds=bounds)
        ),
        "mckp in context": lambda: fixed(company()),
        "atp": atp,
        "mckp, swaps": swaps,
        "dsa": lambda: chosen(search_dsa()),
        "mckp, learned": lambda: learned(
            bench, cells, sparsity, {"swaps": search_swaps(best_start()[1]), "dsa": search_dsa()}
        ),
        "learned, swaps": learned_swaps,
    }


def column(sparsity: float, by: str) -> None:
    """Measure one column."""
    effort = "full" if (by, sparsity) == ("wanda", 0.6) else "light"
    bench = Bench(by, effort)
    cells = Cells(by, sparsity)
    cells.data["about"] = {
        **described("torch", "optuna"),
        "tokens": TOKENS,
        "length": LENGTH,
        "search": bench.effort | TRIALS | {"swaps on": SWAPPED, "judged on": {"windows": JUDGES, "length": LENGTH}},
    }
    if "windows" not in cells.data.get("heldout uniform", {}):  # the others are compared with it, window by window
        cells.data.pop("heldout uniform", None)
    cells.get("dense", lambda: {"perplexity": bench.held.losses(np.zeros(len(bench.sizes))).perplexity})

    def held(allocation: Floats) -> dict[str, Any]:
        losses = bench.held.losses(allocation)
        means = losses.loss.mean(axis=1)
        start = np.array(cells.data["heldout uniform"]["windows"]) if "heldout uniform" in cells.data else means
        return {
            "perplexity": losses.perplexity,
            "nll - uniform": float((means - start).mean()),
            "error": float((means - start).std(ddof=1) / math.sqrt(len(means))),
            "removed": float(bench.sizes @ allocation / bench.sizes.sum()),
            "windows": means.tolist(),
        }

    for name, make in allocations(bench, cells, sparsity).items():
        if name == "learned, swaps" and (by, sparsity) not in LONGER:
            continue
        allocation = np.array(cells.get(name, make)["allocation"])
        cells.get(f"heldout {name}", lambda a=allocation: held(a))  # type: ignore[misc]


def further(sparsity: float, by: str) -> None:
    """Compare the best few of a column on three times the text, by the bfloat16 model; paired with `mckp, swaps`.

    Beside them ``mean``: the mean of the allocations by swaps and by learned weights, taken to the grid.
    """
    from prunopt.networks.transformers.evaluators import TextEvaluator

    bench, cells = Bench(by, "light"), Cells(by, sparsity)
    found = {k[8:]: v["perplexity"] for k, v in cells.data.items() if k.startswith("heldout ")}
    evaluator = TextEvaluator(bench.judge.apply, bench.further)
    first: list[float] = []
    mean = np.mean([cells.data[k]["allocation"] for k in ("mckp, swaps", "mckp, learned")], axis=0)
    cells.get("mean", lambda: {"allocation": bench.taken(mean).tolist()})
    best = sorted(found.keys() - {"mckp, swaps"}, key=lambda k: float(found[k]))[:3]
    for name in ["mckp, swaps", *best, *({"mckp, learned"} - set(best)), "mean"]:

        def more(allocation: Floats) -> dict[str, Any]:
            losses = evaluator.losses(allocation)
            return {"perplexity": losses.perplexity, "windows": losses.loss.mean(axis=1).tolist()}

        a = np.array(cells.data[name]["allocation"])
        held = cells.get(f"further {name}", lambda a=a: more(a))  # type: ignore[misc]
        first = first or held["windows"]
        gain = np.subtract(held["windows"], first)
        error = gain.std(ddof=1) / math.sqrt(len(gain))
        print(f"{by} {sparsity:g} {name}: {held['perplexity']:.2f}, {gain.mean():+.4f} ± {error:.4f}")


def ours(cells: dict[str, Any]) -> str | None:
    """The one of our allocations that the judging windows of the calibration text prefer; None where one is missing."""
    judged = {k: cells.get(f"start {k}", {}).get("judged") for k in ("mckp", "mckp in context")}
    judged |= {k: cells.get(k, {}).get("judged") for k in ("mckp, swaps", "mckp, learned")}
    judged |= {k: cells[k]["judged"] for k in ("learned, swaps",) if k in cells}
    whole = None not in judged.values() and all(f"heldout {k}" in cells for k in judged)
    return min(judged, key=lambda k: float(judged[k] or 0.0)) if whole else None


def table() -> str:
    """The columns that are there, as Markdown; the last line is the one of ours that calibration text chooses."""
    held = load("allocation_model")
    columns = (f"{by}-{k}" for by in BOUNDS for k in (20, 30, 50, 60, 70))
    data = {column.replace("-", " "): held[column] for column in columns if column in held}
    names = list(dict.fromkeys(k[8:] for d in data.values() for k in d if k.startswith("heldout ")))
    lines = [f"| | {' | '.join(f'{k} %' for k in data)} |", f"|--|{'--|' * len(data)}"]
    for name in names:
        cells = []
        for d in data.values():
            row = d.get(f"heldout {name}")
            shown = "" if row is None else f"{row['perplexity']:.2f} ({row['nll - uniform']:+.3f} ± {row['error']:.3f})"
            cells.append(shown)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    chosen = [(d, ours(d)) for d in data.values()]
    cells = [f"{d[f'heldout {k}']['perplexity']:.2f}, {k}" if k else "" for d, k in chosen]
    lines.append(f"| **ours, chosen** | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sparsity", nargs="*", type=float)
    parser.add_argument("--by", choices=tuple(BOUNDS), default="wanda")
    parser.add_argument("--further", action="store_true", help="the best few of finished columns, on more text")
    given = parser.parse_args()
    for s in given.sparsity:
        if not math.isfinite(s) or not 0 < s < 0.9:
            parser.error(f"sparsity {s}: give a fraction between 0 and 0.9")
        (further if given.further else column)(s, given.by)
    print(table())
