"""What a selection of heads loses on data, with the layers in front of the first change kept from earlier passes."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from prunopt.core import validate
from prunopt.core.arrays import Bools, Floats
from prunopt.networks.heads.gates import HeadGates, as_kept, head_gates
from prunopt.networks.heads.importance import head_importance
from prunopt.networks.heads.losses import Batch, LossOf, contrastive_loss, embedding_loss
from prunopt.networks.transformers.families import blocks, family_of


class HeadLoss:
    r"""The mean loss over examples as a function of the heads that stay: what `HeadSelection` minimizes.

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

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        loss: LossOf,
        *,
        estimator: str = "example-abs",
        normalise: bool = False,
        score_loss: LossOf | None = None,
        cache_bytes: int = 2**28,
        remember: bool = False,
    ) -> None:
        validate.require(batches, "batches", "hold at least one Batch", batches)
        self.model, self.batches, self.loss = model.eval(), list(batches), loss
        self.estimator, self.normalise = estimator, normalise
        self.score_loss = score_loss or (contrastive_loss if loss is embedding_loss else loss)
        gates = HeadGates(model)
        self.n_heads = gates.n_heads
        self.heads_per_group = tuple(layer.heads_per_group for layer in gates.layers)
        try:
            family_of(model)
            found = blocks(model)
            alone = all(b.attention is not None and not b.target for b in found)  # a decoder hears of all its encoder
            self._blocks = [b.module for b in found] if alone else []
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
        return head_importance(
            self.model, self.batches, self.score_loss, estimator=self.estimator, normalise=self.normalise, kept=kept
        )

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
            one_each = "return a tensor with one number for each example of the batch"
            raise validate.invalid("loss", one_each, validate.Shown(str(getattr(values, "shape", values))))
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
