"""SmolLM2 within a share of its parameters and 0.7 of its milliseconds at once, by ``prunopt prune --budget``.

``python -m benchmarks.budgets PART ...`` with PART of library, all-75, heads+ffn-75, blocks-75, depth-75, judge-75 (and
60), table; what is on file is not measured again. One library of alternatives (blocks, key-value heads, neurons),
measured on WikiText-2 valid, serves every run. ``all``, ``heads+ffn`` and ``blocks`` are the command with that
granularity; ``depth`` drops as few blocks as both budgets allow, chosen by ShortGPT's score, its gaps repaired.
Perplexity is that of windows of WikiText-2 test, milliseconds those of a pass over 128 tokens, dense and pruned in
turns on one thread, beside what was predicted from the library.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.datasets import data_folder
from benchmarks.machine import described
from benchmarks.results import load, store
from prunopt.networks import load as load_model
from prunopt.networks.io.folders import read_manifest
from prunopt.networks.transformers import Alternatives, block_influence, drop_blocks, repair_gaps
from prunopt.networks.transformers.reading import read_model
from prunopt.networks.transformers.text import TokenLosses, read_text, source_windows, token_losses, token_windows

LENGTH, WINDOWS, TEST, SHARES, MILLISECONDS, TURNS = 128, 24, 32, (75, 60), 0.7, 7
GRANULARITY = {"all": "blocks,heads,ffn", "heads+ffn": "heads,ffn", "blocks": "blocks"}


def command(kind: str, share: int, work: Path) -> dict[str, Any]:
    """Run the command; return what it wrote down."""
    out = work / f"{kind}-{share}"
    start = time.perf_counter()
    options = ["--budget", f"parameters={share / 100}", "--budget", f"latency_ms={MILLISECONDS}x"]
    options += ["--granularity", GRANULARITY[kind], "--library", str(work / "library"), "--out", str(out)]
    options += ["--windows", str(WINDOWS), "--length", str(LENGTH), "--no-evaluate"]
    options += ["--calibration", str(data_folder() / "wikitext2_valid.txt")]
    options += ["--resume"] if out.with_name(f"{out.name}.work").exists() else []
    subprocess.run([sys.executable, "-m", "prunopt", "prune", "smollm2", *options], check=True)
    told = read_manifest(out)["options"]
    names = ("budgets", "parts", "groups", "neurons", "predicted", "judged", "measured")
    return {name: told[name] for name in names} | {"seconds": time.perf_counter() - start}


def library(work: Path) -> dict[str, Any]:
    """Measure the library by the command: by a budget that is met without removing anything."""
    start = time.perf_counter()
    options = ["--budget", "parameters=1.0", "--granularity", GRANULARITY["all"], "--library", str(work / "library")]
    options += ["--windows", str(WINDOWS), "--length", str(LENGTH), "--no-evaluate", "--out", str(work / "whole")]
    options += ["--calibration", str(data_folder() / "wikitext2_valid.txt")]
    options += ["--resume"] if (work / "whole.work").exists() else []
    subprocess.run([sys.executable, "-m", "prunopt", "prune", "smollm2", *options], check=True)
    found = Alternatives.load(work / "library")
    tables = {name: table.tolist() for name, table in found.costs.items()}
    losses = [[x if math.isfinite(x) else None for x in row] for row in found.loss.tolist()]
    return {"groups": found.groups.tolist(), "neurons": found.neurons.tolist(), "loss": losses, "costs": tables,
            "base": found.base, "about": found.about, "seconds": time.perf_counter() - start}  # fmt: skip


@cache
def dense() -> tuple[Any, Any]:
    """Return SmolLM2 and its tokenizer."""
    return read_model("smollm2")


def depth(share: int, work: Path) -> dict[str, Any]:
    """Return the blocks of least influence, as many as have to go."""
    model, tokenizer = dense()
    found = Alternatives.load(work / "library")
    limits = found.limits([f"parameters={share / 100}", f"latency_ms={MILLISECONDS}x"])
    windows = source_windows(
        tokenizer, [str(data_folder() / "wikitext2_valid.txt")], length=LENGTH, count=WINDOWS, seed=0
    )
    order = np.argsort(block_influence(model, windows), kind="stable")
    for count in range(1, len(order)):
        rest = {r: found.total(r) - found.costs[r][order[:count], 0].sum() for r in limits}
        if all(rest[r] <= limits[r] for r in limits):
            return {"dropped": sorted(order[:count].tolist()), "predicted": rest}
    raise AssertionError("no number of blocks is enough")


def pruned(kind: str, share: int, work: Path) -> Any:
    """Return a pruned model."""
    if kind not in ("depth", "depth, repaired"):
        return load_model(work / f"{kind}-{share}")
    dropped = load("budgets", f"depth-{share}")["dropped"]
    smaller, tokenizer = read_model("smollm2")
    drop_blocks(smaller, dropped)
    if kind == "depth":
        return smaller
    windows = source_windows(
        tokenizer, [str(data_folder() / "wikitext2_valid.txt")], length=LENGTH, count=WINDOWS, seed=0
    )
    return repair_gaps(dense()[0], smaller, dropped, windows)


def judge(share: int, work: Path) -> dict[str, Any]:
    """Return token losses on the test text, parameters, and milliseconds dense and pruned in turns."""
    model, tokenizer = dense()
    test = token_windows(tokenizer, read_text(data_folder() / "wikitext2_test.txt"), length=LENGTH, count=TEST)
    out: dict[str, Any] = {"dense": {"losses": token_losses(model, test).loss.mean(1).tolist()}}
    for kind in (*GRANULARITY, "depth", "depth, repaired"):
        if load("budgets", f"{kind.split(',')[0]}-{share}", None) is None:
            continue
        smaller = pruned(kind, share, work).eval()
        times: dict[str, list[float]] = {"dense": [], "pruned": []}
        with torch.no_grad():
            for _ in range(TURNS + 1):
                for name, network in (("dense", model), ("pruned", smaller)):
                    start = time.perf_counter()
                    network(input_ids=test[:1], use_cache=False)
                    times[name].append(1e3 * (time.perf_counter() - start))
        out[kind] = {
            "losses": token_losses(smaller, test).loss.mean(1).tolist(),
            "parameters": sum(p.numel() for p in smaller.parameters()),
            "ms": {name: row[1:] for name, row in times.items()},
        }
    return out


def table() -> None:
    """Print perplexities, differences to the choice among everything, and predicted and measured milliseconds."""
    whole = load("budgets", "library", None)
    for share in SHARES:
        found = load("budgets", f"judge-{share}", None)
        if found is None or whole is None:
            continue
        before = whole["base"]["latency_ms"] + sum(row[0] for row in whole["costs"]["latency_ms"])
        rows = {n: TokenLosses(np.array(r["losses"])[:, None], np.zeros((TEST, 1), bool)) for n, r in found.items()}
        for name, row in rows.items():
            said = f"{share} %, {name}: perplexity {math.exp(row.loss.mean()):.2f}"
            if name != "dense":
                difference, error = row.against(rows["all"])
                kept = load("budgets", f"{name.split(',')[0]}-{share}")
                uses = {u["resource"]: u["used"] for u in kept["budgets"]} if "budgets" in kept else kept["predicted"]
                ms = {n: min(times) for n, times in found[name]["ms"].items()}
                said += f" ({difference:+.3f} +- {error:.3f}); {found[name]['parameters']:,} parameters; milliseconds "
                said += f"{uses['latency_ms'] / before:.3f}x predicted, {ms['pruned'] / ms['dense']:.3f}x measured"
            print(said)


def main() -> None:
    """Measure parts that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+")
    parser.add_argument("--work", type=Path, default=Path("out/budgets"))
    asked = parser.parse_args()
    for part in asked.parts:
        kind, _, share = part.rpartition("-") if "-" in part else (part, "", "0")
        if part == "table":
            table()
        elif load("budgets", part, None) is None:
            makers: dict[str, Any] = {"library": lambda: library(asked.work)}
            makers |= {"depth": lambda s=share: depth(int(s), asked.work)}
            makers |= {"judge": lambda s=share: judge(int(s), asked.work)}
            makers |= {k: lambda k=k, s=share: command(k, int(s), asked.work) for k in GRANULARITY}
            row = makers[kind]()
            store("budgets", {part: row, "machine": described("torch", "transformers")})
            print(part, json.dumps(row)[:600], flush=True)


if __name__ == "__main__":
    main()
