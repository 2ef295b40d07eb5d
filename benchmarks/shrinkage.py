"""Shrinkage of Hessians chosen by windows left out, against a fixed one and against no re-solving, at 1k to 64k tokens.

``python -m benchmarks.shrinkage extract|run|table``. Calibration: the first 2, 6, 32 or 128 of 128 random windows of
512 tokens of WikiText-2's validation text. Layers of blocks 1 and 5 of SmolLM2, dense activations, Wanda's mask at
50 %, some rows of each. Errors are those of other texts, 12 windows each: WikiText-2's test text and SST-2's reviews,
on which the rule of `prunopt.networks.transformers.shrinkage` was chosen, and Python's help, on which it was not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.datasets import cache_folder, data_folder
from benchmarks.results import load, store
from prunopt.core.arrays import Floats
from prunopt.core.files import write_atomically
from prunopt.networks.transformers.layer import LayerGoal, relative_error, shrunk
from prunopt.networks.transformers.shrinkage import GRID, chosen_shrinkage, mean_of
from prunopt.solvers.layer.wanda import wanda_choice

LENGTH, OTHER, DAMPING, FIXED = 512, 12, 0.01, 0.2
BLOCKS, MODULES = (1, 5), ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
EDGES = (0, 1, 2, 3, 4, 5, 6, 12, 19, 25, 32, 56, 80, 104, 128)  # Hessians are kept of the windows between these
FOLDS = {  # of windows, for each size of the calibration
    "1k": ((0, 1), (1, 2)),
    "3k": ((0, 2), (2, 4), (4, 6)),
    "16k": ((0, 12), (12, 25), (25, 32)),
    "64k": ((0, 56), (56, 80), (80, 128)),
}
TEXTS = ("WikiText-2 test", "SST-2", "Python help")
GOAL = LayerGoal(sparsity=0.5)


def extract() -> None:
    """Sum the products of inputs of four layers in two blocks, text by text."""
    from pydoc_data.topics import topics

    import torch

    from prunopt.networks.transformers.reading import read_model
    from prunopt.networks.transformers.text import read_text, token_windows

    whole, tokenizer = read_model("smollm2")
    model: Any = whole
    model.model.layers = model.model.layers[: BLOCKS[-1] + 1]
    reviews = read_text(data_folder() / "sst2_train.tsv").splitlines()
    texts = {
        "calibration": (read_text(data_folder() / "wikitext2_valid.txt"), EDGES[-1], 0),
        TEXTS[0]: (read_text(data_folder() / "wikitext2_test.txt"), OTHER, None),
        TEXTS[1]: ("\n".join(line.split("\t")[0] for line in reviews), OTHER, None),
        TEXTS[2]: ("\n\n".join(topics[k] for k in sorted(topics)), OTHER, None),
    }
    modules = dict(model.named_modules())
    sums: dict[str, Any] = {}

    def watch(name: str) -> Any:
        def hook(_: Any, inputs: Any) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
            sums[name] = sums.get(name, 0) + x.T @ x

        return hook

    names = [f"{i}.{m}" for i in BLOCKS for m in MODULES]
    arrays: dict[str, Any] = {}
    for name in names:
        layer = modules[f"model.layers.{name}"]
        layer.register_forward_pre_hook(watch(name))
        arrays[f"weight {name}"] = layer.weight.detach().numpy()
    with torch.no_grad():
        for text, (content, count, seed) in texts.items():
            windows = token_windows(tokenizer, content, length=LENGTH, count=count, seed=seed)
            edges = EDGES if text == "calibration" else (0, count)
            for a, b in pairwise(edges):
                sums.clear()
                for window in windows[a:b]:
                    model.model(window[None])
                for name, total in sums.items():
                    arrays[f"{text} {a} {name}"] = (total / ((b - a) * LENGTH)).numpy()
    with write_atomically(cache_folder() / "shrinkage.npz") as temporary:
        np.savez(temporary, **arrays)


def run() -> None:
    """Measure every layer at every size."""
    with np.load(cache_folder() / "shrinkage.npz", allow_pickle=False) as arrays:
        for name in (f"{i}.{m}" for i in BLOCKS for m in MODULES):
            whole = arrays[f"weight {name}"].astype(np.float64)
            count = 8 if whole.shape[1] > 1000 else 24
            weight = whole[np.sort(np.random.default_rng(0).choice(len(whole), count, replace=False))]
            others = {text: arrays[f"{text} 0 {name}"].astype(np.float64) for text in TEXTS}
            for size, ranges in FOLDS.items():
                folds = [_fold(arrays, name, a, b) for a, b in ranges]
                store("shrinkage", {f"{size} {name}": case(weight, folds, others)})
                print(size, name, flush=True)


def _fold(arrays: Any, name: str, first: int, last: int) -> tuple[float, Floats]:
    inside = [(a, b - a) for a, b in pairwise(EDGES) if first <= a and b <= last]
    windows = float(sum(n for _, n in inside))
    return windows, mean_of([(n, arrays[f"calibration {a} {name}"].astype(np.float64)) for a, n in inside])


def case(weight: Floats, folds: list[tuple[float, Floats]], others: dict[str, Floats]) -> dict[str, Any]:
    """Return the errors on other texts by shrinkage, and the one chosen."""
    hessian = mean_of(folds)
    value: Any = wanda_choice(GOAL.form(weight, hessian, DAMPING))
    found = chosen_shrinkage(weight, folds, GOAL, DAMPING)
    errors: dict[str, dict[str, float]] = {text: {} for text in TEXTS}
    for r in sorted({*GRID, FIXED, found, 1.0}):
        form = GOAL.form(weight, shrunk(hessian, r), DAMPING)
        new = form.masked(value) if r == 1 else form.lift(value)
        for text, other in others.items():
            errors[text][f"{r:g}"] = relative_error(weight, new, other)
    return {"chosen": found, "errors": errors}


def table() -> None:
    """Print errors relative to those without re-solving: the mean over layers, the worst layer."""
    found = load("shrinkage")
    print("| tokens | shrinkage | " + " | ".join(TEXTS) + " |\n|---|---|" + "---|" * len(TEXTS))
    for size in FOLDS:
        rows = [row for name, row in found.items() if name.startswith(f"{size} ")]
        for which in ("fixed, 0.2", "chosen"):
            cells = [" | ".join(_cells(rows, which))]
            said = which if which != "chosen" else f"chosen, {_range(rows)}"
            print(f"| {size} | {said} | {cells[0]} |")


def _cells(rows: list[dict[str, Any]], which: str) -> Iterator[str]:
    for text in TEXTS:
        ratios = []
        for row in rows:
            errors = row["errors"][text]
            ratios.append(errors[f"{row['chosen'] if which == 'chosen' else FIXED:g}"] / errors["1"])
        yield f"{np.exp(np.mean(np.log(ratios))):.3f}, worst {max(ratios):.3f}"


def _range(rows: list[dict[str, Any]]) -> str:
    return f"{min(r['chosen'] for r in rows):g} to {max(r['chosen'] for r in rows):g}"


if __name__ == "__main__":
    {"extract": extract, "run": run, "table": table}[(sys.argv[1:] or ["table"])[0]]()
