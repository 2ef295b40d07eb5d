"""What a model is calibrated on: windows of tokens, pairs of source and target, pictures or spectra."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from prunopt.core.validate import Shown, invalid, number, require

TOKENS = "input_ids"
OTHERS = {4: "pixel_values", 3: "input_features"}  # of floating numbers, by the dimensions of their tensor
TARGETS = ("labels", "decoder_input_ids")
MUST = (
    "be token ids (n, length), pictures (n, channels, height, width), features (n, bands, frames), or a list of these"
)
SAID = 16  # tokens of a transcription that is made for want of one
SAME_TEXT = "no target texts were given: the decoder was calibrated on the source text itself"
OWN_OUTPUT = f"no target texts were given: the decoder was calibrated on the model's own {SAID} likeliest tokens"


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a model is calibrated on.

    Parameters
    ----------
    windows : (n, length) int64
        Token ids; or the pictures (n, channels, height, width) or features (n, bands, frames), floating.
    mask : (n, length) bool
        False for padding, which does not count. Of pictures and features (n, 1) until `completed` knows the length.
    weight : (n,) float
        What a token of each window counts.
    source : (n,) int
        Number of the source of each window.
    takes
        What the model calls the windows.
    target, target_mask : (n, target length)
        What a decoder is given, of models with an encoder too: int64 and bool; None for others.
    shifted
        Whether ``target`` is what the decoder is given, which begins with a token of its own; else what it should say.
    """

    windows: torch.Tensor
    mask: torch.Tensor
    weight: torch.Tensor
    source: torch.Tensor
    takes: str = TOKENS
    target: torch.Tensor | None = None
    target_mask: torch.Tensor | None = None
    shifted: bool = True

    @property
    def n_tokens(self) -> int:
        """Number of tokens that count."""
        return int(self.mask.sum())

    def digest(self) -> str:
        """Return the SHA-256 of all that it holds."""
        whole = hashlib.sha256()
        for tensor in (self.windows, self.mask, self.weight, self.source):
            whole.update(np.ascontiguousarray(tensor.numpy()).tobytes())
        whole.update(b"-")  # where older versions kept weights of single tokens
        if self.target is not None and self.target_mask is not None:
            for tensor in (self.target, self.target_mask):
                whole.update(np.ascontiguousarray(tensor.numpy()).tobytes())
            whole.update(str(self.shifted).encode())
        return whole.hexdigest()

    def row_weights(self, *, target: bool = False, step: int = 1) -> torch.Tensor:
        """Return what each token counts, (n, length) double; padding counts 0.

        Parameters
        ----------
        target
            Of the tokens of the decoder.
        step
            All but every ``step``-th token of each window count 0.
        """
        mask = self.target_mask if target and self.target_mask is not None else self.mask
        weights = self.weight[:, None].double() * mask.double()
        if step > 1:
            weights[:, torch.arange(weights.shape[1]) % step != 0] = 0
        return weights

    def given(self, k: int, device: torch.device) -> dict[str, torch.Tensor]:
        """Return what the model is called with for window k."""
        out = {self.takes: self.windows[k : k + 1].to(device)}
        if self.takes == TOKENS and not bool(self.mask.all()):
            out["attention_mask"] = self.mask[k : k + 1].long().to(device)
        if self.target is not None and self.target_mask is not None:
            out["decoder_input_ids"] = self.target[k : k + 1].to(device)
            if not bool(self.target_mask.all()):
                out["decoder_attention_mask"] = self.target_mask[k : k + 1].long().to(device)
        return out

    def of(self, at: Any) -> Calibration:
        """Return some of the windows, by an index of tensors."""
        names = ("windows", "mask", "weight", "source", "target", "target_mask")
        held = {name: getattr(self, name) for name in names}
        some: Any = {name: None if tensor is None else tensor[at] for name, tensor in held.items()}
        return replace(self, **some)


