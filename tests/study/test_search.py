"""Searches that stop, die, resume, share a storage and refuse what does not belong to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import prunopt as po
from prunopt.problems.allocation.allocation_search import AllocationSearch
from prunopt.solvers.blackbox._trials import give_up, queue_lost, suggest
from prunopt.solvers.blackbox.dsa_evolution import DsaEvolution
from prunopt.solvers.blackbox.random_search import RandomSearch
from prunopt.study.journal import JournalError, Lock, check
from prunopt.study.results import read
from prunopt.study.storages import open_search
from prunopt.study.workers import work
from prunopt.testing.searches import bowl, level_search

SLEEPY = str(Path(__file__).with_name("sleepy.py"))
ROOT = str(Path(__file__).parents[2])


class Quick:
    statistics: ClassVar[dict[str, Any]] = {
        "w": [np.linspace(0, i + 1, 50) ** 2 for i in range(6)],
        "depth": [np.array([i]) for i in range(6)],
    }

    def __init__(self, stop: int | None = None) -> None:
        self.calls: list[tuple[float, ...]] = []
        self.stop = stop

    def loss(self, allocation: Any, *, fidelity: float = 1.0) -> float:
        self.calls.append((fidelity, *np.round(allocation, 6)))
        if len(self.calls) == self.stop:
            raise KeyboardInterrupt
        return float(np.linspace(3, 1, 6) @ np.square(allocation)) + 0.1 * (1 - fidelity) * float(allocation[0])


def quick(stop: int | None = None, **options: Any) -> AllocationSearch:
    return AllocationSearch(Quick(stop), [100, 150, 120, 90, 100, 110], 0.6, **options)


def trials_of(run: Any) -> list[Any]:
    return [(t.number, t.value, t.state, dict(t.params)) for t in run.trials]


@pytest.mark.parametrize(
    ("solver", "options"),
    [
        ("dsa-evolution", {"fidelities": (0.25, 1.0)}),
        ("tpe", {}),
        ("random-search", {}),
        ("cma-es", {"space": "vector", "fidelities": (0.5, 1.0)}),
        ("level-swap", {"space": "levels"}),
    ],
)
def test_stopped_and_resumed_is_bit_equal(solver: str, options: dict[str, Any], tmp_path: Path) -> None:
    if solver == "cma-es":
        pytest.importorskip("cmaes")
    straight = po.search(quick(**options), trials=34, solver=solver)
    place = tmp_path / "a.journal"
    with pytest.raises(KeyboardInterrupt):
        po.search(quick(15, **options), trials=34, solver=solver, storage=place)
    po.search(quick(**options), trials=29, solver=solver, storage=place)
    resumed = po.search(quick(**options), trials=34, solver=solver, storage=place)
    assert trials_of(resumed) == trials_of(straight)
    assert resumed.lost == 1
    assert resumed.complete


def test_no_allocation_is_evaluated_twice() -> None:
    task = quick(statistics={"size": [1, 2, 3, 4, 5, 6.0]})  # one number a layer: few different allocations
    run = po.search(task, trials=60, solver="tpe")
    calls = task.evaluator.calls
    assert len(calls) == len(set(calls)) == run.evaluations
    assert run.evaluations < len(run.finished)
    values = {t.number: t.value for t in run.trials}
    assert all(t.value == values[t.copy_of] for t in run.trials if t.copy_of is not None)


def test_low_fidelity_prunes() -> None:
    task = quick(fidelities=(0.25, 1.0))
    run = po.search(task, trials=40)
    at = [c[0] for c in task.evaluator.calls]
    assert at.count(0.25) == 40 - sum(t.copy_of is not None for t in run.trials)
    assert 5 < at.count(1.0) < 40
    assert sum(t.state == "PRUNED" for t in run.trials) == at.count(0.25) - at.count(1.0)
    assert run.best.state == "COMPLETE"


def test_allocations_are_on_budget_and_described() -> None:
    run = po.search(quick(), trials=30)
    sizes = np.array([100, 150, 120, 90, 100, 110.0])
    for t in run.trials:
        assert abs(sizes @ t.decision / sizes.sum() - 0.6) < 1e-9
        assert np.allclose(quick().allocation(t.text), t.decision)
    assert run.front() == [run.best]
    assert run.best.value == min(t.value for t in run.trials if t.value is not None)


def test_chosen_by_other_data() -> None:
    run = po.search(quick(space="vector"), trials=20, solver="random-search")
    order = sorted(run.finished, key=lambda t: t.value or 0.0)

    class Other:
        def loss(self, allocation: Any) -> float:
            return abs(float(allocation[0]) - float(order[3].decision[0]))

    found = run.chosen(Other(), top=5)
    assert (found.number, found.attributes["judged"]) == (order[3].number, 0.0)
    assert run.chosen(Other(), top=1).number == run.best.number == order[0].number
    with pytest.raises(ValueError, match="top must be a whole number >= 1, got 0"):
        run.chosen(Other(), top=0)


def test_black_box_without_a_task() -> None:
    run = po.search(bowl(), trials=30, solver="dsa-evolution", seed=3)
    assert run.best.value is not None
    assert run.best.value < 1.0
    assert po.search(level_search(), trials=10).best.decision is not None


def test_another_search_is_refused_by_name(tmp_path: Path) -> None:
    place = tmp_path / "a.journal"
    po.search(quick(), trials=3, storage=place)
    before = place.read_bytes()
    with pytest.raises(ValueError, match=r"another search named 'search': .*space is \"expressions\" there, \"vec"):
        po.search(quick(space="vector"), trials=3, storage=place)
    with pytest.raises(ValueError, match="seed is 0 there, 7 here"):
        po.search(quick(), trials=3, storage=place, seed=7)
    with pytest.raises(ValueError, match="options is"):
        po.search(quick(), trials=3, storage=place, solver=DsaEvolution(elites=3))
    assert place.read_bytes() == before
    po.search(quick(space="vector"), trials=3, storage=place, name="second")
    other = tmp_path / "b.journal"
    po.search(quick(), trials=3, storage=other, name="first")
    with pytest.raises(ValueError, match="holds other searches: first"):
        po.search(quick(), trials=3, storage=other)


def test_foreign_study_is_refused(tmp_path: Path) -> None:
    import optuna

    from prunopt.study.journal import open_journal

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(storage=open_journal(tmp_path / "a"), study_name="search")
    study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(ValueError, match="not a search of prunopt"):
        po.search(quick(), trials=1, storage=tmp_path / "a")


def test_truncated_journal(tmp_path: Path) -> None:
    place = tmp_path / "a.journal"
    straight = po.search(quick(), trials=12)
    po.search(quick(), trials=6, storage=place)
    whole = place.read_bytes()
    place.write_bytes(whole + b'{"op_code":5,"wor')
    with pytest.raises(JournalError, match=rf"byte {len(whole)}, 17 bytes\) was cut off.*repair=True"):
        po.search(quick(), trials=12, storage=place)
    assert place.read_bytes() == whole + b'{"op_code":5,"wor'
    run = po.search(quick(), trials=12, storage=place, repair=True)
    assert trials_of(run) == trials_of(straight)
    assert (tmp_path / "a.journal.torn").read_bytes() == b'{"op_code":5,"wor\n'


def test_damaged_journal_and_other_files(tmp_path: Path) -> None:
    place = tmp_path / "a.journal"
    po.search(quick(), trials=2, storage=place)
    lines = place.read_bytes().split(b"\n")
    lines[3] = b"garbage"
    place.write_bytes(b"\n".join(lines))
    with pytest.raises(JournalError, match=r"line 4 .* is not an entry of a journal; 3 entries in front"):
        po.search(quick(), trials=3, storage=place, repair=True)
    with pytest.raises(JournalError, match="it is a folder"):
        po.search(quick(), trials=3, storage=tmp_path)


def test_locked_journal(tmp_path: Path) -> None:
    place = tmp_path / "a.journal"
    po.search(quick(), trials=2, storage=place)
    held = Lock(place, 0.2)
    held.acquire()
    with pytest.raises(JournalError, match=r"locked for more than 0\.2 s"):
        po.search(quick(), trials=3, storage=place, wait=0.2)
    held.release()
    lock = tmp_path / "a.journal.lock"
    lock.write_text("someone else")
    with pytest.raises(JournalError, match=r"delete a\.journal\.lock"):
        po.search(quick(), trials=3, storage=place, wait=0.2)
    lock.write_text("prunopt 1")  # left by a worker that died: its guard is free
    assert len(po.search(quick(), trials=3, storage=place, wait=2).finished) == 3


@pytest.mark.parametrize("bad", [{"trials": 0}, {"workers": 0}, {"workers": 2}, {"storage": "nodb://x"}])
def test_bad_arguments(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(bad)))):
        po.search(quick(), **{"trials": 3, **bad})


def test_an_exact_solver_is_no_search() -> None:
    with pytest.raises(ValueError, match=r"solver must solve .*; pass "):
        po.search(quick(), trials=3, solver="choice-dp")


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": ROOT}
    return subprocess.Popen(
        [sys.executable, SLEEPY, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_lines(log: Path, n: int, job: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and job.poll() is None:
        if log.exists() and len(log.read_text().splitlines()) >= n:
            return
        time.sleep(0.02)
    raise AssertionError(f"the search did not get to evaluation {n}: {job.communicate()}")


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_sigkill_loses_nothing(kind: str, tmp_path: Path) -> None:
    """A search killed in its 5th evaluation goes on with that one, and ends as one that ran through."""
    storage = str(tmp_path / "a.journal") if kind == "journal" else f"sqlite:///{tmp_path / 'a.db'}"
    log = tmp_path / "log"
    job = start(storage, str(log), "0.3", "10", "1")
    wait_for_lines(log, 5, job)
    job.send_signal(signal.SIGKILL)
    job.communicate()
    sys.path.insert(0, str(Path(SLEEPY).parent))
    try:
        from tests.study.sleepy import task
    finally:
        sys.path.pop(0)
    resumed = po.search(task(str(log), 0.0), trials=10, storage=storage, solver="random-search")
    straight = po.search(task(str(tmp_path / "other"), 0.0), trials=10, solver="random-search")
    assert trials_of(resumed) == trials_of(straight)
    assert resumed.lost == 1
    evaluated = log.read_text().splitlines()
    assert len(evaluated) == 11  # the one in which it died, twice
    assert evaluated[4] == evaluated[5]


def test_a_killed_worker_among_two(tmp_path: Path) -> None:
    storage, log = str(tmp_path / "a.journal"), tmp_path / "log"
    job = start(storage, str(log), "0.2", "16", "2")
    wait_for_lines(log, 4, job)
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    spawned = [c for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]
    assert len(spawned) == 2
    os.kill(int(spawned[0]), signal.SIGKILL)
    out, error = job.communicate(timeout=120)
    assert job.returncode == 0, error
    values = eval(out.rsplit("]", 1)[0] + "]")
    assert len(values) == 16
    assert all(v is not None for v in values)
    lines = log.read_text().splitlines()
    assert len(set(lines)) == 16
    assert len(lines) <= 17  # at most the killed one's was begun twice
    assert check(Path(storage)) > 0


def lost_twice() -> Any:
    """A search whose third trial is given up by two workers at once, after the first of its parameters is drawn."""
    task = AllocationSearch(Quick(), [100, 150, 120, 90, 100, 110], 0.6, space="vector")
    solver = RandomSearch()
    study, box = open_search(task, solver, storage=None, seed=0, name=None, wait=1.0)
    work(study, box, trials=2)
    trial = study.ask()
    suggest(trial, replace(box, genes=box.genes[:1]))
    enqueue, after = study.enqueue_trial, []

    def between(*given: Any, **more: Any) -> None:
        """The other worker finds the lost trial before this one has queued it."""
        study.enqueue_trial = enqueue
        after.append(queue_lost(study))
        enqueue(*given, **more)

    study.enqueue_trial = between
    assert give_up(study, trial.number, "its worker died")
    assert after == [1]
    assert sum(t.state.name == "WAITING" for t in study.get_trials()) == 2
    work(study, box, trials=8)
    return read(study, task, box, trials=8, place="memory", seconds=0.0)


def test_a_trial_queued_by_two_workers_counts_once() -> None:
    run = lost_twice()
    assert run.complete
    assert [t.number for t in run.finished] == list(range(8))
    task = AllocationSearch(Quick(), [100, 150, 120, 90, 100, 110], 0.6, space="vector")
    assert trials_of(run) == trials_of(po.search(task, trials=8, solver="random-search"))


def test_two_hosts_and_duplicates(tmp_path: Path) -> None:
    """Two independent calls on one storage finish exactly the trials asked for, none of them twice."""
    storage, log = str(tmp_path / "a.journal"), tmp_path / "log"
    jobs = [start(storage, str(log), "0.05", "20", "1") for _ in range(2)]
    for job in jobs:
        out, error = job.communicate(timeout=120)
        assert job.returncode == 0, error + out
    lines = log.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 20


def test_dashboard_reads_the_storage(tmp_path: Path) -> None:
    """What `optuna-dashboard` does first: load every study of the storage, as plain Optuna opens it."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    run = po.search(quick(), trials=5, storage=tmp_path / "a.journal")
    study = optuna.load_study(
        study_name="search", storage=JournalStorage(JournalFileBackend(str(tmp_path / "a.journal")))
    )
    assert study.best_value == run.best.value
    assert [t.value for t in study.trials] == [t.value for t in run.trials]
