"""Blocks of SmolLM2 dropped: exact choice on measured pairs and repair, against ShortGPT's score and an evolution.

``python -m benchmarks.depth PART ...`` with PART of ours-3, evolution-3, judge-3 (and 6, 9) or table; what is on
file is not measured again, measured losses are kept in ``--work``. Losses are measured on 2 windows of 256 tokens of
WikiText-2 valid, compared on 4 other ones, the repair is fitted on 16 (the 4 not among them), and perplexity is that of
20 windows of WikiText-2 test. The evolution is EvoPress's for depth: one set survives, offspring exchange one to three
blocks, the divergence on the same 2 windows decides; it gets as many evaluations as pairs and exchanges together.
"""

from __future__ import annotations

import argparse
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.datasets import data_folder
from benchmarks.machine import described
from benchmarks.results import load, store
from prunopt.networks.transformers.block_removal import drop_blocks
from prunopt.networks.transformers.depth import DepthOptions, DropLosses, choose_depth, repair_gaps
from prunopt.networks.transformers.reading import read_model
from prunopt.networks.transformers.text import TokenLosses, read_text, token_losses, token_windows

LENGTH, CALIBRATION, TEST, CANDIDATES, EXCHANGES, SEED = 256, 20, 20, 12, 12, 0
OPTIONS = DepthOptions(candidates=CANDIDATES, windows=2, judges=4, exchanges=EXCHANGES)
EVALUATIONS = CANDIDATES * (CANDIDATES + 1) // 2 + EXCHANGES


@cache
def inputs() -> tuple[Any, torch.Tensor, torch.Tensor]:
    """Return the model, the calibration windows and the test windows."""
    model, tokenizer = read_model("smollm2")
    valid, test = (read_text(data_folder() / f"wikitext2_{part}.txt") for part in ("valid", "test"))
    windows = token_windows(tokenizer, valid, length=LENGTH, count=CALIBRATION, seed=SEED)
    return model, windows, token_windows(tokenizer, test, length=LENGTH, count=TEST)


def losses(work: Path) -> DropLosses:
    """Return what sets cost on the measuring windows."""
    model, windows, _ = inputs()
    return DropLosses(model, windows[: OPTIONS.windows], work / "losses")


def ours(remove: int, work: Path) -> dict[str, Any]:
    """Choose by pairs and exchanges."""
    model, windows, _ = inputs()
    found = choose_depth(model, windows, remove, OPTIONS, resume_dir=work / "losses")
    return {"dropped": list(found.dropped), "pairs": list(found.by_pairs), "influence": list(found.by_influence),
            "predicted": found.predicted, "bound": found.bound, "judged": found.judged}  # fmt: skip


def evolution(remove: int, work: Path) -> dict[str, Any]:
    """Exchange blocks at random, keep what is better."""
    rng, loss = np.random.default_rng(SEED), losses(work)
    n = len(loss.blocks)
    tried: dict[tuple[int, ...], float] = {}

    def value(dropped: Any) -> float:
        key = tuple(sorted(int(k) for k in dropped))
        if key not in tried:
            tried[key] = loss(key)
        return tried[key]

    best = min((rng.choice(n, remove, replace=False) for _ in range(16)), key=value)
    while len(tried) < EVALUATIONS:
        offspring = []
        for _ in range(8):
            child, count = set(best.tolist()), min(int(rng.integers(1, 4)), int(rng.integers(1, 4)), remove)
            for k in rng.choice(sorted(child), count, replace=False):
                child.remove(int(k))
            for k in rng.choice([k for k in range(n) if k not in child], count, replace=False):
                child.add(int(k))
            offspring.append(np.array(sorted(child)))
        best = min([best, *offspring], key=value)
    return {"dropped": sorted(int(k) for k in best), "loss": value(best), "evaluations": len(tried)}


def judge(remove: int) -> dict[str, Any]:
    """Return token losses on the test text of every method's set, repaired and not."""
    model, windows, test = inputs()
    sets = {
        "ours": load("depth", f"ours-{remove}")["dropped"],
        "evolution": load("depth", f"evolution-{remove}")["dropped"],
        "shortgpt": load("depth", f"ours-{remove}")["influence"],
    }
    out: dict[str, Any] = {"dense": token_losses(model, test).loss.mean(1).tolist()} if remove == 3 else {}
    rest = torch.cat([windows[: OPTIONS.windows], windows[OPTIONS.windows + OPTIONS.judges :]])
    for name, dropped in sets.items():
        smaller = _smaller(dropped)
        out[name] = token_losses(smaller, test).loss.mean(1).tolist()
        if name == "ours":
            repaired = repair_gaps(model, smaller, dropped, rest)
            out["ours, repaired"] = token_losses(repaired, test).loss.mean(1).tolist()
    return out


def _smaller(dropped: list[int]) -> Any:
    model, _ = read_model("smollm2")
    drop_blocks(model, dropped)
    return model


def table() -> None:
    """Print perplexities, and the paired differences to ours with their standard errors."""
    for remove in (3, 6, 9):
        found = load("depth", f"judge-{remove}", None)
        if found is None:
            continue
        rows = {name: TokenLosses(np.array(row)[:, None], np.zeros((len(row), 1), bool)) for name, row in found.items()}
        mine = rows["ours, repaired"]
        for name, row in rows.items():
            difference, error = row.against(mine)
            print(f"{remove} dropped, {name}: {math.exp(row.loss.mean()):.2f}; {difference:+.3f} +- {error:.3f}")


def main() -> None:
    """Measure parts that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+")
    parser.add_argument("--work", type=Path, default=Path("out/depth"))
    asked = parser.parse_args()
    for part in asked.parts:
        what, _, number = part.partition("-")
        if what == "table":
            table()
        elif load("depth", part, None) is None:
            remove = int(number)
            row = judge(remove) if what == "judge" else (ours if what == "ours" else evolution)(remove, asked.work)
            store("depth", {part: row, "machine": described("torch", "transformers")})
            print(part, json.dumps(row)[:400], flush=True)


if __name__ == "__main__":
    main()
