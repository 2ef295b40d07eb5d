"""Allocations again with other seeds: calibration windows and searches drawn again, compared on 32,768 test tokens.

``python -m benchmarks.allocation_seeds 1 2 --by wanda --sparsity 0.6`` measures a column of
`benchmarks.allocation_model` for each seed; without a seed it prints what is on file. All searches minimize KL from the
dense model on 2,048 tokens of calibration text (DSA on 512 of them, as it was measured there), the best eight decisions
of each are judged on 3,072 others, and everything runs in bfloat16, which ``--check`` compares with float32. Every cell
is written as it is finished; a second call goes on.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import prunopt as po
from benchmarks.allocation_model import BETAS, BOUNDS, GRIDS, JUDGES, LENGTH, TOKENS, TOP
from benchmarks.datasets import cache_folder
from benchmarks.layer_data import text
from benchmarks.machine import described
from benchmarks.results import load, store
from prunopt.core.arrays import Floats
from prunopt.problems.allocation.allocation_search import AllocationSearch
from prunopt.problems.allocation.atp import atp
from prunopt.problems.allocation.layer_allocation import LayerAllocation
from prunopt.problems.allocation.on_budget import uniform
from prunopt.problems.allocation.owl import owl
from prunopt.solvers.blackbox.level_swap import LevelSwap

TABLE = "allocation_seeds"
SEARCH = {"windows": 8, "length": 256}
TRIALS, SCREEN = 60, 32
TEST, TEST_SEED = 64, 5  # windows of the test text, the same for all seeds
CHECKED = 8  # of them in float32


class Bench:
    """The model's masks of one seed, and its texts: to search on, to judge on, to compare on."""

    def __init__(self, by: str, seed: int) -> None:
        import torch

        from prunopt.networks.transformers.evaluators import SparsityMasks, TextEvaluator
        from prunopt.networks.transformers.reading import read_model
        from prunopt.networks.transformers.text import token_windows

        torch.set_num_threads(1)
        self.model, tokenizer = read_model("smollm2")
        self.model.eval()

        def windows(name: str, count: int, own: int, length: int = LENGTH) -> Any:
            return token_windows(tokenizer, text(name), length=length, count=count, seed=own)

        self.calibration = windows("calibration", TOKENS["calibration"] // LENGTH, 100 * seed)
        self.by, self.seed, self.bounds, self.grid = by, seed, BOUNDS[by], GRIDS[by]
        self.masks: Any = SparsityMasks(self.model, self.calibration) if by == "wanda" else self._levels()
        fast = self.masks.on(copy.deepcopy(self.model).bfloat16())
        self.sizes = np.array(self.masks.block_sizes, np.float64)
        self.search = TextEvaluator(
            fast, windows("calibration", SEARCH["windows"], 100 * seed + 4, SEARCH["length"]), measure="kl"
        )
        self.short = TextEvaluator(fast, windows("calibration", 2, 100 * seed + 1, 256), measure="kl")
        self.judge = TextEvaluator(fast, windows("calibration", JUDGES, 100 * seed + 3), measure="kl")
        test = windows("heldout", TEST, TEST_SEED)
        self.test = TextEvaluator(fast, test)
        self.whole = TextEvaluator(self.masks, test[:CHECKED])
        self._statistics()

    def _levels(self) -> Any:
        from benchmarks.level_weights import LevelWeights

        units, method = ("ffn", "wanda") if self.by == "ffn" else ("weights", self.by)
        return LevelWeights(
            self.model, self.calibration, self.grid[self.grid > 0], folder=cache_folder() / "smollm2" / self.by,
            units=units, method=method, refit=self.by == "sparsegpt",
        )  # fmt: skip

    def _statistics(self) -> None:
        """Error curves, outliers and samples of the dense blocks, kept in the cache."""
        from prunopt.networks.transformers.block_statistics import block_statistics

        file = cache_folder() / "smollm2" / f"block-statistics-{self.seed}.npz"
        if not file.exists():
            found = block_statistics(self.model, self.calibration)
            file.parent.mkdir(parents=True, exist_ok=True)
            samples = {f"sample/{k}": np.array(v) for k, v in found.samples.items()}
            np.savez(file, levels=found.levels, errors=found.errors, outliers=found.outliers, **samples)
        with np.load(file, allow_pickle=False) as arrays:
            self.levels, self.errors, self.outliers = arrays["levels"], arrays["errors"], arrays["outliers"]
            self.samples = {k.split("/")[1]: list(arrays[k]) for k in arrays.files if k.startswith("sample/")}
        if self.by != "wanda":
            self.levels, self.errors = self.masks.levels, self.masks.errors
            if self.grid[0] == 0:
                self.levels, self.errors = self.grid, np.pad(self.errors, ((0, 0), (1, 0)))

    def taken(self, allocation: Any) -> Floats:
        """The allocation that is really applied: on the grid where blocks are solved level by level."""
        a = np.asarray(allocation, np.float64)
        return a if self.by == "wanda" else np.asarray(self.masks.snapped(a))


class Cells:
    """Results of one column and seed by name; a cell that is there is not computed again."""

    def __init__(self, by: str, sparsity: float, seed: int) -> None:
        self.column = f"{by}-{round(100 * sparsity)}/{seed}"
        self.data: dict[str, Any] = load(TABLE, self.column, {})

    def get(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return a cell, made and written where it is missing."""
        if name not in self.data:
            start = time.perf_counter()
            self.data[name] = {**make(), "seconds": round(time.perf_counter() - start, 1)}
            store(TABLE, {self.column: self.data})
            shown = {k: v for k, v in self.data[name].items() if isinstance(v, int | float | str)}
            print(self.column, name, json.dumps(shown), flush=True)
        return dict(self.data[name])


def methods(bench: Bench, cells: Cells, sparsity: float) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return name -> a function that gives an allocation, in the order in which they are measured."""
    sizes, bounds = bench.sizes, bench.bounds

    def fixed(a: Any, **more: Any) -> dict[str, Any]:
        return {"allocation": bench.taken(a).tolist(), **more}

    def mckp() -> dict[str, Any]:
        kl = np.array([bench.search.loss(row, fidelity=0.5) for row in sparsity * np.eye(len(sizes))])
        task = LayerAllocation.from_curves(
            sizes, bench.levels, bench.errors, sparsity, weighting="kl", kl=np.maximum(kl, 1e-6), kl_level=sparsity,
            bounds=bounds,
        )  # fmt: skip
        return fixed(po.solve(task).value, kl=kl.tolist())

    def swaps(start: Any, screen: int, trials: int = TRIALS) -> dict[str, Any]:
        """Swaps, the best of them judged on other text, and the start beside them."""
        task = AllocationSearch(
            bench.search,
            sizes,
            sparsity,
            "levels",
            bounds=bounds,
            levels=bench.grid,
            start=start,
            fidelities=(0.5, 1.0),
        )
        run = po.search(task, trials=trials, solver=LevelSwap(screen=screen), seed=bench.seed)
        found, first = run.chosen(bench.judge, TOP), bench.judge.loss(bench.taken(start))
        judged, best = found.attributes["judged"], run.best
        kept = {"judged": min(first, judged), "start judged": first, "best kl": best.value, "kept": first < judged}
        return fixed(start if first < judged else found.decision, **kept)

    def dsa() -> dict[str, Any]:
        task = AllocationSearch(
            bench.short, sizes, sparsity, bounds=bounds, statistics=bench.samples, fidelities=(0.5, 1.0)
        )
        found = po.search(task, trials=200, seed=bench.seed).chosen(bench.judge, TOP)
        return fixed(found.decision, judged=found.attributes["judged"], expression=found.text)

    def steepness() -> dict[str, Any]:
        tried = {b: atp(sizes, sparsity, b, bounds) for b in BETAS}
        return fixed(min(tried.values(), key=lambda a: bench.search.loss(a, fidelity=0.5)))

    def start() -> Floats:
        return np.array(cells.data["mckp"]["allocation"])

    flat = uniform(sizes, sparsity)
    return {
        "uniform": lambda: fixed(flat),
        "mckp": mckp,
        "mckp, screened swaps": lambda: swaps(start(), SCREEN),
        "mckp, swaps": lambda: swaps(start(), 1),
        "dsa": dsa,
        "evopress": lambda: swaps(flat, 1, TRIALS + len(sizes) // 2),
        "atp": steepness,
        "owl": lambda: fixed(owl(bench.outliers, sizes, sparsity, bounds=bounds)),
        "dlp": lambda: fixed(dlp(bench, sparsity)),
    }


def dlp(bench: Bench, sparsity: float, spread: float = 0.15) -> Floats:
    """DLP's allocation: blocks of greater typical Wanda scores keep more, mapped to sparsities as by OWL [1]_.

    References
    ----------
    .. [1] Y. Chen et al., "DLP: dynamic layerwise pruning in large language models", ICML 2025.
    """
    typical = np.array([np.median(scores) for scores in bench.samples["wanda"]])
    return owl(typical / typical.sum(), bench.sizes, sparsity, spread=spread, bounds=bench.bounds)


def column(by: str, sparsity: float, seed: int, check: bool = False) -> None:
    """Measure one column with one seed."""
    bench, cells = Bench(by, seed), Cells(by, sparsity, seed)
    cells.data["about"] = {
        **described("torch", "optuna"), "search": SEARCH, "trials": TRIALS, "screen": SCREEN, "test": TEST * LENGTH,
        "calibration": TOKENS["calibration"], "judged on": JUDGES * LENGTH,
    }  # fmt: skip

    def held(evaluator: Any, allocation: Floats) -> dict[str, Any]:
        losses = evaluator.losses(allocation)
        return {"perplexity": losses.perplexity, "windows": losses.loss.mean(axis=1).tolist()}

    for name, make in methods(bench, cells, sparsity).items():
        a = np.array(cells.get(name, make)["allocation"])
        cells.get(f"test {name}", lambda a=a: held(bench.test, a))  # type: ignore[misc]
        if check and name in ("uniform", "mckp", "mckp, screened swaps"):
            cells.get(f"float32 {name}", lambda a=a: held(bench.whole, a))  # type: ignore[misc]


def table() -> str:
    """Return perplexities and paired differences from the lowest row, every column and seed, as Markdown."""
    data = {k: v for k, v in load(TABLE, default={}).items() if "/" in k}
    names = list(dict.fromkeys(k[5:] for d in data.values() for k in d if k.startswith("test ")))
    lines = [f"| | {' | '.join(k.replace('-', ' ').replace('/', ' %, seed ') for k in data)} |"]
    lines.append(f"|--|{'--|' * len(data)}")
    for name in names:
        row = []
        for d in data.values():
            held = {k[5:]: np.array(v["windows"]) for k, v in d.items() if k.startswith("test ")}
            if name not in held:
                row.append("")
                continue
            best = min(held.values(), key=lambda w: w.mean())
            gain = held[name] - best
            error = gain.std(ddof=1) / math.sqrt(len(gain))
            row.append(f"{d[f'test {name}']['perplexity']:.2f} ({gain.mean():+.3f} ± {error:.3f})")
        lines.append(f"| {name} | {' | '.join(row)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("seed", nargs="*", type=int)
    parser.add_argument("--by", choices=tuple(BOUNDS), default="wanda")
    parser.add_argument("--sparsity", type=float, default=0.6)
    parser.add_argument("--check", action="store_true", help="three rows on part of the text in float32 as well")
    given = parser.parse_args()
    for seed in given.seed:
        column(given.by, given.sparsity, seed, given.check)
    print(table())
