"""Forests grown for a feature budget: cost-efficient boosting, exact pruning of its surrogate, prediction on demand."""

from prunopt.forests.boosting.acquisition_policy import AcquisitionPolicy as AcquisitionPolicy
from prunopt.forests.boosting.cost_efficient_boosting import Shape as Shape
from prunopt.forests.boosting.estimators import BudgetedBoostingClassifier as BudgetedBoostingClassifier
from prunopt.forests.boosting.estimators import BudgetedBoostingRegressor as BudgetedBoostingRegressor
from prunopt.forests.boosting.estimators import CandidateInfo as CandidateInfo
from prunopt.forests.boosting.grow_budgeted_forest import BudgetedTrees as BudgetedTrees
from prunopt.forests.boosting.grow_budgeted_forest import grow_budgeted_forest as grow_budgeted_forest
from prunopt.forests.boosting.models import BudgetedModel as BudgetedModel

__all__ = [
    "AcquisitionPolicy",
    "BudgetedBoostingClassifier",
    "BudgetedBoostingRegressor",
    "BudgetedModel",
    "BudgetedTrees",
    "CandidateInfo",
    "Shape",
    "grow_budgeted_forest",
]
