"""Learned 2:4 masks: against every mask of small layers, and against one-shot masks of language models.

``python -m benchmarks.masks toy|tiny|ablation|cost|smollm|table [--device cuda]``. Rows go to
``results/masks.json.gz`` one by one; rows that are there are not measured again. ``tiny`` and ``ablation`` use the
model of `benchmarks.masks_model`, trained where the cache has none.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import itertools
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import prunopt as po
from benchmarks.datasets import cache_folder
from benchmarks.machine import described, in_fresh_process, peak_bytes
from benchmarks.masks_model import LENGTH, loss, perplexity, tokens, trained, windows
from benchmarks.results import load, store
from prunopt.forms.layer.nm_patterns import candidates
from prunopt.networks.transformers.learned_masks import (
    MaskTaskOptions,
    layer_names,
    learn_masks,
    mask_task,
    masks_by,
    refit_masks,
    with_masks,
)
from prunopt.networks.transformers.pruning import prune_transformer
from prunopt.networks.transformers.reading import read_model
from prunopt.networks.transformers.text import read_text, token_windows
from prunopt.solvers.relaxed.maskllm import MaskLLM
from prunopt.solvers.relaxed.maskllm_exchange import LearnedExchange
from prunopt.testing.relaxed import linear_layer

Row = dict[str, Any]
SEEDS = 100
ONE_SHOT = ("magnitude", "wanda", "sparsegpt", "mask-descent")
LEARN_BATCH, STEPS, ABLATION_STEPS = 8, 800, 300
CALIBRATION, HELD_OUT, TINY_BATCHES = 128, 800, 4096

TOY: dict[str, tuple[int, dict[str, Any]]] = {
    "3 blocks": (3, {"steps": 1000}),
    "4 blocks": (4, {"steps": 1000}),
    "4 blocks, 300 steps": (4, {"steps": 300}),
    "4 blocks, 300 steps, antithetic": (4, {"steps": 300, "noise": "antithetic"}),
    "4 blocks, 300 steps, expected": (4, {"steps": 300, "noise": "expected"}),
    "4 blocks, 300 steps, kappa 10 to 50": (4, {"steps": 300, "kappa": (10.0, 50.0)}),
    "4 blocks, 300 steps, kappa 10 to 50, expected": (
        4, {"steps": 300, "kappa": (10.0, 50.0), "noise": "expected"},
    ),
    "4 blocks, 300 steps, straight-through": (4, {"steps": 300, "straight_through": True}),
    "4 blocks, 300 steps, entry logits": (4, {"steps": 300, "logits": "entry"}),
}  # fmt: skip

ABLATION: dict[str, tuple[str | None, dict[str, Any]]] = {
    "base": ("sparsegpt", {}),
    "no prior": (None, {}),
    "kappa 1 to 5": ("sparsegpt", {"kappa": (1.0, 5.0)}),
    "no regulariser": ("sparsegpt", {"regulariser": 0.0}),
    "regulariser 1e-3": ("sparsegpt", {"regulariser": 1e-3}),
    "mean instead of noise": ("sparsegpt", {"noise": "none"}),
    "antithetic, half the steps": ("sparsegpt", {"noise": "antithetic", "steps": ABLATION_STEPS // 2}),
    "kappa 1e3 to 5e3": ("sparsegpt", {"kappa": (1e3, 5e3)}),
    "base, seed 1": ("sparsegpt", {"seed": 1}),
    "no prior, seed 1": (None, {"seed": 1}),
    "mean instead of noise, seed 1": ("sparsegpt", {"noise": "none", "seed": 1}),
    "prior magnitude": ("magnitude", {}),
    "prior mask-descent": ("mask-descent", {}),
    "straight-through": ("sparsegpt", {"straight_through": True}),
    "kappa 1e5 to 5e5": ("sparsegpt", {"kappa": (1e5, 5e5)}),
    "no regulariser, seed 1": ("sparsegpt", {"regulariser": 0.0, "seed": 1}),
    "regulariser 1e-3, seed 1": ("sparsegpt", {"regulariser": 1e-3, "seed": 1}),
    "kappa 1 to 5, no prior": (None, {"kappa": (1.0, 5.0)}),
    "entry logits": ("sparsegpt", {"logits": "entry"}),
    "prior wanda": ("wanda", {}),
}


def fill(part: str, jobs: dict[str, Callable[[], Row]], at_most: int | None = None) -> None:
    """Measure what the part's file lacks, so many rows of it, and write after every row."""
    missing = [name for name in jobs if name not in rows_of(part)]
    for name in missing[:at_most]:
        if name in rows_of(part):  # another process may have written rows meanwhile
            continue
        job, start = jobs[name], time.process_time()
        row = job() | {"cpu_seconds": time.process_time() - start}
        store("masks", {part: rows_of(part) | {name: row, "machine": described("torch", "transformers")}})
        brief = {k: v for k, v in row.items() if isinstance(v, int | float | str)}
        print(part, name, {k: round(v, 4) if isinstance(v, float) else v for k, v in brief.items()}, flush=True)


