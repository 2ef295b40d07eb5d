"""Repair of a pruned block by gradient: what is left of it learns what the dense block puts out."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from prunopt.core import validate
from prunopt.networks.transformers.calibration import Activations, Calibration
from prunopt.networks.transformers.families import Block
from prunopt.networks.transformers.number_formats import stored_dtype

BETAS = (0.9, 0.95)
LOWER = 1 / 3  # of the rate, after a pass that made a block worse


@dataclass(frozen=True)
class BlockRepair:
    r"""How every block is repaired once it is pruned, before the next one is.

    B' is the pruned block, x' what enters it in the pruned model; B and x are those of the dense model. The weights
    that stay, W', are trained by AdamW [1]_ on windows of the calibration,

    .. math:: \min_{W'} \; \sum_t \omega_t \, \frac{\|B'_{W'}(x'_t) - B(x_t)\|^2}{\|B(x_t)\|^2} \Big/ \sum_t \omega_t ,

    the whole block at once, without labels; zeros stay zeros. Tokens are taken relative to their own size, as the
    norms of later blocks see them: a few have hidden states a hundred times larger than the others.

    Some windows are held out of everything, the Hessians as well. After each pass the error on these decides: better
    weights are kept; from worse ones it goes back to the best and on with a third of the rate. So on them no block is
    worse than it was.

    Parameters
    ----------
    epochs
        Passes over the windows that are not held out, at most, >= 1.
    rate
        The first step, as a fraction of the root mean square of a layer's weights that stay, > 0.
    held_out
        The fraction of the windows that are held out, in (0, 1); one at least.
    patience
        Passes in a row without a better block after which it is left, >= 1.

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", ICLR 2019 (the decay is 0 here).
    """

    epochs: int = 6
    rate: float = 0.01
    held_out: float = 0.25
    patience: int = 3

    def __post_init__(self) -> None:
        validate.whole_number("epochs", self.epochs, low=1)
        validate.number("rate", self.rate, low=0, open_ends="(")
        validate.number("held_out", self.held_out, low=0, high=1, open_ends="()")
        validate.whole_number("patience", self.patience, low=1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def windows_held_out(self, n: int, seed: int) -> list[int]:
        """Return which of ``n`` windows are held out; ValueError where none would be left to learn from."""
        mend = "pass more windows, or leave repair out"
        validate.require(n >= 2, "calibration", "be two windows at least for a repair", n, mend)
        count = min(max(1, round(self.held_out * n)), n - 1)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        return sorted(order[:count].tolist())

    def fitted(self, tokens: Calibration, seed: int) -> Calibration:
        """Return the calibration with windows that are held out counting 0."""
        weight = tokens.weight.clone()
        weight[self.windows_held_out(len(weight), seed)] = 0.0
        return replace(tokens, weight=weight)


@dataclass(frozen=True)
class RepairReport:
    """What the repair of a block came to.

    Parameters
    ----------
    name
        The block.
    before, after
        The relative error of its outputs on the windows held out, as it was pruned and as it is now.
    epochs
        Passes over the other windows, and the one that was kept: 0 where none was better.
    kept
        That one.
    """

    name: str
    before: float
    after: float
    epochs: int
    kept: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and text."""
        return asdict(self)


class DenseStream:
    """What the dense blocks put out, beside a stream of a model that is pruned.

    Parameters
    ----------
    stream
        Of the model, before anything is pruned.
    """

    def __init__(self, stream: Activations) -> None:
        self._stream = stream.twin()

    def advance(self, dense: Block) -> None:
        """Put every window through a dense block."""
        self._stream.advance(dense)

    def window(self, k: int) -> torch.Tensor:
        """Return what the last dense block put out at window k: (length, width)."""
        return self._stream.window(k)

    def close(self) -> None:
        """Let go of the activations."""
        self._stream.close()


def copy_of(block: Block) -> Block:
    """Return a block with a module of its own, as it is now."""
    return replace(block, module=copy.deepcopy(block.module))


def block_error(block: Block, stream: Activations, dense: DenseStream, weights: torch.Tensor, k: int) -> torch.Tensor:
    """Return the relative error of a block's outputs at window k, ``weights`` (n, length) being those of the tokens."""
    out = stream.through(block, k).float()
    target = dense.window(k).to(out.device)
    share = weights[k].to(out.device, out.dtype)
    size = target.square().sum(-1).clamp_min(torch.finfo(out.dtype).tiny)
    return ((out - target).square().sum(-1) / size * share).sum() / share.sum().clamp_min(torch.finfo(out.dtype).tiny)


