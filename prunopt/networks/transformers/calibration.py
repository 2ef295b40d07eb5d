"""Calibration: the inputs of a block's linear layers, block after block, as sums of outer products."""

from __future__ import annotations

import copy
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from prunopt.core.arrays import Floats
from prunopt.core.validate import Shown, invalid, number, require
from prunopt.networks.transformers.block_arguments import BlockArguments, Stop, output_of
from prunopt.networks.transformers.families import Block, blocks, is_linear

MUST = "be token ids (n, length), or a list of sources"
SINGLE_ONLY = ("mps",)  # devices without double precision
CHUNK = 4096  # rows of a product in single precision; their sums are in double


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a model is calibrated on.

    Parameters
    ----------
    windows : (n, length) int64
        Token ids.
    mask : (n, length) bool
        False for padding, which does not count.
    weight : (n,) float
        What a token of each window counts.
    source : (n,) int
        Number of the source of each window.
    """

    windows: torch.Tensor
    mask: torch.Tensor
    weight: torch.Tensor
    source: torch.Tensor

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
        return whole.hexdigest()

    def row_weights(self) -> torch.Tensor:
        """Return what each token counts, (n, length) double; padding counts 0."""
        return self.weight[:, None].double() * self.mask.double()


def as_calibration(given: Any) -> Calibration:
    """Read what users give as calibration.

    Parameters
    ----------
    given
        (n, length) token ids; a mapping with ``input_ids`` and perhaps ``attention_mask``, as tokenizers return; a
        sequence of these; or a sequence of pairs (one of these, weight): sources whose shares in the sums of outer
        products are as their weights, however long they are.

    Raises
    ------
    ValueError
        If there are no tokens, or windows of different lengths.
    """
    if isinstance(given, Calibration):
        return given
    parts = _sources(given)
    lengths = sorted({ids.shape[1] for ids, _, _ in parts})
    require(len(lengths) == 1, "calibration", "have windows of one length", lengths, "cut all sources to one length")
    weighted = any(w is not None for _, _, w in parts)
    weights, sources = [], []
    for k, (ids, mask, weight) in enumerate(parts):
        share = 1.0
        if weighted:
            share = number(f"weight of calibration[{k}]", weight, low=0, open_ends="(") / max(1, int(mask.sum()))
        weights.append(torch.full((len(ids),), share, dtype=torch.float64))
        sources.append(torch.full((len(ids),), k, dtype=torch.int64))
    ids = torch.cat([p[0] for p in parts])
    out = Calibration(ids, torch.cat([p[1] for p in parts]), torch.cat(weights), torch.cat(sources))
    require(out.n_tokens, "calibration", "hold tokens", Shown("none"), "pass at least one window of text")
    return out


def _sources(given: Any) -> list[tuple[torch.Tensor, torch.Tensor, float | None]]:
    if isinstance(given, (torch.Tensor, np.ndarray, Mapping)) or hasattr(given, "input_ids"):
        return [(*_ids(given), None)]
    if isinstance(given, str) or not isinstance(given, Sequence) or not len(given):
        empty = "an empty " if isinstance(given, Sequence) and not given else ""
        raise invalid("calibration", MUST, Shown(f"{empty}{type(given).__name__}"))
    if all(isinstance(g, Sequence) and not isinstance(g, str) and all(isinstance(t, int) for t in g) for g in given):
        return [(*_ids(np.array(given)), None)]
    pairs = [g if isinstance(g, tuple) and len(g) == 2 and np.isscalar(g[1]) else (g, None) for g in given]
    return [(*_ids(g), None if w is None else float(w)) for g, w in pairs]


def _ids(given: Any) -> tuple[torch.Tensor, torch.Tensor]:
    mask = None
    if isinstance(given, Mapping) or hasattr(given, "input_ids"):
        mask, given = given.get("attention_mask"), given["input_ids"]
    try:
        ids = torch.as_tensor(given)
    except (TypeError, ValueError) as error:
        raise invalid("calibration", MUST, Shown(type(given).__name__), str(error)) from None
    if ids.dim() == 1:
        ids = ids[None]
    whole = ids.dim() == 2 and not ids.is_floating_point()
    require(whole, "calibration", MUST, Shown(f"{ids.dtype} of shape {tuple(ids.shape)}"))
    known = torch.ones(ids.shape, dtype=torch.bool) if mask is None else torch.as_tensor(mask).bool()
    shape = Shown(f"shape {tuple(known.shape)}")
    require(known.shape == ids.shape, "attention_mask of the calibration", f"have shape {tuple(ids.shape)}", shape)
    return ids.long(), known


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
        takes = getattr(model, "main_input_name", "input_ids")
        kind = Shown(f"{type(model).__name__}, which takes {takes}")
        mend = "remove its heads with prunopt.networks.heads, by batches of its own inputs"
        require(takes == "input_ids", "model", "take token ids, as the calibration holds them", kind, mend)
        check_length(model, calibration.windows.shape[1])
        self.calibration = calibration
        self._store: torch.Tensor | None = None
        self._dtype = torch.float32  # of the model's hidden states
        self._folder = tempfile.TemporaryDirectory(dir=folder) if folder is not None else None
        self._arguments = BlockArguments(found)
        padded, device = not bool(calibration.mask.all()), next(model.parameters()).device
        for k, window in enumerate(calibration.windows):
            given = {"input_ids": window[None].to(device)}
            if padded:
                given["attention_mask"] = calibration.mask[k : k + 1].long().to(device)
            hidden = self._arguments.capture(model, given)
            if k == 0:
                self._arguments.check(model, given)
            if self._store is None:
                self._dtype = hidden.dtype
                self._store = self._new((len(calibration.windows), *hidden.shape[1:]), hidden.device)
            self._store[k] = hidden[0]

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
        assert self._store is not None
        device = next(block.module.parameters()).device
        for k, (args, kwargs) in enumerate(self._arguments.of(block)):
            entering = self._store[k : k + 1].to(device, self._dtype, copy=True)  # a block may work in place
            yield k, partial(_through, block, entering, args, kwargs)

    def through(self, block: Block, k: int) -> torch.Tensor:
        """Return what the block puts out at window k, (length, width), with gradients where they are on."""
        assert self._store is not None
        args, kwargs = self._arguments.of(block)[k]
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
        assert self._store is not None
        for k, compute in self.run(block):
            out = compute()
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

    def hessians(self, block: Block, layers: Sequence[str], weights: torch.Tensor | None = None) -> dict[str, Floats]:
        r"""Return :math:`H = \sum_t \omega_t x_t x_t^T / \sum_t \omega_t` over the tokens entering each layer.

        Products in single precision, sums in double, both where the block is; padding has weight 0. ``weights``,
        (n, length), stand in the place of the calibration's own.
        """
        sums: dict[str, torch.Tensor] = {}
        weights = self.calibration.row_weights() if weights is None else weights

        def take(name: str, window: int, rows: torch.Tensor) -> None:
            scale = weights[window].sqrt().float()[:, None].to(rows.device)
            if name not in sums:
                place = rows.device if rows.device.type not in SINGLE_ONLY else torch.device("cpu")
                sums[name] = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=place)
            total = sums[name]
            for part, w in zip(torch.split(rows.float(), CHUNK), torch.split(scale, CHUNK), strict=True):
                scaled = part * w
                total += (scaled.T @ scaled).to(total.device)

        self.inputs(block, layers, take)
        whole = float(weights.sum())
        for h in sums.values():  # in place: at most one copy at a time
            h.add_(h.T.clone()).div_(2 * whole)
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


def positions_of(model: nn.Module) -> int | None:
    """Return how many positions a model knows; None where nothing says so."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa's kin count positions from behind the padding's.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    config: Any = getattr(model, "config", None)
    found = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
    return next((n for n in found if isinstance(n, int) and n > 0), None)


def check_length(model: nn.Module, length: int) -> None:
    """Refuse windows that are longer than the positions that a model knows."""
    most = positions_of(model)
    fits = most is None or length <= most
    require(
        fits, "length", f"be at most {most}, the positions of {type(model).__name__}", length, "cut shorter windows"
    )
