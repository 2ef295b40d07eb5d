"""Transformers are understood, whatever their family calls its parts, and lose heads and neurons for good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from prunopt.networks import prune_transformer  # noqa: E402
from prunopt.networks.transformers import families  # noqa: E402
from prunopt.networks.transformers.families import (  # noqa: E402
    Block,
    blocks,
    family_of,
    register_family,
    use_family,
    weight_of,
)
from prunopt.networks.transformers.surgery import group_columns, parameters_of, remove_groups, remove_neurons  # noqa: E402
from prunopt.networks.transformers.tiny_models import FAMILIES, outputs, tiny_tokens, tiny_transformer  # noqa: E402
from tests.networks.transformers.tiny_families import CASES, PAGE, Case, outcomes, row  # noqa: E402


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
SHARED_KEYS = {"num_kv_shared_layers": 2, "head_dim": 8, "layer_types": ["full_attention"] * 4}


def other(config: str, kind: str, more: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return getattr(transformers, kind)(getattr(transformers, config)(**BASE | more)).eval()


def test_blocks_that_use_keys_of_others_are_refused_by_name() -> None:
    model = other("Gemma3nTextConfig", "Gemma3nForCausalLM", SHARED_KEYS)
    assert "layers.2 of Gemma3nForCausalLM has no linear layer self_attn.k_proj" in blocks(model)[2].missing
    with pytest.raises(ValueError, match=r"model\.layers\.\d must|first argument of"):
        prune_transformer(model, tiny_tokens(4))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_family_does_what_the_documentation_says(case: Case) -> None:
    found = outcomes(case)
    assert not [word for word in found.values() if word.startswith(("WRONG", "TRACEBACK"))], found
    assert row(case, found) in PAGE.read_text("utf-8")


def test_the_table_has_a_row_for_each_family() -> None:
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0].removeprefix("| ") for line in rows[1:]] == [case.name for case in CASES]


def test_a_family_in_a_file_is_used(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from prunopt.networks.transformers.families import Family\n"
        "mine = Family('mine', 'self_attn', ('q_proj', 'k_proj', 'v_proj'), 'self_attn.o_proj',\n"
        "              'mlp.up_proj', 'mlp.gate_proj', 'mlp.down_proj')\n"
    )
    use_family(f"{tmp_path / 'mine.py'}:mine")
    try:
        assert family_of(tiny_transformer()) == "mine"
    finally:
        del families._FAMILIES["mine"]


@pytest.mark.parametrize(
    ("text", "why"),
    [("mine", "family must be FILE.py:reader"), ("none.py:mine", "family must name a file that exists, got 'none.py'")],
)
def test_a_family_that_is_no_file_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        use_family(text)
