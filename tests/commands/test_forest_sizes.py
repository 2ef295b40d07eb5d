"""``prunopt forest --budget nodes=500``: sizes of a forest that is given or grown, checked, and used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import skops.io

from prunopt.commands.forest_sizes import read_budgets
from prunopt.core.budget import Budget
from tests.commands.test_forest_given import desk, run

__all__ = ["desk"]
TABLE = ("--data", "table.csv", "--target", "diagnosis", "--costs", "costs.json")


@pytest.mark.parametrize("given", [("--forest", "forest.skops"), ("--trees", "6"), ("--forest", "hist.skops")])
@pytest.mark.parametrize("budgets", [("nodes=60",), ("nodes=0.5x", "trees=4"), ("9", "features=14")])
def test_a_forest_of_a_size_predicts_and_is_proven(
    desk: Path, given: tuple[str, ...], budgets: tuple[str, ...]
) -> None:
    asked = [word for budget in budgets for word in ("--budget", budget)]
    status, out, err = run("forest", *given, *TABLE, *asked, "--out", "out")
    assert status == 0, err
    report = json.loads((desk / "out" / "report.json").read_text())
    for use, budget in zip(report["sizes"], sorted(budgets, key=str.isdigit), strict=True):
        assert use["used"] <= use["limit"] * (1 + 1e-9)
        assert use["used"] < use["unpruned"]
        assert f"Budget of {use['resource']}: {use['used']:g} used of {use['limit']:g}" in out
        assert use["resource"] in budget or use["resource"] == "cost"
    if budgets == ("nodes=60",) and given[1] == "forest.skops":
        pruned = skops.io.load(desk / "out" / "forest.skops", trusted=["sklearn.tree._tree.Tree"])
        assert sum(tree.tree_.node_count for tree in pruned.estimators_) == report["sizes"][0]["used"]
    assert report["chosen"]["bound"] <= report["chosen"]["objective"]
    assert run("predict", "out", "--data", "new.csv", "--on-demand")[0] == 0
    status, out, err = run("verify", "out")
    assert status == 0, err
    assert run("report", "out")[0] == 0
    assert "Budget of" in (desk / "out" / "report.html").read_text()


def test_a_forged_size_is_not_confirmed(desk: Path) -> None:
    assert run("forest", "--forest", "forest.skops", *TABLE, "--budget", "nodes=60", "--out", "out")[0] == 0
    page = desk / "out" / "report.json"
    true = json.loads(page.read_text())
    for key, value, message in (("used", 40, "the use of nodes"), ("limit", 40, "the budget of nodes is 40")):
        forged = json.loads(page.read_text())
        forged["sizes"][0][key] = value
        page.write_text(json.dumps(forged))
        status, _, err = run("verify", "out")
        assert status == 1
        assert message in err
        page.write_text(json.dumps(true))


def test_what_is_limited_is_read() -> None:
    assert read_budgets(None) == (None, [])
    assert read_budgets(["12.5"]) == (12.5, [])
    assert read_budgets(["nodes=500, trees=20"]) == (None, [Budget("nodes", limit=500), Budget("trees", limit=20)])
    assert read_budgets(["3", "bytes=100kB"]) == (None, [Budget("bytes", limit=1e5), Budget("cost", limit=3)])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--budget", "many"), "--budget must be a number or a size, got 'many'; write a number for the mean cost"),
        (("--budget", "leaves=5"), "must be one of 'nodes', 'trees', 'bytes', 'features', got 'leaves'"),
        (("--budget", "node=5"), 'did you mean "nodes"?'),
        (("--budget", "nodes=few"), "write RESOURCE=NUMBER, as in nodes=0.5 or nodes=0.7x"),
        (("--budget", "nodes=3"), "must be at least 8, got 3.0; with every tree a single leaf it is 8"),
        (("--budget", "5", "--budget", "6"), "--budget must name the mean cost of a row once, got [5.0, 6.0]"),
        (("--budget", "inf"), "--budget must be a finite number >= 0, got inf"),
        (("--budget", "nodes=20", "--budget", "nodes=30"), "must name each entry once, got 'nodes'"),
        (("--budget", "nodes=20", "--penalty", "0.1"), "--penalty must be left out with a budget for a size"),
    ],
)
def test_bad_sizes_are_one_line(desk: Path, words: tuple[str, ...], message: str) -> None:
    status, _, err = run("forest", "--forest", "forest.skops", *TABLE, *words)
    assert status == 1
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_bytes_of_boosters_are_refused(desk: Path) -> None:
    status, _, err = run("forest", "--forest", "hist.skops", *TABLE, "--budget", "bytes=9kB")
    assert status == 1
    assert "--budget must limit nodes, trees or features of a booster, got 'bytes'" in err