def as_calibration(given: Any) -> Calibration:
    """Read what users give as calibration.

    Parameters
    ----------
    given
        (n, length) token ids; a mapping with ``input_ids`` and perhaps ``attention_mask``, as tokenizers return; a
        sequence of these; or a sequence of pairs (one of these, weight): sources whose shares in the sums of outer
        products are as their weights, however long they are. For models of pictures (n, channels, height, width) pixels
        or a mapping with ``pixel_values``, for those of speech (n, bands, frames) features or ``input_features``. For
        models with an encoder and a decoder a mapping may hold ``labels``, what the decoder should say (below 0:
        padding), or ``decoder_input_ids`` and perhaps ``decoder_attention_mask``.

    Raises
    ------
    ValueError
        If there are no tokens, or windows of different lengths.
    """
    if isinstance(given, Calibration):
        return given
    parts = _sources(given)
    for what, shapes, mend in (
        ("windows of one length", {tuple(p.windows.shape[1:]) for p, _ in parts}, "cut all sources to one length"),
        ("sources of one kind", {p.takes for p, _ in parts}, ""),
        (
            "targets of one length in all sources",
            {None if p.target is None else p.target.shape[1] for p, _ in parts},
            "",
        ),
    ):
        found = [s[0] if isinstance(s, tuple) and len(s) == 1 else s for s in sorted(shapes, key=str)]
        require(len(shapes) == 1, "calibration", f"have {what}", found, mend)
    weighted = any(w is not None for _, w in parts)
    weights, sources = [], []
    for k, (part, weight) in enumerate(parts):
        share = 1.0
        if weighted:
            share = number(f"weight of calibration[{k}]", weight, low=0, open_ends="(") / max(1, part.n_tokens)
        weights.append(torch.full((len(part.windows),), share, dtype=torch.float64))
        sources.append(torch.full((len(part.windows),), k, dtype=torch.int64))
    first = parts[0][0]
    joined: Any = {
        name: None if getattr(first, name) is None else torch.cat([getattr(p, name) for p, _ in parts])
        for name in ("windows", "mask", "target", "target_mask")
    }
    out = replace(first, **joined, weight=torch.cat(weights), source=torch.cat(sources))
    require(out.n_tokens, "calibration", "hold tokens", Shown("none"), "pass at least one window of text")
    return out


def _sources(given: Any) -> list[tuple[Calibration, float | None]]:
    if isinstance(given, (torch.Tensor, np.ndarray, Mapping, Calibration)) or hasattr(given, "input_ids"):
        return [(_source(given), None)]
    if isinstance(given, str) or not isinstance(given, Sequence) or not len(given):
        empty = "an empty " if isinstance(given, Sequence) and not given else ""
        raise invalid("calibration", MUST, Shown(f"{empty}{type(given).__name__}"))
    if all(isinstance(g, Sequence) and not isinstance(g, str) and all(isinstance(t, int) for t in g) for g in given):
        return [(_source(np.array(given)), None)]
    pairs = [g if isinstance(g, tuple) and len(g) == 2 and np.isscalar(g[1]) else (g, None) for g in given]
    return [(_source(g), None if w is None else float(w)) for g, w in pairs]


def _source(given: Any) -> Calibration:
    if isinstance(given, Calibration):
        return given
    held: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    if hasattr(given, TOKENS) and not held:
        held = {name: getattr(given, name) for name in (TOKENS, "attention_mask", *TARGETS) if hasattr(given, name)}
    mask = held.get("attention_mask")
    takes = next((name for name in (TOKENS, *OTHERS.values()) if name in held), None)
    require(not held or takes, "calibration", f"hold {TOKENS} or one of {', '.join(OTHERS.values())}", list(held))
    values = _tensor("calibration", held[takes] if takes else given)
    if values.dim() == 1:
        values = values[None]
    if takes is None:
        takes = OTHERS.get(values.dim(), TOKENS) if values.is_floating_point() else TOKENS
    floats = takes != TOKENS
    dims = 2 if not floats else next(d for d, name in OTHERS.items() if name == takes)
    whole = values.dim() == dims and values.is_floating_point() == floats
    require(whole, "calibration", MUST, Shown(f"{values.dtype} of shape {tuple(values.shape)}"))
    n = len(values)
    known = torch.ones((n, 1) if floats else values.shape, dtype=torch.bool)
    if mask is not None and not floats:
        known = _tensor("attention_mask", mask).bool()
        shape = Shown(f"shape {tuple(known.shape)}")
        require(
            known.shape == values.shape, "attention_mask of the calibration", f"have shape {tuple(values.shape)}", shape
        )
    if floats:
        require(bool(torch.isfinite(values).all()), "calibration", "be finite", Shown("NaN or infinity"))
    out = Calibration(
        values.float() if floats else values.long(), known, torch.ones(n, dtype=torch.float64),
        torch.zeros(n, dtype=torch.int64), takes,
    )  # fmt: skip
    return _with_target(out, held)


