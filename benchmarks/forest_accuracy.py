"""Accuracy within a feature budget, against what a user would try instead.

``python -m benchmarks.forest_accuracy run [--sets ...] [--seeds ...] [--methods ...] [--seconds 500]`` fills
``results/forest_accuracy.json.gz`` with one entry for each (set, seed, method), skipping those that are there;
``python -m benchmarks.forest_accuracy table`` prints the tables from them.

Six public sets, five budgets (shares of the cost of all features), five random splits into rows to fit on, rows to
choose on, and test rows. Every method chooses on the same validation rows, and fits its choice again on both parts.
Costs: true prices for heart and hypothyroid (full price of each test), 1 each for satimage, else random whole numbers
from 1 to 20, drawn again for each split.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets, forest_peers
from benchmarks.forest_peers import Split, measured
from benchmarks.results import load, store
from prunopt.forests.boosting import BudgetedBoostingClassifier
from prunopt.forests.datasets import load_heart, load_hypothyroid

SHARES = (0.05, 0.1, 0.2, 0.4, 0.8)
# Training, validation and test rows (at most).
SIZES = {
    "heart": (120, 60, 10_000),
    "hypothyroid": (1580, 790, 10_000),
    "magic": (6000, 3000, 6000),
    "spambase": (2300, 1150, 10_000),
    "satimage": (3200, 1600, 10_000),
    "letter": (5000, 2500, 6000),
}
METHODS = ("prunopt", "cegb", "ccp", "subset", "unpruned")
TITLES = {
    "prunopt": "prunopt", "cegb": "LightGBM CEGB", "ccp": "forest, ccp_alpha", "subset": "forest, best features",
    "unpruned": "forest, all features",
}  # fmt: skip


def split_of(name: str, seed: int) -> Split:
    """Return the split number ``seed`` of a set."""
    X: NDArray[np.float64]
    labels: NDArray[Any]
    if name in ("heart", "hypothyroid"):
        data = load_heart() if name == "heart" else load_hypothyroid()
        X, labels = data.X, data.y
        costs = np.array([data.feature_costs[f] for f in data.feature_names])
    else:
        X, labels, _ = datasets.fetch(name)
        costs = np.ones(X.shape[1])
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(X))
    X, y = X[order], np.unique(labels, return_inverse=True)[1][order].astype(np.int64)
    if name in ("magic", "spambase", "letter"):
        costs = rng.integers(1, 21, X.shape[1]).astype(np.float64)
    a, b, c = np.cumsum(SIZES[name])
    parts = [(X[s], y[s]) for s in (slice(0, a), slice(a, b), slice(b, c))]
    return Split(parts[0], parts[1], parts[2], costs, np.array(SHARES) * costs.sum())


def prunopt_records(split: Split) -> tuple[list[dict[str, Any]], float, int]:
    """Fit once, and ask for every budget, and for no limit."""
    start = time.perf_counter()
    total = float(split.costs.sum())
    X, y = split.both
    held_out = np.arange(len(y)) >= len(split.train[1])
    model = BudgetedBoostingClassifier(feature_costs=split.costs, budgets=[*split.budgets, total], random_state=0)
    model.fit(X, y, validation_rows=held_out)
    seconds = time.perf_counter() - start
    place = np.searchsorted(model.classes_, split.test[1])
    known = model.classes_[np.minimum(place, len(model.classes_) - 1)] == split.test[1]
    records = []
    for budget in (*split.budgets, total):
        chosen = model.at(float(budget))
        answer = chosen.on_demand(split.test[0], None)
        proba = np.zeros((len(known), forest_peers.n_classes(split)))
        proba[:, model.classes_] = chosen.values(split.test[0])
        _, loss = measured(proba, split.test[1])
        right = answer.predictions == split.test[1]
        solution = chosen.solution
        records.append(
            {"budget": float(budget), "accuracy": float(right.mean()), "log_loss": loss,
             "cost": float(answer.cost.mean()), "validation_accuracy": chosen.validation_score,
             "validation_cost": chosen.expected_cost, "tag": chosen.origin,
             "surrogate_gap": None if solution is None else solution.gap}
        )  # fmt: skip
    return records, seconds, len(model.candidates_)


def measure(name: str, seed: int, method: str) -> dict[str, Any]:
    """Return what one method reaches on one split."""
    split = split_of(name, seed)
    run = prunopt_records if method == "prunopt" else getattr(forest_peers, method)
    start = time.process_time()
    records, seconds, candidates = run(split)
    cpu_seconds = time.process_time() - start
    return {
        "set": name, "seed": seed, "method": method, "total_cost": float(split.costs.sum()), "seconds": seconds,
        "cpu_seconds": cpu_seconds, "candidates": candidates, "records": records,
    }  # fmt: skip


def run(sets: list[str], seeds: list[int], methods: list[str], seconds: float) -> None:
    """Fill in what is missing, as far as the time allows."""
    start = time.perf_counter()
    warnings.simplefilter("ignore")
    # One small fit compiles every kernel, so that no timing holds a compilation.
    if "prunopt" in methods:
        rng = np.random.default_rng(0)
        for classes in (2, 3):
            BudgetedBoostingClassifier(random_state=0).fit(rng.normal(size=(60, 3)), np.arange(60) % classes)
    for seed in seeds:
        for name in sets:
            for method in methods:
                if (key := f"{name}/{seed}/{method}") in load("forest_accuracy", default={}):
                    continue
                if time.perf_counter() - start > seconds:
                    print("out of time; run again to go on")
                    return
                result = measure(name, seed, method)
                store("forest_accuracy", {key: result})
                line = " ".join(
                    f"{r['accuracy']:.4f}@{r['cost'] / result['total_cost']:.3f}" for r in result["records"]
                )
                print(f"{name} {seed} {method} {result['seconds']:.1f} s: {line}", flush=True)
    print("complete")


def load_results() -> dict[tuple[str, str], dict[int, dict[str, Any]]]:
    """Return the results by (set, method) and seed."""
    out: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for _, result in sorted(load("forest_accuracy").items()):
        out.setdefault((result["set"], result["method"]), {})[result["seed"]] = result
    return out


def _column(results: dict[int, dict[str, Any]], k: int, key: str = "accuracy") -> NDArray[np.float64]:
    return np.array([results[s]["records"][k][key] for s in sorted(results)])


def _mean(values: NDArray[np.float64]) -> str:
    spread = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{values.mean():.1f} ± {spread:.1f}"


def table() -> None:
    """Print the tables."""
    results = load_results()
    sets = [s for s in SIZES if (s, "prunopt") in results]
    print("Accuracy in per cent on test rows, mean ± standard error over splits; the last columns are paired.\n")
    print(
        "| set | budget | "
        + " | ".join(TITLES[m] for m in METHODS[:4])
        + " | prunopt - CEGB | cost / budget: prunopt, CEGB |"
    )
    print("|---|---|" + "---|" * (len(METHODS[:4]) + 2))
    ahead = level = behind = 0
    for name in sets:
        for k, share in enumerate(SHARES):
            cells = []
            for method in METHODS[:4]:
                found = results.get((name, method))
                cells.append(_mean(100 * _column(found, k)) if found else "-")
            ours, other = results[name, "prunopt"], results.get((name, "cegb"), {})
            both = sorted(set(ours) & set(other))
            if both:
                gap = 100 * np.array(
                    [ours[s]["records"][k]["accuracy"] - other[s]["records"][k]["accuracy"] for s in both]
                )
                error = gap.std(ddof=1) / np.sqrt(len(gap)) if len(gap) > 1 else 0.0
                ahead += gap.mean() > error
                behind += gap.mean() < -error
                level += abs(gap.mean()) <= error
                sign = "**ahead**" if gap.mean() > error else "behind" if gap.mean() < -error else "level"
                cells.append(f"{gap.mean():+.2f} ± {error:.2f} {sign}")
                spent = [
                    np.mean([r[s]["records"][k]["cost"] / r[s]["records"][k]["budget"] for s in both])
                    for r in (ours, other)
                ]
                cells.append(f"{spent[0]:.2f}, {spent[1]:.2f}")
            else:
                cells += ["-", "-"]
            print(f"| {name} | {share:.0%} | " + " | ".join(cells) + " |")
    print(f"\nAgainst CEGB: ahead by more than a standard error in {ahead}, level in {level}, behind in {behind}.\n")
    print("| set | prunopt, no limit | forest, all features | difference | CPU seconds: prunopt | CEGB | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in sets:
        ours, whole, other = (results.get((name, m), {}) for m in ("prunopt", "unpruned", "cegb"))
        both = sorted(set(ours) & set(whole))
        if not both:
            continue
        last = 100 * np.array([ours[s]["records"][-1]["accuracy"] for s in both])
        forest = 100 * np.array([whole[s]["records"][0]["accuracy"] for s in both])
        taken = np.median([r["cpu_seconds"] for r in ours.values()])
        peer = np.median([r["cpu_seconds"] for r in other.values()]) if other else np.nan
        cells = [_mean(last), _mean(forest), _mean(last - forest), f"{taken:.1f}", f"{peer:.1f}", f"{taken / peer:.1f}"]
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--sets", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seconds", type=float, default=500.0, help="start no new run after this many seconds")
    given = parser.parse_args()
    if given.what == "run":
        run(given.sets, given.seeds, given.methods, given.seconds)
    else:
        table()


if __name__ == "__main__":
    main()
