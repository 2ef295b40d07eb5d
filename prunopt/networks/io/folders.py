"""Folders of pruned networks: written whole or not at all, with a manifest that says what is in them."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from prunopt.core.files import read_json
from prunopt.core.validate import Shown, require

MANIFEST = "prunopt.json"
WEIGHTS = "model.safetensors"
FORMAT = 1
LARGEST_MANIFEST = 64 * 2**20


def check_target(folder: str | os.PathLike[str]) -> Path:
    """Return a folder that may be written: missing, empty, or of an earlier run; ValueError for any other."""
    target = Path(folder)
    mine = target.is_dir() and ((target / MANIFEST).exists() or not any(target.iterdir()))
    mend = "it holds something that prunopt did not write; name another"
    require(mine or not target.exists(), "folder", "be new or one that prunopt wrote", str(folder), mend)
    return target


@contextmanager
def whole_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder`` that takes its name if the block ends without an error."""
    target = check_target(folder)
    target.absolute().parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.absolute().parent))
    try:
        yield place
        umask = os.umask(0)
        os.umask(umask)
        place.chmod(0o777 & ~umask)
        for file in place.rglob("*"):  # safetensors writes files that their owner alone may read
            file.chmod((0o777 if file.is_dir() else 0o666) & ~umask)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.absolute().parent))
            os.replace(target, old)
            os.replace(place, target)
            shutil.rmtree(old)
        else:
            os.replace(place, target)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return ``prunopt.json``; ValueError says what is wrong with it."""
    path = Path(folder) / MANIFEST
    mend = "pass a folder that prunopt wrote"
    require(path.is_file(), "folder", f"hold {MANIFEST}", os.fspath(folder), mend)
    manifest = read_json(path, largest=LARGEST_MANIFEST)
    mine = isinstance(manifest, dict) and manifest.get("format") == FORMAT
    other = Shown("another: written by another version of prunopt?")
    require(mine, str(path), f"be a manifest of format {FORMAT}", other)
    return cast("dict[str, Any]", manifest)


def versions() -> dict[str, str]:
    """Return the versions that decide what a run gives."""
    out = {"python": platform.python_version()}
    for name in ("prunopt", "torch", "transformers", "numpy", "scipy", "safetensors"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out
