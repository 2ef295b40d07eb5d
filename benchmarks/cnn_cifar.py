"""ResNet-20 on CIFAR-10 at 73 % of its multiply-adds, without labels: the exact cut, then label-free distillation.

``python -m benchmarks.cnn_cifar`` writes ``results/cnn_cifar.json.gz`` and prints the table. The pictures are JPEGs,
which costs about 10 points against lossless ones: figures are relative to the dense network. ``train``, without labels,
calibrates and teaches, ``choose`` is where settings were compared, ``test`` is reported.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from benchmarks.machine import described
from benchmarks.results import load, store
from benchmarks.s2h_data import cifar, resnet20
from prunopt.networks.cnn.models import sample
from prunopt.networks.cnn.output_matching import OutputMatching, match_outputs
from prunopt.networks.cnn.profile import Widths
from prunopt.networks.cnn.pruning import prune_cnn
from prunopt.networks.cnn.repair import logits

SIZES = (7500, 500, 1000)  # more to learn from than the soft masks have; the same test pictures
SHARE, CALIBRATION, STEPS, BATCH, RATE = 0.73, 500, 930, 64, 2e-3  # ten epochs of the pictures that teach


def main() -> None:
    """Prune, distil, report."""
    torch.set_num_threads(1)
    parts, dense = cifar(SIZES), resnet20().eval()
    pictures = parts["train"][0]
    few = pictures[sample(len(pictures), CALIBRATION)]
    rows: dict[str, Any] = {"dense": accuracies(dense, parts)}
    start = time.perf_counter()
    result = prune_cnn(dense, few, budget=f"macs={SHARE}", widths=Widths(round_to=1, levels=12))
    about = {"share": result.used / result.total, "seconds": time.perf_counter() - start, "pictures": len(few)}
    rows["pruned, repaired"] = {**accuracies(result.model, parts), **about}
    print(rows, flush=True)
    done = match_outputs(result.model, dense, pictures, OutputMatching(30, STEPS, BATCH, RATE, every=40))
    epochs = done.steps * BATCH / (0.8 * len(pictures))
    rows["distilled"] = {
        **accuracies(result.model, parts), **about, "epochs": epochs,
        "divergence": [done.before, done.after],
    }  # fmt: skip
    store("cnn_cifar", {"about": described("torch"), "rows": rows})
    show()


def accuracies(model: nn.Module, parts: Any) -> dict[str, float]:
    """Return the share of right answers on the parts that nothing was learned from."""
    return {
        part: float((logits(model, parts[part][0], batch=100).argmax(1) == parts[part][1]).float().mean())
        for part in ("choose", "test")
    }


def show() -> None:
    """Print the table."""
    for name, row in load("cnn_cifar")["rows"].items():
        more = {k: round(row[k], 3) for k in ("share", "epochs") if k in row}
        print(f"{name}: choose {row['choose']:.2%}, test {row['test']:.2%} {more}")


if __name__ == "__main__":
    main()
