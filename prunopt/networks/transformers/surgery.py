"""Removing heads and neurons from a transformer for good: rows and columns go, shapes shrink."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from prunopt.core import validate
from prunopt.core.arrays import Ints
from prunopt.networks.transformers.families import (
    Attention,
    Block,
    Experts,
    FeedForward,
    child,
    replace_weight,
    weight_of,
)


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
    width, per, module = attention.head_dim, attention.heads_per_group, attention.module
    for name in attention.inputs:
        layer = child(module, name)
        if attention.fused and attention.parts:
            counts, start, rows = (per, 1, 1), 0, []
            for count in counts:
                rows.append(start + _within(keep, count * width))
                start += attention.n_groups * count * width
            _rows(layer, torch.cat(rows))
        else:
            _rows(layer, _within(keep, weight_of(layer).shape[0] // max(1, attention.n_groups)))
    _columns(attention.projection, _within(keep, per * width))
    keep_per_head(attention, keep)
    without_inputs(attention)
    note_shapes(module, len(keep) * per, width, len(keep))


def _within(keep: torch.Tensor, size: int) -> torch.Tensor:
    """Return the numbers of all entries of some groups of a size."""
    return (keep[:, None] * size + torch.arange(size)).flatten()


def keep_per_head(attention: Attention, keep: torch.Tensor) -> None:
    """Leave only those of some groups of what an attention holds for each head: sinks (GPT-OSS), norms (Cohere)."""
    heads = _within(keep, attention.heads_per_group)
    for path, values in list(attention.module.named_parameters()):
        name = path.split(".")[0]
        rows = {"sinks": heads, "q_norm": heads, "k_norm": keep}.get(name)
        count = attention.n_groups if name == "k_norm" else attention.n_heads
        if rows is None or values.dim() != (1 if name == "sinks" else 2) or len(values) != count:
            continue
        owner, _, last = path.rpartition(".")
        new = nn.Parameter(values.detach()[rows.to(values.device)].clone(), requires_grad=values.requires_grad)
        setattr(attention.module.get_submodule(owner), last, new)


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


def note_shapes(module: Any, n_heads: int, width: int, n_groups: int | None = None) -> None:
    """Tell an attention module what its projections now hold, where it keeps such numbers."""
    groups = n_heads if n_groups is None else n_groups
    for name, value in (
        ("num_heads", n_heads), ("num_attention_heads", n_heads), ("n_heads", n_heads), ("split_size", n_heads * width),
        ("all_head_size", n_heads * width), ("inner_dim", n_heads * width), ("num_key_value_heads", groups),
        ("num_kv_heads", groups),
    ):  # fmt: skip
        if isinstance(getattr(module, name, None), int | list):
            # GPT-2 splits a projection into three: of no width at all there are three parts only where it is told so.
            setattr(module, name, [0, 0, 0] if name == "split_size" and value == 0 else value)
    config: Any = getattr(module, "config", None)
    if hasattr(module, "qkv_proj") and config is not None and config.num_attention_heads != n_heads:
        module.config = copy.copy(config)  # Phi-3 counts its heads there, and blocks may differ
        module.config.num_attention_heads = n_heads


def fit_attention(attention: Attention, gone: Sequence[int] = ()) -> None:
    """Tell an attention what its projections now hold; without ``gone``, values for each head are to be loaded."""
    without_inputs(attention)
    n_heads = weight_of(attention.projection).shape[1] // attention.head_dim
    n_groups = n_heads // attention.heads_per_group
    keep_per_head(attention, _kept(attention.n_groups, gone, "removed groups")[:n_groups])
    note_shapes(attention.module, n_heads, attention.head_dim, n_groups)


def remove_neurons(feed_forward: FeedForward, removed: Sequence[int] | Ints) -> None:
    """Remove neurons: rows of the projections up and gate, columns of the projection down."""
    keep = _kept(feed_forward.width, removed, "removed neurons")
    if feed_forward.up == feed_forward.gate:
        _rows(child(feed_forward.up_owner, feed_forward.up), torch.cat([keep, feed_forward.width + keep]))
    else:
        for name in (feed_forward.up, feed_forward.gate):
            if name is not None:
                _rows(child(feed_forward.up_owner, name), keep)
    _columns(feed_forward.projection, keep)


def parameters_of(block: Block) -> dict[str, int]:
    """Return the parameters of a block's linear layers by part, and of one head group, one neuron and one expert."""
    out = {"attention": 0, "group": 0, "feed_forward": 0, "neuron": 0, "expert": 0}
    attention, ffn = block.attention, block.feed_forward
    neurons: list[nn.Module] = []
    if ffn is not None:
        neurons = [child(ffn.up_owner, n) for n in dict.fromkeys((ffn.up, ffn.gate)) if n is not None]
        neurons.append(ffn.projection)
        out["feed_forward"] = _count(neurons)
        out["neuron"] = (out["feed_forward"] - _bias(ffn.projection)) // max(1, ffn.width)
    if block.experts is not None:
        out["feed_forward"], out["neuron"], out["expert"] = expert_parameters(block.experts)
    if attention is not None:
        layers = [block.module.get_submodule(name) for name in block.layers]
        out["attention"] = _count([layer for layer in layers if not any(layer is n for n in neurons)])
        for part in block.attentions:
            of_heads = _count([*(child(part.module, n) for n in part.inputs), part.projection])
            out["group"] += (of_heads - _bias(part.projection)) // max(1, part.n_groups)
    return out


def expert_parameters(experts: Experts) -> tuple[int, int, int]:
    """Return the parameters of all experts, of a neuron in each of them, and of one expert."""
    routed = sum(p.numel() for p in experts.module.parameters())
    shared, biases = 0, getattr(experts.module, "down_proj_bias", torch.empty(0)).numel()
    if experts.shared is not None:
        down: Any = experts.shared.projection
        names = {experts.shared.up, experts.shared.gate or experts.shared.up}
        shared = _count([*(child(experts.shared.up_owner, n) for n in names), down])
        biases += _bias(down)
    return routed + shared, (routed + shared - biases) // max(1, experts.width), routed // max(1, experts.count)


def _count(layers: Sequence[nn.Module]) -> int:
    return sum(p.numel() for layer in layers for p in layer.parameters())


def _bias(layer: Any) -> int:
    return 0 if layer.bias is None else int(layer.bias.numel())
