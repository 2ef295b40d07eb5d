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

from prunopt.core import validate
from prunopt.core.arrays import Floats
from prunopt.networks.transformers.calibration_inputs import TOKENS, check_length, two_sided

MUCH_MORE, LITTLE = 1.5, 0.05  # times the loss, and nats per token, that another domain may gain before it is said
SHORTEST = 16  # tokens of a window that is held out


def read_text(source: str | os.PathLike[str]) -> str:
    """Return a UTF-8 text file; ValueError names the file and what is wrong with it."""
    path = Path(source)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise validate.invalid("text", "be a file of UTF-8 text", os.fspath(source), str(error)) from None
    validate.require(text.strip(), "text", "be a file with some text", os.fspath(source))
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
        Tokenized as a whole.
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
    validate.whole_number("length", length, low=2)
    if count is not None:
        validate.whole_number("count", count, low=1)
    if tokenizer is None:
        raise validate.invalid("tokenizer", "be given", None, "the model's folder has none, which text needs")
    ids = tokens_of(tokenizer, text)
    fit = len(ids) // length
    wanted = 1 if seed is not None or count is None else count
    enough = validate.Shown(f"{len(ids)} tokens")
    mend = "pass more text or fewer, shorter windows"
    validate.require(fit >= wanted, "text", f"make {wanted} windows of {length} tokens", enough, mend)
    if seed is None:
        n = fit if count is None else count
        return ids[: n * length].view(n, length).clone()
    starts = _places(len(ids), length, fit if count is None else count, seed)
    return torch.stack([ids[s : s + length] for s in starts])


def tokens_of(tokenizer: Any, text: str) -> torch.Tensor:
    """Return the tokens of a text as a whole, (n,) int64, without special ones."""
    found: torch.Tensor = tokenizer(text, return_tensors="pt", add_special_tokens=False, verbose=False).input_ids[0]
    return found


def _places(tokens: int, length: int, count: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, tokens - length + 1, count)


def source_windows(tokenizer: Any, texts: Sequence[str], *, length: int, count: int, seed: int) -> list[Any]:
    """Return windows at random places of text files, as many of each: what `prune_transformer` calibrates on.

    Parameters
    ----------
    texts
        Files; written ``FILE=WEIGHT`` they come with weights, and the sources as pairs.
    count
        Windows over all files.
    seed
        Of the first file's places; each other file has the next one.
    """
    validate.whole_number("windows", count, low=len(texts), mend=f"pass at least one for each of {len(texts)} texts")
    out: list[Any] = []
    weighted = any("=" in text for text in texts)
    for k, text in enumerate(texts):
        name, weight = _name_and_weight(text)
        each = count // len(texts) + (k < count % len(texts))
        ids = token_windows(tokenizer, read_text(name), length=length, count=each, seed=seed + k)
        try:
            out.append((ids, float(weight)) if weighted else ids)
        except ValueError:
            raise validate.invalid("calibration", "be FILE or FILE=WEIGHT", text) from None
    return out


def held_out_windows(
    tokenizer: Any, texts: Sequence[str], *, length: int, count: int, seed: int, most: int = 4
) -> torch.Tensor | None:
    """Return windows of the same files that share no token with those of `source_windows`; None where none is left.

    Parameters
    ----------
    texts, length, count, seed
        As there. Where no window of ``length`` tokens is left, halves and quarters of it are tried.
    most
        Windows over all files.
    """
    found = [
        ids[s : s + size]
        for ids, size, starts in _held_out(tokenizer, texts, length, count, seed, most)
        for s in starts
    ]
    return torch.stack(found) if found else None


def learning_windows(
    tokenizer: Any, texts: Sequence[str], *, length: int, count: int, seed: int, held_out: int = 4, most: int = 1024
) -> torch.Tensor:
    """Return windows side by side of the same files, all but those that share a token with `held_out_windows`.

    Parameters
    ----------
    texts, length, count, seed
        As there, and ``held_out`` is its ``most``.
    most
        Windows over all files, at even distances where there are more.
    """
    found: list[torch.Tensor] = []
    for ids, size, starts in _held_out(tokenizer, texts, length, count, seed, held_out):
        free = np.ones(len(ids), np.bool_)
        for s in starts:
            free[s : s + size] = False
        found += [ids[s : s + length] for s in _free_places(free, length)]
    if not found:
        raise validate.invalid(
            "calibration", f"make a window of {length} tokens", validate.Shown("none"), "pass more text"
        )
    places = np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int))
    return torch.stack([found[int(i)] for i in places])


