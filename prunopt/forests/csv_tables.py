"""Tables of users: CSV files read into arrays, with errors that name file, line and column."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunopt.core.arrays import Floats
from prunopt.core.validate import Shown, invalid, one_of, require
from prunopt.forests.notation import are_dates, days, numbers_in, share_of_numbers
from prunopt.forests.table_files import open_table
from prunopt.problems.forest._cost_parsing import nearest

MISSING = frozenset({"", "na", "n/a", "nan", "?", "null"})  # compared in lower case
DELIMITERS = ",;\t|"
CHUNK = 20_000  # rows that a CSV file is read by
ENOUGH_ROWS = 20  # that texts which differ in most of them, or numbers that count them, are taken for names of rows
MOST_CLASSES = 20  # integers with more values than this are a regression target


@dataclass(frozen=True, eq=False)
class Table:
    """A user's CSV file as arrays.

    Parameters
    ----------
    X : (n, K) float64
        Features; NaN where a cell is missing. A column of texts holds codes 0, 1, ... of its sorted texts.
    y : (n,) str or float64
        The target: labels, or numbers for regression.
    feature_names : tuple of str
        Names of the K columns, without the target.
    target : str
        Name of the target column.
    categories : dict of str to tuple of str
        For each column of texts, the text of every code.
    notes : tuple of str
        What was changed or decided while reading, one sentence each; worth showing to the user.
    left_out : tuple of str
        Columns that hold dates or name the rows, and are not features.
    styles : dict of str to str
        How the numbers of columns are written that are not plain: ``"point"``, ``"comma"``, or ``"date"``.
    """

    X: Floats
    y: NDArray[Any]
    feature_names: tuple[str, ...]
    target: str
    categories: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    styles: dict[str, str] = field(default_factory=dict)

    @property
    def is_classification(self) -> bool:
        """Whether the target holds labels, not numbers."""
        return self.y.dtype.kind != "f"


def read_csv(
    path: str | os.PathLike[str],
    target: str,
    *,
    task: str = "auto",
    delimiter: str | None = None,
    keep: Sequence[str] = (),
    max_cells: int = 200_000_000,
) -> Table:
    """Read a table with a header line: CSV in UTF-8, UTF-16 or Latin-1, compressed by gzip or not, or Parquet.

    Cells that are empty or NA, N/A, NaN, null or ? (in any case) are missing. Numbers may have a decimal comma, marks
    between thousands, a currency or a per cent sign. Columns of dates, of texts that name the rows, and that count the
    rows are left out. A column with any other text becomes codes of its sorted texts, unless most of it are numbers:
    then the text is taken for a slip, and refused.

    Parameters
    ----------
    path
        The file.
    target
        Name of the column to predict; no cell of it may be missing.
    task
        ``"classification"`` (labels are texts), ``"regression"`` (numbers), or ``"auto"``: regression if all labels
        are numbers and either some is not whole or there are more than 20 different ones.
    delimiter
        What separates cells; None = whichever of comma, semicolon, tab and bar is most frequent in the header.
    keep
        Columns to use although they hold dates (as days since 1970) or name the rows.
    max_cells
        A larger table is refused before it fills the memory (8 bytes per cell, twice while reading).

    Raises
    ------
    ValueError
        Naming file, line and column, for what cannot be read.
    """
    one_of("task", task, ("auto", "classification", "regression"))
    notes: list[str] = []
    names, delimiter = _header(path, delimiter, notes)
    require(target in names, "target", f"be a column of {path}", target, nearest(target, tuple(names)))
    require(len(names) > 1, f"{path}", "have columns of features", Shown(f"the target {target!r} only"))
    for name in keep:
        require(name in names, "keep", f"name columns of {path}", name, nearest(name, tuple(names)))
    at = names.index(target)
    features = [k for k in range(len(names)) if k != at]
    numbers: dict[int, list[Floats]] = {k: [] for k in features}
    labels: dict[str, int] = {}
    codes: list[NDArray[np.int32]] = []
    n_rows = 0
    for lines, columns in _columns(path, delimiter, names):
        n_rows += len(lines)
        fits = n_rows * len(names) <= max_cells
        require(fits, f"{path}", f"have at most max_cells={max_cells} cells", Shown("more"), "or raise max_cells")
        for k in [k for k in features if k in numbers]:
            parsed = _numbers(columns[k])
            if parsed is None:
                del numbers[k]
                continue
            for at_row in np.flatnonzero(np.isinf(parsed))[:1]:
                where = f"{path}: line {lines[at_row]}, column {names[k]!r}"
                raise invalid(where, "hold a finite number", columns[k][at_row], "unknown cells stay empty")
            numbers[k].append(parsed)
        for line, cell in zip(lines, columns[at], strict=True):
            where = f"{path}: line {line}"
            require(not _is_missing(cell), where, f"have a value of the target {target!r}", cell, "delete the line")
        codes.append(_code(columns[at], labels))
    require(n_rows, f"{path}", "have rows", Shown("a header only"))
    X = np.empty((n_rows, len(features)))
    texts = [k for k in features if k not in numbers]
    coded, categories, styles = _text_columns(path, delimiter, names, texts, keep, notes) if texts else ({}, {}, {})
    used: list[int] = []
    for k in features:
        column = coded[k] if k in coded else np.concatenate(numbers.pop(k)) if k in numbers else None
        if column is None:
            continue
        if k not in coded and names[k] not in keep and _counts_rows(column):
            notes.append(f"column {names[k]!r} counts the rows and is left out; keep it to use it")
            continue
        if np.all(np.isnan(column)):
            notes.append(f"column {names[k]!r} has no value at all")
        elif np.nanmin(column) == np.nanmax(column) and not np.any(np.isnan(column)):
            notes.append(f"column {names[k]!r} has the same value in every row")
        X[:, len(used)] = column
        used.append(k)
    require(used, f"{path}", "have columns of features", Shown("none that is used"), "; ".join(notes))
    left_out = tuple(names[k] for k in features if k not in used)
    X = X[:, : len(used)].copy() if left_out else X
    y = _target(path, target, labels, np.concatenate(codes), task, notes)
    return Table(X, y, tuple(names[k] for k in used), target, categories, tuple(notes), left_out, styles)


def _counts_rows(column: Floats) -> bool:
    n = len(column)
    step = np.diff(column)
    return n >= ENOUGH_ROWS and bool(np.all(step == 1.0) or np.all(step == -1.0))


def _target(
    path: Any, target: str, labels: dict[str, int], codes: NDArray[np.int32], task: str, notes: list[str]
) -> NDArray[Any]:
    values = _numbers(list(labels))
    if values is None and (other := numbers_in(list(labels), "point")) is not None:
        values = other[0]
    finite = values is not None and bool(np.all(np.isfinite(values)))
    if task == "regression" and not finite:
        bad = next(text for text in labels if not share_of_numbers([text]))
        raise invalid(f"{path}: column {target!r}", 'hold finite numbers for task="regression"', bad)
    counted = values is not None and finite and bool(np.all(values == np.round(values))) and len(labels) <= MOST_CLASSES
    if values is not None and (task == "regression" or (task == "auto" and finite and not counted)):
        notes.append(f"target {target!r}: numbers, read as regression")
        return np.asarray(values[codes])
    notes.append(f"target {target!r}: {len(labels)} classes")
    return np.array(list(labels))[codes]


def _open_rows(path: Any, delimiter: str | None, notes: list[str] | None = None) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of every line that is not blank; with no delimiter, the first line as one cell."""
    with open_table(path, notes) as file:
        line = 1
        try:
            if delimiter is None:
                yield 1, [file.readline()]
                return
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for row in reader:
                line = reader.line_num
                if len(row) > 1 or any(cell.strip() for cell in row):
                    yield line, row
        except csv.Error as error:
            mend = "look for an unclosed quotation mark"
            raise invalid(f"{path}", "be CSV", Shown(f"{error} after line {line}"), mend) from None


