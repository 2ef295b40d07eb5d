"""A search in a process of its own, on an evaluator that writes down what it is asked for and sleeps."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import prunopt as po
from prunopt.problems.allocation.allocation_search import AllocationSearch


class Sleepy:
    """Writes every allocation into a file, sleeps, and returns a smooth loss."""

    def __init__(self, log: str, nap: float) -> None:
        self.log, self.nap = log, nap

    def loss(self, allocation: Any, *, fidelity: float = 1.0) -> float:
        """Return a weighted sum of squares."""
        with Path(self.log).open("a") as file:
            file.write(",".join(f"{v:.6f}" for v in allocation) + "\n")
        time.sleep(self.nap)
        return float(np.linspace(3, 1, len(allocation)) @ np.square(allocation))


def task(log: str, nap: float, *, sparsity: float = 0.6) -> AllocationSearch:
    """Return the search that the tests share."""
    return AllocationSearch(Sleepy(log, nap), [1000, 1500, 1200, 900], sparsity, space="vector")


if __name__ == "__main__":
    storage, log, nap, trials, workers = sys.argv[1:6]
    run = po.search(
        task(log, float(nap)), trials=int(trials), storage=storage, workers=int(workers), solver="random-search"
    )
    print([t.value for t in run.trials], run.lost)
