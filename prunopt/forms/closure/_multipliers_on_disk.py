"""Multipliers of a closure that is kept on disk: one file a chunk, the best ones never overwritten."""

from __future__ import annotations

import json
import os
import re
import time
import tokenize
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunopt.core.files import write_json
from prunopt.core.solution import CertificateError

FORMAT = "prunopt-multipliers-1"
MANIFEST = "multipliers.json"
NAME = re.compile(r"chunk-\d{5,}\.\d+\.npy")
SAVE_EVERY = 10.0  # seconds between two manifests of the best multipliers


@dataclass(frozen=True, eq=False)
class MultipliersOnDisk:
    """One multiplier b >= 0 for every edge of a `ClosureOnDisk`, in units of ``1 / denominator`` of its profits.

    Parameters
    ----------
    folder
        Where the files lie.
    files
        The file of each chunk; None = its multipliers are 0.
    sizes
        Edges of each chunk.
    denominator
        Units of the multipliers in one unit of profit.
    dtype
        ``"int32"`` or ``"int64"``.
    closure
        Digest of the closure that they belong to.
    penalty
        The penalty that they were made for, as ``"numerator/denominator"``. They prove a bound at any penalty.
    """

    folder: Path
    files: tuple[str | None, ...]
    sizes: tuple[int, ...]
    denominator: int
    dtype: str
    closure: str
    penalty: str = ""

    def chunk(self, k: int) -> NDArray[Any]:
        """Return the multipliers of chunk k, in the order of its edges.

        Raises
        ------
        CertificateError
            If their file is missing or not of the right type and length.
        """
        name = self.files[k]
        if name is None:
            return np.zeros(self.sizes[k], self.dtype)
        try:
            return read_array(self.folder / name, self.dtype, self.sizes[k])
        except ValueError as error:
            raise CertificateError(f"multipliers: {error}") from None

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> MultipliersOnDisk:
        """Open the multipliers in a folder.

        Raises
        ------
        ValueError
            If there are none, or their manifest is damaged.
        """
        place = Path(folder)
        try:
            data = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']!r}, {FORMAT!r} is needed")
            files, sizes = tuple(data["files"]), tuple(int(n) for n in data["sizes"])
            if len(files) != len(sizes) or any(f is not None and not NAME.fullmatch(str(f)) for f in files):
                raise ValueError("its list of files is damaged")
            if data["dtype"] not in ("int32", "int64") or int(data["denominator"]) <= 0:
                raise ValueError(f"dtype {data['dtype']!r} with denominator {data['denominator']!r}")
            units = int(data["denominator"]), data["dtype"]
            return cls(place, files, sizes, *units, str(data["closure"]), str(data["price"]))
        except (OSError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise ValueError(f"folder={str(folder)!r}: no multipliers that can be read ({error})") from None

    def save(self) -> None:
        """Write the manifest, whole or not at all; until then the folder opens as what it was before."""
        manifest = {
            "format": FORMAT,
            "closure": self.closure,
            "price": self.penalty,
            "denominator": str(self.denominator),
            "dtype": self.dtype,
            "sizes": list(self.sizes),
            "files": list(self.files),
        }
        write_json(self.folder / MANIFEST, manifest)


class MultipliersWriter:
    """Multipliers that change chunk by chunk, beside the best ones so far.

    A changed chunk is a new file, renamed into place when it is complete; `keep` makes the present files the best
    ones without copying anything. Files go once neither the present nor the best multipliers, nor the manifest on
    disk, need them, so that at any instant, even that of a power cut, the folder opens as whole multipliers.
    """

    def __init__(self, start: MultipliersOnDisk) -> None:
        start.folder.mkdir(parents=True, exist_ok=True)
        self.best = start
        self._now = list(start.files)
        self._saved: tuple[str | None, ...] = start.files
        self._serial = 1 + max((int(p.name.split(".")[1]) for p in _files(start.folder)), default=0)
        self._clock = time.monotonic()

    def write(self, k: int, multipliers: NDArray[Any]) -> None:
        """Make ``multipliers`` the present ones of chunk k."""
        name = f"chunk-{k:05d}.{self._serial}.npy"
        self._serial += 1
        write_array(self.best.folder / name, multipliers)
        before, self._now[k] = self._now[k], name
        self._drop(before)

    def read(self, k: int) -> NDArray[Any]:
        """Return the present multipliers of chunk k."""
        return replace(self.best, files=tuple(self._now)).chunk(k)

    def keep(self) -> None:
        """Make the present multipliers the best ones."""
        before = self.best.files
        self.best = replace(self.best, files=tuple(self._now))
        if time.monotonic() - self._clock > SAVE_EVERY:
            self._save()
        for name in before:
            self._drop(name)

    def close(self) -> MultipliersOnDisk:
        """Save the best multipliers, delete all other files, and return them."""
        self._save()
        for path in _files(self.best.folder):
            if path.name not in self.best.files:
                path.unlink(missing_ok=True)
        return self.best

    def _save(self) -> None:
        before = self._saved
        self.best.save()
        self._saved, self._clock = self.best.files, time.monotonic()
        for name in before:
            self._drop(name)

    def _drop(self, name: str | None) -> None:
        """Delete a file that nothing needs any more."""
        if name is None:
            return
        k = int(name.split(".")[0].removeprefix("chunk-"))
        if name not in (self._now[k], self.best.files[k], self._saved[k]):
            (self.best.folder / name).unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if NAME.fullmatch(p.name)]


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as ``.npy``, under a temporary name that is renamed at the end."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with open(temporary, "wb") as file:
            np.save(file, array, allow_pickle=False)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_array(path: Path, dtype: str, length: int) -> NDArray[Any]:
    """Read a ``.npy`` file whose type and length are known; nothing is allocated before both have been checked.

    Raises
    ------
    ValueError
        If the file is missing, of another type or length, or cut short.
    """
    try:
        with open(path, "rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("another version of the format")
            shape, _, found = np.lib.format.read_array_header_1_0(file)
            if found != np.dtype(dtype) or shape != (length,):
                raise ValueError(f"{found} of shape {shape}, {dtype} of shape ({length},) is needed")
            if os.fstat(file.fileno()).st_size != file.tell() + length * found.itemsize:
                raise ValueError("it is cut short, or goes on after its end")
            return np.fromfile(file, found, length)
    except (OSError, ValueError, tokenize.TokenError, SyntaxError) as error:  # numpy reads headers as Python literals
        raise ValueError(f"{path}: {error}") from None
