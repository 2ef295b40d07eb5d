"""What pruning did to a whole model, measured: perplexity, size and speed before and after."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prunopt.networks.transformers.block_arguments import without_caching
from prunopt.networks.transformers.calibration_inputs import as_calibration, for_model, two_sided
from prunopt.networks.transformers.figures import CALIBRATION, SECOND
from prunopt.networks.transformers.number_formats import stored_dtype
from prunopt.networks.transformers.text import TokenLosses, check_next_token, domain_rise, losses_from


@dataclass(frozen=True, eq=False)
class Measured:
    """A model, measured on the windows of some texts.

    Parameters
    ----------
    parameters, bytes
        Tied ones once; bytes in the number format of the checkpoint.
    losses
        Of a causal language model, by the name of the text.
    outputs
        Of any other model, in their place.
    tokens_per_second
        Median over windows of one pass each; None where nothing was timed.
    """

    parameters: int
    bytes: int
    losses: dict[str, TokenLosses] = field(default_factory=dict)
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)
    tokens_per_second: float | None = None


@torch.no_grad()
def measure(model: nn.Module, texts: Mapping[str, Any]) -> Measured:
    """Measure a model on windows of tokens, (n, length) for each text, or what `as_calibration` reads; none: its size.

    Of a model with an encoder and a decoder the losses are those of what the decoder should say.
    """
    parameters, stored = sizes(model)
    if not texts:
        return Measured(parameters, stored)
    causal, was = _causal(model), model.training
    model.eval()
    rates: list[float] = []
    losses, outputs = {}, {}
    for name, windows in texts.items():
        data, _ = for_model(as_calibration(windows), model)
        parts, values = [], []
        scored = data.windows if data.target is None else data.target
        for k, window in enumerate(scored):
            start = time.perf_counter()
            out = output(model, data.given(k, next(model.parameters()).device))
            if window.dim() == 1:  # tokens, not pixels
                rates.append(len(window) / (time.perf_counter() - start))
            if causal:
                found = losses_from(out, window[None])
                parts.append(found if data.target_mask is None else _counted(found, data.target_mask[k, 1:].numpy()))
            else:
                values.append(out[0].float().cpu())
        if parts:
            losses[name] = joined(parts)
        else:
            outputs[name] = torch.stack(values)
    model.train(was)
    return Measured(parameters, stored, losses, outputs, statistics.median(rates) if rates else None)


def joined(parts: list[TokenLosses]) -> TokenLosses:
    """Return the losses of several windows as one."""
    return TokenLosses(np.concatenate([p.loss for p in parts]), np.concatenate([p.right for p in parts]))


def sizes(model: nn.Module) -> tuple[int, int]:
    """Return the number of parameters of a model, and its bytes as `save` writes it."""
    declared = getattr(getattr(model, "config", None), "dtype", None)
    parameters = list(model.parameters())
    kinds = [stored_dtype(p.detach(), declared) for p in parameters]
    stored = sum(p.numel() * kind.itemsize for p, kind in zip(parameters, kinds, strict=True))
    return sum(p.numel() for p in parameters), stored


def compared(before: Measured, after: Measured) -> dict[str, Any]:
    r"""Return both as plain values: ``{"perplexity": {text: {"before", "after", "tokens"}}, "parameters": ...}``.

    Models without next-token losses have ``output_error`` in place of perplexity: for each text
    :math:`\|y - y'\|^2 / \|y\|^2` of their outputs. ``warning`` says so where the second text suffers much more.
    """
    found: dict[str, Any] = {}
    if before.losses:
        found["perplexity"] = {
            name: {"before": old.perplexity, "after": after.losses[name].perplexity, "tokens": int(old.loss.size)}
            for name, old in before.losses.items()
        }
    for name, y in before.outputs.items():
        change = float((y - after.outputs[name]).double().square().sum() / y.double().square().sum())
        found.setdefault("output_error", {})[name] = change
    for name in ("parameters", "bytes", "tokens_per_second"):
        old, new = getattr(before, name), getattr(after, name)
        if old is not None and new is not None:
            found[name] = {"before": old, "after": new}
    if {CALIBRATION, SECOND} <= before.losses.keys():
        pairs = ([m.losses[name] for name in (CALIBRATION, SECOND)] for m in (before, after))
        if warning := domain_rise(*pairs):
            found["warning"] = warning
    return found


def _counted(losses: TokenLosses, counted: NDArray[np.bool_]) -> TokenLosses:
    """Return the losses of one window as a column, those of padding left out."""
    return TokenLosses(losses.loss[0][counted][:, None], losses.right[0][counted][:, None])


def _causal(model: Any) -> bool:
    if two_sided(model):
        return model.get_output_embeddings() is not None
    try:
        check_next_token(model)
    except (ValueError, TypeError):
        return False
    return True


def output(model: nn.Module, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return logits, or the last hidden states of a model without."""
    with without_caching(model) as asked:
        out = model(**given, **asked)
    found: torch.Tensor = out.logits if getattr(out, "logits", None) is not None else out[0]
    return found
