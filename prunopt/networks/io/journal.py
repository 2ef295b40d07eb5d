"""A folder of steps, each written whole and tied to the one before by its hash: what is done survives a kill."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from prunopt.core.files import digest, read_json, write_atomically, write_json

HEAD = "journal.json"


class Journal:
    """Steps of a run in a folder.

    Parameters
    ----------
    folder
        Made if it is missing.
    inputs
        Names and digests of everything that decides the outcome. A folder with others is refused, and the message
        names those that have changed.

    Raises
    ------
    ValueError
        If the folder belongs to other inputs, or a step does not follow from the one before.
    """

    def __init__(self, folder: str | os.PathLike[str], inputs: Mapping[str, str]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        head = self.folder / HEAD
        if head.exists():
            try:
                known = dict(read_json(head))
            except (OSError, ValueError, TypeError) as error:
                raise ValueError(
                    f"resume_dir={str(folder)!r}: {HEAD} cannot be read ({error}); remove the folder"
                ) from None
            changed = [k for k in sorted({*known, *inputs}) if known.get(k) != inputs.get(k)]
            if changed:
                raise ValueError(
                    f"resume_dir={str(folder)!r}: it belongs to another run; changed: {', '.join(changed)}. "
                    "Give the same inputs, or an empty folder"
                )
        elif any(self.folder.glob("step-*.safetensors")):
            raise ValueError(f"resume_dir={str(folder)!r}: steps without {HEAD}; give an empty folder")
        else:
            write_json(head, dict(inputs))
        self._last = hashlib.sha256(json.dumps(dict(sorted(inputs.items()))).encode()).hexdigest()
        self._next = 0

    def _path(self) -> Path:
        return self.folder / f"step-{self._next:04d}.safetensors"

    def replay(self, name: str) -> tuple[dict[str, torch.Tensor], Any] | None:
        """Return the tensors and the record of the next step, if it was done before; ``name`` must be its name."""
        path = self._path()
        if not path.exists():
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                meta = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: cannot be read ({error}); remove it and what follows it") from None
        if meta.get("previous") != self._last or meta.get("name") != name:
            raise ValueError(f"{path}: does not follow from the step before it; remove it and what follows it")
        try:
            record = json.loads(meta["record"])
        except (KeyError, ValueError, RecursionError) as error:
            raise ValueError(f"{path}: its record cannot be read ({error}); remove it and what follows it") from None
        self._last, self._next = digest(path), self._next + 1
        return tensors, record

    def append(self, name: str, tensors: Mapping[str, torch.Tensor], record: Any) -> None:
        """Write the next step."""
        from safetensors.torch import save_file

        path = self._path()
        meta = {"previous": self._last, "name": name, "record": json.dumps(record)}
        with write_atomically(path) as temporary:
            save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata=meta)
        self._last, self._next = digest(path), self._next + 1


def model_digest(model: torch.nn.Module) -> str:
    """Return the SHA-256 of a model's names and weights."""
    whole = hashlib.sha256(type(model).__name__.encode())
    for name, tensor in model.state_dict().items():
        whole.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        whole.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()
