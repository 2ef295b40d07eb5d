"""Text as windows of tokens, and what a language model loses on them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prunopt.core.arrays import Floats


def read_text(source: str | os.PathLike[str]) -> str:
    """Return a UTF-8 text file; ValueError names the file and what is wrong with it."""
    path = Path(source)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"text={os.fspath(source)!r}: cannot be read as UTF-8 text: {error}") from None
    if not text.strip():
        raise ValueError(f"text={os.fspath(source)!r}: the file is empty; give some text")
    return text


def token_windows(
    tokenizer: Any, text: str, *, length: int = 512, count: int | None = None, seed: int | None = None
) -> torch.Tensor:
    """Return windows of tokens, (count, length) int64.

    Parameters
    ----------
    tokenizer
        Of the model; called as transformers' are.
    text
        Tokenised as a whole.
    length
        Tokens in a window.
    count
        How many; None: as many as fit.
    seed
        None: windows side by side from the beginning. Else windows at random places, which may overlap.

    Raises
    ------
    ValueError
        If the text is shorter than a window, or holds fewer windows than asked for.
    """
    if length < 2 or (count is not None and count < 1):
        raise ValueError(f"length={length!r}, count={count!r}: give a length >= 2 and a count >= 1")
    if tokenizer is None:
        raise ValueError("tokenizer: None given; the model's folder has no tokenizer, which text needs")
    ids: torch.Tensor = tokenizer(text, return_tensors="pt", add_special_tokens=False, verbose=False).input_ids[0]
    fit = len(ids) // length
    if fit < 1 or (seed is None and count is not None and count > fit):
        raise ValueError(
            f"text: {len(ids)} tokens make {fit} windows of {length}; give more text or fewer, shorter windows"
        )
    if seed is None:
        n = fit if count is None else count
        return ids[: n * length].view(n, length).clone()
    starts = np.random.default_rng(seed).integers(0, len(ids) - length + 1, fit if count is None else count)
    return torch.stack([ids[s : s + length] for s in starts])


@dataclass(frozen=True, eq=False)
class TokenLosses:
    """Negative log-likelihoods of tokens, (windows, predicted tokens), and which were the model's first guess."""

    loss: Floats
    right: NDArray[np.bool_]

    @property
    def perplexity(self) -> float:
        """exp of the mean loss."""
        return math.exp(min(float(self.loss.mean()), 700.0))

    @property
    def accuracy(self) -> float:
        """Share of tokens that were the first guess."""
        return float(self.right.mean())

    def against(self, other: TokenLosses) -> tuple[float, float]:
        """Return the mean difference of the loss to another model's on the same tokens, and its standard error.

        The error is that of the means of windows, so that it does not take neighbouring tokens for independent.
        """
        if self.loss.shape != other.loss.shape:
            raise ValueError(
                f"other: losses of shape {other.loss.shape}, these have {self.loss.shape}; use the same text"
            )
        difference = (self.loss - other.loss).mean(axis=1)
        error = float(difference.std(ddof=1) / math.sqrt(len(difference))) if len(difference) > 1 else math.nan
        return float(difference.mean()), error


@torch.no_grad()
def token_losses(model: nn.Module, windows: torch.Tensor, *, batch: int = 1, last: int | None = None) -> TokenLosses:
    """Return the loss of every next token.

    Parameters
    ----------
    model
        A causal language model that returns ``.logits``.
    windows : (n, length) int64
        As `token_windows` gives them.
    batch
        Windows at a time.
    last
        Score the last so many tokens of each window only: with windows that overlap, each token is scored once, after
        at least ``length - last`` others.
    """
    losses, right = [], []
    for part in torch.split(windows, batch):
        logits = model(input_ids=part, use_cache=False).logits[:, :-1]
        target = part[:, 1:]
        if last is not None:
            logits, target = logits[:, -last:], target[:, -last:]
        flat = nn.functional.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), reduction="none")
        losses.append(flat.view(target.shape).double().numpy())
        right.append((logits.argmax(-1) == target).numpy())
    return TokenLosses(np.concatenate(losses), np.concatenate(right))


def sliding_losses(model: nn.Module, ids: torch.Tensor, *, length: int = 512, stride: int = 256) -> TokenLosses:
    """Return losses by sliding windows: every token but the first ``length - stride`` is scored once.

    Parameters
    ----------
    ids : (n,) int64
        The tokens of one text.
    """
    if not 1 <= stride < length:
        raise ValueError(f"stride={stride!r}: give a stride from 1 to length - 1 = {length - 1}")
    if len(ids) < length:
        raise ValueError(f"ids: {len(ids)} tokens given, a window takes {length}")
    return token_losses(model, ids.unfold(0, length, stride).clone(), last=stride)


def _logits(model: nn.Module, windows: torch.Tensor) -> Iterator[torch.Tensor]:
    for window in windows:
        yield model(input_ids=window[None], use_cache=False).logits[0].float().log_softmax(-1)


@torch.no_grad()
def divergence(model: nn.Module, dense: nn.Module | Sequence[torch.Tensor], windows: torch.Tensor) -> float:
    """Return the mean over tokens of KL(dense || model), in nats.

    Parameters
    ----------
    dense
        The model to compare with, or its log-probabilities of each window, kept by the caller.
    """
    reference = _logits(dense, windows) if isinstance(dense, nn.Module) else iter(dense)
    total = 0.0
    for ours, theirs in zip(_logits(model, windows), reference, strict=True):
        total += float((theirs.exp() * (theirs - ours)).sum(-1).mean())
    return total / len(windows)
