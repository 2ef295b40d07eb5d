"""N:M masks learned by a model's own loss, frozen weights untouched, and masks on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import prunopt as po  # noqa: E402
from prunopt.networks.transformers.learned_masks import (  # noqa: E402
    MaskTaskOptions,
    layer_names,
    learn_masks,
    load_masks,
    mask_task,
    masks_by,
    save_masks,
    with_masks,
)
from prunopt.networks.transformers.text import token_losses  # noqa: E402
from prunopt.networks.transformers.tiny_models import tiny_tokens, tiny_transformer  # noqa: E402
from prunopt.problems.semi_structured_mask import SemiStructuredMask  # noqa: E402
from prunopt.solvers.relaxed.maskllm import MaskLLM  # noqa: E402


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_learned_masks_keep_the_weights_and_lower_the_loss(family: str) -> None:
    model, ids = tiny_transformer(family, spread=0.05), tiny_tokens(8, 24)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    prior = masks_by(model, ids, "magnitude")
    found = learn_masks(
        model, ids, prior=prior, solver=MaskLLM(steps=40, check=10, learning_rate=0.02), task=MaskTaskOptions(batch=4)
    )
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "the given model was changed"
    task = mask_task(model, ids)
    assert found.solution.objective <= task.objective(prior)
    assert found.solution.objective == pytest.approx(token_losses(found.model, ids).loss.mean(), rel=1e-5)
    for name in layer_names(model):
        a, b = before[f"{name}.weight"], found.model.state_dict()[f"{name}.weight"]
        mask = torch.from_numpy(found.masks[name])
        mask = mask.T if family == "gpt2" else mask
        assert torch.equal(b, torch.where(mask, a, torch.zeros(())))
    assert task.violation(found.masks) == 0


def test_refitted_weights_have_the_same_zeros() -> None:
    model, ids = tiny_transformer(), tiny_tokens(32, 24)
    found = learn_masks(model, ids, prior="wanda", solver=MaskLLM(steps=3), refit=True)
    assert 0 <= found.refit_share <= 1
    assert token_losses(found.model, ids).loss.mean() <= found.solution.objective + 1e-6
    plain = with_masks(model, found.masks)
    ours, theirs = found.model.state_dict(), plain.state_dict()
    for name in layer_names(model):
        assert torch.equal(ours[f"{name}.weight"] == 0, theirs[f"{name}.weight"] == 0)
    assert any(not torch.equal(ours[f"{n}.weight"], theirs[f"{n}.weight"]) for n in layer_names(model))


def test_all_masks_of_one_small_layer_are_enumerated() -> None:
    model, ids = tiny_transformer(), tiny_tokens(2, 8)
    name = "model.layers.1.mlp.gate_proj"
    weight: Any = model.get_submodule(name).weight
    shapes = {name: (1, 4)}

    def loss(masks: Any, step: int = 0) -> Any:
        mask = torch.as_tensor(masks[name], dtype=torch.float32)
        row = torch.cat([mask * weight[:1, :4].detach(), weight[:1, 4:].detach()], dim=1)
        whole = torch.cat([row, weight[1:].detach()])
        out = torch.func.functional_call(model, {f"{name}.weight": whole}, (), {"input_ids": ids})
        return out.logits.square().mean()

    task = SemiStructuredMask(shapes, lambda m: float(loss(m).detach()), loss)
    exact = po.solve(task, "relaxed-enumeration")
    learned = po.solve(task, MaskLLM(steps=60, check=5))
    assert exact.status is po.Status.OPTIMAL
    assert exact.gap == 0
    assert exact.objective <= learned.objective <= exact.objective * (1 + 1e-3)


def test_losses_in_half_precision_leave_the_weights_as_they_are() -> None:
    model, ids = tiny_transformer(), tiny_tokens(2, 8)
    prior, half_precision = masks_by(model, ids, "magnitude"), MaskTaskOptions(dtype=torch.bfloat16)
    whole, half = mask_task(model, ids), mask_task(model, ids, options=half_precision)
    assert half.objective(prior) == pytest.approx(whole.objective(prior), rel=1e-2)
    assert half.objective(prior) != whole.objective(prior)
    found = learn_masks(model, ids, prior=prior, solver=MaskLLM(steps=2), task=half_precision)
    assert {p.dtype for p in found.model.parameters()} == {torch.float32}


def test_masks_on_disk_are_whole_and_small(tmp_path: Path) -> None:
    model = tiny_transformer()
    for pattern in ("2:4", "4:8", "1:4"):
        masks = masks_by(model, tiny_tokens(), "magnitude", pattern)
        save_masks(tmp_path / "m.safetensors", masks, pattern)
        again, found = load_masks(tmp_path / "m.safetensors")
        assert found == tuple(int(n) for n in pattern.split(":"))
        assert all(np.array_equal(again[n], masks[n]) for n in masks)
    data = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(data[:-5])
    with pytest.raises(ValueError, match="cannot be read as masks"):
        load_masks(tmp_path / "m.safetensors")


def test_bad_requests_are_named() -> None:
    with pytest.raises(ValueError, match=r"layers\.0\.self_attn\.q_proj must have .* a multiple of 5, got 32"):
        mask_task(tiny_transformer(), tiny_tokens(), pattern="2:5")
    with pytest.raises(ValueError, match="pattern"):
        learn_masks(tiny_transformer(), tiny_tokens(), pattern="5:4")
