"""``prunopt forest``: a forest under a feature budget, from a table and its costs to a pruned forest with a proof."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from prunopt.commands import estimates
from prunopt.commands.forest_best import best, misclassified
from prunopt.commands.forest_best import show as show_best
from prunopt.commands.forest_best import write as write_model
from prunopt.commands.forest_given import EMBEDDED, choose, copy_costs, describe, fitted_to, load_forest, resolved
from prunopt.commands.forest_report import Analysis, Case, Choice, Rows, build_report, show, write
from prunopt.commands.forest_sizes import read_budgets, sized
from prunopt.commands.forest_splits import Splits, default_splits, repeated
from prunopt.commands.output import INTERRUPTED, fail, guarded, note, print_json, progress
from prunopt.core.files import written_together
from prunopt.core.validate import Shown, invalid, one_of, require, whole_number

if TYPE_CHECKING:
    from prunopt.forests.path import BudgetPath

SHARES = 0.6, 0.2, 0.2  # of the rows: training, validation, test


@guarded
def forest(
    data: Annotated[str, typer.Option(help="heart, hypothyroid, or a CSV file with a header.")] = "heart",
    target: Annotated[str | None, typer.Option(help="The column to predict, for a CSV file.")] = None,
    costs: Annotated[
        Path | None,
        typer.Option(help='JSON: {"feature": cost, ...}, or with groups and their common part, or several currencies.'),
    ] = None,
    known: Annotated[str | None, typer.Option(help="Features known already, hence free: age,sex")] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="Greatest mean cost of a row; or, with --forest and --path, a size of the model: nodes=500, trees=20, "
            "bytes=100kB, features=5 (their costs, each paid once); nodes=0.2x is a share. Several may be given."
        ),
    ] = None,
    budget_per_row: Annotated[
        float | None, typer.Option("--budget-per-row", help="Greatest cost of any single row.")
    ] = None,
    cost_scope: Annotated[
        str, typer.Option(help="row, or model: a feature is paid for once for the whole model.")
    ] = "row",
    scoring: Annotated[
        str | None,
        typer.Option(
            help="What is chosen by: accuracy, balanced_accuracy, roc_auc, neg_log_loss. [default: accuracy, "
            "or roc_auc where a label is rare]"
        ),
    ] = None,
    misclassification_costs: Annotated[
        Path | None,
        typer.Option(
            help='JSON: {"true label": {"said label": cost}} in the money of the features, which is then saved.'
        ),
    ] = None,
    class_weight: Annotated[str | None, typer.Option(help="balanced: labels count the same in fits.")] = None,
    keep: Annotated[
        str | None, typer.Option(help="Columns to use although they hold dates or name the rows: visit,patient")
    ] = None,
    given: Annotated[
        str | None,
        typer.Option(
            "--forest",
            metavar="FILE",
            help="Prune this forest, on rows it has not seen: FILE.skops, FILE.py:function, XGBoost's FILE.json, "
            "LightGBM's FILE.txt.",
        ),
    ] = None,
    path: Annotated[
        bool, typer.Option("--path", help="Instead, every optimal pruning of one forest, with proofs.")
    ] = False,
    penalty: Annotated[
        float | None, typer.Option(help="With --path (implied): multiplier of the cost, in units of error.")
    ] = None,
    price: Annotated[float | None, typer.Option(hidden=True, help="Old name of --penalty.")] = None,
    trees: Annotated[int | None, typer.Option(help="With --path (implied): trees of the forest. [default: 40]")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the model, its report and pictures.")] = None,
    splits: Annotated[
        int | None,
        typer.Option(
            help="With --path (implied): random splits for the mean curve, 0 for none. [default: 20 up to 1000 rows]"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same answer.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the best model within a budget: forests on chosen features, pruned forests, and boosting compete.

    Without options: heart disease, with the real costs of its tests; the first test of a group (drawing blood once)
    has the group's common part in its cost, other ones do not. Every candidate is judged by repeated cross-fitting on
    all rows, the chosen one is fitted on all of them, and what the whole rule reaches is measured on rows that neither
    fit nor choice has seen, against scikit-learn's default forest. Without a budget: the cheapest model that is not
    surely worse than the best, by two paired standard errors or two points. prunopt predict reads the
    folder that --out names.

    With --forest: every optimal pruning of a forest or booster that exists, on rows that it has not seen; the pruned
    one is written in its own format.

    A --budget for nodes, trees, bytes or features prunes that forest, or one that is grown, to this size.

    With --path: grows a forest on 60 % of the rows, finds every
    optimal pruning on their out-of-bag errors, measures each on two times 20 % of the rows (validation, test), and
    chooses the cheapest one whose validation error is within one standard error of the least, unless a budget or a
    penalty is given. Where rows are few, the test score is also averaged over many random splits.
    """
    if price is not None:
        note("--price is deprecated and goes with the next release; use --penalty")
        require(penalty is None, "--price", "be given without --penalty", price, "it is the old name of --penalty")
        penalty = price
    most, sizes = read_budgets(budget)
    if sizes:
        require(penalty is None, "--penalty", "be left out with a budget for a size", penalty)
        require(not splits, "--splits", "be left out with a budget for a size", splits, "one split is shown")
    if given is not None:
        require(trees is None and splits is None, "--forest", "be given without --trees and --splits", given)
        splits = 0
        both = Shown(f"--penalty {penalty} and --budget {most}")
        require(penalty is None or most is None, "--penalty", "be given, or --budget, not both", both)
    if sizes:
        path, splits = True, 0
    one_of("--cost-scope", cost_scope, ("row", "model"))
    if class_weight is not None:
        one_of("--class-weight", class_weight, ("balanced",))
    whole_number("--seed", seed, low=0, high=2**32 - 1)
    path = path or trees is not None or splits is not None or penalty is not None
    for name, value in (
        ("--budget-per-row", budget_per_row),
        ("--scoring", scoring),
        ("--misclassification-costs", misclassification_costs),
        ("--class-weight", class_weight),
        ("--cost-scope", None if cost_scope == "row" else cost_scope),
    ):
        mend = "they are for the model that is chosen from all kinds"
        require(value is None or not path, name, "be left out with --forest and --path", value, mend)
    trees = 40 if trees is None else whole_number("--trees", trees, low=1)
    whole_number("--splits", splits or 0, low=0)
    if out is not None:  # what cannot be written is better known before the work than after it
        require(out.is_dir() or not out.exists(), "--out", "be a folder", Shown(f"the file {out}"))
        out.mkdir(parents=True, exist_ok=True)
    with progress("forest", total=5) as tell:
        tell("reading the table")
        estimates.table(data, trees)
        kept = [name.strip() for name in keep.split(",")] if keep else []
        inputs: dict[str, Any] = {
            "data": data if data in EMBEDDED else str(Path(data).resolve()),
            "target": target,
            "costs": None if costs is None else str(costs.resolve()),
            "keep": kept,
        }
        case = read_case(data, target, costs, tuple(kept))
        case.known = tuple(name.strip() for name in known.split(",")) if known else ()
        for name in case.known:
            one_of("--known", name, case.names)
        estimates.forest(len(case.X), len(case.names), trees)
        forest = None if given is None else fitted_to(case, load_forest(given))
        if not path:
            wishes = {
                "budget_per_row": budget_per_row,
                "cost_scope": cost_scope,
                "scoring": scoring,
                "misclassification_costs": misclassified(misclassification_costs),
                "class_weight": class_weight,
            }
            model, told = best(case, most, seed, tell, wishes)
            told["inputs"] = inputs | {
                "misclassification_costs": (
                    None if misclassification_costs is None else str(misclassification_costs.resolve())
                ),
            }
            if out is not None:
                with written_together():
                    write_model(out, model, told, case.who)
    if not path:
        for line in told["remarks"]:
            note(line)
        if as_json:
            print_json(told)
            return
        for line in case.notes:
            note(line)
        show_best(told, case.who)
        if out is not None:
            print(f"Written: {', '.join(str(out / name) for name in told['files'])}")
            print(f"New rows: prunopt predict {out} --data NEW.csv")
        return
    with progress("forest", total=4) as tell:
        rows = split_rows(case, seed)
        tell("growing and pruning the forest" if forest is None else "pruning the forest")
        if sizes:
            grown = fit_forest(case, rows.train, None, 0.0, trees, seed).path_.forest if forest is None else forest
            choice = sized(case, rows, grown, sizes, "oob" if forest is None else "holdout")
        elif forest is None:
            choice = _choose(case, rows, most, penalty, trees, seed)
        else:
            choice = choose(case, rows, forest, most, penalty)
        tell("the same on other splits")
        n_splits = default_splits(len(case.X)) if splits is None else splits
        many = _repeat(case, choice.path, n_splits, trees, seed)
        tell("measuring every pruning")
        analysis = Analysis(case, choice, rows, most, many, seed)
        report = build_report(analysis)
        report["inputs"] = inputs | ({} if given is None else {"forest": resolved(given)})
        describe(report, case, choice)
        report["chosen"]["penalty"] = penalty
        if out is not None:
            tell("writing")
            with written_together():
                write(out, report, analysis, [] if costs is None else [copy_costs(costs, out)])
    if as_json:
        print_json(report)
    else:
        for line in case.notes:
            note(line)
        show(report, case.who)
        if out is not None:
            print(f"Written: {', '.join(str(out / name) for name in report['files'])}")
            if given is None:
                file = str(out / "forest.skops")
                print(f"Load the forest: skops.io.load({file!r}, trusted=['sklearn.tree._tree.Tree'])")
            print(f"New rows: prunopt predict {out} --data NEW.csv")
    if n_splits and (many is None or many.stopped):
        done = 0 if many is None else len(many.scores)
        fail(f"interrupted after {done} of {n_splits} splits; everything else is done", INTERRUPTED)


