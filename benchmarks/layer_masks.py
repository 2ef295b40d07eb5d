"""Masks of single weights on layers of a real language model: errors on two texts, seconds, and proven gaps.

``python -m benchmarks.layer_masks masks|gaps|blocks|speed|whole|table``. Layers are those of `benchmarks.layer_data`,
their Hessian shrunk by 0.2 towards its diagonal and damped by 0.01, as `prune_transformer` does; of down_proj 96 rows,
drawn at random, of o_proj all 576; ``blocks`` proves gaps of all layers of two blocks, 96 rows of each; ``whole`` takes
all rows of one down_proj. Kept weights are re-solved. What is in ``results/layer_masks.json.gz`` (``whole``:
``results/layer_masks_whole.json.gz``) is not measured again.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import prunopt as po
from benchmarks.layer_data import MODULES, layer
from benchmarks.machine import interleaved, recorded, seconds
from benchmarks.results import load
from prunopt.core.solver import Limits, Run
from prunopt.forms import MaskBlocks, QuadraticSubset
from prunopt.solvers.layer._mask_proof import prove
from prunopt.solvers.layer.mask_descent import MaskDescent
from prunopt.solvers.layer.obc import Obc

CASES = [(9, "self_attn.o_proj"), (9, "mlp.down_proj")]
SHAPES: dict[str, dict[str, Any]] = {"50 %": {"sparsity": 0.5}, "2:4": {"pattern": (2, 4)}}
SOLVERS: dict[str, Any] = {
    "wanda": "wanda",
    "sparsegpt": "sparsegpt",
    "mask-descent": "mask-descent",
    "mask-descent, swaps=2": MaskDescent(swaps=2),
    "obc, swaps=0": Obc(swaps=0, proof=0),
    "obc": Obc(proof=0),
    "obc, swaps=4": Obc(swaps=4, proof=0),
}
BLOCKS = (9, 19)
ROWS, SHRINKAGE, DAMPING, SWEEPS = 96, 0.2, 0.01, 60
LONGER = 200  # sweeps for 2:4, whose bounds close more slowly


def form_of(number: int, module: str, shape: str, rows: int | None = None) -> tuple[MaskBlocks, dict[str, Any]]:
    """Return the form, and the Hessians of both texts."""
    data = layer(number, module)
    weight = data.weight
    if rows is None and module.startswith("mlp"):
        rows = ROWS
    if rows is not None:
        weight = weight[np.sort(np.random.default_rng(0).choice(len(weight), rows, replace=False))]
    hessian = (1 - SHRINKAGE) * data.calibration
    np.fill_diagonal(hessian, np.diagonal(data.calibration))
    form = MaskBlocks(np.ascontiguousarray(weight), hessian, damping=DAMPING, **SHAPES[shape])
    return form, {"calibration": data.calibration, "heldout": data.heldout}


def masks() -> dict[str, Any]:
    """Every solver's objective and errors, with its seconds for a layer whose form is fresh."""

    def case(number: int, module: str, shape: str) -> Any:
        form, texts = form_of(number, module, shape)
        row: dict[str, Any] = {"rows": form.shape[0]}
        small = MaskBlocks(form.weight[:2, :64], form.hessian[:64, :64], damping=DAMPING, **SHAPES[shape])
        for name, solver in SOLVERS.items():
            po.solve(small, solver)  # compiled
            answers: list[Any] = []
            fresh = MaskBlocks(form.weight, form.hessian, damping=DAMPING, **SHAPES[shape])
            taken = seconds(lambda f=fresh, s=solver, a=answers: a.append(po.solve(f, s)))
            change = form.weight - fresh.refit(answers[0].value)
            row[name] = {"objective": answers[0].objective / form.energy, "seconds": taken}
            for which, hessian in texts.items():
                row[name][which] = float(
                    np.vdot(change @ hessian, change) / np.vdot(form.weight @ hessian, form.weight)
                )
        return row

    return recorded("layer_masks", "masks", {f"{n} {m} {s}": lambda c=(n, m, s): case(*c) for n, m, s in _cases()})


def gaps() -> dict[str, Any]:
    """The bound of a layer, relative to its energy, after some sweeps; seconds to find it and to check it."""

    def case(number: int, module: str, shape: str) -> Any:
        form, _ = form_of(number, module, shape)
        answer = po.solve(form, Obc(swaps=4, proof=0))
        row: dict[str, Any] = {"rows": form.shape[0], "objective": answer.objective / form.energy}
        for sweeps in (20, SWEEPS):
            found: list[Any] = []
            weights = form.refit(answer.value)
            taken = seconds(lambda n=sweeps, f=found, w=weights: f.append(prove(form, w, n, Run(Limits()))))
            checked = seconds(lambda f=found: f.append(form.bound(f[0])))
            row[f"{sweeps} sweeps"] = {"bound": found[1] / form.energy, "seconds": taken, "check seconds": checked}
        return row

    return recorded("layer_masks", "gaps", {f"{n} {m} {s}": lambda c=(n, m, s): case(*c) for n, m, s in _cases()})


