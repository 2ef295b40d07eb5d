"""Safetensors in one file or several: tensors read one by one, and files that grow tensor by tensor."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from prunopt.core.files import digest, read_json, write_json
from prunopt.core.validate import Shown, invalid, require
from prunopt.networks.io.folders import WEIGHTS

INDEX = f"{WEIGHTS}.index.json"
NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
PIECE = 2**24  # bytes copied at a time


def weight_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the safetensors files of a model's folder: those of its index, or the one that there is.

    Raises
    ------
    ValueError
        If there is none, or the index cannot be followed.
    """
    place = Path(folder)
    index = place / INDEX
    if index.is_file():
        found = read_json(index)
        names: Any = found.get("weight_map") if isinstance(found, dict) else None
        whole = isinstance(names, dict) and names and all(isinstance(n, str) for n in names.values())
        require(whole, str(index), "hold a weight_map", Shown("none"))
        files = [place / name for name in sorted(set(names.values()))]
        for file in files:
            require(file.parent == place, str(index), "name files beside it", file.name)
            require(file.is_file(), str(place), f"hold {file.name}", Shown("none"), "its index names it")
        return files
    require((place / WEIGHTS).is_file(), str(place), f"hold {WEIGHTS}", Shown("none"))
    return [place / WEIGHTS]


def digests(folder: str | os.PathLike[str]) -> str | dict[str, str]:
    """Return the SHA-256 of a model's weights: of the one file, or of each by its name."""
    files = weight_files(folder)
    return digest(files[0]) if files[0].name == WEIGHTS else {file.name: digest(file) for file in files}


class TensorFiles:
    """The tensors of a folder by their names; each is read when it is asked for, and nothing stays mapped."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.files: dict[str, Path] = {}
        for file in weight_files(folder):
            with _opened(file) as held:
                self.files |= dict.fromkeys(held.keys(), file)

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def read(self, names: Mapping[str, str], dtype: torch.dtype | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield tensors under other names, ``names[new] = name``, floating-point ones in a number format."""
        for file in dict.fromkeys(self.files[name] for name in names.values()):
            with _opened(file) as held:
                for new, name in names.items():
                    if self.files[name] == file:
                        tensor = held.get_tensor(name)
                        # A copy in any case: what safetensors returns may be a view of a mapped file.
                        kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
                        yield new, tensor.to(kind, copy=True)


def _opened(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise invalid(str(file), "be a whole file of safetensors", Shown(str(error).splitlines()[0])) from None


class GrowingFiles:
    """Safetensors files to which tensors are added one by one: no more than one of them is in memory.

    Parameters
    ----------
    folder
        Where they are written.
    file_of
        The name of the file that a tensor goes to.
    """

    def __init__(self, folder: Path, file_of: Callable[[str], str]) -> None:
        self.folder, self.file_of = folder, file_of
        self._bodies: dict[str, BinaryIO] = {}
        self._held: dict[str, dict[str, tuple[torch.dtype, list[int], int, int]]] = {}
        self.dtypes: dict[torch.dtype, int] = {}

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Append a tensor."""
        file = self.file_of(name)
        if file not in self._bodies:
            self._bodies[file] = open(self.folder / f".{file}.body", "w+b")  # noqa: SIM115  closed by `finish`
            self._held[file] = {}
        body, data = self._bodies[file], tensor.detach().cpu().contiguous()
        start = body.seek(0, os.SEEK_END)
        body.write(data.reshape(-1).view(torch.uint8).numpy().tobytes())
        self._held[file][name] = data.dtype, list(data.shape), start, body.tell() - start
        if data.is_floating_point():
            self.dtypes[data.dtype] = self.dtypes.get(data.dtype, 0) + data.numel()

    def finish(self) -> None:
        """Put the headers in front, in the order of safetensors: wide numbers first, then by name; write the index."""
        for file, held in self._held.items():
            order = sorted(held, key=lambda name: (-held[name][0].itemsize, name))
            header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
            at = 0
            for name in order:
                dtype, shape, _, size = held[name]
                header[name] = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": [at, at + size]}
                at += size
            text = json.dumps(header, separators=(",", ":")).encode()
            text += b" " * (-len(text) % 8)
            body = self._bodies[file]
            with open(self.folder / file, "wb") as out:
                out.write(len(text).to_bytes(8, "little") + text)
                for name in order:
                    _, _, start, size = held[name]
                    body.seek(start)
                    while size:
                        piece = body.read(min(PIECE, size))
                        out.write(piece)
                        size -= len(piece)
        self.close()
        write_index(self.folder, {name: file for file, held in self._held.items() for name in held},
                    sum(size for held in self._held.values() for *_, size in held.values()))  # fmt: skip

    def close(self) -> None:
        """Remove what is not finished."""
        for file, body in self._bodies.items():
            body.close()
            (self.folder / f".{file}.body").unlink(missing_ok=True)
        self._bodies = {}


def write_index(folder: Path, weight_map: Mapping[str, str], size: int) -> None:
    """Write the index of several files; of one there is none."""
    if set(weight_map.values()) != {WEIGHTS}:
        data = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(folder / INDEX, data)
