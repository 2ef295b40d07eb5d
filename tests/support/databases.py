"""A PostgreSQL server for tests, on a loopback port, gone afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

DRIVERS = ("psycopg", "psycopg2", "pg8000")
USERS = ("postgres", "nobody")


class Unavailable(Exception):
    """There is no server, driver or user to run it with; the message says which, and how to get it."""


def server_programs() -> Path | None:
    """Return the folder of the server's programs: Debian's, newest first, or that of ``initdb`` on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    if found:
        return found[0].parent
    there = shutil.which("initdb")
    return Path(there).resolve().parent if there else None


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Yield the URL of a new server that keeps its data in ``folder``.

    Raises
    ------
    Unavailable
        If it cannot be run here.
    """
    programs = _programs()
    user: list[str] = []
    if not os.geteuid():  # the server does not run as root: another user must reach its folder
        uid, gid = _other_user()
        user = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        os.chown(folder, uid, gid)
        for parent in folder.parents:
            if parent.owner() == "root" and str(parent).startswith("/tmp/"):
                parent.chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base, said = folder / "data", folder.parent / "pg.log"
    subprocess.run(
        [*user, programs / "initdb", "-D", base, "-U", "prunopt", "--auth=trust", "--no-sync", "-E", "UTF8"],
        check=True,
        capture_output=True,
        cwd="/",
    )
    command = [*user, str(programs / "postgres"), "-D", str(base), "-p", str(port), "-c", "listen_addresses=127.0.0.1"]
    options = ["-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
    with said.open("w") as log:
        job = subprocess.Popen([*command, *options], stdout=log, stderr=log, cwd="/")
        try:
            _wait(job, [str(programs / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)], said)
            yield f"postgresql://prunopt@127.0.0.1:{port}/postgres"
        finally:
            job.send_signal(signal.SIGINT)  # does not wait for clients
            job.wait(timeout=30)


def _programs() -> Path:
    """Return the folder of the programs."""
    programs = server_programs()
    if programs is None:
        raise Unavailable("PostgreSQL is not installed: no initdb (Debian: apt install postgresql)")
    if not any(find_spec(name) for name in DRIVERS):
        raise Unavailable("no PostgreSQL driver: pip install 'prunopt[search]'")
    return programs


def _other_user() -> tuple[int, int]:
    """Return the numbers of a user, and of its group, that the server is run as where this one is root."""
    import pwd

    for name in USERS if shutil.which("setpriv") else ():
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return found.pw_uid, found.pw_gid
    raise Unavailable(f"PostgreSQL does not run as root: setpriv and one of the users {', '.join(USERS)} are needed")


def _wait(job: subprocess.Popen[bytes], ready: list[str], said: Path) -> None:
    until = time.monotonic() + 60
    while subprocess.run(ready, capture_output=True, check=False).returncode:
        if job.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"the server did not come up: {said.read_text()}")
        time.sleep(0.1)