# Small layers, every mask looked at.


def least_of_all(problem: Any, blocks: int) -> float:
    """Return the least objective of one row's masks, all of them at once; checked against the form's own."""
    table = candidates(2, 4).astype(np.float64)
    codes = np.array(list(itertools.product(range(len(table)), repeat=blocks)))
    values = [problem.loss([table[k]]) for k in codes]
    best = int(np.argmin(values))
    return float(problem.objective((codes[best],)))


def toy(blocks: int, options: dict[str, Any]) -> Row:
    """Return the relative gaps to the enumerated optimum over the seeds, of three answers of one run each."""
    solver = LearnedExchange(MaskLLM(check=1, check_samples=True, **options))
    gaps: dict[str, list[float]] = {"published": [], "best seen": [], "exchanged": []}
    start = time.process_time()
    for seed in range(SEEDS):
        problem = linear_layer(np.random.default_rng(seed), 1, blocks)
        least = least_of_all(problem, blocks)
        found = po.solve(problem, solver, seed=seed)
        for key, value in zip(gaps, (found.stats["final"], found.stats["learned"], found.objective), strict=True):
            gaps[key].append(max(0.0, value / least - 1))
    hits = {f"{k}: optimal of {SEEDS}": int(np.sum(np.array(g) < 1e-9)) for k, g in gaps.items()}
    return hits | {"gaps": gaps, "seconds_a_seed": (time.process_time() - start) / SEEDS}


# The tiny language model.


@cache
def tiny() -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the model, windows to calibrate on, windows to learn on, and held-out ones."""
    learned, held_out = tokens()
    calibration = windows(learned, CALIBRATION, seed=100)
    return trained()[0], calibration, windows(learned, TINY_BATCHES, seed=200), windows(held_out)[:HELD_OUT]


@cache
def prior_of(method: str) -> Any:
    """Return the masks of a one-shot method."""
    return masks_by(tiny()[0], tiny()[1], method)


def judged(model: Any) -> Row:
    """Return the held-out perplexity and the losses behind it."""
    value, parts = perplexity(model, tiny()[3])
    return {"perplexity": value, "losses": parts}


def with_refit(masks: Any) -> Row:
    """Return the perplexity of frozen weights, and of kept weights re-solved on the calibration windows."""
    model, calibration = tiny()[:2]
    frozen = judged(with_masks(model, masks))
    refitted = judged(refit_masks(model, masks, calibration))
    return frozen | {"refit_perplexity": refitted["perplexity"], "refit_losses": refitted["losses"]}


def frozen(model: Any, pruned: Any, masks: Any) -> bool:
    """Return whether every kept weight has the bits that it had, and every other parameter too."""
    before, after = model.state_dict(), pruned.state_dict()
    same = True
    for name, tensor in before.items():
        layer = name.removesuffix(".weight")
        kept = torch.from_numpy(masks[layer]) if layer in masks else torch.ones_like(tensor, dtype=torch.bool)
        same = same and bool(torch.equal(after[name][kept], tensor[kept])) and not bool(after[name][~kept].any())
    return same


def learned(prior: str | None, steps: int, device: str, refit: bool = False, seed: int = 0, **options: Any) -> Row:
    """Learn the tiny model's masks and judge them."""
    model, calibration, text, _ = tiny()
    start = None if prior is None else prior_of(prior)
    # A killed run goes on from its checkpoint; the seconds are then those of its last part.
    name = hashlib.sha256(repr((prior, steps, seed, device, sorted(options.items()))).encode()).hexdigest()[:16]
    solver = MaskLLM(**({"steps": steps, "folder": str(cache_folder() / "masks" / name), "every": 50} | options))
    Path(str(solver.folder)).mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    found = learn_masks(
        model, text, prior=start, solver=solver, seed=seed,
        task=MaskTaskOptions(batch=LEARN_BATCH, evaluation=calibration[:16], device=device),
    )  # fmt: skip
    seconds = time.process_time() - began
    row = with_refit(found.masks) if refit else judged(found.model)
    stats = found.solution.stats
    changed = stats["history"][-1]["changed"]
    return row | {
        "changed": changed, "learning_seconds": seconds, "steps": stats["steps"], "history": stats["history"],
        "frozen": frozen(model, found.model, found.masks), "memory_bytes": stats["memory_bytes"],
    }  # fmt: skip


