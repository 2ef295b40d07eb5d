"""Locates the blocks, attention heads and feed-forward layers of the supported model families."""

from __future__ import annotations

import functools
import inspect
import os
import runpy
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import Any, cast

import torch
from torch import nn

from prunopt.core import validate

GROUP = "prunopt.families"
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
    """

    name: str
    module: nn.Module
    attention: Attention | None
    feed_forward: FeedForward | None
    stages: tuple[tuple[str, ...], ...]
    missing: str = ""
    cross: Attention | None = None
    target: bool = False

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


def use_family(text: str) -> None:
    """Register the reader that ``FILE.py:reader`` names: a function of the model, or a `Family`; the file is run."""
    path, _, name = text.rpartition(":")
    must = "be FILE.py:reader, a file and the name of a reader in it"
    validate.require(path.endswith(".py") and name.isidentifier(), "family", must, text)
    validate.require(os.path.isfile(path), "family", "name a file that exists", path)
    try:
        reader = runpy.run_path(path).get(name)
    except Exception as error:  # it is the user's code: it may raise anything
        raise validate.invalid("family", "be a file that runs", path, f"{type(error).__name__}: {error}") from error
    validate.require(callable(reader), "family", must, text, f"{path} has no function {name}")
    register_family(name, cast("Reader", reader))


@functools.cache
def _installed() -> None:
    """Register the readers of other packages: entry points of the group ``prunopt.families``."""
    for point in entry_points(group=GROUP):
        register_family(point.name, point.load())


def _read(model: nn.Module) -> tuple[str, list[Block]]:
    _installed()
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


def _has(module: nn.Module, *names: str) -> bool:
    try:
        return all(is_linear(module.get_submodule(name)) for name in names)
    except AttributeError:
        return False


@dataclass(frozen=True)
class Family:
    """What a family calls the parts of its blocks: all that prunopt has to know of most of them.

    Parameters
    ----------
    name
        Of the family.
    attention
        Where the attention is, inside a block.
    inputs
        Names, inside it, of the projections of query, key and value, or of the one of all three.
    output
        Where the projection out of the heads is, inside a block.
    up, gate, down
        Where those of the feed-forward part are; no gate: None. One projection of both: the same name.
    parts
        See `Attention`.
    before
        Linear layers of the attention that others are applied to, in their order: low-rank factors.
    fixed
        Why heads of the family cannot be removed, {} standing for the model's class; empty where they can.
    experts
        Where experts are; they stay as they are.
    cross
        Where the attention of a decoder to its encoder is, inside a block; its parts are called as those of the other.
    """

    name: str
    attention: str
    inputs: tuple[str, ...]
    output: str
    up: str
    gate: str | None
    down: str
    parts: bool = True
    before: tuple[str, ...] = ()
    fixed: str = ""
    experts: tuple[str, ...] = ("mlp.experts", "block_sparse_moe.experts", "moe.experts")
    cross: str = ""

    def __call__(self, model: nn.Module) -> list[Block] | None:
        """Return the blocks of a model, or None if it is another family's."""
        lists = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.ModuleList)]
        towers = [(path, m) for path, m in lists if any(self._has_attention(block) for block in m)]
        if not any(self._fits(block) for _, m in towers for block in m):
            return None
        text = [(path, m) for path, m in towers if "language_model" in path.split(".")]
        if len(towers) > 1 and len(text) != 1:
            several = validate.Shown(f"{type(model).__name__}, which has {' and '.join(path for path, _ in towers)}")
            mend = "pass one of them as a model of its own, such as model.get_encoder()"
            raise validate.invalid("model", "have one sequence of blocks", several, mend)
        path, modules = text[0] if len(text) == 1 else towers[0]
        return self.tower(model, path, modules)

    def tower(self, model: nn.Module, path: str, modules: nn.ModuleList) -> list[Block]:
        """Return the blocks of a list."""
        return [self._block(model, f"{path}.{k}" if path else str(k), m) for k, m in enumerate(modules)]

    def _fits(self, module: nn.Module) -> bool:
        whole = self._has_attention(module)
        return whole and (_has(module, self.down, self.up) or self._experts(module) is not None)

    def _has_attention(self, module: nn.Module) -> bool:
        return _has(module, self.output, *(f"{self.attention}.{name}" for name in self.inputs))

    def _experts(self, module: nn.Module) -> str | None:
        return next((path for path in self.experts if _at(module, path) is not None), None)

    def _block(self, model: nn.Module, name: str, module: nn.Module) -> Block:
        kind, missing = type(model).__name__, []
        heads = neurons = None
        stages: list[tuple[str, ...]] = []
        if self._has_attention(module):
            heads = self._heads(model, name, module)
            stages += [(f"{self.attention}.{layer}",) for layer in self.before if _has(heads.module, layer)]
            inputs = tuple(f"{self.attention}.{layer}" for layer in heads.inputs)
            stages += [(layer,) for layer in inputs] if self.before else [inputs]
            stages.append((self.output,))
        else:
            gone = next(n for n in self.inputs if not _has(module, f"{self.attention}.{n}"))
            missing.append(f"{name} of {kind} has no linear layer {self.attention}.{gone}")
        cross = None
        if self.cross:
            other = replace(self, attention=self.cross, output=self.cross + self.output.removeprefix(self.attention))
            cross = other._heads(model, name, module)
            query, *rest = (f"{self.cross}.{n}" for n in cross.inputs)
            stages += [(query,), tuple(rest), (other.output,)]
        up = tuple(dict.fromkeys(part for part in (self.gate, self.up) if part is not None))
        if _has(module, *up, self.down):
            (owner, first), (down_owner, down) = _parted(module, self.up), _parted(module, self.down)
            gate = None if self.gate is None else _parted(module, self.gate)[1]
            where = self.down.rpartition(".")[0]
            neurons = FeedForward(f"{name}.{where}" if where else name, owner, first, gate, down_owner, down)
            stages += [up, (self.down,)]
        else:
            experts = self._experts(module)
            no = f"has no linear layer {next(n for n in (*up, self.down) if not _has(module, n))}"
            missing.append(f"{name} of {kind} {no if experts is None else 'has experts, which stay as they are'}")
        return Block(name, module, heads, neurons, tuple(stages), "; ".join(missing), cross, bool(self.cross))

    def _heads(self, model: nn.Module, name: str, module: nn.Module) -> Attention:
        attention = module.get_submodule(self.attention)
        (owner, output), width = _parted(module, self.output), _head_dim(model, attention)
        n_heads = weight_of(child(owner, output)).shape[1] // width
        query, key, value = self.inputs if len(self.inputs) == 3 else (self.inputs[0],) + 2 * (self.inputs[-1],)
        rows = weight_of(child(attention, key)).shape[0] // width
        n_groups = (rows - n_heads) // 2 if query == key else n_heads if key == value else rows
        fixed = self.fixed or _why_fixed(model, attention, width, n_heads, n_groups)
        return Attention(
            f"{name}.{self.attention}", attention, query, key, value, owner, output, width, n_heads, n_groups,
            fixed.format(type(model).__name__), self.parts,
        )  # fmt: skip


