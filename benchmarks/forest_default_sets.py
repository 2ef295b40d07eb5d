"""The default estimator on the six sets and five budgets of `benchmarks.forest_accuracy`, against the peers on file.

``python -m benchmarks.forest_default_sets run [--sets ...] [--seeds 0 1] [--seconds 900]`` fills
``results/forest_default_sets.json.gz`` with one entry for each (set, split), skipping those that are there;
``python -m benchmarks.forest_default_sets table`` prints them beside LightGBM's CEGB and the forest on
the best features.

Splits, costs and budgets are those of `benchmarks.forest_accuracy`. The estimator gets the training and validation rows
together and makes its own folds of them; the peers choose on the validation rows and fit again on both parts. Costs are
counted here, from what each test row acquired.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np

from benchmarks import forest_accuracy
from benchmarks.forest_accuracy import SHARES, SIZES, split_of
from benchmarks.results import load, store
from prunopt.forests import BudgetedClassifier

TABLE = "forest_default_sets"
PEERS = {"cegb": "LightGBM CEGB", "subset": "forest, best features"}


def measure(name: str, seed: int) -> dict[str, Any]:
    """Return what the default estimator reaches on one split."""
    split = split_of(name, seed)
    X, y = split.both
    budgets = [float(b) for b in split.budgets]
    start = time.process_time()
    model = BudgetedClassifier(feature_costs=split.costs, budgets=budgets, random_state=0).fit(X, y)
    seconds = time.process_time() - start
    records = []
    for budget in budgets:
        chosen = model.at(budget)
        answer = chosen.on_demand(split.test[0], None)
        labels = model.classes_[answer.predictions.astype(np.int64)]
        cost = float((answer.acquired @ split.costs).mean())
        right = float(np.mean(labels == split.test[1]))
        records.append({"budget": budget, "accuracy": right, "cost": cost, "tag": type(chosen).__name__})
    return {"set": name, "seed": seed, "cpu_seconds": seconds, "rows": len(y), "records": records}


def run(sets: list[str], seeds: list[int], seconds: float) -> None:
    """Fill in what is missing, as far as the time allows."""
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    for seed in seeds:
        for name in sets:
            if (key := f"{name}/{seed}") in load(TABLE, default={}):
                continue
            if time.perf_counter() - start > seconds:
                print("out of time; run again to go on")
                return
            result = measure(name, seed)
            store(TABLE, {key: result})
            line = " ".join(f"{r['accuracy']:.4f}@{r['cost'] / r['budget']:.2f}" for r in result["records"])
            print(f"{name} {seed} {result['cpu_seconds']:.0f} CPU s: {line}", flush=True)
    print("complete")


def table() -> None:
    """Print the table, paired with the peers by splits."""
    found: dict[str, dict[int, Any]] = {}
    for result in load(TABLE).values():
        found.setdefault(result["set"], {})[result["seed"]] = result
    peers = forest_accuracy.load_results()
    print("| set, splits | budget | default estimator | " + " | ".join(f"less {t}" for t in PEERS.values()), end=" |")
    print(" cost / budget |\n|---|---|---|" + "---|" * (len(PEERS) + 1))
    count = {peer: [0, 0, 0] for peer in PEERS}
    for name in (s for s in SIZES if s in found):
        for k, share in enumerate(SHARES):
            seeds = sorted(found[name])
            ours = np.array([100 * found[name][s]["records"][k]["accuracy"] for s in seeds])
            spent = np.mean([r["cost"] / r["budget"] for r in (found[name][s]["records"][k] for s in seeds)])
            cells = []
            for peer in PEERS:
                other = peers[name, peer]
                gap = ours - [100 * other[s]["records"][k]["accuracy"] for s in seeds]
                if len(gap) < 2:  # one split has no error, so that nothing is called ahead or behind
                    cells.append(f"{gap.mean():+.2f}, one split")
                    continue
                error = gap.std(ddof=1) / np.sqrt(len(gap))
                place = 0 if gap.mean() > error else 2 if gap.mean() < -error else 1
                count[peer][place] += 1
                cells.append(f"{gap.mean():+.2f} ± {error:.2f} {('**ahead**', 'level', 'behind')[place]}")
            print(f"| {name}, {len(seeds)} | {share:.0%} | {ours.mean():.1f} | {' | '.join(cells)} | {spent:.2f} |")
    for peer, (ahead, level, behind) in count.items():
        print(f"\nAgainst {PEERS[peer]}: ahead in {ahead}, level in {level}, behind in {behind}.")
    for name, results in found.items():
        first, taken = next(iter(results.values())), np.median([r["cpu_seconds"] for r in results.values()])
        print(f"\n{name}: {first['rows']} rows to fit on, {taken:.0f} CPU s a fit")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--sets", nargs="+", default=["heart", "hypothyroid", "spambase"], choices=tuple(SIZES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--seconds", type=float, default=900.0, help="start no new fit after this many seconds")
    given = parser.parse_args()
    run(given.sets, given.seeds, given.seconds) if given.what == "run" else table()


if __name__ == "__main__":
    main()
