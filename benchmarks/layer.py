"""Layers of a real language model: heads, feed-forward columns and single weights against SlimGPT and SparseGPT.

``python -m benchmarks.layer heads|ffn|large|huge|masks|tokens|speed``. The layers are those of `benchmarks.layer_data`.
The last three call llm-compressor with the Python that ``PRUNOPT_PEER_PYTHON`` names (``python -m venv V;
V/bin/pip install llmcompressor==0.14.0.1 torch==2.13.0``); without it the peer's rows of ``masks`` are left out. What
is in ``results/layer.json.gz`` is not measured again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import prunopt as po
from benchmarks.layer_data import HEAD, LAYERS, QUERY_HEADS, Layer, layer
from benchmarks.machine import interleaved, median, peak_bytes, recorded, seconds
from prunopt.core.registry import load_solvers
from prunopt.core.solver import Limits, Run, by_name
from prunopt.forms import MaskBlocks, QuadraticSubset
from prunopt.solvers.layer._mask_sweep import sweep
from prunopt.solvers.layer.mask_descent import MaskDescent
from prunopt.solvers.layer.obs_greedy import ObsGreedy, greedy
from prunopt.solvers.layer.slimgpt import SlimGpt, inverted

HEAD_SOLVERS = ("obs-swap", "obs-greedy", "slimgpt", "wanda", "magnitude")
DAMPING = 0.01


def relative(data: Layer, weight: Any, which: str) -> float:
    """||WX - W'X||^2 / ||WX||^2 on the calibration or the held-out text."""
    hessian = getattr(data, which)
    change = data.weight - weight
    return float(np.vdot(change @ hessian, change) / np.vdot(data.weight @ hessian, data.weight))


def heads() -> dict[str, Any]:
    """Attention heads of o_proj: every solver's error over the proven optimum."""

    def case(number: int, remove: int) -> Any:
        data = layer(number, "self_attn.o_proj")
        groups = [list(range(h * HEAD, (h + 1) * HEAD)) for h in range(QUERY_HEADS)]
        form = QuadraticSubset(data.weight, data.calibration, groups, remove, damping=DAMPING)
        proof = po.solve(form, "obs-branch-and-bound")
        row = {"optimum": proof.objective, "gap": proof.gap, "status": proof.status.name, "nodes": proof.stats["nodes"]}
        for name in HEAD_SOLVERS:
            row[name] = po.solve(form, name).objective / proof.objective
        return row

    cases = [(number, remove) for number in LAYERS for remove in (2, 3, 4, 5)]
    return recorded("layer", "heads", {f"layer {n}, remove {r} of 9": lambda n=n, r=r: case(n, r) for n, r in cases})


def ffn() -> dict[str, Any]:
    """Half of the feed-forward columns: `obs-greedy` against `slimgpt`, error and time of the solvers alone."""

    def case(number: int) -> Any:
        data = layer(number, "mlp.down_proj")
        form = QuadraticSubset(data.weight, data.calibration, [[j] for j in range(1536)], 768, damping=DAMPING)
        row: dict[str, Any] = {}
        fresh = lambda: QuadraticSubset(form.weight, form.hessian, form.groups, form.remove, damping=DAMPING)  # noqa: E731
        jobs = {name: _job(fresh, by_name(name)()) for name in ("obs-greedy", "slimgpt")}
        for name, taken in interleaved(jobs, runs=3).items():
            row[f"{name} seconds"] = median(taken)
        for name in ("obs-greedy", "slimgpt", "obs-swap", "wanda", "magnitude"):
            answer = po.solve(form, name)
            row[name] = answer.objective / form.energy
            row[f"{name} held-out"] = relative(data, form.lift(answer.value), "heldout")
        row["setting up the form seconds"] = seconds(fresh)
        return row

    return recorded("layer", "ffn", {f"layer {n}": lambda n=n: case(n) for n in LAYERS})


def _job(fresh: Callable[[], QuadraticSubset], solver: Any) -> Callable[[], Any]:
    """Solve from nothing each time: `obs-greedy` pays for its one inversion, each solver for its answer's objective."""
    return lambda: solver.solve(fresh(), Limits(), 0)


