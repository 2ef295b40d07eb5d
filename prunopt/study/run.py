"""``prunopt.search``: a black-box task, a storage, and any number of workers."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from typing import Any, TypedDict, Unpack

from prunopt.core.registry import dispatch
from prunopt.core.validate import invalid, require, whole_number
from prunopt.solvers.blackbox._search_solver import SearchSolver
from prunopt.solvers.blackbox._trials import quiet
from prunopt.study import workers as pool
from prunopt.study.journal import WAIT
from prunopt.study.launchers import check, launch
from prunopt.study.results import SearchRun, read
from prunopt.study.storages import close, hidden, open_search


class Opening(TypedDict, total=False):
    """How a storage is opened."""

    repair: bool
    wait: float


def search(
    task: Any,
    *,
    trials: int = 200,
    storage: str | os.PathLike[str] | None = None,
    seed: int = 0,
    workers: int = 1,
    solver: str | SearchSolver | None = None,
    name: str | None = None,
    callback: Callable[[Any], Any] | None = None,
    launcher: Any = "processes",
    **opening: Unpack[Opening],
) -> SearchRun:
    """Search a black-box task; the same call again resumes.

    Every trial is drawn from (seed, its index) and from the finished trials, so that with one worker a search that was
    stopped and resumed has the same trials, bit by bit, as one that ran through. A worker that is killed loses no
    finished trial; the trial it was at is queued again. A decision is never evaluated twice. More workers, on this or
    other machines: the same call in other processes, on the same storage.

    Parameters
    ----------
    task
        An `AllocationSearch`, another task that reduces to a black box, or a `BlackBox`.
    trials
        How many trials to have finished in all, those of earlier calls among them.
    storage
        None: in memory, gone afterwards. A path: a journal file, made where it is missing. A URL of SQLAlchemy's
        (``sqlite:///x.db``, ``postgresql://user@host/base``): a database, for many machines. ``grpc://host:port``:
        Optuna's proxy server, which many workers share. `optuna-dashboard` opens all but the last as they are.
    seed
        Of the search; a stored search keeps its own.
    workers
        Processes to start. With more than one, the task is sent to them (it must be picklable), and a script needs
        ``if __name__ == "__main__":`` around the call.
    solver
        A solver's name, an instance with options, or None for the best of the task's form.
    name
        The search's name in the storage; needed where that holds other searches as well.
    callback
        Called after each trial of this process (one worker).
    launcher
        What starts the workers, where there are several: ``"processes"``; ``"joblib"``, in the backend of the
        surrounding ``joblib.parallel_config``; ``"dask"`` and ``"ray"``, joblib's backends of these names;
        ``"submitit"``, jobs of a Slurm cluster, or local ones where there is none; or any executor with ``submit``,
        such as ``distributed.Client`` or a configured ``submitit.AutoExecutor``. Workers elsewhere need a storage that
        they reach.
    **opening
        ``repair``: set the torn last line of a truncated journal aside, instead of refusing the file. ``wait``: seconds
        to wait for a locked journal or database.

    Raises
    ------
    ValueError
        If an argument is off, or the storage holds another search (the message says what differs).
    OSError
        If a journal is damaged or stays locked. Nothing in it is changed.
    """
    trials, workers = whole_number("trials", trials, low=1), whole_number("workers", workers, low=1)
    check(launcher)
    for name_of_option in opening:
        if name_of_option not in Opening.__annotations__:
            raise TypeError(f"search() got an unexpected keyword argument {name_of_option!r}")
    repair, wait = opening.get("repair", False), opening.get("wait", WAIT)
    together = (workers == 1 and launcher == "processes") or storage is not None
    require(together, "workers", "be 1 without a storage", workers, "name a journal file or a database to meet in")
    chosen = _solver(task, solver)
    start = time.perf_counter()
    place = "memory" if storage is None else hidden(os.fspath(storage))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", quiet().exceptions.ExperimentalWarning)
        study, box = open_search(task, chosen, storage=storage, seed=seed, name=name, wait=wait, repair=repair)
        try:
            pool.reclaim(study)
            if workers == 1 and launcher == "processes":
                pool.work(study, box, trials=trials, tell=callback)
            else:
                options = {"storage": os.fspath(storage or ""), "seed": seed, "name": name, "wait": wait}
                pool.queue_rest(study, trials)
                launch(launcher, pool.process, (task, chosen, options, trials), workers)
            return read(study, task, box, trials=trials, place=place, seconds=time.perf_counter() - start)
        finally:
            close(study.kept)


def _solver(task: Any, solver: str | SearchSolver | None) -> SearchSolver:
    from prunopt.core.registry import load_solvers

    load_solvers()
    chosen, _ = dispatch(task, solver)
    if not isinstance(chosen, SearchSolver):
        raise invalid("solver", "be a search", chosen.name, "pass it to prunopt.solve")
    return chosen