def read_case(data: str, target: str | None, costs: Path | None, keep: tuple[str, ...] = ()) -> Case:
    from prunopt.forests.datasets import load_heart, load_hypothyroid, read_costs, read_csv

    left_out: tuple[str, ...] = ()
    if data in EMBEDDED:
        require(target is None, "--target", f"be left out with --data {data}", target, "the data set has its own")
        require(not keep, "--keep", f"be left out with --data {data}", list(keep), "it has neither dates nor names")
        found = load_heart() if data == "heart" else load_hypothyroid(measured_flags=False)
        case = Case(data, found.X, found.y, found.feature_names, dict(found.feature_costs), found.currency)
        case.listed = found.costs()
        if data == "hypothyroid":
            case.notes.append("the six columns that say which test was measured are left out: they leak the diagnosis")
    else:
        if target is None:
            raise invalid("--target", f"name the column of {data} to predict", target)
        sheet = read_csv(data, target, keep=keep)
        left_out = sheet.left_out
        ones = dict.fromkeys(sheet.feature_names, 1.0)
        case = Case(Path(data).name, sheet.X, sheet.y, sheet.feature_names, ones, "", list(sheet.notes))
        case.categories, case.styles = sheet.categories, sheet.styles
        if costs is None:
            case.notes.append("no --costs given: every feature costs 1")
    if costs is not None:
        case.listed = read_costs(costs, case.names, left_out=left_out)
        case.currency = case.listed.currency
        alone = case.feature_costs.group_cost
        case.costs = dict(zip(case.names, map(float, alone), strict=True))
    require(len(case.X) >= 10, "--data", "have at least 10 rows to fit, prune and test", Shown(f"{len(case.X)} rows"))
    n_labels = len(np.unique(case.y))
    require(n_labels > 1, "--target", "have different values", Shown(f"the same one in every row of {target}"))
    given = Shown(f"{n_labels} different labels in {len(case.X)} rows")
    fits = not case.is_classification or n_labels <= len(case.X) / 2
    require(fits, "--target", "have labels that repeat", given, f"does {target} name the rows?")
    return case


