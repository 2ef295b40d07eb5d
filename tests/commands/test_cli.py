"""The command line: exit statuses, one-line errors, JSON, files that are whole or absent."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import prunopt as po
from prunopt.cli import app, command_names
from prunopt.commands.forest_report import Case, Rows, with_penalties
from prunopt.commands.output import guarded
from prunopt.forms import Closure, LinearProgram
from tests.support.rights import obedient

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
    assert report["largest_gap_on_the_path"] < 1e-9
    assert report["cost_of_all_features"] == 24.5
    penalties = [row["penalty"] for row in report["path"]]
    assert penalties == sorted(penalties)
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == sorted(report["files"])
    with open(tmp_path / "out" / "path.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(penalties)
    assert (tmp_path / "out" / "pareto.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    plain = RUN.invoke(app, [*arguments, "--trees", "10", "--budget", "22"])
    assert plain.exit_code == 0
    assert "* chosen:" in plain.stdout
    assert "Proven: at its penalty" in plain.stdout


def test_forest_with_discounts_currencies_and_known_features(tmp_path: Path) -> None:
    blood = {
        "costs": {"blood": 20.5, "age": 1, "noise": 3},
        "groups": {"all": ["blood", "noise"]},
        "common": {"all": 2.5},
    }
    costs = tmp_path / "costs.json"
    arguments = ["forest", "--data", str(table(tmp_path / "t.csv")), "--target", "state", "--costs", str(costs)]
    arguments += ["--trees", "5", "--json"]

    def report(given: Any, *more: str) -> Any:
        costs.write_text(json.dumps(given))
        done = RUN.invoke(app, [*arguments, *more])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    assert report(blood)["cost_of_all_features"] == 22.0
    both = {
        "currencies": {"CAD": blood, "minutes": {"blood": 4, "age": 1, "noise": 0}},
        "weights": {"CAD": 1, "minutes": 2},
    }
    found = report(both)
    assert found["cost_of_all_features"] == 32.0
    assert found["currency"] == "1 CAD + 2 minutes"
    free = report(blood, "--known", "blood, age, noise")
    assert free["unpruned"]["cost"] == 0
    assert free["known"] == ["blood", "age", "noise"]
    for given, message in (
        ({**both, "weights": {"CAD": 1}}, "give each one weight"),
        ({**both, "weigths": {}}, "got 'weigths'; did you mean 'weights'?"),
        ({"currencies": {"CAD": {"blood": 1}}, "weights": {"CAD": 1}}, "must hold a cost for each feature"),
    ):
        costs.write_text(json.dumps(given))
        done = RUN.invoke(app, arguments)
        assert done.exit_code == 1
        assert message in done.stderr
        one_line(done.stderr)
    done = RUN.invoke(app, ["forest", "--known", "blod"])
    assert "--known must be one of" in done.stderr


def test_heart_pays_the_common_part_of_a_group_once() -> None:
    report = json.loads(RUN.invoke(app, ["forest", "--trees", "5", "--splits", "0", "--json"]).stdout)
    # 4 questions, blood 5.17 + 3.10 + 2.10, thallium 1 + 1 + 101.90, exercise 1 + 1 + 1 + 86.30, restecg, ca
    assert report["cost_of_all_features"] == pytest.approx(4 + 10.37 + 103.9 + 89.3 + 15.5 + 100.9)


def test_the_saved_forest_loads_and_predicts_the_same(tmp_path: Path) -> None:
    import skops.io
    from sklearn.model_selection import train_test_split

    from prunopt.forests.datasets import load_heart
    from prunopt.problems import ForestBudget

    done = RUN.invoke(
        app, ["forest", "--trees", "5", "--splits", "0", "--budget", "250", "--out", str(tmp_path), "--json"]
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    trusted = skops.io.get_untrusted_types(file=tmp_path / "forest.skops")
    assert trusted == ["sklearn.tree._tree.Tree"]  # scikit-learn's own tree, which skops asks about
    forest = skops.io.load(tmp_path / "forest.skops", trusted=trusted)
    heart = load_heart()
    rest, test = train_test_split(np.arange(297), test_size=0.2, random_state=0, stratify=heart.y)
    train, _ = train_test_split(rest, test_size=0.25, random_state=0, stratify=heart.y[rest])
    chosen = report["chosen"]
    assert forest.score(heart.X[test], heart.y[test]) == chosen["test_score"]
    # The pruning within a budget is none of the path; what is said of it is true of the forest that was saved.
    costs = heart.costs()
    task = ForestBudget.from_forest(forest, heart.X[train], heart.y[train], costs, 0, errors="oob")
    everything = np.ones(len(task.ensemble.internal), np.bool_)
    assert chosen["point"] is None
    assert len(everything) == chosen["nodes"]
    assert task.cost(everything) == pytest.approx(chosen["cost"])
    assert chosen["cost"] <= 250
    assert task.error(everything) == pytest.approx(chosen["objective"])
    assert chosen["bound"] <= chosen["objective"]


@pytest.mark.parametrize("choice", [["--budget", "120"], ["--penalty", "0.0005"], []])
def test_a_saved_folder_is_verified(choice: list[str], tmp_path: Path) -> None:
    from prunopt.commands.forest_verify import is_forest_folder, verify_forest

    assert not is_forest_folder(tmp_path)
    with pytest.raises(ValueError, match="of prunopt forest"):
        verify_forest(tmp_path)
    out = ["--trees", "5", "--splits", "0", "--out", str(tmp_path)]
    assert RUN.invoke(app, ["forest", *out, *choice]).exit_code == 0
    found = verify_forest(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert found["objective"] == pytest.approx(report["chosen"]["objective"])
    assert found["bound"] <= found["objective"] + 1e-12
    assert found["largest_gap_on_the_path"] < 1e-9
    for change in ({"cost": report["chosen"]["cost"] + 1}, {"objective": 0.0}, {"test_score": 1.0}):
        told = {**report, "chosen": {**report["chosen"], **change}}
        (tmp_path / "report.json").write_text(json.dumps(told))
        with pytest.raises(po.CertificateError, match="the report states"):
            verify_forest(tmp_path)


def test_the_choice_is_the_cheapest_within_one_standard_error_on_validation_rows() -> None:
    report = json.loads(RUN.invoke(app, ["forest", "--trees", "5", "--splits", "0", "--json"]).stdout)
    assert report["rows"] == {"train": 177, "validation": 60, "test": 60}
    scores = np.array([row["validation_score"] for row in report["path"]])
    best = scores.max()
    allowed = np.flatnonzero(scores >= best - np.sqrt(best * (1 - best) / 60) - 1e-12)
    assert report["chosen"]["point"] == allowed[-1]


def test_the_mean_over_splits(tmp_path: Path) -> None:
    done = RUN.invoke(app, ["forest", "--trees", "4", "--splits", "3", "--out", str(tmp_path), "--json"])
    splits = json.loads(done.stdout)["splits"]
    assert splits["number"] == 3
    assert len(splits["budgets"]) == len(splits["mean_test_score"]) == len(splits["standard_deviation"])
    assert splits["mean_test_score"][0] == pytest.approx(160 / 297, abs=0.01)  # nothing is acquired: the larger class
    alone = json.loads(RUN.invoke(app, ["forest", "--trees", "4", "--splits", "1", "--json"]).stdout)
    for row in alone["path"]:  # the first split is that of the table
        assert row["mean_test_score_over_splits"] == row["test_score"]


def test_an_interrupt_during_the_splits_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import prunopt.commands.forest as command

    split = command.split_rows

    def interrupted(case: Case, seed: int) -> Rows:
        if seed == 2:
            raise KeyboardInterrupt
        return split(case, seed)

    monkeypatch.setattr(command, "split_rows", interrupted)
    done = RUN.invoke(app, ["forest", "--trees", "4", "--splits", "5", "--out", str(tmp_path), "--json"])
    assert done.exit_code == 130
    one_line(done.stderr)
    assert "after 2 of 5 splits" in done.stderr
    assert json.loads(done.stdout)["splits"]["number"] == 2
    assert (tmp_path / "forest.skops").exists()


def test_an_interrupt_before_anything_is_done_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("prunopt.commands.forest._choose", interrupted)
    done = RUN.invoke(app, ["forest", "--path"])
    assert done.exit_code == 130
    one_line(done.stderr)


def test_regression_and_unpenaltyd_features(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.random((120, 2))
    lines = ["a;b;y", *(f"{p:.4f};{q:.4f};{3 * p + 0.1 * q:.5f}" for p, q in X)]
    (tmp_path / "r.csv").write_text("\n".join(lines))
    arguments = ["forest", "--data", str(tmp_path / "r.csv"), "--target", "y", "--trees", "5", "--splits", "2"]
    done = RUN.invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "test R^2" in done.stdout
    assert "every feature costs 1" in done.stderr
    assert (tmp_path / "out" / "pareto.png").exists()


def test_same_seed_same_output() -> None:
    first, second = (
        RUN.invoke(app, ["forest", "--trees", "5", "--splits", "2", "--seed", "3", "--json"]).stdout for _ in range(2)
    )
    assert first == second
    assert json.loads(first)["seed"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "none.csv", "--target", "y"], "none.csv"),
        (["--data", "TABLE"], "--target must name the column of"),
        (["--data", "TABLE", "--target", "status"], "status"),
        (["--data", "heart", "--target", "age"], "--target must be left out with --data heart"),
        (["--costs", "TABLE"], "JSON"),
        (["--budget", "-1"], "--budget must be a finite number >= 0, got -1.0; leave it out for no limit"),
        (["--budget", "inf"], "--budget must be a finite number >= 0, got inf"),
        (["--trees", "0"], "--trees must be a whole number >= 1, got 0"),
        (["--splits", "-1"], "--splits must be a whole number >= 0, got -1"),
        (["--budget", "5", "--penalty", "1"], "give one of the two"),
        (["--out", "TABLE"], "--out must be a folder"),
        (["--out", "/dev/null/x"], "Not a directory"),
    ],
)
def test_bad_requests_are_one_line_and_status_1(tmp_path: Path, arguments: list[str], message: str) -> None:
    sheet = str(table(tmp_path / "t.csv"))
    done = RUN.invoke(app, ["forest", *[sheet if a == "TABLE" else a for a in arguments]])
    assert done.exit_code == 1, done.output
    one_line(done.stderr)
    assert message in done.stderr


@pytest.mark.parametrize(("label", "said"), [("same", "different values"), ("id{}", "labels that repeat")])
def test_a_target_that_is_none(tmp_path: Path, label: str, said: str) -> None:
    (tmp_path / "t.csv").write_text("a,y\n" + "".join(f"{i / 7},{label.format(i)}\n" for i in range(30)))
    done = RUN.invoke(app, ["forest", "--data", str(tmp_path / "t.csv"), "--target", "y"])
    assert done.exit_code == 1
    one_line(done.stderr)
    assert said in done.stderr


def test_warnings_of_libraries_are_one_line_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    @guarded
    def command() -> None:
        warnings.simplefilter("always")
        for _ in range(3):
            warnings.warn("the rows\nare few", UserWarning, stacklevel=1)

    command()
    assert capsys.readouterr().err == "prunopt: the rows are few\n"


def test_wrong_usage_is_status_2() -> None:
    assert RUN.invoke(app, ["forest", "--colour", "red"]).exit_code == 2
    assert RUN.invoke(app, ["no-such-command"]).exit_code == 2


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "forest.skops")

    monkeypatch.setattr("skops.io.dump", full)
    done = RUN.invoke(app, ["forest", "--trees", "3", "--splits", "0", "--out", str(tmp_path)])
    assert done.exit_code == 1
    one_line(done.stderr)
    assert "No space left on device" in done.stderr
    assert not (tmp_path / "forest.skops").exists()
    assert not (tmp_path / "report.json").exists()
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(".")]


@pytest.mark.skipif(obedient() is None, reason="root may write anywhere, and there is no setpriv to take that away")
def test_a_read_only_folder_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    command = [*(obedient() or []), sys.executable, "-m", "prunopt", "forest", "--trees", "3"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, check=False, env=environment
    )
    tmp_path.chmod(0o700)
    assert done.returncode == 1
    one_line(done.stderr)
    assert "Permission denied" in done.stderr
    assert not list(tmp_path.iterdir())


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


MODEL = """Maximize
 obj: 3 a + 2 b - c + 5
