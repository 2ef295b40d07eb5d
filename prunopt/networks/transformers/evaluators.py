"""A language model as an objective: the loss of a decision, on as many tokens as the search asks for."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from prunopt.core import validate
from prunopt.networks.transformers.calibration import Activations, as_calibration
from prunopt.networks.transformers.families import blocks, weight_of
from prunopt.networks.transformers.text import TokenLosses, logits_of, token_losses

Apply = Callable[[Any], AbstractContextManager[nn.Module]]
MEASURES = ("loss", "kl")
SCORES = ("wanda", "magnitude")


class TextEvaluator:
    r"""What a decision costs a language model on text, in nats per token.

    ``"loss"`` is the mean negative log-likelihood (its exp is the perplexity), ``"kl"`` the mean over tokens of
    :math:`KL(p_{dense} \| p_{decision})`. The dense model is that of ``apply`` in its own number format, so that with
    one in bfloat16 the divergence is 0 where nothing is removed.

    Parameters
    ----------
    apply
        ``apply(decision)`` is a context in which a model has the decision, such as `SparsityMasks`.
    windows : (n, length) int64
        As `token_windows` gives them.
    measure
        ``"loss"`` or ``"kl"``. The dense model's probabilities for the latter are kept in a temporary file,
        4 n length vocabulary bytes.
    dense
        The decision that leaves the model whole; what ``apply`` needs for it. Only used by ``"kl"``.
    seed
        Of the order in which windows are taken at lower fidelities.
    """

    def __init__(
        self, apply: Apply, windows: torch.Tensor, *, measure: str = "loss", dense: Any = None, seed: int = 0
    ) -> None:
        validate.one_of("measure", measure, MEASURES)
        some, shape = windows.dim() == 2 and len(windows), validate.Shown(f"shape {tuple(windows.shape)}")
        validate.require(some, "windows", "have shape (n, length) with n >= 1", shape)
        self.apply, self.measure, self.dense = apply, measure, dense
        order = np.random.default_rng(seed).permutation(len(windows))
        self.windows = windows[torch.from_numpy(order)]
        self._reference: torch.Tensor | None = None
        self._information = torch.zeros(len(self.windows), dtype=torch.float64)

    def taken(self, fidelity: float = 1.0) -> torch.Tensor:
        """Return the windows of a fidelity in (0, 1]: those of a lower one are among those of a higher one."""
        validate.number("fidelity", fidelity, low=0, high=1, open_ends="(", mend="pass the fraction of windows to use")
        return self.windows[: math.ceil(fidelity * len(self.windows))]

    def loss(self, decision: Any, *, fidelity: float = 1.0) -> float:
        """Return what the decision costs, in nats per token."""
        windows = self.taken(fidelity)
        if self.measure == "loss":
            return float(self.losses(decision, fidelity=fidelity).loss.mean())
        reference = self._dense_probabilities()
        with self.apply(decision) as model, torch.no_grad():
            # KL = sum p log p - sum p logits + log sum exp logits: one pass of exponentials, not three.
            crossed = [_cross_entropy(model, w, p) for w, p in zip(windows, reference, strict=False)]
        return float((torch.tensor(crossed, dtype=torch.float64) - self._information[: len(windows)]).mean())

    def losses(self, decision: Any, *, fidelity: float = 1.0) -> TokenLosses:
        """Return the loss of every token, to be compared in pairs with another decision's (`TokenLosses.against`)."""
        with self.apply(decision) as model:
            return token_losses(model, self.taken(fidelity))

    @torch.no_grad()
    def _dense_probabilities(self) -> torch.Tensor:
        if self._reference is None:
            with self.apply(self.dense) as model:
                for k, window in enumerate(self.windows):
                    found = logits_of(model, window[None])[0].float().softmax(-1)
                    if self._reference is None:
                        shape = (len(self.windows), *found.shape)
                        with tempfile.TemporaryFile() as file:  # the mapping outlives it
                            self._reference = torch.from_numpy(np.memmap(file, np.float32, "w+", shape=shape))
                    self._reference[k] = found
                    # By the same steps as a decision's, so that the dense model's own divergence is 0.
                    self._information[k] = _cross_entropy(model, window, self._reference[k])
        assert self._reference is not None
        return self._reference


def _cross_entropy(model: nn.Module, window: torch.Tensor, probabilities: torch.Tensor) -> float:
    """Return the mean over tokens of the cross-entropy of the model's next token against given probabilities."""
    logits = logits_of(model, window[None])[0].float()
    return float((logits.logsumexp(-1) - torch.linalg.vecdot(probabilities, logits)).double().mean())


