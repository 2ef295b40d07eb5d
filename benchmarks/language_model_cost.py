"""What pruning SmolLM2-135M costs in memory, and what the pruned model is worth in seconds.

``python -m benchmarks.language_model_cost memory`` prunes the first four blocks (the peak is of one block, whatever
their number) in processes of their own and compares the growth of the peak with its law; ``speed`` prunes neurons at 20
and 30 % as ``ours`` of `benchmarks.language_model`, and times prefill and generation beside the dense model, in turn.
``streamed`` writes a model of 1.1 billion random parameters in bfloat16 (2.3 GB) and prunes all of its 22 blocks as
they are read, in processes of their own: the peak of resident memory, the files included that are mapped.
Results: ``results/language_model_cost.json.gz``.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import threading
from pathlib import Path
from typing import Any

from benchmarks.machine import described, in_fresh_process, interleaved, median
from benchmarks.results import store

LENGTH, WIDTH, FEED_FORWARD = 512, 576, 1536
PREFILL, NEW = 512, 48


class Peak:
    """The most anonymous memory (what has no file behind it) that this process holds while the block runs."""

    def __enter__(self) -> Peak:
        self.before = self.most = self._held()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self.most = max(self.most, self._held())

    @staticmethod
    def _held() -> int:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
        return int(next(x for x in lines if x.startswith("RssAnon")).split()[1]) * 1024


def grown(windows: str, where: str) -> dict[str, Any]:
    """Return the growth of the peak over the model in memory while four blocks are pruned."""
    import torch

    from prunopt.networks.transformers.pruning import prune_transformer
    from prunopt.networks.transformers.reading import read_model
    from prunopt.networks.transformers.recipes import PruneOptions

    torch.set_num_threads(1)
    model, tokenizer = read_model("smollm2")
    model.model.layers = model.model.layers[:4]
    tokens = torch.randint(0, len(tokenizer), (int(windows), LENGTH), generator=torch.Generator().manual_seed(0))
    # The first use of each kernel brings its own buffers: they are not what grows with the problem.
    prune_transformer(model, tokens[:1], sparsity=0.2, units=("ffn",), method="wanda")
    with tempfile.TemporaryDirectory() as folder, Peak() as peak:
        prune_transformer(
            model, tokens, sparsity=0.2, allocation="uniform",
            options=PruneOptions(in_place=True, activations_dir=folder if where == "file" else None),
        )  # fmt: skip
    return {"windows": int(windows), "activations": where, "grown": peak.most - peak.before, "model": peak.before}


def memory() -> dict[str, Any]:
    """Return the growth for few and many windows, in memory and in files."""
    rows = [
        in_fresh_process("benchmarks.language_model_cost", "grown", str(windows), where)
        for windows, where in itertools.product((8, 32, 128), ("memory", "file"))
    ]
    for row in rows:
        row["activation bytes"] = row["windows"] * LENGTH * WIDTH * 4
        row["hessian bytes"] = 8 * FEED_FORWARD**2
        print(row, flush=True)
    return described() | {"rows": rows}


def large(folder: Path) -> None:
    """Write a model of 1.1 billion random parameters, in bfloat16 and in shards."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    sizes: dict[str, Any] = {
        "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
        "num_key_value_heads": 4, "vocab_size": 32000, "max_position_embeddings": 2048,
    }  # fmt: skip
    torch.manual_seed(0)
    family: Any = AutoModelForCausalLM
    model = family.from_config(LlamaConfig(**sizes), dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="500MB")


def streamed_peak(folder: str, method: str, out: str) -> dict[str, Any]:
    """Return the peak of this process while the model is pruned from its folder into another."""
    import time

    import torch

    from benchmarks.machine import peak_bytes
    from prunopt.networks.transformers.pruning import prune_transformer
    from prunopt.networks.transformers.recipes import PruneOptions

    torch.set_num_threads(1)
    windows = torch.randint(0, 32000, (2, 64), generator=torch.Generator().manual_seed(0))
    start, options = time.perf_counter(), PruneOptions(refit=method != "wanda, no refit")
    result = prune_transformer(folder, windows, sparsity=0.2, units=("ffn",), method="wanda", options=options, out=out)
    return {"method": method, "peak": peak_bytes(), "seconds": time.perf_counter() - start, "removed": result.removed,
            "total": result.total, "stock": result.stock}  # fmt: skip


def streamed() -> dict[str, Any]:
    """Return the peaks with and without re-solving."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "large"
        large(whole)
        bytes_ = sum(f.stat().st_size for f in whole.iterdir())
        for method in ("wanda, no refit", "wanda"):
            out = str(Path(place) / f"out-{len(rows)}")
            rows.append(in_fresh_process("benchmarks.language_model_cost", "streamed_peak", str(whole), method, out))
            rows[-1] |= {"bytes": bytes_, "written": sum(f.stat().st_size for f in Path(out).iterdir())}
            print(rows[-1], flush=True)
    return described("torch", "transformers") | {"rows": rows}


def speed() -> dict[str, Any]:
    """Return seconds for a prompt and for each new token, one thread, dense and pruned in turn."""
    import torch

    from benchmarks.language_model import model_and_tokens
    from prunopt.networks.transformers.pruning import prune_transformer

    torch.set_num_threads(1)
    dense, windows, _ = model_and_tokens()
    models = {"dense": dense} | {
        f"{share:.0%}": prune_transformer(
            dense, windows, sparsity=share, units=("ffn",), method="wanda", allocation="log"
        ).model
        for share in (0.2, 0.3)
    }
    prompt = windows[:1, :PREFILL]

    def prefill(model: Any) -> Any:
        with torch.no_grad():
            model(input_ids=prompt)

    def generate(model: Any) -> Any:
        with torch.no_grad():
            model.generate(prompt[:, :32], max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0)

    rows: dict[str, Any] = {}
    for what, job in (("prefill", prefill), ("generation", generate)):
        taken = interleaved({name: lambda m=m, j=job: j(m) for name, m in models.items()}, runs=9)
        rows[what] = {name: {"median": median(found), "all": found} for name, found in taken.items()}
        for name in models:
            print(
                what,
                name,
                f"{median(taken[name]):.4f} s, {median(taken['dense']) / median(taken[name]):.3f} x",
                flush=True,
            )
    sizes = {name: sum(p.numel() for p in m.parameters()) for name, m in models.items()}
    return described() | {"prompt": PREFILL, "new": NEW, "parameters": sizes, "rows": rows}


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"memory": memory, "speed": speed, "streamed": streamed}
    parser.add_argument("what", choices=parts)
    what = parser.parse_args().what
    store("language_model_cost", {what: parts[what]()})


if __name__ == "__main__":
    main()
