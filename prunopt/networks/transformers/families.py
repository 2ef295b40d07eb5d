"""Locates the blocks, attention heads and feed-forward layers of the supported model families."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prunopt.core import validate

TEACH = "teach prunopt its blocks with prunopt.networks.register_family(name, reader)"


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
        Names of the projections inside ``module``; all three the same where they are fused (GPT-2).
    output_owner, output
        The module that holds the output projection, and its name there.
    head_dim
        Width of a head.
    n_heads, n_groups
        Query heads, and the key-value heads that they share in equal parts.
    fixed
        Why heads cannot be removed; empty where they can.
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

    @property
    def fused(self) -> bool:
        """Whether query, key and value are one projection."""
        return self.query == self.key

    @property
    def projection(self) -> nn.Module:
        """The output projection, whose inputs are the heads."""
        return child(self.output_owner, self.output)

    @property
    def heads_per_group(self) -> int:
        """Number of query heads that share a key-value head."""
        return self.n_heads // self.n_groups


@dataclass(frozen=True, eq=False)
class FeedForward:
    """The feed-forward part of a block: ``down(act(gate(x)) * up(x))``, or ``down(act(up(x)))`` without a gate."""

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
class Block:
    """A block: ``layers`` are the names, inside it, of its prunable linear layers, in the order they are used."""

    name: str
    module: nn.Module
    attention: Attention | None
    feed_forward: FeedForward | None
    stages: tuple[tuple[str, ...], ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the linear layers inside the block."""
        return tuple(name for stage in self.stages for name in stage)


Reader = Callable[[nn.Module], "list[Block] | None"]
_FAMILIES: dict[str, Reader] = {}


def register_family(name: str, reader: Reader) -> None:
    """Teach prunopt an architecture: ``reader(model)`` returns its blocks, or None if the model is another's.

    Readers registered later are asked first.
    """
    _FAMILIES[name] = reader


def family_of(model: nn.Module) -> str:
    """Return the name of the family that understands the model.

    Raises
    ------
    ValueError
        If none does; names the class and its modules.
    """
    return _read(model)[0]


def _read(model: nn.Module) -> tuple[str, list[Block]]:
    for name in reversed(_FAMILIES):
        found = _FAMILIES[name](model)
        if found is not None:
            return name, found
    parts = ", ".join(f"{n} ({type(m).__name__})" for n, m in list(model.named_children())[:6])
    kind = validate.Shown(f"{type(model).__name__} with {parts or 'no children'}")
    raise validate.invalid("model", f"be a transformer of a known family ({', '.join(_FAMILIES)})", kind, TEACH)


def blocks(model: nn.Module) -> list[Block]:
    """Return the blocks of a transformer, first to last.

    Raises
    ------
    ValueError
        If the architecture is not known; the message names the module that was not understood.
    """
    return _read(model)[1]


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


def _layers(model: nn.Module, *paths: str) -> tuple[str, nn.ModuleList] | None:
    for path in paths:
        try:
            found = model.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(found, nn.ModuleList) and len(found):
            return path, found
    return None


def _has(module: nn.Module, *names: str) -> bool:
    try:
        return all(is_linear(module.get_submodule(name)) for name in names)
    except AttributeError:
        return False


def _config(module: nn.Module) -> Any:
    return getattr(module, "config", None)


