"""scikit-learn estimators that are grown for a feature budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from prunopt.core.arrays import Floats
from prunopt.forests.boosting.binning import QuantileBins
from prunopt.forests.boosting.boosting import Problem
from prunopt.forests.boosting.grow_budgeted_forest import squares_for
from prunopt.forests.boosting.losses import Classification, Loss
from prunopt.forests.boosting.models import BudgetedModel, ModelMixture
from prunopt.forests.boosting.recipe import (
    Candidate,
    Settings,
    certificate,
    judged_candidates,
    mixed_within,
    trained,
    within,
)
from prunopt.forests.purchases import OnDemand, checked_count
from prunopt.problems.forest.feature_costs import FeaturePrices

LADDER = 2.0 ** (-np.arange(16) / 3)  # default levels as shares of the full cost: 100 %, 79 %, 63 % ... 3 %
DEARER = (1.26, 1.6, 2.0)  # levels above the budget that a mixture looks for partners at
KINDS = ("validation", "train")


@dataclass(frozen=True)
class CandidateInfo:
    """One candidate of the search: its mean cost, score and loss on the validation rows, and where it comes from."""

    expected_cost: float
    validation_score: float
    validation_loss: float
    origin: str


class _BudgetedBoosting(BaseEstimator):  # type: ignore[misc]
    """What classifier and regressor share."""

    def __init__(
        self,
        *,
        feature_costs: Any = None,
        feature_groups: Any = None,
        budget: float | None = None,
        n_free_trees: int = 96,
        randomised: bool = False,
        budgets: ArrayLike | None = None,
        validation_fraction: float = 1 / 3,
        n_prices: int = 11,
        profits: str | tuple[str, ...] = "auto",
        max_bins: int = 128,
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.feature_costs = feature_costs
        self.feature_groups = feature_groups
        self.budget = budget
        self.n_free_trees = n_free_trees
        self.randomised = randomised
        self.budgets = budgets
        self.validation_fraction = validation_fraction
        self.n_prices = n_prices
        self.profits = profits
        self.max_bins = max_bins
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None = None,
        *,
        validation_rows: ArrayLike | None = None,
        feature_costs: Any = None,
        known: Any = None,
    ) -> Any:
        """Grow, prune, refit, choose; then fit the chosen predictors again on all rows.

        Parameters
        ----------
        X : (n, K) array or DataFrame
            Rows; NaN = missing.
        y : (n,)
            Labels, or numbers for the regressor.
        sample_weight : (n,) or None
            Scales loss and cost of a row alike.
        validation_rows : (n,) bool or None
            The rows that policies are chosen on; None draws a share ``validation_fraction`` of them.
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
        rows, target, loss = self._checked(X, y)
        weight = np.ones(len(rows))
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)
        used = np.flatnonzero(weight)
        if len(used) < 2:
            raise ValueError("sample_weight: at least two rows of positive weight are needed")
        weight = weight / weight[used].mean()
        names = tuple(map(str, self.feature_names_in_)) if hasattr(self, "feature_names_in_") else None
        K = rows.shape[1]
        priced = self.feature_costs if feature_costs is None else feature_costs
        self.prices_ = FeaturePrices.of(priced, K, names, self.feature_groups, known).for_rows(len(rows))
        random = check_random_state(self.random_state)
        valid = self._validation(target, loss, used, validation_rows, random)
        seed = int(random.randint(2**31 - 1))
        train = np.setdiff1d(used, valid)
        self.bins_ = QuantileBins.of(rows[train], self.max_bins)
        data = Problem(
            self.bins_(rows), target, weight, self.prices_.group_of.astype(np.int32), self.prices_.group_cost, loss,
            self.bins_.n_codes, None if self.prices_.is_plain else self.prices_,
        )  # fmt: skip
        settings = Settings(
            self.n_free_trees, "refit" if self.n_free_trees == 0 else "all", self.profits, self.n_prices, seed,
            self.n_jobs,
        )  # fmt: skip
        parts = data.take(train), data.take(valid)
        ladder = self._ladder(self.prices_.total)
        below = np.unique(np.concatenate([ladder, 0.8 * ladder])) if self._few() else ladder
        if self.randomised:  # a mixture needs something dearer than the budget, too
            assert self.budget is not None
            below = np.unique(np.append(below, np.minimum(np.array(DEARER) * self.budget, self.prices_.total)))
        found = judged_candidates(*parts, below[below > 0] * (1 + 1e-9), settings)
        self.candidates_ = tuple(CandidateInfo(c.cost, c.score, c.loss, c.origin) for c in found)
        choices = [within(found, level) for level in ladder]
        pair = mixed_within(found, float(self.budget or 0.0)) if self.randomised else None
        if pair is not None:
            choices += pair[:2]
        models = {id(c): self._model(c, data.take(used), parts, settings, names) for c in choices}
        self.path_ = tuple((float(level), models[id(c)]) for level, c in zip(ladder, choices, strict=False))
        self.model_ = self.path_[-1][1] if self.budget is None else self.at(self.budget)
        self.policy_, self.solution_ = self.model_.policy, self.model_.solution
        self.expected_cost_ = self.model_.expected_cost
        self.mixture_ = None
        if pair is not None:
            low, high = models[id(pair[0])], models[id(pair[1])]
            self.expected_cost_ = low.expected_cost + pair[2] * (high.expected_cost - low.expected_cost)
            self.mixture_ = ModelMixture(low, high, pair[2], self.expected_cost_)
        return self

    def at(self, budget: float) -> BudgetedModel:
        """Return the model for the dearest level of ``path_`` within ``budget``, without fitting again.

        Parameters
        ----------
        budget
            Greatest expected cost of a row, in the unit of ``feature_costs``.
        """
        check_is_fitted(self)
        if not budget >= 0:
            raise ValueError(f"budget={budget!r}: give a number >= 0")
        inside = [model for level, model in self.path_ if level <= budget * (1 + 1e-12)]
        if not inside:
            raise ValueError(
                f"budget={budget!r}: the cheapest model was made for {self.path_[0][0]:g}; name the budget in budgets="
            )
        return inside[-1]

    def predict(self, X: Any, *, known: Any = None) -> NDArray[Any]:
        """Return the predictions within the budget, shape (n,).

        Of each row only what the policy buys is read, and what is ``known`` of it: a list of features, or a bool for
        each, or for each row and feature.
        """
        rows = self._new_rows(X)
        if self.mixture_ is not None:
            return self.mixture_.model_at(len(rows), self.random_state).predict(rows, known)
        return self.model_.predict(rows, known)

    def predict_on_demand(
        self,
        acquire_or_X: Any,
        *,
        n_rows: int | None = None,
        batch: bool = False,
        feature_costs: Any = None,
        known: Any = None,
        known_values: Any = None,
    ) -> OnDemand:
        """Predict, and ask for the values of a group only when the policy buys it.

        Parameters
        ----------
        acquire_or_X
            A function ``acquire(row, group)``, called at most once for each pair, that returns the values of the
            group's features in the order of the columns (a number, a sequence, or a mapping from names); or known
            rows (n, K), on which the same purchases are counted. Groups are numbered as in ``prices_``.
        n_rows
            Number of rows, needed with a function.
        batch
            ``acquire(rows, group)`` takes many rows at once, see `prunopt.forests.on_demand.predict_on_demand`.
        feature_costs
            Prices of these rows, where they differ from those that the model was fitted with (needed where those are
            per row).
        known, known_values
            What is known of these rows already, and, with a function, its values (n, K). The predictors see it.

        Returns
        -------
        predictions : (n,)
            Those of `predict`.
        acquired : (n, K) bool
            What was bought for each row; with a feature, its whole group.
        cost : (n,)
            What that cost. The result's ``purchases`` tell what each row bought in which order, at which price.
        """
        check_is_fitted(self)
        source = acquire_or_X if callable(acquire_or_X) else self._new_rows(acquire_or_X)
        priced: dict[str, Any] = {"feature_costs": feature_costs, "known": known, "known_values": known_values}
        if self.mixture_ is not None:
            n = checked_count(n_rows) if callable(source) else len(source)
            return self.mixture_.model_at(n, self.random_state).on_demand(source, n_rows, batch=batch, **priced)
        return self.model_.on_demand(source, n_rows, batch=batch, **priced)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = False
        return tags

    def _checked(self, X: Any, y: Any) -> tuple[Floats, Floats, Loss]:
        raise NotImplementedError

    def _few(self) -> bool:
        """Whether the levels are the user's own, so that policies close below each are worth looking for."""
        return self.budgets is not None or self.budget is not None

    def _ladder(self, total: float) -> Floats:
        """The rising costs that models are made for."""
        if self.budgets is not None:
            levels = np.asarray(self.budgets, np.float64).ravel()
            if self.budget is not None:
                levels = np.append(levels, self.budget)
        elif self.budget is not None:
            levels = np.array([self.budget], np.float64)
        else:
            levels = total * LADDER
        return np.unique(np.minimum(levels, total))

    def _model(
        self,
        choice: Candidate,
        data: Problem,
        parts: tuple[Problem, Problem],
        settings: Settings,
        names: tuple[str, ...] | None,
    ) -> BudgetedModel:
        policy = choice.proposal.policy
        return BudgetedModel(
            policy,
            trained(policy, data, settings, slope=choice.slope),
            self.bins_,
            self.prices_,
            getattr(self, "classes_", None),
            names or tuple(f"x{k}" for k in range(data.codes.shape[1])),
            choice.cost,
            choice.score,
            choice.loss,
            choice.origin,
            certificate(choice.proposal, *parts),
        )

    def _new_rows(self, X: Any) -> Floats:
        check_is_fitted(self)
        return np.asarray(validate_data(self, X, reset=False, dtype=np.float64, ensure_all_finite="allow-nan"))

    def _check_parameters(self) -> None:
        if self.budget is not None and not self.budget >= 0:
            raise ValueError(f"budget={self.budget!r}: give the greatest mean cost of a row, a number >= 0, or None")
        if self.randomised and self.budget is None:
            raise ValueError("randomised=True: two models are mixed so that their mean cost is a budget; give budget=")
        if self.budgets is not None:
            levels = np.asarray(self.budgets, np.float64)
            if levels.ndim != 1 or not len(levels) or not np.all(levels >= 0):
                raise ValueError(f"budgets={self.budgets!r}: give one or more numbers >= 0, or None")
        for name, least in (("n_free_trees", 0), ("n_prices", 1)):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < least:
                raise ValueError(f"{name}={count!r}: give a whole number >= {least}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction={self.validation_fraction!r}: give a share between 0 and 1")
        kinds = (self.profits,) if isinstance(self.profits, str) else tuple(self.profits)
        if kinds != ("auto",) and (not kinds or any(kind not in KINDS for kind in kinds)):
            raise ValueError(f'profits={self.profits!r}: give "auto", "validation", "train", or a tuple of both')

    def _validation(
        self,
        target: Floats,
        loss: Loss,
        used: NDArray[np.intp],
        given: ArrayLike | None,
        random: np.random.RandomState,
    ) -> NDArray[np.intp]:
        """The rows that policies are chosen on: of each class the same share, and never all of it."""
        if given is not None:
            mask = np.asarray(given)
            if mask.shape != target.shape or mask.dtype != np.bool_:
                raise ValueError(f"validation_rows: {mask.dtype} of shape {mask.shape}; give a bool for each row")
            chosen: NDArray[np.intp] = used[mask[used]]
            if not 0 < len(chosen) < len(used):
                raise ValueError("validation_rows: at least one row must be true and one false")
            return chosen
        labels = target[used] if isinstance(loss, Classification) else np.zeros(len(used))
        # Shuffled, then stably sorted by class: every 1 / fraction-th row of that order is a stratified sample.
        order = random.permutation(len(used))
        order = order[np.argsort(labels[order], kind="stable")]
        marks = np.floor((np.arange(len(used)) + 1) * self.validation_fraction + random.rand())
        chosen = used[order[np.diff(marks, prepend=np.floor(marks[0])) > 0]]
        if not len(chosen):
            chosen = used[order[:1]]
        if len(chosen) == len(used):
            chosen = chosen[1:]
        return np.asarray(np.sort(chosen))


