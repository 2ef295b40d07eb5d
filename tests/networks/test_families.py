"""Transformers are understood, whatever their family calls its parts, and lose heads and neurons for good."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

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
    with pytest.raises(ValueError, match="removed groups: numbers 0 to 4 given, there are 4"):
        remove_groups(block.attention, [0, 4])
    with pytest.raises(ValueError, match="removed neurons"):
        remove_neurons(block.feed_forward, [-1])
