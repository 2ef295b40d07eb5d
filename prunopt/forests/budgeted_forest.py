"""What the estimators for classification and regression share: fitting, choosing, predicting, asking."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import _safe_indexing, check_random_state, get_tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from prunopt.core.arrays import AnyArray, Ints, Singles
from prunopt.core.deprecation import renamed_attributes, warn
from prunopt.core.validate import Shown, number, one_of, require
from prunopt.forests._votes import len_of
from prunopt.forests.acquisitions import checked_count
from prunopt.forests.breakpoints import path_of
from prunopt.forests.estimator_rows import keep
from prunopt.forests.leaf_refit import Refit, refuse_monotonic
from prunopt.forests.mixture import mixture
from prunopt.forests.on_demand import OnDemand, predict_on_demand
from prunopt.forests.selection import Judged, choose, has_rare_label
from prunopt.forests.sklearn_trees import compacted
from prunopt.forests.stopping_rule import MOST_ROWS, VoteTotals, rule_for, votes_of_training
from prunopt.problems.forest._cost_parsing import of_rows
from prunopt.problems.forest.feature_costs import FeatureCosts
from prunopt.problems.forest.forest_budget import ForestBudget
from prunopt.problems.forest.node_errors import ERRORS, tree_weights
from prunopt.problems.forest.tree_ensemble import refuse_strangers

# Trees that see all features at every split test few different ones, which makes a row cheap; 40 trees of depth 10
# are within noise of larger forests up to half of the full cost (measured on digits, satimage, magic and spambase).
DEFAULTS: dict[str, Any] = {"n_estimators": 40, "max_depth": 10, "max_features": None, "bootstrap": True}

NOTHING = (
    "no pruning is surely better than asking for nothing, so every row gets the same prediction: a label is rare; "
    'pass loss="gini", or take BudgetedClassifier, which chooses by the area under the curve'
)


@renamed_attributes(price_="penalty_")
class BudgetedForest(BaseEstimator):  # type: ignore[misc]
    """What classifier and regressor share."""

    _default: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        estimator: Any = None,
        *,
        feature_costs: Any = None,
        feature_groups: Any = None,
        budget: float | None = None,
        penalty: float | None = None,
        errors: str = "oob",
        loss: str | None = None,
        solver: Any = None,
        refit_leaves: bool | str = False,
        randomised: bool = False,
        validation_fraction: float = 0.25,
        random_state: Any = None,
        n_jobs: int | None = None,
        price: Any = "deprecated",
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
        """Grow the forest, find every optimal pruning, and take the one asked for.

        Parameters
        ----------
        X : (n, K) array or DataFrame
            Rows; NaN where the forest allows it.
        y : (n,)
            Labels, or numbers for the regressor.
        sample_weight : (n,) or None
            Scales error and cost of a row alike; handed to the forest, too.
        feature_costs
            Costs of these very rows, (n, K), instead of those of the constructor.
        known
            Features that are known already, for all rows or for each (n, K): they cost nothing.

        Raises
        ------
        ValueError
            For parameters or rows that do not fit; the message says what to do.
        """
        penalty, refit = self._check_parameters()
        rows, y = self._check_rows(X, y)
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, rows, ensure_non_negative=True)
        given = X if hasattr(X, "columns") else rows  # a DataFrame keeps its names
        random = check_random_state(self.random_state)
        costs = self.feature_costs if feature_costs is None else feature_costs
        costs = of_rows(costs, X)
        costs = FeatureCosts.of(costs, rows.shape[1], self._names(X), self.feature_groups, known).for_rows(len(rows))
        forest, judges = self._grow(given, y, weight, random)
        judged, judged_y, judged_weight = given, y, weight
        if judges is not None:
            judged, judged_y, costs = _safe_indexing(given, judges), y[judges], costs.take(judges)
            judged_weight = None if weight is None else weight[judges]
        loss = self.loss or "misclassification"
        options: dict[str, Any] = {"sample_weight": judged_weight, "errors": self.errors, "loss": loss}
        task = ForestBudget.from_forest(forest, judged, judged_y, costs, penalty or 0, **options)
        from prunopt.solvers.closure.parametric_cut import closure_path

        self.path_ = path_of(task, forest, partial(closure_path, n_jobs=self.n_jobs), None)
        voters = None
        if refit and self.errors == "oob" and not is_classifier(self):
            # Values fitted to rows that the trees have seen are worse for regression (measured), not for labels.
            voters = tree_weights(forest, "oob", task.ensemble.n_trees, np.ones(len(task.X))) > 0
        fit_rows = Refit(given, y, weight, voters, int(random.randint(2**31 - 1)))
        self.mixture_ = self.temperature_ = None
        if self.randomised:
            assert self.budget is not None
            mixed = mixture(self.path_, float(self.budget))
            self.solution_ = self.path_.solution(budget=self.budget)
            self.penalty_, self.expected_cost_ = float(self.solution_.stats["penalty"]), mixed.expected_cost
            self.mixture_ = mixed.refitted(fit_rows) if refit else mixed
            self.estimator_, self.temperature_ = self.mixture_.cheaper, self.mixture_.temperatures[0]
        else:
            judged_rows = Judged(task, judged, judged_y, self.errors, loss)
            chosen = choose(self.path_, judged_rows, penalty, self.budget, self.solver)
            self.solution_, self.penalty_, self.expected_cost_ = chosen
            self.estimator_ = compacted(forest, task.ensemble, self.solution_.value)
            if self.budget and not self.solution_.value.any():
                warnings.warn(self._constant(task), stacklevel=2)
            unasked = penalty is None and self.budget is None and not self.solution_.value.any()
            if unasked and is_classifier(self) and has_rare_label(judged_y, task.weight):
                warnings.warn(NOTHING, stacklevel=2)
            if refit:
                self.estimator_, self.temperature_ = fit_rows(self.estimator_)
        self.votes_ = self._votes(task, costs)
        if is_classifier(self):
            self.classes_ = self.estimator_.classes_
        return self

    def predict(self, X: Any) -> AnyArray:
        """Return the predictions of ``estimator_``, or, randomized, of ``mixture_``, shape (n,)."""
        rows = self._check_new_rows(X)
        if self.mixture_ is not None:
            return self.mixture_.predict(rows, self.random_state)
        return np.asarray(self.estimator_.predict(rows))

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
        """Predict, and ask for the value of a feature only at the first node that tests it.

        Parameters
        ----------
        acquire_or_X
            A function ``acquire(row, group)`` that returns the values of a group of features, or known rows (n, K),
            on which the same acquisitions are counted.
        n_rows
            Number of rows, needed with a function.
        stop_early
            Stop acquiring for a row as soon as its prediction cannot change; with ``"probable"``, as soon as it is
            likely enough, by the votes of the rows that the model was judged on (two classes).
        disagreement
            With ``"probable"``, the share of labels that may change, in expectation; None = 0.001.
        batch
            ``acquire(rows, group)`` takes many rows at once.
        feature_costs
            Costs of these rows, where they differ from those that the model was fitted with (needed where those are
            per row).
        known, known_values
            What is known of these rows already, and, with a function, its values (n, K).

        Returns
        -------
        predictions : (n,)
            Those of `predict`.
        acquired : (n, K) bool
            What was acquired for each row; with a feature, its whole group.
        cost : (n,)
            What that cost. The result's ``acquisitions`` tell what each row acquired in which order, at which cost.

        See Also
        --------
        prunopt.forests.on_demand.predict_on_demand
        """
        check_is_fitted(self)
        n = n_rows if callable(acquire_or_X) else len_of(acquire_or_X)
        costs = self.path_.costs_for(checked_count(n), feature_costs, known)
        options: dict[str, Any] = {"known_values": known_values, "batch": batch}
        options["stop_early"] = rule_for(stop_early, disagreement, lambda: self.votes_)
        if self.mixture_ is not None:
            return self.mixture_.on_demand(acquire_or_X, costs, checked_count(n), self.random_state, **options)
        return predict_on_demand(self.estimator_, acquire_or_X, feature_costs=costs, n_rows=n_rows, **options)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = get_tags(self._forest()).input_tags.allow_nan
        tags.input_tags.sparse = False
        return tags

    def _votes(self, task: ForestBudget, costs: FeatureCosts) -> VoteTotals | None:
        """The votes of the rows that prunings were judged on, for `predict_on_demand` to stop by."""
        if self.mixture_ is not None or len(getattr(self.estimator_, "classes_", ())) != 2:
            return None
        if self.errors == "holdout":
            return VoteTotals.seen(self.estimator_, task.X[:MOST_ROWS], costs.take(slice(MOST_ROWS)))
        return votes_of_training(self.estimator_, task.X, costs)

    def _forest(self) -> Any:
        return type(self)._default(**DEFAULTS) if self.estimator is None else self.estimator

    def _names(self, X: Any) -> tuple[str, ...] | None:
        """The names of the columns: those that a frozen forest knows, or that scikit-learn takes over."""
        own = getattr(self.estimator, "feature_names_in_", None)
        columns = getattr(X, "columns", None) if own is None else own
        return None if columns is None or not all(isinstance(c, str) for c in columns) else tuple(columns)

    def _check_parameters(self) -> tuple[float | None, bool]:
        """The penalty, and whether leaves are refitted, whatever names they were given by."""
        penalty, refit = self.penalty, self.refit_leaves
        if not (isinstance(self.price, str) and self.price == "deprecated"):
            warn("price=", "penalty=")
            require(penalty is None, "price", "be given without penalty", self.price, "it is the old name of penalty")
            penalty = self.price
        if refit == "alternate":
            warn('refit_leaves="alternate"', "refit_leaves=True")
            refit = True
        one_of("refit_leaves", refit, (False, True))
        if self.budget is not None:
            number("budget", self.budget, low=0, mend="None sets no limit")
        given = Shown(f"budget={self.budget!r} and penalty={penalty!r}")
        require(
            self.budget is None or penalty is None, "budget", "be given without penalty", given, "give one of the two"
        )
        mend = "two prunings are mixed so that their mean cost is the budget"
        require(self.budget is not None or not self.randomised, "budget", "be given with randomised=True", None, mend)
        one_of("errors", self.errors, ERRORS)
        judged = self.errors != "inbag" or self.budget is not None or penalty is not None
        mend = "errors on rows that the trees were grown on cannot choose a pruning: give budget or penalty"
        require(judged, "errors", "be 'oob' or 'holdout' without budget and penalty", self.errors, mend)
        mend = "a solver answers at a penalty; the path, which a budget is chosen from, is found by minimum cuts"
        require(self.solver is None or penalty is not None, "solver", "be None without penalty", self.solver, mend)
        forest = self._forest()
        refuse_strangers(forest.estimator if isinstance(forest, FrozenEstimator) else forest, "estimator")
        if refit:
            refuse_monotonic(forest.estimator if isinstance(forest, FrozenEstimator) else forest)
        wanted = f"be a forest {'classifier' if is_classifier(self) else 'regressor'}"
        require(is_classifier(forest) == is_classifier(self), "estimator", wanted, Shown(type(forest).__name__))
        grown = self.errors != "oob" or getattr(forest, "bootstrap", False)
        kind = type(getattr(forest, "estimator", forest) if isinstance(forest, FrozenEstimator) else forest).__name__
        what = f"be 'holdout' for {kind} without bootstrap"
        require(grown, "errors", what, self.errors, "no row is out of bag: give it bootstrap=True")
        return penalty, bool(refit)

    def _check_rows(self, X: Any, y: Any) -> tuple[Singles, AnyArray]:
        shape = np.asarray(y).shape
        # "a 1d array" is what scikit-learn's own checks look for
        one = len(shape) < 2 or shape[1] == 1
        require(one, "y", "be a 1d array", Shown(f"shape {shape}"), "fit one model for each output")
        finite = "allow-nan" if get_tags(self._forest()).input_tags.allow_nan else True
        rows, y = validate_data(
            self,
            X,
            y,
            dtype=np.float32,
            ensure_all_finite=finite,
            ensure_min_samples=2,
            y_numeric=not is_classifier(self),
        )
        if is_classifier(self):
            check_classification_targets(y)
        self._warn_of_rounding(X, rows)
        return rows, y

    def _warn_of_rounding(self, X: Any, rows: Singles) -> None:
        """Say which columns lose values: trees compare float32, which has 24 bits (seconds since 1970 need 31)."""
        exact = np.asarray(X)
        for k in np.flatnonzero(np.nanmax(np.abs(rows), axis=0, initial=0) >= 2**24):
            before, after = len(np.unique(exact[:, k])), len(np.unique(rows[:, k]))
            if after < before:
                name = self.feature_names_in_[k] if hasattr(self, "feature_names_in_") else int(k)
                mend = "subtract its least value"
                warnings.warn(f"X: {before} values of column {name!r} are {after} as float32; {mend}", stacklevel=4)

    def _check_new_rows(self, X: Any) -> Any:
        check_is_fitted(self)
        finite = "allow-nan" if get_tags(self._forest()).input_tags.allow_nan else True
        rows = validate_data(self, X, reset=False, dtype=np.float32, ensure_all_finite=finite)
        return X if hasattr(self.estimator_, "feature_names_in_") and hasattr(X, "columns") else rows

    def _constant(self, task: ForestBudget) -> str:
        """What to say where no pruning within the budget asks for anything."""
        e, costs = task.ensemble, task.feature_costs
        roots = np.unique(e.feature[e.offsets[:-1]])
        cheapest = min((costs.group_cost[costs.group_of[k]] for k in roots if k >= 0), default=0.0)
        return (
            f"budget={self.budget:g} buys nothing of this forest, whose trees start with features that cost "
            f"{cheapest:g} or more: every row gets the same prediction; raise the budget, or grow for it "
            f"(Budgeted{'Boosting'}{'Classifier' if is_classifier(self) else 'Regressor'})"
        )

    def _grow(
        self, X: Any, y: AnyArray, weight: AnyArray | None, random: np.random.RandomState
    ) -> tuple[Any, Ints | None]:
        """The fitted forest, and the rows that judge it (None = all)."""
        if isinstance(self.estimator, FrozenEstimator):
            check_is_fitted(self.estimator.estimator)
            return self.estimator.estimator, None
        forest = clone(self._forest())
        own = forest.get_params(deep=False)
        if self.random_state is not None and "random_state" in own:
            forest.set_params(random_state=int(random.randint(2**31 - 1)))
        if self.n_jobs is not None and "n_jobs" in own:
            forest.set_params(n_jobs=self.n_jobs)
        if self.errors != "holdout":
            return _fitted(forest, X, y, weight), None
        fraction = self.validation_fraction
        number("validation_fraction", fraction, low=0, high=1, open_ends="()")
        labels = None
        if is_classifier(self):
            labels, count = np.unique(y, return_inverse=True, return_counts=True)[1:]
            # Every class in both parts, where there are enough rows for that.
            if count.min() < 2 or min(fraction, 1 - fraction) * len(y) < len(count):
                labels = None
        train, judges = train_test_split(np.arange(len(y)), test_size=fraction, random_state=random, stratify=labels)
        part = None if weight is None else weight[train]
        return _fitted(forest, _safe_indexing(X, train), y[train], part), np.sort(judges)


def _fitted(forest: Any, X: Any, y: AnyArray, weight: AnyArray | None) -> Any:
    return forest.fit(X, y) if weight is None else forest.fit(X, y, sample_weight=weight)
