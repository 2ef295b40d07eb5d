"""Checkpoints of solvers that train: what they belong to, and reading them back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from prunopt.core.tensor_files import read_tensors
from prunopt.core.validate import Shown, require


def identity(solver: Any, seed: int, problem: Any, arrays: Iterable[Any]) -> str:
    """Return a digest of a solver's options (but where and how often it saves), the seed, and the problem."""
    options = {k: v for k, v in asdict(solver).items() if k not in ("folder", "every")}
    text = json.dumps([options, seed, problem.groups, problem.identity], default=str)
    whole = hashlib.sha256(text.encode())
    for array in arrays:
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()


def read_checkpoint(path: Path, owner: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the metadata and the tensors of a checkpoint.

    Raises
    ------
    ValueError
        If the file cannot be read, or is not of the problem, seed and options that ``owner`` names.
    """
    meta, tensors = read_tensors(path)
    mend = "give an empty folder, or the same call as before"
    mine = meta.get("problem") == owner
    require(mine, f"folder={str(path.parent)!r}", "belong to this problem, seed and options", Shown("others"), mend)
    return meta, tensors
