"""``prunopt forest --forest F``: every optimal pruning of a forest or booster that exists, on rows it has not seen."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from prunopt.commands.forest_report import Case, Choice, Rows
from prunopt.core.arrays import Floats
from prunopt.core.files import read_json, write_atomically
from prunopt.core.validate import Shown, invalid, require

ENDINGS = "FILE.skops, FILE.py:function, XGBoost's FILE.json or LightGBM's FILE.txt"
PICKLES = ".pkl", ".pickle", ".joblib"
COSTS = "costs.json"
EMBEDDED = "heart", "hypothyroid"


def load_forest(given: str) -> Any:
    """Return the model that ``--forest`` names; nothing is unpickled."""
    from prunopt.forests.boosters import read_booster
    from prunopt.forests.skops_files import read_forest

    file, _, function = given.rpartition(":")
    if file.endswith(".py"):
        return _made(Path(file), function, given)
    path = Path(given)
    if path.suffix in PICKLES:
        mend = "files of pickle can run code; write it by skops.io.dump(forest, 'forest.skops')"
        raise invalid("--forest", f"be {ENDINGS}", given, mend)
    require(path.is_file(), "--forest", "be a file that exists", given)
    if path.suffix == ".skops":
        return read_forest(path)
    if path.suffix == ".json":
        _refuse_costs(path)
    if path.suffix in (".json", ".txt", ".ubj"):
        try:
            return read_booster(path)
        except ValueError as error:
            raise ValueError(f"--forest {given}: {error}") from None
    mend = "name the function that returns the forest, FILE.py:function" if path.suffix == ".py" else ""
    raise invalid("--forest", f"be {ENDINGS}", given, mend)


def _refuse_costs(path: Path) -> None:
    """Refuse a JSON file that is not a model: most likely the cost list."""
    try:
        found = read_json(path)
    except ValueError:
        return  # the reader of models says what is wrong
    model = isinstance(found, dict) and "learner" in found
    mend = "write it by save_model('model.json') of XGBoost; costs are given by --costs"
    held = f"{path} with {', '.join(map(repr, list(found)[:3]))}" if isinstance(found, dict) else str(path)
    require(model, "--forest", "be XGBoost's JSON of a model", Shown(held), mend)


def _made(file: Path, function: str, given: str) -> Any:
    require(file.is_file(), "--forest", "name a file that exists", given)
    spec = importlib.util.spec_from_file_location("prunopt_user_forest", file)
    if spec is None or spec.loader is None:
        raise invalid("--forest", "name a file that Python can load", given)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code: any of Python's
        text = Shown(f"{file} ({type(error).__name__}: {error})")
        raise invalid("--forest", "name a file that Python can run", text) from error
    make = getattr(module, function, None)
    if not callable(make):
        raise invalid("--forest", "name a function of the file", given)
    try:
        return make()
    except Exception as error:  # the user's own code: any of Python's
        kind = Shown(f"{given} ({type(error).__name__}: {error})")
        raise invalid("--forest", "name a function that takes nothing and returns a forest", kind) from error


def fitted_to(case: Case, forest: Any) -> Any:
    """Return what is pruned (a forest, or a `Booster`), the case's columns and labels brought into its terms."""
    from prunopt.forests.boosters import booster_of
    from prunopt.problems.forest.tree_ensemble import TreeEnsemble

    booster = booster_of(forest)
    ensemble = TreeEnsemble.from_sklearn(forest) if booster is None else booster.ensemble
    names, n = ensemble.feature_names, ensemble.n_features
    if names is not None and set(names) <= set(case.names):
        order = [case.names.index(name) for name in names]
        extra = [name for name in case.names if name not in names]
        if extra:
            case.notes.append(f"columns that the forest does not use are left out: {', '.join(extra)}")
            if case.listed is not None:
                case.listed = None
                case.notes.append("costs are those of each feature alone: shared parts need all columns of the list")
        case.X, case.names = np.ascontiguousarray(case.X[:, order]), tuple(names)
        case.costs = {name: case.costs[name] for name in names}
    else:
        missing = [] if names is None else [name for name in names if name not in case.names]
        given = Shown(f"{len(case.names)} columns" + (f" without {missing[0]!r}" if missing else ""))
        wanted = f"have the {n} columns of the forest" + (", by its names" if names is not None else ", in its order")
        require(names is None and len(case.names) == n, "--data", wanted, given)
    if ensemble.classes is None:
        require(not case.is_classification, "--target", "hold numbers, as the forest predicts", Shown("labels"))
        return forest if booster is None else booster
    if case.y.dtype.kind in "US" and ensemble.classes.dtype.kind in "iufb":  # a table's labels are texts
        numbers = {str(label): label for label in ensemble.classes.tolist()}
        if set(case.y.tolist()) <= set(numbers):
            case.y = np.array([numbers[label] for label in case.y.tolist()])
    strange = sorted(set(np.unique(case.y).tolist()) - set(ensemble.classes.tolist()), key=str)
    coded = booster is not None and ensemble.classes.tolist() == list(range(len(ensemble.classes)))
    if strange and coded and len(np.unique(case.y)) == len(ensemble.classes):
        assert booster is not None
        booster.rename(np.unique(case.y))
        pairs = ", ".join(f"{k} = {label}" for k, label in enumerate(np.unique(case.y)))
        case.notes.append(f"the model's classes are read as the sorted labels: {pairs}")
    else:
        require(not strange, "--target", f"hold labels of the forest, {ensemble.classes.tolist()}", strange[:3])
    return forest if booster is None else booster


