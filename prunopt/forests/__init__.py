"""scikit-learn forests: datasets, pruning paths, estimators, prediction on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunopt.forests.compaction import pruned_forest as pruned_forest
    from prunopt.forests.estimators import BudgetedForestClassifier as BudgetedForestClassifier
    from prunopt.forests.estimators import BudgetedForestRegressor as BudgetedForestRegressor
    from prunopt.forests.growing import BudgetedBoostingClassifier as BudgetedBoostingClassifier
    from prunopt.forests.growing import BudgetedBoostingRegressor as BudgetedBoostingRegressor
    from prunopt.forests.growing import grow_budgeted_forest as grow_budgeted_forest
    from prunopt.forests.leaves import refit_leaves as refit_leaves
    from prunopt.forests.ondemand import predict_on_demand as predict_on_demand
    from prunopt.forests.path import BudgetPath as BudgetPath
    from prunopt.forests.path import budget_path as budget_path
    from prunopt.problems.price_list import CostSum as CostSum
    from prunopt.problems.price_list import Prices as Prices
    from prunopt.problems.prices import FeaturePrices as FeaturePrices

# Loaded when they are first used: scikit-learn and numba take seconds.
_LATER = {
    "BudgetPath": "prunopt.forests.path",
    "BudgetedBoostingClassifier": "prunopt.forests.growing",
    "BudgetedBoostingRegressor": "prunopt.forests.growing",
    "BudgetedForestClassifier": "prunopt.forests.estimators",
    "BudgetedForestRegressor": "prunopt.forests.estimators",
    "CostSum": "prunopt.problems.price_list",
    "FeaturePrices": "prunopt.problems.prices",
    "Prices": "prunopt.problems.price_list",
    "budget_path": "prunopt.forests.path",
    "grow_budgeted_forest": "prunopt.forests.growing",
    "predict_on_demand": "prunopt.forests.ondemand",
    "pruned_forest": "prunopt.forests.compaction",
    "refit_leaves": "prunopt.forests.leaves",
}

__all__ = [
    "BudgetPath",
    "BudgetedBoostingClassifier",
    "BudgetedBoostingRegressor",
    "BudgetedForestClassifier",
    "BudgetedForestRegressor",
    "CostSum",
    "FeaturePrices",
    "Prices",
    "budget_path",
    "grow_budgeted_forest",
    "predict_on_demand",
    "pruned_forest",
    "refit_leaves",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _LATER:
        raise AttributeError(f"module 'prunopt.forests' has no attribute {name!r}")
    value = getattr(import_module(_LATER[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_LATER))
