"""The command line: exit statuses, one-line errors, JSON, files that are whole or absent."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import prunopt as po
from prunopt.cli import app, command_names
from prunopt.forms import Closure, LinearProgram

RUN = CliRunner()


def table(path: Path, n: int = 80) -> Path:
    rng = np.random.default_rng(0)
    X = rng.random((n, 3))
    y = np.where(X[:, 0] + 0.3 * X[:, 1] > 0.6, "ill", "well")
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["blood", "age", "noise", "state"])
        writer.writerows([*map(str, row), label] for row, label in zip(X.round(3).tolist(), y, strict=True))
    return path


def one_line(text: str) -> None:
    assert "Traceback" not in text
    assert len([line for line in text.splitlines() if line.strip()]) == 1, text


def test_forest_on_a_users_table(tmp_path: Path) -> None:
    costs = tmp_path / "costs.json"
    costs.write_text(json.dumps({"blood": 20.5, "age": 1, "noise": 3}))
    arguments = ["forest", "--data", str(table(tmp_path / "t.csv")), "--target", "state", "--costs", str(costs)]
    done = RUN.invoke(app, [*arguments, "--trees", "10", "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["largest gap on the path"] < 1e-9
    assert report["cost of all features"] == 24.5
    prices = [row["price"] for row in report["path"]]
    assert prices == sorted(prices)
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == sorted(report["files"])
    with open(tmp_path / "out" / "path.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(prices)
    assert (tmp_path / "out" / "pareto.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    plain = RUN.invoke(app, [*arguments, "--trees", "10", "--budget", "5"])
    assert plain.exit_code == 0
    assert "* chosen:" in plain.stdout
    assert "Proven: at its price" in plain.stdout


def test_the_saved_forest_loads_and_predicts_the_same(tmp_path: Path) -> None:
    import skops.io
    from sklearn.model_selection import train_test_split

    from prunopt.forests.datasets import load_heart

    done = RUN.invoke(app, ["forest", "--trees", "5", "--out", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    trusted = skops.io.get_untrusted_types(file=tmp_path / "forest.skops")
    assert trusted == ["sklearn.tree._tree.Tree"]  # scikit-learn's own tree, which skops asks about
    forest = skops.io.load(tmp_path / "forest.skops", trusted=trusted)
    heart = load_heart()
    _, test = train_test_split(np.arange(297), test_size=0.3, random_state=0, stratify=heart.y)
    assert forest.score(heart.X[test], heart.y[test]) == report["path"][report["chosen"]]["test score"]


def test_same_seed_same_output() -> None:
    first, second = (RUN.invoke(app, ["forest", "--trees", "5", "--seed", "3", "--json"]).stdout for _ in range(2))
    assert first == second
    assert json.loads(first)["seed"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "none.csv", "--target", "y"], "none.csv"),
        (["--data", "TABLE"], "name the column to predict with --target"),
        (["--data", "TABLE", "--target", "status"], "status"),
        (["--data", "heart", "--target", "age"], "--target is for CSV files"),
        (["--costs", "TABLE"], "JSON"),
        (["--budget", "-1"], "the cheapest pruning costs 0"),
        (["--trees", "0"], "--trees 0"),
        (["--budget", "5", "--price", "1"], "give one of the two"),
        (["--out", "TABLE"], "it is a file"),
    ],
)
def test_bad_requests_are_one_line_and_status_1(tmp_path: Path, arguments: list[str], message: str) -> None:
    sheet = str(table(tmp_path / "t.csv"))
    done = RUN.invoke(app, ["forest", *[sheet if a == "TABLE" else a for a in arguments]])
    assert done.exit_code == 1, done.output
    one_line(done.stderr)
    assert message in done.stderr


def test_wrong_usage_is_status_2() -> None:
    assert RUN.invoke(app, ["forest", "--colour", "red"]).exit_code == 2
    assert RUN.invoke(app, ["no-such-command"]).exit_code == 2


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "forest.skops")

    monkeypatch.setattr("skops.io.dump", full)
    done = RUN.invoke(app, ["forest", "--trees", "3", "--out", str(tmp_path)])
    assert done.exit_code == 1
    assert "No space left on device" in done.stderr
    assert not (tmp_path / "forest.skops").exists()
    assert not (tmp_path / "report.json").exists()
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(".")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    done = RUN.invoke(app, ["forest", "--trees", "3", "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    one_line(done.stderr)


def test_solve_reads_models_and_forms(tmp_path: Path) -> None:
    form = Closure.of([3, 3], requirements=[[0], [0]], cost=[5])
    po.save_form(form, tmp_path / "closure.npz")
    form.to_pulp().writeMPS(str(tmp_path / "closure.mps"))
    LinearProgram([-1.0], [[2.0]], [1.0]).to_pulp().writeLP(str(tmp_path / "linear.lp"))
    for name, objective in (("closure.npz", -1.0), ("closure.mps", -1.0), ("linear.lp", -0.5)):
        done = RUN.invoke(app, ["solve", str(tmp_path / name), "--json"])
        assert done.exit_code == 0, done.output
        report = json.loads(done.stdout)
        assert report["status"] == "OPTIMAL"
        assert report["objective"] == pytest.approx(objective)


def test_solve_refuses_what_is_no_model(tmp_path: Path) -> None:
    for name, content in (("a.mps", b"hello"), ("a.lp", b"\x00\x01"), ("a.npz", b"PK"), ("a.txt", b"x")):
        (tmp_path / name).write_bytes(content)
        done = RUN.invoke(app, ["solve", str(tmp_path / name)])
        assert done.exit_code == 1, (name, done.output)
        one_line(done.stderr)


def test_solve_says_that_a_model_is_infeasible(tmp_path: Path) -> None:
    po.save_form(LinearProgram([1.0], [[-1.0]], [-2.0]), tmp_path / "i.npz")
    done = RUN.invoke(app, ["solve", str(tmp_path / "i.npz")])
    assert done.exit_code == 1
    one_line(done.stderr)
    assert "infeasible" in done.stderr


def test_every_command_has_help_with_an_example() -> None:
    assert {"forest", "solve", "solvers"} <= set(command_names())
    for name in command_names():
        done = RUN.invoke(app, [name, "--help"])
        assert done.exit_code == 0
        assert f"Example: prunopt {name}" in " ".join(done.stdout.split())


def test_solvers_and_version() -> None:
    names = [row["name"] for row in json.loads(RUN.invoke(app, ["solvers", "--json"]).stdout)]
    assert {"min-cut", "highs", "pulp", "primal-dual"} <= set(names)
    assert po.__version__ in RUN.invoke(app, ["--version"]).stdout