def _header(path: Any, delimiter: str | None, notes: list[str]) -> tuple[list[str], str]:
    if delimiter is None:
        first = next(_open_rows(path, None, notes))[1][0]
        delimiter = max(DELIMITERS, key=first.count)
        if delimiter != ",":
            notes.append(f"cells are separated by {delimiter!r}")
    require(len(delimiter) == 1, "delimiter", "be one character", delimiter)
    names = [cell.strip() for cell in next(_open_rows(path, delimiter), (1, []))[1]]
    require(names, f"{path}", "have a header with the names of the columns", Shown("an empty file"))
    for k, name in enumerate(names, 1):
        require(name, f"{path}: line 1", "name every column", Shown(f"no name for column {k}"))
        require(names.count(name) == 1, f"{path}: line 1", "name each column once", name, "rename one of them")
    return names, delimiter


def _columns(path: Any, delimiter: str, names: Sequence[str]) -> Iterator[tuple[list[int], list[tuple[str, ...]]]]:
    """Yield the lines and the columns of at most CHUNK rows at a time, the header left out."""
    lines: list[int] = []
    rows: list[list[str]] = []
    for k, (line, row) in enumerate(_open_rows(path, delimiter)):
        if k == 0:
            continue
        require(len(row) == len(names), f"{path}: line {line}", f"have {len(names)} cells", Shown(f"{len(row)}"))
        lines.append(line)
        rows.append(row)
        if len(rows) == CHUNK:
            yield lines, list(zip(*rows, strict=True))
            lines, rows = [], []
    if rows:
        yield lines, list(zip(*rows, strict=True))


