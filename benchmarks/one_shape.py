"""What one shape in all blocks costs: SmolLM2 with a fifth of its blocks' parameters removed, loadable by stock code.

``python -m benchmarks.one_shape run [CELL ...]`` fills ``results/one_shape.json.gz`` with one entry for each cell,
skipping those that are there; ``python -m benchmarks.one_shape table`` prints them. Calibration: 12 random windows of
512 tokens of WikiText-2 valid, as in `benchmarks.language_model`; 32, as the command takes, in cells called ``32``.
A recipe is chosen on 4 windows of WikiText-2 valid that share no token with the calibration's, and on 4 windows of the
standard library's sources; test windows, those of `benchmarks.language_model`, are reported and choose nothing. A cell
that is behind ``neurons`` on both texts that choose is not tested.
"""

from __future__ import annotations

import argparse
import os
import time
from functools import cache
from typing import Any

import numpy as np
import torch

from benchmarks.datasets import data_folder
from benchmarks.language_model import CALIBRATION, LENGTH, SEED, evaluate, model_and_tokens
from benchmarks.language_model_cells import DOMAINS
from benchmarks.machine import described
from benchmarks.results import load, store
from prunopt.networks.transformers import one_shape
from prunopt.networks.transformers.depth import DepthOptions, prune_depth
from prunopt.networks.transformers.pruning import prune_transformer
from prunopt.networks.transformers.reading import read_model
from prunopt.networks.transformers.repair import BlockRepair
from prunopt.networks.transformers.text import held_out_windows, read_text, source_windows, token_losses, token_windows

CHOICE = ("WikiText-2 valid, held out", "library sources")
MODULES = ("argparse", "csv", "heapq", "tarfile")  # as Python comes with them
CELLS: dict[str, dict[str, Any]] = {
    "neurons": {},
    "neurons and heads": {"units": ("heads", "ffn")},
    "one block fewer": {"remove": 1},
    "neurons, repaired": {"repair": BlockRepair()},
    "32, neurons": {"windows": 32},
    "32, neurons, multiples of 8": {"windows": 32, "near": 0.0025},
}
NEAR = one_shape.NEAR
FOLDER = os.environ.get("PRUNOPT_ONE_SHAPE_OUT")  # where models of the cells called 32 are saved; None: nowhere


@cache
def choice_windows() -> tuple[torch.Tensor, ...]:
    """Return the windows that a recipe is chosen on."""
    _, tokenizer = read_model("smollm2")
    file = str(data_folder() / "wikitext2_valid.txt")
    held = held_out_windows(tokenizer, [file], length=LENGTH, count=32, seed=SEED, most=4)
    assert held is not None
    parts = []
    for name in MODULES:
        module = __import__(name)
        parts.append(token_windows(tokenizer, read_text(str(module.__file__)), length=LENGTH, count=2)[1:])
    return held, torch.cat(parts)


def calibration(count: int) -> torch.Tensor:
    """Return windows at random places of WikiText-2 valid, as the command cuts them."""
    if count == CALIBRATION:
        return model_and_tokens()[1]
    _, tokenizer = read_model("smollm2")
    file = str(data_folder() / "wikitext2_valid.txt")
    return torch.cat(source_windows(tokenizer, [file], length=LENGTH, count=count, seed=SEED))


