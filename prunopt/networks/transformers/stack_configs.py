"""What the configuration of a model with two stacks, or with experts, can state of its shapes."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from prunopt.networks.transformers._hugging_face import config_errors
from prunopt.networks.transformers.expert_surgery import COUNTS
from prunopt.networks.transformers.families import Block

PLAIN = ("intermediate_size", "ffn_dim", "d_ff")
HEADS = ("num_attention_heads", "num_heads")
GROUPS = ("num_key_value_heads", "num_kv_heads")
Stated = list[tuple[Sequence[str], set[int]]]


def is_mixed(found: Sequence[Block]) -> bool:
    """Whether blocks are of two kinds, or have experts."""
    return any(b.target or b.experts for b in found)


def stated_shapes(model: nn.Module, found: Sequence[Block]) -> list[Any]:
    """Return copies of a model's configuration that state what its blocks are; none where blocks of a kind differ."""
    model_config: Any = model.config
    config = copy.deepcopy(model_config)
    text = config.get_text_config() if not any(b.target for b in found) else config
    wanted = _of_stacks(found) if any(b.target for b in found) else _of_experts(text, found)
    if any(len(values) > 1 for _, values in wanted):
        return []
    with contextlib.suppress(*config_errors()):
        for names, values in wanted:
            name = next((n for n in names if isinstance(getattr(text, n, None), int)), None)
            if name is not None and values:
                setattr(text, name, next(iter(values)))
        config.validate()
        return [config]
    return []


def _of_stacks(found: Sequence[Block]) -> Stated:
    out: Stated = []
    for target, side in ((False, "encoder"), (True, "decoder")):
        part = [b for b in found if b.target == target]
        heads = {a.n_heads for b in part for a in b.attentions}
        out.append(((f"{side}_ffn_dim", "d_ff"), {b.feed_forward.width for b in part if b.feed_forward}))
        out.append(((f"{side}_attention_heads",), heads))
    return out


def _of_experts(config: Any, found: Sequence[Block]) -> Stated:
    experts = [b.experts for b in found if b.experts]
    apart = isinstance(getattr(config, "moe_intermediate_size", None), int)
    attentions = [b.attention for b in found if b.attention]
    return [
        (PLAIN, _widths(b.feed_forward for b in found)),
        (("moe_intermediate_size",) if apart else PLAIN, _widths(experts)),
        (COUNTS, {e.count for e in experts}),
        (HEADS, {a.n_heads for a in attentions}),
        (GROUPS, {a.n_groups for a in attentions}),
    ]


def _widths(parts: Iterable[Any]) -> set[int]:
    return {part.width for part in parts if part is not None}