def _with_target(out: Calibration, held: Mapping[str, Any]) -> Calibration:
    name = next((t for t in reversed(TARGETS) if held.get(t) is not None), None)
    if name is None:
        return out
    target = _tensor(name, held[name])
    n = len(out.windows)
    fits = target.dim() == 2 and not target.is_floating_point() and len(target) == n
    require(fits, f"{name} of the calibration", f"be token ids ({n}, length)", Shown(f"shape {tuple(target.shape)}"))
    known = target >= 0
    if held.get("decoder_attention_mask") is not None:
        known = known & _tensor("decoder_attention_mask", held["decoder_attention_mask"]).bool()
    return replace(out, target=target.long(), target_mask=known, shifted=name != "labels")


def _tensor(name: str, given: Any) -> torch.Tensor:
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        what = MUST if name == "calibration" else "be a tensor"
        raise invalid(name, what, Shown(type(given).__name__), str(error)) from None


def two_sided(model: nn.Module) -> bool:
    """Whether a model has an encoder and a decoder."""
    return "decoder_input_ids" in inspect.signature(model.forward).parameters


@torch.no_grad()
def for_model(tokens: Calibration, model: nn.Module) -> tuple[Calibration, tuple[str, ...]]:
    """Return a calibration with what a decoder is given, and notes on where that comes from.

    Raises
    ------
    ValueError
        If the model takes something else, or windows of another length.
    """
    takes, kind = getattr(model, "main_input_name", TOKENS), type(model).__name__
    require(tokens.takes == takes, "calibration", f"hold {takes}, which {kind} takes", tokens.takes)
    if takes == TOKENS:
        check_length(model, tokens.windows.shape[1])
    if not two_sided(model):
        extra = tokens.target is None
        require(extra, "calibration", f"hold no targets for {kind}, which has no encoder beside", Shown("some"))
        return tokens, ()
    notes: tuple[str, ...] = ()
    if tokens.target is None:
        notes = (SAME_TEXT if takes == TOKENS else OWN_OUTPUT,)
        if takes == TOKENS:
            tokens = replace(tokens, target=tokens.windows, target_mask=tokens.mask, shifted=False)
        else:
            said = torch.cat([_said(model, tokens.windows[k : k + 1]) for k in range(len(tokens.windows))])
            tokens = replace(tokens, target=said, target_mask=torch.ones(said.shape, dtype=torch.bool))
    target = torch.as_tensor(tokens.target)
    check_length(model, target.shape[1])
    if not tokens.shifted:
        target = torch.cat([torch.full((len(target), 1), _start(model)), target[:, :-1]], dim=1)
    # labels are below 0 where there is nothing
    return replace(tokens, target=target.clamp_min(0), shifted=True), notes


def _start(model: nn.Module) -> int:
    config: Any = getattr(model, "config", None)
    found = getattr(config, "decoder_start_token_id", None)
    if found is None:
        found = getattr(config, "bos_token_id", None)
    mend = "pass decoder_input_ids in the calibration"
    require(
        isinstance(found, int), "config.decoder_start_token_id", "be the token that decoders begin with", found, mend
    )
    assert isinstance(found, int)
    return found


def _said(model: Any, features: torch.Tensor) -> torch.Tensor:
    """Return what a decoder is given while it says its likeliest tokens, (1, length)."""
    device = next(model.parameters()).device
    said = torch.tensor([[_start(model)]], device=device)
    encoded = model.get_encoder()(features.to(device))
    for _ in range(min(SAID, positions_of(model) or SAID) - 1):
        logits = getattr(model(encoder_outputs=encoded, decoder_input_ids=said, use_cache=False), "logits", None)
        kind, mend = Shown(type(model).__name__), "pass decoder_input_ids in the calibration"
        if logits is None:
            raise invalid("model", "put out logits where the calibration has no targets", kind, mend)
        said = torch.cat([said, logits[:, -1:].argmax(-1)], dim=1)
    return said.cpu()


def positions_of(model: nn.Module) -> int | None:
    """Return how many positions a model knows; None where nothing says so."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa's kin count positions from behind the padding's.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    config: Any = getattr(model, "config", None)
    names = ("max_position_embeddings", "n_positions", "max_target_positions")
    found = [getattr(config, name, None) for name in names]
    if hasattr(config, "relative_attention_num_buckets"):
        return None  # T5 counts distances
    return next((n for n in found if isinstance(n, int) and n > 0), None)


def check_length(model: nn.Module, length: int) -> None:
    """Refuse windows that are longer than the positions that a model knows."""
    most = positions_of(model)
    fits = most is None or length <= most
    require(
        fits, "length", f"be at most {most}, the positions of {type(model).__name__}", length, "cut shorter windows"
    )
