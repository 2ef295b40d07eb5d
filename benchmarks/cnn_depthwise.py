"""DEPrune's rules against the integer program, on the 16 depthwise layers of EfficientNet-Lite0.

``python -m benchmarks.cnn_depthwise`` prints the table and writes ``results/cnn_depthwise.json.gz``. Latency is the
model of the diagonal form (products x pixels x tiles), no measurement; lost energy is the sum over the layers of the
share of squared weights that goes (16 would be everything).
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.machine import described
from benchmarks.results import store
from prunopt import solve
from prunopt.forms import MultipleChoiceKnapsack, TileColumns
from prunopt.networks.cnn.deprune import depthwise_task
from prunopt.networks.cnn.models import read_cnn
from prunopt.solvers.tiles._ratio_rules import balanced
from prunopt.solvers.tiles.dcp import Dcp
from prunopt.solvers.tiles.dcp_b import DcpB
from prunopt.solvers.tiles.hsr import Hsr
from prunopt.solvers.tiles.tile_dp import TileDp

RATIOS = (0.50, 0.71, 0.80, 0.85)


def rows(form: TileColumns, ratio: float, dense: float) -> list[dict[str, Any]]:
    """Return DCP, DCP-B, HSR and the integer programs at one pruning ratio."""
    out: list[dict[str, Any]] = []

    def note(name: str, problem: TileColumns, solver: Any) -> Any:
        start = time.perf_counter()
        answer = solve(problem, solver)
        spent = time.perf_counter() - start
        latency = form.latency(answer.value)
        row = {"ratio": ratio, "method": name, "lost": form.objective(answer.value), "speed": dense / latency,
               "kept": int(answer.value.sum()), "status": answer.status.name, "seconds": spent}  # fmt: skip
        out.append(row)
        return answer

    note("DCP", form, Dcp(ratio))
    note("DCP-B", form, DcpB(ratio))
    hsr = note("HSR", form, Hsr(ratio))
    latency, lost, kept = form.latency(hsr.value), form.objective(hsr.value), int(hsr.value.sum())
    note("ours: HSR's own floor or ceiling", replace(two_choices(form, ratio), budget=latency), TileDp())
    note("ours: equal pruning ratio", replace(form, budget=latency, max_kept=float(kept)), TileDp())
    note("ours: latency <= HSR", replace(form, budget=latency), TileDp())
    start = time.perf_counter()
    value = quickest(form, lost)
    row = {"ratio": ratio, "method": "ours: lost <= HSR", "lost": form.objective(value), "status": "OPTIMAL",
           "speed": dense / form.latency(value), "kept": int(value.sum()),
           "seconds": time.perf_counter() - start}  # fmt: skip
    return [*out, row]


def two_choices(form: TileColumns, ratio: float) -> TileColumns:
    """Allow only the whole tiles below and above what DCP-B keeps."""
    widest = np.zeros(form.n_layers, np.int64)
    np.maximum.at(widest, form.layer, balanced(form, ratio))
    tiles = np.arange(form.cost.shape[1])
    allowed = (tiles >= (widest // form.tile)[:, None]) & (tiles <= -(-widest // form.tile)[:, None])
    return replace(form, cost=np.where(allowed, form.cost, np.inf))


def quickest(form: TileColumns, lost: float) -> Any:
    """Return the value of least latency that loses at most ``lost``: losses as costs, rounded up to 1e-9."""
    unit = 1e9
    there = np.isfinite(form.cost)
    costs = np.where(there, np.ceil(np.where(there, form.loss, 0.0) * unit), 0).astype(np.int64)
    answer = solve(MultipleChoiceKnapsack(form.cost, costs, int(lost * unit)))
    return form.filled(np.asarray(answer.value))


def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    task, names = depthwise_task(read_cnn("efficientnet-lite0"), torch.zeros(1, 3, 224, 224))
    form, dense = task.form, task.dense_latency
    table: list[dict[str, Any]] = []
    quickest(form, 8.0)  # compiles; not timed
    for ratio in RATIOS:
        block = rows(form, ratio, dense)
        table += block
        for row in block:
            print(f"{ratio:.0%} {row['method']:44} lost {row['lost']:.3f} speed {row['speed']:.2f}x "
                  f"kept {row['kept']} {row['status']} {row['seconds']:.3f} s")  # fmt: skip
    store("cnn_depthwise", {"about": described("torch"), "layers": names, "rows": table})


if __name__ == "__main__":
    main()