class SparsityMasks:
    """The decision is an allocation: the fraction of each row's weights that is set to 0, by block or by layer.

    Weights are ranked once on the dense model, so that applying an allocation costs one pass over the weights. They
    come back, bit by bit, when the context ends.

    Parameters
    ----------
    model
        A transformer of a known family; it is changed in place within the context only.
    calibration
        As for `prune_transformer`; None for ``score="magnitude"``.
    score
        ``"wanda"``: weights of least ``|w_ij| ||x_j||`` go first, x the dense model's activations; or ``"magnitude"``.
    """

    def __init__(self, model: nn.Module, calibration: Any = None, *, score: str = "wanda") -> None:
        validate.one_of("score", score, SCORES)
        enough = score != "wanda" or calibration is not None
        validate.require(enough, "calibration", "be token ids for score='wanda'", None, "or pass score='magnitude'")
        self.model, self.blocks = model, blocks(model)
        self.names = tuple(f"{block.name}.{layer}" for block in self.blocks for layer in block.layers)
        norms = self._norms(calibration) if score == "wanda" else {}
        self._ranks: dict[str, torch.Tensor] = {}
        for name in self.names:
            weight = self._weight(name).detach().abs().float()
            if name in norms:
                weight = weight * norms[name]
            order = weight.argsort(dim=1, stable=True)
            kind = torch.int16 if order.shape[1] <= torch.iinfo(torch.int16).max else torch.int32
            ranks = torch.empty(order.shape, dtype=kind)
            ranks.scatter_(1, order, torch.arange(order.shape[1], dtype=kind).expand(order.shape))
            self._ranks[name] = ranks

    def on(self, model: nn.Module) -> SparsityMasks:
        """Return the same ranks for another copy of the model, such as one in bfloat16 that is faster to run."""
        other = copy.copy(self)
        other.model, other.blocks = model, blocks(model)
        found = {
            f"{b.name}.{n}": tuple(weight_of(b.module.get_submodule(n)).shape) for b in other.blocks for n in b.layers
        }
        same = found == {name: tuple(ranks.shape) for name, ranks in self._ranks.items()}
        kind = validate.Shown(type(model).__name__)
        validate.require(same, "model", "be a copy of the model that was ranked", kind)
        return other

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of weights of every layer, in the order of ``names``."""
        return tuple(self._ranks[name].numel() for name in self.names)

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """Number of weights of every block."""
        return tuple(sum(weight_of(b.module.get_submodule(n)).numel() for n in b.layers) for b in self.blocks)

    @contextmanager
    def __call__(self, allocation: ArrayLike | None) -> Iterator[nn.Module]:
        """Yield the model with one fraction for each block, or for each layer of ``names``; None: dense."""
        kept: dict[str, torch.Tensor] = {}
        try:
            for name, sparsity in zip(self.names, self._sparsities(allocation), strict=True):
                if sparsity == 0:
                    continue
                weight, ranks = self._weight(name), self._ranks[name]
                kept[name] = weight.detach().clone()
                with torch.no_grad():
                    # A product: on the CPU masked_fill_ takes two to three times as long.
                    weight.mul_((ranks >= round(sparsity * ranks.shape[1])).to(weight.device))
            yield self.model
        finally:
            with torch.no_grad():
                for name, weight in kept.items():
                    self._weight(name).copy_(weight)

    def _sparsities(self, allocation: ArrayLike | None) -> list[float]:
        if allocation is None:
            return [0.0] * len(self.names)
        given = np.asarray(allocation, np.float64).ravel()
        must = f"have a number for each of {len(self.blocks)} blocks, or of {len(self.names)} layers"
        count = validate.Shown(f"{given.size}")
        validate.require(len(given) in (len(self.blocks), len(self.names)), "allocation", must, count)
        validate.floats("allocation", given, low=0, high=1)
        if len(given) == len(self.names):
            return [float(s) for s in given]
        return [float(s) for s, block in zip(given, self.blocks, strict=True) for _ in block.layers]

    def _weight(self, name: str) -> torch.Tensor:
        return weight_of(self.model.get_submodule(name))

    @torch.no_grad()
    def _norms(self, calibration: Any) -> dict[str, torch.Tensor]:
        tokens = as_calibration(calibration)
        weights = tokens.row_weights()
        stream = Activations(self.model, self.blocks, tokens)
        norms: dict[str, torch.Tensor] = {}
        for block in self.blocks:

            def take(layer: str, window: int, rows: torch.Tensor, prefix: str = block.name) -> None:
                squares = (rows.double() ** 2 * weights[window][:, None].to(rows.device)).sum(0)
                norms[f"{prefix}.{layer}"] = norms.get(f"{prefix}.{layer}", 0.0) + squares

            stream.inputs(block, block.layers, take)
            stream.advance(block)
        return {name: total.sqrt().float() for name, total in norms.items()}
