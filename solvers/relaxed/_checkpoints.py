"""Checkpoints of solvers that train: what they belong to, and reading them back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np


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
    from safetensors import SafetensorError, safe_open

    folder = str(path.parent)
    try:
        with safe_open(path, framework="pt") as file:
            meta, tensors = file.metadata() or {}, {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"folder={folder!r}: {path.name} cannot be read ({error}); remove it") from None
    if meta.get("problem") != owner:
        raise ValueError(
            f"folder={folder!r}: holds a checkpoint of another problem, seed or options; "
            "give an empty folder, or the same call as before"
        )
    return meta, tensors