def synthetic(rows: int, columns: int, seed: int = 0) -> tuple[Any, Any]:
    """Random weights, and a Hessian whose spectrum falls like a real one (power 1.2), in random directions."""
    rng = np.random.default_rng(seed)
    spectrum = np.arange(1, columns + 1) ** -1.2 + 1e-4
    basis = rng.normal(size=(columns, columns)).astype(np.float32) / np.sqrt(columns)
    hessian = (basis * spectrum.astype(np.float32)) @ basis.T
    hessian[np.diag_indices(columns)] *= 1 + rng.random(columns).astype(np.float32)
    return rng.normal(size=(rows, columns)).astype(np.float32), hessian


def large() -> dict[str, Any]:
    """Larger layers in single precision, half of the columns removed: seconds of `obs-greedy` and of `slimgpt`."""

    def case(columns: int) -> Any:
        weight, hessian = synthetic(columns // 4, columns)
        form = QuadraticSubset(weight, hessian, [[j] for j in range(columns)], columns // 2, damping=DAMPING)
        row: dict[str, Any] = {"rows": columns // 4, "inversion seconds": seconds(lambda: form.inverse)}
        for solver in (ObsGreedy(precision="single"), SlimGpt(precision="single")):
            answers: list[Any] = []
            row[f"{solver.name} seconds"] = seconds(lambda s=solver, a=answers: a.append(s.solve(form, Limits(), 0)))
            row[f"{solver.name}"] = answers[0].objective / form.energy
            row[f"{solver.name} steps"] = answers[0].stats.get("downdates", answers[0].stats.get("inversions"))
        return row

    return recorded("layer", "large", {f"d = {d}": lambda d=d: case(d) for d in (1024, 2048, 4096)})


def huge() -> dict[str, Any]:
    """d = 11008, half removed: `obs-greedy` measured; of `slimgpt` one inversion, times the number of its batches."""

    def case(columns: int) -> Any:
        weight, hessian = synthetic(1024, columns)
        form = QuadraticSubset(weight, hessian, [[j] for j in range(columns)], columns // 2, damping=DAMPING)
        row: dict[str, Any] = {"rows": 1024, "inversion in double seconds": seconds(lambda: form.inverse)}
        run = Run(Limits())
        row["obs-greedy downdates seconds"] = seconds(lambda: greedy(form, run, precision="single"))
        single = form.normal.astype(np.float32)
        row["inversion in single seconds"] = seconds(lambda: inverted(single))
        b, left, batches = (form.remove - 512) // 2, form.remove, 0
        while left > 0:
            b, left, batches = (b - 512) // 2, left - min(left, max(b, 64), 1024), batches + 1
        row["slimgpt batches"] = batches
        row["slimgpt at least seconds"] = batches * row["inversion in single seconds"]
        row["peak bytes"] = peak_bytes()
        return row

    return recorded("layer", "huge", {f"d = {d}": lambda d=d: case(d) for d in (4096, 11008)})


def masks() -> dict[str, Any]:
    """2:4 and 50 % unstructured against llm-compressor's SparseGPT on the same weight and Hessian."""

    def case(number: int, module: str, pattern: str) -> Any:
        data = layer(number, module)
        options: dict[str, Any] = {"pattern": (2, 4)} if pattern == "2:4" else {"sparsity": 0.5, "scope": "layer"}
        row: dict[str, Any] = {}

        def fresh() -> MaskBlocks:
            return MaskBlocks(data.weight, data.calibration, damping=DAMPING, **options)

        def note(name: str, weight: Any, taken: float) -> None:
            row[name] = {w: relative(data, weight, w) for w in ("calibration", "heldout")} | {"seconds": taken}

        peer = os.environ.get("PRUNOPT_PEER_PYTHON")
        if peer:
            weight, taken = _peer(peer, data, pattern)
            note("llm-compressor SparseGPT", weight, taken)
        form = fresh()
        jobs: dict[str, Callable[[], Any]] = {
            "sparsegpt (no refit)": lambda: sweep(fresh(), 128, None)[1],
            "sparsegpt + refit": lambda: _refit("sparsegpt", fresh()),
            "wanda + refit": lambda: _refit("wanda", fresh()),
            "mask-descent": lambda: _refit("mask-descent", fresh()),
            "mask-descent, 4 sweeps": lambda: _refit(MaskDescent(sweeps=4), fresh()),
        }
        for name, job in jobs.items():
            found: list[Any] = []
            taken = [seconds(lambda j=job, f=found: f.append(j())) for _ in range(1 if "refit" in name else 2)]
            note(name, found[-1], min(taken))  # the first call may compile
        for name in ("wanda", "magnitude"):
            note(f"{name} (no refit)", form.masked(po.solve(form, name).value), 0.0)
        return row

    cases = [(9, "mlp.down_proj"), (19, "mlp.down_proj"), (9, "self_attn.o_proj"), (9, "mlp.gate_proj")]
    rows = {f"{p} layers.{n}.{m}": lambda n=n, m=m, p=p: case(n, m, p) for p in ("2:4", "50 %") for n, m in cases}
    return recorded("layer", "masks", rows)


def tokens() -> dict[str, Any]:
    """How the gain over llm-compressor's SparseGPT depends on the number of calibration tokens."""

    def case(windows: int, pattern: str) -> Any:
        data = layer(9, "mlp.down_proj", windows)
        weight, _ = _peer(os.environ["PRUNOPT_PEER_PYTHON"], data, pattern)
        options: dict[str, Any] = {"pattern": (2, 4)} if pattern == "2:4" else {"sparsity": 0.5, "scope": "layer"}
        form = MaskBlocks(data.weight, data.calibration, damping=DAMPING, **options)
        ours = _refit("mask-descent", form)
        return {
            which: {"llm-compressor": relative(data, weight, which), "mask-descent": relative(data, ours, which)}
            for which in ("calibration", "heldout")
        }

    rows = {f"{p}, {512 * n} tokens": lambda n=n, p=p: case(n, p) for p in ("2:4", "50 %") for n in (4, 16, 64)}
    return recorded("layer", "tokens", rows)


def speed() -> dict[str, Any]:
    """Seconds to SparseGPT's own quality, everything from the Hessian on: the peer and our sweep, three calls each."""

    def case(module: str, pattern: str) -> Any:
        data = layer(9, module)
        options: dict[str, Any] = {"pattern": (2, 4)} if pattern == "2:4" else {"sparsity": 0.5, "scope": "layer"}
        job = lambda: sweep(MaskBlocks(data.weight, data.calibration, damping=DAMPING, **options), 128, None)  # noqa: E731
        job()
        rounds = [(_peer(os.environ["PRUNOPT_PEER_PYTHON"], data, pattern)[1], seconds(job)) for _ in range(3)]
        return {"llm-compressor": median([p for p, _ in rounds]), "prunopt": median([o for _, o in rounds])}

    cases = [(p, m) for p in ("2:4", "50 %") for m in ("mlp.down_proj", "self_attn.o_proj")]
    return recorded("layer", "speed", {f"{p} layers.9.{m}": lambda m=m, p=p: case(m, p) for p, m in cases})


def _refit(solver: Any, form: MaskBlocks) -> Any:
    chosen = by_name(solver)() if isinstance(solver, str) else solver
    return form.lift(chosen.solve(form, Limits(), 0).value)


def _peer(python: str, data: Layer, pattern: str) -> tuple[Any, float]:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(source, weight=data.weight, hessian=data.calibration)
        script = str(Path(__file__).with_name("layer_peer.py"))
        kind = "2:4" if pattern == "2:4" else "unstructured"
        subprocess.run([python, "-P", script, str(source), str(target), kind], check=True, cwd=folder)
        with np.load(target, allow_pickle=False) as arrays:
            return arrays["weight"].astype(np.float64), median(arrays["seconds"].tolist())


PARTS = {"heads": heads, "ffn": ffn, "large": large, "huge": huge, "masks": masks, "tokens": tokens, "speed": speed}

if __name__ == "__main__":
    load_solvers()
    for part in sys.argv[1:] or PARTS:
        if part not in PARTS:
            raise SystemExit(f"part={part!r}: give some of {', '.join(PARTS)}")
        PARTS[part]()
