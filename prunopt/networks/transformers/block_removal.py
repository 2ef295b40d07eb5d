"""Whole blocks, attentions and feed-forward parts taken out of a transformer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from prunopt.core import validate
from prunopt.networks.transformers.families import Block, blocks
from prunopt.networks.transformers.surgery import remove_groups, remove_neurons

DEPTHS = ("num_hidden_layers", "n_layer", "num_layers")
PER_LAYER = ("layer_types", "no_rope_layers")  # lists of a configuration with an entry for each block


def list_of(model: nn.Module, found: Sequence[Block]) -> tuple[nn.Module, str]:
    """Return the module that holds the list of blocks, and the list's name there."""
    place = found[0].name.rpartition(".")[0]
    owner, _, name = place.rpartition(".")
    holder = model.get_submodule(owner) if owner else model
    listed = isinstance(getattr(holder, name, None), nn.ModuleList) and len(getattr(holder, name)) == len(found)
    kind = validate.Shown(type(model).__name__)
    validate.require(listed, "model", "hold its blocks in one list for blocks to be removed", kind)
    return holder, name


@contextmanager
def only(model: nn.Module, found: Sequence[Block], kept: Sequence[int], hidden: torch.Tensor) -> Iterator[None]:
    """Have the model run some blocks alone, the first of them on these hidden states."""
    holder, name = list_of(model, found)
    listed = getattr(holder, name)

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (hidden[None], *args[1:]), kwargs
        return args, kwargs | {"hidden_states": hidden[None]}

    handle = found[kept[0]].module.register_forward_pre_hook(enter, with_kwargs=True)
    setattr(holder, name, nn.ModuleList([found[k].module for k in kept]))
    try:
        yield
    finally:
        setattr(holder, name, listed)
        handle.remove()


def drop_blocks(model: nn.Module, removed: Sequence[int]) -> None:
    """Take blocks out of a model: the list and the configuration get shorter, so that stock code loads the rest.

    Parameters
    ----------
    removed
        Numbers of blocks, from 0; not all of them.
    """
    found = blocks(model)
    gone = sorted({validate.whole_number("removed block", k, low=0, high=len(found) - 1) for k in removed})
    validate.require(len(gone) < len(found), "removed blocks", "leave a block", gone)
    if not gone:
        return
    kept = [k for k in range(len(found)) if k not in gone]
    holder, name = list_of(model, found)
    setattr(holder, name, nn.ModuleList([getattr(holder, name)[k] for k in kept]))
    for number, k in enumerate(kept):
        for module in found[k].module.modules():  # caches are kept by the number of a block
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = number  # type: ignore[assignment]
    config: Any = getattr(model, "config", None)
    for depth in DEPTHS:
        if getattr(config, depth, None) == len(found):
            setattr(config, depth, len(kept))
    for per_layer in PER_LAYER:
        entries = getattr(config, per_layer, None)
        if isinstance(entries, list) and len(entries) == len(found):
            setattr(config, per_layer, [entries[k] for k in kept])


def remove_parts(model: nn.Module, parts: Mapping[str, Sequence[int]]) -> None:
    """Take out whole parts of a model.

    A block's attention or MLP goes by giving its projections no heads and no neurons: shapes with a 0, which
    `prunopt.networks.load` reads. A whole block leaves the list.

    Parameters
    ----------
    parts
        Numbers of blocks: ``"attention"``, ``"mlp"``, ``"blocks"``, each optional.
    """
    found = blocks(model)
    for k in parts.get("attention", ()):
        attention = found[k].attention
        if attention is not None:
            _require_linear(model, attention.projection)
            remove_groups(attention, np.arange(attention.n_groups))
    for k in parts.get("mlp", ()):
        feed_forward = found[k].feed_forward
        if feed_forward is not None:
            _require_linear(model, feed_forward.projection)
            remove_neurons(feed_forward, np.arange(feed_forward.width))
    drop_blocks(model, parts.get("blocks", ()))


def _require_linear(model: nn.Module, projection: nn.Module) -> None:
    kind = validate.Shown(f"{type(projection).__name__} in {type(model).__name__}")
    mend = "leave attention and mlp out of the granularity"
    validate.require(isinstance(projection, nn.Linear), "projections", "be linear layers to be left empty", kind, mend)
