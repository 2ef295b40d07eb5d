"""Check what ``prunopt forest`` wrote: the saved forest against the rows, the report against a rebuilt problem."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from prunopt.commands.forest_report import with_penalties
from prunopt.core.arrays import Bools
from prunopt.core.files import read_json
from prunopt.core.solution import CertificateError, relative_gap
from prunopt.core.validate import require
from prunopt.forests.skops_files import read_forest
from prunopt.problems.forest.tree_ensemble import TreeEnsemble

TOLERANCE = 1e-9
FORESTS = "forest.skops", "forest.json", "forest.txt"


def is_forest_folder(folder: Path) -> bool:
    """Return whether ``prunopt forest --out`` wrote ``folder``."""
    return any((folder / name).is_file() for name in FORESTS) and (folder / "report.json").is_file()


def verify_forest(folder: Path) -> dict[str, Any]:
    """Check a folder that ``prunopt forest`` wrote, and return what was checked.

    The rows and costs are read again from where the report says they came from, and the saved forest is measured on
    them: its mean cost and mean tree error on the training rows, its score on the test rows. Then the forest is grown
    again from the seed, its pruning problem rebuilt, and the objective and the bound that the report states are
    compared with the exact path of that problem, whose gaps come from multipliers; within a budget branch and
    bound is repeated where the report states more than Lagrange's bound.

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
    if inputs.get("forest") is not None:
        return _verify_given(folder, report)
    forest = read_forest(folder / "forest.skops")
    costs = None if inputs["costs"] is None else Path(inputs["costs"])
    case = read_case(inputs["data"], inputs["target"], costs, tuple(inputs.get("keep") or ()))
    case.known = tuple(report["known"])
    rows = split_rows(case, report["seed"])
    X, y = case.X[rows.train], case.y[rows.train]

    saved = ForestBudget.from_forest(forest, X, y, case.feature_costs, 0, errors="oob")
    whole = np.ones(len(saved.ensemble.internal), np.bool_)
    score = float(forest.score(case.X[rows.test], case.y[rows.test]))
    _same("the mean cost of the saved forest", saved.cost(whole), chosen["cost"])
    _same("its number of internal nodes", len(whole), chosen["nodes"])
    _same("its score on the test rows", score, chosen["test_score"])

    n_trees = saved.ensemble.n_trees
    path = fit_forest(case, rows.train, None, 0.0, n_trees, report["seed"]).path_
    grown = ForestBudget.from_forest(path.forest, X, y, case.feature_costs, 0, errors="oob")
    if report.get("sizes"):
        kept = _kept(grown.ensemble, saved.ensemble)
        return _within_sizes(folder, path.forest, grown, report, kept, score)
    _same_points(path, report)
    return _found(folder, path, grown, report, saved.error(whole), saved.cost(whole), score)


def _verify_given(folder: Path, report: dict[str, Any]) -> dict[str, Any]:
    """Check the folder of a forest that was given: read it again, compute its path again, measure the saved one."""
    from prunopt.commands.forest import read_case, split_rows
    from prunopt.commands.forest_given import fitted_to, load_forest, load_saved
    from prunopt.forests import budget_path
    from prunopt.forests.boosters import Booster
    from prunopt.problems import ForestBudget

    inputs, chosen = report["inputs"], report["chosen"]
    costs = None if inputs["costs"] is None else Path(inputs["costs"])
    case = read_case(inputs["data"], inputs["target"], costs, tuple(inputs.get("keep") or ()))
    case.known = tuple(report["known"])
    forest = fitted_to(case, load_forest(inputs["forest"]))
    rows = split_rows(case, report["seed"])
    X, y, prices = case.X[rows.train], case.y[rows.train], case.feature_costs
    saved = load_saved(next(folder / name for name in FORESTS if (folder / name).is_file()), report["table"])
    booster = isinstance(saved, Booster)
    task = forest.task(X, y, prices) if booster else ForestBudget.from_forest(forest, X, y, prices, 0)
    kept = _kept(task.ensemble, saved.ensemble if booster else TreeEnsemble.from_sklearn(saved))
    test, labels = case.X[rows.test], case.y[rows.test]
    if booster:
        right = np.asarray(saved.predict(test)) == labels
        squares = (
            np.square(np.asarray(saved.predict(test), np.float64) - labels) if not case.is_classification else right
        )
        score = float(right.mean()) if case.is_classification else 1.0 - float(squares.mean() / np.var(labels))
    else:
        with warnings.catch_warnings():  # the columns were matched by name already
            warnings.filterwarnings("ignore", "X does not have valid feature names", UserWarning)
            score = float(saved.score(test, labels))
    # A booster's file holds single precision.
    tolerance = 1e-5 if booster else TOLERANCE
    _same("the mean cost of the saved forest", task.cost(kept), chosen["cost"])
    _same("its number of internal nodes", int(kept.sum()), chosen["nodes"])
    _same("its score on the test rows", score, chosen["test_score"], tolerance)
    if report.get("sizes"):
        return _within_sizes(folder, forest, task, report, kept, score)
    path = budget_path(forest, X, y, prices)
    _same_points(path, report)
    return _found(folder, path, task, report, task.error(kept), task.cost(kept), score)


