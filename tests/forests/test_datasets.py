"""The data in the box is what it says it is, and users' files are read, or refused with a word of help."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunopt.forests import datasets
from prunopt.forests.datasets import CostedDataset, load_heart, load_hypothyroid, read_costs, read_csv
from prunopt.problems.forest.cost_lists import CostList


def counts(y: Any) -> dict[str, int]:
    return dict(zip(*(a.tolist() for a in np.unique(y, return_counts=True)), strict=True))


def test_heart() -> None:
    data = load_heart()
    assert data.X.shape == (297, 13)
    assert data.X.dtype == np.float64
    assert not np.isnan(data.X).any()
    assert counts(data.y) == {"healthy": 160, "disease": 137}
    assert " ".join(data.feature_names) == "age sex cp trestbps chol fbs restecg thalach exang oldpeak slope ca thal"
    assert data.X[0].tolist() == [63, 1, 1, 145, 233, 1, 2, 150, 0, 2.3, 3, 0, 6]
    assert np.array_equal(data.X.min(axis=0), [29, 0, 1, 94, 126, 0, 0, 71, 0, 0, 1, 0, 3])
    assert np.array_equal(data.X.max(axis=0), [77, 1, 4, 200, 564, 1, 2, 202, 1, 6.2, 3, 3, 7])
    severity = load_heart(target="severity")
    assert counts(severity.y) == {"0": 160, "1": 54, "2": 35, "3": 35, "4": 13}
    assert np.array_equal(severity.y == "0", data.y == "healthy")
    with pytest.raises(ValueError, match="severity"):
        load_heart(target="num")


def test_hypothyroid() -> None:
    data = load_hypothyroid()
    assert data.X.shape == (3163, 25)
    assert counts(data.y) == {"negative": 3012, "hypothyroid": 151}
    assert np.isnan(data.X).sum() == 5329
    column = {name: data.X[:, k] for k, name in enumerate(data.feature_names)}
    for test in ("TSH", "T3", "TT4", "T4U", "FTI", "TBG"):
        assert np.array_equal(column[f"{test}_measured"] == 0, np.isnan(column[test]))
    assert np.isnan(column["TSH"]).sum() == 468
    assert [np.sum(column["sex"] == code) for code in (0, 1)] == [2182, 908]
    fewer = load_hypothyroid(measured_flags=False)
    assert fewer.X.shape == (3163, 19)
    assert not [name for name in fewer.feature_names if name.endswith("_measured")]
    assert np.array_equal(fewer.X[:, fewer.feature_names.index("TBG")], column["TBG"], equal_nan=True)


@pytest.mark.parametrize("load", datasets.DATASETS.values())
def test_every_data_set_is_complete(load: Any) -> None:
    data: CostedDataset = load()
    assert set(data.feature_costs) == set(data.feature_names)
    assert (data.currency, data.licence) == ("CAD", "CC BY 4.0")
    assert "UCI" in data.source
    assert "Turney" in data.source
    for name, meaning in data.categories.items():
        values = data.X[:, data.feature_names.index(name)]
        assert set(values[~np.isnan(values)]) <= set(meaning)
    frame = data.frame()
    assert list(frame.columns) == [*data.feature_names, data.target]
    assert np.array_equal(frame[data.target].to_numpy(), data.y)


def tabs(name: str, width: int) -> str:
    """The tabs, of 8 columns each, from ``name:`` to the column ``width``."""
    return "\t" * -((len(name) + 1 - width) // 8)


def in_the_layout_of_uci(data: CostedDataset, names: list[str], width: int, mid: str | None, end: str) -> str:
    """Turney's ``.cost`` (no ``mid``) or ``.expense`` file, from our costs: tabs up to a column ``width``."""
    common = {f: data.common_cost[g] for g, members in data.feature_groups.items() for f in members}
    lines = []
    for name in names:
        full = data.feature_costs[name]
        second = "" if mid is None else f"{mid}{full - common.get(name, 0.0):.2f}"
        lines.append(f"{name}:{tabs(name, width)}{full:.2f}{second}")
    return "\n".join(lines) + end


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_costs_are_turneys_to_the_byte() -> None:
    heart = load_heart()
    names = list(heart.feature_names)
    cost = in_the_layout_of_uci(heart, names, 24, None, "\n\n\n")
    assert digest(cost) == "d7dd7d4e6988e0fd372cde12807bb274ee7ffc9f806fb284e018b1fbceb562a6"
    expense = in_the_layout_of_uci(heart, names, 24, ",\t\t", "\n\n\n")
    assert digest(expense) == "1a760067be382086895a6fe3bc6a4c1f532d5f06b4c201c6654fce28af73dafe"
    letter = {"blood": "A", "thallium test": "B", "exercise ECG": "C"}
    group = {f: letter[g] for g, members in heart.feature_groups.items() for f in members}
    rows = [f"{name}:{tabs(name, 24)}{group[name]}." for name in names if name in group]
    text = "A, B, C.\n\n" + "\n".join(rows) + "\n\n\n"
    assert digest(text) == "5304099521b34ba089857a8e1550221fc32f16d537cae080848a6a958aa37770"