def measure(name: str) -> dict[str, Any]:
    """Prune as a cell says, and evaluate."""
    model: Any = model_and_tokens()[0]
    asked = dict(CELLS[name])
    windows, remove = calibration(asked.pop("windows", CALIBRATION)), asked.pop("remove", 0)
    one_shape.NEAR = asked.pop("near", NEAR)
    start, cpu, sparsity, notes = time.perf_counter(), time.process_time(), 0.2, list[str]()
    if remove:
        depth = DepthOptions(candidates=remove + 1, exchanges=0, damping=None)
        shorter = prune_depth(model, windows, remove, options=depth)
        model, rest = shorter.model, shorter.total - shorter.removed
        sparsity, notes = (0.2 * shorter.total - shorter.removed) / rest, list(shorter.notes)
    result: Any = prune_transformer(model, windows, sparsity=sparsity, **asked)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    left = sum(p.numel() for p in result.model.parameters())
    found = chosen_on(result.model)
    first = load("one_shape").get("neurons")
    if first is None or any(mean(found[d]) < mean(first["evaluation"][d]) for d in CHOICE):
        found |= evaluate(result.model)
    if FOLDER is not None and name.startswith("32"):
        result.save(os.path.join(FOLDER, name.replace(", ", "-").replace(" ", "-")), read_model("smollm2")[1])
    return {
        "cell": name, "evaluation": found, "options": result.options, "stock": result.stock,
        "seconds": seconds, "cpu_seconds": cpu,
        "removed": result.removed, "total": result.total, "parameters": left, "notes": [*notes, *result.notes],
        "repairs": [r.to_dict() for r in result.repairs], "machine": described(),
        "config": {k: v for k, v in result.model.config.to_dict().items() if isinstance(v, int)},
    }  # fmt: skip


def chosen_on(model: Any) -> dict[str, Any]:
    """Return the losses by window of the texts that choose."""
    found = [token_losses(model, windows) for windows in choice_windows()]
    return {d: {"loss": f.loss.mean(1).tolist(), "accuracy": f.accuracy} for d, f in zip(CHOICE, found, strict=True)}


def run(cells: list[str]) -> None:
    """Fill in what is missing."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    known = load("one_shape", default={})
    if "dense" not in known:
        tested = load("language_model", "dense")["evaluation"]  # the same windows
        store("one_shape", {"dense": {"evaluation": tested | chosen_on(model_and_tokens()[0])}})
    for name in cells:
        if name in load("one_shape", default={}):
            continue
        row = measure(name)
        store("one_shape", {name: row})
        print(name, *(f"{d} {np.exp(mean(found)):.2f}" for d, found in row["evaluation"].items()),
              f"{row['cpu_seconds']:.0f} CPU s", flush=True)  # fmt: skip


def mean(found: dict[str, Any]) -> float:
    """Return the mean loss of a text, nats per token."""
    return float(np.mean(found["loss"]))


def table() -> None:
    """Print what is on file; in brackets the difference to ``neurons``, nats per token, paired by window."""
    found = load("one_shape")
    print("| | " + " | ".join((*CHOICE, *DOMAINS)) + " | heads, width | parameters | pruning, CPU s |")
    print("|---|" + "---|" * (len(CHOICE) + len(DOMAINS) + 3))
    for name in ("dense", *CELLS):
        if name not in found:
            continue
        row, cells = found[name], []
        for domain in (*CHOICE, *DOMAINS):
            if domain not in row["evaluation"]:
                cells.append("")
                continue
            text = f"{np.exp(mean(row['evaluation'][domain])):.2f}"
            if name not in ("dense", "neurons"):
                pair = (np.array(found[n]["evaluation"][domain]["loss"]) for n in (name, "neurons"))
                difference = np.subtract(*pair)
                error = difference.std(ddof=1) / np.sqrt(len(difference))
                text += f" ({difference.mean():+.3f} ± {error:.3f})"
            cells.append(text)
        config = row.get("config", {})
        stock = row.get("stock", True)
        shape = f"{config['num_attention_heads']}, {config['intermediate_size']}" if stock and config else ""
        size = f"{row['parameters']:,}" if "parameters" in row else ""
        took = f"{row['cpu_seconds']:.0f}" if "cpu_seconds" in row else ""
        print(f"| {name} | " + " | ".join(cells) + f" | {shape if stock else 'differ'} | {size} | {took} |")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("cells", nargs="*", default=list(CELLS))
    given = parser.parse_args()
    if given.what == "run":
        run(given.cells)
    else:
        table()


if __name__ == "__main__":
    main()
