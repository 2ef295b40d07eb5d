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
APART = ("moe_intermediate_size",)
WIDTH = ("head_dim",)
HEADS = ("num_attention_heads", "num_heads")
GROUPS = ("num_key_value_heads", "num_kv_heads")
Stated = list[tuple[tuple[str, ...], set[int]]]


def is_mixed(found: Sequence[Block]) -> bool:
    """Whether blocks are of two kinds, or have experts."""
    return any(b.target or b.experts for b in found)


def stated_shapes(model: nn.Module, found: Sequence[Block]) -> list[Any]:
    """Return copies of a model's configuration that state what its blocks are, the plainest first.

    There are none where blocks of a kind differ.
    """
    whole: Any = model.config
    two, out = any(b.target for b in found), []
    for wanted in [_of_stacks(found)] if two else _of_experts(found):
        if any(len(values) > 1 for _, values in wanted):
            continue
        config = copy.deepcopy(whole)
        text = config if two else config.get_text_config()
        with contextlib.suppress(*config_errors()):
            for names, values in wanted:
                known = [n for n in names if isinstance(getattr(text, n, None), int)]
                if names != COUNTS:  # which several names may stand for
                    known = known[:1]
                for name in (names if names == WIDTH else known) if values else ():
                    setattr(text, name, next(iter(values)))
            config.validate()
            out.append(config)
    return out


def _of_stacks(found: Sequence[Block]) -> Stated:
    out: Stated = []
    for target, side in ((False, "encoder"), (True, "decoder")):
        part = [b for b in found if b.target == target]
        heads = {a.n_heads for b in part for a in b.attentions}
        out.append(((f"{side}_ffn_dim", "d_ff"), {b.feed_forward.width for b in part if b.feed_forward}))
        out.append(((f"{side}_attention_heads",), heads))
    return out


def _of_experts(found: Sequence[Block]) -> list[Stated]:
    """Return the shapes, experts' neurons under one name or the other, a head's width said or not."""
    experts, attentions = [b.experts for b in found if b.experts], [b.attention for b in found if b.attention]
    counts: Stated = [
        (COUNTS, {e.count for e in experts}),
        (HEADS, {a.n_heads for a in attentions}),
        (GROUPS, {a.n_groups for a in attentions}),
    ]
    width: Stated = [(WIDTH, {a.head_dim for a in attentions})]
    dense, routed = _widths(b.feed_forward for b in found), _widths(experts)
    named: list[Stated] = [[(PLAIN, dense), (APART, routed)], [(PLAIN, dense | routed)]]
    return [neurons + counts + rest for rest in ([], width) for neurons in named]


def _widths(parts: Iterable[Any]) -> set[int]:
    return {part.width for part in parts if part is not None}
