"""Files that are whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

_TOGETHER: ContextVar[list[tuple[Path, Path]] | None] = ContextVar("_TOGETHER", default=None)
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
    temporary, others = Path(name), _TOGETHER.get()
    kept = False
    try:
        with _system_errors(target):
            yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        if others is None:
            temporary.replace(target)
        else:
            others.append((temporary, target))
            kept = True
    finally:
        if not kept:
            temporary.unlink(missing_ok=True)


@contextmanager
def written_together() -> Iterator[None]:
    """Files of the `write_atomically` blocks inside take their names when this block ends, in the order of writing.

    An error inside (a full disk at the third of four files) leaves all of the old ones, and no temporary file.
    """
    files: list[tuple[Path, Path]] = []
    before = _TOGETHER.set(files)
    try:
        yield
        for temporary, target in files:
            temporary.replace(target)
    finally:
        _TOGETHER.reset(before)
        for temporary, _ in files:
            temporary.unlink(missing_ok=True)


@contextmanager
def _system_errors(target: Path) -> Iterator[None]:
    """Turn what safetensors raises when a disk is full into the system's own error."""
    try:
        yield
    except Exception as error:
        number = re.search(r"os error (\d+)", str(error))
        if type(error).__name__ != "SafetensorError" or number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(target)) from None


@contextmanager
def only_writer(path: str | os.PathLike[str], *, patience: float = 0.0) -> Iterator[None]:
    """Hold the right to write ``path``, a file or folder, against every other process that asks for it.

    The lock is the operating system's, on ``.NAME.lock`` beside ``path``: it goes when its holder dies, in any way.
    Temporary files and folders that a killed holder left beside or in ``path`` are removed. Where the system has no
    such locks (Windows) nothing is held.

    Parameters
    ----------
    path
        The file or folder.
    patience
        Seconds to wait for another process that holds it.

    Raises
    ------
    ValueError
        If another process holds it.
    """
    target, until = Path(path).absolute(), time.monotonic() + patience
    place = target.with_name(f".{target.name}.lock")
    with suppress(FileExistsError):  # opening the lock says it better
        target.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            handle = take_lock(place)
            break
        except BlockingIOError as error:
            if time.monotonic() >= until:
                raise ValueError(
                    f"{target}: process {error.strerror} is writing it; wait for it, or pass another path"
                ) from None
            time.sleep(0.05)
    try:
        if handle is not None:
            _remove_remains(target)
        yield
    finally:
        if handle is not None:
            place.unlink(missing_ok=True)
            os.close(handle)


def take_lock(place: Path) -> int | None:
    """Return a handle that holds the operating system's lock on a file until it is closed, or its holder dies.

    None where the system has no such locks. The file names its holder's process.

    Raises
    ------
    BlockingIOError
        If another process holds it; ``strerror`` is that process's id.
    """
    try:
        import fcntl
    except ImportError:
        return None
    while True:
        handle = os.open(place, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(place) and os.path.samestat(os.stat(place), os.fstat(handle)):
                os.ftruncate(handle, 0)
                os.write(handle, str(os.getpid()).encode())
                return handle
        except BlockingIOError as error:
            holder = os.pread(handle, 20, 0).decode(errors="replace") or "?"
            os.close(handle)
            raise BlockingIOError(error.errno, holder, str(place)) from None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder has just let go and removed it: a new one is needed


def _remove_remains(target: Path) -> None:
    """Remove what a killed `write_atomically`, or one like it for folders, has left."""
    for place in target.parent.glob(f".{glob.escape(target.name)}-*"):
        if REMAINS.fullmatch(place.name) and place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
    if target.suffix and not target.is_dir():
        for place in target.parent.glob(f".{glob.escape(target.stem)}-*{glob.escape(target.suffix)}"):
            if REMAINS.fullmatch(place.name) and len(place.name) == len(target.name) + 10 and place.is_file():
                place.unlink(missing_ok=True)
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
        raise ValueError(f"{path}: must have at most {largest} bytes, got {size}")
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error})") from None


def digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
