"""Files of tables as text: compressed or not, in UTF-8, UTF-16 or Latin-1, and Parquet."""

from __future__ import annotations

import codecs
import gzip
import io
import os
from pathlib import Path
from typing import Any, TextIO

from prunopt.core.validate import Shown, invalid

GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
PIECE = 2**20


def open_table(path: str | os.PathLike[str], notes: list[str] | None = None) -> TextIO:
    """Open a table as CSV text; what it was is told by its first bytes, not by its name.

    Raises
    ------
    ValueError
        For Parquet where nothing is installed that reads it, and for damaged files.
    """
    with open(path, "rb") as file:
        start = file.read(4)
    if start == PARQUET:
        return io.StringIO(_parquet(path))
    packed = start.startswith(GZIP)
    try:
        encoding = _encoding(path, packed)
    except (EOFError, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise invalid(f"{path}", "be whole", Shown(str(error)), "compress it again") from None
    if encoding == "latin-1" and notes is not None:
        notes.append("the file is no UTF-8 text and is read as Latin-1")
    if packed:
        return io.TextIOWrapper(gzip.open(path), encoding=encoding, newline="")
    return open(path, encoding=encoding, newline="")


def _encoding(path: str | os.PathLike[str], packed: bool) -> str:
    """UTF-8 where the bytes are that, UTF-16 where they say so, else Latin-1, in which every byte is a letter."""
    with gzip.open(path) if packed else open(path, "rb") as file:
        part = file.read(PIECE)
        if part.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while part:
                decoder.decode(part)
                part = file.read(PIECE)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            while file.read(PIECE):  # a damaged end is to be found here, not between the rows
                pass
            return "latin-1"
    return "utf-8-sig"


def _parquet(path: str | os.PathLike[str]) -> str:
    try:
        import pandas as pd

        frame: Any = pd.read_parquet(Path(path))
    except ImportError:
        raise invalid(f"{path}", "be CSV", Shown("Parquet"), "pip install pyarrow, or save it as CSV") from None
    except Exception as error:  # the readers have errors of their own for damaged files
        raise invalid(f"{path}", "be a Parquet file", Shown(f"{type(error).__name__}: {error}")) from None
    return str(frame.to_csv(index=False))
