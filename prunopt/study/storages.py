"""Where a search is kept: a journal file, or anything that SQLAlchemy reaches."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from prunopt.core.extras import require as require_module
from prunopt.forms.blackbox import BlackBox, name_of
from prunopt.solvers.blackbox._search_solver import SearchSolver
from prunopt.solvers.blackbox._trials import kept_study, quiet
from prunopt.study.journal import WAIT, open_journal

GRPC = "grpc://"
IDENTITY = "prunopt:search"
LOSS = "problem.loss"  # searches of earlier releases lack it
PROXY = 10  # seconds for a proxy server to answer
ATTEMPTS = 6  # to open a database whose tables others are making
_TAKEN = re.compile(
    r"already exists|UniqueViolation|DuplicateTable|DuplicateObject|UNIQUE constraint failed|no such table|is locked",
    re.IGNORECASE,
)
_URL = re.compile(r"^[a-z][a-z0-9+]*://", re.IGNORECASE)


def open_storage(storage: str | os.PathLike[str] | None, *, wait: float = WAIT, repair: bool = False) -> Any:
    """Return an Optuna storage: in memory (None), a database (a URL) or a journal file (any other path).

    Raises
    ------
    ValueError
        If a database cannot be reached, or its driver is missing.
    JournalError
        If a journal is damaged or stays locked.
    """
    optuna = quiet()
    if storage is None:
        return optuna.storages.InMemoryStorage()
    text = os.fspath(storage)
    if not _URL.match(text):
        return open_journal(text, wait=wait, repair=repair)
    if text.startswith(GRPC):
        return _proxy(text)
    import sqlalchemy.exc

    url = with_driver(text)
    options = {"connect_args": {"timeout": wait}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        return _with_tables(lambda: optuna.storages.RDBStorage(url, engine_kwargs=options))
    except ModuleNotFoundError as error:
        raise ValueError(f"storage={hidden(text)!r}: the driver is missing ({error}); pip install it") from None
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise ValueError(f"storage={hidden(text)!r}: {' '.join(str(error).split())[:300]}") from None


def _proxy(text: str) -> Any:
    """Return the storage behind a server of ``optuna.storages.run_grpc_proxy_server``, at ``grpc://host:port``."""
    host, _, port = text.removeprefix(GRPC).partition(":")
    if not host or not port.isdigit():
        raise ValueError(f"storage={text!r}: write grpc://HOST:PORT, such as grpc://localhost:13000")
    require_module("grpc")
    kept = quiet().storages.GrpcStorageProxy(host=host, port=int(port))
    try:
        kept.wait_server_ready(timeout=PROXY)
    except ConnectionError:
        raise ValueError(f"storage={text!r}: no server answers within {PROXY:g} s; start one there") from None
    return kept


def _with_tables(make: Callable[[], Any]) -> Any:
    """Open a database; where another worker is making the same tables just now, once more a little later."""
    import sqlalchemy.exc

    for k in range(ATTEMPTS):
        try:
            return make()
        except (
            sqlalchemy.exc.IntegrityError,
            sqlalchemy.exc.ProgrammingError,
            sqlalchemy.exc.OperationalError,
        ) as error:
            if k == ATTEMPTS - 1 or not _TAKEN.search(str(error)):
                raise
        time.sleep(0.1 * 2**k)


def with_driver(url: str) -> str:
    """Name the psycopg driver in a plain ``postgresql://`` URL where the default one (psycopg2) is not installed."""
    from importlib.util import find_spec

    scheme, rest = url.split("://", 1)
    if scheme.lower() in ("postgresql", "postgres") and find_spec("psycopg2") is None:
        for driver in ("psycopg", "pg8000"):
            if find_spec(driver) is not None:
                return f"postgresql+{driver}://{rest}"
    return url


def hidden(url: str) -> str:
    """Return a URL without its password."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)


def open_study(storage: Any, identity: Mapping[str, Any], *, name: str | None, place: str) -> Any:
    """Return the study of a search, made where it is missing.

    Raises
    ------
    ValueError
        If the storage holds another search: under this name, or, without a name, at all.
    """
    optuna = quiet()
    wanted = json.loads(json.dumps(identity, sort_keys=True))
    there = sorted(storage_names(storage))
    study_name = name or "search"
    others = [n for n in there if n != study_name]
    if name is None and others and study_name not in there:
        raise ValueError(
            f"storage={place!r} holds other searches: {', '.join(others[:5])}; name another storage, or give this "
            f"search a name of its own (name=, --name)"
        )
    if study_name not in there:  # a search that does not belong here must leave no trace
        optuna.create_study(study_name=study_name, storage=storage, direction="minimize", load_if_exists=True)
    study = kept_study(study_name, storage)
    found = study.user_attrs.get(IDENTITY)
    if found is None and study_name in there and (study.user_attrs or study.get_trials(deepcopy=False)):
        raise ValueError(
            f"storage={place!r} holds a study {study_name!r} that is not a search of prunopt; give another name"
        )
    if found is None:
        study.set_user_attr(IDENTITY, {**wanted, "id": uuid.uuid4().hex})
        return study
    differing = [
        f"{key} is {_short(found.get(key))} there, {_short(wanted.get(key))} here"
        for key in sorted({*found, *wanted} - {"id"}, key=lambda k: (not k.startswith("problem."), k))
        if found.get(key) != wanted.get(key) and (key != LOSS or key in found)
    ]
    if differing:
        raise ValueError(
            f"storage={place!r} holds another search named {study_name!r}: {'; '.join(differing[:4])}; name another "
            f"storage, or give this search a name of its own (name=, --name)"
        )
    return study


def close(storage: Any) -> None:
    """Give the connections of a database, or of a proxy, back."""
    kinds = quiet().storages
    if isinstance(storage, kinds.RDBStorage):
        storage.remove_session()
        storage.engine.dispose()
    elif isinstance(storage, kinds.GrpcStorageProxy):
        storage.close()


def open_search(
    task: Any, solver: SearchSolver, *, storage: Any, seed: int, name: str | None, wait: float, repair: bool = False
) -> tuple[Any, BlackBox]:
    """Return the study of a search, with its sampler and pruner, and the black box."""
    box = task if isinstance(task, BlackBox) else task.reduce(solver.form).form
    place = "memory" if storage is None else hidden(os.fspath(storage))
    identity = {
        **{f"problem.{k}": v for k, v in {"loss": name_of(box.loss), **box.identity}.items()},
        "seed": seed,
        "solver": solver.name,
        "options": {f.name: getattr(solver, f.name) for f in dataclasses.fields(solver)},
        "genes": [[g.name, list(g.options), g.low, g.high] for g in box.genes],
    }
    kept = open_storage(storage, wait=wait, repair=repair)
    try:
        study = open_study(kept, identity, name=name, place=place)
    except BaseException:
        close(kept)
        raise
    study.sampler, study.pruner = solver.optuna_sampler(box, seed), solver.pruner(box)
    return study, box


def storage_names(storage: Any) -> list[str]:
    """Return the names of all studies in a storage."""
    return [s.study_name for s in storage.get_all_studies()]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
