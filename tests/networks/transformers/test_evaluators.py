"""A language model as an objective: masks in a context, fidelities, losses and divergences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from prunopt.networks.transformers.evaluators import SparsityMasks, TextEvaluator  # noqa: E402
from prunopt.networks.transformers.families import blocks, weight_of  # noqa: E402


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=3, head_dim=4, max_position_embeddings=32,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture
def windows() -> Any:
    return torch.randint(0, 61, (7, 16), generator=torch.Generator().manual_seed(1))


def state(model: Any) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_masks_are_wandas_and_the_weights_come_back(model: Any, windows: Any) -> None:
    before = state(model)
    masks = SparsityMasks(model, windows)
    share = [0.25, 0.5]
    with masks(share) as masked:
        for block, part in zip(blocks(masked), share, strict=True):
            for name in block.layers:
                weight = weight_of(block.module.get_submodule(name))
                zeros = (weight == 0).sum(1)
                assert bool((zeros == round(part * weight.shape[1])).all()), name
        down = weight_of(masked.get_submodule("model.layers.0.mlp.down_proj")) == 0
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)

    seen: list[Any] = []
    hook = model.model.layers[0].mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(input_ids=windows)
    hook.remove()
    score = before["model.layers.0.mlp.down_proj.weight"].abs() * seen[0].reshape(-1, 40).norm(dim=0)
    order = score.argsort(1)[:, :10]
    assert bool(down.gather(1, order).all())
    assert masks.sizes[0] == 24 * 24
    assert sum(masks.block_sizes) == sum(masks.sizes)


def test_weights_come_back_after_an_error(model: Any) -> None:
    before = state(model)
    masks = SparsityMasks(model, score="magnitude")
    with pytest.raises(KeyError), masks(np.full(14, 0.5)):
        raise KeyError
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_padding_has_no_say(model: Any, windows: Any) -> None:
    longer = torch.cat([windows, torch.full((7, 4), 3)], dim=1)
    mask = torch.ones_like(longer)
    mask[:, 16:] = 0
    padded = SparsityMasks(model, {"input_ids": longer, "attention_mask": mask})
    plain = SparsityMasks(model, windows)
    with padded([0.5, 0.5]):
        first = state(model)
    with plain([0.5, 0.5]):
        second = state(model)
    same = sum(int((first[n] == second[n]).sum()) for n in first)
    assert same >= 0.99 * sum(t.numel() for t in first.values())  # up to ties broken by rounding


def test_loss_and_fidelity(model: Any, windows: Any) -> None:
    evaluator = TextEvaluator(SparsityMasks(model, windows), windows)
    with torch.no_grad():
        logits = model(input_ids=windows).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    assert evaluator.loss(None) == pytest.approx(float(expected), rel=1e-5)
    assert len(evaluator.taken(0.1)) == 1
    assert len(evaluator.taken(0.5)) == 4
    assert torch.equal(evaluator.taken(0.5)[:1], evaluator.taken(0.1))
    one = evaluator.losses(None, fidelity=0.1)
    assert evaluator.loss(None, fidelity=0.1) == pytest.approx(one.loss.mean())
    assert evaluator.losses([0.9, 0.9]).against(evaluator.losses(None))[0] != 0


def test_divergence_from_the_dense_model(model: Any, windows: Any) -> None:
    evaluator = TextEvaluator(SparsityMasks(model, windows), windows, measure="kl")
    assert evaluator.loss([0.0, 0.0]) == pytest.approx(0, abs=1e-6)
    mild, harsh = evaluator.loss([0.2, 0.2]), evaluator.loss([0.8, 0.8])
    assert 0 < mild < harsh
    with evaluator.apply([0.8, 0.8]) as masked, torch.no_grad():
        ours = masked(input_ids=windows).logits.log_softmax(-1).double()
    with torch.no_grad():
        theirs = model(input_ids=windows).logits.log_softmax(-1).double()
    assert harsh == pytest.approx(float((theirs.exp() * (theirs - ours)).sum(-1).mean()), rel=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, w: SparsityMasks(m), "calibration must be token ids"),
        (lambda m, w: SparsityMasks(m, w, score="best"), "score must be one of .*got 'best'"),
        (
            lambda m, w: SparsityMasks(m, w)([0.1] * 3).__enter__(),
            "a number for each of 2 blocks, or of .* layers, got 3",
        ),
        (lambda m, w: SparsityMasks(m, w)([0.1, 1.5]).__enter__(), "allocation must hold finite numbers >= 0 and <= 1"),
        (lambda m, w: TextEvaluator(SparsityMasks(m, w), w, measure="bleu"), "measure must be one of"),
        (lambda m, w: TextEvaluator(SparsityMasks(m, w), w[:0]), "windows"),
        (lambda m, w: TextEvaluator(SparsityMasks(m, w), w).loss(None, fidelity=0), "fidelity must be .*got 0"),
    ],
)
def test_bad_input(change: Any, message: str, model: Any, windows: Any) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        change(model, windows)
