"""``prunopt forest``: a forest under a feature budget, from a table and its prices to a pruned forest with a proof."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from prunopt.commands.output import guarded, note, number, plain, print_json, progress, table

if TYPE_CHECKING:
    from prunopt.forests.path import BudgetPath, Curve

SHOWN = 18  # rows of the table printed; path.csv has all of them
TEST_SHARE = 0.3


@dataclass
class _Case:
    """The rows, their prices, and what is to be said about them."""

    name: str
    X: Any
    y: Any
    names: tuple[str, ...]
    costs: dict[str, float]
    currency: str
    notes: list[str] = field(default_factory=list)

    @property
    def is_classification(self) -> bool:
        return bool(np.asarray(self.y).dtype.kind != "f")


@guarded
def forest(
    data: Annotated[str, typer.Option(help="heart, hypothyroid, or a CSV file with a header.")] = "heart",
    target: Annotated[str | None, typer.Option(help="The column to predict, for a CSV file.")] = None,
    costs: Annotated[Path | None, typer.Option(help='JSON: {"feature": price, ...} for every feature.')] = None,
    budget: Annotated[float | None, typer.Option(help="Greatest mean cost of a row.")] = None,
    price: Annotated[float | None, typer.Option(help="Price of one unit of cost, in units of error.")] = None,
    trees: Annotated[int, typer.Option(help="Trees of the forest.")] = 40,
    out: Annotated[
        Path | None, typer.Option(help="Folder for path.csv, report.json, pareto.png, forest.skops.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same answer.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prune a random forest to what its features cost: the whole exact curve of accuracy against cost.

    Without options: heart disease, with the real prices of its tests. Fits a forest on 70 % of the rows, finds every
    optimal pruning on their out-of-bag errors, and measures each on the other 30 %.
    """
    from sklearn.model_selection import train_test_split

    if trees < 1:
        raise ValueError(f"--trees {trees}: give at least 1")
    with progress("forest", total=4) as tell:
        tell("reading the table")
        case = _read(data, target, costs)
        labels = case.y if case.is_classification else None
        if labels is not None and np.unique(labels, return_counts=True)[1].min() < 2:
            labels = None
        rows = np.arange(len(case.X))
        train, test = train_test_split(rows, test_size=TEST_SHARE, random_state=seed, stratify=labels)
        tell("growing and pruning the forest")
        model = _fit(case, train, budget, price, trees, seed)
        path: BudgetPath = model.path_
        tell("measuring every pruning")
        held_out, whole = path.curve(case.X[test], case.y[test]), path.unpruned(case.X[test], case.y[test])
        valid = _out_of_bag(path, case.X[train], case.y[train])
        report = _report(case, model, held_out, whole, valid, len(train), len(test), seed)
        if out is not None:
            tell("writing")
            _write(out, case, model, report, case.X[test], case.y[test])
    if as_json:
        print_json(report)
        return
    for line in case.notes:
        note(line)
    _show(report)
    if out is not None:
        print(f"Written: {', '.join(str(out / name) for name in report['files'])}")
        print(f"Load the forest: skops.io.load({str(out / 'forest.skops')!r}, trusted=['sklearn.tree._tree.Tree'])")


def _read(data: str, target: str | None, costs: Path | None) -> _Case:
    from prunopt.forests.datasets import load_heart, load_hypothyroid, read_costs, read_csv

    if data in ("heart", "hypothyroid"):
        if target is not None:
            raise ValueError(f"--target {target}: the data set {data} has its own; --target is for CSV files")
        found = load_heart() if data == "heart" else load_hypothyroid(measured_flags=False)
        case = _Case(data, found.X, found.y, found.feature_names, dict(found.feature_costs), found.currency)
        if data == "hypothyroid":
            case.notes.append("the six columns that say which test was measured are left out: they leak the diagnosis")
    else:
        if target is None:
            raise ValueError(f"--data {data}: name the column to predict with --target")
        sheet = read_csv(data, target)
        ones = dict.fromkeys(sheet.feature_names, 1.0)
        case = _Case(Path(data).name, sheet.X, sheet.y, sheet.feature_names, ones, "", list(sheet.notes))
        if costs is None:
            case.notes.append("no --costs given: every feature costs 1")
    if costs is not None:
        prices = read_costs(costs, case.names)
        case.costs = dict(zip(case.names, map(float, prices.costs), strict=True))
        case.currency = prices.currency
        if prices.common:
            case.notes.append("group discounts of the price list are not used: every test has its full price")
    if len(case.X) < 10:
        raise ValueError(f"--data {data}: {len(case.X)} rows are too few to fit, prune and test; give at least 10")
    return case


def _fit(case: _Case, train: Any, budget: float | None, price: float | None, trees: int, seed: int) -> Any:
    from sklearn.base import clone

    from prunopt.forests import BudgetedForestClassifier, BudgetedForestRegressor

    kind = BudgetedForestClassifier if case.is_classification else BudgetedForestRegressor
    grown = clone(kind()._forest()).set_params(n_estimators=trees)
    costs = np.array([case.costs[name] for name in case.names])
    model = kind(grown, feature_costs=costs, budget=budget, price=price, random_state=seed)
    return model.fit(case.X[train], case.y[train])


def _out_of_bag(path: BudgetPath, X: Any, y: Any) -> Curve:
    from prunopt.problems.forest_errors import tree_weights

    use = tree_weights(path.forest, "oob", path.ensemble.n_trees, np.ones(len(X))) > 0
    return path.vote(X, y, use=use)