class BudgetedBoostingClassifier(ClassifierMixin, _BudgetedBoosting):  # type: ignore[misc]
    r"""A classifier grown for a feature budget: a policy that buys features row by row, and a blend that predicts.

    .. math:: \max \; \text{accuracy} \quad \text{s.t.} \quad
        \frac{1}{n} \sum_i \sum_g c_g \, [\text{the policy buys group } g \text{ for row } i] \le B

    is approached in four steps. (1) Boosted trees are grown under many prices on features, each split paying for the
    rows that have not bought its feature yet. (2) Each forest is pruned for every price at once, exactly for the
    second-order surrogate of its loss, by minimum cuts on the validation rows; the prunings at each level of cost are
    acquisition policies. (3) On what a policy buys, everything else is free: its refitted leaves, boosted trees and
    extremely randomised trees without prices are averaged. (4) Within a budget, the policy is chosen on the validation
    rows, and its predictors are fitted again on all rows.

    Parameters
    ----------
    feature_costs
        Cost of each feature (array, or mapping from names), or of each group; None = 1 each. `Prices` with discounts
        for further tests of a group, or a `CostSum` of several currencies. (Prices of single rows belong into `fit`.)
    feature_groups
        Features that are bought together; see `prunopt.problems.forest.feature_costs.FeaturePrices.of`.
    budget
        Greatest expected cost of a row, in the unit of ``feature_costs``; None for no limit.
    n_free_trees
        Number of boosted, and of randomised, trees that predict from what was bought; 0 leaves prediction to the
        policy's own trees with refitted leaves.
    randomised
        With ``budget``: a coin for each row between a cheaper and a dearer model, so that the expected cost on the
        validation rows is the budget exactly: two corners of the lower hull of cost and loss (``mixture_``). The coins
        of a call come from ``random_state``: with a number, the i-th row of every call has the same coin; with None
        or a generator, every call has new ones.
    budgets
        Costs to make models for, for `at`: one fit serves all. None = ``budget``, or steps of 21 % down from the
        cost of everything when that is None, too.
    validation_fraction
        Share of the rows that prunings and choice are made on.
    n_prices
        Number of prices that forests of each shape are grown at.
    profits
        Rows that prunings are optimal on: ``"validation"``, ``"train"``, a tuple of both, or ``"auto"``: both where
        the validation rows hold few of some class.
    max_bins
        Most bins a feature.
    random_state
        Seed or generator of the split and of the drawn rows and features.
    n_jobs
        Threads.

    Attributes
    ----------
    classes_ : (C,) array
        The labels.
    expected_cost_ : float
        Mean cost of a row on the validation rows; that of new rows differs by chance.
    model_ : BudgetedModel
        Policy and predictors within ``budget``.
    mixture_ : ModelMixture or None
        With ``randomised``, the two models and the share of the dearer one.
    policy_ : AcquisitionPolicy
        What is bought.
    solution_ : Solution or None
        Certificate of the policy's trees: an optimal pruning of the forest they come from, exact for the second-order
        surrogate; no statement about the blend's error. None where no pruning was better than other policies.
    path_ : tuple of (level, BudgetedModel)
        The models by rising level of cost.
    candidates_ : tuple of CandidateInfo
        Everything that was judged, by rising cost.
    prices_, bins_
        Groups and costs; bins.

    References
    ----------
    F. Nan, J. Wang, V. Saligrama, "Pruning random forests for prediction on a budget", NIPS 2016.
    J.-C. Picard, "Maximal closure of a graph and applications to combinatorial problems", Management Science 1976.
    S. Peter et al., "Cost efficient gradient boosting", NIPS 2017.
    """

    def predict_proba(self, X: Any, *, known: Any = None) -> Floats:
        """Return class probabilities within the budget, shape (n, C)."""
        rows = self._new_rows(X)
        if self.mixture_ is not None:
            return self.mixture_.model_at(len(rows), self.random_state).values(rows, known)
        return self.model_.values(rows, known)

    def _checked(self, X: Any, y: Any) -> tuple[Floats, Floats, Loss]:
        rows, labels = validate_data(self, X, y, dtype=np.float64, ensure_all_finite="allow-nan", ensure_min_samples=2)
        check_classification_targets(labels)
        self.classes_, code = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y: one class only, {self.classes_[0]!r}; give rows of two classes or more")
        return rows, code.astype(np.float64), Classification(len(self.classes_))


class BudgetedBoostingRegressor(RegressorMixin, _BudgetedBoosting):  # type: ignore[misc]
    r"""A regressor grown for a feature budget: the recipe of `BudgetedBoostingClassifier` with squared loss.

    Parameters and attributes are those of the classifier. The target is standardised for the search; scores of
    candidates are minus the mean squared error, in the target's unit squared.
    """

    def _checked(self, X: Any, y: Any) -> tuple[Floats, Floats, Loss]:
        rows, numbers = validate_data(
            self, X, y, dtype=np.float64, ensure_all_finite="allow-nan", ensure_min_samples=2, y_numeric=True
        )
        numbers = np.asarray(numbers, np.float64)
        return rows, numbers, squares_for(numbers)


__all__ = ["BudgetedBoostingClassifier", "BudgetedBoostingRegressor", "CandidateInfo"]
