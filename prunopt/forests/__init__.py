"""scikit-learn forests: datasets, pruning paths, estimators, prediction on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunopt.core.deprecation import renamed_names
from prunopt.core.extras import lazy

if TYPE_CHECKING:
    from prunopt.forests.boosting import BudgetedBoostingClassifier as BudgetedBoostingClassifier
    from prunopt.forests.boosting import BudgetedBoostingRegressor as BudgetedBoostingRegressor
    from prunopt.forests.boosting import grow_budgeted_forest as grow_budgeted_forest
    from prunopt.forests.breakpoints import budget_path as budget_path
    from prunopt.forests.budgeted import BudgetedClassifier as BudgetedClassifier
    from prunopt.forests.budgeted import BudgetedRegressor as BudgetedRegressor
    from prunopt.forests.estimators import BudgetedForestClassifier as BudgetedForestClassifier
    from prunopt.forests.estimators import BudgetedForestRegressor as BudgetedForestRegressor
    from prunopt.forests.leaf_refit import refit_leaves as refit_leaves
    from prunopt.forests.on_demand import predict_on_demand as predict_on_demand
    from prunopt.forests.path import BudgetPath as BudgetPath
    from prunopt.forests.sklearn_trees import pruned_forest as pruned_forest
    from prunopt.forests.stopping_rule import probable_stopping as probable_stopping
    from prunopt.problems.forest.cost_lists import CostList as CostList
    from prunopt.problems.forest.cost_lists import CostSum as CostSum
    from prunopt.problems.forest.feature_costs import FeatureCosts as FeatureCosts

# Loaded when they are first used: scikit-learn and numba take seconds.
_PLACES = {
    "prunopt.forests.boosting": "BudgetedBoostingClassifier BudgetedBoostingRegressor grow_budgeted_forest",
    "prunopt.forests.breakpoints": "budget_path",
    "prunopt.forests.budgeted": "BudgetedClassifier BudgetedRegressor",
    "prunopt.forests.estimators": "BudgetedForestClassifier BudgetedForestRegressor",
    "prunopt.forests.leaf_refit": "refit_leaves",
    "prunopt.forests.on_demand": "predict_on_demand",
    "prunopt.forests.path": "BudgetPath",
    "prunopt.forests.stopping_rule": "probable_stopping",
    "prunopt.forests.sklearn_trees": "pruned_forest",
    "prunopt.problems.forest.cost_lists": "CostSum CostList",
    "prunopt.problems.forest.feature_costs": "FeatureCosts",
}
__all__ = sorted(" ".join(_PLACES.values()).split())
_find, __dir__ = lazy(__name__, _PLACES)
__getattr__ = renamed_names(__name__, _find, FeaturePrices="FeatureCosts", Prices="CostList")
