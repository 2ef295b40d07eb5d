"""Storages that several workers open at the same moment."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from prunopt.study import storages


@pytest.mark.parametrize(
    "said",
    ["UNIQUE constraint failed: alembic_version.version_num", "no such table: studies", "database is locked"],
)
def test_tables_that_others_are_making_are_waited_for(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlalchemy.exc

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    tries: list[int] = []

    def make() -> Any:
        tries.append(len(tries))
        if len(tries) < 3:
            raise sqlalchemy.exc.OperationalError("INSERT", {}, Exception(said))
        return "open"

    assert storages._with_tables(make) == "open"
    assert len(tries) == 3


def test_six_workers_open_a_new_sqlite_file(tmp_path: Path) -> None:
    url, together = f"sqlite:///{tmp_path}/search.db", threading.Barrier(6)
    failed: list[BaseException] = []

    def open_it() -> None:
        together.wait()
        try:
            storages.close(storages.open_storage(url, wait=30.0))
        except BaseException as error:
            failed.append(error)

    workers = [threading.Thread(target=open_it) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failed
