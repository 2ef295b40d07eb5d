"""A tiny language model for the benchmark of learned masks: trained in minutes on WikiText-2, kept in the cache.

Only WikiText-2's validation and test texts are at hand. The model learns, and masks are learned, on the validation text
and the first 60 % of the test text; the rest of the test text, from the next article on, is held out. A byte-pair
vocabulary of 1,024 is trained on the same text as the model.
"""

from __future__ import annotations

import json
import math
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.datasets import cache_folder
from prunopt.core.files import write_atomically, write_json
from prunopt.networks.transformers.text import read_text

DATA = Path(os.environ.get("PRUNOPT_DATA", Path(__file__).parents[2] / "shared" / "data"))
FOLDER = cache_folder() / "tiny_llama"
VOCABULARY, WIDTH, INNER, HEADS, LAYERS = 1024, 128, 384, 4, 3
LENGTH, BATCH, STEPS, RATE = 128, 16, 1200, 4e-3
SHARE = 0.6


@cache
def texts() -> tuple[str, str]:
    """Return the text to learn on and the held-out text, split before an article's title."""
    valid, test = (read_text(DATA / f"wikitext2_{part}.txt") for part in ("valid", "test"))
    at = int(SHARE * len(test))
    while not (test[at : at + 4] == "\n = " and test[at + 4] != "="):
        at += 1
    return valid + "\n" + test[:at], test[at:]


@cache
def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the numbers of the tokens of both texts; the tokenizer is trained where the cache has none."""
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteLevel as Decoder
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    path = FOLDER / "tokenizer.json"
    if path.exists():
        coder = Tokenizer.from_file(str(path))
    else:
        coder = Tokenizer(BPE())
        coder.pre_tokenizer, coder.decoder = ByteLevel(add_prefix_space=False), Decoder()
        trainer = BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=sorted(ByteLevel.alphabet()), show_progress=False)
        coder.train_from_iterator([texts()[0]], trainer)
        FOLDER.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as temporary:
            coder.save(str(temporary))
    learned, held_out = (torch.tensor(coder.encode(t).ids) for t in texts())
    return learned, held_out


def windows(ids: torch.Tensor, count: int | None = None, length: int = LENGTH, seed: int = 0) -> torch.Tensor:
    """Return ``count`` windows at random places, or all that follow one another."""
    if count is None:
        return ids[: len(ids) // length * length].reshape(-1, length)
    first = torch.randint(len(ids) - length, (count,), generator=torch.Generator().manual_seed(seed))
    return torch.stack([ids[k : k + length] for k in first.tolist()])


def empty(seed: int = 0) -> Any:
    """Return the model before training."""
    from prunopt.networks.transformers._hugging_face import require_transformers

    transformers = require_transformers()
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=2 * LENGTH,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def loss(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return the mean loss of next tokens, in nats."""
    logits = model(input_ids=ids, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def train() -> Any:
    """Train, and keep model and figures in the cache."""
    learned, held_out = tokens()
    model, start = empty(), time.process_time()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(STEPS):
        share = min((step + 1) / 50, 0.5 * (1.02 + math.cos(math.pi * step / STEPS)))
        for group in optimizer.param_groups:
            group["lr"] = RATE * share
        value = loss(model, windows(learned, BATCH, seed=step))
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(step, f"{float(value.detach()):.3f}", f"{time.process_time() - start:.0f} s", flush=True)
    model.eval()
    row = {
        "parameters": sum(p.numel() for p in model.parameters()), "tokens": len(learned), "held_out": len(held_out),
        "steps": STEPS, "tokens_a_step": BATCH * LENGTH, "cpu_seconds": time.process_time() - start,
        "loss": perplexity(model, windows(learned, 64, seed=-1))[0],
    }  # fmt: skip
    FOLDER.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(FOLDER)
    write_json(FOLDER / "training.json", row)
    return model


@torch.no_grad()
def perplexity(model: Any, ids: torch.Tensor) -> tuple[float, list[float]]:
    """Return exp of the mean loss, and the losses of groups of 8 windows, which pair with those of other models."""
    parts = [float(loss(model, part)) for part in torch.split(ids, 8) if len(part) == 8]
    return math.exp(sum(parts) / len(parts)), parts


@cache
def trained() -> tuple[Any, dict[str, Any]]:
    """Return the model, trained where the cache has none, and the figures of its training."""
    from prunopt.networks.transformers._hugging_face import require_transformers

    if not (FOLDER / "training.json").exists():
        train()
    model = require_transformers().LlamaForCausalLM.from_pretrained(FOLDER, local_files_only=True).float().eval()
    return model, json.loads((FOLDER / "training.json").read_text("utf-8"))


if __name__ == "__main__":
    network, figures = trained()
    print(figures, perplexity(network, windows(tokens()[1]))[0])
