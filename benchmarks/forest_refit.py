"""Leaf refit, and the randomized mixture: test error within a budget.

python -m benchmarks.forest_refit
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.model_selection import train_test_split

from benchmarks.machine import described, seconds
from benchmarks.results import load, store
from prunopt.forests import BudgetedForestClassifier, BudgetedForestRegressor

SETS = {
    "breast_cancer": (load_breast_cancer, BudgetedForestClassifier),
    "digits": (load_digits, BudgetedForestClassifier),
    "diabetes": (load_diabetes, BudgetedForestRegressor),
}
SHARES = (10, 20, 40)  # per cent of the cost of all features
SEEDS = 5
WAYS: dict[str, dict[str, Any]] = {
    "pruned": {},
    "randomised": {"randomised": True},
    "refit": {"refit_leaves": True},
}


def main() -> None:
    """Print and save one row for each data set and budget."""
    rows = load("forest_refit", "figures", [])
    for name, (data, kind) in SETS.items():
        X, y = data(return_X_y=True)
        costs = np.random.default_rng(0).integers(1, 20, X.shape[1]).astype(float)
        costs *= 100 / costs.sum()
        for share in SHARES:
            if any((row["data"], row["budget"]) == (name, share) for row in rows):
                continue  # done in an earlier run; delete the file to measure everything again
            scores: dict[str, list[float]] = {way: [] for way in WAYS}
            cost: dict[str, list[float]] = {way: [] for way in WAYS}
            taken: dict[str, list[float]] = {way: [] for way in WAYS}
            for seed in range(SEEDS):
                stratify = y if kind is BudgetedForestClassifier else None
                A, B, a, b = train_test_split(X, y, test_size=0.4, random_state=seed, stratify=stratify)
                for way, options in WAYS.items():
                    model = kind(feature_costs=costs, budget=share, random_state=seed, **options)
                    taken[way].append(seconds(partial(model.fit, A, a)))
                    scores[way].append(float(model.score(B, b)))
                    cost[way].append(float(model.predict_on_demand(B).cost.mean()))
            row = {
                "data": name,
                "budget": share,
                "score": {way: float(np.mean(s)) for way, s in scores.items()},
                "test cost": {way: float(np.mean(p)) for way, p in cost.items()},
                "seconds": {way: float(np.median(t)) for way, t in taken.items()},
            }
            rows.append(row)
            print(row, flush=True)
            store("forest_refit", {"figures": rows, "machine": described()})


if __name__ == "__main__":
    main()
