"""What a model within a budget can be made by: forests on chosen features, pruned forests, boosting for the budget."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from prunopt.core.arrays import AnyArray, Floats
from prunopt.forests._votes import len_of
from prunopt.forests.acquisitions import OnDemand, checked_count
from prunopt.forests.boosting import BudgetedBoostingClassifier, BudgetedBoostingRegressor
from prunopt.forests.budgeted_forest import DEFAULTS
from prunopt.forests.estimators import BudgetedForestClassifier, BudgetedForestRegressor
from prunopt.forests.leaf_refit import refit_leaves
from prunopt.forests.mixture import probabilities
from prunopt.forests.on_demand import predict_on_demand
from prunopt.forests.sklearn_trees import on_columns
from prunopt.forests.subset_search import SubsetSearch
from prunopt.problems.forest.feature_costs import FeatureCosts

KINDS = ("features", "pruned", "boosted")
LEAVES = (1, 3, 8, 20)  # least rows a leaf of forests on chosen features
# A fit of boosting for each fold: fewer penalties and free trees than its own defaults, within noise of them on heart.
BOOSTING: dict[str, Any] = {"n_penalties": 4, "n_free_trees": 48}


class Recipe(NamedTuple):
    """How a model is made: the kind, the greatest cost of a row, and the kind's option."""

    kind: str
    level: float
    option: str

    @property
    def words(self) -> str:
        """The recipe for people."""
        if self.kind == "default":
            return "scikit-learn's default forest on all features"
        if self.kind == "features":
            return f"forest on the best features within {self.level:g}, at least {self.option} rows a leaf"
        if self.kind == "pruned":
            return f"{self.option}, pruned to {self.level:g}"
        return f"boosting within {self.level:g}"


DEFAULT = Recipe("default", np.inf, "")


class Data(NamedTuple):
    """Rows that recipes are fitted to: codes of labels or numbers as ``y``; ``n_classes`` is 0 for regression."""

    X: Floats
    y: AnyArray
    weight: Floats
    costs: FeatureCosts
    n_classes: int

    def take(self, rows: Any) -> Data:
        """Return some of the rows."""
        return Data(self.X[rows], self.y[rows], self.weight[rows], self.costs.take(rows), self.n_classes)


@dataclass(frozen=True, eq=False)
class ForestModel:
    """A forest that asks for features row by row.

    Parameters
    ----------
    forest
        A fitted scikit-learn forest on all columns; its labels are codes.
    feature_costs
        Groups and their costs.
    temperature
        That of the class probabilities, see `prunopt.forests.leaf_refit.LeafRefit`.
    """

    forest: Any
    feature_costs: FeatureCosts
    temperature: float | None = None

    def values(self, X: Any) -> Floats:
        """Return class probabilities in the order of the forest's classes, or predictions (n, 1)."""
        if not hasattr(self.forest, "classes_"):
            return np.asarray(self.forest.predict(X), np.float64)[:, None]
        return probabilities(self.forest, self.temperature, X)

    @property
    def codes(self) -> AnyArray | None:
        """The class of each column of `values`; None for regression."""
        return np.asarray(self.forest.classes_) if hasattr(self.forest, "classes_") else None

    def on_demand(
        self, acquire_or_X: Any, n_rows: int | None, *, feature_costs: Any = None, known: Any = None, **options: Any
    ) -> OnDemand:
        """Return predictions, what was acquired, and its cost."""
        n = n_rows if callable(acquire_or_X) else len_of(acquire_or_X)
        costs = self.feature_costs.for_other_rows(checked_count(n), feature_costs, known)
        return predict_on_demand(self.forest, acquire_or_X, feature_costs=costs, n_rows=n_rows, **options)


def fitted(data: Data, wanted: list[Recipe], n_trees: int, seed: int) -> dict[Recipe, Any]:
    """Fit the recipes to the rows.

    Returns
    -------
    dict
        From recipes to `ForestModel` or `prunopt.forests.boosting.models.BudgetedModel`; a recipe that cannot be had
        from these rows is left out.
    """
    out: dict[Recipe, Any] = {}
    for kind, fit in (("default", _default), ("features", _on_features), ("pruned", _pruned), ("boosted", _boosted)):
        part = [recipe for recipe in wanted if recipe.kind == kind]
        if part:
            out |= fit(data, part, n_trees, seed)
    return out


