"""What every command shares: errors in one line, tables, JSON, a progress bar on terminals."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from contextvars import ContextVar
from typing import Any, NoReturn, ParamSpec, Protocol, TextIO, TypeVar

import typer

from prunopt.core.extras import how_to_get
from prunopt.core.files import only_writer
from prunopt.core.memory import Stated
from prunopt.core.solution import CertificateError, SolveError

P = ParamSpec("P")
R = TypeVar("R")
INPUT, INTERRUPTED = 1, 130
EVERY = 15.0  # seconds between lines of progress
ALIKE = 8  # fewer steps are stages that differ too much to tell the time left
COUNT = re.compile(r"\b(\d+) of (\d+)\b")
SHARED = ("search",)  # its workers meet in the storage, and write the same report
DEBUG = "PRUNOPT_DEBUG"  # set it to anything, and errors come with their traceback
STDOUT, STDERR = 1, 2
SCHEMA = 1  # of the documents: prunopt/schemas; raised when a key goes or changes its meaning
_HELD: ContextVar[list[str] | None] = ContextVar("documents that wait for the end of their command", default=None)
_COMMAND: ContextVar[str] = ContextVar("the command that runs", default="")


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turn what a user can cause into one line on standard error and an exit status.

    Two processes do not write one ``--out`` at a time, but for those of a `SHARED` command.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        _COMMAND.set(command.__name__.replace("_", "-"))
        try:
            out: Any = kwargs.get("out")
            alone = out is not None and command.__name__ not in SHARED and first_rank()
            with (
                _only_documents() if kwargs.get("as_json") else nullcontext(),
                _warnings_as_notes(),
                only_writer(out) if alone else nullcontext(),
            ):
                result = command(*args, **kwargs)
            flush()
            return result
        except Stated as estimate:  # all that was asked for
            print_json({"estimate": str(estimate)}) if kwargs.get("as_json") else print(estimate)
            raise typer.Exit from None
        except BrokenPipeError:  # the reader of a pipe has gone (``| head``): nobody is left to be told
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(INPUT) from None
        except KeyboardInterrupt:
            fail("interrupted", INTERRUPTED)
        except (ValueError, TypeError, OSError, ImportError, MemoryError, SolveError, CertificateError) as error:
            if DEBUG in os.environ:
                raise
            fail(message(error))
        except Exception as error:
            if type(error).__name__ != "SafetensorError" or DEBUG in os.environ:  # a full disk, a damaged file
                raise
            fail(message(error))

    return run


@contextmanager
def _only_documents() -> Iterator[None]:
    """Keep standard output for what `print_json` is given; whatever else is printed meanwhile goes to standard error.

    A library may print from C, or start a program that prints: the descriptor itself is turned, not only the stream.
    """
    stream, held = sys.stdout, list[str]()
    token = _HELD.set(held)
    try:
        with _turned(stream), redirect_stdout(sys.stderr):
            yield
    finally:  # an infeasible model has its document, too, and then a status of 1
        _HELD.reset(token)
        for text in held:
            print(text, file=stream, flush=True)


@contextmanager
def _turned(stream: TextIO | None) -> Iterator[None]:
    """Let descriptor 1 lead to standard error; nowhere, if that is closed."""
    try:
        kept = None if stream is None else os.dup(STDOUT)
    except OSError:
        kept = None
    if stream is None or kept is None:  # closed from the start: the number may be that of some other file by now
        yield
        return
    try:
        stream.flush()
        turn_stdout()
        try:
            yield
        finally:
            try:
                stream.flush()  # of those who had got hold of the stream before
            finally:
                os.dup2(kept, STDOUT)
    finally:
        os.close(kept)


def turn_stdout() -> None:
    """Let descriptor 1 lead where standard error leads; nowhere, if that is closed.

    What buffers of C still hold at the end of a process with ``--json`` is thus kept from the document as well.
    """
    if sys.stderr is not None:
        try:
            os.dup2(STDERR, STDOUT)
            return
        except OSError:
            pass
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDOUT)
    os.close(nowhere)


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Show each warning of a library once, as one line without the place in the code."""
    said: set[str] = set()

    def show(text: Warning | str, *_: Any, **__: Any) -> None:
        line = " ".join(str(text).split())
        if line not in said:
            said.add(line)
            note(line)

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def message(error: BaseException) -> str:
    """Return an error as one line."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"this needs {error.name}: {how_to_get(error.name)}"
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror}"
    text = " ".join(str(error).split())
    return text or type(error).__name__


def note(text: str) -> None:
    """Say something to the person at the terminal: one line on standard error, out of the way of ``--json``."""
    if first_rank():
        print(f"prunopt: {text}", file=sys.stderr)


def flush() -> None:
    """Write out what standard output still holds, unless it was closed from the start."""
    if sys.stdout is not None:
        sys.stdout.flush()


def fail(text: str, status: int = INPUT) -> NoReturn:
    """Say what is wrong in one line and leave with ``status``; each of several processes does."""
    print(f"prunopt: {text}", file=sys.stderr)
    # What is still in the buffer of a full disk or a closed pipe would be complained about once more at exit.
    try:
        flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(status)


def print_json(data: Mapping[str, Any]) -> None:
    """Print ``data`` as JSON, once the command has ended, after the versions of the schema and of the package.

    What JSON has no word for (infinity, NaN) becomes null. The keys are described in ``prunopt/schemas/COMMAND.json``.
    """
    from prunopt import __version__

    document = {"schema_version": SCHEMA, "prunopt_version": __version__, "command": _COMMAND.get(), **data}
    text, held = json.dumps(plain(document), indent=2, allow_nan=False), _HELD.get()
    print(text) if held is None else held.append(text)


def plain(data: Any) -> Any:
    """Return ``data`` in JSON's own types."""
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if hasattr(data, "tolist"):
        return plain(data.tolist())
    if isinstance(data, Sequence) and not isinstance(data, str):
        return [plain(value) for value in data]
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    return data if data is None or isinstance(data, bool | int | str) else str(data)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = ()) -> str:
    """Return an aligned table; columns are right-aligned but for those in ``left``."""
    cells = [list(heads), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    lines = [
        "  ".join(
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(line.rstrip() for line in lines)


def number(value: float, digits: int = 6) -> str:
    """Return a number for people: short, ``-`` where there is none."""
    return f"{value:.{digits}g}" if math.isfinite(value) else "-"


class Tell(Protocol):
    """Says what a command is at: a text, and perhaps how many steps of how many are done."""

    def __call__(self, text: str, done: int | None = None, of: int | None = None) -> None: ...


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Tell]:
    """Draw a bar on standard error if that is a terminal, else write a line now and then; yields what moves it on.

    Steps are counted by ``done`` and ``of``, by a text such as "3 of 12 layers repaired", or, with a ``total``, by the
    calls. Where they are, the time left is told, too.
    """
    if not first_rank():
        yield lambda text, done=None, of=None: None
        return
    if not sys.stderr.isatty():
        yield _Lines(label, total)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    counted = (MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *counted, console=Console(stderr=True), transient=True) as bar:
        work = bar.add_task(label, total=total)

        def tell(text: str, done: int | None = None, of: int | None = None) -> None:
            if done is None and total is None:
                done, of = _count_in(text)
            if done is not None:
                bar.update(work, description=text, completed=done, total=of)
            else:
                bar.update(work, description=text, advance=1 if total else 0)

        yield tell


class _Lines:
    """Progress as plain lines, the first after `EVERY` seconds and then no more often: short runs stay silent."""

    def __init__(self, label: str, total: int | None = None) -> None:
        self.label, self.total, self.start = label, total, time.monotonic()
        self.said, self.counted, self.calls = self.start, 0.0, 0

    def __call__(self, text: str, done: int | None = None, of: int | None = None) -> None:
        now, alike, told = time.monotonic(), True, False
        if done is None and self.total is not None:
            self.calls = min(self.calls + 1, self.total)
            done, of = self.calls, self.total
            alike = self.total >= ALIKE
        elif done is None:
            done, of = _count_in(text)
            told = done is not None
        if done == 1:
            self.counted = now  # what came before the first step says nothing about the others
        last = done is not None and done == of
        if now - (self.start if last else self.said) < EVERY:
            return
        self.said = now
        left, steps = "", text
        if done is not None and of:
            steps = text if told else f"{done} of {of} ({text})"
            if done > 1 and alike:
                left = f", about {_span((now - self.counted) / (done - 1) * (of - done))} left"
        note(f"{self.label}: {steps}, {_span(now - self.start)}{left}")


def _count_in(text: str) -> tuple[int | None, int | None]:
    """Return the numbers of a text that counts: "3 of 12 layers repaired"."""
    found = COUNT.search(text)
    return (int(found[1]), int(found[2])) if found else (None, None)


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def first_rank() -> bool:
    """Whether this process is the first, or only, one of those that torchrun started."""
    return int(os.environ.get("WORLD_SIZE") or 1) < 2 or os.environ.get("RANK", "0") == "0"
