"""The parts of a block that pruning works on: attention heads, feed-forward neurons, experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from prunopt.core import validate


@dataclass(frozen=True, eq=False)
class Attention:
    """The attention of a block.

    Parameters
    ----------
    name
        Where its module is in the model.
    module
        Holds the projections.
    query, key, value
        Names of the projections inside ``module``; those that are fused into one have the same name.
    output_owner, output
        The module that holds the output projection, and its name there.
    head_dim
        Width of a head.
    n_heads, n_groups
        Query heads, and the key-value heads that they share in equal parts.
    fixed
        Why heads cannot be removed; empty where they can.
    parts
        Rows of a projection of all three: all queries, all keys, all values (GPT-2); False: those of each group
        together (GPT-NeoX). Projections of one or two of them always hold group after group.
    """

    name: str
    module: nn.Module
    query: str
    key: str
    value: str
    output_owner: nn.Module
    output: str
    head_dim: int
    n_heads: int
    n_groups: int
    fixed: str = ""
    parts: bool = True

    @property
    def fused(self) -> bool:
        """Whether query, key and value are one projection."""
        return self.query == self.key == self.value

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the projections of query, key and value, each once."""
        return tuple(dict.fromkeys((self.query, self.key, self.value)))

    @property
    def projection(self) -> nn.Module:
        """The output projection, whose inputs are the heads."""
        return child(self.output_owner, self.output)

    @property
    def heads_per_group(self) -> int:
        """Number of query heads that share a key-value head."""
        return self.n_heads // max(1, self.n_groups)


@dataclass(frozen=True, eq=False)
class FeedForward:
    """The feed-forward part of a block: ``down(act(gate(x)) * up(x))``, or ``down(act(up(x)))`` without a gate.

    Where ``gate`` and ``up`` have the same name, one projection holds both, a half each.
    """

    name: str
    up_owner: nn.Module
    up: str
    gate: str | None
    down_owner: nn.Module
    down: str

    @property
    def projection(self) -> nn.Module:
        """The projection down, whose inputs are the neurons."""
        return child(self.down_owner, self.down)

    @property
    def width(self) -> int:
        """Number of neurons."""
        return weight_of(self.projection).shape[1]


@dataclass(frozen=True, eq=False)
class Experts:
    """The experts of a block, kept as tensors of three dimensions, a slice for each of them.

    Parameters
    ----------
    name
        Where the module that holds router and experts is, inside the block.
    owner, module, router
        That module, and the two.
    shared
        Experts that every token goes through, as one feed-forward part; None where there are none.
    fixed
        Why whole experts cannot be removed; empty where they can.
    """

    name: str
    owner: nn.Module
    module: nn.Module
    router: nn.Module
    shared: FeedForward | None = None
    fixed: str = ""

    @property
    def transposed(self) -> bool:
        """Whether slices are kept as (in, out)."""
        return bool(getattr(self.module, "is_transposed", False))

    @property
    def alternating(self) -> bool:
        """Whether rows of gate and up alternate."""
        return not getattr(self.module, "is_concatenated", True)

    @property
    def down(self) -> torch.Tensor:
        """The projections down, (experts, out, neurons): a view."""
        weight = cast("torch.Tensor", self.module.down_proj)
        return weight.transpose(1, 2) if self.transposed else weight

    @property
    def count(self) -> int:
        """Number of experts that tokens are routed to."""
        return self.down.shape[0]

    @property
    def width(self) -> int:
        """Number of neurons of each."""
        return self.down.shape[2]

    @property
    def top_k(self) -> int:
        """Number of experts that a token goes through."""
        found: Any = getattr(self.router, "top_k", None) or getattr(self.owner, "top_k", 1)
        return int(found)

    @property
    def shared_width(self) -> int:
        """Neurons of the shared experts for one neuron of the others."""
        return 0 if self.shared is None else self.shared.width // max(1, self.width)


@dataclass(frozen=True, eq=False)
class Block:
    """A block: ``layers`` are the names, inside it, of its prunable linear layers, in the order they are used.

    Parameters
    ----------
    name, module
        Where it is in the model.
    attention, feed_forward
        Its parts; None where there is none.
    stages
        Names of linear layers, those with the same input together, in the order they are used.
    missing
        What of it is not understood and stays as it is; empty where nothing is.
    cross
        The attention to what an encoder puts out, of blocks of a decoder.
    target
        Whether the block is one of a decoder that has an encoder beside it.
    experts
        Feed-forward parts of which a router picks some for each token; None where there are none.
    """

    name: str
    module: nn.Module
    attention: Attention | None
    feed_forward: FeedForward | None
    stages: tuple[tuple[str, ...], ...]
    missing: str = ""
    cross: Attention | None = None
    target: bool = False
    experts: Experts | None = None

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """The attentions that there are; all lose the same number of head groups."""
        return tuple(part for part in (self.attention, self.cross) if part is not None)

    @property
    def crossing(self) -> tuple[str, ...]:
        """Names of the layers whose input is what the encoder puts out."""
        if self.cross is None:
            return ()
        inside = self.cross.name.removeprefix(f"{self.name}.")
        return tuple(dict.fromkeys((f"{inside}.{self.cross.key}", f"{inside}.{self.cross.value}")))

    def layer_of(self, part: Attention | FeedForward) -> str:
        """Return the name, inside the block, of the projection out of its heads or neurons."""
        return next(name for name in self.layers if self.module.get_submodule(name) is part.projection)

    def attention_before(self, layer: str) -> Attention:
        """Return the attention whose output projection a layer is."""
        return next(part for part in self.attentions if self.layer_of(part) == layer)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the linear layers inside the block."""
        return tuple(name for stage in self.stages for name in stage)


def child(owner: nn.Module, name: str) -> nn.Module:
    """Return a module inside another, by its dotted name."""
    return owner.get_submodule(name)


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer, stored either way round."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def weight_of(layer: nn.Module) -> torch.Tensor:
    """Return the weight of a linear layer as (out, in); a view, also where it is stored as (in, out)."""
    weight = layer.weight
    if not isinstance(weight, torch.Tensor) or weight.dim() != 2:
        raise validate.invalid("layer", "have a weight of two dimensions", validate.Shown(type(layer).__name__))
    return weight if isinstance(layer, nn.Linear) else weight.T


def replace_weight(layer: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    """Give a linear layer another weight (out, in), of any shape, and the bias of it (None: the one it has)."""
    old: Any = layer
    stored = weight if isinstance(layer, nn.Linear) else weight.T
    old.weight = nn.Parameter(
        stored.detach().to(old.weight).contiguous().clone(), requires_grad=old.weight.requires_grad
    )
    if bias is not None and old.bias is not None:
        old.bias = nn.Parameter(bias.detach().to(old.bias).clone(), requires_grad=old.bias.requires_grad)
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = weight.shape
    else:
        old.nf, old.nx = weight.shape


def has_layers(module: nn.Module, *names: str) -> bool:
    """Whether all of these are linear layers inside a module."""
    try:
        return all(is_linear(module.get_submodule(name)) for name in names)
    except AttributeError:
        return False


def at(module: nn.Module, path: str) -> nn.Module | None:
    """Return a module inside another, or None where there is none."""
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def parted(module: nn.Module, path: str) -> tuple[nn.Module, str]:
    """Return the module that holds a layer, and the layer's name there."""
    owner, _, name = path.rpartition(".")
    return module.get_submodule(owner), name
