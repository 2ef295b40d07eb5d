"""Batches of examples, and the losses that their outputs have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunopt.core import validate

LossOf = Callable[[Any, Any], Tensor]
TEMPERATURE = 0.05  # of contrastive_loss


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples that pass together.

    Parameters
    ----------
    inputs
        A mapping (keyword arguments of the model), or a tensor.
    target
        What the loss compares the outputs with.
    """

    inputs: Any
    target: Any = None

    def run(self, model: nn.Module) -> Any:
        """Return the model's outputs."""
        return model(**self.inputs) if isinstance(self.inputs, Mapping) else model(self.inputs)


def label_loss(outputs: Any, labels: Any) -> Tensor:
    """Return the cross-entropy of each example's logits; ValueError where labels are missing."""
    validate.require(labels is not None, "labels", "be given", None, "pass Batch(inputs, target=labels)")
    logits: Tensor = outputs.logits if hasattr(outputs, "logits") else outputs
    classes = logits.shape[-1]
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        wrong = int(labels.max() if labels.max() >= classes else labels.min())
        validate.refuse("labels", f"be 0 to {classes - 1}, the classes of the model", wrong)
    return F.cross_entropy(logits.float(), labels, reduction="none")


def next_token_loss(outputs: Any, ids: Any) -> Tensor:
    """Return the mean negative log-likelihood of each window's next tokens; the target is the windows' token ids."""
    validate.require(ids is not None, "target", "be token ids", None, "pass Batch(inputs, target=input_ids)")
    flat = F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    return flat.view(len(ids), -1).mean(dim=1)


def sentence_embeddings(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return means over tokens of length 1, (batch, width)."""
    weight = mask[..., None].to(hidden)
    out: Tensor = F.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)
    return out


def embedding_loss(outputs: Any, target: Any) -> Tensor:
    """Return 1 - cos of each sentence's embedding and the dense one; the target is (attention mask, dense ones)."""
    mask, dense = target
    out: Tensor = 1.0 - (sentence_embeddings(outputs.last_hidden_state, mask) * dense).sum(-1)
    return out


def contrastive_loss(outputs: Any, target: Any) -> Tensor:
    r"""Return how badly each sentence's embedding e finds its own dense one d among those of its batch.

    .. math:: L_b = -\log \frac{\exp(e_b \cdot d_b / \tau)}{\sum_{b'} \exp(e_b \cdot d_{b'} / \tau)}, \qquad
        \tau = 0.05

    `embedding_loss` is least at the whole model, where its slopes are 0 and an importance by slopes is rounding error;
    these are not. The target is that of `embedding_loss`; a batch of one sentence tells nothing.
    """
    mask, dense = target
    close = sentence_embeddings(outputs.last_hidden_state, mask) @ dense.T
    return F.cross_entropy(close / TEMPERATURE, torch.arange(len(close), device=close.device), reduction="none")


def tokenized(tokenizer: Any, texts: Sequence[str], length: int) -> dict[str, Tensor]:
    """Return the inputs of sentences, padded and cut to ``length`` tokens."""
    validate.require(tokenizer is not None, "tokenizer", "be given for sentences", None)
    return dict(tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt"))


@torch.no_grad()
def embedding_batches(
    model: nn.Module, tokenizer: Any, texts: Sequence[str], *, size: int = 16, length: int = 128
) -> list[Batch]:
    """Return batches of sentences for `embedding_loss`, those of like length together, with the model's embeddings."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = []
    for start in range(0, len(order), size):
        part = [texts[i] for i in order[start : start + size]]
        inputs = tokenized(tokenizer, part, length)
        batch = Batch(inputs)
        hidden = batch.run(model).last_hidden_state
        mask = inputs["attention_mask"]
        out.append(Batch(inputs, (mask, sentence_embeddings(hidden, mask))))
    return out
