"""Convolutional networks: top-1 against measured milliseconds, beside Torch-Pruning.

``python -m benchmarks.cnn prune NAME [ROW...]`` prunes (the networks are
kept in ``$PRUNOPT_BENCH_CACHE``; a second call goes on),
``python -m benchmarks.cnn time NAME [ROW...]`` times what was pruned,
``python -m benchmarks.cnn show`` prints the tables. NAME is mobilenetv2 or efficientnet-lite0, or one of these with
``-swapped`` behind it.

Pictures: imagenet_even_500.zip of ``$PRUNOPT_DATA`` or ``../shared/data``; the odd ones calibrate (no labels), the even
ones are the table's; swapped it is the other way round, so that both together judge on all 500. They may be training
pictures: figures are relative to the dense network, no benchmark top-1.
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.datasets import cache_folder
from benchmarks.machine import described
from benchmarks.results import load, store
from prunopt.core.files import write_json
from prunopt.networks.cnn.channel_groups import ChannelGroups, channel_groups
from prunopt.networks.cnn.checkpoints import load_cnn, save_cnn
from prunopt.networks.cnn.deprune import deprune
from prunopt.networks.cnn.importances import Ranking
from prunopt.networks.cnn.kernel_windows import WindowOptions
from prunopt.networks.cnn.latency import LatencyTable, file_runner, folded, runner
from prunopt.networks.cnn.models import read_cnn, read_pictures
from prunopt.networks.cnn.output_matching import OutputMatching
from prunopt.networks.cnn.profile import CnnProfile, Widths, profile_cnn
from prunopt.networks.cnn.pruning import prune_cnn
from prunopt.networks.cnn.repair import Repair, logits, reestimated, repair
from prunopt.networks.cnn.surgery import onnx_file
from prunopt.networks.cnn.windowed_conv import Window, choose_windows, with_windows

SHARES = (0.75, 0.85, 0.65)  # of the dense network's milliseconds in ONNX Runtime
PEER_RATIOS = (0.05, 0.1, 0.2, 0.3)
WIDTHS = {"levels": 12, "round_to": 16}  # ONNX Runtime pads channels to blocks of 16 where it has AVX-512
DISTILLED = (0.75, 0.65)  # without labels, for so many minutes of a core
MINUTES = 10.0
NETWORKS = ("mobilenetv2", "efficientnet-lite0")
SWAPPED = "-swapped"
NAMES = (*NETWORKS, *(f"{name}{SWAPPED}" for name in NETWORKS))
# The second network got less computing time: no windows, no channels of the residual stream (of which the first
# network's answers remove none), its ranking from 125 pictures, and first the losses that need no run of the network.
SEARCH: dict[str, dict[str, Any]] = {
    "mobilenetv2": {"probe": 32, "windows": False, "hidden": True},
    "efficientnet-lite0": {"probe": 32, "windows": False, "hidden": True},
}


def data(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return calibration pictures, test pictures and test labels."""
    place = Path(os.environ.get("PRUNOPT_DATA") or "../shared/data") / "imagenet_even_500.zip"
    X, y = read_pictures(place, network(name))
    first = int(name.endswith(SWAPPED))
    return X[1 - first :: 2], X[first::2], y[first::2]


def network(name: str) -> str:
    """Return the network's own name."""
    return name.removesuffix(SWAPPED)


def folder(name: str) -> Path:
    """Return where pruned networks are kept."""
    return cache_folder() / "cnn" / name


def results(name: str) -> dict[str, Any]:
    """Return the raw figures so far."""
    return dict(load("cnn", name, {"rows": {}, "times": {}}))


def keep(name: str, found: dict[str, Any]) -> None:
    """Write the raw figures so far."""
    found["about"] = described("torch", "onnxruntime", "torch-pruning")
    store("cnn", {name: found})


def top1(model: nn.Module, X: torch.Tensor, y: torch.Tensor) -> float:
    """Return the share of pictures whose label comes first."""
    return float((logits(folded(model), X, batch=4).argmax(1) == y).float().mean())


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


