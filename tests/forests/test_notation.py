"""Numbers in the notations that tables come in, and columns that are not features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prunopt.forests.datasets import CostList, read_costs, read_csv
from prunopt.forests.notation import are_dates, days, numbers_in

VALUES = np.round(np.random.default_rng(0).normal(1200, 900, 60), 2)


def written(path: Path, cells: list[str], delimiter: str = ",", extra: dict[str, list[str]] | None = None) -> Path:
    columns = {"x": cells, **(extra or {}), "y": ["in" if v > 1200 else "out" for v in VALUES]}
    lines = [delimiter.join(columns)]
    lines += [delimiter.join(f'"{c}"' for c in row) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def german(value: float) -> str:
    return f"{value:,.2f}".translate(str.maketrans(",.", ".,"))


NOTATIONS: dict[str, tuple[Callable[[float], str], str]] = {
    "thousands": (lambda v: f"{v:,.2f}", ","),
    "decimal comma": (lambda v: f"{v:.2f}".replace(".", ","), ";"),
    "German": (german, ";"),
    "Swiss": (lambda v: f"CHF {v:,.2f}".replace(",", "'"), ","),
    "French": (lambda v: f"{v:,.2f} €".replace(",", " ").replace(".", ","), ";"),
    "dollars": (lambda v: f"${v:,.2f}".replace("$-", "-$"), ","),
    "per cent": (lambda v: f"{v:.2f}%", ","),
    "accountants": (lambda v: f"({-v:,.2f})" if v < 0 else f"{v:,.2f}", ","),
}


@pytest.mark.parametrize("name", NOTATIONS)
def test_every_notation_is_read_as_the_same_numbers(name: str, tmp_path: Path) -> None:
    write, delimiter = NOTATIONS[name]
    table = read_csv(written(tmp_path / "t.csv", [write(v) for v in VALUES], delimiter), "y")
    assert np.array_equal(table.X[:, 0], VALUES)
    assert not table.categories
    assert set(table.styles.values()) <= {"point", "comma"}


def test_ambiguous_numbers_go_by_the_other_columns_and_the_delimiter() -> None:
    for prefer, values in (("point", [1234.0, 5678.0]), ("comma", [1.234, 5.678])):
        found = numbers_in(["1,234", "5,678"], prefer)
        assert found is not None
        assert (found[0].tolist(), found[1]) == (values, prefer)
    found = numbers_in(["1,234", "5,6"], "point")
    assert found is not None
    assert found[1] == "comma"
    assert numbers_in(["1,234", "Rome"], "point") is None
    for text in ("1.2.3", "12:30", "555-1234", "1,23,4", ".", "$", "-"):
        assert numbers_in([text], "point") is None, text


def test_a_mixed_column_is_refused_not_coded(tmp_path: Path) -> None:
    cells = [f"{v:,.2f}" for v in VALUES]
    cells[7] = "about 3,000"
    with pytest.raises(ValueError, match=r"line 9, column 'x' must hold a number, got 'about 3,000'"):
        read_csv(written(tmp_path / "t.csv", cells), "y")


def test_dates_and_names_of_rows_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    dates = [str(d) for d in np.arange("2021-01-01", "2021-03-02", dtype="datetime64[D]")]
    names = [f"P{k:03}" for k in range(60)]
    extra = {"visit": dates, "patient": names, "row": [str(k) for k in range(60)], "same": ["7"] * 60}
    path = written(tmp_path / "t.csv", [f"{v:.2f}" for v in VALUES], extra=extra)
    table = read_csv(path, "y")
    assert table.feature_names == ("x", "same")
    assert table.left_out == ("visit", "patient", "row")
    said = "\n".join(table.notes)
    for part in (
        "'visit' holds dates",
        "'patient' names the rows",
        "'row' counts the rows",
        "'same' has the same value",
    ):
        assert part in said
    kept = read_csv(path, "y", keep=("visit", "patient", "row"))
    assert kept.feature_names == ("x", "visit", "patient", "row", "same")
    assert kept.X[1, 1] - kept.X[0, 1] == 1.0
    costs = tmp_path / "costs.json"
    costs.write_text('{"costs": {"x": 1, "same": 2, "patient": 3}}')
    listed = read_costs(costs, table.feature_names, left_out=table.left_out)
    assert isinstance(listed, CostList)
    assert listed.total([True, True]) == 3.0
    with pytest.raises(ValueError, match="must name features, got 'patient'"):
        read_costs(costs, table.feature_names)


def test_dates_whose_day_and_month_are_unclear_are_refused_when_asked_for(tmp_path: Path) -> None:
    dates = [f"{1 + k % 12:02}/{1 + k // 12:02}/2021" for k in range(60)]
    path = written(tmp_path / "t.csv", [f"{v:.2f}" for v in VALUES], extra={"visit": dates})
    assert read_csv(path, "y").left_out == ("visit",)
    with pytest.raises(ValueError, match="must hold dates as 2021-12-31"):
        read_csv(path, "y", keep=("visit",))
    assert are_dates(["2021-03-01T10:00:00"])
    assert days(["2021-99-01"]) is None


def test_a_target_with_a_decimal_comma_is_regression(tmp_path: Path) -> None:
    lines = ["x;y", *(f"{k};{v:.2f}".replace(".", ",") for k, v in enumerate(VALUES))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    table = read_csv(tmp_path / "t.csv", "y", keep=("x",))
    assert not table.is_classification
    assert np.array_equal(table.y, VALUES)
