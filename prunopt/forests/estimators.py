"""scikit-learn estimators: a forest, pruned to what its features cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone, is_classifier
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import _safe_indexing, check_random_state, get_tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from prunopt.core.solution import Solution
from prunopt.forests.compaction import compacted
from prunopt.forests.leaves import refit_leaves
from prunopt.forests.ondemand import OnDemand, predict_on_demand
from prunopt.forests.path import BudgetPath, path_of
from prunopt.problems.forest_budget import ForestBudget
from prunopt.problems.forest_errors import ERRORS, tree_weights

# Trees that see all features at every split share few of them, which a purchase per row rewards; 40 trees of depth 10
# are within noise of larger forests up to half of the full cost (measured on digits, satimage, magic and spambase).
DEFAULTS: dict[str, Any] = {"n_estimators": 40, "max_depth": 10, "max_features": None, "bootstrap": True}

# Branch and bound under a budget visits so many nodes that their edges add up to about this, within these numbers.
SEARCH_EDGES, SEARCH_NODES = 1_000_000, (5, 60)


class _BudgetedForest(BaseEstimator):  # type: ignore[misc]
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
        refit_leaves: bool = False,
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
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Any:
        """Grow the forest, find every optimal pruning, and take the one asked for.

        Parameters
        ----------
        X : (n, K) array or DataFrame
            Rows; NaN where the forest allows it.
        y : (n,)
            Labels, or numbers for the regressor.
        sample_weight : (n,) or None
            Scales error and cost of a row alike; handed to the forest, too.

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
        forest, judges = self._grow(given, y, weight, random)
        judged = given if judges is None else _safe_indexing(given, judges)
        judged_y = y if judges is None else y[judges]
        judged_weight = weight if weight is None or judges is None else weight[judges]
        task = ForestBudget.from_forest(
            forest,
            judged,
            judged_y,
            self.feature_costs,
            0 if self.price is None else self.price,
            feature_groups=self.feature_groups,
            sample_weight=judged_weight,
            errors=self.errors,
            loss=self.loss,
        )
        from prunopt.solvers.price_path import closure_path

        self.path_ = path_of(task, forest, closure_path, None)
        self.solution_, self.price_, self.expected_cost_ = self._choose(task, judged, judged_y, judged_weight)
        self.estimator_ = compacted(forest, task.ensemble, self.solution_.value)
        self.temperature_ = None
        if self.refit_leaves:
            seed = int(random.randint(2**31 - 1))
            refitted = refit_leaves(self.estimator_, given, y, sample_weight=weight, random_state=seed)
            self.estimator_, self.temperature_ = refitted.forest, refitted.temperature
        if is_classifier(self):
            self.classes_ = self.estimator_.classes_
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the predictions of ``estimator_``, shape (n,)."""
        rows = self._check_new_rows(X)
        return np.asarray(self.estimator_.predict(rows))

    def predict_on_demand(self, acquire_or_X: Any, *, n_rows: int | None = None, stop_early: bool = False) -> OnDemand:
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

        Returns
        -------
        predictions : (n,)
            Those of `predict`.
        acquired : (n, K) bool
            What was bought for each row; with a feature, its whole group.
        cost : (n,)
            What that cost.

        See Also
        --------
        prunopt.forests.ondemand.predict_on_demand
        """
        check_is_fitted(self)
        return predict_on_demand(
            self.estimator_, acquire_or_X, feature_costs=self.path_.prices, n_rows=n_rows, stop_early=stop_early
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = get_tags(self._forest()).input_tags.allow_nan
        tags.input_tags.sparse = False
        return tags

    def _forest(self) -> Any:
        return type(self)._default(**DEFAULTS) if self.estimator is None else self.estimator

    def _check_parameters(self) -> None:
        if self.budget is not None and self.price is not None:
            raise ValueError(f"budget={self.budget!r}, price={self.price!r}: give one of the two, or neither")
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

    def _choose(
        self, task: ForestBudget, X: Any, y: Any, weight: Any
    ) -> tuple[Solution[NDArray[np.bool_]], float, float]:
        """The pruning asked for, its price, and its expected cost."""
        path: BudgetPath = self.path_
        if self.solver is not None:
            import prunopt as po

            solution = po.solve(task, self.solver)
            assert self.price is not None
            return solution, float(self.price), task.cost(solution.value)
        if self.price is not None:
            solution, price = path.solution(price=self.price), float(self.price)
        elif self.budget is not None:
            return self._within_budget(task, float(self.budget))
        else:
            k = self._within_one_standard_error(task, X, y, weight)
            price = path.points[k].price
            solution = path.solution(price=price)
        return solution, price, float(solution.stats["expected_cost"])

    def _within_budget(self, task: ForestBudget, budget: float) -> tuple[Solution[NDArray[np.bool_]], float, float]:
        """The pruning of least error within the budget, as far as a bounded search proves it."""
        import prunopt as po
        from prunopt.problems.forest_within import ForestWithin
        from prunopt.solvers.budget_branch_and_bound import BudgetBranchAndBound

        hull = self.path_.solution(budget=budget)  # refuses a budget below the cheapest pruning
        edges = task.path_closure().closure.n_edges
        nodes = int(np.clip(SEARCH_EDGES / max(edges, 1), *SEARCH_NODES))
        found = po.solve(ForestWithin(task, budget), BudgetBranchAndBound(nodes=nodes))
        return found, float(hull.stats["price"]), task.cost(found.value)

    def _within_one_standard_error(self, task: ForestBudget, X: Any, y: Any, weight: Any) -> int:
        """The cheapest point whose vote errs at most one standard error more than the best point's."""
        e = task.ensemble
        use = tree_weights(self.path_.forest, self.errors, e.n_trees, np.ones(len(task.X))) > 0
        curve = self.path_.vote(X, y, sample_weight=weight, use=use)
        best = int(np.argmin(curve.error))
        return int(np.flatnonzero(curve.error <= curve.error[best] + curve.standard_error[best])[-1])


class BudgetedForestClassifier(ClassifierMixin, _BudgetedForest):  # type: ignore[misc]
    r"""A classifier forest, pruned so that it errs little and asks for little.

    .. math:: \min_{\text{prunings}} \; \text{mean error of the trees} + \lambda \cdot \text{mean cost of a row}

    where each row pays for a feature (or group of features) once, if any tree asks for it. The problem is solved
    exactly for every price :math:`\lambda` at once (`path_`), with a certificate at each.

    Parameters
    ----------
    estimator
        A random forest, extra trees, bagging of trees, or single tree of scikit-learn, to be cloned and fitted; or a
        fitted one inside `sklearn.frozen.FrozenEstimator`, which is used as it is and never changed. None = a random
        forest of 40 trees of depth 10 with ``max_features=None``. (Forests that sample features at every split, as
        scikit-learn's default does, ask for nearly all features in every row, and prune badly.)
    feature_costs
        Price of each feature: an array, a mapping from names, or None (each costs 1).
    feature_groups
        Features that are bought together (see `prunopt.problems.prices.FeaturePrices.of`).
    budget
        Greatest mean cost of a row: the pruning of least error within it, found by branch and bound (the problem is
        NP-hard); ``solution_.gap`` says how far it may be from the best.
    price
        Price of one unit of cost in units of error. Without budget and price, the cheapest pruning whose forest errs
        at most one standard error more than the best one of the path.
    errors
        Which rows judge a tree: ``"oob"``, those that its bootstrap left out; ``"holdout"``, rows that were held out
        (all rows given, where the forest is frozen); ``"inbag"``, those that it was grown on.
    loss
        ``"misclassification"``, ``"gini"`` or ``"log"``.
    solver
        With ``price``: the name of a solver for `prunopt.solve`, instead of the path's minimum cuts.
    refit_leaves
        Fit all leaf values of the pruned forest jointly (see `prunopt.forests.leaves.refit_leaves`): better
        predictions at the same cost. ``estimator_`` remains a genuine forest with the right labels, but its own
        ``predict_proba`` is then drawn towards 1/C; that of this estimator is not.
    validation_fraction
        Share of the rows held out for ``errors="holdout"``.
    random_state, n_jobs
        Handed to the forest, where they are not None.

    Attributes
    ----------
    estimator_
        The pruned forest, an object of the same class as the unpruned one.
    path_ : BudgetPath
        Every optimal pruning, with the unpruned forest in ``path_.forest``.
    solution_ : Solution
        The pruning chosen (``value``), its objective, bound and gap. At a price they are those of error + price *
        cost; within a budget those of the error, the bound being valid for every pruning within the budget.
    price_, expected_cost_ : float
        Lowest price at which it is optimal (or ``price``), and its mean cost per row.
    temperature_ : float or None
        With ``refit_leaves``, class probabilities are ``softmax(estimator_.predict_proba(X) / temperature_)``.
    classes_, n_features_in_, feature_names_in_
        As usual.

    References
    ----------
    F. Nan, J. Wang, V. Saligrama, "Pruning Random Forests for Prediction on a Budget", NIPS 2016.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from prunopt.forests import BudgetedForestClassifier
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = BudgetedForestClassifier(budget=3, random_state=0).fit(X, y)
    >>> model.expected_cost_ <= 3
    True
    """

    _default = RandomForestClassifier

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return class probabilities, shape (n, C), in the order of ``classes_``."""
        rows = self._check_new_rows(X)
        votes = self.estimator_.predict_proba(rows)
        return np.asarray(votes if self.temperature_ is None else softmax(votes / self.temperature_, axis=1))


class BudgetedForestRegressor(RegressorMixin, _BudgetedForest):  # type: ignore[misc]
    r"""A regression forest, pruned so that it errs little and asks for little.

    The regression twin of `BudgetedForestClassifier`, see there: errors are mean squared errors of the trees, so a
    price is in squared units of the target for one unit of cost.

    Parameters
    ----------
    estimator
        A regression forest; None = a random forest of 40 trees of depth 10.
    feature_costs, feature_groups, budget, price, errors, solver, validation_fraction, random_state, n_jobs
        As for `BudgetedForestClassifier`.
    loss
        ``"squared"``.
    refit_leaves
        Fit all leaf values jointly; ``estimator_.predict`` returns the refitted predictions.

    Attributes
    ----------
    estimator_, path_, solution_, price_, expected_cost_, n_features_in_, feature_names_in_
        As for `BudgetedForestClassifier`.

    References
    ----------
    F. Nan, J. Wang, V. Saligrama, "Pruning Random Forests for Prediction on a Budget", NIPS 2016.
    """

    _default = RandomForestRegressor

    def __init__(
        self,
        estimator: Any = None,
        *,
        feature_costs: Any = None,
        feature_groups: Any = None,
        budget: float | None = None,
        price: float | None = None,
        errors: str = "oob",
        loss: str = "squared",
        solver: Any = None,
        refit_leaves: bool = False,
        validation_fraction: float = 0.25,
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        super().__init__(
            estimator,
            feature_costs=feature_costs,
            feature_groups=feature_groups,
            budget=budget,
            price=price,
            errors=errors,
            loss=loss,
            solver=solver,
            refit_leaves=refit_leaves,
            validation_fraction=validation_fraction,
            random_state=random_state,
            n_jobs=n_jobs,
        )

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.loss != "squared":
            raise ValueError(f'loss={self.loss!r}: a regression forest is judged by loss="squared"')


def _fitted(forest: Any, X: Any, y: NDArray[Any], weight: NDArray[Any] | None) -> Any:
    return forest.fit(X, y) if weight is None else forest.fit(X, y, sample_weight=weight)
