"""Tables in other encodings, compressed, and in Parquet."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from prunopt.forests.csv_tables import read_csv, read_rows

TEXT = "größe,ort,y\n1.5,Köln,a\n2,Bern,b\n,Köln,a\n"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_the_same_table_from_every_file(tmp_path: Path, encoding: str, packed: bool) -> None:
    data = TEXT.encode(encoding)
    path = tmp_path / "table"
    path.write_bytes(gzip.compress(data) if packed else data)
    table = read_csv(path, "y")
    assert table.feature_names == ("größe", "ort")
    assert np.array_equal(table.X, np.array([[1.5, 1.0], [2.0, 0.0], [np.nan, 1.0]]), equal_nan=True)
    assert table.y.tolist() == ["a", "b", "a"]
    assert table.categories["ort"] == ("Bern", "Köln")
    assert ("the file is no UTF-8 text and is read as Latin-1" in table.notes) == (encoding == "latin-1")
    X, absent, _ = read_rows(path, table.feature_names, table.categories, table.styles)
    assert np.array_equal(X, table.X, equal_nan=True)
    assert not absent


def test_what_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(TEXT.encode())[:-9])
    with pytest.raises(ValueError, match=r"t.csv.gz must be whole"):
        read_csv(path, "y")
    path.write_bytes(b"PAR1 is not a table")
    with pytest.raises(ValueError, match=r"t.csv.gz must be (CSV, got Parquet; pip install pyarrow|a Parquet file)"):
        read_csv(path, "y")


def test_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"x": [1.5, 2, None], "ort": ["Köln", "Bern", "Köln"], "y": ["a", "b", "a"]})
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv", index=False)
    one, other = (read_csv(tmp_path / name, "y") for name in ("t.parquet", "t.csv"))
    assert np.array_equal(one.X, other.X, equal_nan=True)
    assert one.y.tolist() == other.y.tolist()


def test_parquet_without_a_reader_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: Any, **options: Any) -> None:
        raise ImportError

    monkeypatch.setattr(pd, "read_parquet", missing)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"t.parquet must be CSV, got Parquet; pip install pyarrow, or save it as CSV"):
        read_csv(tmp_path / "t.parquet", "y")
