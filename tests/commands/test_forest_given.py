"""``prunopt forest --forest``: a forest that exists, from its file to predictions on new rows and back to its proof."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import skops.io
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from typer.testing import CliRunner

from prunopt.cli import app

MINE = """
def hist():
    import skops.io

    return skops.io.load("hist.skops", trusted=skops.io.get_untrusted_types(file="hist.skops"))
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pd = pytest.importorskip("pandas")
    X, target = load_breast_cancer(return_X_y=True)
    names = [f"test{k}" for k in range(8)]
    rows = pd.DataFrame(X[:, :8], columns=names)
    y = np.where(target == 1, "benign", "malignant")
    forest = RandomForestClassifier(8, max_depth=4, random_state=0).fit(rows[:200], y[:200])
    skops.io.dump(forest, "forest.skops")
    skops.io.dump(HistGradientBoostingClassifier(max_iter=6).fit(rows[:200], y[:200]), "hist.skops")
    rows[200:].assign(diagnosis=y[200:])[[*names[::-1], "diagnosis"]].to_csv("table.csv", index=False)
    rows[:6].to_csv("new.csv", index=False)
    Path("mine.py").write_text(MINE)
    Path("costs.json").write_text(json.dumps({name: k + 1 for k, name in enumerate(names)}))
    return tmp_path


def run(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("given", ["forest.skops", "hist.skops", "mine.py:hist"])
@pytest.mark.parametrize("budget", ["6", None])
def test_a_forest_is_pruned_predicts_and_is_proven(desk: Path, given: str, budget: str | None) -> None:
    ask = ("forest", "--forest", given, "--data", "table.csv", "--target", "diagnosis", "--costs", "costs.json")
    status, out, err = run(*ask, *([] if budget is None else ["--budget", budget]), "--out", "out", "--json")
    assert status == 0, err
    report = json.loads(out)
    assert report["chosen"]["cost"] <= (6 if budget else report["unpruned"]["cost"])
    status, out, err = run("predict", "out", "--data", "new.csv", "--on-demand")
    assert status == 0, err
    lines = out.splitlines()
    assert len(lines) == 7
    assert {line.split(",")[0] for line in lines[1:]} <= {"benign", "malignant"}
    status, out, err = run("verify", "out")
    assert status == 0, err


def test_rows_stop_early(desk: Path) -> None:
    ask = ("forest", "--data", "table.csv", "--target", "diagnosis", "--costs", "costs.json", "--penalty", "0.0001")
    for given in ("forest.skops", "hist.skops"):
        assert run(*ask, "--forest", given, "--out", "out")[0] == 0
        cost = {}
        for how in ((), ("--stop-early", "certain"), ("--stop-early", "probable", "--disagreement", "0.02")):
            status, out, err = run("predict", "out", "--data", "table.csv", "--json", *how)
            if "probable" in how and given == "hist.skops":
                assert status == 1
                assert "it stops votes of two classes" in err
                continue
            assert status == 0, err
            cost[how[1] if how else ""] = json.loads(out)["mean_cost"]
        assert cost["certain"] < cost[""]
        if given == "forest.skops":
            assert cost["probable"] <= cost["certain"]
    status, _, err = run("predict", "out", "--data", "table.csv", "--stop-early", "maybe")
    assert status == 1
    assert "--stop-early must be one of 'certain', 'probable', got 'maybe'" in err
    status, _, err = run("predict", "out", "--data", "table.csv", "--disagreement", "0.1")
    assert status == 1
    assert "--disagreement must be left out here, got 0.1; give --stop-early probable with it" in err


def test_a_changed_forest_is_not_confirmed(desk: Path) -> None:
    ask = ("forest", "--forest", "forest.skops", "--data", "table.csv", "--target", "diagnosis")
    assert run(*ask, "--budget", "2", "--out", "out")[0] == 0
    (desk / "out" / "forest.skops").write_bytes((desk / "forest.skops").read_bytes())
    status, _, err = run("verify", "out")
    assert status == 1
    assert "the report states" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--forest", "forest.pkl", "--data", "table.csv", "--target", "diagnosis"), "skops.io.dump"),
        (("--forest", "costs.json", "--data", "table.csv", "--target", "diagnosis"), "costs are given by --costs"),
        (("--forest", "broken.py:f", "--data", "table.csv", "--target", "diagnosis"), "(SyntaxError:"),
        (("--forest", "mine.py", "--data", "table.csv", "--target", "diagnosis"), "name the function that returns"),
        (
            ("--forest", "words.txt", "--data", "table.csv", "--target", "diagnosis"),
            "--forest words.txt: model must be",
        ),
        (("--seed", "-1"), "--seed must be a whole number >= 0"),
        (("--class-weight", "zz"), "--class-weight must be one of 'balanced', got 'zz'"),
        (("--data", "table.csv", "--target", "diagnosis", "--keep", "test"), "keep must name columns of table.csv"),
        (("--keep", "age"), "--keep must be left out with --data heart"),
        (("--forest", "none.skops", "--data", "table.csv", "--target", "diagnosis"), "exists"),
        (("--forest", "mine.py:nothing", "--data", "table.csv", "--target", "diagnosis"), "function"),
        (("--forest", "forest.skops"), "columns of the forest"),
        (("--forest", "forest.skops", "--trees", "5"), "--trees"),
        (("--forest", "forest.skops", "--data", "table.csv", "--target", "test1"), "columns of the forest"),
    ],
)
def test_bad_input_is_one_line(desk: Path, words: tuple[str, ...], message: str) -> None:
    (desk / "forest.pkl").write_bytes(b"x")
    (desk / "broken.py").write_text("def f(:")
    (desk / "words.txt").write_text("hello")
    status, _, err = run("forest", *words)
    assert status == 1
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_folders_that_are_none(desk: Path) -> None:
    for words, message in (
        (("predict", "nowhere", "--data", "new.csv"), "DIR must be a folder that prunopt forest wrote"),
        (("predict", ".", "--data", "new.csv", "--out", "."), "--out must be a file to write"),
        (("verify", "."), "or what prunopt forest writes: model.json, or report.json beside a forest"),
    ):
        status, _, err = run(*words)
        assert status == 1
        assert message in err
        assert len(err.strip().splitlines()) == 1
