"""SmolLM2-135M pruned whole: perplexity in the calibration's domain, and in one that it never saw.

``python -m benchmarks.language_model run [--cells NAME ...]`` fills ``results/language_model.json.gz`` with one entry
for each cell, skipping those that are there; ``python -m benchmarks.language_model table`` prints the tables from them.

Calibration: random windows of WikiText-2 valid. Evaluation: windows of WikiText-2 test (the same domain) and of the
help texts that come with Python (``pydoc_data.topics``: technical documentation, many short lines). The model's weights
come from a 4-bit file.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import time
from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np
import torch

from benchmarks.datasets import cache_folder, data_folder
from benchmarks.language_model_cells import CELLS, DOMAINS, GROUPS, TRIALS, perplexity
from benchmarks.results import load, store
from prunopt.networks.transformers.pruning import prune_transformer
from prunopt.networks.transformers.reading import read_model
from prunopt.networks.transformers.recipes import PruneOptions
from prunopt.networks.transformers.text import TokenLosses, read_text, token_losses, token_windows

LENGTH, CALIBRATION, EVALUATION, SEED = 512, 12, 10, 0


@cache
def model_and_tokens() -> tuple[Any, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Return the dense model, the calibration windows, and the evaluation windows of both domains."""
    from pydoc_data.topics import topics

    model, tokenizer = read_model("smollm2")
    valid, test = (read_text(data_folder() / f"wikitext2_{part}.txt") for part in ("valid", "test"))
    second = "\n\n".join(topics[k] for k in sorted(topics))
    windows = token_windows(tokenizer, valid, length=LENGTH, count=CALIBRATION, seed=SEED)
    return model, windows, tuple(token_windows(tokenizer, t, length=LENGTH, count=EVALUATION) for t in (test, second))


def evaluate(model: Any) -> dict[str, Any]:
    """Return the losses by window, which pair with those of other models."""
    found = [token_losses(model, windows) for windows in model_and_tokens()[2]]
    return {d: {"loss": f.loss.mean(1).tolist(), "accuracy": f.accuracy} for d, f in zip(DOMAINS, found, strict=True)}


def measure(name: str) -> dict[str, Any]:
    """Prune as a cell says, and evaluate."""
    model, windows, _ = model_and_tokens()
    if name == "dense":
        return {"cell": name, "evaluation": evaluate(model)}
    asked = (CELLS | TRIALS)[name]
    if not asked:
        raise ValueError(f"cell {name!r} was measured with an option that was removed; choose another")
    details = {k: asked[k] for k in asked.keys() & {f.name for f in fields(PruneOptions)}}
    options = {"allocation": "uniform"} | {k: v for k, v in asked.items() if k not in details}
    start, cpu = time.perf_counter(), time.process_time()
    folder = cache_folder() / "language_model" / name.replace("/", ", ")  # of a run that is killed and started again
    resumed = folder.exists()
    if "pattern" not in options:
        details["free_shapes"] = True  # blocks differ in these tables; `benchmarks.one_shape` measures one shape
    result = prune_transformer(model, windows, **options, options=PruneOptions(**details), resume_dir=folder)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    rows, repairs = [r.to_dict() for r in result.report], [r.to_dict() for r in result.repairs]
    if resumed:  # what came before is known by its steps alone
        seconds, cpu = sum(r["seconds"] for r in [*rows, *repairs]), 0.0
    found = evaluate(result.model)
    shutil.rmtree(folder)
    return {
        "cell": name, "options": result.options, "evaluation": found, "seconds": seconds, "resumed": resumed,
        "cpu_seconds": None if resumed else cpu, "repairs": repairs,
        "removed": result.removed, "target": result.target, "total": result.total,
        "error": float(np.mean([r["error"] for r in rows])), "notes": list(result.notes),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def run(cells: list[str]) -> None:
    """Fill in what is missing."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    for name in cells:
        if name in load("language_model", default={}):
            continue
        result = measure(name)
        store("language_model", {name: result})
        print(
            name,
            *(f"{d} {perplexity(result, d):.2f}" for d in DOMAINS),
            f"{result.get('seconds', 0):.0f} s",
            flush=True,
        )


def paired(a: dict[str, Any], b: dict[str, Any], domain: str) -> tuple[float, float]:
    """Return the mean difference of two cells' losses and its standard error over windows."""
    losses = [np.array(r["evaluation"][domain]["loss"])[:, None] for r in (a, b)]
    first, second = (TokenLosses(x, np.zeros(x.shape, np.bool_)) for x in losses)
    return first.against(second)


def table() -> None:
    """Print one table for each group of cells."""
    found = load("language_model")
    dense = found["dense"]
    print("Perplexity; in brackets the paired difference of ours, in nats a token ± standard error over windows.\n")
    print("| | " + " | ".join(DOMAINS) + " | layer error | pruning, s |\n|---|---|---|---|---|")
    print("| dense | " + " | ".join(f"{perplexity(dense, d):.2f}" for d in DOMAINS) + " | | |")
    for group, (methods, _) in GROUPS.items():
        for method in [*methods, *(t.split("/")[1] for t in TRIALS if t.startswith(f"{group}/"))]:
            row, ours = found.get(f"{group}/{method}"), found.get(f"{group}/ours")
            if row is None:
                continue
            cells = []
            for domain in DOMAINS:
                text = f"{perplexity(row, domain):.2f}"
                if ours is not None and method != "ours":
                    mean, error = paired(ours, row, domain)
                    text += f" ({mean:+.3f} ± {error:.3f})"
                cells.append(text)
            label = group.replace("2-4", "2:4")
            print(f"| {label} {method} | " + " | ".join(cells) + f" | {row['error']:.4f} | {row['seconds']:.0f} |")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--cells", nargs="+", default=["dense", *CELLS])
    given = parser.parse_args()
    if given.what == "run":
        run(given.cells)
    else:
        table()


if __name__ == "__main__":
    main()
