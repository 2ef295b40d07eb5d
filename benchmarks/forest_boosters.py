"""Boosters of XGBoost and LightGBM pruned to a feature budget, against what the same library offers.

``python -m benchmarks.forest_boosters run [--sets ...] [--seeds ...] [--methods ...]`` fills
``results/forest_boosters.json.gz`` with one entry for each (set, seed, method), skipping those that are there; ``python
-m benchmarks.forest_boosters table`` prints the differences. XGBoost is not a requirement of the benchmarks: install it
for its two methods. LightGBM's own means is cost-effective boosting (CEGB), XGBoost's none: there the peer is the model
of the best features by gain that fit into the budget. The splits are those of `forest_accuracy` with other seeds.

Pruned: models of a few shapes (LightGBM's also with a few of its own penalties), their exact paths with profits on the
training rows; the path's costliest point within each of a dozen costs is a candidate. Every method chooses on the same
validation rows and fits its choice again on training and validation rows together.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.forest_accuracy import split_of
from benchmarks.forest_peers import (
    Candidate,
    Predictor,
    Split,
    _cegb_model,
    cegb,
    chosen_within,
    largest_tradeoff,
    majority,
    measured,
    n_classes,
)
from benchmarks.results import load, store
from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.forests import budget_path
from prunopt.forests.boosters import Booster, booster_of
from prunopt.problems.forest.feature_costs import FeatureCosts

TABLE = "forest_boosters"
# The recipes were fixed on none of them; that of pruned best features was made after figures of the first three.
SEEDS = (20, 21, 22, 23, 24, 25)
LEVELS = 2.0 ** (np.arange(-15, 1) / 3.0)  # costs of the candidates, as shares of the cost of all features
SHAPES = ((0.1, 15, 100), (0.4, 8, 60), (0.3, 31, 12))  # learning rate, leaves, rounds
PENALTIES = (0.0, 0.003, 0.02, 0.1, 0.3)  # shares of the largest of LightGBM's own that acquires anything


def grown(library: str, X: Floats, y: Ints, split: Split, shape: tuple[float, int, int], tradeoff: float) -> Any:
    """Return a model of the library."""
    rate, leaves, rounds = shape
    classes = n_classes(split)
    if library == "lightgbm":
        return _cegb_model(X, y, split.costs, classes, rate, leaves, rounds, tradeoff)
    import xgboost

    options: dict[str, Any] = {
        "objective": "binary:logistic" if classes == 2 else "multi:softprob", "eta": rate, "max_leaves": leaves,
        "grow_policy": "lossguide", "max_depth": 0, "nthread": 1, "seed": 0,
    }  # fmt: skip
    if classes > 2:
        options["num_class"] = classes
    return xgboost.train(options, xgboost.DMatrix(X, y), rounds)


def predictor_of(model: Booster, costs: FeatureCosts) -> Predictor:
    """Return what a booster predicts and asks for."""

    def predict(X: Floats) -> tuple[Floats, Bools]:
        from prunopt.problems.forest._routing import acquired_groups

        e = model.ensemble
        rows = e.rows(X)
        out = np.zeros((len(rows), len(costs.group_cost)), np.bool_)
        acquired_groups(rows, e.arrays, costs.group_of, costs.known_mask, e.left >= 0, out)
        return model.predict_proba(X), out

    return predict


def orders(split: Split, shape: tuple[float, int, int]) -> list[Ints]:
    """Return the features by XGBoost's gain, and by gain for a unit of cost."""
    gain = grown("xgboost", *split.train, split, shape, 0.0).get_score(importance_type="total_gain")
    worth = np.array([gain.get(f"f{k}", 0.0) for k in range(len(split.costs))])
    return [np.argsort(-worth), np.argsort(-worth / split.costs)]


def pruned(split: Split, library: str, subsets: bool = False) -> tuple[list[dict[str, Any]], float, int, float]:
    """Return records, seconds, the number of candidates, and the largest gap of all paths.

    With ``subsets``, models of the best features are pruned too: XGBoost has no penalties that it could grow by.
    """
    start, gaps = time.perf_counter(), [0.0]
    top = largest_tradeoff(split) if library == "lightgbm" else 0.0
    total = float(split.costs.sum())
    features = FeatureCosts.of(split.costs, len(split.costs))
    candidates = [majority(split)]
    shares = PENALTIES if library == "lightgbm" else (0.0,)

    def small(X: Floats, y: Ints, shape: Any, tradeoff: float, levels: Floats, hidden: Any = ()) -> list[Predictor]:
        X = X.copy()
        X[:, list(hidden)] = np.nan
        path = budget_path(booster_of(grown(library, X, y, split, shape, tradeoff)), X, y, split.costs)
        gaps.append(max(p.gap for p in path.points))
        return [predictor_of(path.at(budget=float(level)), features) for level in levels]

    def again(shape: Any, tradeoff: float, hidden: Any, level: float, X: Floats, y: Ints) -> Predictor:
        return small(X, y, shape, tradeoff, np.array([level]), hidden)[0]

    for shape in SHAPES:
        left_out: list[Ints] = [np.zeros(0, np.int64)]
        if subsets:
            sizes = np.unique(np.geomspace(2, len(split.costs), 7).astype(int))[:-1]
            left_out += [order[k:] for order in orders(split, shape) for k in sizes]
        for share, hidden in ((share, hidden) for share in shares for hidden in left_out):
            levels = LEVELS * total
            for level, first in zip(levels, small(*split.train, shape, share * top, levels, hidden), strict=True):
                proba, asked = first(split.valid[0])
                judged = measured(proba, split.valid[1])
                tag = f"{shape}, penalty {share}, {len(hidden)} left out, level {level / total:.3f}"
                fit = partial(again, shape, share * top, hidden, float(level))
                candidates.append(Candidate(float((asked @ split.costs).mean()), *judged, fit, tag, first))
    records = chosen_within(candidates, split)
    return records, time.perf_counter() - start, len(candidates), max(gaps)


