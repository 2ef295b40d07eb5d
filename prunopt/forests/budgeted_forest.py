"""What the estimators for classification and regression share: fitting, choosing, predicting, asking."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import _safe_indexing, check_random_state, get_tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from prunopt.forests._votes import len_of
from prunopt.forests.alternation import alternate
from prunopt.forests.breakpoints import path_of
from prunopt.forests.leaf_refit import Refit
from prunopt.forests.mixture import mixture
from prunopt.forests.on_demand import OnDemand, predict_on_demand
from prunopt.forests.purchases import checked_count
from prunopt.forests.selection import Judged, choose
from prunopt.forests.sklearn_trees import compacted
from prunopt.problems.forest.feature_costs import FeaturePrices
from prunopt.problems.forest.forest_budget import ForestBudget
from prunopt.problems.forest.node_errors import ERRORS, tree_weights

# Trees that see all features at every split share few of them, which a purchase per row rewards; 40 trees of depth 10
# are within noise of larger forests up to half of the full cost (measured on digits, satimage, magic and spambase).
DEFAULTS: dict[str, Any] = {"n_estimators": 40, "max_depth": 10, "max_features": None, "bootstrap": True}


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
        price: float | None = None,
        errors: str = "oob",
        loss: str = "misclassification",
        solver: Any = None,
        refit_leaves: bool | str = False,
        randomised: bool = False,
        validation_fraction: float = 0.25,
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.feature_costs = feature_costs
        self.feature_groups = feature_groups
        self.budget = budget
        self.price = price
        self.errors = errors
        self.loss = loss
        self.solver = solver
        self.refit_leaves = refit_leaves
        self.randomised = randomised
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.n_jobs = n_jobs

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
            Prices of these very rows, (n, K), instead of those of the constructor.
        known
            Features that are known already, for all rows or for each (n, K): they cost nothing.

        Raises
        ------
        ValueError
            For parameters or rows that do not fit; the message says what to do.
        """
        self._check_parameters()
        rows, y = self._check_rows(X, y)
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, rows, ensure_non_negative=True)
        given = X if hasattr(X, "columns") else rows  # a DataFrame keeps its names
        random = check_random_state(self.random_state)
        priced = self.feature_costs if feature_costs is None else feature_costs
        prices = FeaturePrices.of(priced, rows.shape[1], self._names(X), self.feature_groups, known).for_rows(len(rows))
        forest, judges = self._grow(given, y, weight, random)
        judged = given if judges is None else _safe_indexing(given, judges)
        judged_y = y if judges is None else y[judges]
        judged_weight = weight if weight is None or judges is None else weight[judges]
        task = ForestBudget.from_forest(
            forest,
            judged,
            judged_y,
            prices if judges is None else prices.take(judges),
            0 if self.price is None else self.price,
            sample_weight=judged_weight,
            errors=self.errors,
            loss=self.loss,
        )
        from prunopt.solvers.closure.parametric_cut import closure_path

        self.path_ = path_of(task, forest, partial(closure_path, n_jobs=self.n_jobs), None)
        seed = int(random.randint(2**31 - 1))
        fit_rows = Refit(given, y, weight, seed)
        self.mixture_ = self.alternation_ = self.temperature_ = None
        if self.randomised:
            assert self.budget is not None
            mixed = mixture(self.path_, float(self.budget))
            self.solution_ = self.path_.solution(budget=self.budget)
            self.price_, self.expected_cost_ = float(self.solution_.stats["price"]), mixed.expected_cost
            self.mixture_ = mixed.refitted(fit_rows) if self.refit_leaves else mixed
            self.estimator_, self.temperature_ = self.mixture_.cheaper, self.mixture_.temperatures[0]
        else:
            judged_rows = Judged(task, judged, judged_y, self.errors, self.loss)
            self.solution_, self.price_, self.expected_cost_ = choose(
                self.path_, judged_rows, self.price, self.budget, self.solver
            )
            kept: NDArray[np.bool_] = self.solution_.value
            if self.refit_leaves == "alternate":
                within = self.expected_cost_ if self.budget is None else max(float(self.budget), self.expected_cost_)
                voters = tree_weights(forest, self.errors, task.ensemble.n_trees, np.ones(len(task.X))) > 0
                start: dict[str, Any] = {"judges": voters, "budget": within, "random_state": seed}
                self.alternation_ = alternate(task, forest, judged_y, kept, **start)
                kept = self.alternation_.kept
                self.expected_cost_ = task.cost(kept)
            if self.alternation_ is not None and not is_classifier(self):
                # Values fitted to rows that the trees have seen are worse for regression (measured), not for labels.
                self.estimator_ = self.alternation_.forest
            else:
                self.estimator_ = compacted(forest, task.ensemble, kept)
                if self.refit_leaves:
                    self.estimator_, self.temperature_ = fit_rows(self.estimator_)
        if is_classifier(self):
            self.classes_ = self.estimator_.classes_
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the predictions of ``estimator_``, or, randomised, of ``mixture_``, shape (n,)."""
        rows = self._check_new_rows(X)
        if self.mixture_ is not None:
            return self.mixture_.predict(rows, self.random_state)
        return np.asarray(self.estimator_.predict(rows))

    def predict_on_demand(
        self,
        acquire_or_X: Any,
        *,
        n_rows: int | None = None,
        stop_early: bool = False,
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
            on which the same purchases are counted.
        n_rows
            Number of rows, needed with a function.
        stop_early
            Stop buying for a row as soon as its prediction cannot change.
        batch
            ``acquire(rows, group)`` takes many rows at once.
        feature_costs
            Prices of these rows, where they differ from those that the model was fitted with (needed where those are
            per row).
        known, known_values
            What is known of these rows already, and, with a function, its values (n, K).

        Returns
        -------
        predictions : (n,)
            Those of `predict`.
        acquired : (n, K) bool
            What was bought for each row; with a feature, its whole group.
        cost : (n,)
            What that cost. The result's ``purchases`` tell what each row bought in which order, at which price.

        See Also
        --------
        prunopt.forests.on_demand.predict_on_demand
        """
        check_is_fitted(self)
        n = n_rows if callable(acquire_or_X) else len_of(acquire_or_X)
        prices = self.path_.prices_for(checked_count(n), feature_costs, known)
        options: dict[str, Any] = {"known_values": known_values, "stop_early": stop_early, "batch": batch}
        if self.mixture_ is not None:
            return self.mixture_.on_demand(acquire_or_X, checked_count(n), prices, self.random_state, **options)
        return predict_on_demand(self.estimator_, acquire_or_X, feature_costs=prices, n_rows=n_rows, **options)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = get_tags(self._forest()).input_tags.allow_nan
        tags.input_tags.sparse = False
        return tags

    def _forest(self) -> Any:
        return type(self)._default(**DEFAULTS) if self.estimator is None else self.estimator

    def _names(self, X: Any) -> tuple[str, ...] | None:
        """The names of the columns: those that a frozen forest knows, or that scikit-learn takes over."""
        own = getattr(self.estimator, "feature_names_in_", None)
        columns = getattr(X, "columns", None) if own is None else own
        return None if columns is None or not all(isinstance(c, str) for c in columns) else tuple(columns)

    def _check_parameters(self) -> None:
        if self.budget is not None and self.price is not None:
            raise ValueError(f"budget={self.budget!r}, price={self.price!r}: give one of the two, or neither")
        if self.refit_leaves not in (False, True, "alternate"):
            raise ValueError(f'refit_leaves={self.refit_leaves!r}: give False, True or "alternate"')
        if self.randomised and self.budget is None:
            raise ValueError(
                "randomised=True: two prunings are mixed so that their mean cost is a budget; give budget="
            )
        if self.randomised and self.refit_leaves == "alternate":
            raise ValueError('randomised=True with refit_leaves="alternate": alternating leaves the path; give True')
        if self.errors not in ERRORS:
            raise ValueError(f"errors={self.errors!r}: give one of {', '.join(ERRORS)}")
        if self.errors == "inbag" and self.budget is None and self.price is None:
            raise ValueError(
                'errors="inbag": errors on rows that the trees were grown on cannot choose a pruning; give budget= or '
                'price=, or errors="oob"'
            )
        if self.solver is not None and self.price is None:
            raise ValueError(
                f"solver={self.solver!r}: a solver answers at a price=; the whole path, which a budget is chosen from, "
                "is always found by minimum cuts. Give price=, or leave solver=None"
            )
        if isinstance(self.estimator, type):
            raise ValueError(f"estimator: the class {self.estimator.__name__} given; give an instance of it")
        forest = self._forest()
        if is_classifier(forest) != is_classifier(self):
            wanted = "classifier" if is_classifier(self) else "regressor"
            raise ValueError(f"estimator: {type(forest).__name__} given, a forest {wanted} is needed")
        if self.errors == "oob" and not getattr(forest, "bootstrap", False):
            name = type(
                getattr(forest, "estimator", forest) if isinstance(forest, FrozenEstimator) else forest
            ).__name__
            raise ValueError(
                f'errors="oob": {name} is grown without bootstrap, so no row is out of bag; give it bootstrap=True, '
                'or use errors="holdout"'
            )

    def _check_rows(self, X: Any, y: Any) -> tuple[NDArray[np.float32], NDArray[Any]]:
        shape = np.asarray(y).shape
        if len(shape) == 2 and shape[1] > 1:
            raise ValueError(f"y: {shape[1]} outputs given (a 1d array is needed); fit one model for each output")
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
        return rows, y

    def _check_new_rows(self, X: Any) -> Any:
        check_is_fitted(self)
        finite = "allow-nan" if get_tags(self._forest()).input_tags.allow_nan else True
        rows = validate_data(self, X, reset=False, dtype=np.float32, ensure_all_finite=finite)
        return X if hasattr(self.estimator_, "feature_names_in_") and hasattr(X, "columns") else rows

    def _grow(
        self, X: Any, y: NDArray[Any], weight: NDArray[Any] | None, random: np.random.RandomState
    ) -> tuple[Any, NDArray[np.intp] | None]:
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
        if not 0 < fraction < 1:
            raise ValueError(f"validation_fraction={fraction!r}: give the share of rows to hold out, between 0 and 1")
        labels = None
        if is_classifier(self):
            labels, count = np.unique(y, return_inverse=True, return_counts=True)[1:]
            # Every class in both parts, where there are enough rows for that.
            if count.min() < 2 or min(fraction, 1 - fraction) * len(y) < len(count):
                labels = None
        train, judges = train_test_split(np.arange(len(y)), test_size=fraction, random_state=random, stratify=labels)
        part = None if weight is None else weight[train]
        return _fitted(forest, _safe_indexing(X, train), y[train], part), np.sort(judges)


def _fitted(forest: Any, X: Any, y: NDArray[Any], weight: NDArray[Any] | None) -> Any:
    return forest.fit(X, y) if weight is None else forest.fit(X, y, sample_weight=weight)
