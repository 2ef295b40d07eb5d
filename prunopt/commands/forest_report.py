"""What ``prunopt forest`` says, draws and writes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prunopt.commands.forest_splits import Splits
from prunopt.commands.output import note, number, plain, table

if TYPE_CHECKING:
    from prunopt.core.solution import Solution
    from prunopt.forests._votes import Curve
    from prunopt.forests.path import BudgetPath
    from prunopt.problems.forest.feature_costs import FeatureCosts

SHOWN = 18  # rows of the table printed; path.csv has all of them


@dataclass
class Case:
    """The rows, their costs, and what is to be said about them."""

    name: str
    X: Any
    y: Any
    names: tuple[str, ...]
    costs: dict[str, float]
    currency: str
    notes: list[str] = field(default_factory=list)
    listed: Any = None  # a cost list with discounts, or several currencies; None = `costs`
    known: tuple[str, ...] = ()
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)  # how texts and numbers of a table are read
    styles: dict[str, str] = field(default_factory=dict)

    @property
    def feature_costs(self) -> FeatureCosts:
        """What the features cost."""
        from prunopt.problems.forest.feature_costs import FeatureCosts

        given = [self.costs[name] for name in self.names] if self.listed is None else self.listed
        return FeatureCosts.of(given, len(self.names), self.names, None, list(self.known) or None)

    @property
    def is_classification(self) -> bool:
        """Whether the target holds labels, not numbers."""
        return bool(np.asarray(self.y).dtype.kind != "f")

    @property
    def who(self) -> str:
        """What a row is."""
        return "patient" if self.name in ("heart", "hypothyroid") else "row"


@dataclass(frozen=True)
class Rows:
    """Numbers of the rows to fit and prune on, to choose by, and to test on."""

    train: NDArray[np.int64]
    valid: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """All optimal prunings of a forest, and the one that is handed out."""

    path: BudgetPath
    solution: Solution[NDArray[np.bool_]]
    forest: Any
    cost: float
    sizes: tuple[dict[str, Any], ...] = ()  # resource, limit, used, unpruned of each size that was limited


@dataclass(frozen=True)
class Analysis:
    """What was chosen for which rows, and its repetitions on other splits."""

    case: Case
    choice: Choice
    rows: Rows
    budget: float | None
    many: Splits | None
    seed: int

    def curves(self, path: BudgetPath) -> tuple[Curve, Curve]:
        """Return the curves of a path on the validation rows and on the test rows."""
        X, y, rows = self.case.X, self.case.y, self.rows
        return path.curve(X[rows.valid], y[rows.valid]), path.curve(X[rows.test], y[rows.test])


def build_report(a: Analysis) -> dict[str, Any]:
    """Return everything that is to be told, in JSON's own types."""
    case, path, solution = a.case, a.choice.path, a.choice.solution
    valid, test = a.curves(path)
    costs = [p.expected_cost for p in path.points]
    if a.choice.sizes:  # the points' costs are sizes
        costs = path.curve(case.X[a.rows.train], case.y[a.rows.train]).expected_cost.tolist()
    whole = path.unpruned(case.X[a.rows.test], case.y[a.rows.test])
    column = {f"x{k}": name for k, name in enumerate(case.names)}

    def row(valid: Curve, test: Curve, k: int, cost: float) -> dict[str, Any]:
        mean = {} if a.many is None else {"mean_test_score_over_splits": a.many.at(cost)}
        return {
            "cost": cost,
            "test_cost": float(test.expected_cost[k]),
            "validation_score": float(valid.score[k]),
            "test_score": float(test.score[k]),
            "test_standard_error": float(test.standard_error[k]),
            **mean,
        }

    rows = [
        {
            "penalty": p.penalty,
            **row(valid, test, k, costs[k]),
            **({"size": p.expected_cost} if a.choice.sizes else {}),
            "tree_error": p.training_error,
            "nodes": p.n_nodes,
            "gap": p.gap,
            "features": [column.get(name, name) for name in p.acquired],
        }
        for k, p in enumerate(path.points)
    ]
    on_path = [k for k in range(len(rows)) if np.array_equal(path.lifetime > k, solution.value)]
    # The pruning within a budget need not be a point of the path; a path of that one point measures it.
    one = replace(path, points=path.points[:1], lifetime=solution.value.astype(np.int64))
    chosen = {
        "point": on_path[0] if on_path else None,
        **row(*a.curves(one), 0, float(a.choice.cost)),
        "nodes": int(solution.value.sum()),
        "objective": solution.objective,
        "bound": solution.bound,
        "gap": solution.gap,
        "status": solution.status.name,
        "message": solution.message,
    }
    splits = None
    if a.many is not None:
        splits = {
            "number": len(a.many.scores),
            "budgets": a.many.budgets,
            "mean_test_score": a.many.mean,
            "standard_deviation": a.many.spread,
            "unpruned_mean_test_score": float(a.many.unpruned.mean()),
            "standard_deviation_at_the_chosen_cost": float(a.many.spread[a.many.index(chosen["cost"])]),
        }
    return plain(  # type: ignore[no-any-return]
        {
            "data": case.name,
            "rows": {"train": len(a.rows.train), "validation": len(a.rows.valid), "test": len(a.rows.test)},
            "seed": a.seed,
            "currency": case.currency,
            "cost_of_all_features": case.feature_costs.total,
            "known": list(case.known),
            "score": "accuracy" if case.is_classification else "R^2",
            "budget": a.budget,
            **({"sizes": list(a.choice.sizes), "size": size_of(a.choice.sizes)} if a.choice.sizes else {}),
            "unpruned": {
                "cost": float(whole.expected_cost[0]),
                "test_score": float(whole.score[0]),
                "test_standard_error": float(whole.standard_error[0]),
                "nodes": len(path.lifetime),
            },
            "chosen": chosen,
            "splits": splits,
            "largest_gap_on_the_path": max(p.gap for p in path.points),
            "complete": path.complete,
            "path": rows,
            "files": [],
        }
    )


