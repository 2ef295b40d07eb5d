"""Processes that share a search: one loop, any number of them, on any machine that reaches the storage."""

from __future__ import annotations

import datetime
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prunopt.core.validate import refuse
from prunopt.solvers.blackbox._trials import REFUSED, WORKER, finished, give_up, queue_lost, run_trial
from prunopt.study.storages import close, open_search

BEAT, PATIENCE = 30.0, 180.0  # seconds between signs of life, and after how many a worker elsewhere counts as dead
GRACE = 60.0  # seconds that a trial may go without the name of its worker
BEATS = "beat"
QUEUED = 1000  # trials that are queued for workers before they start


def here() -> str:
    """Return the name of this process: host, id, and when it began, so that a reused id is told apart."""
    return f"{socket.gethostname()}:{os.getpid()}:{_begun(os.getpid())}:{uuid.uuid4().hex[:8]}"


def _begun(pid: int) -> str:
    """When a process began, in clock ticks since boot; empty where the system does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""


def is_dead(trial: Any, now: float) -> bool:
    """Return whether the worker of a running trial is known to be dead, or has long been silent."""
    name = str(trial.user_attrs.get(WORKER, ""))
    started = trial.datetime_start or datetime.datetime.now()
    if not name:
        return (datetime.datetime.now() - started).total_seconds() > GRACE
    host, pid, begun, _ = [*name.split(":"), "", "", ""][:4]
    if host == socket.gethostname() and pid.isdigit():
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
        found = _begun(int(pid))
        return bool(begun and found and begun != found) or _is_zombie(int(pid))
    last = float(trial.user_attrs.get(BEATS, started.timestamp()))
    return now - last > PATIENCE


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (OSError, IndexError):
        return False


def reclaim(study: Any) -> int:
    """Give up the trials of dead workers, queue what is lost again; return how many trials were queued."""
    from optuna.trial import TrialState

    queued = 0
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if is_dead(trial, time.time()):
            queued += give_up(study, trial.number, "its worker died")
    return queued + queue_lost(study)


class Heart:
    """A thread that writes a sign of life into the running trial, for workers on other machines."""

    def __init__(self, study: Any, name: str) -> None:
        self.study, self.name, self.stop = study, name, threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Heart:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(timeout=5)

    def _run(self) -> None:
        from optuna.trial import TrialState

        while not self.stop.wait(BEAT):
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if trial.user_attrs.get(WORKER) == self.name:
                    try:
                        self.study.kept.set_trial_user_attr(self.study.trial_id(trial.number), BEATS, time.time())
                    except Exception:  # the trial has just ended; the next one will get its beat
                        continue


def work(study: Any, box: Any, *, trials: int, tell: Callable[[Any], Any] | None = None) -> None:
    """Run trials until ``trials`` are finished; waits for the last ones of other workers, in case these die.

    Raises
    ------
    ValueError
        If trial after trial brings nothing new: the space is used up.
    """
    from optuna.trial import TrialState

    name, idle, pause = here(), 0, 0.01
    with Heart(study, name):
        while True:
            # In this order: a trial that ends between the two looks counts twice, rather than not at all.
            states = [t.state for t in study.get_trials(deepcopy=False)]
            done = len(finished(study))
            if done >= trials:
                return
            taken = done + states.count(TrialState.RUNNING)
            if TrialState.WAITING not in states and taken >= trials:
                reclaim(study)
                time.sleep(pause)
                pause = min(2 * pause, 0.5)
                continue
            pause = 0.01
            enough = taken + states.count(TrialState.WAITING) >= trials
            about: dict[str, Any] = {"reclaim": lambda: reclaim(study), "queued_only": enough}
            outcome = run_trial(study, box, limit=trials, worker=name, **about)
            if outcome.state == "missed":  # another worker was quicker
                continue
            idle = 0 if outcome.state in ("evaluated", "pruned") else idle + 1
            if tell is not None:
                tell(outcome)
            if idle > REFUSED:
                refuse(
                    "trials", f"be at most {done}", trials, f"{idle} in a row brought no new decision: nothing is left"
                )


def queue_rest(study: Any, trials: int) -> None:
    """Queue the trials that are missing, where they are few: workers take them one by one, and none makes one too many.

    No storage can make a trial only if there are fewer than so many; but taking a queued one is atomic.
    """
    from optuna.trial import TrialState

    states = [t.state for t in study.get_trials(deepcopy=False)]
    missing = trials - len(finished(study)) - states.count(TrialState.RUNNING) - states.count(TrialState.WAITING)
    for _ in range(missing if missing <= QUEUED else 0):
        study.enqueue_trial({})


def process(task: Any, solver: Any, options: dict[str, Any], trials: int) -> None:
    """The body of a worker process: what `prunopt.search` does with one worker, on the same storage."""
    study, box = open_search(task, solver, **options)
    try:
        work(study, box, trials=trials)
    finally:
        close(study.kept)