def test_hormone_costs_are_turneys_to_the_byte() -> None:
    data = load_hypothyroid()
    asked = ["age", "sex", "on_thyroxine", "query_on_thyroxine", "on_antithyroid_medication", "sick", "pregnant"]
    asked += ["thyroid_surgery", "I131_treatment", "query_hypothyroid", "query_hyperthyroid", "lithium", "goitre"]
    asked += ["tumor", "hypopituitary", "psych"]  # three of these items are not in our file
    costs = {name: 1.0 for name in asked} | data.feature_costs
    turney = CostedDataset(**(vars(data) | {"feature_costs": costs}))
    text = in_the_layout_of_uci(turney, [*asked, "TSH", "T3", "TT4", "T4U"], 32, ",\t", "\n")
    assert digest(text) == "a0b3ab6a3b5743952f2bc061d3909edc9dacbd8c6b2c286261f094c70665ceac"
    group = "A.\n\n" + "\n".join(f"{name}:\t\tA." for name in data.feature_groups["blood"][:4]) + "\n"
    assert digest(group) == "97b709a689cf3818c91df2eafe95552ad257f142a931524e18ac44cfabfc959a"
    assert data.feature_costs["FTI"] == pytest.approx(data.feature_costs["TT4"] + data.feature_costs["T4U"])
    assert data.derived_from == {"FTI": ["TT4", "T4U"]}


def test_the_first_of_a_group_pays_the_common_part() -> None:
    data = load_heart()
    costs = data.costs()

    def total(*names: str) -> float:
        return float(costs.total(np.isin(data.feature_names, names)))

    assert total() == 0.0
    assert total("chol") == pytest.approx(7.27)
    assert total("chol", "fbs") == pytest.approx(7.27 + 3.10)
    assert total("exang", "oldpeak", "slope", "age") == pytest.approx(87.30 + 1 + 1 + 1)
    everything = costs.total(np.array([[True] * 13, [False] * 13]))
    assert everything == pytest.approx([600.57 - 2.10 - 101.90 - 2 * 86.30, 0.0])
    with pytest.raises(ValueError, match="13 features"):
        costs.total(np.ones(12, bool))


