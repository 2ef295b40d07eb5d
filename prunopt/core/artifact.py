"""Files that are whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

LARGEST_JSON = 64 * 2**20  # bytes
REMAINS = re.compile(r"\..+-[a-z0-9_]{8}(\.\w+)?")  # names that tempfile gives


@contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it takes the name ``path`` only if the block ends without an error.

    The temporary name keeps the suffix of ``path``, so that writers which look at it (numpy, matplotlib) behave.
    An error, an interrupt or a full disk leaves what was at ``path`` before.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def only_writer(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold the right to write ``path``, a file or folder, against every other process that asks for it.

    The lock is the operating system's, on ``.NAME.lock`` beside ``path``: it goes when its holder dies, in any way.
    Temporary files and folders that a killed holder left beside or in ``path`` are removed. Where the system has no
    such locks (Windows) nothing is held.

    Raises
    ------
    ValueError
        If another process holds it.
    """
    target = Path(path).absolute()
    handle = _flock(target)
    try:
        if handle is not None:
            _remove_remains(target)
        yield
    finally:
        if handle is not None:
            target.with_name(f".{target.name}.lock").unlink(missing_ok=True)
            os.close(handle)


def _flock(target: Path) -> int | None:
    try:
        import fcntl
    except ImportError:
        return None
    with suppress(FileExistsError):  # opening the lock says it better
        target.parent.mkdir(parents=True, exist_ok=True)
    place = target.with_name(f".{target.name}.lock")
    while True:
        handle = os.open(place, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(place) and os.path.samestat(os.stat(place), os.fstat(handle)):
                os.ftruncate(handle, 0)
                os.write(handle, str(os.getpid()).encode())
                return handle
        except BlockingIOError:
            holder = os.pread(handle, 20, 0).decode(errors="replace") or "?"
            os.close(handle)
            raise ValueError(f"{target}: process {holder} is writing it; wait for it, or name another place") from None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder has just let go and removed it: a new one is needed


def _remove_remains(target: Path) -> None:
    """Remove what a killed `write_atomically`, or one like it for folders, has left."""
    for place in target.parent.glob(f".{glob.escape(target.name)}-*"):
        if REMAINS.fullmatch(place.name) and place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
    for place in target.glob(".*-*") if target.is_dir() else ():
        if REMAINS.fullmatch(place.name) and place.is_file():
            place.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write ``data`` to ``path`` atomically, as indented JSON without NaN or infinity."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str], *, largest: int = LARGEST_JSON) -> Any:
    """Read a JSON file of at most ``largest`` bytes.

    Raises
    ------
    ValueError
        Naming the file, if it is larger, or no JSON.
    OSError
        If it cannot be opened.
    """
    size = os.stat(path).st_size
    if size > largest:
        raise ValueError(f"{path}: {size} bytes, more than the {largest} that such a file may have")
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error})") from None


def digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