def _held_out(
    tokenizer: Any, texts: Sequence[str], length: int, count: int, seed: int, most: int
) -> list[tuple[torch.Tensor, int, list[int]]]:
    """Return the tokens of each file, the size of windows held out of calibration, and where in it they begin."""
    free = []
    for k, text in enumerate(texts):
        ids = tokens_of(tokenizer, read_text(_name_and_weight(text)[0]))
        left = np.ones(len(ids), np.bool_)
        for start in _places(len(ids), length, count // len(texts) + (k < count % len(texts)), seed + k):
            left[start : start + length] = False
        free.append((ids, left))
    for size in (length, length // 2, length // 4):
        found = []
        for ids, left in free if size >= SHORTEST else ():
            places = _free_places(left, size)
            wanted = min(len(places), max(1, most // len(texts)))
            at = np.linspace(0, len(places) - 1, wanted) if wanted else ()
            found.append((ids, size, [places[int(i)] for i in at]))
        if any(starts for _, _, starts in found):
            return found
    return [(ids, length, []) for ids, _ in free]


def _free_places(left: NDArray[np.bool_], size: int) -> list[int]:
    """Return starts of windows side by side in which all tokens are left."""
    out, run = [], 0
    for place, free in enumerate(left.tolist()):
        run = run + 1 if free else 0
        if run == size:
            out.append(place + 1 - size)
            run = 0
    return out


def _name_and_weight(text: str) -> tuple[str, str]:
    name, _, weight = text.rpartition("=") if "=" in text else (text, "", "1")
    return name, weight


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

        The error is that of the means of windows, so that it does not take neighboring tokens for independent.
        """
        shape, mend = validate.Shown(f"shape {other.loss.shape}"), "use the same text"
        validate.require(
            self.loss.shape == other.loss.shape, "losses of other", f"have shape {self.loss.shape}", shape, mend
        )
        difference = (self.loss - other.loss).mean(axis=1)
        error = float(difference.std(ddof=1) / math.sqrt(len(difference))) if len(difference) > 1 else math.nan
        return float(difference.mean()), error


def domain_rise(before: Sequence[TokenLosses], after: Sequence[TokenLosses]) -> str:
    """Return a warning where the second domain has lost much more than the first, that of the calibration.

    Parameters
    ----------
    before, after
        Losses of both domains' text, by the dense and by the pruned model.
    """
    (near, near_error), (far, far_error) = (b.against(a) for a, b in zip(before, after, strict=True))
    known = not math.isnan(near_error + far_error)  # of a single window nothing says how far it can be trusted
    if not known or far <= max(MUCH_MORE * near, LITTLE) + 2 * math.hypot(near_error, far_error):
        return ""
    return (
        f"the other domain loses {far:.2f} nats per token, the calibration's {near:.2f}: mix that domain into the "
        "calibration, or use the method wanda"
    )


def logits_of(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Return a language model's logits (n, length, vocabulary); ValueError where it has none."""
    alone = getattr(model, "main_input_name", TOKENS) == TOKENS and not two_sided(model)
    validate.require(
        alone, "model", "take one text, as causal language models do", validate.Shown(type(model).__name__)
    )
    ids = ids.to(next(model.parameters()).device)
    found: torch.Tensor | None = getattr(model(input_ids=ids, use_cache=False), "logits", None)
    if found is None or found.dim() != 3:
        raise validate.invalid("model", "put out logits for every token", validate.Shown(type(model).__name__))
    return found


@torch.no_grad()
def check_next_token(model: nn.Module, length: int = 8) -> None:
    """Refuse a model that has no loss of next tokens: one without logits, or one that sees the tokens ahead."""
    config: Any = getattr(model, "config", None)
    ids = torch.arange(length)[None] % max(2, getattr(config, "vocab_size", 2))
    other = ids.clone()
    other[0, -1] = ids[0, 0]
    first, second = (logits_of(model, i)[:, :-1].float() for i in (ids, other))
    seen = float((first - second).abs().max()) > 1e-3 * float(first.abs().max())
    mend = "next-token losses and perplexity have no meaning for others"
    kind = validate.Shown(type(model).__name__)
    validate.require(not seen, "model", "be a causal language model", kind, mend)


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
    check_length(model, windows.shape[1])
    check_next_token(model)
    losses, right = [], []
    for part in torch.split(windows, batch):
        found = losses_from(logits_of(model, part), part, last=last)
        losses.append(found.loss)
        right.append(found.right)
    return TokenLosses(np.concatenate(losses), np.concatenate(right))


def losses_from(logits: torch.Tensor, windows: torch.Tensor, *, last: int | None = None) -> TokenLosses:
    """Return the loss of every next token (of the last ones of each window) by given logits."""
    logits, target = logits[:, :-1], windows[:, 1:].to(logits.device)
    if last is not None:
        logits, target = logits[:, -last:], target[:, -last:]
    flat = nn.functional.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), reduction="none")
    right = logits.argmax(-1) == target
    return TokenLosses(flat.view(target.shape).double().cpu().numpy(), right.cpu().numpy())


def sliding_losses(model: nn.Module, ids: torch.Tensor, *, length: int = 512, stride: int = 256) -> TokenLosses:
    """Return losses by sliding windows: every token but the first ``length - stride`` is scored once.

    Parameters
    ----------
    ids : (n,) int64
        The tokens of one text.
    """
    validate.whole_number("stride", stride, low=1, high=length - 1)
    validate.require(len(ids) >= length, "ids", f"hold a window of {length} tokens", validate.Shown(f"{len(ids)}"))
    return token_losses(model, ids.unfold(0, length, stride).clone(), last=stride)


def _logits(model: nn.Module, windows: torch.Tensor) -> Iterator[torch.Tensor]:
    for window in windows:
        yield logits_of(model, window[None])[0].float().log_softmax(-1)


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
