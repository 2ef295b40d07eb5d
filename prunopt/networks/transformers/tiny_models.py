"""Tiny transformers with random weights, of every family that prunopt knows: for trying things out, and for tests."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from prunopt.core.validate import one_of
from prunopt.networks.transformers._hugging_face import require_transformers

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gpt2", "bert")
VOCABULARY = 96
SHARED = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 8, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
GPT2 = {
    "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1,
    "eos_token_id": 2, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
}  # fmt: skip


def tiny_transformer(family: str = "llama", *, seed: int = 0, spread: float = 0.2) -> nn.Module:
    """Return a transformer of two or three blocks of width 32, in evaluation mode.

    Parameters
    ----------
    family
        llama, mistral, qwen2, qwen3 (grouped queries, tied embeddings), gpt2 or bert.
    seed, spread
        Of its random weights; the spread is wide enough for heads to differ.
    """
    one_of("family", family, FAMILIES)
    transformers = require_transformers()
    if family == "gpt2":
        config = transformers.GPT2Config(**GPT2, initializer_range=spread)
        kind: Any = transformers.GPT2LMHeadModel
    elif family == "bert":
        config = transformers.BertConfig(**SHARED, initializer_range=spread)
        kind = transformers.BertModel
    else:
        name = family.capitalize()
        grouped = SHARED | {"num_key_value_heads": 4, "head_dim": 4, "tie_word_embeddings": True}
        config = getattr(transformers, f"{name}Config")(**grouped, initializer_range=spread)
        kind = getattr(transformers, f"{name}ForCausalLM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cast("nn.Module", kind(config).eval())


def tiny_tokens(n: int = 24, length: int = 32, *, seed: int = 0) -> torch.Tensor:
    """Return token ids for `tiny_transformer`, (n, length)."""
    return torch.randint(3, VOCABULARY, (n, length), generator=torch.Generator().manual_seed(seed))


def outputs(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Return logits, or the last hidden states of an encoder."""
    with torch.no_grad():
        out = model(input_ids=ids)
    found: torch.Tensor = out.logits if hasattr(out, "logits") else out.last_hidden_state
    return found


def write_tiny_model(folder: Any, family: str = "llama") -> None:
    """Write a tiny transformer with a tokenizer of single characters as a Hugging Face folder."""
    transformers = require_transformers()
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = ["<pad>", "<s>", "</s>", *(chr(c) for c in range(32, 32 + VOCABULARY - 4)), "<unk>"]
    tokenizer = Tokenizer(models.WordLevel({c: k for k, c in enumerate(letters)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    model: Any = tiny_transformer(family)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
