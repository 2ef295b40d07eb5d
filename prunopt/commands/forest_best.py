"""The main job of ``prunopt forest``: the best model within a budget, what it reaches on unseen rows, its folder."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from prunopt.commands.forest_report import Case
from prunopt.commands.output import note, plain, table

SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "roc_auc": "area under the curve",
    "neg_log_loss": "-log loss",
    "misclassification_costs": "-cost of mistakes",
    "neg_mean_squared_error": "-MSE",
}
MODEL, PAGE = "model.skops", "model.json"


def misclassified(file: Path | None) -> dict[str, Any] | None:
    """Return the costs of wrong labels that a JSON file holds."""
    from prunopt.core.files import read_json
    from prunopt.core.validate import require

    if file is None:
        return None
    found = read_json(file)
    mend = 'write {"ill": {"well": 500}, "well": {"ill": 20}}: true label, said label, cost'
    require(isinstance(found, dict), "--misclassification-costs", "map true labels to costs of said ones", found, mend)
    return dict(found)


def best(
    case: Case, budget: float | None, seed: int, tell: Callable[[str], None], wishes: dict[str, Any] | None = None
) -> tuple[Any, dict[str, Any]]:
    """Return the fitted estimator, and what is to be told, in JSON's own types; ``wishes`` are further parameters."""
    from prunopt.forests import BudgetedClassifier, BudgetedRegressor

    kind = BudgetedClassifier if case.is_classification else BudgetedRegressor
    model = kind(feature_costs=case.feature_costs, budget=budget, random_state=seed, n_jobs=2, callback=tell)
    model.set_params(**(wishes or {}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the remarks are told below
        model.fit(case.X, case.y)
    model.set_params(callback=None, n_jobs=None)
    told = {
        "data": case.name,
        "rows": len(case.X),
        "seed": seed,
        "currency": case.currency,
        "cost_of_all_features": case.feature_costs.total,
        "known": list(case.known),
        "budget": budget,
        "wishes": {name: wish for name, wish in (wishes or {}).items() if wish is not None},
        "score": model.scoring_.name,
        "chosen": {
            "name": model.recipe_.words,
            "cost": model.expected_cost_,
            "training_cost": model.training_cost_,
            "stages": stages(model, case),
        },
        "unseen_rows": asdict(model.comparison_),
        "candidates": [asdict(judged) for judged in model.candidates_],
        "remarks": list(model.remarks_),
        "table": {
            "names": list(case.names),
            "categories": {name: list(texts) for name, texts in case.categories.items()},
            "styles": case.styles,
        },
        "files": [],
    }
    return model, plain(told)


def stages(model: Any, case: Case) -> list[dict[str, Any]]:
    """Return what the stages of the chosen model acquire, and how many of the rows it is fitted to get there."""
    from prunopt.forests.staged import StagedModel

    chosen = model.model_
    if not isinstance(chosen, StagedModel):
        return []
    _, at = chosen.stopped(np.asarray(case.X, np.float64))
    out, before = [], np.zeros(len(chosen.used), np.bool_)
    for s, stage in enumerate(chosen.stages):
        new = stage.groups & ~before
        names = [case.names[k] for k in np.flatnonzero(chosen.feature_costs.features(new))]
        out.append({"acquires": names, "share_of_rows": float(np.mean(at >= s))})
        before = stage.groups
    return out


def front(candidates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the candidates, by rising cost, that no cheaper one equals."""
    out: list[dict[str, Any]] = []
    for judged in candidates:
        if not out or judged["score"] > out[-1]["score"]:
            if out and judged["cost"] == out[-1]["cost"]:
                out.pop()
            out.append(judged)
    return out


def worth_showing(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the front of the candidates, the chosen one, and scikit-learn's default forest."""
    names = {judged["name"] for judged in front(report["candidates"])}
    names |= {report["chosen"]["name"], "scikit-learn's default forest on all features"}
    return [judged for judged in report["candidates"] if judged["name"] in names]


def show(report: dict[str, Any], who: str) -> None:
    """Print the candidates worth having, the choice, and what it reaches."""
    unit, found = report["currency"] or "units", report["unseen_rows"]
    score = SCORES[report["score"]]
    rows = [
        (
            "*" if judged["name"] == report["chosen"]["name"] else "",
            f"{judged['cost']:.2f}",
            f"{judged['score']:.3f}",
            f"{judged['difference']:+.3f} ± {judged['standard_error']:.3f}",
            judged["name"],
        )
        for judged in worth_showing(report)
    ]
    print(table(("", f"{unit} per {who}", score, "less default forest", "model"), rows, left=(4,)))
    print(f"* chosen of {len(report['candidates'])}: {report['chosen']['name']}")
    for k, stage in enumerate(report["chosen"]["stages"]):
        share = f"every {who}" if k == 0 else f"for {100 * stage['share_of_rows']:.0f} % of them"
        print(f"  {'first' if k == 0 else 'then'}, {share}: {', '.join(stage['acquires']) or 'nothing'}")
    print(
        f"Expected cost, cross-fitted: {report['chosen']['cost']:.2f} {unit} per {who}; the rows that the model is "
        f"fitted on pay {report['chosen']['training_cost']:.2f}. New rows may pay more."
    )
    print(
        f"On rows that neither fit nor choice saw ({found['folds']} folds, repeated {found['repeats']} times, "
        f"{found['rows']} rows): {score} {found['score']:.3f} (95 %: {found['score_low']:.3f} to "
        f"{found['score_high']:.3f}) for {found['cost']:.2f} {unit} per {who} (95 %: {found['cost_low']:.2f} to "
        f"{found['cost_high']:.2f})."
    )
    print(
        f"scikit-learn's default forest on the same rows: {found['default_score']:.3f} for "
        f"{found['default_cost']:.2f}; difference {found['difference']:+.3f} "
        f"(95 %: {found['low']:+.3f} to {found['high']:+.3f})."
    )
    if found["default_cost"] > 0:
        share = found["cost"] / found["default_cost"]
        print(f"In short: {100 * share:.0f} % of the money for {found['difference']:+.3f} of {score}.")


def write(out: Path, model: Any, report: dict[str, Any], who: str) -> None:
    """Write model, report and picture into the folder ``out``, each whole or not at all, the report last."""
    import skops.io

    from prunopt.core.files import write_atomically, write_json

    with write_atomically(out / MODEL) as temporary:
        skops.io.dump(model, temporary)
    report["files"] = [*_draw(out, report, who), MODEL, PAGE]
    write_json(out / PAGE, report)


def _draw(out: Path, report: dict[str, Any], who: str) -> list[str]:
    from prunopt.core.files import write_atomically

    try:
        from matplotlib.figure import Figure
    except ImportError:
        note("no picture: it needs matplotlib (pip install 'prunopt[plot]')")
        return []
    from prunopt.plots import COLOURS

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    ax = figure.add_subplot()
    worth, found = front(report["candidates"]), report["unseen_rows"]
    ax.step([j["cost"] for j in worth], [j["score"] for j in worth], where="post", color=COLOURS[0], label="candidates")
    ax.plot(found["default_cost"], found["default_score"], "*", markersize=12, color=COLOURS[1], label="default forest")
    x, y = found["cost"], found["score"]
    ax.errorbar(
        x,
        y,
        xerr=[[x - found["cost_low"]], [found["cost_high"] - x]],
        yerr=[[y - found["score_low"]], [found["score_high"] - y]],
        fmt="o",
        capsize=3,
        color=COLOURS[3],
        label="chosen, on unseen rows (95 %)",
    )
    ax.set_xlabel(f"mean cost per {who} [{report['currency'] or 'unit of the feature costs'}]")
    ax.set_ylabel(SCORES[report["score"]])
    ax.set_title(f"{report['data']}: what money buys")
    ax.legend(loc="lower right", frameon=False)
    with write_atomically(out / "tradeoff.png") as temporary:
        figure.savefig(temporary, dpi=150)
    return ["tradeoff.png"]


def read_model(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Return the estimator and the report of a folder that ``prunopt forest`` wrote.

    Raises
    ------
    ValueError
        If it is not such a folder, or the file is damaged or holds types that no such model has.
    """
    import skops.io

    from prunopt.core.files import read_json
    from prunopt.core.validate import Shown, invalid, require
    from prunopt.forests.skops_files import TREE, check_trees

    for name in (MODEL, PAGE):
        mend = "pass what prunopt forest wrote with --out"
        require((folder / name).is_file(), f"{folder}", f"hold {name}", Shown("none"), mend)
    try:
        report = read_json(folder / PAGE)
        spec = report["table"]
        fits = isinstance(spec["names"], list) and isinstance(spec["categories"], dict)
        require(fits and isinstance(spec["styles"], dict), "table", "say how the table is read", Shown("otherwise"))
        types = set(skops.io.get_untrusted_types(file=folder / MODEL))
        strange = {
            name for name in types if not name.startswith("prunopt.") and name not in (TREE, "fractions.Fraction")
        }
        require(not strange, "the file", "hold a model of prunopt alone", Shown(", ".join(sorted(strange))))
        model = skops.io.load(folder / MODEL, trusted=sorted(types))
        for forest in getattr(model.model_, "forests", ()):
            check_trees(forest)
    except OSError:
        raise
    except (KeyError, json.JSONDecodeError, TypeError, ValueError) as error:
        raise invalid(f"{folder}", "hold a model of prunopt forest", Shown(str(error))) from None
    except Exception as error:  # skops has no errors of its own: a damaged file ends in any of Python's
        given = Shown(f"{type(error).__name__}: {error}")
        raise invalid(f"{folder / MODEL}", "be a model of prunopt forest", given) from None
    return model, report
