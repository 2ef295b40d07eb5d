"""What a selection of heads loses on data, with the layers in front of the first change kept from earlier passes."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from prunopt.core.arrays import Bools, Floats
from prunopt.networks.heads.gates import HeadGates, as_kept, head_gates
from prunopt.networks.transformers.families import blocks, family_of

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
    if labels is None:
        raise ValueError("labels: none given; this loss compares with labels: give Batch(inputs, target=labels)")
    logits: Tensor = outputs.logits if hasattr(outputs, "logits") else outputs
    classes = logits.shape[-1]
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        wrong = int(labels.max() if labels.max() >= classes else labels.min())
        raise ValueError(f"labels: {wrong} is among them; the model has {classes} classes, 0 to {classes - 1}")
    return F.cross_entropy(logits.float(), labels, reduction="none")


def next_token_loss(outputs: Any, ids: Any) -> Tensor:
    """Return the mean negative log-likelihood of each window's next tokens; the target is the windows' token ids."""
    if ids is None:
        raise ValueError("target: none given; next_token_loss compares with token ids, Batch(inputs, target=input_ids)")
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


@torch.no_grad()
def embedding_batches(model: nn.Module, tokenizer: Any, texts: Sequence[str], *, size: int = 16,
                      length: int = 128) -> list[Batch]:  # fmt: skip
    """Return batches of sentences for `embedding_loss`, those of like length together, with the model's embeddings."""
    if tokenizer is None:
        raise ValueError("tokenizer: None given; sentences need one")
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = []
    for start in range(0, len(order), size):
        part = [texts[i] for i in order[start : start + size]]
        inputs = dict(tokenizer(part, padding=True, truncation=True, max_length=length, return_tensors="pt"))
        batch = Batch(inputs)
        hidden = batch.run(model).last_hidden_state
        mask = inputs["attention_mask"]
        out.append(Batch(inputs, (mask, sentence_embeddings(hidden, mask))))
    return out


