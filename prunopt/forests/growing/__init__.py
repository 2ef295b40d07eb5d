"""Forests grown for a feature budget: priced boosting, exact pruning of its surrogate, prediction from purchases."""

from prunopt.forests.growing.boosting import Shape as Shape
from prunopt.forests.growing.estimators import BudgetedBoostingClassifier as BudgetedBoostingClassifier
from prunopt.forests.growing.estimators import BudgetedBoostingRegressor as BudgetedBoostingRegressor
from prunopt.forests.growing.estimators import CandidateInfo as CandidateInfo
from prunopt.forests.growing.grow import BudgetedTrees as BudgetedTrees
from prunopt.forests.growing.grow import grow_budgeted_forest as grow_budgeted_forest
from prunopt.forests.growing.models import BudgetedModel as BudgetedModel
from prunopt.forests.growing.policy import AcquisitionPolicy as AcquisitionPolicy

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