@dataclass(frozen=True)
class TwoStacks:
    """A family with an encoder and a decoder that sees what it puts out: the blocks of one, then those of the other.

    Parameters
    ----------
    name
        Of the family.
    encoder, decoder
        What the parts of their blocks are called; that of the decoder names its ``cross``.
    """

    name: str
    encoder: Family
    decoder: Family

    def __call__(self, model: nn.Module) -> list[Block] | None:
        """Return the blocks of a model, or None if it is another family's."""
        lists = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)]
        cross = self.decoder.cross
        seeing = [(p, m) for p, m in lists if self.decoder._fits(m[0]) and _at(m[0], cross) is not None]
        others = [(p, m) for p, m in lists if self.encoder._fits(m[0]) and _at(m[0], cross) is None]
        if len(seeing) != 1 or len(others) != 1:
            return None
        return self.encoder.tower(model, *others[0]) + self.decoder.tower(model, *seeing[0])


def _at(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _parted(module: nn.Module, path: str) -> tuple[nn.Module, str]:
    """Return the module that holds a layer, and the layer's name there."""
    owner, _, name = path.rpartition(".")
    return module.get_submodule(owner), name


def _head_dim(model: nn.Module, attention: nn.Module) -> int:
    """Return the width that a head puts out."""
    for name in ("v_head_dim", "head_dim", "head_size", "attention_head_size", "key_value_proj_dim"):
        found = getattr(attention, name, None)
        if isinstance(found, int) and found > 0:
            return found
    config: Any = getattr(model, "config", None)
    return int(config.hidden_size // config.num_attention_heads)


def _why_fixed(model: nn.Module, attention: nn.Module, width: int, n_heads: int, n_groups: int) -> str:
    """Say what keeps heads from being removed: norms over all heads, positions that count them, one group for all."""
    for name in ("q_norm", "k_norm", "q_layernorm", "k_layernorm", "layernorm_q", "layernorm_k"):
        norm = getattr(attention, name, None)
        if norm is None:
            continue
        apart = all(p.dim() == 2 and p.shape[0] in (n_heads, n_groups) for p in norm.parameters())
        if sum(p.numel() for p in norm.parameters()) > width and not apart:
            return f"the {name} of {{}} spans all heads"
    takes = "alibi" in inspect.signature(attention.forward).parameters  # BLOOM always, Falcon where configured
    if takes and getattr(getattr(model, "config", None), "alibi", True):
        return "the position bias (ALiBi) of {} is one for all blocks"
    return "all heads of {} share one key-value head" if n_groups == 1 and n_heads > 1 else ""


SEPARATE = ("q_proj", "k_proj", "v_proj")
GATED = ("mlp.up_proj", "mlp.gate_proj", "mlp.down_proj")
HALVES = ("mlp.gate_up_proj", "mlp.gate_up_proj", "mlp.down_proj")
WIDE = ("mlp.dense_h_to_4h", None, "mlp.dense_4h_to_h")
FC = ("mlp.fc1", None, "mlp.fc2")
BERT = ("intermediate.dense", None, "output.dense")
T5, DENSE = "layer.0.SelfAttention", "layer.1.DenseReluDense"
BIAS = "the position bias of {} is one for all blocks"
LOW_RANK = ("q_a_proj", "kv_a_proj_with_mqa")
OPT = Family("opt", "self_attn", SEPARATE, "self_attn.out_proj", "fc1", None, "fc2")  # and BART, Marian, Whisper
T5_PLAIN = Family("t5", T5, ("q", "k", "v"), f"{T5}.o", f"{DENSE}.wi", None, f"{DENSE}.wo", fixed=BIAS)
T5_GATED = replace(T5_PLAIN, name="t5-gated", up=f"{DENSE}.wi_1", gate=f"{DENSE}.wi_0")


def _decoder_of_t5(family: Family) -> Family:
    """Return the declaration of a decoder, which has an attention more."""
    up, gate, down = (part and part.replace("layer.1", "layer.2") for part in (family.up, family.gate, family.down))
    return replace(family, up=up or "", gate=gate, down=down or "", cross="layer.1.EncDecAttention")


KNOWN: tuple[Family | TwoStacks, ...] = (
    TwoStacks("encoder-decoder", OPT, replace(OPT, cross="encoder_attn")),
    TwoStacks("t5-encoder-decoder", T5_PLAIN, _decoder_of_t5(T5_PLAIN)),
    TwoStacks("t5-gated-encoder-decoder", T5_GATED, _decoder_of_t5(T5_GATED)),
    # Llama, Mistral, Qwen, SmolLM3, Granite, Gemma, OLMo, StableLM, Cohere, EXAONE; Mixtral, Qwen-MoE, GPT-OSS: experts
    Family("llama", "self_attn", SEPARATE, "self_attn.o_proj", *GATED),
    Family("glm4", "self_attn", SEPARATE, "self_attn.o_proj", *HALVES, experts=()),
    Family("starcoder2", "self_attn", SEPARATE, "self_attn.o_proj", "mlp.c_fc", None, "mlp.c_proj", experts=()),
    Family("phi3", "self_attn", ("qkv_proj",), "self_attn.o_proj", *HALVES),
    Family("phi", "self_attn", SEPARATE, "self_attn.dense", *FC),
    OPT,
    Family("gpt2", "attn", ("c_attn",), "attn.c_proj", "mlp.c_fc", None, "mlp.c_proj"),
    Family("gpt-neox", "attention", ("query_key_value",), "attention.dense", *WIDE, parts=False),
    Family("falcon", "self_attention", ("query_key_value",), "self_attention.dense", *WIDE, parts=False),
    Family("deepseek", "self_attn", ("q_b_proj", "kv_b_proj"), "self_attn.o_proj", *GATED, before=LOW_RANK),
    Family("deepseek-lite", "self_attn", ("q_proj", "kv_b_proj"), "self_attn.o_proj", *GATED, before=LOW_RANK[1:]),
    Family("bert", "attention.self", ("query", "key", "value"), "attention.output.dense", *BERT),
    Family("distilbert", "attention", ("q_lin", "k_lin", "v_lin"), "attention.out_lin", "ffn.lin1", None, "ffn.lin2"),
    Family("modernbert", "attn", ("Wqkv",), "attn.Wo", "mlp.Wi", "mlp.Wi", "mlp.Wo"),
    Family("mpnet", "attention.attn", ("q", "k", "v"), "attention.attn.o", *BERT, fixed=BIAS),
    Family("vit", "attention", SEPARATE, "attention.o_proj", *FC),
    Family("clip", "self_attn", SEPARATE, "self_attn.out_proj", *FC),
    T5_PLAIN,
    T5_GATED,
)
for _family in reversed(KNOWN):  # those registered later are asked first
    register_family(_family.name, _family)
