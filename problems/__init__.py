"""One pruning task a file, each with ``objective``, ``violation`` and ``reduce``."""

if __name__ != "prunopt.problems":
    raise ImportError(f"this folder is the package prunopt.problems: import prunopt.problems, not {__name__}")

from prunopt.problems.forest_budget import ForestBudget as ForestBudget
from prunopt.problems.forest_within import ForestWithin as ForestWithin

__all__ = ["ForestBudget", "ForestWithin"]
