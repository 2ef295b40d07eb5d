"""Convolutional networks: top-1 against measured milliseconds, beside Torch-Pruning.

``python -m benchmarks.cnn prune NAME`` prunes (the networks are
kept in ``$PRUNOPT_BENCH_CACHE``; a second call goes on),
``python -m benchmarks.cnn time NAME`` times what was pruned (nothing else should run),
``python -m benchmarks.cnn show`` prints the tables. NAME is mobilenetv2 or efficientnet-lite0.

Pictures: imagenet_even_500.zip of ``$PRUNOPT_DATA`` or ``../shared/data``; the odd ones calibrate (no labels), the even
ones are the table's. They may be training pictures: figures are relative to the dense network, no benchmark top-1.
"""

from __future__ import annotations

import copy
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.datasets import cache_folder
from benchmarks.machine import RESULTS, described
from prunopt.core.artifact import write_json
from prunopt.networks.cnn import deprune, prune_cnn
from prunopt.networks.cnn_models import read_cnn, read_pictures
from prunopt.networks.cnn_profile import CnnProfile, profile_cnn
from prunopt.networks.cnn_repair import logits, reestimated
from prunopt.networks.cnn_saving import load_cnn, save_cnn
from prunopt.networks.cnn_taps import choose_windows, with_windows
from prunopt.networks.latency import LatencyTable, interleaved, runner

SHARES = (0.9, 0.77, 0.65)  # of the dense network's milliseconds in ONNX Runtime
PEER_RATIOS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
PICTURES = 96  # of the 250 for calibration
NAMES = ("mobilenetv2", "efficientnet-lite0")