def _within_sizes(
    folder: Path, forest: Any, task: Any, report: dict[str, Any], kept: Bools, score: float
) -> dict[str, Any]:
    """Check a pruning within sizes: what it uses of them, and the bound, by the same search again."""
    from prunopt.core.budget import Budget
    from prunopt.forests.size_budgets import uses_of, within_sizes

    chosen, stated = report["chosen"], report["sizes"]
    budgets = [Budget(use["resource"], limit=use["limit"]) for use in stated]
    for use, said in zip(uses_of(task, budgets, kept), stated, strict=True):
        _same(f"the use of {use.resource}", use.used, said["used"])
        _same(f"the {use.resource} of the unpruned forest", use.unpruned, said["unpruned"])
        if use.used > use.limit * (1 + TOLERANCE):
            raise CertificateError(f"the budget of {use.resource} is {use.limit:g}, the saved forest uses {use.used:g}")
    error = task.error(kept)
    _same("the objective", error, chosen["objective"])
    again = within_sizes(forest, task, budgets)
    _same_points(again.path, report, "size")
    bound = float(again.solution.bound)
    _confirm(chosen["bound"], bound)
    found = error, task.cost(kept), score
    return _checked(folder, again.path, found, error, min(bound, error, float(chosen["bound"])))


def _found(
    folder: Path, path: Any, task: Any, report: dict[str, Any], error: float, cost: float, score: float
) -> dict[str, Any]:
    """Return what was checked, once the objective and the bound are confirmed."""
    return _checked(folder, path, (error, cost, score), *_proven(path, task, report, error, cost))


def _checked(
    folder: Path, path: Any, found: tuple[float, float, float], objective: float, bound: float
) -> dict[str, Any]:
    error, cost, score = found
    return {
        "folder": str(folder),
        "cost": cost,
        "tree_error": error,
        "test_score": score,
        "objective": objective,
        "bound": bound,
        "gap": relative_gap(objective, bound),
        "points": len(path.points),
        "largest_gap_on_the_path": max(p.gap for p in path.points),
    }


def _proven(path: Any, task: Any, report: dict[str, Any], error: float, cost: float) -> tuple[float, float]:
    """Return the objective and what is proven about it again; a stated bound beyond that is not confirmed."""
    from prunopt.forests.selection import within_budget

    chosen, budget = report["chosen"], report["budget"]
    if budget is not None:
        objective, bound = error, float(path.solution(budget=budget).bound)
        if chosen["bound"] > bound:
            bound = max(bound, float(within_budget(path, task, budget)[0].bound))
    else:
        penalty = report["path"][chosen["point"]]["penalty"] if chosen["penalty"] is None else chosen["penalty"]
        objective, bound = error + penalty * cost, float(path.solution(penalty=penalty).bound)
    _same("the objective", objective, chosen["objective"])
    _confirm(chosen["bound"], bound)
    return objective, min(bound, objective, float(chosen["bound"]))


def _confirm(stated: float, bound: float) -> None:
    if stated > bound + TOLERANCE * max(1.0, abs(bound)):
        raise CertificateError(f"the bound: the report states {stated:g}, only {bound:g} is confirmed")


def _kept(whole: TreeEnsemble, pruned: TreeEnsemble) -> Bools:
    """Return which internal nodes of a forest the pruned one keeps; its nodes and leaf values must be the forest's."""
    require(whole.n_trees == pruned.n_trees, "the saved forest", f"have {whole.n_trees} trees", pruned.n_trees)
    split = np.zeros(whole.n_nodes, np.bool_)
    pairs = list(zip(whole.offsets[:-1].tolist(), pruned.offsets[:-1].tolist(), strict=True))
    while pairs:
        h, p = pairs.pop()
        if pruned.left[p] < 0:
            if not np.allclose(pruned.value[p], whole.value[h], rtol=1e-5, atol=1e-6):
                raise CertificateError(f"the saved forest has a leaf of {pruned.value[p]}, the forest {whole.value[h]}")
            continue
        same = whole.left[h] >= 0 and pruned.feature[p] == whole.feature[h]
        if not same or not np.isclose(pruned.threshold[p], whole.threshold[h], rtol=1e-6):
            raise CertificateError("the saved forest has a test that the forest has not")
        split[h] = True
        pairs += [(int(whole.left[h]), int(pruned.left[p])), (int(whole.right[h]), int(pruned.right[p]))]
    return split[whole.internal]


def _same_points(path: Any, report: dict[str, Any], cost: str = "cost") -> None:
    _same("the number of points of the path", len(path.points), len(report["path"]))
    for k, (point, stated) in enumerate(zip(path.points, report["path"], strict=True)):
        for name, found in (
            ("penalty", point.penalty),
            (cost, point.expected_cost),
            ("tree_error", point.training_error),
        ):
            _same(f"the {name.replace('_', ' ')} of point {k}", found, stated[name])


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
        numbers = [report["budget"], *(report["chosen"][key] for key in ("cost", "nodes", "test_score", "objective"))]
        numbers += [report["chosen"][key] for key in ("bound", "penalty", "point")]
        numbers += [point[key] for point in report["path"] for key in ("penalty", "cost", "tree_error")]
        sizes = report.get("sizes") or []
        numbers += [use[key] for use in sizes for key in ("limit", "used", "unpruned")]
        numbers += [point["size"] for point in report["path"]] if sizes else []
        for number in numbers:
            require(isinstance(number, int | float | None), "the report", "hold numbers", number)
        return dict(report)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as a report ({error})") from None


def _same(what: str, found: float, stated: float, tolerance: float = TOLERANCE) -> None:
    if abs(found - stated) > tolerance * max(1.0, abs(stated)):
        raise CertificateError(f"{what}: the report states {stated:g}, it is {found:g}")
