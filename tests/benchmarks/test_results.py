"""Raw figures of the benchmarks: one compressed file a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.results import FOLDER, load, store


def test_figures_come_back_by_name(tmp_path: Path) -> None:
    table = tmp_path / "table.json.gz"
    store(table, {"first": {"seconds": 1.5}})
    store(table, {"second": [1, 2]})
    assert load(table) == {"first": {"seconds": 1.5}, "second": [1, 2]}
    assert load(table, "second") == [1, 2]
    assert load(table, "third", 3) == 3
    assert load(tmp_path / "none.json.gz", default={}) == {}
    with pytest.raises(KeyError):
        load(table, "third")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.json.gz")


def test_the_same_figures_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        store(tmp_path / name, {"x": [0.1] * 50, "y": name * 0})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_is_not_a_number_is_refused_and_the_file_stays(tmp_path: Path) -> None:
    store(tmp_path / "a", {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        store(tmp_path / "a", {"x": float("nan")})
    assert load(tmp_path / "a") == {"x": 1}


def test_every_table_on_file_can_be_read() -> None:
    tables = sorted(FOLDER.glob("*.json.gz"))
    assert len(tables) > 20
    assert all(load(table) for table in tables)
