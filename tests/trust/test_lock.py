"""The locked requirements are exact, hashed, complete, within the ranges of pyproject, and name no index."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "requirements"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS = {"test": ["dev"], "demo": ["plot"], "docs": ["docs"], "bench": ["hf", "onnx", "bench"]}
HASHED = [*EXTRAS, "models"]


def name_of(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def locked(name: str) -> dict[str, str]:
    """Return the lines of a requirements file, continued ones joined, by the names of their packages."""
    text = re.sub(r"(^|\s)#.*", "", (FOLDER / f"{name}.txt").read_text("utf-8"), flags=re.MULTILINE)
    lines = [line.strip() for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    return {name_of(re.split(r"[^\w.-]", line)[0]): line for line in lines}


def version_of(line: str) -> str:
    found = re.match(r"[\w.-]+==([\w.!]+)", line)
    assert found, line
    return found[1]


def asked(extras: list[str]) -> list[Requirement]:
    """Return what pyproject asks for with some extras, those that an extra names included."""
    project = PYPROJECT["project"]
    todo, found = list(extras), [Requirement(text) for text in project["dependencies"]]
    for extra in todo:
        for text in project["optional-dependencies"][extra]:
            part = Requirement(text)
            todo.extend(part.extras - set(todo)) if part.name == project["name"] else found.append(part)
    return found


@pytest.mark.parametrize("name", HASHED)
def test_every_line_is_one_version_with_hashes(name: str) -> None:
    line = re.compile(r"[a-z0-9][a-z0-9-]*==[\w.!]+( ; [^#@]+?)?(\s+--hash=sha256:[0-9a-f]{64})+")
    pins = locked(name)
    assert pins
    assert [text for text in pins.values() if not line.fullmatch(text)] == []


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_no_file_names_an_index(path: Path) -> None:
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted-host", path.read_text("utf-8"))


@pytest.mark.parametrize("name", EXTRAS)
def test_what_pyproject_asks_for_is_locked_within_its_range(name: str) -> None:
    pins = locked(name) | locked("torch")
    for part in [*asked(EXTRAS[name]), *map(Requirement, PYPROJECT["build-system"]["requires"])]:
        assert name_of(part.name) in pins, part
        assert part.specifier.contains(version_of(pins[name_of(part.name)])), part


def test_the_build_group_is_what_the_build_system_requires() -> None:
    assert PYPROJECT["dependency-groups"]["build"] == PYPROJECT["build-system"]["requires"]


@pytest.mark.parametrize("name", ["demo", "docs"])
def test_a_subset_agrees_with_the_lock_of_the_tests(name: str) -> None:
    tests = locked("test")
    for package, line in locked(name).items():
        assert package not in tests or version_of(line) == version_of(tests[package])


def test_models_are_locked_as_pyproject_names_them() -> None:
    named = {name_of(p.name): str(p.specifier) for p in map(Requirement, PYPROJECT["dependency-groups"]["models"])}
    assert named == {package: f"=={version_of(line)}" for package, line in locked("models").items()}


def test_torch_is_pinned_in_one_place_and_all_that_it_needs_is_locked() -> None:
    assert list(locked("torch")) == ["torch"]
    pins, cuda = locked("test"), set(locked("cuda"))
    assert [name for name in HASHED if "torch" in locked(name)] == []
    assert [name for name in pins if name in cuda or name.startswith(("nvidia-", "cuda-"))] == []
    try:
        needs = [Requirement(text) for text in requires("torch") or ()]
    except PackageNotFoundError:
        pytest.skip("torch is not installed")
    needs = [part for part in needs if part.marker is None or part.marker.evaluate({"extra": ""})]
    loose = [str(p) for p in needs if name_of(p.name) not in pins.keys() | cuda]
    assert loose == [], "torch's build needs more: add what belongs to CUDA to requirements/cuda.txt, then `make lock`"
