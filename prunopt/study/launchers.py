"""How the workers of a search are started: processes of this machine, joblib's backends, submitit, any executor."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from prunopt.core.extras import require
from prunopt.core.validate import invalid, one_of

LAUNCHERS = ("processes", "joblib", "dask", "ray", "submitit")
QUEUED = "submitit"  # the folder of submitit's logs, in the current one


def launch(launcher: Any, body: Callable[..., None], arguments: tuple[Any, ...], workers: int) -> None:
    """Run ``body(*arguments)`` as so many workers and wait for them; the search goes on as long as one of them lives.

    Parameters
    ----------
    launcher
        One of `LAUNCHERS`, or an executor: an object whose ``submit(function, *arguments)`` returns futures.

    Raises
    ------
    RuntimeError
        If every worker ended with an error; what is finished is kept.
    TypeError
        If the task cannot be pickled.
    """
    submit = getattr(launcher, "submit", None)
    if callable(submit):
        ends = _futures([submit(body, *arguments) for _ in range(workers)])
    elif not isinstance(launcher, str):
        raise invalid("launcher", f"be one of {', '.join(LAUNCHERS)}, or an executor with submit()", launcher)
    elif one_of("launcher", launcher, LAUNCHERS) == "processes":
        ends = _processes(body, arguments, workers)
    elif launcher == "submitit":
        executor = require("submitit").AutoExecutor(folder=Path(QUEUED))
        executor.update_parameters(name="prunopt-search", timeout_min=7 * 24 * 60)
        ends = _futures([executor.submit(body, *arguments) for _ in range(workers)])
    else:
        ends = _by_joblib(launcher, body, arguments, workers)
    if all(ends):
        raise RuntimeError(
            f"workers: all {workers} ended early ({'; '.join(dict.fromkeys(ends))}); what is finished is kept, the "
            f"same call resumes"
        )


def check(launcher: Any) -> None:
    """Refuse a launcher that is none, or whose package is missing."""
    if isinstance(launcher, str):
        name = one_of("launcher", launcher, LAUNCHERS)
        needed = {"dask": "distributed", "ray": "ray", "submitit": "submitit"}
        if name in needed:
            require(needed[name])
    elif not callable(getattr(launcher, "submit", None)):
        raise invalid("launcher", f"be one of {', '.join(LAUNCHERS)}, or an executor with submit()", launcher)


def _guarded(body: Callable[..., None], arguments: tuple[Any, ...]) -> str:
    """Run a worker; an error is told rather than raised, so that the others go on."""
    try:
        body(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return ""


def _by_joblib(launcher: str, body: Callable[..., None], arguments: tuple[Any, ...], workers: int) -> list[str]:
    import joblib

    if launcher == "ray":
        require("ray.util.joblib").register_ray()
    backend = nullcontext() if launcher == "joblib" else joblib.parallel_config(backend=launcher)
    with backend:  # "joblib" takes the backend of the surrounding joblib.parallel_config
        ends = joblib.Parallel(n_jobs=workers)(joblib.delayed(_guarded)(body, arguments) for _ in range(workers))
    return list(ends)


def _futures(jobs: list[Any]) -> list[str]:
    ends = []
    for job in jobs:
        try:
            job.result()
            ends.append("")
        except Exception as error:
            ends.append(f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error) else ''}"[:300])
    return ends


def _processes(body: Callable[..., None], arguments: tuple[Any, ...], workers: int) -> list[str]:
    context = multiprocessing.get_context("spawn")
    team = [context.Process(target=body, args=arguments) for _ in range(workers)]
    try:
        for worker in team:
            try:
                worker.start()
            except (TypeError, AttributeError, ImportError) as error:
                raise TypeError(
                    f"task must be picklable for workers={workers} ({error}); make its evaluator so, or run the same "
                    f"call with workers=1 in {workers} processes"
                ) from None
        for worker in team:
            worker.join()
    except BaseException:
        for worker in team:
            if worker.pid is not None and worker.is_alive():
                worker.terminate()
        raise
    return ["" if worker.exitcode == 0 else f"exit code {worker.exitcode}" for worker in team]
