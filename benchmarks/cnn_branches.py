"""ResNet-56 on CIFAR-10 at equal milliseconds: channel widths alone, and widths with whole branches in one knapsack.

``python -m benchmarks.cnn_branches run|table``. Losses are measured on the whole network, without labels, on 500
pictures of ``train``; milliseconds are those of torch on one thread, for batches of 16; ``test`` is reported. Then both
are distilled without labels for the same number of steps.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

import torch

from benchmarks.cnn_cifar import accuracies
from benchmarks.machine import described
from benchmarks.results import load, store
from benchmarks.s2h_data import cifar, resnet20
from prunopt.networks.cnn.latency import LatencyTable
from prunopt.networks.cnn.models import sample
from prunopt.networks.cnn.output_matching import OutputMatching, match_outputs
from prunopt.networks.cnn.profile import Widths, profile_cnn
from prunopt.networks.cnn.pruning import prune_cnn

SHARES, CALIBRATION, BATCH, STEPS = (0.75, 0.6), 500, 16, 100
WIDTHS = Widths(round_to=8, levels=4, loss="measured", probe=96, branches=True)


def run() -> None:
    """Prune within every share of the milliseconds, both ways; write after every row."""
    torch.set_num_threads(1)
    parts, dense = cifar(), resnet20(56).eval()
    pictures = parts["train"][0]
    few = pictures[sample(len(pictures), CALIBRATION)]
    rows: dict[str, Any] = {"dense": accuracies(dense, parts)}
    start = time.perf_counter()
    both = profile_cnn(dense, few, widths=WIDTHS)
    seconds = time.perf_counter() - start
    ends = [len(w) - (w[-1] == 0) for w in both.widths]
    alone = replace(
        both,
        widths=tuple(w[:e] for w, e in zip(both.widths, ends, strict=True)),
        losses=tuple(w[:e] for w, e in zip(both.losses, ends, strict=True)),
    )
    table = LatencyTable(example=few[:BATCH])
    for share in SHARES:
        for name, profile in (("widths", alone), ("widths and branches", both)):
            result = prune_cnn(dense, few, budget=f"latency_ms={share}x", widths=profile, table=table)
            row = {**accuracies(result.model, parts), "status": result.solution.status.name, **result.measured,
                   "loss": result.solution.objective, "profile_seconds": seconds,
                   "dropped": [g["group"] for g in result.report if g["after"] == 0]}  # fmt: skip
            done = match_outputs(result.model, dense, pictures, OutputMatching(30, STEPS, 64, 2e-3, every=25))
            row["distilled"] = accuracies(result.model, parts) | {"divergence": [done.before, done.after]}
            rows[f"{name} {share}"] = row
            store("cnn_branches", {"about": described("torch"), "rows": rows})
            print(f"{name} {share}", row, flush=True)


def table() -> None:
    """Print the table."""
    rows = load("cnn_branches", "rows")
    print(f"dense: {rows['dense']['test']:.1%} of the test pictures\n")
    print("| milliseconds | offered | branches gone | measured | predicted | test | distilled |")
    print("|---|---|---|---|---|---|---|")
    for label, row in rows.items():
        if label != "dense":
            name, _, share = label.rpartition(" ")
            whole, tests = row["dense_ms"], (row["test"], row["distilled"]["test"])
            cells = [f"{share}x", name, str(len(row["dropped"])), f"{row['ms'] / whole:.2f}x",
                     f"{row['predicted_ms'] / whole:.2f}x", *(f"{x:.1%}" for x in tests)]  # fmt: skip
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    table() if sys.argv[1:] == ["table"] else run()
