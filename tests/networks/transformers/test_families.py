"""Transformers are understood, whatever their family calls its parts, and lose heads and neurons for good."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from prunopt.networks import prune_transformer  # noqa: E402
from prunopt.networks.transformers.families import Block, blocks, family_of, register_family, weight_of  # noqa: E402
from prunopt.networks.transformers.surgery import group_columns, parameters_of, remove_groups, remove_neurons  # noqa: E402
from prunopt.networks.transformers.tiny_models import FAMILIES, outputs, tiny_tokens, tiny_transformer  # noqa: E402


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_are_found(family: str) -> None:
    model = tiny_transformer(family)
    found = blocks(model)
    assert len(found) == (2 if family == "gpt2" else 3)
    attention, ffn = found[0].attention, found[0].feed_forward
    assert attention is not None
    assert ffn is not None
    assert attention.n_heads * attention.head_dim == 32
    assert (attention.n_heads, attention.n_groups) == {"gpt2": (4, 4), "bert": (8, 8)}.get(family, (8, 4))
    assert ffn.width == (128 if family == "gpt2" else 64)
    named = dict(model.named_modules())
    for block in found:
        assert named[block.name] is block.module
        assert all(f"{block.name}.{n}" in named for n in block.layers)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("removed", [[0], [1, 3], [0, 1, 2, 3]])
def test_removed_heads_are_masked_heads(family: str, removed: list[int]) -> None:
    masked, cut = tiny_transformer(family), tiny_transformer(family)
    ids = tiny_tokens(3)
    for model in (masked, cut):
        attention = blocks(model)[1].attention
        assert attention is not None
        if model is masked:
            columns = np.concatenate([group_columns(attention)[g] for g in removed])
            with torch.no_grad():
                weight_of(attention.projection)[:, columns] = 0
        else:
            remove_groups(attention, removed)
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in masked.parameters())
    assert torch.allclose(outputs(masked, ids), outputs(cut, ids), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_removed_neurons_are_masked_neurons(family: str) -> None:
    masked, cut, removed = tiny_transformer(family), tiny_transformer(family), [0, 5, 63]
    ids = tiny_tokens(3)
    for model in (masked, cut):
        ffn = blocks(model)[0].feed_forward
        assert ffn is not None
        if model is masked:
            with torch.no_grad():
                weight_of(ffn.projection)[:, removed] = 0
        else:
            before = parameters_of(blocks(model)[0])
            remove_neurons(ffn, removed)
            after = parameters_of(blocks(model)[0])
            assert before["feed_forward"] - after["feed_forward"] == 3 * before["neuron"]
    assert torch.allclose(outputs(masked, ids), outputs(cut, ids), atol=1e-5)


def test_an_unknown_model_is_named_and_can_be_taught() -> None:
    class Odd(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.trunk = torch.nn.Linear(3, 3)

    with pytest.raises(ValueError, match=r"Odd with trunk \(Linear\).*register_family"):
        blocks(Odd())
    register_family("odd", lambda m: [Block("trunk", m.trunk, None, None, ())] if isinstance(m, Odd) else None)
    try:
        assert family_of(Odd()) == "odd"
        assert blocks(Odd())[0].name == "trunk"
    finally:
        from prunopt.networks.transformers import families

        del families._FAMILIES["odd"]


def test_wrong_units_are_named() -> None:
    block = blocks(tiny_transformer())[0]
    assert block.attention is not None
    assert block.feed_forward is not None
    with pytest.raises(ValueError, match=r"removed groups must be numbers from 0 to 3, got \[0, 4\]"):
        remove_groups(block.attention, [0, 4])
    with pytest.raises(ValueError, match="removed neurons"):
        remove_neurons(block.feed_forward, [-1])


BASE = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2, "decoder_sparse_step": 2}
LATENT = {
    "q_lora_rank": None, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
    "first_k_dense_replace": 4,
}  # fmt: skip
MIXED = {
    "num_hidden_layers": 6, "num_kv_shared_layers": 2, "head_dim": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 3,
}  # fmt: skip
SHARED_KEYS = {"num_kv_shared_layers": 2, "head_dim": 8, "layer_types": ["full_attention"] * 4}


def other(config: str, kind: str, more: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return getattr(transformers, kind)(getattr(transformers, config)(**BASE | more)).eval()


@pytest.mark.parametrize(
    ("config", "kind", "more", "where"),
    [
        ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", EXPERTS, r"model\.layers\.1 has no linear layer mlp\.gate_proj"),
        ("DeepseekV2Config", "DeepseekV2ForCausalLM", LATENT, r"layers\.0 has no linear layer self_attn\.k_proj"),
        ("Gemma4TextConfig", "Gemma4ForCausalLM", MIXED, r"layers\.4 has no linear layer self_attn\.k_proj"),
        ("Gemma3nTextConfig", "Gemma3nForCausalLM", SHARED_KEYS, r"layers\.2 has no linear layer self_attn\.k_proj"),
    ],
)
def test_families_that_are_half_known_are_refused_by_name(
    config: str, kind: str, more: dict[str, Any], where: str
) -> None:
    with pytest.raises(ValueError, match=f"got {kind}, whose .*{where}; teach prunopt"):
        blocks(other(config, kind, more))


@pytest.mark.parametrize(
    ("config", "kind", "why"),
    [
        ("Olmo2Config", "Olmo2ForCausalLM", "the q_norm of Olmo2ForCausalLM spans all heads"),
        (
            "StableLmConfig",
            "StableLmForCausalLM",
            "the attention of StableLmForCausalLM keeps the numbers of its heads",
        ),
    ],
)
def test_heads_that_cannot_be_removed_are_refused_and_neurons_go(config: str, kind: str, why: str) -> None:
    model = other(config, kind, {})
    with pytest.raises(ValueError, match=f"units must leave out 'heads', got .*; {why}"):
        prune_transformer(model, tiny_tokens(4), units=("heads", "ffn"), sparsity=0.3)
    assert prune_transformer(model, tiny_tokens(4)).removed
