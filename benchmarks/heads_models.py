"""Heads of models with real weights: MiniLM's embeddings, SmolLM2's perplexity, measured speed, and the tables.

Called by `benchmarks.heads`. Selections are chosen on a few sentences (or windows) and judged on others.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import prunopt as po
from benchmarks.datasets import cache_folder
from benchmarks.heads import KS, data_folder, recorded
from benchmarks.machine import RESULTS, interleaved, median
from prunopt.core.artifact import write_json
from prunopt.networks.heads import Batch, HeadLoss, embedding_batches, embedding_loss, export_onnx, prune_heads
from prunopt.networks.heads.losses import next_token_loss, sentence_embeddings
from prunopt.networks.models import read_model
from prunopt.networks.text import read_text, token_losses, token_windows
from prunopt.problems import HeadSelection
from prunopt.solvers.head_importance import HeadImportance
from prunopt.solvers.surrogate import Surrogate

LEVELS = (7, 14, 22, 29, 36, 43, 50, 58)  # of 72 heads removed: 10 % to 80 %
GROUPS = (4, 9, 18, 27)  # of 90 key-value groups removed
SCREEN = 10  # heads tried at each step of the greedy start
METHODS = ("paper", "example-abs", "re-scored", "ours")


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


def selected(loss: Remembered, removed: int, method: str, **options: Any) -> Any:
    """Return a method's answer for so many removed heads."""
    n = sum(loss.inner.n_heads)
    if method == "paper":
        loss.inner.normalise = True
    task = HeadSelection.from_loss(loss, loss.inner.n_heads, n - removed, exactly=True,
                                   heads_per_group=loss.inner.heads_per_group, **options)  # fmt: skip
    # 10 % of all heads a step, as the paper's schedule and the transformers library's script have it
    steps = max(1, round(removed / (0.1 * n)))
    solver: Any = {
        "paper": HeadImportance(), "example-abs": HeadImportance(), "re-scored": HeadImportance(steps=steps),
        "ours": Surrogate(screen=SCREEN, samples=60, evaluations=140, nodes=50_000),
    }[method]  # fmt: skip
    try:
        solution = po.solve(task, solver)
    finally:
        loss.inner.normalise = False
        loss.keep()
    return solution


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
        self.parts = [a[-200:], b[-200:], train[0][-500:], test[0][:300]]
        self.labels = train[1][-500:], test[1][:300]
        self.dense = self._all(model)

    def _all(self, model: Any) -> list[Any]:
        return [embed(model, self.tokenizer, p) for p in self.parts]

    def __call__(self, model: Any | None = None) -> dict[str, float]:
        """Return the figures of a model; None: of the dense one."""
        from scipy.stats import spearmanr
        from sklearn.linear_model import LogisticRegression

        found = self.dense if model is None else self._all(model)
        cosine = [(x * d).sum(axis=1) for x, d in zip(found, self.dense, strict=True)]
        probe = LogisticRegression(max_iter=2000, C=10).fit(found[2], self.labels[0])
        return {
            "cosine": float(np.concatenate([cosine[0], cosine[1], cosine[3]]).mean()),
            "sick": float(spearmanr((found[0] * found[1]).sum(axis=1), self.gold).statistic),
            "sst2": float(probe.score(found[3], self.labels[1])),
        }


def minilm() -> dict[str, Any]:
    """72 heads of MiniLM: chosen on 24 SICK and 24 SST-2 sentences, repaired on 200 of each, judged on others."""
    model, tokenizer = read_model("minilm")
    first, _, _ = sick()
    films, _ = sst2("train")
    few = embedding_batches(model, tokenizer, first[:24] + films[:24], size=16)
    many = embedding_batches(model, tokenizer, first[:200] + films[:200], size=32)
    loss = Remembered(HeadLoss(model, few, embedding_loss, cache_bytes=2**29), "heads-minilm")
    probes = Probes(model, tokenizer)

    def case(removed: int, method: str) -> dict[str, Any]:
        solution = selected(loss, removed, method)
        row: dict[str, Any] = {"loss": solution.objective, "evaluations": solution.stats["evaluations"],
                               "kept": np.packbits(solution.value).tobytes().hex(),
                               "stats": str(solution.stats)}  # fmt: skip
        for repair in (False, True):
            small = prune_heads(model, solution.value, batches=many, repair=repair)
            row["repaired" if repair else "removed"] = probes(small.model)
        return row

    rows: dict[str, Any] = {"dense": probes}
    rows |= {f"{r} of 72, {m}": lambda r=r, m=m: case(r, m) for r in LEVELS for m in METHODS}
    return recorded("minilm", rows)