def ours(steps: int, device: str) -> Row:
    """Re-solve under mask-descent's masks, learn masks for these weights, re-solve as far as it helps."""
    model, calibration, text, _ = tiny()
    folder = cache_folder() / "masks" / f"ours_{steps}"
    folder.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    found = learn_masks(
        model, text, prior=prior_of("mask-descent"), solver=MaskLLM(steps=steps, folder=str(folder), every=50),
        refit=True, calibration=calibration,
        task=MaskTaskOptions(batch=LEARN_BATCH, evaluation=calibration[:16], device=device),
    )  # fmt: skip
    stats = found.solution.stats
    return judged(found.model) | {
        "changed": stats["history"][-1]["changed"], "learning_seconds": time.process_time() - began,
        "steps": stats["steps"], "history": stats["history"], "refit_share": found.refit_share,
        "memory_bytes": stats["memory_bytes"],
    }  # fmt: skip


def tiny_rows(device: str) -> dict[str, Callable[[], Row]]:
    """Return the rows of the tiny model's table."""
    rows: dict[str, Callable[[], Row]] = {"dense": lambda: judged(tiny()[0]) | trained()[1]}
    for method in ONE_SHOT:
        rows[method] = lambda m=method: with_refit(prior_of(m))  # type: ignore[misc]
    rows["sparsegpt, its own weights"] = lambda: judged(
        prune_transformer(tiny()[0], tiny()[1], pattern="2:4", method="sparsegpt", sparsity=0.5).model
    )
    rows["maskllm, sparsegpt prior"] = lambda: learned("sparsegpt", STEPS, device, refit=True)
    rows["ours: mask-descent, refit, maskllm, refit"] = lambda: ours(STEPS, device)
    rows["maskllm, no prior"] = lambda: learned(None, STEPS, device, refit=True)
    rows["maskllm, mask-descent prior"] = lambda: learned("mask-descent", STEPS, device, refit=True)
    return rows


def ablation_rows(device: str) -> dict[str, Callable[[], Row]]:
    """Return the rows of the ablation."""
    return {
        name: lambda p=prior, o=options: learned(p, device=device, **({"steps": ABLATION_STEPS} | o))  # type: ignore[misc]
        for name, (prior, options) in ABLATION.items()
    }


# Time and memory.


