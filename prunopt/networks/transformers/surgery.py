"""Removing heads and neurons from a transformer for good: rows and columns go, shapes shrink."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from prunopt.core import validate
from prunopt.core.arrays import Ints
from prunopt.networks.transformers._hugging_face import config_errors
from prunopt.networks.transformers.families import Attention, Block, FeedForward, child, replace_weight, weight_of


def group_columns(attention: Attention) -> list[Ints]:
    """Return the inputs of the output projection that belong to each key-value group, (heads * head_dim,) each."""
    size = attention.heads_per_group * attention.head_dim
    return [np.arange(g * size, (g + 1) * size) for g in range(attention.n_groups)]


def _kept(count: int, removed: Sequence[int] | Ints, what: str) -> torch.Tensor:
    gone = np.unique(np.asarray(removed, np.int64))
    inside = not gone.size or (gone[0] >= 0 and gone[-1] < count)
    validate.require(inside, what, f"be numbers from 0 to {count - 1}", gone.tolist())
    return torch.from_numpy(np.setdiff1d(np.arange(count), gone))


def _rows(layer: nn.Module, rows: torch.Tensor) -> None:
    bias: Any = layer.bias
    replace_weight(layer, weight_of(layer)[rows], None if bias is None else bias[rows])


def _columns(layer: nn.Module, columns: torch.Tensor) -> None:
    replace_weight(layer, weight_of(layer)[:, columns])


def remove_groups(attention: Attention, removed: Sequence[int] | Ints) -> None:
    """Remove whole key-value groups: rows of query, key and value, columns of the output projection.

    In models without grouped queries a group is a head. All of them may go: what stays is the output's bias.
    """
    keep = _kept(attention.n_groups, removed, "removed groups")
    width, per = attention.head_dim, attention.heads_per_group
    inside = torch.arange(width)
    shared = (keep[:, None] * width + inside).flatten()
    heads = (keep[:, None] * per + torch.arange(per)).flatten()
    queries = (heads[:, None] * width + inside).flatten()
    module: Any = attention.module
    if attention.fused:
        whole = attention.n_heads * width
        _rows(child(module, attention.query), torch.cat([k * whole + queries for k in range(3)]))
    else:
        _rows(child(module, attention.query), queries)
        for name in (attention.key, attention.value):
            _rows(child(module, name), shared)
    _columns(attention.projection, queries)
    without_inputs(attention)
    note_shapes(module, len(heads), width)


def without_inputs(attention: Attention) -> None:
    """Put a plain linear layer in the place of an output projection that has no inputs left and cannot do with none."""
    old: Any = attention.projection
    if isinstance(old, nn.Linear) or weight_of(old).shape[1] > 0:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch finds a layer without weights remarkable
        new = nn.Linear(0, weight_of(old).shape[0], bias=old.bias is not None)
    if old.bias is not None:
        new.bias = old.bias
    setattr(attention.output_owner, attention.output, new)


def note_shapes(module: Any, n_heads: int, width: int) -> None:
    """Tell an attention module what its projections now hold, where it keeps such numbers."""
    for name, value in (
        ("num_heads", n_heads), ("num_attention_heads", n_heads), ("split_size", n_heads * width),
        ("all_head_size", n_heads * width),
    ):  # fmt: skip
        if isinstance(getattr(module, name, None), int | list):
            # GPT-2 splits a projection into three: of no width at all there are three parts only where it is told so.
            setattr(module, name, [0, 0, 0] if name == "split_size" and value == 0 else value)


def fit_attention(block: Block) -> None:
    """Tell a block's attention what its projections now hold."""
    if block.attention is not None:
        without_inputs(block.attention)
        width = weight_of(block.attention.projection).shape[1]
        note_shapes(block.attention.module, width // block.attention.head_dim, block.attention.head_dim)


def remove_neurons(feed_forward: FeedForward, removed: Sequence[int] | Ints) -> None:
    """Remove neurons: rows of the projections up and gate, columns of the projection down."""
    keep = _kept(feed_forward.width, removed, "removed neurons")
    for name in (feed_forward.up, feed_forward.gate):
        if name is not None:
            _rows(child(feed_forward.up_owner, name), keep)
    _columns(feed_forward.projection, keep)


def parameters_of(block: Block) -> dict[str, int]:
    """Return the parameters of a block's linear layers by part, and of one head group and one neuron."""
    out = {"attention": 0, "group": 0, "feed_forward": 0, "neuron": 0}
    attention, ffn = block.attention, block.feed_forward
    if attention is not None:
        names = dict.fromkeys((attention.query, attention.key, attention.value))
        layers = [child(attention.module, n) for n in names] + [attention.projection]
        out["attention"] = sum(p.numel() for layer in layers for p in layer.parameters())
        bias: Any = attention.projection.bias
        fixed = 0 if bias is None else bias.numel()
        out["group"] = (out["attention"] - fixed) // max(1, attention.n_groups)
    if ffn is not None:
        layers = [child(ffn.up_owner, n) for n in (ffn.up, ffn.gate) if n is not None] + [ffn.projection]
        out["feed_forward"] = sum(p.numel() for layer in layers for p in layer.parameters())
        bias = ffn.projection.bias
        fixed = 0 if bias is None else bias.numel()
        out["neuron"] = (out["feed_forward"] - fixed) // max(1, ffn.width)
    return out


def write_config(model: nn.Module, found: Sequence[Block]) -> bool:
    """Put equal shapes of all blocks into the model's configuration; return whether stock code can rebuild it."""
    config: Any = getattr(model, "config", None)
    if config is None:
        return False
    shapes = {
        (None if b.attention is None else (b.attention.n_heads, b.attention.n_groups, b.attention.head_dim),
         None if b.feed_forward is None else b.feed_forward.width)
        for b in found
    }  # fmt: skip
    if len(shapes) != 1:
        return False
    heads, width = shapes.pop()
    if width is not None:
        name = "n_inner" if hasattr(config, "n_inner") else "intermediate_size"
        if getattr(config, name, None) is not None or name == "n_inner":
            setattr(config, name, width)
    return heads is None or config_takes(model, *heads, keep=True)


def config_takes(model: nn.Module, n_heads: int, n_groups: int, head_dim: int, *, keep: bool = False) -> bool:
    """Whether a model's configuration can state so many heads, groups and their width; with ``keep`` it then does."""
    config: Any = getattr(model, "config", None)
    if config is None or n_heads == 0:
        return False
    if n_heads == config.num_attention_heads:
        return True
    if not hasattr(config, "num_key_value_heads"):
        return False  # such families derive the width of a head from the number of heads
    names = ("head_dim", "num_attention_heads", "num_key_value_heads")
    before = {name: getattr(config, name, None) for name in names}
    kept = False
    try:
        for name, new in zip(names, (head_dim, n_heads, n_groups), strict=True):
            setattr(config, name, new)
        config.validate()
        kept = keep
    except config_errors():  # Llama's wants the hidden size to be a multiple of the number of heads; its code does not
        return False
    finally:
        if not kept:
            for name, old in before.items():
                setattr(config, name, old)
    return True
