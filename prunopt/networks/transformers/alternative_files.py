"""Measured blocks of a library in a folder that several processes share: a file for each block, written whole."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunopt.core import validate
from prunopt.core.arrays import Floats
from prunopt.core.files import only_writer, read_json, take_lock, write_json
from prunopt.core.tensor_files import read_tensors, write_tensors
from prunopt.networks.io.journal import Journal

PARTS = ("attention", "mlp")
NAME = "block-{:04d}.safetensors"
WAIT = 0.2  # seconds between looks at what other processes are measuring
REDO = "remove it, and measure again"


class AlternativeFiles:
    """The losses of each block's alternatives, and the projections that were re-solved for them.

    ``block-0007.safetensors`` has the metadata ``losses``, a JSON list in the order of the alternatives, and for each
    size of a part ``attention.2`` (out, columns that stay) and ``attention.2.columns`` (their numbers); ``mlp.768`` the
    same. ``journal.json`` says what was measured, on what.

    Parameters
    ----------
    folder
        Made where it is missing.
    inputs
        Everything that decides the outcome; a folder of others is refused. None: the folder is read only.
    """

    def __init__(self, folder: str | os.PathLike[str], inputs: Mapping[str, str] | None = None) -> None:
        self.folder = Path(folder)
        if inputs is not None:
            Journal(folder, inputs)

    def path(self, block: int) -> Path:
        """Return the file of a block."""
        return self.folder / NAME.format(block)

    def has(self, block: int) -> bool:
        """Whether a block is measured."""
        return self.path(block).is_file()

    def losses(self, block: int) -> list[float]:
        """Return the losses of a block's alternatives.

        Raises
        ------
        ValueError
            Naming the file, if it cannot be read.
        """
        meta, _ = read_tensors(self.path(block), REDO)
        try:
            return [float(x) for x in json.loads(meta["losses"])]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.path(block)}: its losses cannot be read ({error}); {REDO}") from None

    def projection(self, block: int, part: str, size: int, shape: Sequence[int]) -> torch.Tensor:
        """Return a part's projection (out, in) with ``size`` units left; columns that went are 0."""
        from safetensors import SafetensorError, safe_open

        out, name = torch.zeros(*shape), f"{validate.one_of('part', part, PARTS)}.{size}"
        try:
            with safe_open(self.path(block), framework="pt") as file:
                out[:, file.get_tensor(f"{name}.columns")] = file.get_tensor(name).float()
        except (SafetensorError, OSError, IndexError, RuntimeError) as error:
            raise ValueError(f"{self.path(block)}: {name} cannot be read ({error}); {REDO}") from None
        return out

    def write(
        self, block: int, losses: Sequence[float], solved: Mapping[str, Mapping[int, Floats]], dtype: torch.dtype
    ) -> None:
        """Write what was measured of a block."""
        tensors = {}
        for part, sizes in solved.items():
            for size, weight in sizes.items():
                columns = np.flatnonzero(weight.any(axis=0))
                tensors[f"{part}.{size}"] = torch.from_numpy(np.ascontiguousarray(weight[:, columns])).to(dtype)
                tensors[f"{part}.{size}.columns"] = torch.from_numpy(columns)
        write_tensors(self.path(block), tensors, {"losses": json.dumps(list(losses))})

    @contextmanager
    def claimed(self, block: int) -> Iterator[bool]:
        """Hold a block against other processes; False where one of them does, or has finished it.

        The lock is the operating system's, and goes with its holder.
        """
        place = self.folder / f".{NAME.format(block)}.lock"
        try:
            handle = take_lock(place)
        except BlockingIOError:
            yield False
            return
        try:
            yield not self.has(block)
        finally:
            if handle is not None:
                place.unlink(missing_ok=True)
                os.close(handle)

    def wait(self, missing: Sequence[int]) -> None:
        """Return when one of these blocks is finished, or is no more held by another process."""
        while not any(self.has(k) for k in missing):
            for k in missing:
                with self.claimed(k) as mine:
                    if mine:
                        return
            time.sleep(WAIT)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what a JSON file of the folder holds; where there is none, ``make`` makes it, in one process."""
        with only_writer(self.folder / name, patience=3600.0):
            if not (self.folder / name).exists():
                write_json(self.folder / name, make())
        return read_json(self.folder / name)

    def copy_to(self, folder: str | os.PathLike[str]) -> None:
        """Copy the files of the blocks to another folder."""
        place = Path(folder)
        for file in sorted(self.folder.glob(NAME.format(0).replace("0000", "*"))):
            if place.resolve() != self.folder.resolve():
                shutil.copyfile(file, place / file.name)
