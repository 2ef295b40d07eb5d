"""SmolLM2-135M pruned whole: perplexity in the calibration's domain, and in one that it never saw.

``python -m benchmarks.language_model run [--cells NAME ...]`` fills ``results/language_model.json.gz`` with one entry
for each cell, skipping those that are there; ``table`` and ``repaired`` in place of ``run`` print the tables from them.

Calibration: random windows of WikiText-2 valid. Evaluation: windows of WikiText-2 test (the same domain) and of the
help texts that come with Python (``pydoc_data.topics``: technical documentation, many short lines), and of film reviews
(SST-2's sentences, one after the other), on which nothing was ever chosen. The model's weights come from a 4-bit file.
A cell ``NAME, repaired`` is NAME with its outputs repaired, on all of WikiText-2 valid but 4 windows, as the command
does it; ``NAME@1`` has other calibration windows.
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
from benchmarks.language_model_cells import CELLS, DOMAINS, GROUPS, REPAIRED, options_of, perplexity
from benchmarks.results import load, store
from prunopt.networks.transformers.output_repair import OutputRepair, repair_outputs
from prunopt.networks.transformers.pruning import prune_transformer
from prunopt.networks.transformers.reading import read_model
from prunopt.networks.transformers.recipes import PruneOptions
from prunopt.networks.transformers.text import TokenLosses, learning_windows, read_text, token_losses, token_windows

LENGTH, CALIBRATION, EVALUATION, SEED = 512, 12, 10, 0


@cache
def model_and_tokens() -> tuple[Any, torch.Tensor, tuple[torch.Tensor, ...]]:
    """Return the dense model, the calibration windows, and the evaluation windows of all domains."""
    from pydoc_data.topics import topics

    model, tokenizer = read_model("smollm2")
    test = read_text(data_folder() / "wikitext2_test.txt")
    second = "\n\n".join(topics[k] for k in sorted(topics))
    reviews = (data_folder() / "sst2_train.tsv").read_text("utf-8").splitlines()
    third = "\n".join(line.partition("\t")[0] for line in reviews)
    texts = (test, second, third)
    return model, calibration(SEED), tuple(token_windows(tokenizer, t, length=LENGTH, count=EVALUATION) for t in texts)


def calibration(seed: int) -> torch.Tensor:
    """Return random windows of WikiText-2 valid."""
    text = read_text(data_folder() / "wikitext2_valid.txt")
    return token_windows(read_model("smollm2")[1], text, length=LENGTH, count=CALIBRATION, seed=seed)


def evaluate(model: Any) -> dict[str, Any]:
    """Return the losses by window, which pair with those of other models."""
    found = [token_losses(model, windows) for windows in model_and_tokens()[2]]
    return {d: {"loss": f.loss.mean(1).tolist(), "accuracy": f.accuracy} for d, f in zip(DOMAINS, found, strict=True)}


def measure(name: str) -> dict[str, Any]:
    """Prune as a cell says, and evaluate."""
    model, seed = model_and_tokens()[0], int(name.partition("@")[2] or SEED)
    windows = calibration(seed)
    if name == "dense":
        return {"cell": name, "evaluation": evaluate(model)}
    asked = options_of(name)
    details = {k: asked[k] for k in asked.keys() & {f.name for f in fields(PruneOptions)}}
    options = {"allocation": "uniform"} | {k: v for k, v in asked.items() if k not in details}
    start, cpu = time.perf_counter(), time.process_time()
    folder = cache_folder() / "language_model" / name.replace("/", ", ")  # of a run that is killed and started again
    resumed = folder.exists()
    if "pattern" not in options and options["allocation"] is not None:
        details["free_shapes"] = True  # blocks differ in these tables; `benchmarks.one_shape` measures one shape
    run = {"options": PruneOptions(**details), "resume_dir": folder, "seed": seed}
    result = prune_transformer(model, windows, **options, **run)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    rows = [r.to_dict() for r in result.report]
    if resumed:  # what came before is known by its steps alone
        seconds, cpu = sum(r["seconds"] for r in rows), 0.0
    found: dict[str, Any] = {
        "cell": name.replace(REPAIRED, ""), "options": result.options, "evaluation": evaluate(result.model),
        "seconds": seconds, "resumed": resumed, "cpu_seconds": None if resumed else cpu,
        "removed": result.removed, "target": result.target, "total": result.total,
        "error": float(np.mean([r["error"] for r in rows])), "notes": list(result.notes),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip
    if REPAIRED in name:
        store("language_model", {found["cell"]: found})  # one pruning, two cells
        text = [str(data_folder() / "wikitext2_valid.txt")]
        tokenizer = read_model("smollm2")[1]
        learned = learning_windows(tokenizer, text, length=LENGTH, count=CALIBRATION, seed=seed)
        cpu = time.process_time()
        how = OutputRepair(windows=learned)
        report = repair_outputs(result.model, model, windows, how, seed=seed, progress=lambda t: print(t, flush=True))
        found |= {"cell": name, "evaluation": evaluate(result.model), "repair": report.to_dict(),
                  "repair_cpu_seconds": time.process_time() - cpu, "seconds": seconds + report.seconds}  # fmt: skip
    shutil.rmtree(folder)
    return found


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
    print("Perplexity; in brackets the paired difference of ours, in nats per token ± standard error over windows.\n")
    print("| | " + " | ".join(DOMAINS) + " | layer error | pruning, s |\n|---|---|---|---|---|---|")
    print("| dense | " + " | ".join(f"{perplexity(dense, d):.2f}" for d in DOMAINS) + " | | |")
    for group in GROUPS:
        rows = {k.partition("/")[2]: v for k, v in found.items() if k.startswith(f"{group}/")}
        best = rows.get("ours")
        for method, row in rows.items():
            cells = []
            for domain in DOMAINS:
                if domain not in row["evaluation"]:
                    cells.append("")
                    continue
                text = f"{perplexity(row, domain):.2f}"
                if best is not None and method != "ours" and domain in best["evaluation"]:
                    mean, error = paired(best, row, domain)
                    text += f" ({mean:+.3f} ± {error:.3f})"
                cells.append(text)
            label = group.replace("2-4", "2:4")
            print(f"| {label} {method} | " + " | ".join(cells) + f" | {row['error']:.4f} | {row['seconds']:.0f} |")


def repaired() -> None:
    """Print what the command gives by default: pruned, and with its outputs repaired."""
    found = load("language_model")
    print("| | " + " | ".join(DOMAINS) + " | pruning + repair, s | tokens |\n|---|" + "---|" * (len(DOMAINS) + 2))
    print("| dense | " + " | ".join(f"{perplexity(found['dense'], d):.2f}" for d in DOMAINS) + " | | |")
    for name, row in found.items():
        if not name.partition("@")[0].endswith(REPAIRED):
            continue
        before, cells = found[name.replace(REPAIRED, "")], []
        for domain in DOMAINS:
            mean, error = paired(row, before, domain)
            cells.append(
                f"{perplexity(before, domain):.2f} to **{perplexity(row, domain):.2f}** ({mean:+.3f} ± {error:.3f})"
            )
        took = f"{before['seconds']:.0f} + {row['repair']['seconds']:.0f}"
        label = name.replace("2-4", "2:4").replace("/", " ").replace(REPAIRED, "")
        print(f"| {label} | {' | '.join(cells)} | {took} | {row['repair']['tokens']:,} |")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table", "repaired"))
    parser.add_argument("--cells", nargs="+", default=["dense", *CELLS])
    given = parser.parse_args()
    if given.what == "run":
        run(given.cells)
    else:
        {"table": table, "repaired": repaired}[given.what]()


if __name__ == "__main__":
    main()
