"""The default estimators under a feature budget: many kinds of models cross-fitted, the best one fitted on all rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from prunopt.core.arrays import AnyArray, Floats
from prunopt.core.validate import Shown, number, one_of, require, whole_number
from prunopt.forests.acquisitions import OnDemand, checked_count
from prunopt.forests.cross_fitting import choose, compared, cross_fit, folds_of, report, values_of
from prunopt.forests.estimator_rows import EstimatorOfRows, keep
from prunopt.forests.recipes import CHOICE_TREES, KINDS, NOTHING, Data, ForestModel, Recipe, all_recipes, fitted
from prunopt.forests.scoring import Scoring, scoring_of
from prunopt.forests.stopping_rule import rule_for, votes_of_training
from prunopt.problems.forest._cost_parsing import of_rows

STAGE_SHARES = (0.01, 0.02, 0.05, 0.1, 0.18, 0.25, 0.33, 0.41, 0.5, 0.64, 0.8, 1.0)
SHARES = (0.05, 0.18, 0.33, 0.64, 1.0)  # levels of cost without a budget, as shares of the cost of everything
BELOW = (0.4, 0.65, 1.0)  # levels with a budget: models made for less may be better within it
STAGES_BELOW = (0.8, 0.9, 0.95)  # more levels of stages, whose cost on new rows may be a little higher
FEW_ROWS = 1000  # up to which rows are judged twice, by five folds; by three folds once above
SCOPES = "row", "model"
CAPPED = "features", "staged"  # kinds whose greatest cost of a row is known before there is a row


class _Budgeted(EstimatorOfRows):
    """What classifier and regressor share."""

    def __init__(
        self,
        *,
        feature_costs: Any = None,
        feature_groups: Any = None,
        budget: float | None = None,
        budgets: ArrayLike | None = None,
        budget_per_row: float | None = None,
        cost_scope: str = "row",
        scoring: str | None = None,
        misclassification_costs: Any = None,
        class_weight: Any = None,
        candidates: tuple[str, ...] = KINDS,
        cv: tuple[int, int] | None = None,
        n_trees: int = 200,
        random_state: Any = None,
        n_jobs: int | None = None,
        callback: Callable[[str], Any] | None = None,
    ) -> None:
        keep(self, locals())

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None = None,
        *,
        feature_costs: Any = None,
        known: Any = None,
    ) -> Any:
        """Judge every candidate by cross-fitting, and fit the chosen one on all rows.

        Parameters
        ----------
        X : (n, K) array or DataFrame
            Rows; NaN = missing.
        y : (n,)
            Labels, or numbers for the regressor.
        sample_weight : (n,) or None
            Weights of errors and costs.
        feature_costs
            Costs of these very rows, (n, K), instead of those of the constructor.
        known
            Features that are known already, for all rows or for each (n, K): they cost nothing.

        Raises
        ------
        ValueError
            For parameters or rows that do not fit; the message says what to do.
        """
        rows, target, n_classes = self._checked(X, y)
        self._check_parameters(len(rows))
        weight = np.ones(len(rows))
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)
            used = np.flatnonzero(weight)
            require(len(used) == len(rows), "sample_weight", "be positive", Shown("a zero"), "leave those rows out")
        self.feature_costs_ = costs = self._costs(X, rows, feature_costs, known)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.scoring_ = self._scoring(target)
        cap = np.inf if self.budget_per_row is None else float(self.budget_per_row)
        weights = self.scoring_.class_weight if n_classes else None
        once = self.cost_scope == "model"
        data = Data(rows, target, weight, costs, n_classes, weights, cap, once, self.scoring_.worth, len(rows))
        n_folds, repeats = self.cv or ((5, 2) if len(rows) <= FEW_ROWS else (3, 1))
        folds = folds_of(data, n_folds, repeats, seed)
        tell = self.callback or (lambda text: None)
        # A choice needs no more trees than that; the model that is handed out has all of them.
        self.table_ = cross_fit(
            data,
            self._recipes(len(rows), costs.total),
            self.scoring_,
            folds,
            min(self.n_trees, CHOICE_TREES),
            seed,
            self.n_jobs,
            tell,
        )
        self.candidates_ = report(self.table_)
        budgets = [] if self.budgets is None else np.asarray(self.budgets, np.float64).tolist()
        wanted = {b: self.table_.recipes[choose(self.table_, b)] for b in (self.budget, *budgets)}
        tell("fitting the chosen model on all rows")
        models = fitted(data, list(dict.fromkeys(wanted.values())), self.n_trees, seed)
        self.path_ = {b: models[recipe] for b, recipe in wanted.items() if b is not None}
        self.recipe_, self.model_ = wanted[self.budget], models[wanted[self.budget]]
        self.votes_ = None
        if isinstance(self.model_, ForestModel):
            self.votes_ = votes_of_training(self.model_.forest, rows, costs)
        self.comparison_ = compared(self.table_, self.budget)
        self.expected_cost_ = float(self.table_.mean(self.table_.cost)[self.table_.recipes.index(self.recipe_)])
        found = self.model_.on_demand(rows, None)
        paid = (
            costs.of_rows(np.broadcast_to(self.model_.used, (len(rows), len(self.model_.used))))
            if data.one_price
            else found.cost
        )
        self.training_cost_ = float(np.average(paid, weights=weight))
        self.remarks_ = self._remarks(data, found)
        for remark in self.remarks_:
            warnings.warn(remark, stacklevel=2)
        return self

    def at(self, budget: float) -> Any:
        """Return the model for one of the ``budgets``, which predicts codes of ``classes_``."""
        check_is_fitted(self)
        require(self.path_, "budget", "be one that was fitted for", budget, "name it in budgets=")
        one_of("budget", float(budget), tuple(self.path_), "name it in budgets=")
        return self.path_[float(budget)]

    def predict(self, X: Any) -> AnyArray:
        """Return labels, or numbers, shape (n,)."""
        return self._decoded(self._values(X))

    def predict_on_demand(
        self,
        acquire_or_X: Any,
        *,
        n_rows: int | None = None,
        stop_early: bool | str = False,
        disagreement: float | None = None,
        batch: bool = False,
        feature_costs: Any = None,
        known: Any = None,
        known_values: Any = None,
    ) -> OnDemand:
        """Predict, and ask for the values of a group of features only when the model needs them.

        Parameters
        ----------
        acquire_or_X
            A function ``acquire(row, group)`` that returns the values of a group, or known rows (n, K), on which the
            same acquisitions are counted.
        n_rows
            Number of rows, needed with a function.
        stop_early
            Stop acquiring for a row as soon as its prediction cannot change; with ``"probable"``, as soon as it is
            likely enough, by the votes out of bag (two classes). Both need a chosen model that is one forest: stages
            and boosting have rules of their own when to stop.
        disagreement
            With ``"probable"``, the share of labels that may change, in expectation; None = 0.001.
        batch
            ``acquire(rows, group)`` takes many rows at once.
        feature_costs, known, known_values
            Costs of these rows, what is known of them, and, with a function, its values (n, K).

        Returns
        -------
        predictions : (n,)
            Those of `predict`.
        acquired : (n, K) bool
            What was acquired for each row; with a feature, its whole group.
        cost : (n,)
            What that cost. The result's ``acquisitions`` tell what each row acquired in which order, at which cost.
        """
        check_is_fitted(self)
        source = acquire_or_X if callable(acquire_or_X) else self._new_rows(acquire_or_X)
        given: dict[str, Any] = {"known_values": known_values}
        if feature_costs is not None or known is not None:
            n = checked_count(n_rows) if callable(acquire_or_X) else len(source)
            own = of_rows(feature_costs, acquire_or_X)
            given["feature_costs"] = self.feature_costs_.for_other_rows(n, own, known, self._names)
        if stop_early is not False or disagreement is not None:
            forest = isinstance(self.model_, ForestModel)
            mend = "its stages, or its boosting, stop by a rule of their own"
            require(forest, "stop_early", f"be left out for the chosen model, {self.recipe_.words}", stop_early, mend)
            given["stop_early"] = rule_for(stop_early, disagreement, lambda: self.votes_)
        found = self.model_.on_demand(source, n_rows, batch=batch, **given)
        labels = self.classes_[found.predictions.astype(np.int64)] if hasattr(self, "classes_") else found.predictions
        return OnDemand(labels, found.acquired, found.cost, found.acquisitions)

    def cost_per_row(self, X: Any) -> Floats:
        """Return what each row costs, shape (n,)."""
        return self.predict_on_demand(X).cost

    def _checked(self, X: Any, y: Any) -> tuple[Floats, AnyArray, int]:
        raise NotImplementedError

    def _decoded(self, values: Floats) -> AnyArray:
        raise NotImplementedError

    def _values(self, X: Any) -> Floats:
        check_is_fitted(self)
        rows = self._new_rows(X)
        n_classes = len(self.classes_) if hasattr(self, "classes_") else 0
        blank = Data(rows, np.zeros(len(rows), np.int64), np.ones(len(rows)), self.feature_costs_, n_classes)
        return values_of(self.model_, blank)

    def _recipes(self, n: int, total: float) -> list[Recipe]:
        """The candidates, at the costs that they are made for."""
        most = total if self.budget_per_row is None else min(total, float(self.budget_per_row))
        if self.budgets is not None:
            levels = np.asarray(self.budgets, np.float64).ravel()
            levels = levels if self.budget is None else np.append(levels, self.budget)
        elif self.budget is not None:
            levels = np.array(BELOW) * self.budget
        else:
            levels = np.array(SHARES) * most
        levels = np.unique(np.minimum(levels, most))
        stages = np.array(STAGE_SHARES) * most
        stages = np.union1d(levels, stages[stages <= levels.max()])
        if self.budget is not None or self.budgets is not None:
            stages = np.union1d(stages, np.outer(STAGES_BELOW, levels))
        kinds = tuple(self.candidates)
        if self.budget_per_row is not None or self.cost_scope == "model":
            kinds = tuple(kind for kind in kinds if kind in CAPPED)
            mend = "other kinds cannot promise what one row, or the whole model, costs"
            require(kinds, "candidates", f"hold one of {', '.join(CAPPED)}", self.candidates, mend)
        return [*all_recipes(n, levels, kinds, stages), NOTHING]

    def _check_parameters(self, n: int) -> None:
        if self.budget is not None:
            number(
                "budget",
                self.budget,
                low=0,
                mend="None takes the cheapest model that is not surely worse than the best",
            )
        for budget in [] if self.budgets is None else np.asarray(self.budgets).ravel().tolist():
            number("budgets", budget, low=0)
        if self.budget_per_row is not None:
            number("budget_per_row", self.budget_per_row, low=0, mend="None sets no limit for single rows")
        one_of("cost_scope", self.cost_scope, SCOPES)
        require(len(self.candidates), "candidates", "name kinds of models", self.candidates)
        for kind in self.candidates:
            one_of("candidates", kind, KINDS)
        whole_number("n_trees", self.n_trees, low=1)
        if self.cv is not None:
            fits = isinstance(self.cv, tuple) and len(self.cv) == 2
            require(fits, "cv", "be a pair (folds, repeats)", self.cv)
            whole_number("cv[0]", self.cv[0], low=2, high=n)
            whole_number("cv[1]", self.cv[1], low=1)
        require(n >= 10, "X", "have at least 10 rows, which folds are made of", Shown(f"n_samples={n}"))

    def _scoring(self, target: AnyArray) -> Scoring:
        raise NotImplementedError

    def _remarks(self, data: Data, found: OnDemand) -> tuple[str, ...]:
        """What a user should know before using the model."""
        if not data.n_classes or data.n_classes < 2:
            return ()
        labels, spent = np.unique(found.predictions), float(found.cost.mean())
        within = "" if self.budget is None else f" within budget={self.budget:g}"
        mend = f"no candidate{within} is better by {self.scoring_.words}"
        if self.budget is not None:
            mend += "; raise the budget"
        if len(labels) == 1:
            label = self.classes_[int(labels[0])]
            said = f"the model says {str(label)!r} for every row"
            if spent > 0:
                said += f", and still acquires features for {spent:g} a row, which only moves probabilities"
            return (f"{said}: {mend}",)
        right = self.table_.mean(self.table_.score)
        own, nothing = (self.table_.recipes.index(recipe) for recipe in (self.recipe_, NOTHING))
        if spent > 0 and right[own] <= right[nothing]:
            return (
                f"the model acquires features for {spent:g} a row, and scores no more than a model without: {mend}",
            )
        return ()


class BudgetedClassifier(ClassifierMixin, _Budgeted):  # type: ignore[misc]
    r"""The classifier to start with under a feature budget.

    .. math:: \max \; \text{accuracy} \quad \text{s.t.} \quad
        \frac{1}{n} \sum_i \sum_g c_g \, [\text{row } i \text{ acquires group } g] \le B

    (or another measure, see ``scoring``) is approached by whatever works best on the data: a forest on the best
    features within the budget (search over groups, several leaf sizes), stages of features of which only rows in doubt
    acquire the rest, scikit-learn's default forest and one of full-feature trees, pruned exactly, with and without
    refitted leaves, and `BudgetedBoostingClassifier`. Every candidate, its search included, is judged by repeated
    cross-fitting on all rows; the chosen one is fitted on all of them.

    Parameters
    ----------
    feature_costs
        Cost of each feature (array, mapping from names, Series), or of each group; None = 1 each. `CostList` with
        discounts within groups, or a `CostSum` of several currencies.
    feature_groups
        Features that are acquired together; see `prunopt.problems.forest.feature_costs.FeatureCosts.of`.
    budget
        Greatest mean cost of a row. None = the cheapest candidate that is not surely
        worse than the best one: by no more than two paired standard errors, nor (of accuracies and areas under curves)
        by more than two points.
    budgets
        Other budgets to choose and fit models for in the same run, see `at`.
    budget_per_row
        Greatest cost of any single row, also of new ones at the same costs. Only ``"features"`` and ``"staged"`` can
        promise it.
    cost_scope
        ``"row"``, or ``"model"``: a feature is paid for once for the whole model, so every row costs what all features
        that the model uses cost together (a sensor to be installed, a field of a form).
    scoring
        What is chosen by: ``"accuracy"``, ``"balanced_accuracy"``, ``"roc_auc"`` or ``"neg_log_loss"``.
        None = accuracy, or the area under the curve where less than 3 % of the rows have the rarest label.
    misclassification_costs
        Cost of every wrong label in the currency of the features: a matrix (C, C) in the order of the sorted labels,
        lines the true ones, or ``{true: {said: cost}}`` with every pair of different labels. Then features and
        mistakes together shall cost least, and labels are those of least expected cost (by weights of the classes in
        the fits, exact for two classes).
    class_weight
        ``"balanced"`` or weights by label, as in scikit-learn: they multiply the weights of rows in fits, not in costs.
        Probabilities are those of the weighted rows.
    candidates
        Which of ``"features"``, ``"staged"``, ``"pruned"`` and ``"boosted"`` take part.
    cv
        Folds and repeats; None = 5 folds twice up to 1000 rows, 3 folds once above. After the first repeat only
        those candidates are judged again that none as cheap clearly surpasses.
    n_trees
        Trees of a forest on chosen features.
    random_state, n_jobs
        Seed; processes that fit folds at the same time.
    callback
        Called with a line of text after every fold: ``print`` shows the progress.

    Attributes
    ----------
    classes_ : (C,) array
        The labels.
    model_ : ForestModel, StagedModel or BudgetedModel
        The chosen model, fitted on all rows; it predicts codes of ``classes_``. A ForestModel's ``forest`` is a genuine
        scikit-learn forest.
    recipe_ : Recipe
        How it was made.
    expected_cost_ : float
        What a row is expected to cost: the mean over rows, each judged by models of the same recipe that were fitted
        without it. The budget is held against it. It is an estimate, no limit: new rows may pay more on average
        (``comparison_`` has the interval of the whole rule; ``budget_per_row`` limits every row).
    training_cost_ : float
        What the rows of the fit pay on average, by ``model_`` itself; may be above the budget.
    comparison_ : Comparison
        What the rule reaches on rows that neither fit nor choice has seen, against scikit-learn's default forest.
    candidates_ : tuple of Judged
        The candidates of the last repeat by rising cost.
    path_ : dict
        The models for ``budgets``.
    remarks_ : tuple of str
        Warnings about the model.

    Examples
    --------
    >>> from prunopt.forests import BudgetedClassifier
    >>> from prunopt.forests.datasets import load_heart
    >>> heart = load_heart()
    >>> model = BudgetedClassifier(feature_costs=heart.costs(), budget=110, candidates=("features",), cv=(3, 1),
    ...                            n_trees=20, random_state=0).fit(heart.X, heart.y)
    >>> bool(model.cost_per_row(heart.X).mean() <= 110)
    True
    """

    def predict_proba(self, X: Any) -> Floats:
        """Return class probabilities, shape (n, C), in the order of ``classes_``."""
        return self._values(X)

    def _checked(self, X: Any, y: Any) -> tuple[Floats, AnyArray, int]:
        return *self._labeled(X, y), len(self.classes_)

    def _decoded(self, values: Floats) -> AnyArray:
        return np.asarray(self.classes_[values.argmax(axis=1)])

    def _scoring(self, target: AnyArray) -> Scoring:
        return scoring_of(self.scoring, self.misclassification_costs, self.class_weight, self.classes_, target)


class BudgetedRegressor(RegressorMixin, _Budgeted):  # type: ignore[misc]
    """The regressor to start with under a feature budget: the recipe of `BudgetedClassifier` with squared errors.

    Parameters and attributes are those of the classifier; scores are minus the mean squared error. ``scoring``,
    ``misclassification_costs`` and ``class_weight`` are None, and there are no stages.
    """

    def _scoring(self, target: AnyArray) -> Scoring:
        for name in ("scoring", "misclassification_costs", "class_weight"):
            given = getattr(self, name)
            require(given is None, name, "be None for numbers", given, "squared errors are what counts")
        return Scoring("neg_mean_squared_error", np.zeros(0))

    def _checked(self, X: Any, y: Any) -> tuple[Floats, AnyArray, int]:
        return *self._numbered(X, y), 0

    def _decoded(self, values: Floats) -> AnyArray:
        return np.asarray(values[:, 0])


__all__ = ["BudgetedClassifier", "BudgetedRegressor"]
