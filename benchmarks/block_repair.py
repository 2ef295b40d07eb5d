"""Repair by gradient on the first blocks of SmolLM2, all later blocks dense: what it does to the model's outputs.

``python -m benchmarks.block_repair run|table``. Calibration: 12 random windows of 512 tokens of WikiText-2's validation
text, as in `benchmarks.language_model`, of which a repair holds 3 out. The first blocks are pruned at 2:4 by sparsegpt,
re-solved, without a repair and with it. Measured is the divergence of the outputs from the dense model's on windows of
WikiText-2's test text and of Python's help, which no choice was made on, paired over windows.
"""

from __future__ import annotations

import argparse
import copy
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.language_model import model_and_tokens
from benchmarks.language_model_cells import DOMAINS
from benchmarks.results import load, store
from prunopt.core.arrays import Floats
from prunopt.networks.transformers.calibration import as_calibration
from prunopt.networks.transformers.layerwise import LayerwisePruning
from prunopt.networks.transformers.recipes import PruneOptions
from prunopt.networks.transformers.repair import BlockRepair

WINDOWS = 4  # of each text


def pruned(count: int, repair: BlockRepair | None) -> tuple[nn.Module, dict[str, Any]]:
    """Return the model with the first blocks pruned, and what was measured on the way."""
    model, windows, _ = model_and_tokens()
    work: Any = copy.deepcopy(model)
    layers, start = work.model.layers, time.perf_counter()
    work.model.layers = layers[:count]  # later blocks need no pass
    options = PruneOptions(damping=0.01, shrinkage=0.2)
    with torch.no_grad():
        walk = LayerwisePruning(work, as_calibration(windows), "sparsegpt", options, 0, None, repair)
        try:
            walk.patterned((2, 4), np.full(count, 0.5))
        finally:
            walk.close()
    work.model.layers = layers
    return work, {"seconds": time.perf_counter() - start, "repairs": [r.to_dict() for r in walk.repairs]}


@torch.no_grad()
def divergences(model: nn.Module, dense: list[list[torch.Tensor]]) -> dict[str, list[float]]:
    """Return the mean divergence over the tokens of each window, by text."""
    out = {}
    for domain, windows, known in zip(DOMAINS, model_and_tokens()[2], dense, strict=False):
        found = []
        for window, p in zip(windows[:WINDOWS], known, strict=True):
            q = torch.log_softmax(model(window[None]).logits[0].float(), -1)
            found.append(float((p.exp() * (p - q)).sum(-1).mean()))
        out[domain] = found
    return out


@torch.no_grad()
def run(count: int) -> None:
    """Measure both, and put them on file."""
    torch.set_num_threads(1)
    model, _, texts = model_and_tokens()
    dense = [[torch.log_softmax(model(w[None]).logits[0].float(), -1) for w in t[:WINDOWS]] for t in texts]
    for name, repair in (("as pruned", None), ("repaired", BlockRepair())):
        work, row = pruned(count, repair)
        store("block_repair", {f"2:4, {count} blocks, {name}": row | {"divergence": divergences(work, dense)}})
        print(name, row, flush=True)


def table() -> None:
    """Print what is on file."""
    found = load("block_repair")
    for name, row in found.items():
        if name.endswith("repaired"):
            before = found[name.replace("repaired", "as pruned")]
            for domain in DOMAINS:
                a, b = (np.array(r["divergence"][domain]) for r in (before, row))
                print(f"{name}, {domain}: {a.mean():.4f} -> {b.mean():.4f}, {_paired(b - a)}, {row['seconds']:.0f} s")


def _paired(difference: Floats) -> str:
    return f"{difference.mean():+.4f} ± {difference.std(ddof=1) / np.sqrt(len(difference)):.4f}"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--blocks", type=int, default=3)
    given = parser.parse_args()
    if given.what == "run":
        run(given.blocks)
    else:
        table()


if __name__ == "__main__":
    main()
