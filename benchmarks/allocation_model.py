"""Allocations on SmolLM2-135M-Instruct: searched on calibration text, compared on text that took no part.

``python -m benchmarks.allocation_model 0.6`` prunes every block by Wanda's scores (ranked on the dense model) to the
sparsities of each method. Everything chosen is chosen on WikiText-2's validation text; perplexities are those of its
test text. Every cell is written as it is finished: a second call goes on. Token counts are in `TOKENS`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import prunopt as po
from benchmarks.datasets import cache_folder
from benchmarks.layer_data import text
from benchmarks.machine import RESULTS, described
from prunopt.core.artifact import write_json
from prunopt.problems.allocation_rules import logarithmic, outliers, progression, uniform
from prunopt.problems.allocation_search import AllocationSearch
from prunopt.problems.layer_allocation import LayerAllocation

Floats = NDArray[np.float64]
TOKENS = {"calibration": 4096, "search": 1024, "heldout": 4096}
LENGTH = 512
EVALUATIONS, SWAPS, BETAS = 200, 120, (-0.004, 0.002, 0.004, 0.008)
BOUNDS = (0.2, 0.9)
GRID = np.arange(8, 37) / 40


class Bench:
    """The model, its masks, its statistics, and two texts."""

    def __init__(self) -> None:
        import torch

        from prunopt.networks.evaluators import SparsityMasks, TextEvaluator
        from prunopt.networks.models import read_model
        from prunopt.networks.statistics import block_statistics
        from prunopt.networks.text import token_windows

        torch.set_num_threads(1)
        self.model, tokenizer = read_model("smollm2")
        self.model.eval()

        def windows(name: str, tokens: int, seed: int | None) -> Any:
            return token_windows(tokenizer, text(name), length=LENGTH, count=tokens // LENGTH, seed=seed)

        calibration = windows("calibration", TOKENS["calibration"], 0)
        self.masks = SparsityMasks(self.model, calibration)
        self.kl = TextEvaluator(self.masks, windows("calibration", TOKENS["search"], 1), measure="kl")
        self.held = TextEvaluator(self.masks, windows("heldout", TOKENS["heldout"], 2))
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


class Cells:
    """Results by name in one JSON file; a cell that is there is not computed again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if name not in self.data:
            start = time.perf_counter()
            self.data[name] = {**make(), "seconds": round(time.perf_counter() - start, 1)}
            write_json(self.path, self.data)
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
        eased = base - np.where(np.arange(n) == i, step, 0.0)
        there = cells.get(f"company {i}", lambda a=eased: {"kl": bench.kl.loss(a)})["kl"]  # type: ignore[misc]
        e = bench.errors[i]
        fall = np.interp(base[i], bench.levels, e) - np.interp(eased[i], bench.levels, e)
        found.append(max(here - there, 1e-4) / fall)
    return np.array(found)


