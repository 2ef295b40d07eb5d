"""``prunopt forest``, the main job, and ``prunopt predict``: from a table in any notation to predictions."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from prunopt.cli import app
from prunopt.commands.forest_best import front

RUN = CliRunner()
RNG = np.random.default_rng(0)
N = 60
AGE, LAB, CITY = RNG.integers(20, 80, N), RNG.normal(5, 2, N).round(2), RNG.choice(["Rome", "Oslo", "Lima"], N)
ILL = np.where((LAB > 5) | (CITY == "Rome"), "ill", "well")


def sheet(path: Path, columns: tuple[str, ...] = ("patient", "age", "lab", "city", "state")) -> Path:
    cells = {
        "patient": [f"P{k:03}" for k in range(N)],
        "age": [str(v) for v in AGE],
        "lab": [f"{v:.2f}".replace(".", ",") if k % 9 else "" for k, v in enumerate(LAB)],
        "city": CITY.tolist(),
        "state": ILL.tolist(),
    }
    lines = [";".join(columns), *(";".join(cells[c][k] for c in columns) for k in range(N))]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    place = tmp_path_factory.mktemp("best")
    (place / "costs.json").write_text(json.dumps({"costs": {"age": 1, "lab": 10, "city": 2}, "currency": "EUR"}))
    words = ["forest", "--data", sheet(place / "t.csv"), "--target", "state", "--costs", place / "costs.json"]
    done = RUN.invoke(app, [*map(str, words), "--budget", "12", "--out", str(place / "out")])
    assert done.exit_code == 0, done.output
    return place, json.loads((place / "out" / "model.json").read_text()), done.output


def test_the_screen_and_the_report_say_the_same(made: tuple[Path, dict[str, Any], str]) -> None:
    place, report, said = made
    found = report["unseen_rows"]
    assert f"accuracy {found['score']:.3f} (95 %:" in said
    assert f"difference {found['difference']:+.3f}" in said
    assert f"* chosen of {len(report['candidates'])}: {report['chosen']['name']}" in said
    assert "'patient' names the rows" in said
    assert "column 'lab': read as numbers (decimal comma)" in said
    assert report["cost_of_all_features"] == 13.0
    assert report["chosen"]["cost"] <= 12
    expected, paid = report["chosen"]["cost"], report["chosen"]["training_cost"]
    assert (
        f"Expected cost, cross-fitted: {expected:.2f} EUR per row; the rows that the model is fitted on pay {paid:.2f}"
        in said
    )
    assert sorted(f.name for f in (place / "out").iterdir()) == sorted(report["files"])
    assert report["files"][-1] == "model.json"


def test_new_rows_are_predicted_as_the_table_was_read(made: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    place, report, _ = made
    new = sheet(tmp_path / "new.csv", ("city", "lab", "age"))  # other order, no target, no names of rows
    words = ["predict", str(place / "out"), "--data", str(new)]
    done = RUN.invoke(app, [*words, "--on-demand", "--out", str(tmp_path / "p.csv")])
    assert done.exit_code == 0, done.output
    with open(tmp_path / "p.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    right = np.mean([row["prediction"] == label for row, label in zip(rows, ILL, strict=True)])
    assert right >= report["unseen_rows"]["score"] - 0.05
    prices = {"age": 1, "lab": 10, "city": 2}
    for row in rows:
        assert float(row["cost"]) == sum(prices[name] for name in row["acquired"].split())
        assert float(row["probability_ill"]) + float(row["probability_well"]) == pytest.approx(1)
    told = json.loads(RUN.invoke(app, [*words, "--json"]).stdout)
    assert told["mean_cost"] == pytest.approx(report["chosen"]["training_cost"])
    assert told["mean_cost"] == pytest.approx(np.mean([float(row["cost"]) for row in rows]))
    assert [row["prediction"] for row in told["rows"]] == [row["prediction"] for row in rows]
    printed = RUN.invoke(app, words).stdout.splitlines()
    assert printed[0] == "prediction,probability_ill,probability_well,cost"
    assert len(printed) == N + 1


def test_what_a_model_cannot_use_is_one_line(made: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    place, _, _ = made
    out = str(place / "out")

    def refused(data: Path, folder: str = out) -> str:
        done = RUN.invoke(app, ["predict", folder, "--data", str(data)])
        assert done.exit_code == 1, done.output
        return str(done.stderr)

    assert "must have the column 'lab'" in refused(sheet(tmp_path / "a.csv", ("age", "city")))
    text = sheet(tmp_path / "b.csv").read_text().replace("Rome", "Paris")
    (tmp_path / "b.csv").write_text(text)
    done = RUN.invoke(app, ["predict", out, "--data", str(tmp_path / "b.csv")])
    assert done.exit_code == 0
    assert "'Paris' was in no row that the model was fitted on; read as missing" in done.stderr
    text = sheet(tmp_path / "c.csv").read_text().replace(f"{LAB[1]:.2f}".replace(".", ","), "low")
    (tmp_path / "c.csv").write_text(text)
    assert "column 'lab' must hold what it held when the model was made, numbers, got 'low'" in refused(
        tmp_path / "c.csv"
    )
    assert "must hold model.skops" in refused(tmp_path / "a.csv", str(tmp_path))


def test_a_model_with_strange_types_is_refused(made: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    place, _, _ = made
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "model.json").write_text((place / "out" / "model.json").read_text())
    with zipfile.ZipFile(place / "out" / "model.skops") as old, zipfile.ZipFile(bad / "model.skops", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "schema.json":
                data = data.replace(b'"__module__": "prunopt.forests.cross_fitting"', b'"__module__": "subprocess"')
            new.writestr(name, data)
    done = RUN.invoke(app, ["predict", str(bad), "--data", str(sheet(tmp_path / "n.csv"))])
    assert done.exit_code == 1
    assert "subprocess" in done.stderr
    (bad / "model.skops").write_bytes(b"PK\x03\x04 damaged")
    done = RUN.invoke(app, ["predict", str(bad), "--data", str(tmp_path / "n.csv")])
    assert done.exit_code == 1
    assert "must be a model of prunopt forest" in done.stderr or "must hold a model" in done.stderr


def test_the_front_holds_what_no_cheaper_candidate_equals() -> None:
    rows = [{"cost": c, "score": s} for c, s in ((0, 0.5), (1, 0.5), (2, 0.7), (2, 0.8), (3, 0.75))]
    assert front(rows) == [rows[0], rows[3]]


def test_a_target_of_numbers(tmp_path: Path) -> None:
    lines = ["a;b;y", *(f"{p};{q};{2 * p + q / 9:.3f}".replace(".", ",") for p, q in zip(AGE, LAB, strict=True))]
    (tmp_path / "r.csv").write_text("\n".join(lines) + "\n")
    words = ["--data", str(tmp_path / "r.csv"), "--target", "y", "--budget", "1", "--json"]
    done = RUN.invoke(app, ["forest", *words])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["score"] == "neg_mean_squared_error"
    assert report["chosen"]["cost"] <= 1


def test_a_report_shows_the_same_figures_and_verify_computes_them_again(
    made: tuple[Path, dict[str, Any], str],
) -> None:
    folder, told, _ = made
    done = RUN.invoke(app, ["report", str(folder / "out")])
    assert done.exit_code == 0, done.output
    page = (folder / "out" / "report.html").read_text()
    assert f"{told['unseen_rows']['score']:.3f}" in page
    assert "no optimum is claimed" in page
    done = RUN.invoke(app, ["verify", str(folder / "out")])
    assert done.exit_code == 0, done.output
    assert "bills: right for 60 rows" in done.output
    forged = json.loads((folder / "out" / "model.json").read_text())
    forged["unseen_rows"]["score"] += 0.01
    (folder / "out" / "model.json").write_text(json.dumps(forged))
    refused = RUN.invoke(app, ["verify", str(folder / "out")])
    (folder / "out" / "model.json").write_text(json.dumps(told))
    assert refused.exit_code == 1
    assert "not confirmed: unseen_rows.score is stated as" in refused.stderr


def test_costs_of_mistakes_and_caps(made: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    place, _, _ = made
    (tmp_path / "m.json").write_text(json.dumps({"ill": {"well": 500}, "well": {"ill": 20}}))
    words = [
        "forest",
        "--data",
        str(place / "t.csv"),
        "--target",
        "state",
        "--costs",
        str(place / "costs.json"),
        "--json",
    ]
    done = RUN.invoke(app, [*words, "--misclassification-costs", str(tmp_path / "m.json"), "--budget-per-row", "12"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["score"] == "misclassification_costs"
    assert all(remark in done.stderr for remark in told["remarks"])
    assert all(judged["cost"] <= 12 for judged in told["candidates"] if "default forest" not in judged["name"])
    (tmp_path / "m.json").write_text(json.dumps({"ill": {"well": 500}}))
    done = RUN.invoke(app, [*words, "--misclassification-costs", str(tmp_path / "m.json")])
    assert done.exit_code == 1
    assert "must hold the cost of saying 'ill' for 'well', got none" in done.stderr
    (tmp_path / "m.json").write_text(json.dumps({"ill": {"sick": 500}}))
    done = RUN.invoke(app, [*words, "--misclassification-costs", str(tmp_path / "m.json")])
    assert done.exit_code == 1
    assert "must be one of 'ill', 'well', got 'sick'" in done.stderr
    done = RUN.invoke(app, [*words, "--scoring", "accurracy"])
    assert 'did you mean "accuracy"?' in done.stderr
