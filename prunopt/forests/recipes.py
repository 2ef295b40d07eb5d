"""What a model within a budget can be made by: forests on chosen features, pruned forests, boosting for the budget."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from prunopt.core.arrays import AnyArray, Bools, Floats
from prunopt.forests._votes import len_of
from prunopt.forests.acquisitions import OnDemand, checked_count
from prunopt.forests.boosting import BudgetedBoostingClassifier, BudgetedBoostingRegressor
from prunopt.forests.budgeted_forest import DEFAULTS
from prunopt.forests.estimators import BudgetedForestClassifier, BudgetedForestRegressor
from prunopt.forests.leaf_refit import refit_leaves
from prunopt.forests.mixture import probabilities
from prunopt.forests.on_demand import predict_on_demand
from prunopt.forests.sklearn_trees import on_columns
from prunopt.forests.staged import MOST_STAGES, Policy, StagedModel, judged_stage, policies
from prunopt.forests.subset_search import ADDITIVE_ROWS, SubsetSearch
from prunopt.problems.forest.feature_costs import FeatureCosts

KINDS = ("features", "staged", "pruned", "boosted")
CHOICE_TREES = 50  # of forests that something is chosen by
LEAVES = (1, 3, 10)  # least rows a leaf of forests on chosen features
# A fit of boosting for each fold: fewer penalties and free trees than its own defaults, and still fewer on few rows.
BOOSTING: dict[str, Any] = {"n_penalties": 4, "n_free_trees": 48}
BOOSTING_FEW: dict[str, Any] = {"n_penalties": 2, "n_free_trees": 24}
FEW_ROWS = 1000


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
        if self.kind == "staged":
            return f"{self.option} in stages within {self.level:g}"
        if self.kind == "pruned":
            return f"{self.option}, pruned to {self.level:g}"
        return f"boosting within {self.level:g}"


DEFAULT = Recipe("default", np.inf, "")
NOTHING = Recipe("features", 0.0, "1")


class Data(NamedTuple):
    """Rows that recipes are fitted to: codes of labels or numbers as ``y``; ``n_classes`` is 0 for regression.

    ``class_weight`` (C,) multiplies the weights in fits, not in mean costs. ``cap`` is the most that any row may cost,
    ``one_price`` says that a feature is paid for once for the whole model: then no row can do without what others use.
    ``worth`` is what a right label saves on average, in the currency of the features, where mistakes have costs.
    ``n_all`` is the number of all rows, which decides how sets are searched for: alike in a fold and in the whole.
    """

    X: Floats
    y: AnyArray
    weight: Floats
    costs: FeatureCosts
    n_classes: int
    class_weight: Floats | None = None
    cap: float = np.inf
    one_price: bool = False
    worth: float | None = None
    n_all: int | None = None

    def take(self, rows: Any) -> Data:
        """Return some of the rows."""
        return self._replace(X=self.X[rows], y=self.y[rows], weight=self.weight[rows], costs=self.costs.take(rows))

    @property
    def fit_weight(self) -> Floats:
        """Weights that models are fitted with, (n,)."""
        return (
            self.weight if self.class_weight is None or not self.n_classes else self.weight * self.class_weight[self.y]
        )


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
    def forests(self) -> list[Any]:
        """The forest, as a list: what a reader of files has to check."""
        return [self.forest]

    @property
    def used(self) -> Bools:
        """The groups (G,) that some row may acquire."""
        trees = getattr(self.forest, "estimators_", None) or [self.forest]
        tested = np.unique(np.concatenate([tree.tree_.feature for tree in trees]))
        return np.isin(np.arange(len(self.feature_costs.group_cost)), self.feature_costs.group_of[tested[tested >= 0]])

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
    searched = any(recipe.kind in ("features", "staged") for recipe in wanted)
    search = _search(data, seed) if searched else None
    for kind, fit in (
        ("default", _default),
        ("features", partial(_on_features, search)),
        ("staged", partial(_staged, search)),
        ("pruned", _pruned),
        ("boosted", _boosted),
    ):
        part = [recipe for recipe in wanted if recipe.kind == kind]
        if part:
            out |= fit(data, part, n_trees, seed)
    return out


def _default(data: Data, wanted: list[Recipe], n_trees: int, seed: int) -> dict[Recipe, Any]:
    kind = RandomForestClassifier if data.n_classes else RandomForestRegressor
    forest = kind(random_state=seed).fit(data.X, data.y, data.fit_weight)
    return {recipe: ForestModel(forest, data.costs) for recipe in wanted}


def _search(data: Data, seed: int) -> SubsetSearch:
    additive = (len(data.X) if data.n_all is None else data.n_all) <= ADDITIVE_ROWS
    return SubsetSearch(data.X, data.y, data.fit_weight, data.costs, data.n_classes, seed, additive)


def _on_features(
    search: SubsetSearch | None, data: Data, wanted: list[Recipe], n_trees: int, seed: int
) -> dict[Recipe, Any]:
    assert search is not None
    kind = RandomForestClassifier if data.n_classes else RandomForestRegressor
    out: dict[Recipe, Any] = {}
    made: dict[tuple[bytes, str], ForestModel] = {}
    for recipe in wanted:
        groups = search.within(min(recipe.level, data.cap))
        key = groups.tobytes(), recipe.option
        if key not in made:
            columns = np.flatnonzero(data.costs.features(groups))
            leaf = int(recipe.option) if len(columns) else len(data.X)
            columns = columns if len(columns) else np.array([0])  # a forest of leaves asks for nothing
            forest = kind(n_trees, min_samples_leaf=leaf, max_features="sqrt", random_state=seed)
            forest.fit(data.X[:, columns], data.y, data.fit_weight)
            made[key] = ForestModel(on_columns(forest, columns, data.X.shape[1]), data.costs)
        out[recipe] = made[key]
    return out


STAGED = {"forest": False, "forest and logistic regression": True}
LINEAR_ROWS = 2000  # up to which, all folds together, a logistic regression takes part in stages


def _staged(
    search: SubsetSearch | None, data: Data, wanted: list[Recipe], n_trees: int, seed: int
) -> dict[Recipe, Any]:
    """Stages of nested sets; chain and limit of each level are the best out of bag."""
    assert search is not None
    if not data.n_classes:
        return {}
    sets = [groups for groups in search.family() if search.most(groups) <= data.cap * (1 + 1e-9)]
    if n_trees > CHOICE_TREES:  # the chains first: only their sets get forests of full size
        models = _staged_on(sets, data, wanted, CHOICE_TREES, seed).values()
        used = {stage.groups.tobytes() for model in models for stage in model.stages}
        sets = [groups for groups in sets if groups.tobytes() in used]
    return _staged_on(sets, data, wanted, n_trees, seed)


def _staged_on(
    sets: list[Bools], data: Data, wanted: list[Recipe], n_trees: int, seed: int
) -> dict[Recipe, StagedModel]:
    n, weight = len(data.X), data.fit_weight
    prior = np.bincount(data.y, weights=weight, minlength=data.n_classes) / weight.sum()
    bill = np.stack([data.costs.of_rows(np.broadcast_to(groups, (n, len(groups)))) for groups in sets])
    linear = any(STAGED[recipe.option] for recipe in wanted)
    made = [
        judged_stage(
            data.X, data.y, weight, groups, np.flatnonzero(data.costs.features(groups)), prior=prior,
            linear=linear, n_trees=n_trees, seed=seed,
        )
        for groups in sets
    ]  # fmt: skip
    truth = np.eye(data.n_classes)[data.y]
    out: dict[Recipe, StagedModel] = {}
    relative = data.fit_weight / data.weight
    for option in dict.fromkeys(recipe.option for recipe in wanted):
        chances = np.stack([(p["forest"] + p["logistic"]) / 2 if STAGED[option] else p["forest"] for _, p in made])
        stages = [stage if STAGED[option] else stage._replace(logistic=None) for stage, _ in made]
        right = chances.argmax(axis=2) == data.y
        utility = (right - np.square(chances - truth).sum(axis=2)) * relative
        most = 1 if data.one_price else MOST_STAGES
        tried = policies(sets, 1 - chances.max(axis=2), utility, bill, data.weight, most)
        models: dict[tuple[Any, ...], StagedModel] = {}
        for recipe in (r for r in wanted if r.option == option):
            inside = [policy for policy in tried if policy.cost <= recipe.level * (1 + 1e-9)]
            if inside:
                best = max(inside, key=partial(_gain, worth=data.worth))
                if best[:2] not in models:
                    limits = (best.limit,) * (len(best.chain) - 1)
                    models[best[:2]] = StagedModel(tuple(stages[k] for k in best.chain), limits, data.costs)
                out[recipe] = models[best[:2]]
    return out


def _gain(policy: Policy, worth: float | None) -> tuple[float, float]:
    # Where mistakes have costs, right labels and Brier scores count one half each, and features are paid for from that.
    return policy.utility if worth is None else worth * policy.utility / 2 - policy.cost, -policy.cost


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
        path = model.fit(data.X, data.y, data.fit_weight).path_
        made: dict[tuple[int, str], ForestModel] = {}
        ridge = None  # chosen once, for the largest forest
        for recipe in sorted(part, key=lambda recipe: -recipe.level):
            if recipe.level < path.points[-1].expected_cost:
                continue
            key = path.index(budget=recipe.level), recipe.option
            if key not in made:
                forest, temperature = path.at(budget=recipe.level), None
                if recipe.option.endswith(REFIT):
                    options: dict[str, Any] = {"sample_weight": data.fit_weight, "random_state": seed, "ridge": ridge}
                    done = refit_leaves(forest, data.X, data.y, **options)
                    forest, temperature, ridge = done.forest, done.temperature, done.ridge
                made[key] = ForestModel(forest, data.costs, temperature)
            out[recipe] = made[key]
    return out


def _boosted(data: Data, wanted: list[Recipe], n_trees: int, seed: int) -> dict[Recipe, Any]:
    kind = BudgetedBoostingClassifier if data.n_classes else BudgetedBoostingRegressor
    levels = [recipe.level for recipe in wanted]
    if data.n_classes and len(np.unique(data.y)) < 2:
        return {}
    settings = BOOSTING if len(data.X) > FEW_ROWS else BOOSTING_FEW
    if n_trees > CHOICE_TREES:  # the model that is handed out is searched for as boosting does by itself
        settings = {}
    model = kind(feature_costs=data.costs, budgets=levels, random_state=seed, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of features that no row of a fold has
        model.fit(data.X, data.y, data.fit_weight)
    return {recipe: model.at(recipe.level) for recipe in wanted}


def all_recipes(
    n_rows: int, levels: Floats, kinds: tuple[str, ...], stage_levels: Floats | None = None
) -> list[Recipe]:
    """Return every recipe at the levels of cost; stages may have levels of their own, which cost little time.

    What takes part is decided here, by the number of all rows: a fold must not have a candidate that the whole lacks.
    """
    options = {
        "features": [str(leaf) for leaf in LEAVES],
        "staged": [option for option, linear in STAGED.items() if not linear or n_rows <= LINEAR_ROWS],
        "pruned": [base + suffix for base in BASES for suffix in ("", REFIT)],
        "boosted": [""],
    }
    at = {kind: levels if kind != "staged" or stage_levels is None else stage_levels for kind in kinds}
    made = [Recipe(kind, float(level), option) for kind in kinds for level in at[kind] for option in options[kind]]
    return [DEFAULT, *made]
