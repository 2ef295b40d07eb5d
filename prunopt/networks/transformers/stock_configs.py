"""What the configuration of a model can state of its shapes, so that stock code of transformers builds them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from prunopt.networks.transformers._hugging_face import config_errors
from prunopt.networks.transformers.families import Block, blocks
from prunopt.networks.transformers.stack_configs import is_mixed, stated_shapes

# What families call the width of their feed-forward part, and the numbers of heads and groups.
WIDTHS = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "hidden_dim", "d_ff")
HEADS = ("num_attention_heads", "num_heads", "n_head", "n_heads")
GROUPS = ("num_key_value_heads", "num_kv_heads")
Shape = tuple[int, int, int]  # heads, groups, width of a head


def write_config(model: nn.Module, found: Sequence[Block]) -> bool:
    """Put equal shapes of all blocks into the model's configuration; return whether stock code can rebuild it."""
    config: Any = getattr(model, "config", None)
    if config is None:
        return False
    heads = {(b.attention.n_heads, b.attention.n_groups, b.attention.head_dim) for b in found if b.attention}
    widths = {b.feed_forward.width for b in found if b.feed_forward}
    if is_mixed(found):
        stated = stated_shapes(model, found)
    elif len(heads) > 1 or len(widths) > 1:
        return False
    else:
        stated = _stated(model, next(iter(heads), None), next(iter(widths), None))
    for config_with in stated:
        if _builds(model, config_with):
            model.config = config_with
            return True
    return False


def config_takes(model: nn.Module, n_heads: int, n_groups: int, head_dim: int) -> bool:
    """Whether stock code can build the model with so many heads and groups of a width in every block."""
    if getattr(model, "config", None) is None or n_heads == 0:
        return False
    for config in _stated(model, (n_heads, n_groups, head_dim), None):
        with contextlib.suppress(*_errors()):
            built = _built(model, config)
            if _heads(built) == {(n_heads, n_groups, head_dim)}:
                return True
    return False


def _heads(model: nn.Module) -> set[Shape]:
    return {(b.attention.n_heads, b.attention.n_groups, b.attention.head_dim) for b in blocks(model) if b.attention}


def _stated(model: Any, heads: Shape | None, width: int | None) -> list[Any]:
    """Return copies of the configuration that state the shapes, the plainest first."""
    out = []
    for with_width in (False, True):  # a head's width is said only where it has to be
        config = copy.deepcopy(model.config)
        text = config.get_text_config()
        try:
            if width is not None:
                _set(text, WIDTHS, width)
            if heads is not None:
                if with_width:
                    text.head_dim = heads[2]
                _set(text, HEADS, heads[0])
                _set(text, GROUPS, heads[1])
            for part in (config, text):
                part.validate()
        except _errors():  # Llama's wants the hidden size to be a multiple of the number of heads; its code does not
            continue
        out.append(config)
    return out


def _set(config: Any, names: Sequence[str], value: int) -> None:
    """State a number under the first name that the configuration has and holds a number (or nothing) under."""
    attribute_map = getattr(config, "attribute_map", {})
    for name in dict.fromkeys([attribute_map.get(n, n) for n in names] + list(names)):
        if hasattr(config, name) and isinstance(getattr(config, name), int | None):
            setattr(config, name, value)
            return


def _errors() -> tuple[type[Exception], ...]:
    return (*config_errors(), RuntimeError, AttributeError, ZeroDivisionError, KeyError, AssertionError)


def _built(model: nn.Module, config: Any) -> nn.Module:
    with torch.device("meta"):
        built: nn.Module = type(model)(copy.deepcopy(config))
    return built


def _builds(model: nn.Module, config: Any) -> bool:
    """Whether the model's class makes tensors of its very shapes from a configuration."""
    try:
        built = _built(model, config)
    except _errors():
        return False

    def shapes(of: nn.Module) -> dict[str, torch.Size]:
        return {name: tensor.shape for name, tensor in (*of.named_parameters(), *of.named_buffers())}

    return shapes(built) == shapes(model)