LLAMA = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
GATED = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def llama_blocks(model: nn.Module) -> list[Block] | None:
    """Llama, Mistral, Qwen2, Qwen3, SmolLM2 and their kin: separate projections, grouped queries, a gate."""
    found = _layers(model, "model.layers", "layers")
    if found is None or not any(_has(m, "self_attn.o_proj") for m in found[1]):
        return None
    out = []
    for k, module in enumerate(found[1]):
        name = f"{found[0]}.{k}"
        missing = [part for part in (*LLAMA, *GATED) if not _has(module, part)]
        if missing:
            kind = validate.Shown(f"{type(model).__name__}, whose {name} has no linear layer {missing[0]}")
            raise validate.invalid("model", "have the same layers as Llama in every block", kind, TEACH)
        attention, mlp = module.get_submodule("self_attn"), module.get_submodule("mlp")
        q, k_proj = weight_of(child(attention, "q_proj")), weight_of(child(attention, "k_proj"))
        width = int(getattr(attention, "head_dim", 0)) or q.shape[0] // _config(model).num_attention_heads
        names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
        heads = Attention(
            f"{name}.self_attn", attention, **names, output_owner=attention, head_dim=width,
            n_heads=q.shape[0] // width, n_groups=k_proj.shape[0] // width, fixed=_why_fixed(model, attention, width),
        )  # fmt: skip
        neurons = FeedForward(f"{name}.mlp", mlp, "up_proj", "gate_proj", mlp, "down_proj")
        out.append(Block(name, module, heads, neurons, (LLAMA[:3], LLAMA[3:], GATED[:2], GATED[2:])))
    return out


def _why_fixed(model: nn.Module, attention: nn.Module, width: int) -> str:
    """Say why heads cannot be removed: a norm over all heads, a norm for each, or code that counts them itself."""
    kind = type(model).__name__
    for name in ("q_norm", "k_norm", "q_layernorm", "k_layernorm"):
        norm = getattr(attention, name, None)
        if norm is not None and sum(p.numel() for p in norm.parameters()) > width:
            return f"the {name} of {kind} spans all heads"
    if getattr(attention, "hidden_size", None) is not None and getattr(attention, "num_key_value_heads", None):
        return f"the attention of {kind} keeps the numbers of its heads"
    return ""


def gpt2_blocks(model: nn.Module) -> list[Block] | None:
    """GPT-2: query, key and value in one projection, weights stored as (in, out), no gate."""
    found = _layers(model, "transformer.h", "h")
    if found is None or not _has(found[1][0], "attn.c_attn", "mlp.c_fc"):
        return None
    out = []
    for k, module in enumerate(found[1]):
        name, attention = f"{found[0]}.{k}", module.get_submodule("attn")
        width = int(attention.head_dim)  # type: ignore[arg-type]
        n_heads = weight_of(child(attention, "c_attn")).shape[0] // (3 * width)
        names = {"query": "c_attn", "key": "c_attn", "value": "c_attn", "output": "c_proj"}
        heads = Attention(
            f"{name}.attn",
            attention,
            **names,
            output_owner=attention,
            head_dim=width,
            n_heads=n_heads,
            n_groups=n_heads,
        )
        mlp = module.get_submodule("mlp")
        neurons = FeedForward(f"{name}.mlp", mlp, "c_fc", None, mlp, "c_proj")
        stages = (("attn.c_attn",), ("attn.c_proj",), ("mlp.c_fc",), ("mlp.c_proj",))
        out.append(Block(name, module, heads, neurons, stages))
    return out


def bert_blocks(model: nn.Module) -> list[Block] | None:
    """BERT and RoBERTa encoders, MiniLM among them."""
    found = _layers(model, "bert.encoder.layer", "roberta.encoder.layer", "encoder.layer")
    if found is None or not _has(found[1][0], "attention.self.query", "intermediate.dense"):
        return None
    out = []
    for k, module in enumerate(found[1]):
        name, attention = f"{found[0]}.{k}", module.get_submodule("attention.self")
        width = int(attention.attention_head_size)  # type: ignore[arg-type]
        n_heads = weight_of(child(attention, "query")).shape[0] // width
        heads = Attention(
            f"{name}.attention", attention, "query", "key", "value", module.get_submodule("attention.output"), "dense",
            head_dim=width, n_heads=n_heads, n_groups=n_heads,
        )  # fmt: skip
        up, down = module.get_submodule("intermediate"), module.get_submodule("output")
        neurons = FeedForward(f"{name}.output", up, "dense", None, down, "dense")
        qkv = tuple(f"attention.self.{n}" for n in ("query", "key", "value"))
        stages = (qkv, ("attention.output.dense",), ("intermediate.dense",), ("output.dense",))
        out.append(Block(name, module, heads, neurons, stages))
    return out


register_family("bert", bert_blocks)
register_family("gpt2", gpt2_blocks)
register_family("llama", llama_blocks)
