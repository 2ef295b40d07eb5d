"""scikit-learn estimators: a forest, pruned to what its features cost."""

from __future__ import annotations

from typing import Any

from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from prunopt.core.arrays import Floats
from prunopt.core.validate import one_of
from prunopt.forests.budgeted_forest import BudgetedForest
from prunopt.forests.mixture import probabilities


class BudgetedForestClassifier(ClassifierMixin, BudgetedForest):  # type: ignore[misc]
    r"""A classifier forest, pruned so that it errs little and asks for little.

    .. math:: \min_{\text{prunings}} \; \text{mean error of the trees} + \lambda \cdot \text{mean cost of a row}

    where a feature (or group of features) costs a row once, if any tree asks for it. The problem is solved exactly for
    every penalty :math:`\lambda` at once (`path_`), with a certificate at each.

    Parameters
    ----------
    estimator
        A random forest, extra trees, bagging of trees, or single tree of scikit-learn, to be cloned and fitted; or a
        fitted one inside `sklearn.frozen.FrozenEstimator`, which is used as it is and never changed. None = a random
        forest of 40 trees of depth 10 with ``max_features=None``. (Forests that sample features at every split, as
        scikit-learn's default does, ask for nearly all features in every row, and prune badly.)
    feature_costs
        Cost of each feature: an array, a mapping from names, or None (each costs 1); `CostList` with discounts within
        groups; or a `CostSum` of several currencies. (Costs of single rows are given to `fit`.)
    feature_groups
        Features that are acquired together (see `prunopt.problems.forest.feature_costs.FeatureCosts.of`).
    budget
        Greatest mean cost of a row: the pruning of least error within it, found by branch and bound (the problem is
        NP-hard); ``solution_.gap`` says how far it may be from the best.
    penalty
        The multiplier of the cost, in units of error. With neither budget nor penalty, the cheapest pruning that errs
        at most one standard error more than the best one of the path, by the votes on rows that had no part in the
        pruning (cross-fitted over three folds of the judging rows).
    errors
        Which rows judge a tree: ``"oob"``, those that its bootstrap left out; ``"holdout"``, rows that were held out
        (all rows given, where the forest is frozen); ``"inbag"``, those that it was grown on.
    loss
        ``"misclassification"`` (also None), ``"gini"`` or ``"log"``.
    solver
        With ``penalty``: the name of a solver for `prunopt.solve`, instead of the path's minimum cuts.
    refit_leaves
        Fit all leaf values of the pruned forest jointly (see `prunopt.forests.leaf_refit.refit_leaves`): better
        predictions at the same cost. ``estimator_`` remains a genuine forest with the right labels, but its own
        ``predict_proba`` is then drawn towards 1/C; that of this estimator is not.
    randomised
        With ``budget``: no pruning, but a coin for each row between two neighbors of the path, so that the expected
        cost is the budget exactly (``mixture_``, and `prunopt.forests.mixture`): no pruning, and no other mixture of
        prunings, has a lower mean tree error at that cost. The coins of a call come from ``random_state``: with a
        number, the i-th row of every call has the same coin; with None or a generator, every call has new ones.
    validation_fraction
        Share of the rows held out for ``errors="holdout"``.
    random_state, n_jobs
        Handed to the forest, where they are not None.
    price
        Old name of ``penalty``, which goes with the next release.

    Attributes
    ----------
    estimator_
        The pruned forest, an object of the same class as the unpruned one.
    path_ : BudgetPath
        Every optimal pruning, with the unpruned forest in ``path_.forest``.
    solution_ : Solution
        The pruning chosen (``value``), its objective, bound and gap. At a penalty they are those of error + penalty *
        cost; within a budget those of the error, the bound being valid for every pruning within the budget.
    penalty_, expected_cost_ : float
        Lowest penalty at which it is optimal (or ``penalty``), and its mean cost of a row on the rows that judged it:
        those of the fit, or with ``errors="holdout"`` those held out. New rows may pay more.
    temperature_ : float or None
        With ``refit_leaves``, the class probabilities of ``estimator_`` are
        ``softmax(estimator_.predict_proba(X) / temperature_)``.
    mixture_ : Mixture or None
        With ``randomised``, the two forests and the share of each; ``estimator_`` is the cheaper one, and
        ``solution_`` its pruning.
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

    def predict_proba(self, X: Any) -> Floats:
        """Return class probabilities, shape (n, C), in the order of ``classes_``."""
        rows = self._check_new_rows(X)
        if self.mixture_ is not None:
            return self.mixture_.predict_proba(rows, self.random_state)
        return probabilities(self.estimator_, self.temperature_, rows)


class BudgetedForestRegressor(RegressorMixin, BudgetedForest):  # type: ignore[misc]
    r"""A regression forest, pruned so that it errs little and asks for little.

    The regression counterpart of `BudgetedForestClassifier`: errors are mean squared errors of the trees, so a penalty
    is in squared units of the target for one unit of cost.

    Parameters
    ----------
    estimator
        A regression forest; None = a random forest of 40 trees of depth 10.
    feature_costs, feature_groups, budget, penalty, errors, solver, randomised
        As for `BudgetedForestClassifier`.
    loss
        ``"squared"`` (also None).
    refit_leaves
        Fit all leaf values jointly; ``estimator_.predict`` returns the refitted predictions. With ``errors="oob"`` each
        row is fitted by the leaves of the trees that did not see it: values fitted to rows that the trees have seen
        can make a regressor worse.
    validation_fraction, random_state, n_jobs
        As for `BudgetedForestClassifier`.
    price
        Old name of ``penalty``, which goes with the next release.

    Attributes
    ----------
    estimator_, path_, solution_, penalty_, expected_cost_, n_features_in_, feature_names_in_
        As for `BudgetedForestClassifier`.

    References
    ----------
    F. Nan, J. Wang, V. Saligrama, "Pruning Random Forests for Prediction on a Budget", NIPS 2016.
    """

    _default = RandomForestRegressor

    def _check_parameters(self) -> tuple[float | None, bool]:
        one_of("loss", self.loss, (None, "squared"), "a regression forest is judged by its squared error")
        return super()._check_parameters()
