"""Test costs and mistakes in one currency: the default estimator against STreeD's optimal cost-sensitive trees.

``python -m benchmarks.forest_streed run FOLDER [--splits 6 7 8] [--seconds 900]`` fills
``results/forest_streed.json.gz``; ``python -m benchmarks.forest_streed table`` prints it. FOLDER holds the
cost-sensitive sets of pystreed (MIT; the sets are of the UCI repository, CC BY 4.0, with the costs of Lomax 2013), as
``heart-low-costs.csv``, ``heart-train-1.csv`` and so on; pystreed is needed for its own trees. Neither is part of the
project.

Features are binary; those of one attribute are acquired together, and some attributes cost less once another one of
their group is acquired. Both methods get the training rows as they are. Costs are counted here, row by row: what was
acquired, and the cost of the label that was said. STreeD: trees of depth 3, its size chosen by its own validation.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.results import load, store
from prunopt.core.arrays import Bools, Floats, Ints
from prunopt.forests import BudgetedClassifier
from prunopt.problems.forest.cost_lists import CostList

TABLE = "forest_streed"
SETS, LEVELS, METHODS = ("heart", "diabetes", "hepatitis", "breast"), ("low", "high"), ("prunopt", "streed")


class Costs(NamedTuple):
    """The mistakes (true, said); of each attribute its cost, that after another of its group, group, and columns."""

    mistakes: Floats
    attributes: list[tuple[str, float, float, str, range]]

    @property
    def feature_costs(self) -> CostList:
        """The same for the estimator: an attribute's first column has its cost, the others come with it."""
        names, costs = [], []
        members: dict[str, tuple[str, ...]] = {}
        common: dict[str, float] = {}
        for name, cost, reduced, group, columns in self.attributes:
            names += [f"{name} {k}" for k in columns]
            costs += [cost] + [0.0] * (len(columns) - 1)
            if cost > reduced:
                members[group] = (*members.get(group, ()), f"{name} {columns[0]}")
                common[group] = cost - reduced
        return CostList(tuple(names), np.array(costs), members, common)

    @property
    def groups(self) -> list[list[int]]:
        """The columns of each attribute."""
        return [list(columns) for *_, columns in self.attributes]

    def of_tests(self, acquired: Bools) -> Floats:
        """Return what rows pay for what they acquired (n, K), by the cost file alone."""
        out = np.zeros(len(acquired))
        for i, row in enumerate(acquired):
            met: set[str] = set()
            for _, cost, reduced, group, columns in self.attributes:
                if row[list(columns)].any():
                    out[i] += reduced if group in met else cost
                    met |= {group} if cost > reduced else set()
        return out


def costs_of(file: Path) -> Costs:
    """Read a cost file: the matrix of mistakes, a heading, and a line for each attribute."""
    lines = [line.split() for line in file.read_text().splitlines() if line.strip()]
    start = next(k for k, line in enumerate(lines) if line[0].startswith("Attribute"))
    mistakes = np.array(lines[:start], np.float64)
    attributes = [(a, float(c), float(d), g, range(int(i), int(j) + 1)) for a, c, d, g, i, j in lines[start + 1 :]]
    return Costs(mistakes, attributes)


def streed(X: Ints, y: Ints, Z: Ints, file: Path) -> tuple[Ints, Bools]:
    """Return labels, and which columns each row's path through the optimal tree tests."""
    from pystreed import STreeDCostSensitiveClassifier
    from pystreed.data import CostSpecifier

    model = STreeDCostSensitiveClassifier(max_depth=3, hyper_tune=True)
    model.fit(X, y, CostSpecifier(str(file), int(y.max()) + 1))
    acquired, labels = np.zeros(Z.shape, np.bool_), np.zeros(len(Z), np.int64)
    for i, row in enumerate(Z):
        node = model.get_tree()
        while node.is_branching_node():
            acquired[i, node.feature] = True
            node = node.right_child if row[node.feature] else node.left_child
        labels[i] = node.label
    return labels, acquired


def measure(folder: Path, name: str, level: str, split: int) -> dict[str, Any]:
    """Return the mean cost of a test row, and the seconds of a fit, by both."""
    file = folder / f"{name}-{level}-costs.csv"
    costs = costs_of(file)
    train, test = (np.loadtxt(folder / f"{name}-{part}-{split}.csv", dtype=np.int64) for part in ("train", "test"))
    X, y, Z, truth = train[:, 1:], train[:, 0], test[:, 1:], test[:, 0]
    out: dict[str, Any] = {"set": name, "level": level, "split": split}
    start = time.process_time()
    model = BudgetedClassifier(
        feature_costs=costs.feature_costs,
        feature_groups=costs.groups,
        misclassification_costs=costs.mistakes,
        random_state=split,
    ).fit(X, y)
    out["prunopt_seconds"] = time.process_time() - start
    answer = model.predict_on_demand(Z)
    assert np.array_equal(np.unique(y), np.arange(len(costs.mistakes)))
    start = time.process_time()
    labels, tested = streed(X, y, Z, file)
    out["streed_seconds"] = time.process_time() - start
    for who, said, acquired in (("prunopt", answer.predictions, answer.acquired), ("streed", labels, tested)):
        bill = costs.of_tests(acquired)
        out[who] = float((bill + costs.mistakes[truth, said]).mean())
        out[f"{who}_tests"], out[f"{who}_accuracy"] = float(bill.mean()), float(np.mean(said == truth))
    out["recipe"] = model.recipe_.words
    return out


def run(folder: Path, splits: list[int], seconds: float) -> None:
    """Fill in what is missing, as far as the time allows."""
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    for split in splits:
        for name in SETS:
            for level in LEVELS:
                if (key := f"{name}/{level}/{split}") in load(TABLE, default={}):
                    continue
                if time.perf_counter() - start > seconds:
                    print("out of time; run again to go on")
                    return
                result = measure(folder, name, level, split)
                store(TABLE, {key: result})
                bills = " ".join(f"{who} {result[who]:.2f} ({result[f'{who}_tests']:.2f} tests)" for who in METHODS)
                print(f"{key} {result['prunopt_seconds']:.1f} s: {bills}; {result['recipe']}", flush=True)
    print("complete")


def table() -> None:
    """Print the table."""
    cells: dict[tuple[str, str], list[Any]] = {}
    for result in load(TABLE).values():
        cells.setdefault((result["set"], result["level"]), []).append(result)
    print("| set | splits | prunopt | STreeD | difference | CPU s a fit: prunopt, STreeD |\n|---|---|---|---|---|---|")
    for (name, level), results in sorted(cells.items()):
        ours, other = (np.array([r[who] for r in results]) for who in METHODS)
        gap, n = ours - other, len(results)
        error = gap.std(ddof=1) / np.sqrt(n) if n > 1 else np.inf
        place = "**ahead**" if gap.mean() < -error else "behind" if gap.mean() > error else "level"
        taken = ", ".join(f"{np.median([r[f'{who}_seconds'] for r in results]):.2f}" for who in METHODS)
        print(f"| {name}, {level} | {n} | {ours.mean():.2f} | {other.mean():.2f} | {gap.mean():+.2f} ± {error:.2f} "
              f"{place} | {taken} |")  # fmt: skip


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("folder", type=Path, nargs="?", default=Path())
    parser.add_argument("--splits", type=int, nargs="+", default=[6, 7, 8])
    parser.add_argument("--seconds", type=float, default=900.0, help="start no new fit after this many seconds")
    given = parser.parse_args()
    run(given.folder, given.splits, given.seconds) if given.what == "run" else table()


if __name__ == "__main__":
    main()
