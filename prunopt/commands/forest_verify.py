"""Check what ``prunopt forest`` wrote: the saved forest against the rows, the report against the problem built anew."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from prunopt.core.files import read_json
from prunopt.core.solution import CertificateError, relative_gap

TREE = "sklearn.tree._tree.Tree"  # the one type beyond scikit-learn's estimators that a forest needs
TOLERANCE = 1e-9
LARGEST = 8 * 2**30  # bytes that a forest may unpack to


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
    from prunopt.commands.forest import fit_forest, read_case, split_rows
    from prunopt.problems import ForestBudget

    if not is_forest_folder(folder):
        raise ValueError(f"{folder}: no folder of prunopt forest; report.json and forest.skops are needed")
    report = _read_report(folder / "report.json")
    inputs, chosen = report["inputs"], report["chosen"]
    forest = read_forest(folder / "forest.skops")
    costs = None if inputs["costs"] is None else Path(inputs["costs"])
    case = read_case(inputs["data"], inputs["target"], costs)
    case.known = tuple(report["known"])
    rows = split_rows(case, report["seed"])
    X, y = case.X[rows.train], case.y[rows.train]

    saved = ForestBudget.from_forest(forest, X, y, case.prices, 0, errors="oob")
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


def _read_report(path: Path) -> dict[str, Any]:
    """Return the report, checked as far as it is read here."""
    try:
        report = read_json(path)
        if report.get("inputs") is None:
            raise ValueError("it does not say where the rows came from; run prunopt forest again")
        wanted = {"known": list, "seed": int, "path": list, "chosen": dict, "inputs": dict}
        for key, kind in wanted.items():
            if not isinstance(report[key], kind):
                raise ValueError(f"{key!r} is no {kind.__name__}")
        for key in ("data", "target", "costs"):
            if not isinstance(report["inputs"][key], str | None):
                raise ValueError(f"inputs[{key!r}] is no text")
        numbers = [report["budget"], *(report["chosen"][key] for key in ("cost", "nodes", "test score", "objective"))]
        numbers += [report["chosen"][key] for key in ("bound", "price", "point")]
        numbers += [point[key] for point in report["path"] for key in ("price", "cost", "tree error")]
        if not all(number is None or isinstance(number, int | float) for number in numbers):
            raise ValueError("a number is none")
        return dict(report)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as a report ({error})") from None


def read_forest(path: Path) -> Any:
    """Return the forest in a skops file.

    Raises
    ------
    ValueError
        If the file is damaged, unpacks to more than `LARGEST` bytes, or holds anything but a scikit-learn forest.
    """
    import skops.io
    from sklearn.ensemble import BaseEnsemble

    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > LARGEST:
            raise ValueError(f"it says that it unpacks to {size} bytes, more than {LARGEST}")
        strange = set(skops.io.get_untrusted_types(file=path)) - {TREE}
        if strange:
            raise ValueError(f"it holds {', '.join(sorted(strange))}; only scikit-learn forests are read")
        forest = skops.io.load(path, trusted=[TREE])
        for tree in np.ravel(getattr(forest, "estimators_", ())):
            _check_tree(tree.tree_, int(forest.n_features_in_))
    except OSError:
        raise
    except Exception as error:  # skops has no errors of its own: a damaged file ends in any of Python's
        raise ValueError(f"{path}: cannot be read as a forest ({type(error).__name__}: {error})") from None
    if not isinstance(forest, BaseEnsemble):
        raise ValueError(f"{path}: holds a {type(forest).__name__}, no forest")
    return forest


def _check_tree(tree: Any, n_features: int) -> None:
    """Refuse a tree whose links leave its arrays: scikit-learn follows them unchecked, in C."""
    if not 0 < tree.node_count <= tree.capacity or tree.n_features != n_features:
        raise ValueError(f"a tree of {tree.node_count} nodes and {tree.n_features} features, {n_features} are needed")
    nodes, left, right = np.arange(tree.node_count), tree.children_left, tree.children_right
    leaf = left == -1
    inner = (left > nodes) & (left < len(nodes)) & (right > nodes) & (right < len(nodes))
    inner &= (tree.feature >= 0) & (tree.feature < n_features)
    if not np.all(np.where(leaf, right == -1, inner)):
        raise ValueError("a node of a tree that leads nowhere")


def _same(what: str, found: float, stated: float) -> None:
    if abs(found - stated) > TOLERANCE * max(1.0, abs(stated)):
        raise CertificateError(f"{what}: the report states {stated:g}, it is {found:g}")