def smollm2() -> dict[str, Any]:
    """30 x 3 groups of SmolLM2: chosen on 2 x 192 tokens of the validation text, judged on 10 x 256 of the test."""
    model, tokenizer = read_model("smollm2")
    known = token_windows(tokenizer, read_text(data_folder() / "wikitext2_valid.txt"), length=192, count=2, seed=0)
    test = token_windows(tokenizer, read_text(data_folder() / "wikitext2_test.txt"), length=256)[:10]
    batches = [Batch({"input_ids": w[None], "use_cache": False}, w[None]) for w in known]
    loss = Remembered(HeadLoss(model, batches, next_token_loss, cache_bytes=2**30), "heads-smollm2")

    def judged(small: Any) -> dict[str, Any]:
        found = token_losses(small, test)
        return {"perplexity": found.perplexity, "tokens": int(found.loss.size)}

    def case(removed: int, method: str) -> dict[str, Any]:
        solution = selected(loss, 3 * removed, method)
        small = prune_heads(model, solution.value)
        return {"loss": solution.objective, "evaluations": solution.stats["evaluations"],
                "kept": np.packbits(solution.value).tobytes().hex(), **judged(small.model)}  # fmt: skip

    rows: dict[str, Any] = {"dense": lambda: judged(model)}
    rows |= {f"{r} of 90, {m}": lambda r=r, m=m: case(r, m) for r in GROUPS for m in METHODS}
    return recorded("smollm2", rows)


def speed() -> dict[str, Any]:
    """MiniLM with half of its heads against all of them: interleaved medians, torch and ONNX Runtime, one thread."""
    import onnxruntime

    model, _ = read_model("minilm")
    file = RESULTS / "heads_minilm.json"
    half = np.tile(np.arange(12) < 6, 6)
    chosen = half
    if file.exists():
        row = json.loads(file.read_text())["rows"].get("36 of 72, ours")
        if row is not None:
            chosen = np.unpackbits(np.frombuffer(bytes.fromhex(row["kept"]), np.uint8))[:72].astype(np.bool_)
    models = {"dense": model, "6 of 12 in each layer": prune_heads(model, half).model,
              "half, as chosen": prune_heads(model, chosen).model}  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    rng = np.random.default_rng(0)

    def case(batch: int, length: int, runs: int) -> dict[str, Any]:
        ids = torch.from_numpy(rng.integers(1000, 20000, (batch, length)))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        feed = {k: v.numpy() for k, v in inputs.items()}
        jobs: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as folder:
            for name, m in models.items():
                place = Path(folder) / f"{len(jobs)}.onnx"
                export_onnx(m, Batch(inputs), place)
                session = onnxruntime.InferenceSession(str(place), options, providers=["CPUExecutionProvider"])
                with torch.no_grad():
                    same = np.abs(session.run(None, feed)[0] - m(**inputs).last_hidden_state.numpy()).max()
                assert same < 1e-4, f"{name}: ONNX Runtime and torch differ by {same}"
                jobs[f"torch, {name}"] = lambda m=m: m(**inputs)
                jobs[f"onnxruntime, {name}"] = lambda s=session: s.run(None, feed)
            with torch.inference_mode():
                taken = interleaved(jobs, runs)
        ms = {name: 1000 * median(values) for name, values in taken.items()}
        ratios = {
            name: ms[f"{name.split(', ', 1)[0]}, dense"] / value for name, value in ms.items() if "dense" not in name
        }
        return {"ms": ms, "speed-up": ratios, "runs": runs, "threads": torch.get_num_threads()}

    shapes = [(8, 128, 15), (1, 128, 25), (16, 128, 11)]
    return recorded("speed", {f"batch {b}, length {n}": lambda b=b, n=n, r=r: case(b, n, r) for b, n, r in shapes})


def table() -> None:
    """Print the tables of RESULTS.md from the files."""
    for part in ("digits", "minilm", "smollm2", "speed"):
        file = RESULTS / f"heads_{part}.json"
        if not file.exists():
            continue
        rows = json.loads(file.read_text())["rows"]
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
            for what in ("cosine", "sick", "sst2"):
                print(f"| {what} (dense {rows['dense'][what]:.3f}) | removed: |")
                for method in METHODS:
                    for state in ("removed", "repaired"):
                        cells = [rows.get(f"{r} of 72, {method}") for r in LEVELS]
                        texts = ["" if c is None else f"{c[state][what]:.3f}" for c in cells]
                        print(f"| {method}{', repaired' if state == 'repaired' else ''} |", " | ".join(texts), "|")
        elif part == "smollm2":
            print(f"dense {rows['dense']}")
            for method in METHODS:
                cells = [rows.get(f"{r} of 90, {method}") for r in GROUPS]
                print(f"| {method} |", " | ".join("" if c is None else f"{c['perplexity']:.2f}" for c in cells), "|")
        else:
            for name, row in rows.items():
                print(name, {k: round(v, 1) for k, v in row["ms"].items()}, {k: round(v, 2) for k, v in
                      row["speed-up"].items()})  # fmt: skip
