"""Calibration: the inputs of a block's linear layers, block after block, as sums of outer products."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from prunopt.core.arrays import Floats
from prunopt.core.validate import Shown, invalid, require
from prunopt.networks.transformers.block_arguments import Arguments, BlockArguments, Stop, output_of
from prunopt.networks.transformers.calibration_inputs import TOKENS, for_model
from prunopt.networks.transformers.calibration_inputs import Calibration as Calibration
from prunopt.networks.transformers.calibration_inputs import as_calibration as as_calibration
from prunopt.networks.transformers.calibration_inputs import check_length as check_length
from prunopt.networks.transformers.families import Block, blocks, is_linear

SINGLE_ONLY = ("mps",)  # devices without double precision
CHUNK = 4096  # rows of a product in single precision; their sums are in double


@torch.no_grad()
def completed(calibration: Calibration, model: nn.Module) -> tuple[Calibration, tuple[str, ...]]:
    """Return a calibration with all that the model takes, the mask of all tokens among it, and notes.

    Raises
    ------
    ValueError
        If the model takes something else, or cannot be run on the first window.
    """
    calibration, notes = for_model(calibration, model)
    if calibration.takes != TOKENS and calibration.mask.shape[1] == 1:
        first = BlockArguments(blocks(model)[:1])
        try:
            length = first.capture(model, calibration.given(0, next(model.parameters()).device)).shape[1]
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            what = Shown(f"{calibration.takes} of shape {tuple(calibration.windows.shape)}")
            reason = " ".join(str(error).split())[:200]
            raise invalid("calibration", f"be what {type(model).__name__} can be run on", what, reason) from None
        calibration = replace(calibration, mask=calibration.mask.expand(-1, length))
    return calibration, notes


class Activations:
    """What enters the blocks of a model, window by window: of one block at a time.

    Parameters
    ----------
    model
        A transformer; for every window it runs once, up to the last of the blocks.
    found
        Its blocks, first to last, as `prunopt.networks.blocks` returns them; the last ones may be left out. The first
        block alone stands for all of them.
    calibration
        Windows.
    folder
        None: kept in memory. Else a folder for memory-mapped files, two of (n, length, width) float32.

    Raises
    ------
    ValueError
        If a block, run by itself on the first window, does not do what it does inside the model.
    """

    def __init__(
        self, model: nn.Module, found: Block | Sequence[Block], calibration: Calibration, folder: str | None = None
    ) -> None:
        if isinstance(found, Block):
            names = [block.name for block in blocks(model)]
            found = blocks(model)[names.index(found.name) :]
        self._model, self._found = model, tuple(found)
        self.calibration = completed(calibration, model)[0]
        self._store: torch.Tensor | None = None
        self._dtype = torch.float32  # of the model's hidden states
        self._folder = tempfile.TemporaryDirectory(dir=folder) if folder is not None else None
        self._target = self._found[0].target
        self._enter()

    def _enter(self) -> None:
        """Keep what enters the first block of the encoder, or of the decoder, and the arguments of all of them."""
        self._arguments = BlockArguments([block for block in self._found if block.target == self._target])
        device, n = next(self._model.parameters()).device, len(self.calibration.windows)
        self._store = None
        for k in range(n):
            given = self.calibration.given(k, device)
            hidden = self._arguments.capture(self._model, given)
            if k == 0:
                self._arguments.check(self._model, given)
            if self._store is None:
                self._dtype = hidden.dtype
                self._store = self._new((n, *hidden.shape[1:]), hidden.device)
            self._store[k] = hidden[0]

    def _arguments_of(self, block: Block) -> list[Arguments]:
        """Return a block's arguments; the first one of a decoder is entered with what the encoder now puts out."""
        if block.target != self._target:
            self._target = block.target
            self._enter()
        return self._arguments.of(block)

    def _new(self, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        if self._folder is None:
            return torch.empty(shape, device=device)
        return torch.from_numpy(np.memmap(Path(self._folder.name) / "activations.bin", np.float32, "w+", shape=shape))

    def close(self) -> None:
        """Remove the memory-mapped files, if there are any."""
        self._store = None
        if self._folder is not None:
            self._folder.cleanup()

    @property
    def bytes(self) -> int:
        """Size of what is kept for one block."""
        assert self._store is not None
        return self._store.nelement() * 4

    def window(self, k: int) -> torch.Tensor:
        """Return what enters the next block at window k: (length, width)."""
        assert self._store is not None
        return self._store[k].reshape(-1, self._store.shape[-1])

    def run(self, block: Block) -> Iterator[tuple[int, Callable[[], torch.Tensor]]]:
        """Yield the number of each window, and a call that puts it through the block."""
        arguments, device = self._arguments_of(block), next(block.module.parameters()).device
        assert self._store is not None
        for k, (args, kwargs) in enumerate(arguments):
            entering = self._store[k : k + 1].to(device, self._dtype, copy=True)  # a block may work in place
            yield k, partial(_through, block, entering, args, kwargs)

    def through(self, block: Block, k: int) -> torch.Tensor:
        """Return what the block puts out at window k, (length, width), with gradients where they are on."""
        args, kwargs = self._arguments_of(block)[k]
        assert self._store is not None
        entering = self._store[k : k + 1].to(next(block.module.parameters()).device, self._dtype, copy=True)
        out = _through(block, entering, args, kwargs)
        return out.reshape(-1, out.shape[-1])

    def twin(self) -> Activations:
        """Return a second stream at the same place, which advances by itself."""
        assert self._store is not None
        other = copy.copy(self)
        if self._folder is not None:
            other._folder = tempfile.TemporaryDirectory(dir=Path(self._folder.name).parent)
        other._store = other._new(tuple(self._store.shape), self._store.device)
        other._store.copy_(self._store)
        return other

    @torch.no_grad()
    def advance(self, block: Block) -> None:
        """Put every window through the block: what comes out enters the next one."""
        for k, compute in self.run(block):
            out = compute()
            assert self._store is not None
            _require_finite(out, f"outputs of {block.name}", k)
            self._store[k] = out.reshape(self._store[k].shape)

    @torch.no_grad()
    def inputs(self, block: Block, layers: Sequence[str], take: Callable[[str, int, torch.Tensor], None]) -> None:
        """Call ``take(layer, window, rows)`` with what enters layers of a block; the rest of it is skipped."""
        waiting: set[str] = set()
        window = 0

        def hook_of(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
            def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
                rows = args[0].reshape(-1, args[0].shape[-1])
                _require_finite(rows, f"inputs of {block.name}.{name}", window)
                take(name, window, rows)
                waiting.discard(name)
                if not waiting:
                    raise Stop

            return hook

        self._arguments_of(block)  # before hooks that would stop the model's own pass
        handles = []
        for name in layers:
            layer = block.module.get_submodule(name)
            require(is_linear(layer), f"{block.name}.{name}", "be a linear layer", Shown(type(layer).__name__))
            handles.append(layer.register_forward_pre_hook(hook_of(name)))
        try:
            for window, compute in self.run(block):  # noqa: B007  the hooks name the window
                waiting = set(layers)
                try:
                    compute()
                except Stop:
                    continue
                unused = Shown(f"a forward pass without {', '.join(sorted(waiting))}")
                raise invalid(block.name, "use all of its linear layers", unused)
        finally:
            for handle in handles:
                handle.remove()

    def weights_of(self, block: Block, layer: str, step: int = 1) -> torch.Tensor:
        """Return what each token that enters a layer counts, (n, length) double; see `Calibration.row_weights`."""
        return self.calibration.row_weights(target=block.target and layer not in block.crossing, step=step)

    def hessians(self, block: Block, layers: Sequence[str], step: int = 1) -> dict[str, Floats]:
        r"""Return :math:`H = \sum_t \omega_t x_t x_t^T / \sum_t \omega_t` over the tokens entering each layer.

        Products in single precision, sums in double, both where the block is; padding has weight 0, and so have all
        but every ``step``-th token of each window.
        """
        sums: dict[str, torch.Tensor] = {}
        weights = {layer: self.weights_of(block, layer, step) for layer in layers}

        def take(name: str, window: int, rows: torch.Tensor) -> None:
            scale = weights[name][window].sqrt().float()[:, None].to(rows.device)
            if name not in sums:
                place = rows.device if rows.device.type not in SINGLE_ONLY else torch.device("cpu")
                sums[name] = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=place)
            total = sums[name]
            for part, w in zip(torch.split(rows.float(), CHUNK), torch.split(scale, CHUNK), strict=True):
                scaled = part * w
                total += (scaled.T @ scaled).to(total.device)

        self.inputs(block, layers, take)
        for name, h in sums.items():  # in place: at most one copy at a time
            h.add_(h.T.clone()).div_(2 * float(weights[name].sum()))
        return {name: h.cpu().numpy() for name, h in sums.items()}


def rare_share(windows: torch.Tensor, *, fewer_than: int = 5) -> float:
    """Return the share of tokens whose kind appears fewer than ``fewer_than`` times: what calibration hardly sees."""
    _, inverse, counts = torch.unique(windows, return_inverse=True, return_counts=True)
    return float((counts[inverse] < fewer_than).double().mean())


def _through(block: Block, entering: torch.Tensor, args: Any, kwargs: Any) -> torch.Tensor:
    return output_of(block.module(entering, *args, **kwargs))


def _require_finite(values: torch.Tensor, what: str, window: int) -> None:
    finite = bool(torch.isfinite(values).all())
    require(finite, "calibration", f"give finite {what}", Shown(f"NaN or infinity at window {window}"))