def size_of(sizes: Sequence[dict[str, Any]]) -> str:
    """Return what the size of a point counts."""
    return str(sizes[0]["resource"]) if len(sizes) == 1 else "share of the budgets"


def with_penalties(report: Any) -> Any:
    """Return a report whose penalties may have their old name, "price"."""
    for part in (*report["path"], report["chosen"]):
        if "price" in part:
            part["penalty"] = part.pop("price")
    return report


def shown_rows(count: int, chosen: int | None) -> list[int]:
    """Return which of the points of a path are shown first: at most `SHOWN`, evenly spread, and the chosen one."""
    if count <= SHOWN:
        return list(range(count))
    return sorted({*np.linspace(0, count - 1, SHOWN).astype(int).tolist(), *([] if chosen is None else [chosen])})


def show(report: dict[str, Any], who: str) -> None:
    """Print the table, the choice, and what is proven."""
    unit, score, splits = report["currency"] or "units", report["score"], report["splits"]
    rows, chosen, whole = report["path"], report["chosen"], report["unpruned"]
    k = chosen["point"]
    shown = shown_rows(len(rows), k)

    def cells(mark: str, penalty: str, row: dict[str, Any]) -> tuple[str, ...]:
        mean = (f"{row['mean_test_score_over_splits']:.3f}",) if splits else ()
        scores = (f"{row['validation_score']:.3f}", f"{row['test_score']:.3f}", *mean)
        gap = number(row["gap"], 2) if row["gap"] else "0"
        size = (number(row["size"], 4) if "size" in row else "",) if "size" in report else ()
        return (mark, penalty, *size, f"{row['cost']:.2f}", *scores, str(row["nodes"]), gap)

    means = (f"{splits['unpruned_mean_test_score']:.3f}",) if splits else ()
    head = (f"{splits['number']} splits",) if splits else ()
    lines = [(rows[i]["cost"], cells("*" if i == k else "", number(rows[i]["penalty"], 3), rows[i])) for i in shown]
    if k is None:
        lines.append((chosen["cost"], cells("*", "budget", chosen)))
    unpruned = (
        "",
        "unpruned",
        *(("",) if "size" in report else ()),
        f"{whole['cost']:.2f}",
        "",
        f"{whole['test_score']:.3f}",
        *means,
        str(whole["nodes"]),
        "",
    )
    size = (report["size"],) if "size" in report else ()
    nodes = "internal nodes" if size else "nodes"
    heads = ("", "penalty", *size, f"{unit} per {who}", f"validation {score}", f"test {score}", *head, nodes, "gap")
    print(table(heads, [unpruned, *(line for _, line in sorted(lines, key=lambda pair: -pair[0]))]))
    if len(shown) < len(rows):
        print(f"({len(shown)} of {len(rows)} optimal prunings shown)")
    print(
        f"* chosen: {chosen['cost']:.2f} {unit} per {who} instead of {whole['cost']:.2f}, test {score} "
        f"{chosen['test_score']:.3f} (standard error {chosen['test_standard_error']:.3f}) instead of "
        f"{whole['test_score']:.3f}"
        if score == "accuracy"
        else f"* chosen: {chosen['cost']:.2f} {unit} per {who} instead of {whole['cost']:.2f}, test {score} "
        f"{chosen['test_score']:.3f} instead of {whole['test_score']:.3f}"
    )
    if splits:
        print(
            f"Mean over {splits['number']} random splits, best point of each path within that cost: "
            f"{chosen['mean_test_score_over_splits']:.3f} (standard deviation from split to split "
            f"{splits['standard_deviation_at_the_chosen_cost']:.3f}) instead of "
            f"{splits['unpruned_mean_test_score']:.3f}; {report['rows']['test']} test rows decide little on their own."
        )
    for line in size_lines(report, unit, who):
        print(line)
    print(proof(report, unit, who))