@torch.no_grad()
def held_out_error(
    block: Block, stream: Activations, dense: DenseStream, weights: torch.Tensor, windows: list[int]
) -> float:
    """Return the mean relative error of a block's outputs over the tokens of some windows."""
    shares = weights.sum(dim=1)
    parts = [float(shares[k]) * float(block_error(block, stream, dense, weights, k)) for k in windows if shares[k] > 0]
    return sum(parts) / max(float(shares[windows].sum()), torch.finfo(torch.float64).tiny)


def repair_block(
    block: Block, stream: Activations, dense: DenseStream, weights: torch.Tensor, options: BlockRepair, *,
    seed: int = 0, declared: Any = None,
) -> RepairReport:  # fmt: skip
    """Train the weights that a pruned block has left, in place.

    Parameters
    ----------
    block
        Pruned; zeros of its linear layers stay.
    stream
        Of the pruned model, at the block's inputs.
    dense
        Of the dense model, at the block's outputs.
    weights : (n, length) double
        What each token counts, windows that are held out among them.
    options
        How.
    seed
        Of the windows held out, and of the order of the others.
    declared
        The number format of the model's checkpoint: candidates are judged as they will be stored.
    """
    start = time.perf_counter()
    held = options.windows_held_out(len(weights), seed)
    learned = [k for k in range(len(weights)) if k not in set(held) and float(weights[k].sum()) > 0]
    parameters = _parameters(block)
    formats = [stored_dtype(p, declared) for p in parameters]
    before = least = held_out_error(block, stream, dense, weights, held)
    best, kept, done = [p.detach().clone() for p in parameters], 0, 0
    masks = [p.detach() != 0 if p.dim() > 1 else None for p in parameters]
    order, rate, adam = torch.Generator().manual_seed(seed), options.rate, None
    with torch.enable_grad(), trained(block.module, parameters):
        sizes = [size_of(p) for p in parameters]
        while done < options.epochs and done - kept < options.patience:
            if adam is None:
                groups = [{"params": [p], "lr": rate * size} for p, size in zip(parameters, sizes, strict=True)]
                adam = torch.optim.AdamW(groups, betas=BETAS, weight_decay=0.0)
            for place in torch.randperm(len(learned), generator=order).tolist():
                loss = block_error(block, stream, dense, weights, learned[place])
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                for p, g, mask in zip(parameters, gradients, masks, strict=True):
                    p.grad = None if g is None else g if mask is None else g * mask
                adam.step()
            done += 1
            working = [p.detach().clone() for p in parameters]
            put(parameters, [w.to(kind).to(w.dtype) for w, kind in zip(working, formats, strict=True)])
            error = held_out_error(block, stream, dense, weights, held)
            if error < least:
                least, kept, best = error, done, [p.detach().clone() for p in parameters]
                put(parameters, working)
            else:
                rate, adam = rate * LOWER, None
                put(parameters, best)
    put(parameters, best)
    return RepairReport(block.name, before, least, done, kept, time.perf_counter() - start)


def _parameters(block: Block) -> list[nn.Parameter]:
    """Return the weights and biases of a block's linear layers."""
    return [p for name in block.layers for p in block.module.get_submodule(name).parameters()]


def size_of(p: torch.Tensor) -> float:
    """Return the root mean square of what is not 0, the unit of a step."""
    kept = p.detach()[p.detach() != 0]
    return float(kept.square().mean().sqrt()) if kept.numel() else 0.0


@torch.no_grad()
def put(parameters: list[nn.Parameter], values: list[torch.Tensor]) -> None:
    """Give parameters these values."""
    for p, value in zip(parameters, values, strict=True):
        p.copy_(value)


@contextmanager
def trained(module: nn.Module, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Let gradients reach these parameters of a module alone, and leave none behind."""
    were = {p: p.requires_grad for p in module.parameters()}
    try:
        for p in were:
            p.requires_grad_(False)
        for p in parameters:
            p.requires_grad_(True)
        yield
    finally:
        for p, was in were.items():
            p.requires_grad_(was)
            p.grad = None