def allocations(bench: Bench, cells: Cells, sparsity: float) -> dict[str, Callable[[], dict[str, Any]]]:
    """The methods: name -> a function that gives an allocation and what it took."""
    sizes = bench.sizes

    def fixed(a: Floats, **more: Any) -> dict[str, Any]:
        return {"allocation": np.asarray(a).tolist(), **more}

    def curves(**options: Any) -> Floats:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            task = LayerAllocation.from_curves(sizes, bench.levels, bench.errors, sparsity, **options)
        answer = po.solve(task)
        assert answer.status is po.Status.OPTIMAL
        return np.asarray(answer.value)

    def als(scale: str) -> Floats:
        low, high = max(0.0, sparsity - 0.2), min(0.95, sparsity + 0.2)
        return np.asarray(
            po.solve(LayerAllocation.als(bench.redundancy, sizes, sparsity, (low, high), scale=scale)).value
        )

    def atp() -> dict[str, Any]:
        tried = {b: progression(sizes, sparsity, b, BOUNDS) for b in BETAS}
        kl = {b: cells.get(f"atp {b}", lambda a=a: {"kl": bench.kl.loss(a)})["kl"] for b, a in tried.items()}  # type: ignore[misc]
        best = min(kl, key=lambda b: kl[b])
        return fixed(tried[best], beta=best)

    def dsa() -> dict[str, Any]:
        task = AllocationSearch(
            bench.kl, sizes, sparsity, bounds=BOUNDS, statistics=bench.samples, fidelities=(0.5, 1.0)
        )
        place = cells.path.with_suffix(".dsa.journal")
        run = po.search(task, trials=EVALUATIONS, storage=place)
        return fixed(run.best.decision, kl=run.best.value, expression=run.best.text, evaluations=run.evaluations)

    def company() -> Floats:
        base = np.array(cells.data["mckp"]["allocation"])
        gamma = company_slopes(bench, cells, base)
        near = np.stack([np.maximum(base - 0.15, BOUNDS[0]), np.minimum(base + 0.15, BOUNDS[1])], axis=1)
        task = LayerAllocation.from_curves(sizes, bench.levels, gamma[:, None] * bench.errors, sparsity, bounds=near)
        return np.asarray(po.solve(task).value)

    def swaps() -> dict[str, Any]:
        starts = {name: np.array(cells.data[name]["allocation"]) for name in ("mckp", "mckp in company")}
        kl = {k: cells.get(f"start {k}", lambda a=a: {"kl": bench.kl.loss(a)})["kl"] for k, a in starts.items()}  # type: ignore[misc]
        best = min(kl, key=lambda k: kl[k])
        task = AllocationSearch(
            bench.kl, sizes, sparsity, "levels", bounds=BOUNDS, levels=GRID, start=starts[best], fidelities=(0.5, 1.0)
        )
        run = po.search(task, trials=SWAPS, storage=cells.path.with_suffix(".swaps.journal"), solver="level-swap")
        return fixed(run.best.decision, kl=run.best.value, start=best, evaluations=run.evaluations)

    return {
        "uniform": lambda: fixed(uniform(sizes, sparsity)),
        "owl": lambda: fixed(outliers(bench.outliers, sizes, sparsity, bounds=BOUNDS)),
        "log": lambda: fixed(logarithmic(sizes, sparsity, bounds=(0.0, 0.95))),
        "als global": lambda: fixed(als("global")),
        "als row": lambda: fixed(als("row")),
        "mckp unweighted": lambda: fixed(curves(weighting="unweighted", bounds=BOUNDS)),
        "mckp": lambda: fixed(
            curves(weighting="kl", kl=single_kl(bench, cells, sparsity), kl_level=sparsity, bounds=BOUNDS)
        ),
        "mckp in company": lambda: fixed(company()),
        "atp": atp,
        "mckp, swaps": swaps,
        "dsa": dsa,
    }


def column(sparsity: float) -> None:
    """Measure one column."""
    bench = Bench()
    cells = Cells(RESULTS / "allocation" / f"wanda-{round(100 * sparsity)}.json")
    cells.data["about"] = {**described("torch", "optuna"), "tokens": TOKENS, "length": LENGTH, "swaps": SWAPS}
    dense = bench.held.losses(np.zeros(len(bench.sizes)))
    cells.get("dense", lambda: {"perplexity": dense.perplexity})
    first: Any = None
    for name, make in allocations(bench, cells, sparsity).items():
        made = cells.get(name, make)
        allocation = np.array(made["allocation"])
        if f"heldout {name}" in cells.data and first is not None:
            continue
        losses = bench.held.losses(allocation)
        first = losses if first is None else first
        difference, error = losses.against(first)
        removed = float(bench.sizes @ allocation / bench.sizes.sum())
        row = {"perplexity": losses.perplexity, "nll - uniform": difference, "error": error, "removed": removed}
        cells.get(f"heldout {name}", row.copy)


def table() -> str:
    """The columns that are there, as Markdown."""
    files = sorted((RESULTS / "allocation").glob("wanda-??.json"))
    data = {f.stem.split("-")[1]: json.loads(f.read_text()) for f in files}
    names = list(dict.fromkeys(k[8:] for d in data.values() for k in d if k.startswith("heldout ")))
    lines = [f"| | {' | '.join(f'{k} %' for k in data)} |", f"|--|{'--|' * len(data)}"]
    for name in names:
        cells = []
        for d in data.values():
            row = d.get(f"heldout {name}")
            cells.append(
                "" if row is None else f"{row['perplexity']:.2f} ({row['nll - uniform']:+.3f} ± {row['error']:.3f})"
            )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sparsity", nargs="*", type=float)
    for s in parser.parse_args().sparsity:
        if not math.isfinite(s) or not 0 < s < 0.9:
            parser.error(f"sparsity {s}: give a fraction between 0 and 0.9")
        column(s)
    print(table())
