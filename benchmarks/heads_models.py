"""Heads of models with real weights: MiniLM's embeddings, SmolLM2's perplexity, measured speed, and the tables.

Called by `benchmarks.heads`. Selections are chosen on a few sentences (or windows) and judged on others.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import prunopt as po
from benchmarks.datasets import cache_folder, data_folder
from benchmarks.machine import median, recorded
from benchmarks.results import load
from prunopt.core.files import write_json
from prunopt.networks.heads import Batch, HeadLoss, embedding_batches, embedding_loss, export_onnx, prune_heads
from prunopt.networks.heads.losses import next_token_loss, sentence_embeddings
from prunopt.networks.transformers.reading import read_model
from prunopt.networks.transformers.text import read_text, token_losses, token_windows
from prunopt.problems import HeadSelection
from prunopt.solvers.subset.greedy import Greedy
from prunopt.solvers.subset.head_importance import HeadImportance
from prunopt.solvers.subset.surrogate import Surrogate
from prunopt.solvers.subset.swap import Swap

KS = range(1, 11)  # of 12 heads of the digits transformer removed
LEVELS = (7, 14, 22, 29, 36, 43, 50, 58)  # of 72 heads removed: 10 % to 80 %
GROUPS = (9, 18, 27, 45)  # of 90 key-value groups removed
SCREEN = 10  # heads tried at each step of the greedy start
TRIALS, NODES = 80, 50_000  # losses tried after it, by surrogate and by swap, and nodes of one model's search tree
METHODS = ("paper", "re-scored", "ours")
# The embedding loss has no slopes at the whole model: importance by them starts from rounding error.
FLAT, FLAT_STEPS = "paper, slopes of the embedding loss", "re-scored, slopes of the embedding loss"
NAMES = {"paper": "example-abs, l2 (the paper)", "re-scored": "example-abs, re-scored every 10 %", "ours": "ours"}


class Remembered:
    """A loss whose values are kept in a file, so that a second run, or another method, need not compute them."""

    def __init__(self, loss: HeadLoss, name: str) -> None:
        self.inner, self.file = loss, cache_folder() / f"{name}.json"
        self.known: dict[str, float] = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.new = 0
        self.scores = loss.scores

    def __call__(self, kept: Any) -> float:
        """Return the loss."""
        key = np.packbits(kept).tobytes().hex()
        if key not in self.known:
            self.known[key] = self.inner(kept)
            self.new += 1
            if self.new % 50 == 0:
                write_json(self.file, self.known)
                print(f"{self.file.stem}: {len(self.known)} losses", flush=True)
        return self.known[key]

    def keep(self) -> None:
        """Write what is known."""
        write_json(self.file, self.known)


def selected(loss: Remembered, removed: int, method: str, trials: int = TRIALS) -> Any:
    """Return a method's answer for so many removed heads; ours is the best by loss of `surrogate` and `swap`."""
    n = sum(loss.inner.n_heads)
    loss.inner.normalise = method in ("paper", FLAT)
    given = loss.inner.score_loss
    if method in (FLAT, FLAT_STEPS):
        loss.inner.score_loss = embedding_loss
    task = HeadSelection.from_loss(loss, loss.inner.n_heads, n - removed, exactly=True,
                                   heads_per_group=loss.inner.heads_per_group)  # fmt: skip
    try:
        if method in ("paper", FLAT):
            return po.solve(task, HeadImportance())
        if method in ("re-scored", FLAT_STEPS):
            # 10 % of all heads a step, as the paper's schedule and the transformers library's script have it
            return po.solve(task, HeadImportance(steps=max(1, round(removed / (0.1 * n)))))
        start = po.solve(task, Greedy(screen=SCREEN))
        more = int(start.stats["evaluations"]) + trials
        modelled = Surrogate(screen=SCREEN, samples=trials // 2, evaluations=trials, nodes=NODES)
        exchanged = po.solve(task, Swap(screen=SCREEN), limits=po.Limits(evaluations=more))
        answers = [start, po.solve(task, modelled), exchanged]
        print(removed, [(a.solver, round(a.objective, 5), a.stats["evaluations"]) for a in answers], flush=True)
        return min(answers, key=lambda a: float(a.objective))
    finally:
        loss.inner.normalise, loss.inner.score_loss = False, given
        loss.keep()


def sick() -> tuple[list[str], list[str], Any]:
    """Return pairs of sentences and their relatedness."""
    lines = (data_folder() / "SICK_train.txt").read_text("utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    return [r[1] for r in rows], [r[2] for r in rows], np.array([float(r[3]) for r in rows])


def sst2(part: str) -> tuple[list[str], Any]:
    """Return sentences and sentiments."""
    lines = (data_folder() / f"sst2_{part}.tsv").read_text("utf-8").splitlines()
    rows = [line.rsplit("\t", 1) for line in lines]
    rows = [r for r in rows if len(r) == 2 and r[1] in ("0", "1")]
    return [r[0] for r in rows], np.array([int(r[1]) for r in rows])


@torch.no_grad()
def embed(model: Any, tokenizer: Any, texts: Sequence[str]) -> Any:
    """Return embeddings, (texts, width)."""
    order = np.argsort([len(t) for t in texts], kind="stable")
    out = np.zeros((len(texts), 384))
    for part in np.array_split(order, max(1, len(order) // 32)):
        inputs = tokenizer([texts[i] for i in part], padding=True, truncation=True, max_length=128, return_tensors="pt")
        out[part] = sentence_embeddings(model(**inputs).last_hidden_state, inputs["attention_mask"]).numpy()
    return out


class Probes:
    """What embeddings are good for: cosine to the dense model's, SICK relatedness, SST-2 with a logistic head."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        a, b, gold = sick()
        train, test = sst2("train"), sst2("dev")
        self.tokenizer, self.gold = tokenizer, gold[-200:]
        self.parts = [a[-200:], b[-200:], train[0][-250:], test[0][:300]]
        self.labels = train[1][-250:], test[1][:300]
        self.dense = self._all(model)

    def _all(self, model: Any) -> list[Any]:
        return [embed(model, self.tokenizer, p) for p in self.parts]

    def __call__(self, model: Any | None = None) -> dict[str, float]:
        """Return the figures of a model; None: of the dense one."""
        from scipy.stats import spearmanr
        from sklearn.linear_model import LogisticRegression

        found = self.dense if model is None else self._all(model)
        cosine = np.concatenate([(x * d).sum(axis=1) for x, d in zip(found, self.dense, strict=True)])
        probe = LogisticRegression(max_iter=2000, C=10).fit(found[2], self.labels[0])
        return {
            "cosine": float(cosine.mean()),
            "cosine, standard error": float(cosine.std() / np.sqrt(len(cosine))),
            "sick": float(spearmanr((found[0] * found[1]).sum(axis=1), self.gold).statistic),
            "sst2": float(probe.score(found[3], self.labels[1])),
        }


def minilm() -> dict[str, Any]:
    """72 heads of MiniLM: chosen on 24 SICK and 24 SST-2 sentences, repaired on 100 of each, judged on others."""
    model, tokenizer = read_model("minilm")
    first, _, _ = sick()
    films, _ = sst2("train")
    few = embedding_batches(model, tokenizer, first[:24] + films[:24], size=16)
    many = embedding_batches(model, tokenizer, first[:100] + films[:100], size=32)
    loss = Remembered(HeadLoss(model, few, embedding_loss, cache_bytes=2**29), "heads-minilm")
    probes = Probes(model, tokenizer)

    done: dict[tuple[str, bool], dict[str, float]] = {}

    def judged(kept: Any, repair: bool) -> dict[str, float]:
        key = kept.tobytes().hex(), repair
        if key not in done:
            done[key] = probes(prune_heads(model, kept, batches=many, repair=repair).model)
        return done[key]

    def case(removed: int, method: str) -> dict[str, Any]:
        solution = selected(loss, removed, method)
        row = {"loss": solution.objective, "by": solution.solver, "evaluations": solution.stats["evaluations"],
               "kept": np.packbits(solution.value).tobytes().hex()}  # fmt: skip
        if method != FLAT:
            row |= {"removed": judged(solution.value, False), "repaired": judged(solution.value, True)}
        return row

    def importance() -> list[float]:
        return [float(v) for v in loss.scores(np.ones(72, np.bool_))]

    rows: dict[str, Any] = {"dense": probes, "importance": importance}
    order = sorted(LEVELS, key=lambda r: (r not in (7, 22, 36, 50), abs(r - 36)))  # half first: `speed` wants it
    for methods in (METHODS, (FLAT,), (FLAT_STEPS,)):
        rows |= {f"{r} of 72, {m}": lambda r=r, m=m: case(r, m) for r in order for m in methods}
    return recorded("heads", "minilm", rows, "torch", "transformers")


def smollm2() -> dict[str, Any]:
    """30 x 3 groups of SmolLM2: chosen on 2 x 128 tokens in bfloat16, judged on 6 x 256 of the test in float32."""
    model, tokenizer = read_model("smollm2")
    known = token_windows(tokenizer, read_text(data_folder() / "wikitext2_valid.txt"), length=128, count=2, seed=0)
    test = token_windows(tokenizer, read_text(data_folder() / "wikitext2_test.txt"), length=256)[:6]
    batches = [Batch({"input_ids": known, "use_cache": False}, known)]
    searched = copy.deepcopy(model).bfloat16()
    loss = Remembered(HeadLoss(searched, batches, next_token_loss, cache_bytes=2**30), "heads-smollm2")

    def judged(small: Any) -> dict[str, Any]:
        found = token_losses(small, test)
        return {"perplexity": found.perplexity, "tokens": int(found.loss.size)}

    def case(removed: int, method: str) -> dict[str, Any]:
        solution = selected(loss, 3 * removed, method, 20)
        small = prune_heads(model, solution.value)
        return {"loss": solution.objective, "evaluations": solution.stats["evaluations"],
                "kept": np.packbits(solution.value).tobytes().hex(), **judged(small.model)}  # fmt: skip

    rows: dict[str, Any] = {"dense": lambda: judged(model)}
    rows |= {f"{r} of 90, {m}": lambda r=r, m=m: case(r, m) for r in GROUPS for m in METHODS}
    return recorded("heads", "smollm2", rows, "torch", "transformers")


def speed() -> dict[str, Any]:
    """MiniLM with half of its heads against all of them: interleaved medians, torch and ONNX Runtime, one thread."""
    import onnxruntime

    model, _ = read_model("minilm")
    half = np.tile(np.arange(12) < 6, 6)
    chosen = half
    row = load("heads", "minilm", {"rows": {}})["rows"].get("36 of 72, ours")
    if row is not None:
        chosen = np.unpackbits(np.frombuffer(bytes.fromhex(row["kept"]), np.uint8))[:72].astype(np.bool_)
    models = {"dense": model, "6 of 12 in each layer": prune_heads(model, half).model,
              "half, as chosen": prune_heads(model, chosen).model}  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    rng = np.random.default_rng(0)

    def case(runtime: str, batch: int, length: int, runs: int) -> dict[str, Any]:
        ids = torch.from_numpy(rng.integers(1000, 20000, (batch, length)))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        feed = {k: v.numpy() for k, v in inputs.items()}
        jobs: dict[str, Any] = {name: lambda m=m: m(**inputs) for name, m in models.items()}
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            if runtime == "ONNX Runtime":
                for k, (name, m) in enumerate(models.items()):
                    place = Path(folder) / f"{k}.onnx"
                    export_onnx(m, Batch(inputs), place)
                    session = onnxruntime.InferenceSession(str(place), options, providers=["CPUExecutionProvider"])
                    same = np.abs(session.run(None, feed)[0] - jobs[name]().last_hidden_state.numpy()).max()
                    assert same < 1e-4, f"{name}: ONNX Runtime and torch differ by {same}"
                    jobs[name] = lambda s=session: s.run(None, feed)
            # Processor time next to wall time: the other work of a busy machine is not in it.
            wall: dict[str, list[float]] = {name: [] for name in jobs}
            busy: dict[str, list[float]] = {name: [] for name in jobs}
            for turn in range(runs + 1):
                for name, job in jobs.items():
                    start, spent = time.perf_counter(), time.process_time()
                    job()
                    if turn:
                        wall[name].append(1000 * (time.perf_counter() - start))
                        busy[name].append(1000 * (time.process_time() - spent))
        row: dict[str, Any] = {"runs": runs, "threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
        for what, taken in (("wall", wall), ("processor", busy)):
            ms = {name: median(values) for name, values in taken.items()}
            row[what] = {"ms": ms, "speed-up": {name: ms["dense"] / v for name, v in ms.items() if name != "dense"}}
        return row

    shapes = [("torch", 8, 128, 7), ("ONNX Runtime", 8, 128, 5), ("torch", 16, 128, 3)]
    rows = {f"{r}, batch {b}, length {n}": lambda r=r, b=b, n=n, k=k: case(r, b, n, k) for r, b, n, k in shapes}
    wanted = {k: v for k, v in rows.items() if len(sys.argv) < 3 or k.startswith(sys.argv[2])}
    return recorded("heads", "speed", wanted, "torch", "transformers")


def picture() -> None:
    """Draw docs/heads_minilm.png from the file: what heads are worth, which stay, and the loss of every method."""
    from matplotlib import pyplot

    from prunopt.plots import head_curves, head_map

    rows = load("heads", "minilm")["rows"]
    kept = np.unpackbits(np.frombuffer(bytes.fromhex(rows["36 of 72, ours"]["kept"]), np.uint8))[:72].astype(np.bool_)
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained", width_ratios=(1.3, 1))
    head_map(rows["importance"], [12] * 6, axes[0], kept=kept, label="importance (example-abs)")
    axes[0].set_title("MiniLM: the 36 heads of 72 that go", fontsize="medium")
    curves = {}
    for m in METHODS:
        for state, name in (("removed", NAMES.get(m, m)), ("repaired", f"{NAMES.get(m, m)}, repaired")):
            found = [
                (72 - r, 1 - rows[f"{r} of 72, {m}"][state]["cosine"]) for r in LEVELS if f"{r} of 72, {m}" in rows
            ]
            if len(found) > 1 and (state == "removed" or m == "ours"):
                curves[name] = [k for k, _ in found], [lost for _, lost in found]
    head_curves(curves, axes[1], measure="1 - cosine to the dense embedding, unseen text", total=72)
    axes[1].set_yscale("log")
    figure.savefig(Path(__file__).parents[1] / "docs" / "heads_minilm.png", dpi=110)


def table() -> None:
    """Print the tables of docs/results/heads.md from the files."""
    for part in ("digits", "minilm", "smollm2", "speed"):
        if (found := load("heads", part, None)) is None:
            continue
        rows = found["rows"]
        print(f"\n{part}")
        if part == "digits":
            names = list(next(iter(rows.values()))["ranks"])
            print("| method |", " | ".join(f"k={k}" for k in KS), "| losses tried |")
            print("|---" * (len(KS) + 2) + "|")
            for name in names:
                ranks = np.array([row["ranks"][name] for row in rows.values()])
                tried = np.mean([row["evaluations"][name] for row in rows.values()])
                print(f"| {name} |", " | ".join(f"{r:.1f}" for r in ranks.mean(axis=0)), f"| {tried:.0f} |")
        elif part == "minilm":
            for what in ("loss", "cosine", "sick", "sst2"):
                dense = "" if what == "loss" else f" (dense {rows['dense'][what]:.3f})"
                print(f"| {what}{dense}; of 72 removed: |", " | ".join(str(r) for r in LEVELS), "|")
                print("|---" * (len(LEVELS) + 1) + "|")
                states = ("",) if what == "loss" else ("removed", "repaired")
                for state in states:
                    for method in (FLAT, FLAT_STEPS, *METHODS) if what == "loss" else (FLAT_STEPS, *METHODS):
                        cells = [rows.get(f"{r} of 72, {method}") for r in LEVELS]
                        found = [
                            None if c is None or (state and state not in c) else c[state][what] if state else c[what]
                            for c in cells
                        ]
                        name = NAMES.get(method, method) + (", repaired" if state == "repaired" else "")
                        print(f"| {name} |", " | ".join("" if v is None else f"{v:.4f}" for v in found), "|")
        elif part == "smollm2":
            print(f"| perplexity (dense {rows['dense']['perplexity']:.2f}); of 90 removed: |",
                  " | ".join(str(r) for r in GROUPS), "|")  # fmt: skip
            print("|---" * (len(GROUPS) + 1) + "|")
            for method in METHODS:
                cells = [rows.get(f"{r} of 90, {method}") for r in GROUPS]
                print(f"| {NAMES[method]} |",
                      " | ".join("" if c is None else f"{c['perplexity']:.2f}" for c in cells), "|")  # fmt: skip
        else:
            for name, row in rows.items():
                for job in row["wall"]["ms"]:
                    cells = [f"{row[w]['ms'][job]:.0f} ms" for w in ("wall", "processor")]
                    ratios = [f"{row[w]['speed-up'].get(job, 1.0):.2f} x" for w in ("wall", "processor")]
                    print(f"| {name} | {job} |", " | ".join(cells + ratios), "|")
