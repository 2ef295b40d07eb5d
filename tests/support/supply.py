"""Requirements: ``python -m tests.support.supply check FILE``, ``lock REPORT.json [...]``, ``oldest PYPROJECT``.

``check`` reads a file of pins and hashes, and says what is loose in it: requirements without an exact version or a
hash, names twice, other places than the index, what is installed for an extra but not locked, pins outside the ranges
of pyproject, and packages without a licence in their metadata. It needs no network, and so knows nothing of
advisories: for those, ``pip-audit --require-hashes -r requirements-hashed.txt`` where there is one.

``lock`` prints such a file from the reports of ``pip install --dry-run --ignore-installed --report``.

``oldest`` prints the least version that pyproject allows of each package that prunopt itself needs, for
``make test-oldest``.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.!+_-]+)((?:\s+--hash=sha256:[0-9a-f]{64})*)")
HEADER = """\
# Exact versions and hashes of all that the tests need, for CPython 3.11 on Linux x86-64: `make install-hashed`.
# Written by .ci/lock; torch is the CPU build of https://download.pytorch.org/whl/cpu (PIP_EXTRA_INDEX_URL names it).
"""


class Pin(NamedTuple):
    """A locked package."""

    name: str
    version: str
    hashes: tuple[str, ...]


def plain_name(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(text: str) -> tuple[dict[str, Pin], list[str]]:
    """Return the pins of a requirements file, and what is wrong with its lines."""
    pins: dict[str, Pin] = {}
    wrong = []
    for line in re.sub(r"\\\s*\n", " ", text).splitlines():
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        if not line:
            continue
        found = LINE.fullmatch(line)
        if found is None:
            wrong.append(f"no exact version of a package of the index: {line[:80]}")
            continue
        name = plain_name(found[1])
        if name in pins:
            wrong.append(f"twice: {name}")
        pins[name] = Pin(name, found[2], tuple(re.findall(r"[0-9a-f]{64}", found[3])))
        if not pins[name].hashes:
            wrong.append(f"without a hash: {name}")
    return pins, wrong


@cache
def _requires(name: str) -> tuple[str, ...] | None:
    try:
        return tuple(distribution(name).requires or ())
    except PackageNotFoundError:
        return None


def needed(root: str, extras: Iterable[str] = ()) -> tuple[dict[str, list[str]], list[str]]:
    """Return what a package and its extras bring with them, by the metadata installed here, and what has no metadata.

    Each name comes with the ranges of versions that are asked of it.
    """
    from packaging.requirements import Requirement

    found: dict[str, list[str]] = {}
    missing: list[str] = []
    todo, seen = [(root, frozenset(extras))], set()
    while todo:
        name, wanted = todo.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        requires = _requires(name)
        if requires is None:
            missing.append(name)
            continue
        for text in requires:
            part = Requirement(text)
            if part.marker and not any(part.marker.evaluate({"extra": extra}) for extra in wanted or {""}):
                continue
            other = plain_name(part.name)
            if other != plain_name(root):
                found.setdefault(other, []).append(str(part.specifier))
            todo.append((other, frozenset(part.extras)))
    return found, missing


def loose(text: str, root: str, extras: Iterable[str]) -> list[str]:
    """Return what is wrong with a locked file for a package with some extras."""
    from packaging.specifiers import SpecifierSet

    pins, wrong = read_pins(text)
    asked, missing = needed(root, extras)
    for name, ranges in sorted(asked.items()):
        if name not in pins:
            wrong.append(f"not locked: {name}")
            continue
        version = pins[name].version.partition("+")[0]
        wrong += [
            f"{name}=={version} is outside {text}"
            for text in sorted(set(ranges))
            if not SpecifierSet(text).contains(version, prereleases=True)
        ]
    return wrong + [f"not installed, so its own requirements are unknown: {name}" for name in missing]


def without_licence(names: Iterable[str]) -> list[str]:
    """Return the packages, of those installed, whose metadata name no licence in any of the three usual places."""
    out = []
    for name in names:
        try:
            data = distribution(name).metadata
        except PackageNotFoundError:
            continue
        stated = [t for field in ("License-Expression", "License") for t in data.get_all(field) or () if t]
        if not stated and not any("License ::" in c for c in data.get_all("Classifier") or ()):
            out.append(name)
    return out


def locked(reports: Iterable[str], root: str) -> str:
    """Return a file of pins and hashes from pip's reports, each a JSON text."""
    lines, yanked = {}, []
    for text in reports:
        for part in json.loads(text)["install"]:
            name, version = plain_name(part["metadata"]["name"]), part["metadata"]["version"]
            if name == plain_name(root):
                continue
            yanked += [f"{name}=={version}"] if part.get("is_yanked") else []
            hashed = part["download_info"]["archive_info"]["hashes"]["sha256"]
            lines[name] = f"{name}=={version} \\\n    --hash=sha256:{hashed}\n"
    if yanked:
        raise ValueError(f"yanked by their authors: {', '.join(yanked)}")
    return HEADER + "".join(lines[name] for name in sorted(lines))


def oldest(pyproject: str) -> str:
    """Return the least allowed version of every dependency as pins, from the text of a pyproject file.

    Raises
    ------
    ValueError
        If a dependency has no least version.
    """
    from packaging.requirements import Requirement

    pins = []
    for text in tomllib.loads(pyproject)["project"]["dependencies"]:
        part = Requirement(text)
        least = [s.version for s in part.specifier if s.operator in (">=", "==")]
        if len(least) != 1:
            raise ValueError(f"{text!r}: one least version is needed, as in 'numpy>=2.0'")
        pins.append(f"{part.name}=={least[0]}\n")
    return "".join(pins)


def main(words: list[str]) -> int:
    """Run one of the three."""
    kind, *files = words
    if kind == "oldest":
        print(oldest(Path(files[0]).read_text("utf-8")), end="")
        return 0
    if kind == "lock":
        print(locked([Path(name).read_text("utf-8") for name in files], "prunopt"), end="")
        return 0
    text = Path(files[0]).read_text("utf-8")
    found, pins = loose(text, "prunopt", ["dev"]), read_pins(text)[0]
    for line in found:
        print(line)
    unlike = [n for n, p in pins.items() if (here := _version(n)) is not None and here != p.version]
    print(f"{len(pins)} pins, {len(found)} faults; here in another version: {', '.join(unlike) or 'none'}")
    print(f"without a licence in their metadata: {', '.join(without_licence(pins)) or 'none'}")
    print("advisories were not looked up: that needs the network")
    return bool(found)


def _version(name: str) -> str | None:
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
