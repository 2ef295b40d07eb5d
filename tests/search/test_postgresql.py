"""The same searches on a PostgreSQL server that the test starts on a loopback port."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import prunopt as po

HERE = Path(__file__).parent
DRIVERS = ("psycopg", "psycopg2", "pg8000")


def binaries() -> Path | None:
    """The folder of the server's programs: Debian's, newest first, or that of ``postgres`` on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    if found:
        return found[0].parent
    there = shutil.which("initdb")
    return Path(there).resolve().parent if there else None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: no initdb (Debian: apt install postgresql)")
    if not any(find_spec(name) for name in DRIVERS):
        pytest.skip("no PostgreSQL driver: pip install 'psycopg[binary]'")
    folder = tmp_path_factory.mktemp("pg")
    user: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        if (
            not shutil.which("setpriv")
            or subprocess.run(["id", "postgres"], capture_output=True, check=False).returncode
        ):
            pytest.skip("PostgreSQL does not run as root, and there is no user 'postgres' to run it as")
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        shutil.chown(folder, "postgres", "postgres")
        for parent in folder.parents:
            if parent.owner() == "root" and str(parent).startswith("/tmp/"):
                parent.chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = folder / "data"
    subprocess.run(
        [*user, programs / "initdb", "-D", base, "-U", "prunopt", "--auth=trust", "--no-sync", "-E", "UTF8"],
        check=True,
        capture_output=True,
        cwd="/",
    )
    command = [*user, str(programs / "postgres"), "-D", str(base), "-p", str(port), "-c", "listen_addresses=127.0.0.1"]
    options = ["-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
    with (folder.parent / "pg.log").open("w") as log:
        job = subprocess.Popen([*command, *options], stdout=log, stderr=log, cwd="/")
        try:
            until = time.monotonic() + 30
            while subprocess.run(
                [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port)], capture_output=True, check=False
            ).returncode:
                assert job.poll() is None, (folder.parent / "pg.log").read_text()
                assert time.monotonic() < until, "the server did not come up"
                time.sleep(0.1)
            yield f"postgresql://prunopt@127.0.0.1:{port}/postgres"
        finally:
            job.send_signal(signal.SIGINT)  # does not wait for clients
            job.wait(timeout=30)


def test_resume_and_workers(server: str, tmp_path: Path) -> None:
    sys.path.insert(0, str(HERE))
    try:
        from sleepy import task
    finally:
        sys.path.pop(0)
    log = str(tmp_path / "log")
    straight = po.search(task(str(tmp_path / "x"), 0.0), trials=12, solver="dsa-evolution")
    po.search(task(log, 0.0), trials=5, storage=server, solver="dsa-evolution")
    run = po.search(task(log, 0.0), trials=12, storage=server, solver="dsa-evolution")
    assert [(t.number, t.value, dict(t.params)) for t in run.trials] == [
        (t.number, t.value, dict(t.params)) for t in straight.trials
    ]
    assert len(Path(log).read_text().splitlines()) == 12
    with pytest.raises(ValueError, match=r"sparsity is 0\.6 there, 0\.5 here"):
        po.search(task(log, 0.0, sparsity=0.5), trials=12, storage=server, solver="dsa-evolution")
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", _AS_HOST, str(HERE), server, str(tmp_path / "two")],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for job in both:
        _, error = job.communicate(timeout=120)
        assert job.returncode == 0, error
    lines = (tmp_path / "two").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 16


_AS_HOST = """
import sys; sys.path.insert(0, sys.argv[1])
import prunopt as po
from sleepy import task
po.search(task(sys.argv[3], 0.05), trials=16, storage=sys.argv[2], solver="random-search", name="two hosts")
"""


def test_unreachable_server() -> None:
    if not any(find_spec(name) for name in DRIVERS):
        pytest.skip("no PostgreSQL driver: pip install 'psycopg[binary]'")
    sys.path.insert(0, str(HERE))
    try:
        from sleepy import task
    finally:
        sys.path.pop(0)
    with pytest.raises(ValueError, match=r"storage='postgresql://me:\*\*\*@127.0.0.1:1/x'"):
        po.search(task("", 0.0), trials=2, storage="postgresql://me:secret@127.0.0.1:1/x", solver="random-search")
