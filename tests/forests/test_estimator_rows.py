"""What estimators keep of their constructors: every parameter as it was given, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.base import clone

from prunopt.forests import (
    BudgetedBoostingClassifier,
    BudgetedBoostingRegressor,
    BudgetedClassifier,
    BudgetedForestClassifier,
    BudgetedForestRegressor,
    BudgetedRegressor,
)

KINDS: list[Any] = [
    BudgetedClassifier, BudgetedRegressor, BudgetedForestClassifier, BudgetedForestRegressor,
    BudgetedBoostingClassifier, BudgetedBoostingRegressor,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_kept_as_they_are(kind: Any) -> None:
    costs = {"a": 1.0}
    model = kind(feature_costs=costs, budget=2)
    assert vars(model) == model.get_params(deep=False)
    assert model.feature_costs is costs
    assert vars(clone(model)) == vars(model)
    with pytest.raises(TypeError, match="unexpected keyword"):
        kind(budgett=2)


def test_a_subclass_names_parameters_of_its_own() -> None:
    class Cheap(BudgetedClassifier):
        def __init__(self, *, budget: float = 1.0) -> None:
            super().__init__(budget=budget)

    assert Cheap().budget == 1.0
    assert clone(Cheap(budget=3.0)).budget == 3.0
