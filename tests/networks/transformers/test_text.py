"""Windows of tokens, losses by sliding windows, paired comparisons and divergences."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from prunopt.networks.transformers.text import (  # noqa: E402
    TokenLosses,
    divergence,
    domain_rise,
    read_text,
    sliding_losses,
    token_losses,
    token_windows,
)
from prunopt.networks.transformers.tiny_models import SHARED, tiny_tokens, tiny_transformer  # noqa: E402


def letters(text: str, **_: Any) -> Any:
    return SimpleNamespace(input_ids=torch.tensor([[ord(c) - 31 for c in text]]))


def logits(model: Any, ids: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_windows_side_by_side_and_at_random_places() -> None:
    text = "".join(chr(32 + k % 90) for k in range(100))
    windows = token_windows(letters, text, length=30)
    assert windows.shape == (3, 30)
    assert windows.flatten().tolist() == [ord(c) - 31 for c in text[:90]]
    drawn = token_windows(letters, text, length=30, count=8, seed=1)
    assert torch.equal(drawn, token_windows(letters, text, length=30, count=8, seed=1))
    assert not torch.equal(drawn, token_windows(letters, text, length=30, count=8, seed=2))
    assert all("".join(chr(k + 31) for k in row) in text for row in drawn.tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 1}, "length must be a whole number >= 2, got 1"),
        ({"length": 200}, "text must make 1 windows of 200 tokens, got 10 tokens"),
        ({"length": 5, "count": 3}, "text must make 3 windows of 5 tokens, got 10 tokens"),
    ],
)
def test_too_little_text_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_windows(letters, "0123456789", **options)
    with pytest.raises(ValueError, match="tokenizer must be given"):
        token_windows(None, "0123456789", length=5)


def test_unreadable_text_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "empty.txt").write_text(" \n")
    for name, reason in (
        ("latin.txt", "must be a file of UTF-8 text"),
        ("empty.txt", "must be a file with some text"),
        ("none.txt", "none.txt"),
    ):
        with pytest.raises(ValueError, match=reason):
            read_text(tmp_path / name)


def test_losses_are_cross_entropies() -> None:
    model, ids = tiny_transformer(), tiny_tokens(5, 16)
    found = token_losses(model, ids, batch=2)
    log_p = logits(model, ids).log_softmax(-1)[:, :-1]
    expected = -log_p.gather(2, ids[:, 1:, None])[..., 0]
    np.testing.assert_allclose(found.loss, expected.numpy(), rtol=1e-5, atol=1e-6)
    assert found.perplexity == pytest.approx(math.exp(float(expected.mean())), rel=1e-5)
    assert found.accuracy == pytest.approx(float((log_p.argmax(-1) == ids[:, 1:]).float().mean()))


def test_sliding_windows_score_every_token_once_after_enough_others() -> None:
    model, ids = tiny_transformer(), tiny_tokens(1, 40)[0]
    found = sliding_losses(model, ids, length=16, stride=8)
    assert found.loss.shape == (4, 8)
    for window in range(4):
        start = 8 * window
        log_p = logits(model, ids[None, start : start + 16]).log_softmax(-1)[0]
        expected = [-float(log_p[k - 1, ids[start + k]]) for k in range(8, 16)]
        np.testing.assert_allclose(found.loss[window], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"stride must be .*got 16"):
        sliding_losses(model, ids, length=16, stride=16)
    with pytest.raises(ValueError, match="ids must hold a window of 64 tokens, got 40"):
        sliding_losses(model, ids, length=64, stride=8)


def test_paired_differences() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(size=(50, 1)) * 3  # windows differ far more than models do
    right = np.zeros((50, 20), np.bool_)
    first = TokenLosses(5 + hard + 0.1 * rng.normal(size=(50, 20)), right)
    second = TokenLosses(first.loss + 0.05 + 0.1 * rng.normal(size=(50, 20)), right)
    mean, error = second.against(first)
    assert abs(mean - 0.05) < 3 * error
    assert error < 0.01
    assert first.against(second)[0] == pytest.approx(-mean)
    with pytest.raises(ValueError, match="same text"):
        first.against(TokenLosses(first.loss[:10], right[:10]))


def test_divergence_is_that_of_the_definition() -> None:
    model, other, ids = tiny_transformer(), tiny_transformer(seed=1), tiny_tokens(3, 12)
    p, q = (logits(m, ids).double().log_softmax(-1) for m in (other, model))
    expected = float((p.exp() * (p - q)).sum(-1).mean())
    assert divergence(model, other, ids) == pytest.approx(expected, rel=1e-4)
    assert divergence(model, model, ids) == pytest.approx(0, abs=1e-6)
    kept = list(logits(other, ids).log_softmax(-1))
    assert divergence(model, kept, ids) == pytest.approx(expected, rel=1e-4)


def test_models_without_a_next_token_are_refused() -> None:
    with pytest.raises(ValueError, match="model must put out logits for every token, got BertModel"):
        token_losses(tiny_transformer("bert"), tiny_tokens(2, 8))
    sizes: dict[str, Any] = SHARED
    sees_ahead = transformers.BertForMaskedLM(transformers.BertConfig(**sizes, initializer_range=0.2)).eval()
    with pytest.raises(ValueError, match="model must be a causal language model, got BertForMaskedLM; next-token"):
        token_losses(sees_ahead, tiny_tokens(2, 8))
    for family in ("llama", "gpt2", "qwen3"):
        assert token_losses(tiny_transformer(family), tiny_tokens(2, 8)).loss.shape == (2, 7)


def test_a_second_domain_that_loses_much_more_is_told() -> None:
    def losses(*means: float) -> list[TokenLosses]:
        return [TokenLosses(np.full((4, 9), m) + np.arange(4)[:, None] / 100, np.zeros((4, 9), bool)) for m in means]

    assert "mix that domain" in domain_rise(losses(3.0, 3.0), losses(3.1, 4.0))
    assert domain_rise(losses(3.0, 3.0), losses(3.1, 3.12)) == ""