def _text_columns(
    path: Any, delimiter: str, names: Sequence[str], wanted: list[int], keep: Sequence[str], notes: list[str]
) -> tuple[dict[int, Floats], dict[str, tuple[str, ...]], dict[str, str]]:
    """Read the file again for its columns of texts: numbers in other notations, dates, names of rows, or codes.

    Returns
    -------
    arrays, categories, styles
        The columns that are used; the texts of codes; how the numbers of other columns are written.
    """
    seen: dict[int, dict[str, int]] = {k: {} for k in wanted}
    coded: dict[int, list[NDArray[np.int32]]] = {k: [] for k in wanted}
    for _, columns in _columns(path, delimiter, names):
        for k in wanted:
            coded[k].append(_code(columns[k], seen[k]))
    texts = {k: sorted(text for text in seen[k] if not _is_missing(text)) for k in wanted}
    only_comma = any((found := numbers_in(t, "point")) is not None and found[1] == "comma" for t in texts.values())
    prefer = "comma" if only_comma or delimiter == ";" else "point"
    arrays: dict[int, Floats] = {}
    categories: dict[str, tuple[str, ...]] = {}
    styles: dict[str, str] = {}
    for k in wanted:
        name, codes = names[k], np.concatenate(coded[k])
        values: Floats | None
        found = numbers_in(texts[k], prefer)
        if found is not None:
            values, styles[name] = found
            notes.append(f"column {name!r}: read as numbers (decimal {found[1]}), {texts[k][0]} is {values[0]:g}")
        elif are_dates(texts[k]):
            if name not in keep:
                notes.append(f"column {name!r} holds dates and is left out; keep it to use days since 1970")
                continue
            values = days(texts[k])
            if values is None:
                raise invalid(f"{path}: column {name!r}", "hold dates as 2021-12-31", texts[k][0], "write them so")
            styles[name] = "date"
        else:
            _refuse_slips(path, delimiter, names, k, seen[k], codes)
            if len(texts[k]) > len(codes) / 2 and len(codes) >= ENOUGH_ROWS and name not in keep:
                notes.append(
                    f"column {name!r} names the rows ({len(texts[k])} texts) and is left out; keep it to use it"
                )
                continue
            values = np.arange(len(texts[k]), dtype=np.float64)
            categories[name] = tuple(texts[k])
            notes.append(f"column {name!r}: texts became codes 0 to {len(values) - 1}, in alphabetical order")
        known = dict(zip(texts[k], values.tolist(), strict=True))
        arrays[k] = np.array([known.get(text, math.nan) for text in seen[k]])[codes]
    return arrays, categories, styles