def test_loading_needs_no_heavy_package() -> None:
    code = (
        "import sys\nfrom prunopt.forests.datasets import load_heart\ndata = load_heart()\n"
        "assert not {'pandas', 'sklearn', 'numba', 'torch', 'matplotlib'} & set(sys.modules)\n"
        "sys.modules['pandas'] = None\n"
        "try:\n    data.frame()\nexcept ImportError as error:\n    assert 'pip install pandas' in str(error)\n"
        "else:\n    raise SystemExit('frame() without pandas')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_changed_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    box = Path(datasets.__file__).parent / "data"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "heart.json").write_bytes((box / "heart.json").read_bytes())
    text = (box / "heart.csv").read_text()
    (tmp_path / "data" / "heart.csv").write_text(text.rsplit("\n", 2)[0] + "\n")
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    with pytest.raises(ValueError, match="install prunopt again"):
        load_heart()


def test_read_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('\ufeffage, town ,"a, b",y\n1.5,Ulm,?,yes\n,Bonn,NA,no\n-3e2,Ulm,7,"yes"\n\n', encoding="utf-8")
    table = read_csv(path, "y")
    assert table.feature_names == ("age", "town", "a, b")
    want: list[list[float]] = [[1.5, 1, np.nan], [np.nan, 0, np.nan], [-300, 1, 7]]
    assert np.array_equal(table.X, want, equal_nan=True)
    assert table.y.tolist() == ["yes", "no", "yes"]
    assert table.is_classification
    assert table.categories == {"town": ("Bonn", "Ulm")}
    assert any("'town'" in note for note in table.notes)


def test_read_csv_in_chunks_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    kinds = ["red", "green", "", "blue"]
    path.write_text("k;n;y\n" + "".join(f"{kinds[i % 4]};{i / 8};{i % 3}\n" for i in range(23)))
    whole = read_csv(path, "y")
    monkeypatch.setattr("prunopt.forests.csv_tables.CHUNK", 5)
    parts = read_csv(path, "y")
    assert np.array_equal(whole.X, parts.X, equal_nan=True)
    assert whole.X[:4, 0].tolist()[:2] == [2.0, 1.0]
    assert np.isnan(whole.X[2, 0])
    assert whole.y.tolist() == parts.y.tolist() == [str(i % 3) for i in range(23)]
    assert any("';'" in note for note in whole.notes)


def test_the_kind_of_target(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,whole,broken,many\n" + "".join(f"{i},{i % 2},{i % 2}.5,{i}\n" for i in range(30)))
    assert read_csv(path, "whole").y.tolist()[:2] == ["0", "1"]
    assert read_csv(path, "broken").y.tolist()[:2] == [0.5, 1.5]
    assert read_csv(path, "many").y.dtype == np.float64
    assert read_csv(path, "many", task="classification").y.tolist()[:2] == ["0", "1"]
    assert read_csv(path, "whole", task="regression").y.tolist()[:2] == [0.0, 1.0]
    with pytest.raises(ValueError, match=r"task must be one of .*, got 'both'"):
        read_csv(path, "many", task="both")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("age,label\n1,a\n", r"target must be a column of .*, got 'y'; the names are 'age', 'label'"),
        ("age,Y\n1,a\n", r"target must be a column of .*, got 'y'"),
        ("yy,x\n1,a\n", r"did you mean 'yy'"),
        ("x,x,y\n1,2,a\n", r"line 1 must name each column once, got 'x'"),
        ("x,,y\n1,2,a\n", r"line 1 must name every column, got no name for column 2"),
        ("x,z,y\n1,2,a\n1,a\n", r"line 3 must have 3 cells, got 2"),
        ("x,y\n1,a\n2,\n", r"line 3 must have a value of the target 'y'"),
        ("x,y\n", r"must have rows, got a header only"),
        ("", r"got an empty file"),
        ("y\n1\n", r"got the target 'y' only"),
        ("x,y\n1,a\ninf,b\n", r"line 3, column 'x' must hold a finite number, got 'inf'"),
        ("x,y\n1,a\n2,b\n3l,b\n", r"line 4, column 'x' must hold a number, got '3l'"),
        ('x,y\n1,a\n"2,b\n', r"after line 2; .*quotation mark"),
    ],
)
def test_read_csv_says_what_is_wrong(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=complaint) as error:
        read_csv(path, "y")
    assert "bad.csv" in str(error.value)


def test_read_csv_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n1,a\n2,b\n")
    with pytest.raises(ValueError, match="max_cells=3"):
        read_csv(path, "y", max_cells=3)
    with pytest.raises(ValueError, match=r"finite numbers for task=.regression., got 'a'"):
        read_csv(path, "y", task="regression")
    with pytest.raises(FileNotFoundError):
        read_csv(tmp_path / "none.csv", "y")