def memory_of(kind: str) -> dict[str, float]:
    """Return resident bytes above those before the solver, at the peak of three steps; printed by a fresh process."""
    torch.set_num_threads(1)
    rows, columns = 2048, 4096
    pattern = (4, 8) if kind.startswith("4:8") else (2, 4)
    table = candidates(*pattern)
    weight = torch.full((rows, columns), 0.01)

    def relaxed(points: list[Any], step: int) -> Any:
        return (points[0].reshape(rows, columns) * weight).sum() * 1e-3

    form = po.forms.RelaxedMask([rows * columns // pattern[1]], [table], lambda points: 0.0, relaxed)
    solver = MaskLLM(steps=3, logits="entry" if kind.endswith("entry") else "candidate")
    # A first small problem loads what torch loads once.
    small = po.forms.RelaxedMask([4], [table], lambda points: 0.0, lambda points, step: points[0].sum())
    po.solve(small, solver)
    before = peak_bytes()
    po.solve(form, solver)
    return {"measured": peak_bytes() - before, "formula": solver.memory(form), "weights": rows * columns}


def step_times(device: str) -> Row:
    """Return seconds of a step of the masks and of a dense training step on the same batch, in turn."""
    model, _, text, _ = tiny()
    model, text = model.to(device), text[:64]
    # On one thread of a busy machine the processor's time says more than the wall's.
    clock = time.process_time if device == "cpu" else time.perf_counter
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)
    out: dict[str, list[float]] = {}

    def dense() -> None:
        optimizer.zero_grad()
        loss(model, text[:batch].to(device)).backward()
        optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()

    for batch, (kind, options) in itertools.product((8, 32), {"candidate": {}, "entry": {"logits": "entry"}}.items()):
        asked = MaskTaskOptions(batch=batch, evaluation=text[:1].cpu(), device=device)
        task = mask_task(model, text, options=asked)
        solver = MaskLLM(steps=6, device=device, **options)  # type: ignore[arg-type]
        for _ in range(3):
            start = clock()
            for _ in range(solver.steps):
                dense()
            middle = clock()
            po.solve(task, solver)
            for name, seconds in (("dense", middle - start), (kind, clock() - middle)):
                out.setdefault(f"{name} {batch * LENGTH}", []).append(seconds / solver.steps)
    model.to("cpu")
    return {f"seconds: {name} tokens": float(np.median(taken[1:])) for name, taken in out.items()}


def cost_rows(device: str) -> dict[str, Callable[[], Row]]:
    """Return the rows of time and memory."""
    rows: dict[str, Callable[[], Row]] = {"step": lambda: step_times(device)}
    for kind in ("2:4", "2:4 entry", "4:8", "4:8 entry"):
        rows[f"memory {kind}"] = lambda k=kind: in_fresh_process("benchmarks.masks", "memory_of", k)  # type: ignore[misc]
    return rows


# SmolLM2-135M.

SMOL_LENGTH, SMOL_BATCH, SMOL_STEPS, SMOL_BLOCKS = 64, 8, 150, 10
GENTLE_STEPS = 80  # at a tenth of the rate, with little noise: what a short run can afford


@cache
def smol() -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return SmolLM2-135M, calibration windows, windows to learn on, and held-out windows."""
    from benchmarks.masks_model import DATA

    model, tokenizer = read_model("smollm2")
    valid, test = (read_text(DATA / f"wikitext2_{part}.txt") for part in ("valid", "test"))
    calibration = token_windows(tokenizer, valid, length=512, count=8, seed=0)
    text = token_windows(tokenizer, valid, length=SMOL_LENGTH, count=SMOL_STEPS * SMOL_BATCH, seed=1)
    return model, calibration, text, token_windows(tokenizer, test, length=256)[:24]


@cache
def smol_layers(n_blocks: int) -> list[str]:
    """Return the linear layers of the first blocks."""
    return [n for n in layer_names(smol()[0]) if int(n.split("layers.")[1].split(".")[0]) < n_blocks]


@cache
def smol_prior(method: str, n_blocks: int) -> Any:
    """Return a one-shot method's masks of the first blocks, which are what it would choose in the whole model."""
    model = copy.deepcopy(smol()[0])
    model.model.layers = model.model.layers[:n_blocks]
    model.config.num_hidden_layers = n_blocks
    return masks_by(model, smol()[1], method)


def smol_judged(model: Any) -> Row:
    """Return the held-out perplexity."""
    with torch.no_grad():
        parts = [float(loss(model, part)) for part in torch.split(smol()[3], 2)]
    return {"perplexity": float(np.exp(np.mean(parts))), "losses": parts}


def smol_one_shot(method: str, n_blocks: int) -> Row:
    """Judge a one-shot method's masks of the first blocks, the blocks after them dense."""
    return smol_judged(with_masks(smol()[0], smol_prior(method, n_blocks)))


def smol_learned(prior: str | None, n_blocks: int, device: str, steps: int = SMOL_STEPS, **options: Any) -> Row:
    """Learn masks of the first blocks, the blocks after them dense; the losses in bfloat16."""
    model, _, text, _ = smol()
    layers = smol_layers(n_blocks)
    start = None if prior is None else smol_prior(prior, n_blocks)
    name = f"smollm_{prior}_{n_blocks}" + (f"_{steps}_gentle" if options else "")
    solver = MaskLLM(steps=steps, folder=str(cache_folder() / "masks" / name), every=25, **options)
    Path(str(solver.folder)).mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    found = learn_masks(
        model, text, prior=start, solver=solver,
        task=MaskTaskOptions(layers, SMOL_BATCH, text[:8], device, torch.bfloat16),
    )  # fmt: skip
    stats = found.solution.stats
    return smol_judged(found.model) | {
        "learning_seconds": time.process_time() - began, "steps": stats["steps"], "history": stats["history"],
        "changed": stats["history"][-1]["changed"], "tokens": steps * SMOL_BATCH * SMOL_LENGTH,
        "memory_bytes": stats["memory_bytes"], "peak_bytes": peak_bytes(),
        "frozen": frozen(model, found.model, found.masks),
    }  # fmt: skip


def smol_rows(device: str, n_blocks: int) -> dict[str, Callable[[], Row]]:
    """Return the rows of SmolLM2."""
    rows: dict[str, Callable[[], Row]] = {"dense": lambda: smol_judged(smol()[0])}
    for method in ONE_SHOT:
        rows[f"{method}, {n_blocks} blocks"] = lambda m=method: smol_one_shot(m, n_blocks)  # type: ignore[misc]
    for prior in ("sparsegpt",):
        rows[f"maskllm from {prior}, {n_blocks} blocks"] = lambda p=prior: smol_learned(p, n_blocks, device)  # type: ignore[misc]
        rows[f"maskllm from {prior}, {n_blocks} blocks, gentle"] = lambda p=prior: smol_learned(  # type: ignore[misc]
            p, n_blocks, device, GENTLE_STEPS, learning_rate=0.1 / GENTLE_STEPS, kappa=(200.0, 500.0)
        )
    return rows


# Tables.


def rows_of(part: str) -> dict[str, Any]:
    """Return the rows on file."""
    found: dict[str, Any] = load("masks", part, {})
    found.pop("machine", None)
    return found


def difference(row: Row, to: Row) -> str:
    """Return the paired difference of losses in nats per token, with its standard error over groups of windows."""
    d = np.array(row["losses"]) - np.array(to["losses"])
    return f"{d.mean():+.4f} ± {d.std(ddof=1) / np.sqrt(len(d)):.4f}"


def table() -> None:
    """Print all tables from the files."""
    print("| toy | answer | optimal of 100 | mean gap | 95 % of gaps below | largest gap |\n|---|---|---|---|---|---|")
    for name, row in rows_of("toy").items():
        for answer, gaps in row["gaps"].items():
            g = np.array(gaps)
            cells = (f"{int((g < 1e-9).sum())}", *(f"{v:.2%}" for v in (g.mean(), np.quantile(g, 0.95), g.max())))
            print(f"| {name} | {answer} | " + " | ".join(cells) + " |")
    for part, base in (("tiny", "maskllm, sparsegpt prior"), ("ablation", "base")):
        rows = rows_of(part)
        print(
            f"\n| {part} | perplexity | nats against '{base}' | refitted | changed | CPU s |\n|---|---|---|---|---|---|"
        )
        for name, row in rows.items():
            refit = f"{row['refit_perplexity']:.2f}" if "refit_perplexity" in row else ""
            changed = f"{row['changed']:.1%}" if "changed" in row else ""
            against = difference(row, rows[base]) if base in rows else ""
            seconds = f"{row.get('learning_seconds', row['cpu_seconds']):.0f}"
            print(f"| {name} | {row['perplexity']:.2f} | {against} | {refit} | {changed} | {seconds} |")
    for part in ("cost", "smollm"):
        print()
        for name, row in rows_of(part).items():
            print(name, {k: v for k, v in row.items() if not isinstance(v, list)})


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=("toy", "tiny", "ablation", "cost", "smollm", "table"))
    parser.add_argument("--device", default="cpu", help="where masks of models are learned: cpu or cuda")
    parser.add_argument(
        "--blocks", type=int, default=SMOL_BLOCKS, help="smollm: how many of its first blocks are masked"
    )
    parser.add_argument("--at-most", type=int, help="how many rows of each part are measured in this run")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    parts: dict[str, Callable[[], dict[str, Callable[[], Row]]]] = {
        "toy": lambda: {name: lambda b=b, o=o: toy(b, o) for name, (b, o) in TOY.items()},  # type: ignore[misc]
        "tiny": lambda: tiny_rows(given.device),
        "ablation": lambda: ablation_rows(given.device),
        "cost": lambda: cost_rows(given.device),
        "smollm": lambda: smol_rows(given.device, given.blocks),
    }
    for what in given.what:
        if what == "table":
            table()
        else:
            fill(what, parts[what](), given.at_most)


if __name__ == "__main__":
    main()