def blocks() -> dict[str, Any]:
    """The proven gap of every layer of two blocks: how far the mask is from the best at most, as a share of its own."""

    def case(number: int, module: str, shape: str) -> Any:
        form, _ = form_of(number, module, shape, rows=ROWS)
        answer = po.solve(form, Obc(swaps=4, proof=SWEEPS if shape == "50 %" else LONGER))
        po.verify(form, answer)
        return {"rows": form.shape[0], "gap": 1 - answer.bound / answer.objective,
                "objective": answer.objective / form.energy}  # fmt: skip

    cases = [(n, m, s) for n in BLOCKS for m in MODULES for s in SHAPES]
    return recorded("layer_masks", "blocks", {f"{n} {m} {s}": lambda c=(n, m, s): case(*c) for n, m, s in cases})


def speed() -> dict[str, Any]:
    """One core, one BLAS thread: `obs-greedy` called row by row, its forms set up or not counted, against `obc`."""

    def case(number: int, module: str) -> Any:
        form, _ = form_of(number, module, "50 %")
        d, rows = form.shape[1], 8
        form = MaskBlocks(form.weight[:rows], form.hessian, damping=DAMPING, sparsity=0.5)
        groups = [[j] for j in range(d)]

        def one(w: Any) -> Any:
            return QuadraticSubset(w[None], form.hessian, groups, form.n_removed, damping=DAMPING)

        ready = [one(w) for w in form.weight]
        for each in ready:
            _ = each.inverse
        jobs: dict[str, Any] = {
            "obs-greedy": lambda: [po.solve(one(w), "obs-greedy") for w in form.weight],
            "obs-greedy, forms ready": lambda: [po.solve(each, "obs-greedy") for each in ready],
            "obc, swaps=0": lambda: po.solve(form, Obc(swaps=0, proof=0, n_jobs=1)),
            "obc": lambda: po.solve(form, Obc(proof=0, n_jobs=1)),
        }
        with threadpool_limits(1, "blas"):
            return {name: min(taken) / rows for name, taken in interleaved(jobs, runs=3).items()}

    return recorded("layer_masks", "speed", {f"{n} {m}": lambda c=(n, m): case(*c) for n, m in CASES})


def whole() -> dict[str, Any]:
    """All rows of a 576 x 1536 layer at 50 %, one thread: errors and processor seconds, the form's inverse included."""
    solvers = {
        "wanda": "wanda",
        "mask-descent": MaskDescent(),
        "mask-descent, swaps=1": MaskDescent(swaps=1),
        "obc, swaps=0, batch=64, reach=0.02": Obc(swaps=0, batch=64, reach=0.02, proof=0, n_jobs=1),
        "obc, swaps=0, batch=64, reach=0.1": Obc(swaps=0, batch=64, reach=0.1, proof=0, n_jobs=1),
        "obc, swaps=0": Obc(swaps=0, proof=0, n_jobs=1),
        "obc": Obc(proof=0, n_jobs=1),
    }
    form, texts = form_of(9, "mlp.down_proj", "50 %", rows=576)

    def case(solver: Any) -> Any:
        po.solve(MaskBlocks(form.weight[:2, :64], form.hessian[:64, :64], sparsity=0.5), solver)  # compiled
        fresh = MaskBlocks(form.weight, form.hessian, damping=DAMPING, sparsity=0.5)
        start = time.process_time()
        answer = po.solve(fresh, solver)
        row = {"seconds": time.process_time() - start, "objective": answer.objective / form.energy}
        change = form.weight - fresh.refit(answer.value)
        for text, hessian in texts.items():
            row[text] = float(np.vdot(change @ hessian, change) / np.vdot(form.weight @ hessian, form.weight))
        return row

    with threadpool_limits(1, "blas"):
        return recorded("layer_masks_whole", "50 %", {n: partial(case, s) for n, s in solvers.items()})


def _cases() -> list[tuple[int, str, str]]:
    return [(n, m, s) for n, m in CASES for s in SHAPES]


def table() -> None:
    """Print the tables from the file."""
    proven = load("layer_masks", "gaps", {"rows": {}})["rows"]
    print("| layer | " + " | ".join(SOLVERS) + " |")
    for name, row in load("layer_masks", "masks")["rows"].items():
        cells = [f"{r['calibration']:.4f} / {r['heldout']:.4f}, {r['seconds']:.1f} s" for r in map(row.get, SOLVERS)]
        print(f"| {name} ({row['rows']} rows) | " + " | ".join(cells) + " |")
        if name in proven:
            bound = proven[name][f"{SWEEPS} sweeps"]["bound"]
            print("| gaps | " + " | ".join(f"{1 - bound / row[s]['objective']:.1%}" for s in SOLVERS) + " |")
    for name, row in proven.items():
        found = {k: f"{1 - r['bound'] / row['objective']:.1%} {r}" for k, r in row.items() if isinstance(r, dict)}
        print(name, found)
    for name, row in load("layer_masks", "blocks", {"rows": {}})["rows"].items():
        print(name, f"{row['gap']:.1%}")
    for name, row in load("layer_masks_whole", "50 %", {"rows": {}})["rows"].items():
        print(name, f"{row['calibration']:.5f} / {row['heldout']:.5f}, {row['seconds']:.1f} s")
    for name, row in load("layer_masks", "speed", {"rows": {}})["rows"].items():
        print(name, {k: f"{1e3 * v:.1f} ms" for k, v in row.items()}, f"{row['obs-greedy'] / row['obc']:.1f} x")


if __name__ == "__main__":
    for what in sys.argv[1:]:
        {"masks": masks, "gaps": gaps, "blocks": blocks, "speed": speed, "whole": whole, "table": table}[what]()
