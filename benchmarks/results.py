"""The raw figures: one compressed JSON file a table in results/, which maps names to what was measured."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunopt.core.files import only_writer, write_atomically

FOLDER = Path(__file__).parent / "results"


def file_of(table: str | Path) -> Path:
    """Return the file of a table; a path is one."""
    return table if isinstance(table, Path) else FOLDER / f"{table}.json.gz"


def load(table: str | Path, name: str | None = None, default: Any = ...) -> Any:
    """Return what is on file of a table, or under one name of it.

    Raises
    ------
    FileNotFoundError, KeyError
        If there is nothing, and no default was given.
    """
    try:
        found = json.loads(gzip.decompress(file_of(table).read_bytes()))
        return found if name is None else found[name]
    except (FileNotFoundError, KeyError):
        if default is ...:
            raise
        return default


def store(table: str | Path, entries: Mapping[str, Any]) -> None:
    """Put figures under their names; other processes may write other names of the table meanwhile.

    The same figures make the same bytes.
    """
    file = file_of(table)
    with only_writer(file, patience=60.0):
        text = json.dumps(load(table, default={}) | entries, allow_nan=False, separators=(",", ":"))
        with write_atomically(file) as temporary:
            temporary.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
