"""The default estimator within a budget: heart and hypothyroid, with the real costs of their tests, on new splits.

``python -m benchmarks.forest_default run [--splits 30] [--seconds 900]`` fills ``results/forest_default.json.gz`` with
one entry for each split, skipping those that are there; ``python -m benchmarks.forest_default table`` prints the table.

Every split has 237 rows to fit on, which the estimator makes its own folds of, and 60 test rows. One fit chooses models
for no budget and for 10, 60, 110 and 210 CAD. Costs are counted here from what each test row acquired, by the published
discounts (the first test of a group has the group's common part in its cost, other ones do not).

``run`` also fits 2,531 rows of hypothyroid for 20 CAD (``--hypothyroid 5`` splits), and judges the other 632.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from benchmarks.results import load, store
from prunopt.forests import BudgetedClassifier
from prunopt.forests.datasets import CostedDataset, load_heart, load_hypothyroid

TABLE = "forest_default"
BUDGETS = (10.0, 60.0, 110.0, 210.0)
FIRST, TEST_ROWS = 30000, 60
HYPOTHYROID_BUDGET = 20.0


def cost_of(heart: CostedDataset, acquired: Any) -> float:
    """Return the mean cost of rows that acquired features (n, K), by the cost list alone."""
    total = 0.0
    for row in acquired:
        have = {name for name, bought in zip(heart.feature_names, row, strict=True) if bought}
        for name in have & set(heart.derived_from):
            have = have - {name} | set(heart.derived_from[name])
        total += sum(heart.feature_costs[name] for name in have)
        for group, members in heart.feature_groups.items():
            total -= heart.common_cost.get(group, 0.0) * max(0, len(have & set(members)) - 1)
    return total / len(acquired)


def measure(seed: int) -> dict[str, Any]:
    """Return what one split gives."""
    heart = load_heart()
    order = np.random.default_rng(seed).permutation(len(heart.X))
    test, train = order[:TEST_ROWS], order[TEST_ROWS:]
    X, y, Z, truth = heart.X[train], heart.y[train], heart.X[test], heart.y[test]
    start = time.process_time()
    total = float(heart.costs().total(np.ones(len(heart.feature_names), np.bool_)))
    model = BudgetedClassifier(feature_costs=heart.costs(), budgets=[*BUDGETS, total], random_state=seed).fit(X, y)
    seconds = time.process_time() - start
    answer = model.predict_on_demand(Z)
    records = [{"budget": None, "recipe": model.recipe_.words, "accuracy": float(np.mean(answer.predictions == truth)),
                "cost": cost_of(heart, answer.acquired)}]  # fmt: skip
    for budget in BUDGETS:
        answer = model.at(budget).on_demand(Z, None)
        labels = model.classes_[answer.predictions.astype(np.int64)]
        records.append({"budget": budget, "accuracy": float(np.mean(labels == truth)),
                        "cost": cost_of(heart, answer.acquired)})  # fmt: skip
    forest = RandomForestClassifier(random_state=seed).fit(X, y)
    return {"seed": seed, "default": float(forest.score(Z, truth)), "default_cost": total, "cpu_seconds": seconds,
            "records": records, "stated_difference": model.comparison_.difference}  # fmt: skip


def measure_hypothyroid(seed: int) -> dict[str, Any]:
    """Return what one split gives within `HYPOTHYROID_BUDGET`."""
    data = load_hypothyroid()
    order = np.random.default_rng(seed).permutation(len(data.X))
    test, train = order[: len(order) // 5], order[len(order) // 5 :]
    start = time.process_time()
    model = BudgetedClassifier(feature_costs=data.costs(), budget=HYPOTHYROID_BUDGET, random_state=seed)
    model.fit(data.X[train], data.y[train])
    seconds = time.process_time() - start
    answer = model.predict_on_demand(data.X[test])
    right = float(np.mean(answer.predictions == data.y[test]))
    return {"seed": seed, "accuracy": right, "cost": cost_of(data, answer.acquired), "recipe": model.recipe_.words,
            "stated": model.comparison_.score, "cpu_seconds": seconds}  # fmt: skip


def run(splits: int, hypothyroid: int, seconds: float) -> None:
    """Fill in what is missing, as far as the time allows."""
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    for seed in range(FIRST, FIRST + hypothyroid):
        if f"hypothyroid/{seed}" in load(TABLE, default={}):
            continue
        if time.perf_counter() - start > seconds:
            print("out of time; run again to go on")
            return
        result = measure_hypothyroid(seed)
        store(TABLE, {f"hypothyroid/{seed}": result})
        print("hypothyroid", result, flush=True)
    for seed in range(FIRST, FIRST + splits):
        if str(seed) in load(TABLE, default={}):
            continue
        if time.perf_counter() - start > seconds:
            print("out of time; run again to go on")
            return
        result = measure(seed)
        store(TABLE, {str(seed): result})
        line = " ".join(f"{r['accuracy']:.3f}@{r['cost']:.0f}" for r in result["records"])
        print(f"{seed} {result['cpu_seconds']:.0f} CPU s: default {result['default']:.3f}; {line}", flush=True)
    print("complete")


def table() -> None:
    """Print the table."""
    results = [result for seed, result in sorted(load(TABLE).items()) if seed.isdigit() and int(seed) >= FIRST]
    if len(results) < 2:
        raise SystemExit(f"{len(results)} splits from seed {FIRST} on are on file; run more")
    base = np.array([r["default"] for r in results])
    taken = np.median([r["cpu_seconds"] for r in results])
    print(f"heart, {len(results)} splits; scikit-learn's default forest: {_mean(100 * base)} %")
    print(f"at {results[0]['default_cost']:.0f} CAD; {taken:.0f} CPU s a fit\n")
    print("| budget [CAD] | accuracy [%] | less that of the default forest [points] | spent [CAD] |")
    print("|---|---|---|---|")
    for k, record in enumerate(results[0]["records"]):
        ours = np.array([r["records"][k]["accuracy"] for r in results])
        spent = np.array([r["records"][k]["cost"] for r in results])
        name = "none" if record["budget"] is None else f"{record['budget']:g}"
        print(f"| {name} | {_mean(100 * ours)} | {_mean(100 * (ours - base))} | {_mean(spent)} |")

    other = [result for key, result in load(TABLE).items() if key.startswith("hypothyroid/")]
    if len(other) > 1:
        right, spent, taken = (np.array([r[what] for r in other]) for what in ("accuracy", "cost", "cpu_seconds"))
        print(f"\nhypothyroid within {HYPOTHYROID_BUDGET:g} CAD, {len(other)} splits: {_mean(100 * right)} % at")
        print(f"{_mean(spent)} CAD; {np.median(taken):.0f} CPU s a fit")


def _mean(values: Any) -> str:
    return f"{values.mean():.1f} ± {values.std(ddof=1) / np.sqrt(len(values)):.1f}"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--splits", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=900.0, help="start no new split after this many seconds")
    parser.add_argument("--hypothyroid", type=int, default=5, help="splits of hypothyroid")
    given = parser.parse_args()
    run(given.splits, given.hypothyroid, given.seconds) if given.what == "run" else table()


if __name__ == "__main__":
    main()
