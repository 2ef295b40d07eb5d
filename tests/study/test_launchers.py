"""Workers started by joblib, Dask, Ray, submitit, an executor, and a storage behind Optuna's proxy, each for real."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import prunopt as po
from prunopt.study import launchers
from tests.study.sleepy import task

TRIALS = 9


def searched(storage: Any, log: Path, launcher: Any, workers: int = 2) -> None:
    """Search with two workers; each decision is evaluated once, and no trial is one too many."""
    import optuna

    small = task(str(log), 0.02)
    run = po.search(small, trials=TRIALS, storage=storage, workers=workers, solver="random-search", launcher=launcher)
    assert run.complete
    assert len(run.finished) == TRIALS
    lines = log.read_text().splitlines()
    assert len(set(lines)) == len(lines) == run.evaluations
    if str(storage).startswith("sqlite"):
        assert len(optuna.load_study(study_name="search", storage=str(storage)).trials) == TRIALS


def test_joblib_processes_and_an_executor(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    with joblib.parallel_config(backend="loky"):
        searched(tmp_path / "a.journal", tmp_path / "a", "joblib")
    searched(f"sqlite:///{tmp_path}/b.db", tmp_path / "b", "processes", workers=4)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        searched(tmp_path / "c.journal", tmp_path / "c", executor)


def test_dask(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        searched(tmp_path / "a.journal", tmp_path / "a", "dask")
        searched(tmp_path / "b.journal", tmp_path / "b", client.get_executor(pure=False))


def test_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        searched(tmp_path / "a.journal", tmp_path / "a", "ray")
    finally:
        ray.shutdown()


def test_submitit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitit = pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    searched(tmp_path / "a.journal", tmp_path / "a", "submitit")
    assert list((tmp_path / launchers.QUEUED).glob("*.out"))
    executor = submitit.LocalExecutor(folder=tmp_path / "logs")
    searched(tmp_path / "b.journal", tmp_path / "b", executor)


SERVER = """
import sys
import optuna
optuna.storages.run_grpc_proxy_server(optuna.storages.InMemoryStorage(), host="localhost", port=int(sys.argv[1]))
"""


@pytest.fixture
def proxy() -> Iterator[str]:
    pytest.importorskip("grpc")
    pytest.importorskip("google.protobuf")
    with socket.socket() as place:
        place.bind(("localhost", 0))
        port = place.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(port)])
    try:
        yield f"grpc://localhost:{port}"
    finally:
        server.terminate()
        server.wait()


def test_a_proxied_storage(proxy: str, tmp_path: Path) -> None:
    for _ in range(3):  # the server imports optuna first
        try:
            searched(proxy, tmp_path / "a", "processes")
            return
        except ValueError:
            time.sleep(1)
    searched(proxy, tmp_path / "a", "processes")


@pytest.mark.parametrize("storage", ["grpc://localhost", "grpc://:1", "grpc://localhost:x"])
def test_a_proxy_is_named_by_host_and_port(storage: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="write grpc://HOST:PORT"):
        po.search(task(str(tmp_path / "a"), 0.0), trials=1, storage=storage)


def test_launchers_that_are_none(tmp_path: Path) -> None:
    small = task(str(tmp_path / "a"), 0.0)
    with pytest.raises(ValueError, match='did you mean "joblib"'):
        po.search(small, trials=2, storage=tmp_path / "a.journal", workers=2, launcher="jobib")
    with pytest.raises(ValueError, match=r"or an executor with submit\(\), got 3"):
        po.search(small, trials=2, storage=tmp_path / "a.journal", workers=2, launcher=3)
    with pytest.raises(ValueError, match="workers must be 1 without a storage"):
        po.search(small, trials=2, workers=2, launcher="joblib")


def test_all_workers_fail(tmp_path: Path) -> None:
    def broken() -> None:
        raise OSError("no disk")

    with pytest.raises(RuntimeError, match=r"all 2 ended early .*no disk"):
        launchers.launch("joblib", lambda: broken(), (), 2)