def _default(data: Data, wanted: list[Recipe], n_trees: int, seed: int) -> dict[Recipe, Any]:
    kind = RandomForestClassifier if data.n_classes else RandomForestRegressor
    forest = kind(random_state=seed).fit(data.X, data.y, data.weight)
    return {recipe: ForestModel(forest, data.costs) for recipe in wanted}


def _on_features(data: Data, wanted: list[Recipe], n_trees: int, seed: int) -> dict[Recipe, Any]:
    kind = RandomForestClassifier if data.n_classes else RandomForestRegressor
    search = SubsetSearch(data.X, data.y, data.weight, data.costs, data.n_classes, seed)
    out: dict[Recipe, Any] = {}
    made: dict[tuple[bytes, str], ForestModel] = {}
    for recipe in wanted:
        groups = search.within(recipe.level)
        key = groups.tobytes(), recipe.option
        if key not in made:
            columns = np.flatnonzero(data.costs.features(groups))
            leaf = int(recipe.option) if len(columns) else len(data.X)
            columns = columns if len(columns) else np.array([0])  # a forest of leaves asks for nothing
            forest = kind(n_trees, min_samples_leaf=leaf, max_features="sqrt", random_state=seed)
            forest.fit(data.X[:, columns], data.y, data.weight)
            made[key] = ForestModel(on_columns(forest, columns, data.X.shape[1]), data.costs)
        out[recipe] = made[key]
    return out


BASES: dict[str, dict[str, Any]] = {"scikit-learn's default forest": {}, "forest of full-feature trees": DEFAULTS}
REFIT = " with refitted leaves"


def _pruned(data: Data, wanted: list[Recipe], n_trees: int, seed: int) -> dict[Recipe, Any]:
    forest_kind = RandomForestClassifier if data.n_classes else RandomForestRegressor
    kind = BudgetedForestClassifier if data.n_classes else BudgetedForestRegressor
    out: dict[Recipe, Any] = {}
    for base, parameters in BASES.items():
        part = [recipe for recipe in wanted if recipe.option.removesuffix(REFIT) == base]
        if not part:
            continue
        model = kind(forest_kind(**parameters), feature_costs=data.costs, penalty=0.0, random_state=seed)
        path = model.fit(data.X, data.y, data.weight).path_
        for recipe in part:
            if recipe.level < path.points[-1].expected_cost:
                continue
            forest, temperature = path.at(budget=recipe.level), None
            if recipe.option.endswith(REFIT):
                done = refit_leaves(forest, data.X, data.y, sample_weight=data.weight, random_state=seed)
                forest, temperature = done.forest, done.temperature
            out[recipe] = ForestModel(forest, data.costs, temperature)
    return out


def _boosted(data: Data, wanted: list[Recipe], n_trees: int, seed: int) -> dict[Recipe, Any]:
    kind = BudgetedBoostingClassifier if data.n_classes else BudgetedBoostingRegressor
    levels = [recipe.level for recipe in wanted]
    if data.n_classes and len(np.unique(data.y)) < 2:
        return {}
    model = kind(feature_costs=data.costs, budgets=levels, random_state=seed, **BOOSTING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of features that no row of a fold has
        model.fit(data.X, data.y, data.weight)
    return {recipe: model.at(recipe.level) for recipe in wanted}


def all_recipes(levels: Floats, kinds: tuple[str, ...]) -> list[Recipe]:
    """Return every recipe at the levels of cost."""
    options = {
        "features": [str(leaf) for leaf in LEAVES],
        "pruned": [base + suffix for base in BASES for suffix in ("", REFIT)],
        "boosted": [""],
    }
    made = [Recipe(kind, float(level), option) for kind in kinds for level in levels for option in options[kind]]
    return [DEFAULT, *made]
