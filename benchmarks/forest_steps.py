"""What each step of the grown model brings: the whole recipe against the recipe without it, at five budgets.

``python -m benchmarks.forest_steps run`` fills ``results/forest_steps.json.gz``, with ``table`` it prints the table.
The splits are those of `benchmarks.forest_accuracy`, numbers 100 to 102: not those that its table reports.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from benchmarks.forest_accuracy import split_of
from benchmarks.results import load, store
from prunopt.forests.boosting import BudgetedBoostingClassifier

SETS, SEEDS = ("heart", "hypothyroid", "magic", "spambase"), (100, 101, 102)
VARIANTS: dict[str, dict[str, Any]] = {
    "whole recipe": {},
    "without free trees": {"n_free_trees": 0},
    "pruned by training rows alone": {"profits": "train"},
    "five prices instead of eleven": {"n_penalties": 5},
}


def run() -> None:
    """Fill in what is missing."""
    found = load("forest_steps", default={})
    for seed in SEEDS:
        for name in SETS:
            for label, options in VARIANTS.items():
                key = f"{name}/{seed}/{label}"
                if key in found:
                    continue
                split = split_of(name, seed)
                X, y = split.both
                model = BudgetedBoostingClassifier(
                    feature_costs=split.costs, budgets=split.budgets, random_state=0, **options
                )
                model.fit(X, y, validation_rows=np.arange(len(y)) >= len(split.train[1]))
                answers = [model.at(float(b)).on_demand(split.test[0], None) for b in split.budgets]
                found[key] = [float((a.predictions == split.test[1]).mean()) for a in answers]
                store("forest_steps", {key: found[key]})
                print(key, found[key], flush=True)


def table() -> None:
    """Print the mean difference of each variant to the whole recipe, in points, with its standard error."""
    found = load("forest_steps")
    print("| variant | " + " | ".join(SETS) + " | all |\n|---|" + "---|" * (len(SETS) + 1))
    for label in list(VARIANTS)[1:]:
        cells, everything = [], []
        for name in SETS:
            pairs = [(found.get(f"{name}/{s}/{label}"), found.get(f"{name}/{s}/whole recipe")) for s in SEEDS]
            gaps = np.array([100 * (np.mean(a) - np.mean(b)) for a, b in pairs if a and b])
            everything += gaps.tolist()
            cells.append(_cell(gaps))
        print(f"| {label} | " + " | ".join([*cells, _cell(np.array(everything))]) + " |")


def _cell(gaps: np.ndarray[Any, Any]) -> str:
    error = gaps.std(ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else np.nan
    return f"{gaps.mean():+.2f} ± {error:.2f}" if len(gaps) else "-"


if __name__ == "__main__":
    table() if sys.argv[1:] == ["table"] else run()
