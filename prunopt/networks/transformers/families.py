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
from prunopt.networks.transformers.block_parts import Attention as Attention
from prunopt.networks.transformers.block_parts import Block as Block
from prunopt.networks.transformers.block_parts import Experts as Experts
from prunopt.networks.transformers.block_parts import FeedForward as FeedForward
from prunopt.networks.transformers.block_parts import at, has_layers, parted
from prunopt.networks.transformers.block_parts import child as child
from prunopt.networks.transformers.block_parts import is_linear as is_linear
from prunopt.networks.transformers.block_parts import replace_weight as replace_weight
from prunopt.networks.transformers.block_parts import weight_of as weight_of

GROUP = "prunopt.families"
TEACH = "teach prunopt its blocks with prunopt.networks.register_family(name, reader)"


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
        Where experts are.
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
        return whole and (has_layers(module, self.down, self.up) or self._experts(module) is not None)

    def _has_attention(self, module: nn.Module) -> bool:
        return has_layers(module, self.output, *(f"{self.attention}.{name}" for name in self.inputs))

    def _experts(self, module: nn.Module) -> str | None:
        return next((path for path in self.experts if at(module, path) is not None), None)

    def _block(self, model: nn.Module, name: str, module: nn.Module) -> Block:
        kind, missing = type(model).__name__, []
        heads = neurons = experts = None
        stages: list[tuple[str, ...]] = []
        if self._has_attention(module):
            heads = self._heads(model, name, module)
            stages += [(f"{self.attention}.{layer}",) for layer in self.before if has_layers(heads.module, layer)]
            inputs = tuple(f"{self.attention}.{layer}" for layer in heads.inputs)
            stages += [(layer,) for layer in inputs] if self.before else [inputs]
            stages.append((self.output,))
        else:
            gone = next(n for n in self.inputs if not has_layers(module, f"{self.attention}.{n}"))
            missing.append(f"{name} of {kind} has no linear layer {self.attention}.{gone}")
        cross = None
        if self.cross:
            other = replace(self, attention=self.cross, output=self.cross + self.output.removeprefix(self.attention))
            cross = other._heads(model, name, module)
            query, *rest = (f"{self.cross}.{n}" for n in cross.inputs)
            stages += [(query,), tuple(rest), (other.output,)]
        up = tuple(dict.fromkeys(part for part in (self.gate, self.up) if part is not None))
        if has_layers(module, *up, self.down):
            (owner, first), (down_owner, down) = parted(module, self.up), parted(module, self.down)
            gate = None if self.gate is None else parted(module, self.gate)[1]
            where = self.down.rpartition(".")[0]
            neurons = FeedForward(f"{name}.{where}" if where else name, owner, first, gate, down_owner, down)
            stages += [up, (self.down,)]
        else:
            path = self._experts(module)
            experts = None if path is None else _routed(module, path, self, kind)
            no = f"has no linear layer {next(n for n in (*up, self.down) if not has_layers(module, n))}"
            if experts is None:
                missing.append(f"{name} of {kind} {no if path is None else 'has experts, which stay as they are'}")
        return Block(name, module, heads, neurons, tuple(stages), "; ".join(missing), cross, bool(self.cross), experts)

    def _heads(self, model: nn.Module, name: str, module: nn.Module) -> Attention:
        attention = module.get_submodule(self.attention)
        (owner, output), width = parted(module, self.output), _head_dim(model, attention)
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
        seeing = [(p, m) for p, m in lists if self.decoder._fits(m[0]) and at(m[0], cross) is not None]
        others = [(p, m) for p, m in lists if self.encoder._fits(m[0]) and at(m[0], cross) is None]
        if len(seeing) != 1 or len(others) != 1:
            return None
        return self.encoder.tower(model, *others[0]) + self.decoder.tower(model, *seeing[0])


def _routed(module: nn.Module, path: str, family: Family, kind: str) -> Experts | None:
    """Return experts that are kept as tensors of three dimensions behind a router; None where they are not."""
    owner_path = path.rpartition(".")[0]
    owner, experts = module.get_submodule(owner_path), module.get_submodule(path)
    router = at(owner, "gate") or at(owner, "router")
    held = [getattr(experts, name, None) for name in ("gate_up_proj", "down_proj")]
    weight = getattr(router, "weight", None)
    tensors = all(isinstance(t, torch.Tensor) and t.dim() == 3 for t in held)
    if router is None or not tensors or not isinstance(weight, torch.Tensor) or weight.dim() != 2:
        return None
    shared, beside = None, f"{owner_path}.shared_experts"
    names = [f"{beside}.{part.rpartition('.')[2]}" for part in (family.up, family.gate or family.up, family.down)]
    if at(module, beside) is not None:
        if not has_layers(module, *names):
            return None
        (up_owner, up), (_, gate), (down_owner, down) = (parted(module, name) for name in names)
        shared = FeedForward(beside, up_owner, up, gate, down_owner, down)
    groups = getattr(router, "num_group", None) or 1
    fixed = f"the router of {kind} picks experts by groups" if isinstance(groups, int) and groups > 1 else ""
    return Experts(owner_path, owner, experts, router, shared, fixed)


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
