"""Check what ``prunopt forest`` wrote: the saved forest against the rows, the report against the problem built anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from prunopt.core.solution import CertificateError, relative_gap

TREE = "sklearn.tree._tree.Tree"  # the one type beyond scikit-learn's estimators that a forest needs
TOLERANCE = 1e-9


def is_forest_folder(folder: Path) -> bool:
    """Return whether ``folder`` is what ``prunopt forest --out`` leaves."""
    return (folder / "forest.skops").is_file() and (folder / "report.json").is_file()


def verify_forest(folder: Path) -> dict[str, Any]:
    """Check a folder that ``prunopt forest`` wrote, and return what was checked.

    The rows and prices are read again from where the report says they came from, and the saved forest is measured on
    them: its mean cost and mean tree error on the training rows, its score on the test rows. Then the forest is grown
    again from the seed, its pruning problem built anew, and the objective and the bound that the report states are
    compared with the exact path of that problem, whose gaps come from multipliers. (Within a budget the bound is
    Lagrange's; branch and bound, which may have proven a better one, is not repeated.)

    Raises
    ------
    ValueError
        If the folder is none of ours, its inputs are gone, or it holds objects that are no scikit-learn forest.
    CertificateError
        If anything stated is not so.
    """
    import skops.io

    from prunopt.commands.forest import _fit, _read, _split
    from prunopt.problems import ForestBudget

    if not is_forest_folder(folder):
        raise ValueError(f"{folder}: no folder of prunopt forest; report.json and forest.skops are needed")
    with open(folder / "report.json", encoding="utf-8") as file:
        report = json.load(file)
    inputs, chosen = report.get("inputs"), report["chosen"]
    if inputs is None:
        raise ValueError(f"{folder}: report.json does not say where the rows came from; run prunopt forest again")
    strange = set(skops.io.get_untrusted_types(file=folder / "forest.skops")) - {TREE}
    if strange:
        raise ValueError(
            f"{folder}: forest.skops holds {', '.join(sorted(strange))}; only scikit-learn forests are read"
        )
    forest = skops.io.load(folder / "forest.skops", trusted=[TREE])
    costs = None if inputs["costs"] is None else Path(inputs["costs"])
    case = _read(inputs["data"], inputs["target"], costs)
    case.known = tuple(report["known"])
    rows = _split(case, report["seed"])
    X, y = case.X[rows.train], case.y[rows.train]

    saved = ForestBudget.from_forest(forest, X, y, case.prices, 0, errors="oob")
    whole = np.ones(len(saved.ensemble.internal), np.bool_)
    score = float(forest.score(case.X[rows.test], case.y[rows.test]))
    _same("the mean cost of the saved forest", saved.cost(whole), chosen["cost"])
    _same("its number of tests", len(whole), chosen["nodes"])
    _same("its score on the test rows", score, chosen["test score"])

    n_trees = saved.ensemble.n_trees
    path = _fit(case, rows.train, None, 0.0, n_trees, report["seed"]).path_
    _same("the number of points of the path", len(path.points), len(report["path"]))
    for k, (point, stated) in enumerate(zip(path.points, report["path"], strict=True)):
        for name, found in (
            ("price", point.price),
            ("cost", point.expected_cost),
            ("tree error", point.training_error),
        ):
            _same(f"the {name} of point {k}", found, stated[name])
    error = saved.error(whole)
    if report["budget"] is not None:
        bound, objective = float(path.solution(budget=report["budget"]).bound), error
    else:
        price = report["path"][chosen["point"]]["price"] if chosen["price"] is None else chosen["price"]
        bound, objective = float(path.solution(price=price).bound), error + price * saved.cost(whole)
    _same("the objective", objective, chosen["objective"])
    if chosen["bound"] < bound - TOLERANCE * max(1.0, abs(bound)):
        bound = chosen["bound"]
    return {
        "folder": str(folder),
        "cost": saved.cost(whole),
        "tree error": error,
        "test score": score,
        "objective": objective,
        "bound": bound,
        "gap": relative_gap(objective, bound),
        "points": len(path.points),
        "largest gap on the path": max(p.gap for p in path.points),
    }


def _same(what: str, found: float, stated: float) -> None:
    if abs(found - stated) > TOLERANCE * max(1.0, abs(stated)):
        raise CertificateError(f"{what}: the report states {stated:g}, it is {found:g}")
