"""Check what ``prunopt forest`` wrote: the saved forest against the rows, the report against a rebuilt problem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from prunopt.commands.forest_report import with_penalties
from prunopt.core.files import read_json
from prunopt.core.solution import CertificateError, relative_gap
from prunopt.core.validate import require
from prunopt.forests.skops_files import read_forest

TOLERANCE = 1e-9


def is_forest_folder(folder: Path) -> bool:
    """Return whether ``prunopt forest --out`` wrote ``folder``."""
    return (folder / "forest.skops").is_file() and (folder / "report.json").is_file()


def verify_forest(folder: Path) -> dict[str, Any]:
    """Check a folder that ``prunopt forest`` wrote, and return what was checked.

    The rows and costs are read again from where the report says they came from, and the saved forest is measured on
    them: its mean cost and mean tree error on the training rows, its score on the test rows. Then the forest is grown
    again from the seed, its pruning problem rebuilt, and the objective and the bound that the report states are
    compared with the exact path of that problem, whose gaps come from multipliers. (Within a budget the bound is
    Lagrange's; branch and bound, which may have proven a better one, is not repeated.)

    Raises
    ------
    ValueError
        If prunopt forest did not write the folder, its inputs are gone, or it holds other objects than a forest.
    CertificateError
        If anything stated is not so.
    """
    from prunopt.commands.forest import fit_forest, read_case, split_rows
    from prunopt.problems import ForestBudget

    require(is_forest_folder(folder), "the folder", "hold report.json and forest.skops of prunopt forest", str(folder))
    report = _read_report(folder / "report.json")
    inputs, chosen = report["inputs"], report["chosen"]
    forest = read_forest(folder / "forest.skops")
    costs = None if inputs["costs"] is None else Path(inputs["costs"])
    case = read_case(inputs["data"], inputs["target"], costs)
    case.known = tuple(report["known"])
    rows = split_rows(case, report["seed"])
    X, y = case.X[rows.train], case.y[rows.train]

    saved = ForestBudget.from_forest(forest, X, y, case.feature_costs, 0, errors="oob")
    whole = np.ones(len(saved.ensemble.internal), np.bool_)
    score = float(forest.score(case.X[rows.test], case.y[rows.test]))
    _same("the mean cost of the saved forest", saved.cost(whole), chosen["cost"])
    _same("its number of tests", len(whole), chosen["nodes"])
    _same("its score on the test rows", score, chosen["test score"])

    n_trees = saved.ensemble.n_trees
    path = fit_forest(case, rows.train, None, 0.0, n_trees, report["seed"]).path_
    _same("the number of points of the path", len(path.points), len(report["path"]))
    for k, (point, stated) in enumerate(zip(path.points, report["path"], strict=True)):
        for name, found in (
            ("penalty", point.penalty),
            ("cost", point.expected_cost),
            ("tree error", point.training_error),
        ):
            _same(f"the {name} of point {k}", found, stated[name])
    error = saved.error(whole)
    if report["budget"] is not None:
        bound, objective = float(path.solution(budget=report["budget"]).bound), error
    else:
        penalty = report["path"][chosen["point"]]["penalty"] if chosen["penalty"] is None else chosen["penalty"]
        bound, objective = float(path.solution(penalty=penalty).bound), error + penalty * saved.cost(whole)
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


def _read_report(path: Path) -> dict[str, Any]:
    """Return the report, checked as far as it is read here."""
    try:
        report = with_penalties(read_json(path))
        known = report.get("inputs") is not None
        require(known, "inputs", "say where the rows came from", None, "run prunopt forest again")
        wanted = {"known": list, "seed": int, "path": list, "chosen": dict, "inputs": dict}
        for key, kind in wanted.items():
            require(isinstance(report[key], kind), key, f"be a {kind.__name__}", report[key])
        for key in ("data", "target", "costs"):
            text = report["inputs"][key]
            require(isinstance(text, str | None), f"inputs[{key!r}]", "be text", text)
        numbers = [report["budget"], *(report["chosen"][key] for key in ("cost", "nodes", "test score", "objective"))]
        numbers += [report["chosen"][key] for key in ("bound", "penalty", "point")]
        numbers += [point[key] for point in report["path"] for key in ("penalty", "cost", "tree error")]
        for number in numbers:
            require(isinstance(number, int | float | None), "the report", "hold numbers", number)
        return dict(report)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as a report ({error})") from None


def _same(what: str, found: float, stated: float) -> None:
    if abs(found - stated) > TOLERANCE * max(1.0, abs(stated)):
        raise CertificateError(f"{what}: the report states {stated:g}, it is {found:g}")