def prune(name: str, only: Sequence[str] = ()) -> None:
    """Prune by every method, or for some rows, test, and keep the networks."""
    torch.set_num_threads(1)
    dense = read_cnn(network(name))
    calibration, X, y = data(name)
    found = results(name)
    rows = found["rows"]

    def job(label: str, make: Callable[[], tuple[nn.Module, dict[str, Any]]]) -> None:
        if label in rows or (only and label not in only):
            return
        start = time.perf_counter()
        model, about = make()
        spent = time.perf_counter() - start
        save_cnn(model, folder(name) / label, dense=network(name))
        rows[label] = {**about, "top1": top1(model, X, y), "seconds": spent,
                       "parameters": sum(p.numel() for p in model.parameters())}  # fmt: skip
        keep(name, found)
        print(label, rows[label]["top1"], f"{spent:.0f} s", flush=True)

    job("dense", lambda: (dense, {}))
    for ratio in PEER_RATIOS:
        job(f"peer-{ratio}", lambda ratio=ratio: (peer(dense, ratio), {}))
        job(f"peer-bn-{ratio}", lambda ratio=ratio: (reestimated(peer(dense, ratio), calibration), {}))
    table = LatencyTable("onnxruntime", cache_folder() / f"cnn_latency_{network(name)}.json")
    profiles: dict[str, CnnProfile] = {}

    def profile(loss: str) -> CnnProfile:
        path = cache_folder() / f"cnn_profile_{name}_{loss}.json"
        if loss not in profiles and path.is_file():
            profiles[loss] = read_profile(path, dense, calibration)
        if loss not in profiles:
            options = SEARCH[network(name)]
            groups = channel_groups(dense, calibration[:2])
            groups = groups.only(hidden_groups(groups)) if options["hidden"] else groups
            every = loss == "measured on all"
            pictures = calibration if every or not options["hidden"] else calibration[::2]
            importance, how = ("fisher", "layers") if loss == "fisher" else ("obs", loss.partition(" ")[0])
            profiles[loss] = profile_cnn(
                dense, pictures, importance=importance,
                widths=Widths(
                    loss=how, groups=groups, probe=(1 + every) * options["probe"], windows=options["windows"], **WIDTHS
                ),
                progress=lambda text: print(text, file=sys.stderr, flush=True),
            )  # fmt: skip
            write_profile(path, profiles[loss])
        return profiles[loss]

    def ours(
        share: float, loss: str, refit: bool, taps: bool = False, mirror: bool = False, distill: bool = False
    ) -> tuple[nn.Module, dict[str, Any]]:
        offered = profile(loss) if taps else replace(profile(loss), windows=())
        result = prune_cnn(
            dense, mirrored(calibration) if mirror else calibration, budget=f"latency_ms={share}x", widths=offered,
            table=table, repair=Repair(batch_norm="keep") if refit else None,
            training=OutputMatching(minutes=MINUTES) if distill else None,
        )  # fmt: skip
        return result.model, result.to_dict()

    for share in SHARES:
        job(f"measured-repair-{share}", lambda share=share: ours(share, "measured", True))
    for share in SHARES[:2]:
        job(f"measured-all-repair-{share}", lambda share=share: ours(share, "measured on all", True))
    for share in DISTILLED:
        job(f"matched-{share}", lambda share=share: ours(share, "measured", True, distill=True))
    job("mirrored-repair-0.75", lambda: ours(0.75, "measured", True, mirror=True))
    job("measured-0.75", lambda: ours(0.75, "measured", False))
    for other in ("fisher", "layers"):
        job(f"{other}-repair-0.75", lambda other=other: ours(0.75, other, True))
    job("windows-0.9", lambda: windows(dense, calibration, 0.9, table))
    job("joint-repair-0.75", lambda: ours(0.75, "measured", True, taps=True))
    job("deprune-0.6", lambda: masked(dense, X, 0.6))


def mirrored(X: torch.Tensor) -> torch.Tensor:
    """Return pictures and their mirror images, so that those which judge a ridge have no twin among the others."""
    return torch.cat(
        [torch.cat([part, part.flip(3)]) for part in torch.split(X, 25)]
    )  # five batches, every fifth judges


def hidden_groups(groups: ChannelGroups) -> list[int]:
    """Return the groups that a depthwise layer carries: those inside the blocks, and the stem's."""
    return [g for g in groups.free if any(s.kind == "depthwise" for s in groups.carriers(g))]


def write_profile(path: Path, profile: CnnProfile) -> None:
    """Keep what a profile found, for a second call."""
    write_json(path, {
        "chosen": list(profile.chosen), "widths": list(profile.widths), "losses": list(profile.losses),
        "rankings": [[r.group, r.order.tolist(), r.error.tolist()] for r in profile.rankings],
        "windows": [[o.name, [astuple(w) for w in o.windows], list(o.losses)] for o in profile.windows],
    })  # fmt: skip


def read_profile(path: Path, dense: nn.Module, calibration: torch.Tensor) -> CnnProfile:
    """Return a profile that was kept."""
    raw = json.loads(path.read_text("utf-8"))
    return CnnProfile(
        channel_groups(dense, calibration[:2]), tuple(raw["chosen"]),
        tuple(Ranking(g, np.array(o, np.int64), np.array(e)) for g, o, e in raw["rankings"]),
        tuple(raw["widths"]), tuple(raw["losses"]),
        tuple(WindowOptions(n, tuple(Window(*w) for w in ws), tuple(v)) for n, ws, v in raw["windows"]),
    )  # fmt: skip