def best_features(split: Split) -> tuple[list[dict[str, Any]], float, int, float]:
    """XGBoost on the first k features by gain, for every k."""
    import xgboost

    start = time.perf_counter()
    candidates = [majority(split)]
    for shape in SHAPES:
        for order in orders(split, shape):
            for k in sorted({*range(1, min(9, len(order) + 1)), *np.geomspace(8, len(order), 8).astype(int).tolist()}):
                columns = np.sort(order[:k])
                cost = float(split.costs[columns].sum())

                def again(X: Floats, y: Ints, columns: Any = columns, shape: Any = shape) -> Predictor:
                    model = grown("xgboost", X[:, columns], y, split, shape, 0.0)

                    def predict(rows: Floats) -> tuple[Floats, Bools]:
                        p = np.asarray(model.predict(xgboost.DMatrix(rows[:, columns])), np.float64)
                        asked = np.zeros(rows.shape, np.bool_)
                        asked[:, columns] = True
                        return (np.column_stack([1 - p, p]) if p.ndim == 1 else p), asked

                    return predict

                first = again(*split.train)
                judged = measured(first(split.valid[0])[0], split.valid[1])
                candidates.append(Candidate(cost, *judged, again, f"{shape}, {k} features", first))
    return chosen_within(candidates, split), time.perf_counter() - start, len(candidates), 0.0


METHODS: dict[str, Callable[[Split], tuple[list[dict[str, Any]], float, int, float]]] = {
    "lightgbm pruned": partial(pruned, library="lightgbm"),
    "lightgbm cegb": lambda split: (*cegb(split), 0.0),
    "xgboost pruned": partial(pruned, library="xgboost"),
    "xgboost best features, pruned": partial(pruned, library="xgboost", subsets=True),
    "xgboost best features": best_features,
}


def run(sets: Iterable[str], seeds: Iterable[int], methods: Iterable[str]) -> None:
    """Measure what is not on file."""
    on_file = load(TABLE, default={})
    for name in sets:
        for seed in seeds:
            split = split_of(name, seed)
            for method in methods:
                key = f"{name}/{seed}/{method}"
                if key in on_file:
                    continue
                records, seconds, n, gap = METHODS[method](split)
                store(TABLE, {key: {"records": records, "seconds": seconds, "candidates": n, "largest_gap": gap}})
                print(key, f"{seconds:.0f} s", [round(r["accuracy"], 3) for r in records], flush=True)


def table() -> None:
    """Print the mean difference in points of accuracy, with its standard error over the splits."""
    on_file = load(TABLE)
    pairs_of_methods = (
        ("lightgbm pruned", "lightgbm cegb"),
        ("xgboost pruned", "xgboost best features"),
        ("xgboost best features, pruned", "xgboost best features"),
    )
    for ours, theirs in pairs_of_methods:
        print(f"{ours} less {theirs}, points of accuracy")
        for name in sorted({key.split("/")[0] for key in on_file}):
            pairs = [
                (entry["records"], on_file[f"{name}/{key.split('/')[1]}/{theirs}"]["records"])
                for key, entry in on_file.items()
                if key.startswith(f"{name}/") and key.endswith(f"/{ours}")
                if f"{name}/{key.split('/')[1]}/{theirs}" in on_file
            ]
            if not pairs:
                continue
            found = np.array([[100 * (a["accuracy"] - b["accuracy"]) for a, b in zip(*p, strict=True)] for p in pairs])
            spread = (
                found.std(axis=0, ddof=1) / np.sqrt(len(found)) if len(found) > 1 else np.full(found.shape[1], np.nan)
            )
            cells = "  ".join(f"{m:+.2f} ± {s:.2f}" for m, s in zip(found.mean(axis=0), spread, strict=True))
            print(f"  {name} ({len(found)} splits): {cells}")


def main() -> None:
    """Run, or print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--sets", nargs="+", default=["magic", "spambase"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=list(METHODS))
    arguments = parser.parse_args()
    if arguments.what == "run":
        run(arguments.sets, arguments.seeds, arguments.methods)
    table()


if __name__ == "__main__":
    main()
