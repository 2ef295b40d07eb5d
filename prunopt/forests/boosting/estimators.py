"""scikit-learn estimators that are grown for a feature budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from prunopt.core.arrays import Floats
from prunopt.core.deprecation import renamed_attributes, warn
from prunopt.core.validate import Shown, invalid, number, one_of, require, whole_number
from prunopt.forests.acquisitions import OnDemand, checked_count
from prunopt.forests.boosting.binning import MAX_BINS, QuantileBins
from prunopt.forests.boosting.cost_efficient_boosting import Problem
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
from prunopt.forests.estimator_rows import EstimatorOfRows, keep

LADDER = 2.0 ** (-np.arange(16) / 3)  # default levels as shares of the full cost: 100 %, 79 %, 63 % ... 3 %
FEW_ROWS = 1000  # up to which every other level will do: neighbors cannot be told apart
COSTLIER = (1.26, 1.6, 2.0)  # levels above the budget that a mixture looks for partners at
KINDS = ("validation", "train")
LEAST_BINS, ROWS_A_BIN = 16, 4


@dataclass(frozen=True)
class CandidateInfo:
    """One candidate of the search: its mean cost, score and loss on the validation rows, and where it comes from."""

    expected_cost: float
    validation_score: float
    validation_loss: float
    origin: str


@renamed_attributes(prices_="feature_costs_")
class _BudgetedBoosting(EstimatorOfRows):
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
        n_penalties: int = 11,
        profits: str | tuple[str, ...] = "auto",
        max_bins: int = 128,
        random_state: Any = None,
        n_jobs: int | None = None,
        n_prices: Any = "deprecated",
    ) -> None:
        keep(self, locals())

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
            Costs of these very rows, (n, K), instead of those of the constructor.
        known
            Features that are known already, for all rows or for each (n, K): they cost nothing.

        Raises
        ------
        ValueError
            For parameters or rows that do not fit; the message says what to do.
        """
        n_penalties = self._check_parameters()
        rows, target, loss = self._checked(X, y)
        weight = np.ones(len(rows))
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)
        used = np.flatnonzero(weight)
        require(len(used) >= 2, "sample_weight", "be positive in two rows or more", Shown(f"{len(used)}"))
        weight = weight / weight[used].mean()
        self.feature_costs_ = costs = self._costs(X, rows, feature_costs, known)
        random = check_random_state(self.random_state)
        valid = self._validation(target, loss, used, validation_rows, random)
        seed = int(random.randint(2**31 - 1))
        train = np.setdiff1d(used, valid)
        most = whole_number("max_bins", self.max_bins, low=2, high=MAX_BINS)
        # Few rows have no use for fine bins, which is where the time of small trees goes.
        bins = min(most, max(LEAST_BINS, len(train) // ROWS_A_BIN))
        self.bins_ = QuantileBins.of(rows[train], bins)
        data = Problem(self.bins_(rows), target, weight, costs, loss, self.bins_.n_codes)
        blend = "refit" if self.n_free_trees == 0 else "all"
        settings = Settings(self.n_free_trees, blend, self.profits, n_penalties, seed, self.n_jobs)
        parts = data.take(train), data.take(valid)
        ladder = self._ladder(costs.total, len(used))
        below = np.unique(np.concatenate([ladder, 0.8 * ladder])) if self._few() else ladder
        if self.randomised:  # a mixture needs something costlier than the budget, too
            assert self.budget is not None
            below = np.unique(np.append(below, np.minimum(np.array(COSTLIER) * self.budget, costs.total)))
        found = judged_candidates(*parts, below[below > 0] * (1 + 1e-9), settings)
        self.candidates_ = tuple(CandidateInfo(c.cost, c.score, c.loss, c.origin) for c in found)
        choices = [within(found, level) for level in ladder]
        pair = mixed_within(found, float(self.budget or 0.0)) if self.randomised else None
        if pair is not None:
            choices += pair[:2]
        models = {id(c): self._model(c, data.take(used), parts, settings) for c in choices}
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
        """Return the model for the costliest level of ``path_`` within ``budget``, without fitting again.

        Parameters
        ----------
        budget
            Greatest expected cost of a row, in the unit of ``feature_costs``.
        """
        check_is_fitted(self)
        require(budget >= 0, "budget", "be a number >= 0", budget)
        inside = [model for level, model in self.path_ if level <= budget * (1 + 1e-12)]
        if not inside:
            raise invalid("budget", f"be at least {self.path_[0][0]:g}", budget, "name the budget in budgets=")
        return inside[-1]

    def predict(self, X: Any, *, known: Any = None) -> NDArray[Any]:
        """Return the predictions within the budget, shape (n,).

        Of each row only what the policy acquires is read, and what is ``known`` of it: a list of features, or a bool
        for each, or for each row and feature.
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
        """Predict, and ask for the values of a group only when the policy acquires it: that is when it stops.

        Parameters
        ----------
        acquire_or_X
            A function ``acquire(row, group)``, called at most once for each pair, that returns the values of the
            group's features in the order of the columns (a number, a sequence, or a mapping from names); or known
            rows (n, K), on which the same acquisitions are counted. Groups are numbered as in ``feature_costs_``.
        n_rows
            Number of rows, needed with a function.
        batch
            ``acquire(rows, group)`` takes many rows at once, see `prunopt.forests.on_demand.predict_on_demand`.
        feature_costs
            Costs of these rows, where they differ from those that the model was fitted with (needed where those are
            per row).
        known, known_values
            What is known of these rows already, and, with a function, its values (n, K). The predictors see it.

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
        given: dict[str, Any] = {"feature_costs": feature_costs, "known": known, "known_values": known_values}
        if self.mixture_ is not None:
            n = checked_count(n_rows) if callable(source) else len(source)
            return self.mixture_.model_at(n, self.random_state).on_demand(source, n_rows, batch=batch, **given)
        return self.model_.on_demand(source, n_rows, batch=batch, **given)

    def _checked(self, X: Any, y: Any) -> tuple[Floats, Floats, Loss]:
        raise NotImplementedError

    def _few(self) -> bool:
        """Whether the levels are the user's own, so that policies close below each are worth looking for."""
        return self.budgets is not None or self.budget is not None

    def _ladder(self, total: float, n: int) -> Floats:
        """The rising costs that models are made for."""
        if self.budgets is not None:
            levels = np.asarray(self.budgets, np.float64).ravel()
            if self.budget is not None:
                levels = np.append(levels, self.budget)
        elif self.budget is not None:
            levels = np.array([self.budget], np.float64)
        else:
            levels = total * (LADDER[::2] if n <= FEW_ROWS else LADDER)
        return np.unique(np.minimum(levels, total))

    def _model(
        self,
        choice: Candidate,
        data: Problem,
        parts: tuple[Problem, Problem],
        settings: Settings,
    ) -> BudgetedModel:
        policy = choice.proposal.policy
        return BudgetedModel(
            policy,
            trained(policy, data, settings, slope=choice.slope),
            self.bins_,
            self.feature_costs_,
            getattr(self, "classes_", None),
            self._names or tuple(f"x{k}" for k in range(data.codes.shape[1])),
            choice.cost,
            choice.score,
            choice.loss,
            choice.origin,
            certificate(choice.proposal, *parts),
        )

    def _check_parameters(self) -> int:
        """Refuse what does not fit; return the number of penalties, whatever name it was given by."""
        if self.budget is not None:
            number("budget", self.budget, low=0, mend="None sets no limit")
        mend = "two models are mixed so that their mean cost is the budget"
        require(self.budget is not None or not self.randomised, "budget", "be given with randomised=True", None, mend)
        if self.budgets is not None:
            levels = np.asarray(self.budgets, np.float64)
            fits = levels.ndim == 1 and len(levels) and np.all(levels >= 0)
            require(fits, "budgets", "hold one or more numbers >= 0, or be None", self.budgets)
        whole_number("n_free_trees", self.n_free_trees, low=0)
        n_penalties = self.n_penalties
        if not (isinstance(self.n_prices, str) and self.n_prices == "deprecated"):
            warn("n_prices=", "n_penalties=")
            n_penalties = self.n_prices
        number("validation_fraction", self.validation_fraction, low=0, high=1, open_ends="()")
        kinds = (self.profits,) if isinstance(self.profits, str) else tuple(self.profits)
        require(kinds, "profits", "name rows", self.profits)
        for kind in kinds if kinds != ("auto",) else ():
            one_of("profits", kind, KINDS, '"auto" chooses')
        return whole_number("n_penalties", n_penalties, low=1)

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
            fits = mask.shape == target.shape and mask.dtype == np.bool_
            require(fits, "validation_rows", "hold a bool for each row", Shown(f"{mask.dtype} of shape {mask.shape}"))
            chosen: NDArray[np.intp] = used[mask[used]]
            what = "be true for some rows of positive weight, not for all"
            require(0 < len(chosen) < len(used), "validation_rows", what, Shown(f"{len(chosen)} of {len(used)}"))
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
    r"""A classifier grown for a feature budget: a policy that acquires features row by row, and a blend that predicts.

    .. math:: \max \; \text{accuracy} \quad \text{s.t.} \quad
        \frac{1}{n} \sum_i \sum_g c_g \, [\text{the policy acquires group } g \text{ for row } i] \le B

    is approached in four steps. (1) Boosted trees are grown at many penalties; a split costs the rows that have not
    acquired its feature yet. (2) Each forest is pruned for every penalty at once, exactly for the
    second-order surrogate of its loss, by minimum cuts on the validation rows; the prunings at each level of cost are
    acquisition policies. (3) On what a policy acquires, everything else is free: its refitted leaves, boosted trees and
    extremely randomized trees without penalty are averaged. (4) Within a budget, the policy is chosen on the validation
    rows, and its predictors are fitted again on all rows.

    Parameters
    ----------
    feature_costs
        Cost of each feature (array, or mapping from names), or of each group; None = 1 each. `CostList` with discounts
        within groups, or a `CostSum` of several currencies. (Costs of single rows are given to `fit`.)
    feature_groups
        Features that are acquired together; see `prunopt.problems.forest.feature_costs.FeatureCosts.of`.
    budget
        Greatest expected cost of a row, in the unit of ``feature_costs``; None for no limit.
    n_free_trees
        Number of boosted, and of randomized, trees that predict from what was acquired; 0 leaves prediction to the
        policy's own trees with refitted leaves.
    randomised
        With ``budget``: a coin for each row between a cheaper and a costlier model, so that the expected cost on the
        validation rows is the budget exactly: two corners of the lower hull of cost and loss (``mixture_``). The coins
        of a call come from ``random_state``: with a number, the i-th row of every call has the same coin; with None
        or a generator, every call has new ones.
    budgets
        Costs to make models for, for `at`: one fit serves all. None = ``budget``, or steps of 21 % down from the
        cost of everything when that is None, too.
    validation_fraction
        Share of the rows that prunings and choice are made on.
    n_penalties
        Number of penalties that forests of each shape are grown at.
    profits
        Rows that prunings are optimal on: ``"validation"``, ``"train"``, a tuple of both, or ``"auto"``: both where
        the validation rows hold few of some class.
    max_bins
        Most bins a feature.
    random_state
        Seed or generator of the split and of the drawn rows and features.
    n_jobs
        Threads.
    n_prices
        Old name of ``n_penalties``, which goes with the next release.

    Attributes
    ----------
    classes_ : (C,) array
        The labels.
    expected_cost_ : float
        Mean cost of a row on the validation rows, which chose the model: an estimate, no limit. New rows may pay more
        on average; ``randomised`` meets the budget on these rows alone.
    model_ : BudgetedModel
        Policy and predictors within ``budget``.
    mixture_ : ModelMixture or None
        With ``randomised``, the two models and the share of the costlier one.
    policy_ : AcquisitionPolicy
        What is acquired.
    solution_ : Solution or None
        Certificate of the policy's trees: an optimal pruning of the forest they come from, exact for the second-order
        surrogate; no statement about the blend's error. None where no pruning was better than other policies.
    path_ : tuple of (level, BudgetedModel)
        The models by rising level of cost.
    candidates_ : tuple of CandidateInfo
        Everything that was judged, by rising cost.
    feature_costs_, bins_
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
        rows, code = self._labeled(X, y)
        return rows, code.astype(np.float64), Classification(len(self.classes_))


class BudgetedBoostingRegressor(RegressorMixin, _BudgetedBoosting):  # type: ignore[misc]
    r"""A regressor grown for a feature budget: the recipe of `BudgetedBoostingClassifier` with squared loss.

    Parameters and attributes are those of the classifier. The target is standardized for the search; scores of
    candidates are minus the mean squared error, in the target's unit squared.
    """

    def _checked(self, X: Any, y: Any) -> tuple[Floats, Floats, Loss]:
        rows, numbers = self._numbered(X, y)
        return rows, numbers, squares_for(numbers)


__all__ = ["BudgetedBoostingClassifier", "BudgetedBoostingRegressor", "CandidateInfo"]