def proof(report: dict[str, Any], unit: str, who: str) -> str:
    """One line: what the certificate proves."""
    gap = report["largest_gap_on_the_path"]
    exactly = "exactly" if gap == 0 else f"to within a relative gap of {gap:.1e}"
    stopped = "" if report["complete"] else " The search was stopped: the path is coarser than it could be."
    what = report.get("minimized", "mean tree error")
    text = (
        f"Proven: at its penalty, no pruning of this forest has a lower {what} plus penalty times "
        f"{report.get('size', 'cost')} on the training rows than the line shown, {exactly}, for every line of the "
        f"path.{stopped}"
    )
    if report["budget"] is None and "sizes" not in report:
        return text
    chosen, within = report["chosen"], "these budgets" if len(report.get("sizes", ())) > 1 else "this budget"
    if report["budget"] is not None:
        within = f"{report['budget']:g} {unit} per {who}"
    return (
        f"{text} Within {within}, none has a {what} below "
        f"{number(chosen['bound'], 4)}; the chosen one has {number(chosen['objective'], 4)}."
    )


def size_lines(report: dict[str, Any], unit: str, who: str) -> list[str]:
    """One line for each size that was limited: what is measured, used, and allowed."""
    words = {
        "cost": f"{unit} per {who}",
        "nodes": "nodes, leaves included",
        "trees": "trees that split",
        "bytes": "bytes of scikit-learn's nodes",
        "features": f"{unit} for features, each paid once for the whole model",
    }
    return [
        f"Budget of {use['resource']}: {use['used']:g} used of {use['limit']:g} {words[use['resource']]}; "
        f"unpruned {use['unpruned']:g}."
        for use in report.get("sizes", ())
    ]


