"""`torch.nn.MultiheadAttention` written out, so that its heads can be gated, and shrunk."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Gate = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Projections:
    """Weights (out, in) and biases of query, key, value and output, as `torch.nn.functional.linear` takes them."""

    query: tuple[Tensor, Tensor | None]
    key: tuple[Tensor, Tensor | None]
    value: tuple[Tensor, Tensor | None]
    output: tuple[Tensor, Tensor | None]

    @classmethod
    def of(cls, module: nn.Module) -> Projections:
        """Return those of a `torch.nn.MultiheadAttention` or a `SeparateAttention`, as views.

        Raises
        ------
        ValueError
            If it appends a learned key or a zero: such a key belongs to no head's projections.
        """
        if isinstance(module, SeparateAttention):
            layers = module.query, module.key, module.value, module.output
            return cls(*((layer.weight, layer.bias) for layer in layers))
        if not isinstance(module, nn.MultiheadAttention):
            raise TypeError(f"module: {type(module).__name__} given; MultiheadAttention or SeparateAttention is needed")
        if module.bias_k is not None or module.bias_v is not None or module.add_zero_attn:
            raise ValueError("MultiheadAttention with add_bias_kv or add_zero_attn: its heads cannot be gated")
        if module.in_proj_weight is not None:
            weights = list(module.in_proj_weight.chunk(3))
        else:
            weights = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
        bias: Any = module.in_proj_bias
        biases = [None] * 3 if bias is None else list(bias.chunk(3))
        first, second, third = zip(weights, biases, strict=True)
        return cls(first, second, third, (module.out_proj.weight, module.out_proj.bias))


def attend(
    p: Projections, n_heads: int, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
    need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
    is_causal: bool = False, *, batch_first: bool, dropout: float = 0.0, gate: Gate | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Return what `torch.nn.MultiheadAttention` returns; ``gate`` sees the heads' outputs, (batch, length, width)."""
    single = query.dim() == 2
    if single:
        query, key, value = (x.unsqueeze(0 if batch_first else 1) for x in (query, key, value))
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    if not batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    q, k, v = (F.linear(x, *w) for x, w in ((query, p.query), (key, p.key), (value, p.value)))
    batch, length, width = q.shape
    weights = None
    if n_heads == 0:
        context = q
    else:
        q, k, v = (x.reshape(batch, x.shape[1], n_heads, -1).transpose(1, 2) for x in (q, k, v))
        mask = _additive(attn_mask, key_padding_mask, batch, n_heads, q)
        if is_causal and attn_mask is None:
            raise ValueError("attn_mask=None: is_causal=True is a hint about a mask that has to be given")
        if need_weights:
            scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
            weights = (scores if mask is None else scores + mask).softmax(-1)
            out = F.dropout(weights, dropout, dropout > 0) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        context = out.transpose(1, 2).reshape(batch, length, width)
    result = F.linear(context if gate is None else gate(context), *p.output)
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

    def __init__(self, embed_dim: int, n_heads: int, head_dim: int, *, kdim: int, vdim: int, bias: bool,
                 dropout: float, batch_first: bool) -> None:  # fmt: skip
        super().__init__()
        import warnings

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
        p = Projections.of(module)
        out = cls(module.embed_dim, module.num_heads, module.head_dim, kdim=module.kdim, vdim=module.vdim,
                  bias=p.output[1] is not None, dropout=module.dropout, batch_first=module.batch_first)  # fmt: skip
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
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Return output and, if asked for, attention weights."""
        return attend(
            Projections.of(self), self.num_heads, query, key, value, key_padding_mask, need_weights, attn_mask,
            average_attn_weights, is_causal, batch_first=self.batch_first,
            dropout=self.dropout if self.training else 0.0,
        )  # fmt: skip
