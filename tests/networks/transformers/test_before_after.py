"""What a run says of a whole model before and after, against the same computed by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from prunopt.networks import PruneOptions, prune_transformer
from prunopt.networks.transformers.before_after import compared, measure
from prunopt.networks.transformers.figures import figure_rows
from prunopt.networks.transformers.second_text import SECOND_TEXT
from prunopt.networks.transformers.text import TokenLosses, domain_rise, held_out_windows, source_windows, token_losses
from prunopt.networks.transformers.tiny_models import outputs, tiny_tokens, tiny_transformer

TEXTS = {"calibration": tiny_tokens(3, 32, seed=5), "second_text": tiny_tokens(2, 24, seed=6)}


def test_a_language_model_is_scored_before_and_after() -> None:
    model = tiny_transformer()
    result = prune_transformer(model, tiny_tokens(8), sparsity=0.3, options=PruneOptions(evaluation=TEXTS))
    found = result.evaluation
    assert set(found) - {"warning"} == {"perplexity", "parameters", "bytes", "tokens_per_second"}
    for name, windows in TEXTS.items():
        row = found["perplexity"][name]
        assert row["before"] == pytest.approx(token_losses(model, windows).perplexity)
        assert row["after"] == pytest.approx(token_losses(result.model, windows).perplexity)
        assert row["tokens"] == windows.shape[0] * (windows.shape[1] - 1)
    assert found["parameters"]["before"] == sum(p.numel() for p in model.parameters())
    assert found["parameters"]["before"] - found["parameters"]["after"] == result.removed
    assert found["bytes"] == {when: 4 * count for when, count in found["parameters"].items()}
    assert all(rate > 0 for rate in found["tokens_per_second"].values())
    json.dumps(found, allow_nan=False)


def test_bytes_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    model: Any = tiny_transformer()
    model.bfloat16()
    result = prune_transformer(model, tiny_tokens(8), pattern="2:4")
    result.save(tmp_path / "out")
    assert result.evaluation["bytes"]["after"] == 2 * sum(p.numel() for p in model.parameters())
    header = 8 + int.from_bytes((tmp_path / "out" / "model.safetensors").read_bytes()[:8], "little")
    assert (tmp_path / "out" / "model.safetensors").stat().st_size - header == result.evaluation["bytes"]["after"]


def test_of_an_encoder_the_error_of_its_outputs_is_told() -> None:
    model = tiny_transformer("bert")
    result = prune_transformer(model, tiny_tokens(8), sparsity=0.3, options=PruneOptions(evaluation=TEXTS))
    assert "perplexity" not in result.evaluation
    for name, windows in TEXTS.items():
        before, after = (outputs(m, windows).double() for m in (model, result.model))
        expected = float((before - after).square().sum() / before.square().sum())
        assert result.evaluation["output_error"][name] == pytest.approx(expected, rel=1e-4)
    assert any("no perplexity" in row[0] for row in figure_rows(result.evaluation))


def test_without_texts_the_size_alone_is_told() -> None:
    result = prune_transformer(tiny_transformer(), tiny_tokens(8), sparsity=0.3)
    assert set(result.evaluation) == {"parameters", "bytes"}


def test_measuring_leaves_the_model_as_it_was() -> None:
    model = tiny_transformer().train()
    first = measure(model, TEXTS)
    assert model.training
    assert compared(first, measure(model, TEXTS))["perplexity"]["calibration"]["before"] > 1


class Letters:
    """A tokenizer of single characters."""

    def __call__(self, text: str, **_: Any) -> Any:
        class Found:
            input_ids = torch.tensor([[ord(c) for c in text]])

        return Found()


@pytest.mark.parametrize(("size", "count", "seed"), [(4000, 8, 0), (700, 9, 3), (450, 6, 1), (90, 2, 0)])
def test_held_out_windows_share_no_token_with_the_calibration(size: int, count: int, seed: int, tmp_path: Path) -> None:
    files = []
    for k in range(2):  # every character is its own place
        (tmp_path / f"{k}.txt").write_text("".join(chr(0x4E00 + k * size + i) for i in range(size)))
        files.append(f"{tmp_path / f'{k}.txt'}=1")
    ask: dict[str, Any] = {"length": 64, "count": count, "seed": seed}
    used = {int(i) for ids, _ in source_windows(Letters(), files, **ask) for i in ids.flatten()}
    held = held_out_windows(Letters(), files, **ask)
    if size == 90:
        assert held is None or held.shape[1] in (16, 32)
    else:
        assert held is not None
        assert held.shape[1] == 64 or size < 700
    if held is not None:
        assert not used & {int(i) for i in held.flatten()}
        assert len(held) <= 4
        assert (np.diff(held.numpy(), axis=1) == 1).all()  # windows of one piece


def test_the_second_text_is_enough_and_free() -> None:
    assert len(SECOND_TEXT.split()) > 1000
    assert SECOND_TEXT.isascii()


def test_a_single_window_warns_of_nothing() -> None:
    def losses(*values: float) -> TokenLosses:
        table = np.array(values)[:, None] * np.ones((1, 4))
        return TokenLosses(table, np.ones(table.shape, np.bool_))

    assert domain_rise([losses(1.0), losses(1.0)], [losses(1.1), losses(9.0)]) == ""
    assert "9.00" in domain_rise([losses(1.0, 1.0), losses(1.0, 1.0)], [losses(1.1, 1.1), losses(10.0, 10.0)])
    small = domain_rise([losses(1.0, 1.0), losses(1.0, 1.0)], [losses(1.0, 1.0), losses(1.04, 1.04)])
    assert small == ""
    assert math.isnan(losses(1.0).against(losses(2.0))[1])
