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
    if getattr(model, "config", None) is None:
        return False
    heads = _heads(found)
    widths = {b.feed_forward.width for b in found if b.feed_forward}
    if is_mixed(found):
        stated = stated_shapes(model, found)
    else:
        one_kind = next(iter(heads)) if len(heads) == 1 else None
        one_width = next(iter(widths)) if len(widths) == 1 else None
        stated = _stated(model, one_kind, one_width)
    # Where blocks differ, the configuration may say so already (Gemma 4's heads): only trying tells.
    for config_with in (*stated, model.config):
        if _builds(model, config_with):
            model.config = config_with
            return True
    return False


def as_configured(model: nn.Module) -> bool:
    """Whether stock code builds tensors of the model's shapes from the configuration that it has."""
    return getattr(model, "config", None) is not None and _builds(model, model.config)


def config_takes(model: nn.Module, *, heads: Shape | None = None, width: int | None = None) -> bool:
    """Whether stock code can build the model with such heads, or neurons, in every block that has some."""
    if getattr(model, "config", None) is None or 0 in (width, heads and heads[0]):
        return False
    for config in _stated(model, heads, width):
        with contextlib.suppress(*_errors()):
            found = blocks(_built(model, config))
            if heads is not None and _heads(found) != {heads}:
                continue
            if width is None or {b.feed_forward.width for b in found if b.feed_forward} == {width}:
                return True
    return False


def _heads(found: Sequence[Block]) -> set[Shape]:
    return {(b.attention.n_heads, b.attention.n_groups, b.attention.head_dim) for b in found if b.attention}


def _stated(model: Any, heads: Shape | None, width: int | None) -> list[Any]:
    """Return copies of the configuration that state the shapes.

    A head's width is said where the configuration knows one: servers divide the hidden size by the heads otherwise.
    """
    out = []
    knows = hasattr(model.config.get_text_config(), "head_dim")
    for with_width in dict.fromkeys((knows, False, True)):
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
