"""`budget_path`: the path of a closure as that of a forest, with numbers, proofs, and a check from scratch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import Ints
from prunopt.core.deprecation import warn
from prunopt.core.solution import CertificateError, relative_gap
from prunopt.core.solver import Limits
from prunopt.core.validate import Shown, require
from prunopt.forests.boosters.reading import booster_of
from prunopt.forests.path import TOLERANCE, BudgetPath, PathPoint
from prunopt.problems.forest.forest_budget import ForestBudget
from prunopt.problems.forest.node_errors import holds_training_rows

if TYPE_CHECKING:
    from prunopt.forms.closure.parametric_closure import PenaltyPath

F = TypeVar("F", bound=Callable[..., Any])


def _n_jobs_from_joblib(function: F) -> F:
    """Let `budget_path` take ``n_jobs`` for one more release."""

    @wraps(function)
    def call(*arguments: Any, n_jobs: int | None = None, **options: Any) -> Any:
        if n_jobs is None:
            return function(*arguments, **options)
        from joblib import parallel_config

        warn("budget_path(n_jobs=...)", "with joblib.parallel_config(n_jobs=...)")
        with parallel_config(n_jobs=n_jobs):
            return function(*arguments, **options)

    return call  # type: ignore[return-value]


@_n_jobs_from_joblib
def budget_path(
    forest: Any,
    X: ArrayLike,
    y: ArrayLike,
    feature_costs: Any,
    *,
    feature_groups: Any = None,
    known: Any = None,
    sample_weight: ArrayLike | None = None,
    loss: str = "misclassification",
    errors: str = "holdout",
    limits: Limits | None = None,
) -> BudgetPath:
    r"""Return every optimal pruning of a fitted forest over the penalty of cost, exactly.

    .. math:: \min_{\text{prunings}} \; \text{mean error of the trees} + \lambda \cdot \text{mean cost of a row}

    is solved for all :math:`\lambda \ge 0` at once, each feature (or group) costing a row once, wherever in the
    forest it is asked for. Penalties at which the optimum changes are exact rationals.

    Parameters
    ----------
    forest
        A fitted random forest, extra trees, bagging of trees, or single tree of scikit-learn; or a booster of XGBoost,
        LightGBM or HistGradientBoosting, which is pruned exactly for the second-order surrogate of its loss
        (`prunopt.forests.boosters`). It is not changed.
    X, y
        Rows and targets: held-out ones for ``errors="holdout"``, those that the forest was fitted on otherwise.
    feature_costs
        One cost for each feature: an array, a mapping from names, or None (each costs 1); a cost for each row and
        feature (n, K); `CostList` with discounts for other tests of a group; or a `CostSum` of several currencies.
    feature_groups
        Features that are acquired together (see `prunopt.problems.forest.feature_costs.FeatureCosts.of`).
    known
        Features that are known already, hence free: a bool for each feature, for each row and feature (n, K), or a
        list of names.
    sample_weight : (n,) or None
        Scales error and cost of a row alike.
    loss
        ``"misclassification"``, ``"gini"`` or ``"log"`` for classifiers; regressors use ``"squared"``.
    errors
        ``"holdout"``, ``"oob"`` or ``"inbag"`` (see `ForestBudget.from_forest`). The very rows that the forest was
        fitted on, with ``"holdout"``, warn.
    limits
        Time limit; an incomplete path is valid, its gaps tell what is open.

    Notes
    -----
    Under `joblib.parallel_config`, intervals of penalties are solved at the same time, by threads or on a Dask or Ray
    cluster, as it says. The path is the same.

    References
    ----------
    F. Nan, J. Wang, V. Saligrama, "Pruning Random Forests for Prediction on a Budget", NIPS 2016 (the problem).
    """
    from prunopt.solvers.closure.parametric_cut import closure_path

    groups: dict[str, Any] = {"feature_groups": feature_groups, "known": known}
    booster = booster_of(forest)
    if booster is not None:
        given = (
            "holdout" if loss == "misclassification" and errors == "holdout" else f"errors={errors!r}, loss={loss!r}"
        )
        require(given == "holdout", "errors", "be left out, as loss, for boosters", Shown(given))
        return path_of(
            booster.task(X, y, feature_costs, sample_weight=sample_weight, **groups), forest, closure_path, limits
        )
    options: dict[str, Any] = {"sample_weight": sample_weight, "errors": errors, "loss": loss}
    task = ForestBudget.from_forest(forest, X, y, feature_costs, 0, **groups, **options)
    _warn_of_training_rows(forest, task, errors)
    return path_of(task, forest, closure_path, limits)


def size_path(
    forest: Any,
    X: ArrayLike,
    y: ArrayLike,
    resource: str = "nodes",
    *,
    feature_costs: Any = None,
    feature_groups: Any = None,
    known: Any = None,
    sample_weight: ArrayLike | None = None,
    errors: str = "holdout",
    limits: Limits | None = None,
) -> BudgetPath:
    r"""Return every optimal pruning of a fitted forest over the penalty of its size, exactly.

    .. math:: \min_{\text{prunings}} \; \text{mean error of the trees} + \lambda \cdot \text{size of the model}

    for all :math:`\lambda \ge 0` at once (`ForestSize`). ``expected_cost`` of the points, and ``budget`` of
    ``path.at(budget=...)``, are in units of the resource; ``path.curve`` still says what rows cost.

    Parameters
    ----------
    forest, X, y
        As for `budget_path`; boosters as well.
    resource
        ``"nodes"`` (leaves included), ``"trees"`` (that still split), ``"bytes"`` (of scikit-learn's nodes), or
        ``"features"``: the costs of the features that the model uses, each paid once for the whole model.
    feature_costs, feature_groups, known, sample_weight, errors, limits
        As for `budget_path`.

    Raises
    ------
    ValueError
        As `budget_path`; for bytes of boosters; for features whose costs differ from row to row.
    """
    from prunopt.problems.forest.forest_size import ForestSize
    from prunopt.solvers.closure.parametric_cut import closure_path

    options: dict[str, Any] = {"feature_groups": feature_groups, "known": known, "sample_weight": sample_weight}
    booster = booster_of(forest)
    if booster is None:
        task = ForestBudget.from_forest(forest, X, y, feature_costs, 0, errors=errors, **options)
        _warn_of_training_rows(forest, task, errors)
    else:
        require(errors == "holdout", "errors", "be left out for boosters", errors)
        require(resource != "bytes", "resource", "be nodes, trees or features for boosters", resource)
        task = booster.task(X, y, feature_costs, **options)
    return path_of(ForestSize.of(task, resource), forest, closure_path, limits)


def _warn_of_training_rows(forest: Any, task: ForestBudget, errors: str) -> None:
    """Say so where rows that are to be held out are those of the fit: the trees know their labels."""
    if errors == "holdout" and holds_training_rows(forest, task.ensemble, task.X):
        bootstrap = getattr(forest, "bootstrap", False)
        mend = 'pass rows that it has not seen, or errors="oob"' if bootstrap else "pass rows that it has not seen"
        warnings.warn(f'X holds the rows that the forest was fitted on, with errors="holdout"; {mend}', stacklevel=3)


def path_of(task: ForestBudget, forest: Any, closure_path: Any, limits: Limits | None) -> BudgetPath:
    """Compute the path of a task, and check it in the task's own terms."""
    closure, penalty_unit, error_slack, cost_slack = task.path_closure()
    found: PenaltyPath = closure_path(closure, limits)
    # Blocks leave by rising penalty. One that costs without gaining (penalty 0), or whose gain is no more than what
    # rounding may have made of nothing, is never worth having.
    noise = Fraction(error_slack) / closure.unit
    worth = [block.penalty for block, profit in zip(found.blocks, found.profits, strict=True) if profit > noise]
    leaving = sorted(set(worth))
    starts = [Fraction(0), *leaving]
    rank = {penalty: r for r, penalty in enumerate(leaving, start=1)}
    lifetime = np.zeros(closure.n_items, np.int64)
    lifetime[found.always] = len(starts)
    gained, cost_sum = np.zeros(len(starts), object), np.zeros(len(starts), object)
    gained[:] = int(closure.profit[found.always].sum())
    for block, profit, cost in zip(found.blocks, found.profits, found.costs, strict=True):
        stays = rank.get(block.penalty, 0)
        lifetime[block.items] = stays
        gained[:stays] += profit
        cost_sum[:stays] += cost
    if task.loss == "misclassification" and found.complete:  # of an optimal pruning they cost nothing either
        lifetime = _without_same_labels(task, lifetime)
    nothing = Fraction(task.error(np.zeros(closure.n_items, np.bool_)))
    errors = [float(nothing - closure.unit * int(a)) for a in gained]
    fixed = task.fixed_cost
    costs = [fixed + float(closure.unit / penalty_unit * int(c)) for c in cost_sum]
    shift = float(nothing)

    proofs = [shift - float(closure.unit * a) for a in found.proven_profits(starts)]

    def proven(k: int, start: int) -> tuple[float, float]:
        """The certified bound on the task's optimum where point ``start`` begins, and the gap of point k there."""
        penalty = float(starts[start] * penalty_unit)
        bound = proofs[start] + penalty * (fixed - cost_slack) - error_slack
        objective = errors[k] + penalty * costs[k]
        # Sums of rationals were rounded to floats on both sides: within that, a proven optimum has gap 0.
        rounding = 1e-13 * max(1.0, abs(objective))
        return min(bound, objective), relative_gap(objective, bound + rounding)

    at_start = [proven(k, k) for k in range(len(starts))]
    at_end = [proven(k, min(k + 1, len(starts) - 1)) for k in range(len(starts))]
    acquired = _acquired_groups(task, lifetime, len(starts))
    points = tuple(
        PathPoint(
            penalty=float(p * penalty_unit),
            penalty_exact=p * penalty_unit,
            penalty_end=math.inf if k + 1 == len(starts) else float(starts[k + 1] * penalty_unit),
            expected_cost=costs[k],
            training_error=errors[k],
            n_nodes=int(np.count_nonzero(lifetime > k)),
            gap=max(at_start[k][1], at_end[k][1]),
            acquired=acquired[k],
        )
        for k, p in enumerate(starts)
    )
    _recheck(task, points, lifetime, error_slack, cost_slack)
    bounds = np.array([bound for bound, _ in at_start])
    stats = dict(found.stats)
    return BudgetPath(forest, task.ensemble, task.feature_costs, points, lifetime, bounds, found.complete, stats)


def _without_same_labels(task: ForestBudget, lifetime: Ints) -> Ints:
    """The lifetimes when splits whose leaves have the label of the node itself go: their error is the same."""
    e = task.ensemble
    label, until = e.value.argmax(axis=1), np.zeros(e.n_nodes, np.int64)
    until[e.internal] = lifetime
    levels, level = [], e.offsets[:-1][e.left[e.offsets[:-1]] >= 0]
    while len(level):
        levels.append(level)
        below = np.concatenate([e.left[level], e.right[level]])
        level = below[e.left[below] >= 0]
    for level in reversed(levels):
        left, right = e.left[level], e.right[level]
        same = (label[left] == label[level]) & (label[right] == label[level])
        # What a child keeps below it may differ: the split goes once both of its children are leaves.
        below = np.maximum(until[left], until[right])
        until[level] = np.where(same, np.minimum(until[level], below), until[level])
    return until[e.internal]


def _acquired_groups(task: ForestBudget, lifetime: Ints, n_points: int) -> list[tuple[str, ...]]:
    """The names of the groups that the nodes of each point ask for."""
    costs, e = task.feature_costs, task.ensemble
    until = np.zeros(len(costs.group_cost), np.int64)
    np.maximum.at(until, costs.group_of[e.feature[e.internal]], lifetime)
    names = costs.group_names
    return [tuple(name for name, u in zip(names, until, strict=True) if u > k) for k in range(n_points)]


def _recheck(
    task: ForestBudget, points: Sequence[PathPoint], lifetime: Ints, error_slack: float, cost_slack: float
) -> None:
    """Evaluate the first, middle and last point from scratch: trees walked row by row."""
    for k in sorted({0, len(points) // 2, len(points) - 1}):
        kept, point = lifetime > k, points[k]
        if task.violation(kept) > 0:
            raise CertificateError(f"point {k} of the path keeps nodes whose parent it drops")
        for what, stated, found, slack in (
            ("error", point.training_error, task.error(kept), error_slack),
            ("cost", point.expected_cost, task.cost(kept), cost_slack),
        ):
            if abs(stated - found) > TOLERANCE * max(1.0, abs(found)) + slack:
                raise CertificateError(f"point {k} of the path states the {what} {stated}, it is {found}")