Subject To
 total: a + b + c <= 4.5
 apart: a - b <= 3
Bounds
 c >= -2
 b <= 1
"""


def test_solve_keeps_the_sense_and_the_names_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "m.lp").write_text(MODEL + "General\n a\nEnd\n")
    report = json.loads(RUN.invoke(app, ["solve", str(tmp_path / "m.lp"), "--json"]).stdout)
    assert report["sense"] == "maximize"
    assert report["objective"] == pytest.approx(21)
    assert report["bound"] == pytest.approx(21)
    assert report["solution"] == {"a": 4.0, "b": 1.0, "c": -2.0}
    assert "claimed by" in report["bound_from"]
    (tmp_path / "l.lp").write_text(MODEL + "End\n")
    done = RUN.invoke(app, ["solve", str(tmp_path / "l.lp")])
    assert "objective  21 (maximized)" in done.stdout
    assert "recomputed from the multipliers of highs" in done.stdout
    assert RUN.invoke(app, ["solve", str(tmp_path / "l.lp"), "--solver", "min-cut"]).exit_code == 1


def test_an_infeasible_model_is_told_the_nearest_request_by_name(tmp_path: Path) -> None:
    (tmp_path / "m.lp").write_text("Minimize\n obj: a\nSubject To\n top: a <= 3\n low: a >= 5\nEnd\n")
    done = RUN.invoke(app, ["solve", str(tmp_path / "m.lp"), "--json"])
    assert done.exit_code == 1
    one_line(done.stderr)
    assert "raise top from 3 to 5" in done.stderr or "lower low from 5 to 3" in done.stderr
    assert json.loads(done.stdout)["status"] == "INFEASIBLE"


def test_an_interrupted_solve_says_how_far_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, callback: Callable[[po.Step], None], **__: object) -> None:
        callback(po.Step(1.0, -20.0, -22.0))
        raise KeyboardInterrupt

    monkeypatch.setattr("prunopt.api.solve", interrupted)
    (tmp_path / "m.lp").write_text(MODEL + "End\n")
    done = RUN.invoke(app, ["solve", str(tmp_path / "m.lp"), "--json"])
    assert done.exit_code == 130
    one_line(done.stderr)
    assert json.loads(done.stdout)["objective"] == 20.0
    assert json.loads(done.stdout)["bound"] == 22.0


def test_the_command_itself(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "prunopt", *arguments], capture_output=True, text=True, check=False
        )

    assert run("--version").returncode == 0
    assert run("solve").returncode == 2
    refused = run("solve", str(tmp_path / "none.mps"))
    assert refused.returncode == 1
    assert refused.stdout == ""
    one_line(refused.stderr)


def test_every_command_has_help_with_an_example() -> None:
    assert {"forest", "solve", "solvers"} <= set(command_names())
    for name in command_names():
        done = RUN.invoke(app, [name, "--help"])
        assert done.exit_code == 0
        assert f"Example: prunopt {name}" in " ".join(done.stdout.split())


def test_solvers_and_version() -> None:
    names = [row["name"] for row in json.loads(RUN.invoke(app, ["solvers", "--json"]).stdout)["solvers"]]
    assert {"min-cut", "highs", "pulp", "primal-dual"} <= set(names)
    rows = json.loads(RUN.invoke(app, ["solvers", "Closure", "--json"]).stdout)["solvers"]
    assert [row["name"] for row in rows if row["default"]] == ["min-cut"]
    assert all(row["form"] in ("Closure", "Modelled") and row["description"] for row in rows)
    assert "min-cut *" in RUN.invoke(app, ["solvers", "Closure"]).stdout
    assert "did you mean" in RUN.invoke(app, ["solvers", "Closures"]).stderr
    assert po.__version__ in RUN.invoke(app, ["--version"]).stdout


def test_the_old_name_of_the_penalty_still_works_and_old_reports_are_read(tmp_path: Path) -> None:
    arguments = ["forest", "--trees", "3", "--splits", "0", "--json"]
    old, new = (RUN.invoke(app, [*arguments, name, "0.001"]) for name in ("--price", "--penalty"))
    assert old.stdout == new.stdout
    assert "use --penalty" in old.stderr
    report = {"path": [{"price": 1.0}], "chosen": {"price": None}}
    assert with_penalties(report) == {"path": [{"penalty": 1.0}], "chosen": {"penalty": None}}
