"""Forms as files: one ``.npz`` of plain arrays, read without ever unpickling."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tokenize
import zipfile
import zlib
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from prunopt.core.files import write_atomically
from prunopt.core.validate import Shown, invalid, require
from prunopt.forms.blackbox import BlackBox
from prunopt.forms.closure.budgeted_closure import BudgetedClosure
from prunopt.forms.closure.closure import Closure
from prunopt.forms.closure.closure_on_disk import ClosureOnDisk
from prunopt.forms.knapsack.coupled_knapsack import CoupledKnapsack
from prunopt.forms.knapsack.multiple_choice_knapsack import MultipleChoiceKnapsack
from prunopt.forms.knapsack.tile_columns import TileColumns
from prunopt.forms.layer.mask_blocks import MaskBlocks
from prunopt.forms.layer.quadratic_subset import QuadraticSubset
from prunopt.forms.layer.transposable_mask import TransposableMask
from prunopt.forms.linear_program import LinearProgram
from prunopt.forms.relaxed.relaxed_mask import RelaxedMask
from prunopt.forms.subset.quadratic_knapsack import QuadraticKnapsack
from prunopt.forms.subset.subset_choice import SubsetChoice
from prunopt.forms.subset.subset_sum import SubsetSum

FORMAT = "prunopt-form-1"
CODE = (BlackBox, SubsetChoice, RelaxedMask)  # forms that hold functions
_PLAIN = (BudgetedClosure, Closure, CoupledKnapsack, LinearProgram, MaskBlocks, MultipleChoiceKnapsack)
_MORE = (QuadraticKnapsack, QuadraticSubset, SubsetSum, TileColumns, TransposableMask)
FORMS: dict[str, type[Any]] = {form.__name__: form for form in (*_PLAIN, *_MORE)}
RENAMED = {"CoupledChoice": "CoupledKnapsack", "QuadraticChoice": "QuadraticKnapsack", "price": "penalty"}
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
    name = type(form).__name__
    if type(form) is not FORMS.get(name):
        mend = ""
        if isinstance(form, ClosureOnDisk):
            mend = f"it is a folder already, open it with ClosureOnDisk.open({str(form.folder)!r})"
        elif isinstance(form, CODE):
            mend = "it holds functions, so save the task's data"
        raise TypeError(str(invalid("form", f"be one of {', '.join(FORMS)}", Shown(name), mend)))
    arrays, plain = _packed(form)
    header = json.dumps({"format": FORMAT, "form": name, "fields": plain})
    with write_atomically(Path(path).with_suffix(".npz")) as temporary:
        np.savez_compressed(temporary, header=np.frombuffer(header.encode(), np.uint8), **arrays)


def load_form(path: str | os.PathLike[str]) -> Any:
    """Read a form that `save_form` wrote.

    Raises
    ------
    ValueError
        If the file is not such a form, is damaged, or would unpack to more than 8 GiB.
    """
    file = Path(path)
    require(file.is_file(), "path", "be a file that exists", str(path))
    try:
        arrays = read_arrays(file)
        header = json.loads(arrays.pop("header").tobytes().decode())
        if header["format"] != FORMAT:
            raise ValueError(f"format {header['format']!r}, {FORMAT!r} is needed")
        form = FORMS[RENAMED.get(header["form"], header["form"])]
        return _unpacked(form, header["fields"], arrays)
    except (
        KeyError,
        TypeError,
        ValueError,
        IndexError,
        EOFError,
        OSError,
        ArithmeticError,
        AttributeError,
        MemoryError,
        RecursionError,
    ) as error:
        raise ValueError(f"path={str(path)!r}: not a form saved by prunopt.save_form ({error})") from None


def _packed(form: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a form: arrays by name (``form.array`` within another form), and what JSON can hold."""
    from scipy import sparse

    arrays: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for item in dataclasses.fields(form):
        value: Any = getattr(form, item.name)
        if type(value) in FORMS.values():
            parts, fields = _packed(value)
            arrays.update({f"{item.name}.{name}": array for name, array in parts.items()})
            plain[item.name] = {"form": type(value).__name__, "fields": fields}
        elif isinstance(value, sparse.csr_array):
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
    return arrays, plain


def _unpacked(form: type[Any], plain: dict[str, Any], arrays: dict[str, Any]) -> Any:
    from scipy import sparse

    fields: dict[str, Any] = {name: value for name, value in arrays.items() if "." not in name}
    for key, value in plain.items():
        name = RENAMED.get(key, key)
        if isinstance(value, dict) and "fraction" in value:
            fields[name] = Fraction(int(value["fraction"][0]), int(value["fraction"][1]))
        elif isinstance(value, dict) and "sparse" in value:
            parts = tuple(arrays[f"{key}.{part}"] for part in ("data", "indices", "indptr"))
            fields[name] = sparse.csr_array(parts, shape=tuple(value["sparse"]))
        elif isinstance(value, dict) and "form" in value:
            inner = {k.removeprefix(f"{key}."): array for k, array in arrays.items() if k.startswith(f"{key}.")}
            fields[name] = _unpacked(FORMS[str(RENAMED.get(value["form"], value["form"]))], value["fields"], inner)
        else:
            fields[name] = value
    return form(**fields)


def read_arrays(path: str | os.PathLike[str], largest: int = LARGEST) -> dict[str, NDArray[Any]]:
    """Read the arrays of an ``.npz`` file; sizes are checked before memory is asked for, and nothing is unpickled.

    Raises
    ------
    ValueError
        If the file is damaged, would unpack to more than ``largest`` bytes, or an array is not as large as it says.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            size = sum(entry.file_size for entry in entries)
            if size > largest:
                raise ValueError(f"it says that it unpacks to {size} bytes, more than {largest}")
            for entry in entries:
                with archive.open(entry) as member:
                    arrays[entry.filename.removesuffix(".npy")] = _array(member, entry)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(f"no archive of arrays: {error}") from None
    return arrays


def _array(member: IO[bytes], entry: zipfile.ZipInfo) -> NDArray[Any]:
    version = np.lib.format.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{entry.filename}: another version of the format of arrays")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, by_column, dtype = read(member)
    except (tokenize.TokenError, SyntaxError) as error:  # numpy reads headers as Python literals
        raise ValueError(f"{entry.filename}: its header cannot be read: {error}") from None
    if dtype.hasobject or dtype.kind not in "biufU":
        raise ValueError(f"{entry.filename}: holds {dtype}; numbers are read")
    wanted = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or wanted != entry.file_size - member.tell():
        raise ValueError(f"{entry.filename}: says it is {dtype} of shape {shape}, which it is not")
    array = np.frombuffer(member.read(), dtype)
    if array.nbytes != wanted:
        raise ValueError(f"{entry.filename}: cut short")
    return np.array(array.reshape(shape[::-1]).T if by_column else array.reshape(shape))
