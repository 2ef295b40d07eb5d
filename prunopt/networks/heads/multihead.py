"""`torch.nn.MultiheadAttention` written out, so that its heads can be gated, and shrunk."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunopt.core import validate

Gate = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class WrittenAttention:
    """Multi-head attention by its weights.

    Parameters
    ----------
    query, key, value, output
        Weights (out, in) and biases, as `torch.nn.functional.linear` takes them.
    n_heads, batch_first, dropout
        As of `torch.nn.MultiheadAttention`; the dropout is 0 in evaluation.
    gate
        Sees the heads' outputs, (batch, length, width), and gives what is used in their place.
    """

    query: tuple[Tensor, Tensor | None]
    key: tuple[Tensor, Tensor | None]
    value: tuple[Tensor, Tensor | None]
    output: tuple[Tensor, Tensor | None]
    n_heads: int
    batch_first: bool
    dropout: float
    gate: Gate | None = None

    @classmethod
    def of(cls, module: nn.Module, gate: Gate | None = None) -> WrittenAttention:
        """Return those of a `torch.nn.MultiheadAttention` or a `SeparateAttention`, as views.

        Raises
        ------
        ValueError
            If it appends a learned key or a zero: such a key belongs to no head's projections.
        """
        if isinstance(module, SeparateAttention):
            q, k, v, out = ((layer.weight, layer.bias) for layer in module.projections)
            return cls(q, k, v, out, module.num_heads, module.batch_first, module.dropout * module.training, gate)
        if not isinstance(module, nn.MultiheadAttention):
            name = type(module).__name__
            raise TypeError(f"module must be a MultiheadAttention or a SeparateAttention, got {name}")
        plain = module.bias_k is None and module.bias_v is None and not module.add_zero_attn
        validate.require(plain, "module", "be without add_bias_kv and add_zero_attn for its heads to be gated", module)
        if module.in_proj_weight is not None:
            weights = list(module.in_proj_weight.chunk(3))
        else:
            weights = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
        bias: Any = module.in_proj_bias
        biases = [None] * 3 if bias is None else list(bias.chunk(3))
        first, second, third = zip(weights, biases, strict=True)
        output = module.out_proj.weight, module.out_proj.bias
        dropout = module.dropout * module.training
        return cls(first, second, third, output, module.num_heads, module.batch_first, dropout, gate)

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what `torch.nn.MultiheadAttention` returns."""
        n_heads, batch_first, dropout = self.n_heads, self.batch_first, self.dropout
        single = query.dim() == 2
        if single:
            query, key, value = (x.unsqueeze(0 if batch_first else 1) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        if not batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (F.linear(x, *w) for x, w in ((query, self.query), (key, self.key), (value, self.value)))
        batch, length, width = q.shape
        weights = None
        if n_heads == 0:
            context = q
        else:
            q, k, v = (x.reshape(batch, x.shape[1], n_heads, -1).transpose(1, 2) for x in (q, k, v))
            mask = _additive(attn_mask, key_padding_mask, batch, n_heads, q)
            validate.require(not is_causal or attn_mask is not None, "attn_mask", "be given for is_causal=True", None)
            if need_weights:
                scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
                weights = (scores if mask is None else scores + mask).softmax(-1)
                out = F.dropout(weights, dropout, dropout > 0) @ v
            else:
                out = F.scaled_dot_product_attention(q, k, v, mask, dropout)
            context = out.transpose(1, 2).reshape(batch, length, width)
        result = F.linear(context if self.gate is None else self.gate(context), *self.output)
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not batch_first:
            result = result.transpose(0, 1)
        if single:
            result = result.squeeze(0 if batch_first else 1)
            weights = None if weights is None else weights.squeeze(0)
        return result, weights


def _additive(mask: Tensor | None, padding: Tensor | None, batch: int, n_heads: int, like: Tensor) -> Tensor | None:
    """One mask to be added to the scores, (batch or 1, heads or 1, query, key); None if there is none."""
    total: Tensor | None = None
    if mask is not None:
        mask = _numbers(mask, like)
        total = mask[None, None] if mask.dim() == 2 else mask.reshape(batch, n_heads, *mask.shape[-2:])
    if padding is not None:
        padding = _numbers(padding, like)[:, None, None, :]
        total = padding if total is None else total + padding
    return total


def _numbers(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, -math.inf)
    return mask.to(like)


class SeparateAttention(nn.Module):
    """Multi-head attention with its projections apart, called as `torch.nn.MultiheadAttention` is.

    Made by `prune_heads` in the place of a `torch.nn.MultiheadAttention` that loses heads; any number may be left,
    also none: then the output is the bias.
    """

    in_proj_bias = None  # what torch's encoder layer looks at before it takes its fused path

    def __init__(
        self,
        embed_dim: int,
        n_heads: int,
        head_dim: int,
        *,
        kdim: int,
        vdim: int,
        bias: bool,
        dropout: float,
        batch_first: bool,
    ) -> None:
        super().__init__()
        width = n_heads * head_dim
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch finds a layer without weights remarkable
            self.query = nn.Linear(embed_dim, width, bias=bias)
            self.key = nn.Linear(kdim, width, bias=bias)
            self.value = nn.Linear(vdim, width, bias=bias)
            self.output = nn.Linear(width, embed_dim, bias=bias)
        self.num_heads, self.head_dim, self.dropout, self.batch_first = n_heads, head_dim, dropout, batch_first

    @classmethod
    def of(cls, module: nn.MultiheadAttention) -> SeparateAttention:
        """Return a copy of a module, all heads included."""
        p = WrittenAttention.of(module)
        out = cls(
            module.embed_dim,
            module.num_heads,
            module.head_dim,
            kdim=module.kdim,
            vdim=module.vdim,
            bias=p.output[1] is not None,
            dropout=module.dropout,
            batch_first=module.batch_first,
        )
        with torch.no_grad():
            for layer, (weight, bias) in zip(out.projections, (p.query, p.key, p.value, p.output), strict=True):
                layer.weight.copy_(weight)
                if bias is not None:
                    layer.bias.copy_(bias)
        return out.to(p.output[0].device, p.output[0].dtype).train(module.training)

    @property
    def projections(self) -> tuple[nn.Linear, nn.Linear, nn.Linear, nn.Linear]:
        """Query, key, value, output."""
        return self.query, self.key, self.value, self.output

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return output and, if asked for, attention weights."""
        written = WrittenAttention.of(self)
        return written(query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal)
