"""The locked requirements are exact, hashed, complete and within the ranges of pyproject; what is loose is found."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import pytest

from tests.support import supply

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "requirements-hashed.txt"
HASH = "a" * 64


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11) or (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="the lock is for CPython 3.11 on Linux x86-64: other markers, other packages",
)
def test_the_lock_covers_what_is_installed_for_the_tests() -> None:
    found = supply.loose(FILE.read_text("utf-8"), "prunopt", ["dev"])
    assert [line for line in found if not line.startswith("not installed")] == []
    pins, _ = supply.read_pins(FILE.read_text("utf-8"))
    assert len(pins) > 100
    assert supply.without_licence(pins) == []


def test_the_oldest_versions_are_those_of_pyproject() -> None:
    found = supply.oldest((ROOT / "pyproject.toml").read_text("utf-8")).splitlines()
    assert {"numpy==2.0", "pulp==3.3.1"} <= set(found)
    with pytest.raises(ValueError, match="'numpy<3': one least version"):
        supply.oldest('[project]\ndependencies = ["numpy<3"]')


def test_the_lock_holds_the_pins_of_the_other_files() -> None:
    pins, _ = supply.read_pins(FILE.read_text("utf-8"))
    others = [ROOT / "constraints.txt", ROOT / "requirements-models.txt"]
    stated = [pin for other in others for pin in supply.read_pins(other.read_text("utf-8"))[0].values()]
    assert len(stated) >= 6
    for pin in stated:
        assert pins[pin.name].version.partition("+")[0] == pin.version


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"numpy>=2 --hash=sha256:{HASH}", "no exact version"),
        ("numpy @ https://example.org/numpy.whl", "no exact version"),
        ("git+https://example.org/numpy", "no exact version"),
        ("--index-url https://example.org", "no exact version"),
        (f"numpy==2.4.6 --hash=md5:{HASH[:32]}", "no exact version"),
        ("numpy==2.4.6", "without a hash: numpy"),
        (f"numpy==2.4.6 --hash=sha256:{HASH}\nNumPy==2.4.5 --hash=sha256:{HASH}", "twice: numpy"),
        (f"numpy==1.26.0 --hash=sha256:{HASH}", "numpy==1.26.0 is outside >=2.0"),
        ("", "not locked: numpy"),
    ],
)
def test_what_is_loose_is_found(text: str, said: str) -> None:
    assert any(line.startswith(said) for line in supply.loose(text, "prunopt", ["dev"]))


def test_a_lock_is_written_from_reports_of_pip() -> None:
    def part(name: str, **more: object) -> dict[str, object]:
        data = {"name": name, "version": "1.0"}
        return {"metadata": data, "download_info": {"archive_info": {"hashes": {"sha256": HASH}}}, **more}

    report = json.dumps({"install": [part("prunopt"), part("B_c"), part("a")]})
    pins, wrong = supply.read_pins(supply.locked([report], "prunopt"))
    assert (sorted(pins), wrong) == (["a", "b-c"], [])
    assert pins["a"].hashes == (HASH,)
    with pytest.raises(ValueError, match=r"yanked by their authors: a==1\.0"):
        supply.locked([json.dumps({"install": [part("a", is_yanked=True)]})], "prunopt")