class HeadLoss:
    r"""The mean loss over examples as a function of the heads that stay: what `HeadSelection` minimises.

    Blocks in front of the first one that differs from an earlier call are not computed again: their outputs are kept,
    the least recently used going first. Of the :math:`2^{LH}` selections of L layers of H heads that makes about one
    block each.

    Parameters
    ----------
    model
        See `head_gates`. Prefixes are kept for models of known families only.
    batches
        The data.
    loss : callable
        ``loss(outputs, target) -> (examples,) tensor``: `label_loss`, `next_token_loss`, `embedding_loss` or your own.
    estimator, normalise
        Of ``scores``, see `head_importance`.
    score_loss : callable
        The loss whose slopes ``scores`` takes; None: `loss`, and `contrastive_loss` for `embedding_loss`, which has no
        slopes at the whole model.
    cache_bytes
        Memory for prefixes; 0: none are kept.
    remember
        Keep every loss, too, and answer with it when the same heads are asked for again.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Batch], loss: LossOf, *, estimator: str = "example-abs",
                 normalise: bool = False, score_loss: LossOf | None = None, cache_bytes: int = 2**28,
                 remember: bool = False) -> None:  # fmt: skip
        if not batches:
            raise ValueError("batches: none given; give at least one Batch")
        self.model, self.batches, self.loss = model.eval(), list(batches), loss
        self.estimator, self.normalise = estimator, normalise
        self.score_loss = score_loss or (contrastive_loss if loss is embedding_loss else loss)
        gates = HeadGates(model)
        self.n_heads = gates.n_heads
        self.heads_per_group = tuple(layer.heads_per_group for layer in gates.layers)
        try:
            family_of(model)
            found = blocks(model)
            self._blocks = [b.module for b in found] if all(b.attention is not None for b in found) else []
        except ValueError:
            self._blocks = []
        self.cache_bytes = cache_bytes if self._blocks else 0
        self._kept: OrderedDict[tuple[int, bytes], tuple[Any, int]] = OrderedDict()
        self._bytes = 0
        self.blocks_run = 0
        self.known: dict[bytes, float] | None = {} if remember else None

    @property
    def scores_name(self) -> str:
        """What ``scores`` is called."""
        loss = " of the contrastive loss" if self.score_loss is contrastive_loss else ""
        return self.estimator + loss + (" with per-layer l2 norms" if self.normalise else "")

    def scores(self, kept: ArrayLike) -> Floats:
        """Return `head_importance` at a selection of heads."""
        from prunopt.networks.heads.importance import head_importance

        return head_importance(self.model, self.batches, self.score_loss, estimator=self.estimator,
                               normalise=self.normalise, kept=kept)  # fmt: skip

    def __call__(self, kept: ArrayLike) -> float:
        """Return the mean loss with the heads of ``kept`` only."""
        key = np.packbits(np.asarray(kept, np.bool_)).tobytes()
        if self.known is not None and key in self.known:
            return self.known[key]
        values = self.per_example(kept)
        mean = math.fsum(values) / len(values)
        if self.known is not None:
            self.known[key] = mean
        return mean

    @torch.no_grad()
    def per_example(self, kept: ArrayLike) -> Floats:
        """Return the loss of each example, in the order of the batches."""
        flags = as_kept(kept, self.n_heads)
        with head_gates(self.model) as gates:
            gates.set(flags)
            parts = [self._one(k, batch, flags) for k, batch in enumerate(self.batches)]
        return np.concatenate([p.double().cpu().numpy() for p in parts])

    def outputs(self, kept: ArrayLike) -> Iterator[Any]:
        """Yield the model's outputs for each batch."""
        flags = as_kept(kept, self.n_heads)
        with torch.no_grad(), head_gates(self.model) as gates:
            gates.set(flags)
            for batch in self.batches:
                yield batch.run(self.model)

    def _one(self, k: int, batch: Batch, flags: Bools) -> Tensor:
        if not self.cache_bytes:
            self.blocks_run += len(self._blocks)
            return self._values(batch)
        ends = np.cumsum(self.n_heads)
        keys = [(k, bytes([i]) + flags[:end].tobytes()) for i, end in enumerate(ends)]
        start, known = 0, None
        for i in range(len(keys), 0, -1):
            if keys[i - 1] in self._kept:
                start, known = i, self._kept[keys[i - 1]][0]
                self._kept.move_to_end(keys[i - 1])
                break
        self.blocks_run += len(keys) - start
        seen: dict[int, Any] = {}
        with _from_block(self._blocks, start, known, seen):
            out = self._values(batch)
        for i, value in seen.items():
            self._keep(keys[i], value)
        return out

    def _values(self, batch: Batch) -> Tensor:
        values = self.loss(batch.run(self.model), batch.target)
        if not isinstance(values, Tensor) or values.dim() != 1:
            raise ValueError("loss: it has to return a tensor with one number for each example of the batch")
        return values

    def _keep(self, key: tuple[int, bytes], value: Any) -> None:
        size = _size(value)
        if size > self.cache_bytes:
            return
        self._kept[key] = value, size
        self._bytes += size
        while self._bytes > self.cache_bytes:
            _, (_, gone) = self._kept.popitem(last=False)
            self._bytes -= gone


@contextmanager
def _from_block(modules: Sequence[nn.Module], start: int, known: Any, seen: dict[int, Any]) -> Iterator[None]:
    """Let the first ``start`` blocks answer with what is known of the last of them; note what the others put out."""
    undo: list[Callable[[], None]] = []

    def answer(*_: Any, **__: Any) -> Any:
        return known

    def note(i: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, out: Any) -> None:
            seen[i] = out

        return hook

    try:
        for i, module in enumerate(modules):
            if i < start:
                before = module.__dict__.get("forward")
                module.forward = answer
                undo.append(lambda m=module, b=before: _restore(m, b))  # type: ignore[misc]
            else:
                undo.append(module.register_forward_hook(note(i)).remove)
        yield
    finally:
        for step in reversed(undo):
            step()


def _restore(module: nn.Module, before: Any) -> None:
    if before is None:
        del module.__dict__["forward"]
    else:
        module.forward = before


def _size(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nelement() * value.element_size()
    return sum(map(_size, value)) if isinstance(value, tuple | list) else 0
