"""Differentiable gates on every attention head, for as long as a context lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from prunopt.core import validate
from prunopt.core.arrays import Bools
from prunopt.networks.heads.layers import HeadLayer, head_layers


class HeadGates:
    r"""The gates :math:`\xi` of a model, one tensor for each layer; `head_gates` makes them.

    A layer's tensor is multiplied onto its heads' outputs before the output projection, :math:`\sum_h \xi_h
    \mathrm{Att}_h(x)`. Its shape is (heads,), or anything that broadcasts against (batch, length, heads).
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.layers = model, head_layers(model)
        self.values: list[Tensor] = [self._ones(layer).requires_grad_() for layer in self.layers]
        self._makers: list[Callable[[Tensor], Tensor] | None] = [None] * len(self.layers)

    @property
    def n_heads(self) -> tuple[int, ...]:
        """Heads of each layer."""
        return tuple(layer.n_heads for layer in self.layers)

    def _ones(self, layer: HeadLayer) -> Tensor:
        like = next(layer.module.parameters(), torch.zeros(0))
        return torch.ones(layer.n_heads, dtype=like.dtype, device=like.device)

    def set(self, kept: ArrayLike | None, *, requires_grad: bool = False) -> None:
        """Give every gate a number: flat, layer after layer; None: 1."""
        total = sum(self.n_heads)
        numbers = np.ones(total) if kept is None else np.asarray(kept, np.float64).ravel()
        numbers = validate.floats("kept", numbers, (total,), mend="pass a number per head")
        parts = torch.split(torch.from_numpy(numbers), list(self.n_heads))
        self.values = [
            part.to(self._ones(layer)).requires_grad_(requires_grad)
            for part, layer in zip(parts, self.layers, strict=True)
        ]

    def probe(self, kept: ArrayLike | None = None, *, per: str = "example") -> None:
        """From the next pass on, give each example (or token) gates of its own, which `values` then holds.

        Parameters
        ----------
        kept
            The numbers that they have.
        per
            ``"example"``: (batch, 1, heads); ``"token"``: (batch, length, heads); ``"batch"``: (heads,).
        """
        self.set(kept, requires_grad=True)
        if per == "batch":
            return
        for k, base in enumerate(self.values):
            self._makers[k] = _maker(base.detach(), per)

    def _gate(self, k: int) -> Callable[[Tensor], Tensor]:
        def gate(context: Tensor) -> Tensor:
            layer = self.layers[k]
            if (make := self._makers[k]) is not None:
                self.values[k] = make(context)
            value = self.values[k]
            if layer.n_heads == 0:
                return context
            heads = context.reshape(*context.shape[:-1], layer.n_heads, layer.head_dim)
            return (heads * value.unsqueeze(-1)).reshape(context.shape)

        return gate

    def attach(self) -> list[Callable[[], None]]:
        """Put the gates in their places; returns what takes them away."""
        return [layer.attach(self._gate(k)) for k, layer in enumerate(self.layers)]


def _maker(base: Tensor, per: str) -> Callable[[Tensor], Tensor]:
    def make(context: Tensor) -> Tensor:
        length = context.shape[1] if per == "token" else 1
        return base.expand(context.shape[0], length, -1).clone().requires_grad_()

    return make


@contextmanager
def head_gates(model: nn.Module, kept: ArrayLike | None = None) -> Iterator[HeadGates]:
    """Put a differentiable gate on every attention head; within the context only.

    Works for the Hugging Face families that `prunopt.networks.blocks` knows (BERT, GPT-2, Llama with grouped queries
    and their kin), for families registered with `prunopt.networks.register_family`, and for every
    `torch.nn.MultiheadAttention`. With gates at 1 the outputs are what they were.

    Parameters
    ----------
    model
        Nothing of it is changed but for hooks, which go when the context ends, also by an error.
    kept : (heads,) numbers, optional
        What the gates start at; None: 1, with gradients.

    Yields
    ------
    HeadGates
        ``values`` holds one tensor (heads,) for each layer; they require gradients.

    Examples
    --------
    >>> with head_gates(model) as gates:  # doctest: +SKIP
    ...     loss(model(**batch)).backward()
    ...     slopes = [g.grad for g in gates.values]
    """
    gates = HeadGates(model)
    if kept is not None:
        gates.set(kept, requires_grad=True)
    undo: list[Callable[[], None]] = []
    nested = [m for m in model.modules() if isinstance(m, nn.TransformerEncoder) and m.use_nested_tensor]
    try:
        for module in nested:  # nested tensors exist only on the fused path, past the gates
            module.use_nested_tensor = False
        undo = gates.attach()
        yield gates
    finally:
        for step in undo:
            step()
        for module in nested:
            module.use_nested_tensor = True


def as_kept(kept: Any, n_heads: Sequence[int]) -> Bools:
    """Return flags of the heads that stay, flat; ValueError unless they are bool, one for each head."""
    flags = np.hstack([np.ravel(k) for k in kept]) if isinstance(kept, list | tuple) else np.ravel(kept)
    return validate.bools("kept", flags, (sum(n_heads),), mend="pass a bool per head")