def choose(case: Case, rows: Rows, forest: Any, budget: float | None, penalty: float | None) -> Choice:
    """Return every optimal pruning on the rows ``train``, and the one within the budget, or chosen on ``valid``."""
    from prunopt.forests import budget_path
    from prunopt.forests._votes import within_one_standard_error
    from prunopt.forests.boosters import booster_of
    from prunopt.forests.path import pruned_model
    from prunopt.forests.selection import within_budget
    from prunopt.problems.forest.forest_budget import ForestBudget

    X, y, costs = case.X[rows.train], case.y[rows.train], case.feature_costs
    path = budget_path(forest, X, y, costs)
    if budget is not None:
        booster = booster_of(forest)
        task = ForestBudget.from_forest(forest, X, y, costs, 0) if booster is None else booster.task(X, y, costs)
        solution, _, cost = within_budget(path, task, budget)
    else:
        at = penalty
        if at is None:
            valid = path.curve(case.X[rows.valid], case.y[rows.valid])
            at = path.points[within_one_standard_error(valid.error, valid.standard_error)].penalty
        solution = path.solution(penalty=at)
        cost = path.points[path.index(penalty=at)].expected_cost
    return Choice(path, solution, pruned_model(forest, path.ensemble, solution.value), float(cost))


def read_pruned(folder: Path) -> tuple[Any, dict[str, Any]] | None:
    """Return the pruned model of a folder and its report, None where the folder has no such model.

    The model predicts on demand: `predict_on_demand(rows)`, `predict_proba`, `classes_`, `feature_costs_`.
    """
    from prunopt.forests.datasets import load_heart, load_hypothyroid, read_costs

    files = [folder / name for name in ("forest.skops", "forest.json", "forest.txt") if (folder / name).is_file()]
    if not files or not (folder / "report.json").is_file():
        return None
    report = read_json(folder / "report.json")
    spec = report.get("table")
    require(isinstance(spec, dict), "table", "say how the table is read", None, "run prunopt forest again")
    model, names = load_saved(files[0], spec), tuple(spec["names"])
    listed: Any = report["costs"]
    data = report.get("inputs", {}).get("data")
    if listed is None and data in EMBEDDED and not (folder / COSTS).is_file():
        found = load_heart() if data == "heart" else load_hypothyroid(measured_flags=False)
        listed = found.costs()
    elif listed is None:
        require((folder / COSTS).is_file(), f"{folder}", f"hold {COSTS}", Shown("none"), "run prunopt forest again")
        listed = read_costs(folder / COSTS, names, left_out=spec.get("left_out", ()))
    case = Case("", None, None, names, {}, report["currency"], listed=listed, known=tuple(report["known"]))
    return _Pruned(model, case.feature_costs), report


def load_saved(file: Path, spec: dict[str, Any]) -> Any:
    """Return the model in a file of a folder; boosters get their labels from the report."""
    from prunopt.forests.boosters import booster_of

    found = load_forest(str(file))
    booster = booster_of(found)
    if booster is None:
        return found
    if spec.get("labels"):
        booster.rename(np.array(spec["labels"]))
    return booster


class _Pruned:
    """A scikit-learn forest or a booster, and its costs, as `prunopt predict` asks for them."""

    def __init__(self, forest: Any, costs: Any) -> None:
        self.forest, self.feature_costs_ = forest, costs
        classes = forest.model.classes if hasattr(forest, "model") else getattr(forest, "classes_", None)
        if classes is not None:
            self.classes_ = np.asarray(classes)

    def predict_on_demand(self, rows: Any, **options: Any) -> Any:
        """Return predictions, acquisitions and costs."""
        from prunopt.forests.on_demand import predict_on_demand

        return predict_on_demand(self.forest, rows, feature_costs=self.feature_costs_, **options)

    def predict_proba(self, rows: Any) -> Floats:
        """Return class probabilities."""
        with warnings.catch_warnings():  # the columns were matched by name already
            warnings.filterwarnings("ignore", "X does not have valid feature names", UserWarning)
            return np.asarray(self.forest.predict_proba(rows), np.float64)


def resolved(given: str) -> str:
    """Return what ``--forest`` names, its path made absolute."""
    file, colon, function = given.rpartition(":")
    return f"{Path(file).resolve()}:{function}" if colon and file.endswith(".py") else str(Path(given).resolve())


def describe(report: dict[str, Any], case: Case, choice: Choice) -> None:
    """Put into a report what new rows need: names, notations, labels, costs."""
    from prunopt.forests.boosters import Booster

    booster = isinstance(choice.path.forest, Booster)
    classes = choice.path.ensemble.classes
    report["minimized"] = "second-order surrogate of the loss" if booster else "mean tree error"
    report["table"] = {
        "names": list(case.names),
        "categories": {name: list(texts) for name, texts in case.categories.items()},
        "styles": case.styles,
        "labels": None if classes is None else classes.tolist(),
    }
    report["costs"] = case.costs if case.listed is None else None


def copy_costs(costs: Path, out: Path) -> str:
    """Keep the cost list in the model's folder, and return the file's name."""
    with write_atomically(out / COSTS) as temporary:
        temporary.write_bytes(costs.read_bytes())
    return COSTS