def test_read_costs(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"b": 2.5, "a": 0}')
    costs = read_costs(path, ["a", "b"])
    assert isinstance(costs, CostList)
    assert costs.costs.tolist() == [0.0, 2.5]
    assert (costs.groups, costs.common, costs.currency) == ({}, {}, "")
    path.write_text('{"costs": {"a": 3, "b": 2.5}, "groups": {"g": ["b", "a"]}, "common": {"g": 2}, "currency": "EUR"}')
    costs = read_costs(path, ["a", "b"])
    assert isinstance(costs, CostList)
    assert costs.groups == {"g": ("b", "a")}
    assert (costs.common, costs.currency) == ({"g": 2.0}, "EUR")
    assert costs.total(np.array([True, True])) == 3.5


@pytest.mark.parametrize("load", datasets.DATASETS.values())
def test_costs_json_comes_back(load: Any, tmp_path: Path) -> None:
    data: CostedDataset = load()
    path = tmp_path / "c.json"
    path.write_text(data.costs_json())
    costs = read_costs(path, data.feature_names)
    assert isinstance(costs, CostList)
    assert costs.costs.tolist() == [data.feature_costs[name] for name in data.feature_names]
    assert {g: list(members) for g, members in costs.groups.items()} == data.feature_groups
    assert costs.common == data.common_cost
    packed = Path(datasets.__file__).parent / "data" / f"{data.name}.json"
    assert read_costs(packed, data.feature_names).currency == "CAD"


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({"age": 1}, r"add 'chol'"),
        ({"age": 1, "chol": 2, "col": 1}, r"must name features, got 'col'; did you mean 'chol'"),
        ({"age": -1, "chol": 2}, r"costs\['age'\] must be a finite number >= 0, got -1"),
        ({"age": True, "chol": 2}, r"costs\['age'\] must be a finite number >= 0, got True"),
        ({"age": "1", "chol": 2}, r"costs\['age'\] must be a finite number >= 0, got '1'"),
        ({"age": float("nan"), "chol": 2}, r"costs\['age'\] must be a finite number >= 0, got nan"),
        ([1, 2], r"must be an object of"),
        ({"costs": {"age": 1, "chol": 2}, "group": {}}, r"must hold the keys .*, got 'group'; did you mean 'groups'"),
        (
            {"costs": {"age": 1, "chol": 2}, "groups": {"g": ["ag"]}},
            r"groups\['g'\] must name features, got 'ag'; did you mean",
        ),
        (
            {"costs": {"age": 1, "chol": 2}, "groups": {"g": "age"}},
            r"groups\['g'\] must be a list of features, got 'age'",
        ),
        ({"costs": {"age": 1, "chol": 2}, "groups": {"g": ["age"], "h": ["age"]}}, r"name each entry once, got 'age'"),
        ({"costs": {"age": 1, "chol": 2}, "common": {"g": 1}}, r"must name groups, got 'g'"),
        (
            {"costs": {"age": 1, "chol": 2}, "groups": {"g": ["age", "chol"]}, "common": {"g": 1.5}},
            r"common\['g'\] must be at most what 'age' costs, got 1.5",
        ),
        ({"costs": {"age": 1, "chol": 2}, "currency": 3}, r"currency must be text, got 3"),
    ],
)
def test_read_costs_says_what_is_wrong(tmp_path: Path, data: Any, complaint: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=complaint) as error:
        read_costs(path, ["age", "chol"])
    assert "bad.json" in str(error.value)


def test_read_costs_refuses_broken_json(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('{"age": 1,\n "chol" 2}')
    with pytest.raises(ValueError, match="must be JSON; line 2, column 9"):
        read_costs(path, ["age", "chol"])
    path.write_text('{"age": 1, "age": 2}')
    with pytest.raises(ValueError, match="must hold each key once, got 'age'"):
        read_costs(path, ["age"])
