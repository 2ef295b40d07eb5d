"""Every block of a transformer pruned to every level of a grid, kept on disk, so that an allocation costs one pass."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from prunopt.core import validate
from prunopt.core.arrays import Floats
from prunopt.core.files import write_atomically
from prunopt.forms import QuadraticSubset
from prunopt.networks.io.journal import model_digest
from prunopt.networks.transformers.calibration import Activations, as_calibration
from prunopt.networks.transformers.families import Block, blocks, weight_of
from prunopt.networks.transformers.layer import LayerGoal, relative_error, shrunk, solve_layer
from prunopt.networks.transformers.recipes import SINGLE_WEIGHTS, WHOLE_UNITS, shrinkage_of
from prunopt.networks.transformers.surgery import parameters_of

UNITS = ("weights", "ffn")
DAMPING = {"weights": SINGLE_WEIGHTS.damping, "ffn": WHOLE_UNITS.damping}


class LevelWeights:
    """The decision is an allocation over blocks: each block has the weights that a layer solver left it at its level.

    Blocks are solved on the dense model's activations, once for each level, so that levels can be combined freely; a
    run of `prune_transformer` with the chosen allocation solves each block on what the pruned blocks before it put
    out. The dense weights come back, bit by bit, when the context ends.

    Parameters
    ----------
    model
        A transformer of a known family; it is changed in place within the context only.
    calibration
        As for `prune_transformer`.
    levels : (K,) float
        Fractions of each block's linear parameters removed, rising, each in (0, 1). 0 (dense) is always there.
    units
        ``"weights"``: single weights of every layer, as many in each row. ``"ffn"``: whole neurons of the
        feed-forward part, as many as make up the fraction of the block; the projection down is re-solved. They are
        zeros here, in the shapes of the dense model, which put out what the smaller layers do.
    method
        For ``"weights"`` a solver of `prune_transformer`'s patterns; for ``"ffn"`` ``"wanda"``: the order in which
        neurons are removed.
    refit
        For ``"weights"``: re-solve the kept weights together (see `prune_transformer`).
    folder
        Where the weights are kept, 4 bytes per weight and level; a folder begun by the same call goes on.
    damping
        Ridge, as a multiple of the Hessian's mean diagonal; default 0.01 for weights, 0.1 for neurons.
    shrinkage
        Of the Hessians towards their diagonals; None: 0.2. Neurons' projections are always re-solved.
    progress
        Called with the number of blocks done and of all.
    """

    def __init__(
        self,
        model: nn.Module,
        calibration: Any,
        levels: Sequence[float],
        *,
        folder: str | os.PathLike[str],
        units: str = "weights",
        method: str = "sparsegpt",
        refit: bool = False,
        damping: float | None = None,
        shrinkage: float | None = None,
        progress: Callable[[int, int], Any] | None = None,
    ) -> None:
        validate.one_of("units", units, UNITS)
        validate.require(units != "ffn" or method == "wanda", "method", "be 'wanda' with units='ffn'", method)
        grid = validate.floats("levels", levels, ("K",))
        rising = grid.size and ((grid > 0) & (grid < 1)).all() and (np.diff(grid) > 0).all()
        validate.require(rising, "levels", "be rising fractions removed, above 0 and below 1", grid.tolist())
        self.model, self.blocks, self.levels = model, blocks(model), grid
        self._folder, self._units, self._method, self._refit = Path(folder), units, method, refit
        self._damping = DAMPING[units] if damping is None else float(damping)
        self._shrinkage = float(shrinkage_of(shrinkage, method, refit or units == "ffn"))
        tokens = as_calibration(calibration)
        about = {
            "model": model_digest(model), "calibration": tokens.digest(), "levels": grid.tolist(), "units": units,
            "method": method, "refit": refit, "damping": self._damping,
            "shrinkage": self._shrinkage,
        }  # fmt: skip
        self._key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
        self._files: list[dict[str, NDArray[np.float32]]] = []
        rows = []
        stream: Activations | None = None
        for k, block in enumerate(self.blocks):
            file = self._folder / f"{self._key}-{k}-errors.npy"
            if not file.exists():
                if stream is None:
                    stream = Activations(model, self.blocks, tokens)
                    for before in self.blocks[:k]:
                        stream.advance(before)
                self._solve(k, block, stream, file)
            rows.append(np.load(file, allow_pickle=False))
            self._files.append({n: np.load(self._file(k, n), mmap_mode="r") for n in self._names(block)})
            if stream is not None:
                stream.advance(block)
            if progress is not None:
                progress(k + 1, len(self.blocks))
        if stream is not None:
            stream.close()
        self.errors: Floats = np.array(rows)

    def on(self, model: nn.Module) -> LevelWeights:
        """Return the same weights for another copy of the model, such as one in bfloat16 that is faster to run."""
        other = object.__new__(LevelWeights)
        other.__dict__.update(self.__dict__)
        other.model, other.blocks = model, blocks(model)
        count, mend = validate.Shown(f"{len(other.blocks)} blocks"), "pass a copy of the same model"
        validate.require(len(other.blocks) == len(self.blocks), "model", f"have {len(self.blocks)} blocks", count, mend)
        return other

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """Number of weights of every block."""
        return tuple(sum(weight_of(b.module.get_submodule(n)).numel() for n in b.layers) for b in self.blocks)

    def snapped(self, allocation: ArrayLike) -> Floats:
        """Return levels that remove at least as much as the allocation: those below it, the nearest misses raised."""
        given = validate.floats("allocation", allocation, (len(self.blocks),), low=0)
        grid, sizes = np.concatenate([[0.0], self.levels]), np.array(self.block_sizes, np.float64)
        below = np.searchsorted(grid, given + 1e-9, side="right") - 1
        above = np.minimum(below + 1, len(grid) - 1)
        within = given.max() <= grid[-1] + 1e-9
        validate.require(within, "allocation", f"be at most the highest level {grid[-1]:g}", given.max())
        missing = float(sizes @ (given - grid[below]))
        for k in np.argsort(grid[above] - given, kind="stable"):
            if missing <= 1e-9 * sizes.sum():
                break
            missing -= float(sizes[k] * (grid[above[k]] - grid[below[k]]))
            below[k] = above[k]
        return np.asarray(grid[below], np.float64)

    @contextmanager
    def __call__(self, allocation: ArrayLike | None) -> Iterator[nn.Module]:
        """Yield the model with one fraction for each block, taken to levels by `snapped`; None: dense."""
        kept: list[tuple[nn.Parameter, torch.Tensor]] = []
        try:
            if allocation is not None:
                for k, level in enumerate(self.snapped(allocation)):
                    if level == 0:
                        continue
                    at = int(np.argmin(np.abs(self.levels - level)))
                    for name, stored in self._files[k].items():
                        weight: Any = self.blocks[k].module.get_submodule(name).weight
                        kept.append((weight, weight.detach().clone()))
                        with torch.no_grad():
                            weight.copy_(torch.from_numpy(np.array(stored[at])))
            yield self.model
        finally:
            with torch.no_grad():
                for weight, before in kept:
                    weight.copy_(before)

    def _file(self, k: int, name: str) -> Path:
        return self._folder / f"{self._key}-{k}-{name}.npy"

    def _names(self, block: Block) -> tuple[str, ...]:
        return block.layers if self._units == "weights" else (block.stages[-1][0],)

    @torch.no_grad()
    def _solve(self, k: int, block: Block, stream: Activations, errors: Path) -> None:
        names = self._names(block)
        hessians = stream.hessians(block, [stage[0] for stage in block.stages if stage[0] in names])
        owner = {name: stage[0] for stage in block.stages for name in stage}
        curves = []
        for name in names:
            weight = weight_of(block.module.get_submodule(name)).detach().double().cpu().numpy()
            found = self._neurons if self._units == "ffn" else self._weights
            new, curve = found(block, f"{block.name}.{name}", weight, hessians[owner[name]])
            curves.append(curve)
            with write_atomically(self._file(k, name)) as temporary:
                np.save(temporary, new)
        with write_atomically(errors) as temporary:
            np.save(temporary, np.mean(curves, axis=0))

    def _weights(self, _: Block, name: str, weight: Floats, hessian: Floats) -> tuple[NDArray[np.float32], Floats]:
        new, curve = np.empty((len(self.levels), *weight.shape), np.float32), np.empty(len(self.levels))
        for j, level in enumerate(self.levels):
            _value, found, report = solve_layer(
                name, weight, hessian, self._method, LayerGoal(sparsity=float(level)), damping=self._damping,
                shrinkage=self._shrinkage, refit=self._refit,
            )  # fmt: skip
            new[j], curve[j] = found, report.error
        return new, curve

    def _neurons(self, block: Block, name: str, weight: Floats, hessian: Floats) -> tuple[NDArray[np.float32], Floats]:
        neurons = block.feed_forward is not None
        mend = "its block has no feed-forward part"
        validate.require(neurons, "units", f"be 'weights' for {name}", self._units, mend)
        whole = sum(weight_of(block.module.get_submodule(n)).numel() for n in block.layers)
        each, width = parameters_of(block)["neuron"], weight.shape[1]
        counts = [math.ceil(level * whole / each - 1e-9) for level in self.levels]
        most = validate.Shown(f"{self.levels[-1]:g}, {counts[-1]} of the {width} neurons of {name}")
        validate.require(counts[-1] < width, "levels", "leave neurons in every block", most, "pass lower levels")
        form = QuadraticSubset(
            weight, shrunk(hessian, self._shrinkage), np.arange(width)[:, None], 0, damping=self._damping
        )
        order = np.argsort((weight**2).sum(axis=0) * np.diagonal(hessian), kind="stable")
        new, curve = np.empty((len(counts), *weight.shape), np.float32), np.empty(len(counts))
        for j, count in enumerate(counts):
            found = form.lift(np.sort(order[:count]))
            new[j], curve[j] = found, relative_error(weight, found, hessian)
        return new, curve