def _report(
    case: _Case, model: Any, test: Curve, whole: Curve, valid: Curve, n_train: int, n_test: int, seed: int
) -> dict[str, Any]:
    path: BudgetPath = model.path_
    solution = model.solution_
    kept = [p.n_nodes for p in path.points]
    chosen = next((k for k, n in enumerate(kept) if n <= int(solution.value.sum())), len(kept) - 1)
    rows = [
        {
            "price": p.price,
            "cost": p.expected_cost,
            "test cost": float(test.expected_cost[k]),
            "tree error": p.training_error,
            "validation score": float(valid.score[k]),
            "test score": float(test.score[k]),
            "test standard error": float(test.standard_error[k]),
            "nodes": p.n_nodes,
            "gap": p.gap,
            "features": list(p.bought),
        }
        for k, p in enumerate(path.points)
    ]
    return plain(  # type: ignore[no-any-return]
        {
            "data": case.name,
            "rows": {"train": n_train, "test": n_test},
            "seed": seed,
            "currency": case.currency,
            "cost of all features": sum(case.costs.values()),
            "score": "accuracy" if case.is_classification else "R^2",
            "unpruned": {
                "cost": float(whole.expected_cost[0]),
                "test score": float(whole.score[0]),
                "test standard error": float(whole.standard_error[0]),
                "nodes": len(path.lifetime),
            },
            "chosen": chosen,
            "objective": solution.objective,
            "bound": solution.bound,
            "gap": solution.gap,
            "largest gap on the path": max(p.gap for p in path.points),
            "complete": path.complete,
            "message": solution.message,
            "path": rows,
            "files": [],
        }
    )


def _show(report: dict[str, Any]) -> None:
    unit = report["currency"] or "units"
    rows, chosen = report["path"], report["chosen"]
    score = report["score"]
    if len(rows) > SHOWN:
        shown = sorted({*np.linspace(0, len(rows) - 1, SHOWN).astype(int).tolist(), chosen})
    else:
        shown = list(range(len(rows)))
    cells = [
        (
            "*" if k == chosen else "",
            number(rows[k]["price"], 3),
            f"{rows[k]['cost']:.2f}",
            f"{rows[k]['validation score']:.3f}",
            f"{rows[k]['test score']:.3f}",
            str(rows[k]["nodes"]),
            f"{rows[k]['gap']:.1e}" if rows[k]["gap"] else "0",
        )
        for k in shown
    ]
    whole = report["unpruned"]
    cells.insert(0, ("", "unpruned", f"{whole['cost']:.2f}", "", f"{whole['test score']:.3f}", str(whole["nodes"]), ""))
    who = "patient" if report["data"] in ("heart", "hypothyroid") else "row"
    heads = ("", "price", f"{unit} per {who}", f"validation {score}", f"test {score}", "nodes", "gap")
    print(table(heads, cells))
    if len(shown) < len(rows):
        print(f"({len(shown)} of {len(rows)} optimal prunings shown)")
    best = rows[chosen]
    error = best["test standard error"]
    print(
        f"* chosen: {best['cost']:.2f} {unit} per {who} instead of {whole['cost']:.2f}, "
        f"test {score} {best['test score']:.3f} (standard error {error:.3f}) instead of {whole['test score']:.3f}"
    )
    gap = report["largest gap on the path"]
    proof = "exactly" if gap == 0 else f"to within a relative gap of {gap:.1e}"
    done = "" if report["complete"] else " The search was stopped: the path is coarser than it could be."
    print(
        f"Proven: at its price, no pruning of this forest has a lower mean tree error plus price times cost on the "
        f"training rows than the line shown, {proof}, for every line.{done}"
    )


def _write(out: Path, case: _Case, model: Any, report: dict[str, Any], X: Any, y: Any) -> None:
    from prunopt.core.artifact import write_atomically, write_json

    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: it is a file; name a folder")
    out.mkdir(parents=True, exist_ok=True)
    heads = [name for name in report["path"][0] if name != "features"] + ["features"]
    with write_atomically(out / "path.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(heads)
        for row in report["path"]:
            writer.writerow([" ".join(row[h]) if h == "features" else row[h] for h in heads])
    files = ["path.csv", *_draw(out, case, model, report, X, y)]
    import skops.io

    with write_atomically(out / "forest.skops") as temporary:
        skops.io.dump(model.estimator_, temporary)
    report["files"] = [*files, "forest.skops", "report.json"]
    write_json(out / "report.json", report)


def _draw(out: Path, case: _Case, model: Any, report: dict[str, Any], X: Any, y: Any) -> list[str]:
    from prunopt.core.artifact import write_atomically

    try:
        from matplotlib.figure import Figure
    except ImportError:
        note("no picture: it needs matplotlib (pip install 'prunopt[plot]')")
        return []
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    ax = model.path_.plot(X, y, ax=figure.add_subplot(), unit=case.currency)
    best = report["path"][report["chosen"]]
    if case.is_classification:
        ax.plot(best["test cost"], 1 - best["test score"], "o", markersize=13, fillstyle="none", color="#D55E00")
        ax.annotate("chosen", (best["test cost"], 1 - best["test score"]), (8, 10), textcoords="offset points")
    ax.set_title(f"{case.name}: every optimal pruning, by what it costs")
    with write_atomically(out / "pareto.png") as temporary:
        figure.savefig(temporary, dpi=150)
    return ["pareto.png"]