def windows(
    dense: nn.Module, calibration: torch.Tensor, share: float, table: LatencyTable
) -> tuple[nn.Module, dict[str, Any]]:  # fmt: skip
    """Return the network with tap windows, at a share of the depthwise layers' milliseconds, re-solved."""
    choice = choose_windows(dense, calibration[:1], share, table)
    chosen = dict(zip(choice.names, choice.windows, strict=True))
    shapes = {n: list(w.shape) for n, w in chosen.items()}
    smaller, groups = with_windows(dense, chosen), channel_groups(dense, calibration[:2])
    repair(dense, smaller, groups, np.ones(groups.n_channels, np.bool_), calibration[:125], every=True)
    return smaller, {"windows": shapes, "status": choice.solution.status.name}


def masked(dense: nn.Module, X: torch.Tensor, share: float) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network with depthwise weights zeroed by tiles, at a share of the modeled latency."""
    model, solution = deprune(dense, X[:1], budget=share)
    return model, {"lost": solution.objective, "status": solution.status.name}


def clock(name: str, labels: Sequence[str] = (), repeats: int = 31) -> None:
    """Time the networks that are kept, or some of them, in turns, on one thread, in both runtimes."""
    torch.set_num_threads(1)
    found, dense = results(name), read_cnn(network(name))
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    models = {label: load_cnn(folder(name) / label, dense) for label in labels or found["rows"]}
    files = {label: folder(name) / f"{label}.onnx" for label in models}
    for label, file in files.items():
        if not file.is_file():
            onnx_file(models[label], x, file)
    timed: dict[str, Callable[[], dict[str, Callable[[], Any]]]] = {
        "onnxruntime": lambda: {label: file_runner(file, x) for label, file in files.items()},
        "torch": lambda: {label: runner(model, x, "torch") for label, model in models.items()},
    }
    for runtime, jobs in timed.items():
        taken = in_turns(jobs(), repeats)
        for kind, part in (("times", 0), ("processor", 1)):
            medians = {label: statistics.median(t[part] for t in rows) for label, rows in taken.items()}
            found.setdefault(kind, {})[runtime] = medians
        keep(name, found)


def in_turns(jobs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Return wall and processor milliseconds of jobs on one thread: on a busy machine the second are the steadier."""
    taken: dict[str, list[tuple[float, float]]] = {label: [] for label in jobs}
    for number in range(repeats + 2):
        for label, run in jobs.items():
            start = time.perf_counter(), time.process_time()
            run()
            if number >= 2:
                taken[label].append((1e3 * (time.perf_counter() - start[0]), 1e3 * (time.process_time() - start[1])))
    return taken


def show() -> None:
    """Print the tables."""
    for name in NETWORKS:
        found, other = results(name), results(f"{name}{SWAPPED}")["rows"]
        if not found["rows"]:
            continue
        print(f"\n{name}: dense top-1 {found['rows']['dense']['top1']:.1%} of 250\n")
        print("| network | points lost, 250 | all 500 | ORT, processor ms | predicted | torch, processor ms |")
        print("|---|---|---|---|---|---|")
        times = found["times"] and found["processor"]
        for label, row in found["rows"].items():
            lost = 100 * (found["rows"]["dense"]["top1"] - row["top1"])
            both = ""
            if label in other and label != "dense":
                more = 100 * (other["dense"]["top1"] - other[label]["top1"])
                both = f"{(lost + more) / 2:.1f}"
            cells = [f"{lost:.1f}", both]
            for runtime in ("onnxruntime", "torch"):
                ms = times.get(runtime, {}) if times else {}
                cells.append(f"{ms[label]:.2f} ({ms['dense'] / ms[label]:.2f}x)" if label in ms else "")
            predicted = f"{row['total'] / row['used']:.2f}x" if "used" in row else ""
            print(f"| {label} | {' | '.join([*cells[:3], predicted, cells[3]])} |")


def main() -> None:
    """Run what is asked for."""
    task = sys.argv[1:] or ["show"]
    if task == ["show"]:
        show()
    elif len(task) >= 2 and task[0] == "prune" and task[1] in NAMES:
        prune(task[1], task[2:])
    elif len(task) >= 2 and task[0] == "time" and task[1] in NAMES:
        clock(task[1], task[2:])
    else:
        raise SystemExit(f"python -m benchmarks.cnn prune {'|'.join(NAMES)} [ROW...], time NAME [ROW...], or show")


if __name__ == "__main__":
    main()
