"""Forms as files: one ``.npz`` of plain arrays, read without ever unpickling."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from prunopt.core.artifact import write_atomically

FORMAT = "prunopt-form-1"
CODE = ("BlackBox", "EnumerableChoice", "LevelSearch", "SubsetChoice")  # forms that hold functions
LARGEST = 8 * 2**30  # bytes that a form may unpack to


def save_form(form: Any, path: str | os.PathLike[str]) -> None:
    """Write a form to ``path`` (``.npz``), whole or not at all.

    Parameters
    ----------
    form
        A dataclass of `prunopt.forms`.
    path
        Where to; the folder is made if it is missing.
    """
    from scipy import sparse

    if type(form).__name__ == "ClosureOnDisk":
        raise TypeError(
            f"form: a ClosureOnDisk is a folder already; come back with ClosureOnDisk.open({str(form.folder)!r})"
        )
    if type(form).__name__ in CODE:
        name = type(form).__name__
        raise TypeError(f"form: a {name} holds functions, which no file can; save the task's data instead")
    if type(form).__name__ not in _forms():
        raise TypeError(f"form: {type(form).__name__} given; one of {', '.join(sorted(_forms()))} is needed")
    arrays: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for item in dataclasses.fields(form):
        value: Any = getattr(form, item.name)
        if isinstance(value, sparse.csr_array):
            for part in ("data", "indices", "indptr"):
                arrays[f"{item.name}.{part}"] = getattr(value, part)
            plain[item.name] = {"sparse": list(value.shape)}
        elif isinstance(value, np.ndarray):
            arrays[item.name] = value
        elif callable(value):  # how messages call things; no part of the problem
            plain[item.name] = None
        elif isinstance(value, Fraction):
            plain[item.name] = {"fraction": [str(value.numerator), str(value.denominator)]}
        else:
            plain[item.name] = value
    header = json.dumps({"format": FORMAT, "form": type(form).__name__, "fields": plain})
    with write_atomically(Path(path).with_suffix(".npz")) as temporary:
        np.savez_compressed(temporary, header=np.frombuffer(header.encode(), np.uint8), **arrays)


def load_form(path: str | os.PathLike[str]) -> Any:
    """Read a form that `save_form` wrote.

    Raises
    ------
    ValueError
        If the file is not such a form, is damaged, or would unpack to more than 8 GiB.
    """
    from scipy import sparse

    file = Path(path)
    if not file.is_file():
        raise ValueError(f"path={str(path)!r}: no such file")
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > LARGEST:
            raise ValueError(f"it says that it unpacks to {size} bytes, more than {LARGEST}")
        with np.load(file, allow_pickle=False) as archive_arrays:
            arrays = {name: archive_arrays[name] for name in archive_arrays.files}
        header = json.loads(arrays.pop("header").tobytes().decode())
        if header["format"] != FORMAT:
            raise ValueError(f"format {header['format']!r}, {FORMAT!r} is needed")
        form = _forms()[header["form"]]
        fields: dict[str, Any] = {name: value for name, value in arrays.items() if "." not in name}
        for name, value in header["fields"].items():
            if isinstance(value, dict) and "fraction" in value:
                fields[name] = Fraction(int(value["fraction"][0]), int(value["fraction"][1]))
            elif isinstance(value, dict) and "sparse" in value:
                parts = tuple(arrays[f"{name}.{part}"] for part in ("data", "indices", "indptr"))
                fields[name] = sparse.csr_array(parts, shape=tuple(value["sparse"]))
            else:
                fields[name] = value
        return form(**fields)
    except (
        KeyError,
        TypeError,
        ValueError,
        IndexError,
        EOFError,
        OSError,
        zipfile.BadZipFile,
        ZeroDivisionError,
    ) as error:
        raise ValueError(f"path={str(path)!r}: not a form saved by prunopt.save_form ({error})") from None


def _forms() -> dict[str, type]:
    import prunopt.forms

    names = [name for name in prunopt.forms.__all__ if isinstance(getattr(prunopt.forms, name), type)]
    return {name: getattr(prunopt.forms, name) for name in names if name not in (*CODE, "ClosureOnDisk")}