def _refuse_slips(
    path: Any, delimiter: str, names: Sequence[str], k: int, seen: dict[str, int], codes: NDArray[np.int32]
) -> None:
    """Refuse a column most cells of which are numbers, and name the first that is none."""
    number = np.array([share_of_numbers([text]) > 0 for text in seen])
    text = np.array([not _is_missing(text) for text in seen]) & ~number
    count = np.bincount(codes, minlength=len(seen))
    if count[number].sum() <= count[text].sum():
        return
    row = int(np.argmax(text[codes]))
    lines = [line for part, _ in _columns(path, delimiter, names) for line in part]
    mend = "most of the column are numbers: correct it, or leave the cell empty if it is unknown"
    raise invalid(f"{path}: line {lines[row]}, column {names[k]!r}", "hold a number", list(seen)[codes[row]], mend)


def _is_missing(cell: str) -> bool:
    return cell.strip().lower() in MISSING


def _numbers(cells: Sequence[str]) -> Floats | None:
    """Return the cells as numbers, NaN where they are missing; None if any is a text."""
    if "_" in "".join(cells):  # float() reads "1_000", which is a name in a table
        return None
    try:
        return np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:  # texts, or just missing cells
        pass
    try:
        return np.array([math.nan if _is_missing(cell) else float(cell) for cell in cells], np.float64)
    except ValueError:
        return None


def _code(cells: Iterable[str], seen: dict[str, int]) -> NDArray[np.int32]:
    """Return the number of every text in order of first appearance; new texts are added to ``seen``."""
    return np.array([seen.setdefault(cell.strip(), len(seen)) for cell in cells], np.int32)


def read_rows(
    path: str | os.PathLike[str],
    names: Sequence[str],
    categories: Mapping[str, Sequence[str]],
    styles: Mapping[str, str],
) -> tuple[Floats, list[int], list[str]]:
    """Read new rows of a table that `read_csv` has read before.

    Parameters
    ----------
    path
        The file; columns are found by name, others are not read.
    names, categories, styles
        What the `Table` says.

    Returns
    -------
    X : (n, K) float64
        The features in the order of ``names``; NaN where a cell is missing, or a text is new.
    absent : list of int
        Features that the file has no column for; they are NaN.
    notes : list of str
        What was decided while reading.
    """
    notes: list[str] = []
    header, delimiter = _header(path, None, notes)
    cells: list[list[str]] = [[] for _ in header]
    for _, columns in _columns(path, delimiter, header):
        for column, part in zip(cells, columns, strict=True):
            column += [cell.strip() for cell in part]
    require(cells[0], f"{path}", "have rows", Shown("a header only"))
    absent = [k for k, name in enumerate(names) if name not in header]
    X = np.full((len(cells[0]), len(names)), math.nan)
    for k, name in enumerate(names):
        if k in absent:
            continue
        column = cells[header.index(name)]
        texts = sorted({cell for cell in column if not _is_missing(cell)})
        values: Floats | None
        if name in categories:
            codes = {text: float(i) for i, text in enumerate(categories[name])}
            values = np.array([codes.get(text, math.nan) for text in texts])
            if np.isnan(values).any():
                new = texts[int(np.isnan(values).argmax())]
                notes.append(f"column {name!r}: {new!r} was in no row that the model was fitted on; read as missing")
        elif styles.get(name) == "date":
            values = days(texts)
        else:
            values = _numbers(texts)
            if values is None and (found := numbers_in(texts, styles.get(name, "point"))) is not None:
                values = found[0]
        if values is None or np.isinf(values).any():
            bad = next((t for t in texts if not share_of_numbers([t])), texts[0])
            raise invalid(f"{path}: column {name!r}", "hold what it held when the model was made, numbers", bad)
        known = dict(zip(texts, values.tolist(), strict=True))
        X[:, k] = [known.get(cell, math.nan) for cell in column]
    return X, absent, notes
