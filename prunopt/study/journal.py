"""Journal files: a lock that dies with its holder, and a look at what the file holds before it is used."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, cast

from prunopt.core.files import take_lock, write_atomically
from prunopt.solvers.blackbox._trials import quiet

WAIT = 60.0  # seconds that a lock may be held by others before it counts as an error
OURS = "prunopt"


class JournalError(OSError):
    """A journal that cannot be used as it is; nothing in it was changed."""


def open_journal(path: str | os.PathLike[str], *, wait: float = WAIT, repair: bool = False) -> Any:
    """Return the journal file as an Optuna storage; it is made where it is missing.

    Parameters
    ----------
    path
        The file.
    wait
        Seconds to wait for its lock.
    repair
        Set a torn last line aside in ``PATH.torn``.

    Raises
    ------
    JournalError
        If the file is damaged, is not a journal, or stays locked; the message says where, and what to do.
    """
    quiet()
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    file = Path(path)
    if file.is_dir():
        raise JournalError(f"storage={str(path)!r}: it is a folder; name a file")
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(file, wait)
    if file.exists():
        lock.acquire()
        try:
            check(file, repair=repair)
        finally:
            lock.release()
    return JournalStorage(JournalFileBackend(str(file), lock_obj=cast(Any, lock)))


def check(file: Path, *, repair: bool = False) -> int:
    """Return the number of entries of a journal; raise `JournalError` where a line is not whole."""
    data = file.read_bytes()
    lines = data.split(b"\n")
    torn, at = lines.pop(), 0
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or "op_code" not in entry:
            raise JournalError(
                f"{file}: line {number} (byte {at}) is not an entry of a journal; {number - 1} entries in front of it "
                f"are whole. Nothing was changed: name another file, or restore this one"
            )
        at += len(line) + 1
    if torn:
        if not repair:
            raise JournalError(
                f"{file}: its last line (byte {at}, {len(torn)} bytes) was cut off while it was written; the "
                f"{len(lines)} entries in front of it are whole. Nothing was changed: once no other worker runs, call "
                f"again with repair=True (--repair), which sets the piece aside in {file.name}.torn and goes on"
            )
        with open(f"{file}.torn", "ab") as aside:
            aside.write(torn + b"\n")
            aside.flush()
            os.fsync(aside.fileno())
        with write_atomically(file) as temporary:
            temporary.write_bytes(data[:at])
    return len(lines)


class Lock:
    """An exclusive lock of a journal, on the operating system's file locks where it has them.

    The system frees such a lock when its holder dies, however it dies; Optuna's own locks would be waited for. The
    lock file of Optuna (``PATH.lock``) is taken as well, so that other programs on the same journal keep out.
    """

    def __init__(self, file: Path, wait: float = WAIT) -> None:
        self.file, self.wait = file, wait
        self.guard, self.lock = Path(f"{file}.guard"), Path(f"{file}.lock")
        self.handle: int | None = None

    def acquire(self) -> bool:
        """Take the lock, or raise `JournalError` after ``wait`` seconds."""
        until, pause = time.monotonic() + self.wait, 0.0005
        while not self._guarded():
            self._patience(until, self.guard)
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        try:
            while not self._marked():
                self._patience(until, self.lock)
                time.sleep(pause)
                pause = min(2 * pause, 0.05)
        except BaseException:
            self._unguard()
            raise
        return True

    def release(self) -> None:
        """Give the lock back."""
        self.lock.unlink(missing_ok=True)
        self._unguard()

    def _guarded(self) -> bool:
        try:
            self.handle = take_lock(self.guard)  # None on a system without such locks: Optuna's alone has to do
        except OSError:
            return False
        return True

    def _unguard(self) -> None:
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None

    def _marked(self) -> bool:
        try:
            mark = os.open(self.lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            try:
                left = self.lock.read_text() if not self.lock.is_symlink() else "another program"
            except OSError:
                return False
            if self.handle is not None and left.startswith(OURS):
                self.lock.unlink(missing_ok=True)  # whoever wrote it is dead: we hold the guard
            return False
        os.write(mark, f"{OURS} {os.getpid()}".encode())
        os.close(mark)
        return True

    def _patience(self, until: float, which: Path) -> None:
        if time.monotonic() >= until:
            raise JournalError(
                f"{self.file}: locked for more than {self.wait:g} s ({which.name} is held). Nothing was changed: if no "
                f"other program writes to the journal, delete {self.file.name}.lock and call again"
            )
