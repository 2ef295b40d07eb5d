"""The same searches on a PostgreSQL server that the test starts on a loopback port."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import prunopt as po
from tests.support.databases import DRIVERS, Unavailable, postgresql

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("pg")
    try:
        with postgresql(folder) as url:
            yield url
    except Unavailable as reason:
        pytest.skip(str(reason))


def test_resume_and_workers(server: str, tmp_path: Path) -> None:
    sys.path.insert(0, str(HERE))
    try:
        from tests.study.sleepy import task
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
from tests.support.databases import DRIVERS, Unavailable, postgresql
from tests.study.sleepy import task
po.search(task(sys.argv[3], 0.05), trials=16, storage=sys.argv[2], solver="random-search", name="two hosts")
"""


def test_tables_that_another_worker_is_making_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight workers on an empty database: all but one once ended with a UniqueViolation of CREATE TYPE."""
    import sqlalchemy.exc

    from prunopt.study import storages

    def make(said: str, times: int) -> Callable[[], str]:
        left = [times]

        def opened() -> str:
            left[0] -= 1
            if left[0] >= 0:
                raise sqlalchemy.exc.IntegrityError("CREATE TYPE", None, ValueError(said))
            return "open"

        return opened

    monkeypatch.setattr("time.sleep", lambda _: None)
    assert storages._with_tables(make("Key (typname) already exists", 3)) == "open"
    for said, times in (("Key (typname) already exists", 99), ("no such role", 1)):
        with pytest.raises(sqlalchemy.exc.IntegrityError):
            storages._with_tables(make(said, times))


def test_unreachable_server() -> None:
    if not any(find_spec(name) for name in DRIVERS):
        pytest.skip("no PostgreSQL driver: pip install 'psycopg[binary]'")
    sys.path.insert(0, str(HERE))
    try:
        from tests.study.sleepy import task
    finally:
        sys.path.pop(0)
    with pytest.raises(ValueError, match=r"storage='postgresql://me:\*\*\*@127.0.0.1:1/x'"):
        po.search(task("", 0.0), trials=2, storage="postgresql://me:secret@127.0.0.1:1/x", solver="random-search")
