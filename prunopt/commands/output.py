"""What every command shares: errors in one line, tables, JSON, a progress bar on terminals."""

from __future__ import annotations

import functools
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn, ParamSpec, TypeVar

import typer

from prunopt.core.extras import how_to_get
from prunopt.core.files import only_writer
from prunopt.core.memory import Stated
from prunopt.core.solution import CertificateError, SolveError

P = ParamSpec("P")
R = TypeVar("R")
INPUT, INTERRUPTED = 1, 130
SHARED = ("search",)  # its workers meet in the storage, and write the same report
DEBUG = "PRUNOPT_DEBUG"  # set it to anything, and errors come with their traceback


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turn what a user can cause into one line on standard error and an exit status.

    Two processes do not write one ``--out`` at a time, but for those of a `SHARED` command.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            out: Any = kwargs.get("out")
            alone = out is not None and command.__name__ not in SHARED
            with _warnings_as_notes(), only_writer(out) if alone else nullcontext():
                result = command(*args, **kwargs)
            sys.stdout.flush()
            return result
        except Stated as estimate:  # all that was asked for
            print(estimate)
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
    print(f"prunopt: {text}", file=sys.stderr)


def fail(text: str, status: int = INPUT) -> NoReturn:
    """Say what is wrong in one line and leave with ``status``."""
    note(text)
    # What is still in the buffer of a full disk or a closed pipe would be complained about once more at exit.
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(status)


def print_json(data: Any) -> None:
    """Print ``data`` as JSON; what JSON has no word for (infinity, NaN) becomes null."""
    print(json.dumps(plain(data), indent=2, allow_nan=False))


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


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Callable[[str], None]]:
    """Draw a bar on standard error if that is a terminal; yields the function that moves it on by one step."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        work = bar.add_task(label, total=total)
        yield lambda text: bar.update(work, description=text, advance=1 if total else 0)