def write(out: Path, report: dict[str, Any], a: Analysis, others: Sequence[str] = ()) -> None:
    """Write every file of the report into ``out``, each whole or not at all, report.json last; ``others`` are there."""
    try:
        import skops.io  # noqa: F401
    except ImportError:
        raise ValueError("--out: saving a forest needs skops: pip install skops") from None

    from prunopt.core.files import write_atomically, write_json

    heads = [name for name in report["path"][0] if name != "features"] + ["features"]
    with write_atomically(out / "path.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(heads)
        for row in report["path"]:
            writer.writerow([" ".join(row[h]) if h == "features" else row[h] for h in heads])
    files = ["path.csv", *_draw(out, report, a)]
    report["files"] = [*others, *files, save_forest(out, a.choice.forest), "report.json"]
    write_json(out / "report.json", report)


def save_forest(out: Path, forest: Any) -> str:
    """Write a forest into a folder in its own format, and return the file's name."""
    import skops.io

    from prunopt.core.files import write_atomically
    from prunopt.forests.boosters import Booster
    from prunopt.forests.boosters.lightgbm_text import LightGBMModel

    if isinstance(forest, Booster):
        name = "forest.txt" if isinstance(forest, LightGBMModel) else "forest.json"
        forest.save(out / name)
        return name
    with write_atomically(out / "forest.skops") as temporary:
        skops.io.dump(forest, temporary)
    return "forest.skops"


def _draw(out: Path, report: dict[str, Any], a: Analysis) -> list[str]:
    from prunopt.core.files import write_atomically

    try:
        from matplotlib.figure import Figure
    except ImportError:
        note("no pictures: they need matplotlib (pip install 'prunopt[plot]')")
        return []
    from prunopt.plots import COLOURS, acquired_features, pareto
    from prunopt.plots.forests import MOST_GROUPS

    case = a.case
    path = a.choice.path
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    ax = figure.add_subplot()
    X, y = case.X[a.rows.test], case.y[a.rows.test]
    if a.choice.sizes:
        _draw_sizes(ax, report)
    elif case.is_classification and a.many is not None:
        test = path.curve(X, y)
        curves = {
            f"vote of the pruned forest, mean of {len(a.many.scores)} random splits (±1 standard deviation)": (
                a.many.budgets,
                1.0 - a.many.mean,
                a.many.spread,
            ),
            f"vote, the split of the table ({len(y)} test rows)": (test.expected_cost, test.error),
            "one tree on average, training rows out of bag (minimized)": path,
        }
        pareto(curves, ax, unit=case.currency, who=case.who, measure="share misclassified", step=True)
        at = (report["unpruned"]["cost"], 1.0 - float(a.many.unpruned.mean()))
        ax.plot(*at, "*", markersize=11, color=COLOURS[-1], label="vote of the unpruned forest, mean of the splits")
        ax.legend(framealpha=0.85, edgecolor="none", fontsize="small")
    else:
        path.plot(X, y, ax=ax, unit=case.currency)
        ax.set_xlabel(f"mean cost per {case.who} [{case.currency or 'unit of the feature costs'}]")
    if not a.choice.sizes:
        alone = replace(path, points=path.points[:1], lifetime=a.choice.solution.value.astype(np.int64)).curve(X, y)
        place = (float(alone.expected_cost[0]), float(alone.error[0]))
        ax.plot(*place, "o", markersize=13, fillstyle="none", color=COLOURS[3])
        ax.annotate("chosen", place, (-9, 9), textcoords="offset points", ha="right")
    ax.set_title(f"{case.name}: every optimal pruning, by {report.get('size', 'what it costs')}")
    with write_atomically(out / "pareto.png") as temporary:
        figure.savefig(temporary, dpi=150)
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    chosen = a.choice.solution.value
    point = replace(path.points[0], expected_cost=float(a.choice.cost))
    one = replace(path, points=(point,), lifetime=chosen.astype(np.int64))
    ax = one.plot_sizes(figure.add_subplot(), penalty=0.0, unit=case.currency)
    ax.set_title(f"{case.name}: the trees, before and after pruning")
    with write_atomically(out / "trees.png") as temporary:
        figure.savefig(temporary, dpi=150)
    if a.choice.sizes:  # features are drawn by cost
        return ["pareto.png", "trees.png"]
    figure = Figure(figsize=(7.2, 1.2 + 0.28 * min(len(case.names), MOST_GROUPS)), layout="constrained")
    names = dict(zip((f"x{k}" for k in range(len(case.names))), case.names, strict=True))
    ax = acquired_features(path, X, figure.add_subplot(), unit=case.currency, who=case.who, names=names)
    ax.set_title(f"{case.name}: what is acquired at which budget")
    with write_atomically(out / "features.png") as temporary:
        figure.savefig(temporary, dpi=150)
    return ["pareto.png", "trees.png", "features.png"]


def _draw_sizes(ax: Any, report: dict[str, Any]) -> None:
    """The score on test rows over the size of the model."""
    from prunopt.plots import COLOURS

    rows, chosen = report["path"], report["chosen"]
    marker = "o" if len(rows) < 40 else ""
    ax.plot([r["size"] for r in rows], [r["test_score"] for r in rows], marker=marker, color=COLOURS[0], label="path")
    whole = report["unpruned"]["test_score"]
    ax.axhline(whole, linestyle="--", color=COLOURS[1], label="unpruned forest")
    if len(report["sizes"]) == 1:
        at = report["sizes"][0]["used"]
        ax.plot(at, chosen["test_score"], "o", markersize=13, fillstyle="none", color=COLOURS[3], label="chosen")
    ax.set_xlabel(report["size"])
    ax.set_ylabel(f"test {report['score']}")
    ax.legend(framealpha=0.85, edgecolor="none", fontsize="small")