def split_rows(case: Case, seed: int) -> Rows:
    """Rows to fit and prune on, to choose by, and to test on; every label in all of them where it has enough rows."""
    from sklearn.model_selection import train_test_split

    def labels(rows: NDArray[np.int64]) -> Any:
        given = case.y[rows] if case.is_classification else None
        return None if given is None or np.unique(given, return_counts=True)[1].min() < 2 else given

    everything = np.arange(len(case.X))
    rest, test = train_test_split(everything, test_size=SHARES[2], random_state=seed, stratify=labels(everything))
    share = SHARES[1] / (1 - SHARES[2])
    train, valid = train_test_split(rest, test_size=share, random_state=seed, stratify=labels(rest))
    return Rows(train, valid, test)


def _choose(case: Case, rows: Rows, budget: float | None, penalty: float | None, trees: int, seed: int) -> Choice:
    if budget is not None or penalty is not None:
        model = fit_forest(case, rows.train, budget, penalty, trees, seed)
        return Choice(model.path_, model.solution_, model.estimator_, model.expected_cost_)
    from prunopt.forests._votes import within_one_standard_error

    path: BudgetPath = fit_forest(case, rows.train, None, 0.0, trees, seed).path_
    valid = path.curve(case.X[rows.valid], case.y[rows.valid])
    point = path.points[within_one_standard_error(valid.error, valid.standard_error)]
    return Choice(path, path.solution(penalty=point.penalty), path.at(penalty=point.penalty), point.expected_cost)


def _repeat(case: Case, path: BudgetPath, n_splits: int, trees: int, seed: int) -> Splits | None:
    def analyse(this_seed: int) -> tuple[BudgetPath, Any, Any]:
        rows = split_rows(case, this_seed)
        # Only the path is wanted: at penalty 0 no search for a pruning is made.
        return fit_forest(case, rows.train, None, 0.0, trees, this_seed).path_, case.X[rows.test], case.y[rows.test]

    costs = np.array([p.expected_cost for p in path.points])
    return repeated(analyse, n_splits, costs, seed) if n_splits else None


def fit_forest(case: Case, train: Any, budget: float | None, penalty: float | None, trees: int, seed: int) -> Any:
    from sklearn.base import clone

    from prunopt.forests import BudgetedForestClassifier, BudgetedForestRegressor

    kind = BudgetedForestClassifier if case.is_classification else BudgetedForestRegressor
    grown = clone(kind()._forest()).set_params(n_estimators=trees)
    model = kind(grown, feature_costs=case.feature_costs, budget=budget, penalty=penalty, random_state=seed)
    return model.fit(case.X[train], case.y[train])
