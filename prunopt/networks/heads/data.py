"""Data files as batches, with the loss that fits the model: next tokens, labels, or embeddings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prunopt.core import validate
from prunopt.networks.heads.losses import (
    Batch,
    LossOf,
    embedding_batches,
    embedding_loss,
    label_loss,
    next_token_loss,
    tokenized,
)
from prunopt.networks.transformers.text import read_text, token_windows


@dataclass(frozen=True, eq=False)
class HeadData:
    """What heads are chosen on, and judged on.

    Parameters
    ----------
    measure
        What the loss is, in words.
    calibration, held_out
        Batches; none of the latter where the file is too short.
    loss
        Of the outputs and targets of a batch.
    """

    measure: str
    calibration: list[Batch]
    held_out: list[Batch]
    loss: LossOf


def read_head_data(
    model: nn.Module,
    tokenizer: Any,
    path: str | os.PathLike[str],
    *,
    examples: int = 64,
    length: int = 128,
    size: int = 16,
) -> HeadData:
    """Return batches of a text file.

    Causal language models are measured by the loss of next tokens on windows of the text; classifiers (models with
    a number of labels) by their cross-entropy on lines ``text<TAB>label``; encoders by 1 - cos of the lines'
    embeddings to the dense model's. The first ``examples`` are for choosing, as many after them for judging.

    Raises
    ------
    ValueError
        If the file is too short, or has no labels where they are needed.
    """
    for argument, value, least in (("examples", examples, 2), ("length", length, 2), ("size", size, 1)):
        validate.whole_number(argument, value, low=least)
    text, name = read_text(path), type(model).__name__
    if hasattr(model, "lm_head") or name.endswith(("CausalLM", "LMHeadModel")):
        windows = token_windows(tokenizer, text, length=length)[: 2 * examples]
        half = max(1, min(examples, len(windows) // 2 or 1))
        parts = [_windows(w, size) for w in (windows[:half], windows[half:])]
        return HeadData("loss of next tokens [nats]", parts[0], parts[1], next_token_loss)
    lines = [line.rstrip("\r") for line in text.split("\n") if line.strip()][: 2 * examples]
    half = max(1, min(examples, len(lines) // 2))
    if name.endswith("SequenceClassification"):
        pairs = [_labelled(line, k, path) for k, line in enumerate(lines)]
        first, second = (_classified(tokenizer, p, size, length) for p in (pairs[:half], pairs[half:]))
        return HeadData("cross-entropy [nats]", first, second, label_loss)
    texts = [line.split("\t")[0] for line in lines]
    found = [
        embedding_batches(model, tokenizer, t, size=size, length=length) if t else []
        for t in (texts[:half], texts[half:])
    ]
    return HeadData("1 - cosine to the dense embedding", found[0], found[1], embedding_loss)


def _windows(windows: torch.Tensor, size: int) -> list[Batch]:
    return [Batch({"input_ids": w, "use_cache": False}, w) for w in torch.split(windows, size)] if len(windows) else []


def _labelled(line: str, number: int, path: str | os.PathLike[str]) -> tuple[str, int]:
    text, _, label = line.rpartition("\t")
    labelled, where = text and label.strip().isdigit(), f"line {number + 1} of {os.fspath(path)}"
    what = "be text<TAB>label for a classifier, the label a whole number from 0"
    validate.require(labelled, where, what, line, "add a label")
    return text, int(label)


def _classified(tokenizer: Any, pairs: Sequence[tuple[str, int]], size: int, length: int) -> list[Batch]:
    parts = (pairs[start : start + size] for start in range(0, len(pairs), size))
    return [
        Batch(tokenized(tokenizer, [t for t, _ in part], length), torch.tensor([y for _, y in part])) for part in parts
    ]
