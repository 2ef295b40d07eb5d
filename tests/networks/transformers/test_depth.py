"""Blocks dropped from a transformer: losses, choices, repair."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")
import torch

from prunopt.networks import load
from prunopt.networks.transformers import blocks, drop_blocks
from prunopt.networks.transformers.depth import (
    DepthOptions,
    DropLosses,
    block_influence,
    choose_depth,
    prune_depth,
    repair_gaps,
)
from prunopt.networks.transformers.text import divergence
from prunopt.networks.transformers.tiny_models import SHARED

IDS = torch.randint(3, 90, (20, 24), generator=torch.Generator().manual_seed(0))
OPTIONS = DepthOptions(candidates=4, exchanges=4)


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    asked: dict[str, Any] = SHARED | {"num_hidden_layers": 6, "num_key_value_heads": 4, "initializer_range": 0.1}
    made: Any = LlamaForCausalLM(LlamaConfig(**asked))
    return made.eval()


def smaller(model: Any, dropped: list[int]) -> Any:
    other: Any = copy.deepcopy(model)
    drop_blocks(other, dropped)
    return other


@pytest.mark.parametrize("dropped", [[0], [2, 4], [5], [4, 5], [0, 1, 5]])
def test_losses_are_those_of_the_smaller_model(model: Any, dropped: list[int]) -> None:
    before = model(input_ids=IDS).logits
    loss = DropLosses(model, IDS[:2])
    assert loss(dropped) == pytest.approx(divergence(smaller(model, dropped), model, IDS[:2]), rel=1e-5)
    assert len(blocks(model)) == 6
    assert torch.equal(model(input_ids=IDS).logits, before)


def test_losses_are_kept(model: Any, tmp_path: Path) -> None:
    first = DropLosses(model, IDS[:2], tmp_path)
    value = first([1, 3])
    again = DropLosses(model, IDS[:2], tmp_path)
    assert (again([3, 1]), again.evaluations) == (value, 0)
    with pytest.raises(ValueError, match="changed: windows"):
        DropLosses(model, IDS[2:4], tmp_path)


def test_influence_by_definition(model: Any) -> None:
    with torch.no_grad():
        hidden = model.model(input_ids=IDS, output_hidden_states=True).hidden_states
    want = [1 - float(torch.nn.functional.cosine_similarity(hidden[k], hidden[k + 1], dim=-1).mean()) for k in range(5)]
    assert block_influence(model, IDS)[:5] == pytest.approx(want, abs=1e-5)


def test_the_choice_is_judged_on_other_windows(model: Any) -> None:
    found = choose_depth(model, IDS, 2, OPTIONS)
    judge = DropLosses(model, IDS[2:6])
    assert judge(found.dropped) == pytest.approx(min(found.judged.values()))
    assert found.bound == pytest.approx(found.predicted, abs=1e-8)
    assert len(found.dropped) == 2


def test_the_repair_is_the_least_squares_solution(model: Any) -> None:
    dropped = [3]
    small = smaller(model, dropped)
    repaired: Any = repair_gaps(model, small, dropped, IDS, damping=1e-6)
    with torch.no_grad():
        dense = model.model(input_ids=IDS, output_hidden_states=True).hidden_states[4]
        errors = []
        for other in (small, repaired):
            out = other.model(input_ids=IDS, output_hidden_states=True).hidden_states[3]
            errors.append(float(((out - dense) ** 2).sum()))
        inputs: list[Any] = []
        down: Any = small.model.layers[2].mlp.down_proj
        hook = down.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        body: Any = small.model
        before = body(input_ids=IDS, output_hidden_states=True).hidden_states[3]
        hook.remove()
    x, lacking = inputs[0].reshape(-1, 64).double().numpy(), (dense - before).reshape(-1, 32).double().numpy()
    best = np.linalg.lstsq(x, lacking, rcond=None)[0]
    assert errors[1] == pytest.approx(float(((lacking - x @ best) ** 2).sum()), rel=1e-3)
    assert errors[1] < errors[0]


def test_a_shallower_model_is_saved_and_loaded(model: Any, tmp_path: Path) -> None:
    result = prune_depth(model, IDS, 2, options=OPTIONS)
    assert result.stock
    assert len(blocks(result.model)) == 4
    assert result.options["judged"]["repaired"] <= result.options["judged"]["unrepaired"]
    result.save(tmp_path / "x")
    again = load(tmp_path / "x")
    assert torch.equal(again(input_ids=IDS).logits, result.model(input_ids=IDS).logits)


@pytest.mark.parametrize(
    ("remove", "options", "words"),
    [
        (0, OPTIONS, "remove must be"),
        (5, OPTIONS, "remove must be"),
        (3, DepthOptions(candidates=2), "candidates must be at least 3"),
        (2, DepthOptions(windows=18), "calibration must hold 22 windows"),
    ],
)
def test_bad_input(model: Any, remove: int, options: DepthOptions, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        choose_depth(model, IDS, remove, options)
    with pytest.raises(ValueError, match="leave a block"):
        drop_blocks(smaller(model, []), range(6))
