"""Tensors on disk with a record beside them: safetensors files that are whole or absent, and a folder of steps."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunopt.core.files import digest, read_json, write_atomically, write_json
from prunopt.core.validate import Shown, invalid, require

if TYPE_CHECKING:
    from torch import Tensor

HEAD = "journal.json"


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and texts to a safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    with write_atomically(path) as temporary:
        save_file({k: v.detach().contiguous() for k, v in tensors.items()}, temporary, metadata=dict(metadata))


def read_tensors(path: str | os.PathLike[str], mend: str = "remove it") -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the texts and the tensors of a safetensors file.

    Raises
    ------
    ValueError
        Naming the file and the mend, if it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); {mend}") from None


class Journal:
    """Steps of a run in a folder, each written whole and tied to the one before by its hash: they survive a kill.

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
        head, where = self.folder / HEAD, f"resume_dir={str(folder)!r}"
        if head.exists():
            try:
                known = dict(read_json(head))
            except (OSError, ValueError, TypeError) as error:
                raise invalid(where, f"hold a readable {HEAD}", Shown(error), "remove the folder") from None
            changed = [k for k in sorted({*known, *inputs}) if known.get(k) != inputs.get(k)]
            mend = f"changed: {', '.join(changed)}; pass the same inputs, or an empty folder"
            require(not changed, where, "belong to this run", Shown("another"), mend)
        else:
            steps = any(self.folder.glob("step-*.safetensors"))
            require(not steps, where, f"hold {HEAD} beside its steps", Shown("steps alone"), "pass an empty folder")
            write_json(head, dict(inputs))
        self._last = hashlib.sha256(json.dumps(dict(sorted(inputs.items()))).encode()).hexdigest()
        self._next = 0

    def _path(self) -> Path:
        return self.folder / f"step-{self._next:04d}.safetensors"

    def replay(self, name: str) -> tuple[dict[str, Tensor], Any] | None:
        """Return the tensors and the record of the next step, if it was done before; ``name`` must be its name."""
        path, mend = self._path(), "remove it and what follows it"
        if not path.exists():
            return None
        meta, tensors = read_tensors(path, mend)
        if meta.get("previous") != self._last or meta.get("name") != name:
            raise ValueError(f"{path}: does not follow from the step before it; {mend}")
        try:
            record = json.loads(meta["record"])
        except (KeyError, ValueError, RecursionError) as error:
            raise ValueError(f"{path}: its record cannot be read ({error}); {mend}") from None
        self._last, self._next = digest(path), self._next + 1
        return tensors, record

    def append(self, name: str, tensors: Mapping[str, Tensor], record: Any) -> None:
        """Write the next step."""
        path = self._path()
        write_tensors(path, tensors, {"previous": self._last, "name": name, "record": json.dumps(record)})
        self._last, self._next = digest(path), self._next + 1