def data(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return calibration pictures, test pictures and test labels."""
    place = Path(os.environ.get("PRUNOPT_DATA") or "../shared/data") / "imagenet_even_500.zip"
    X, y = read_pictures(place, name)
    return X[1::2], X[::2], y[::2]


def folder(name: str) -> Path:
    """Return where pruned networks are kept."""
    return cache_folder() / "cnn" / name


def results(name: str) -> dict[str, Any]:
    """Return the raw figures so far."""
    import json

    path = RESULTS / f"cnn_{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {"rows": {}, "times": {}}


def keep(name: str, found: dict[str, Any]) -> None:
    """Write the raw figures so far."""
    found["about"] = described("torch", "onnxruntime", "torch-pruning")
    write_json(RESULTS / f"cnn_{name}.json", found)


def top1(model: nn.Module, X: torch.Tensor, y: torch.Tensor) -> float:
    """Return the share of pictures whose label comes first."""
    return float((logits(model, X).argmax(1) == y).float().mean())


def peer(model: nn.Module, ratio: float) -> nn.Module:
    """Return the network pruned by Torch-Pruning: group magnitude, the same ratio everywhere, widths in eights."""
    import torch_pruning as tp

    smaller = copy.deepcopy(model)
    last = [m for m in smaller.modules() if isinstance(m, nn.Linear)]
    pruner = tp.pruner.MagnitudePruner(
        smaller, torch.zeros(1, 3, 224, 224), importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio, ignored_layers=last, round_to=8,
    )  # fmt: skip
    pruner.step()
    return smaller.eval()


def prune(name: str) -> None:
    """Prune by every method, test, and keep the networks."""
    torch.set_num_threads(1)
    dense = read_cnn(name)
    calibration, X, y = data(name)
    found = results(name)
    rows = found["rows"]

    def job(label: str, make: Callable[[], tuple[nn.Module, dict[str, Any]]]) -> None:
        if label in rows:
            return
        start = time.perf_counter()
        model, about = make()
        spent = time.perf_counter() - start
        save_cnn(model, folder(name) / label, dense=name)
        rows[label] = {**about, "top1": top1(model, X, y), "seconds": spent,
                       "parameters": sum(p.numel() for p in model.parameters())}  # fmt: skip
        keep(name, found)
        print(label, rows[label]["top1"], f"{spent:.0f} s", flush=True)

    job("dense", lambda: (dense, {}))
    for ratio in PEER_RATIOS:
        job(f"peer-{ratio}", lambda ratio=ratio: (peer(dense, ratio), {}))
        job(f"peer-bn-{ratio}", lambda ratio=ratio: (reestimated(peer(dense, ratio), calibration[:PICTURES]), {}))
    table = LatencyTable("onnxruntime", cache_folder() / "cnn_latency.json")
    profiles: dict[str, CnnProfile] = {}

    def profile(loss: str) -> CnnProfile:
        if loss not in profiles:
            profiles[loss] = profile_cnn(
                dense, calibration[:PICTURES], loss=loss, progress=lambda text: print(text, file=sys.stderr, flush=True)
            )
        return profiles[loss]

    def ours(share: float, loss: str, refit: bool) -> tuple[nn.Module, dict[str, Any]]:
        result = prune_cnn(
            dense, calibration[:PICTURES], budget=f"latency_ms={share}x", profile=profile(loss), table=table,
            refit=refit, batch_norm="best" if refit else "keep", name=name,
        )  # fmt: skip
        return result.model, result.to_dict()

    for share in SHARES:
        job(f"knapsack-{share}", lambda share=share: ours(share, "layers", False))
        job(f"knapsack-repair-{share}", lambda share=share: ours(share, "layers", True))
    for share in (0.9, 0.7):
        job(f"windows-{share}", lambda share=share: windows(dense, X, share, table))
    for share in (0.6, 0.4):
        job(f"deprune-{share}", lambda share=share: masked(dense, X, share))
    for share in SHARES:
        job(f"measured-repair-{share}", lambda share=share: ours(share, "measured", True))


def windows(dense: nn.Module, X: torch.Tensor, share: float, table: LatencyTable) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network with tap windows, at a share of the depthwise layers' milliseconds."""
    choice = choose_windows(dense, X[:1], share, table)
    chosen = dict(zip(choice.names, choice.windows, strict=True))
    shapes = {n: list(w.shape) for n, w in chosen.items()}
    return with_windows(dense, chosen), {"windows": shapes, "status": choice.solution.status.name}


def masked(dense: nn.Module, X: torch.Tensor, share: float) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network with depthwise weights zeroed by tiles, at a share of the modelled latency."""
    model, solution = deprune(dense, X[:1], budget=share)
    return model, {"lost": solution.objective, "status": solution.status.name}


def clock(name: str, repeats: int = 41) -> None:
    """Time every network that is kept, in turns, on one thread, in both runtimes."""
    torch.set_num_threads(1)
    found, dense = results(name), read_cnn(name)
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    models = {label: load_cnn(folder(name) / label, dense) for label in found["rows"]}
    for runtime in ("onnxruntime", "torch"):
        jobs = {label: runner(model, x, runtime) for label, model in models.items()}
        taken = interleaved(jobs, repeats)
        found["times"][runtime] = {label: statistics.median(t) for label, t in taken.items()}
        keep(name, found)


def show() -> None:
    """Print the tables."""
    for name in NAMES:
        found = results(name)
        if not found["times"]:
            continue
        times, dense = found["times"], found["rows"]["dense"]["top1"]
        print(f"\n{name}: dense top-1 {dense:.1%} of 250\n")
        print("| network | top-1 | points lost | ORT ms | speed-up | torch ms | speed-up | predicted ORT ms |")
        print("|---|---|---|---|---|---|---|---|")
        for label, row in found["rows"].items():
            o, t = (times[r].get(label) for r in ("onnxruntime", "torch"))
            if o is None or t is None:
                continue
            predicted = row.get("measured", {}).get("predicted_ms")
            d = times["onnxruntime"]["dense"], times["torch"]["dense"]
            scaled = predicted * d[0] / row["measured"]["dense_ms"] if predicted else None
            print(f"| {label} | {row['top1']:.1%} | {100 * (dense - row['top1']):.1f} | {o:.2f} | {d[0] / o:.2f}x | "
                  f"{t:.2f} | {d[1] / t:.2f}x | {f'{scaled:.2f}' if scaled else ''} |")  # fmt: skip


def main() -> None:
    """Run what is asked for."""
    task = sys.argv[1:] or ["show"]
    if task == ["show"]:
        show()
    elif len(task) == 2 and task[0] in ("prune", "time") and task[1] in NAMES:
        (prune if task[0] == "prune" else clock)(task[1])
    else:
        raise SystemExit(f"python -m benchmarks.cnn prune|time {'|'.join(NAMES)}, or show")


if __name__ == "__main__":
    main()
