"""Prediction that acquires a feature only when a tree tests it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunopt.core.arrays import AnyArray, Bools, Floats, Ints, Singles
from prunopt.core.jit import njit
from prunopt.core.validate import Shown, require
from prunopt.forests.acquisitions import Acquire, OnDemand, Supplier, checked_count, checked_known, checked_rows
from prunopt.forests.stopping_rule import StoppingRule, VoteTotals, rule_for
from prunopt.problems.forest._cost_parsing import of_rows
from prunopt.problems.forest._routing import child
from prunopt.problems.forest.feature_costs import FeatureCosts
from prunopt.problems.forest.tree_ensemble import TreeEnsemble, Trees

__all__ = ["OnDemand", "predict_on_demand"]

Turns = NDArray[np.int16]


def predict_on_demand(
    forest: Any,
    acquire_or_X: Acquire | ArrayLike,
    *,
    feature_costs: ArrayLike | Mapping[str, float] | FeatureCosts | Any,
    feature_groups: Any = None,
    known: Any = None,
    known_values: ArrayLike | None = None,
    n_rows: int | None = None,
    stop_early: bool | str | StoppingRule = False,
    disagreement: float | None = None,
    batch: bool = False,
) -> OnDemand:
    r"""Predict with a forest, and ask for the value of a feature only at the first node that tests it.

    .. math::
        \hat y(x) = \arg\max_c \frac1T \sum_{t=1}^T p_{t, \ell_t(x)}(c), \qquad
        \text{cost}(x) = \sum_c p_c \, [\text{some node on a path of } x \text{ incurs the component } c]

    with :math:`\ell_t(x)` the leaf that row x reaches in tree t; for a regressor the mean of the leaves' values. The
    trees are followed one after another, so the order of the acquisitions is that of the nodes.

    Predictions are those of ``forest.predict``, to the last bit: values are compared as float32, NaN goes where the
    tree sends it, and the trees are summed in their order, ties falling to the first class. (With ``n_jobs`` above
    1 scikit-learn itself adds in another order, which can change the last bit.)

    Parameters
    ----------
    forest
        A fitted random forest, extra trees, bagging of decision trees, or a single tree; or a booster of XGBoost,
        LightGBM or HistGradientBoosting (`prunopt.forests.boosters`), whose predictions are the same but for the last
        bits of their sums. Pruned ones too.
    acquire_or_X
        A function ``acquire(row, group)``, called at most once for each pair, that returns the group's value: a
        number, or a sequence in the order of the group's features, or a mapping from their names or indices. NaN is
        a value: "was asked for, and is not known". Or an (n, K) array or DataFrame: then the same acquisitions are
        counted on known values.
    feature_costs
        One cost for each feature (array, or mapping from names); with ``feature_groups`` alternatively one for each
        group. None = every feature costs 1. Free features are asked for like any other. Discounts, costs per row and
        several currencies: see `prunopt.problems.forest.feature_costs.FeatureCosts.of`.
    feature_groups
        Features that are acquired together for one cost: lists of indices or names, or a mapping from a group's name
        to such a list. Group g is ``feature_groups[g]``; after the listed groups, every other feature is a group of
        its own, in the order of the columns. None = group k is feature k.
    known
        Features that are known already: a bool for each feature, for each row and feature, or a list of names. They
        cost nothing, and are not asked for.
    known_values : (n, K)
        The values of what is known, needed with a function; other cells are not read.
    n_rows
        Number of rows, needed with a function.
    batch
        ``acquire(rows, group)`` gets an array of rows, all of which need the group next, and returns their values:
        (rows, features of the group), or (rows,) for one feature, or a mapping from names to columns, or a DataFrame.
        Every row acquires the same in the same order as alone, in as many rounds of questions as the longest row has.
    stop_early
        Stop acquiring as soon as the prediction of a row cannot change. With the trees standing at the nodes v_t that
        the known values lead to, class a is decided when
        :math:`\sum_t \min_{\ell \in v_t} p_{t\ell}(a) > \sum_t \max_{\ell \in v_t} p_{t\ell}(c)` for every other
        class c, minima and maxima over the leaves below; a node whose leaves all agree asks for nothing, which is all
        that can be saved for a regressor. Acquisitions are a subset of those without it, predictions the same.
        ``"probable"`` stops sooner, and changes a small share of the labels: then the trees are followed in their
        order, and every tree's class counts one vote. Every total of votes counts as equally likely;
        `prunopt.forests.probable_stopping` returns what to pass where rows say more.
    disagreement
        With ``"probable"``, the share of labels that may change, in expectation; None = 0.001.

    Returns
    -------
    OnDemand
        ``(predictions, acquired, cost)``; its ``acquisitions`` tell for each row what was acquired, in which order, at
        which cost.

    Raises
    ------
    ValueError
        For a forest that is not fitted or not supported, bad costs or groups, and answers of ``acquire`` that are
        no numbers, infinite, or too few or too many. What ``acquire`` itself raises passes through.
    """
    from prunopt.forests.boosters.reading import booster_of

    own = hasattr(forest, "predict_on_demand")
    mend = "call its own: model.predict_on_demand(X)"
    require(not own, "forest", "be a forest or booster", Shown(f"a {type(forest).__name__}"), mend)
    booster = booster_of(forest)
    ensemble = TreeEnsemble.from_sklearn(forest) if booster is None else booster.ensemble
    feature_costs = of_rows(feature_costs, acquire_or_X)
    costs = FeatureCosts.of(feature_costs, ensemble.n_features, ensemble.feature_names, feature_groups, known)
    low = high = _tree_values(forest, ensemble) if booster is None else ensemble.value
    # The sums of T numbers, the bounds' and scikit-learn's, err by less than this together.
    slack = 4.0 * ensemble.n_trees**2 * np.finfo(np.float64).eps * float(np.abs(low).max())
    final = ensemble.left < 0
    answer, vote = np.zeros((0, 0), np.int8), np.zeros(0, np.bool_)
    stop_early = rule_for(
        stop_early, disagreement, lambda: VoteTotals.unknown(forest, costs) if booster is None else None
    )
    if stop_early:
        low, high = low.copy(), high.copy()
        _bound_below(ensemble.left, ensemble.right, low, high)
        final = np.all(low == high, axis=1)
    if isinstance(stop_early, StoppingRule):
        size = len(stop_early.answer) - 1
        mend = "make it with probable_stopping for this forest"
        fits = size == ensemble.n_trees and low.shape[1] == 2
        require(
            fits, "stop_early", f"be a rule for {ensemble.n_trees} trees and 2 classes", Shown(f"{size} trees"), mend
        )
        answer, vote = stop_early.answer, low[:, 1] > low[:, 0]
    may_decide = bool(stop_early) and ensemble.classes is not None
    walk = Walk(ensemble.arrays, costs.group_of, final, low, high, may_decide, slack, answer, vote)
    if callable(acquire_or_X):
        n = checked_count(n_rows)
        have = _known_cells(costs.for_rows(n), n)
        rows = _known_rows(ensemble, have, known_values)
        names = ensemble.feature_names or tuple(f"x{k}" for k in range(ensemble.n_features))
        supply = Supplier(acquire_or_X, costs, names, batch, ensemble.precision)
        turn, votes, decided = interviews(walk, supply, rows, have, n_groups=len(costs.group_cost), batch=batch)
    else:
        rows = ensemble.rows(acquire_or_X, "acquire_or_X")
        checked_rows(n_rows, len(rows))
        costs.for_rows(len(rows))
        turn = np.zeros((len(rows), len(costs.group_cost)), np.int16)
        votes = np.zeros((len(rows), low.shape[1]))
        decided = np.full(len(rows), -1, np.int64)
        _walk_rows(rows, costs.known_mask, turn, votes, decided, walk)
    votes /= ensemble.n_trees
    if ensemble.classes is None:
        predictions: NDArray[Any] = votes[:, 0].copy()
    else:
        predictions = ensemble.classes.take(np.where(decided >= 0, decided, votes.argmax(axis=1)))
    return OnDemand.of(predictions, turn, costs)


class Walk(NamedTuple):
    """What the kernels read: the trees, where each walk ends, and what the leaves below every node can vote.

    With ``may_decide``, a row whose vote cannot change any more is decided; ``slack`` is how far its sums may err.
    With an ``answer`` (T + 1, T + 1), trees come one after another, and a row is decided by how many of them have
    a ``vote`` for the second class at their leaf.
    """

    trees: Trees
    group_of: AnyArray
    final: Bools
    low: Floats
    high: Floats
    may_decide: bool = False
    slack: float = 0.0
    answer: NDArray[np.int8] = np.zeros((0, 0), np.int8)
    vote: Bools = np.zeros(0, np.bool_)


def _tree_values(forest: Any, ensemble: TreeEnsemble) -> Floats:
    """Every node's value exactly as scikit-learn adds it up, over all classes of the forest."""
    trees = getattr(forest, "estimators_", None) or [forest]
    out = np.zeros_like(ensemble.value)
    for tree, nodes in zip(trees, np.split(np.arange(len(out)), ensemble.offsets[1:-1]), strict=True):
        value = tree.tree_.value[:, 0, :]
        columns = np.arange(out.shape[1])
        if value.shape[1] < len(columns):  # bagging: the tree's own classes are codes into the ensemble's
            columns = np.asarray(tree.classes_, np.int64)
        out[np.ix_(nodes, columns)] = value
    return out


def _known_cells(costs: FeatureCosts, n: int) -> Bools:
    """Which cells of the rows are known, (n, K)."""
    mask = costs.known_mask
    return np.broadcast_to(mask if len(mask) else False, (n, len(costs.group_of))).copy()


def _known_rows(ensemble: TreeEnsemble, have: Bools, known_values: ArrayLike | None) -> AnyArray:
    """The rows with their known cells, all others missing."""
    checked_known(known_values, have)
    if known_values is None:
        return np.full(have.shape, np.nan, ensemble.precision)
    rows = ensemble.rows(known_values, "known_values")
    require(rows.shape == have.shape, "known_values", f"have shape {have.shape}", rows)
    return np.where(have, rows, ensemble.precision(np.nan))


def interviews(
    walk: Walk,
    supply: Callable[[Ints, int], AnyArray],
    rows: AnyArray,
    have: Bools,
    *,
    n_groups: int,
    batch: bool,
    always: Iterable[int] = (),
) -> tuple[Turns, Floats, Ints]:
    """Ask for one row after the other, or, in batches, for all rows round by round.

    Parameters
    ----------
    walk
        The trees to follow.
    supply
        ``supply(rows, group)`` returns the values (rows, features of the group); called once for each pair at most.
    rows, have : (n, K)
        The values, and which of them are known; both are filled in place.
    n_groups
        Number of groups G.
    batch
        Whether to ask for many rows at once.
    always
        Groups that every row acquires before it follows the trees.

    Returns
    -------
    turn : (n, G) int16
        When each group was acquired, from 1 on; 0 = not at all.
    votes : (n, C)
        Sums of the leaves' values, tree after tree.
    decided : (n,)
        The class, where it was decided early; -1 elsewhere.
    """
    group_of = walk.group_of
    members = [np.flatnonzero(group_of == g) for g in range(n_groups)]
    turn, count = np.zeros((len(rows), n_groups), np.int16), np.zeros(len(rows), np.int16)
    votes = np.zeros((len(rows), walk.low.shape[1]))
    decided = np.full(len(rows), -1, np.int64)

    def acquire(asking: Ints, group: int) -> None:
        if len(asking):
            count[asking] += 1
            turn[asking, group] = count[asking]
            cells = np.ix_(asking, members[group])
            rows[cells] = supply(asking, group)
            have[cells] = True

    everyone = np.arange(len(rows))
    for open_rows in [everyone] if batch else everyone[:, None]:
        for group in always:
            acquire(open_rows[~have[open_rows, members[group][0]]], group)
        first = open_rows[0]
        at = np.repeat(walk.trees.offsets[None, :-1], len(open_rows), axis=0)
        wanted = np.empty(len(open_rows), np.int64)
        while len(open_rows):
            _next_groups(open_rows, rows, have, at, first, wanted, decided, walk)
            for group in np.unique(wanted[wanted >= 0]).tolist():
                acquire(open_rows[wanted == group], group)
            done = wanted < 0
            for i in open_rows[done]:
                _add_votes(at[i - first], walk.low, votes[i])
            open_rows, wanted = open_rows[~done], wanted[~done]
    return turn, votes, decided


@njit
def _bound_below(left: Ints, right: Ints, low: Floats, high: Floats) -> None:
    """Turn the values of all nodes into the least and the greatest among the leaves below them, class by class."""
    for h in range(len(left) - 1, -1, -1):  # children come after their parents
        if left[h] >= 0:
            for c in range(low.shape[1]):
                low[h, c] = min(low[left[h], c], low[right[h], c])
                high[h, c] = max(high[left[h], c], high[right[h], c])


@njit
def _next_group(x: AnyArray, have: Bools, at: AnyArray, walk: Walk) -> tuple[int, int]:
    """Follow the trees from the nodes ``at`` as far as the features that one has lead.

    Returns the group that the first tree with an open question asks for, and -1; or -1 and the decided class; or
    -1 and -1 when every tree has come to an end.
    """
    group, count = -1, 0
    trees, low, high = walk.trees, walk.low, walk.high
    for t in range(len(at)):
        if group < 0 and len(walk.answer) > 0 and walk.answer[t, count] >= 0:
            return -1, int(walk.answer[t, count])
        h = at[t]
        while not walk.final[h] and have[trees.feature[h]]:
            h = child(x[trees.feature[h]], h, trees)
        at[t] = h
        if group < 0 and not walk.final[h]:
            group = walk.group_of[trees.feature[h]]
            if not walk.may_decide:
                return group, -1
        if group < 0 and len(walk.answer) > 0 and walk.vote[h]:
            count += 1
    if group < 0:
        return -1, -1
    least, most = np.zeros(low.shape[1]), np.zeros(low.shape[1])
    for t in range(len(at)):
        for c in range(len(least)):
            least[c] += low[at[t], c]
            most[c] += high[at[t], c]
    lead = int(np.argmax(least))
    for c in range(len(most)):
        if c != lead and least[lead] - most[c] <= walk.slack:
            return group, -1
    return -1, lead


@njit
def _add_votes(at: AnyArray, value: Floats, votes: Floats) -> None:
    """Add the values of the nodes ``at``, tree after tree: the order in which scikit-learn adds them."""
    for t in range(len(at)):
        for c in range(len(votes)):
            votes[c] += value[at[t], c]


@njit
def _next_groups(
    open_rows: Ints, X: AnyArray, have: Bools, at: AnyArray, first: int, wanted: Ints, decided: Ints, walk: Walk
) -> None:
    """Write what each of the ``open_rows`` asks for next; ``at[i - first]`` is where row i stands."""
    for j in range(len(open_rows)):
        i = open_rows[j]
        wanted[j], decided[i] = _next_group(X[i], have[i], at[i - first], walk)


@njit
def _walk_rows(X: Singles, known: Bools, turn: Turns, votes: Floats, decided: Ints, walk: Walk) -> None:
    """Do for all rows of ``X`` what a function would be asked for."""
    offsets = walk.trees.offsets
    at = np.empty(len(offsets) - 1, np.int64)
    have = np.zeros(X.shape[1], np.bool_)
    for i in range(len(X)):
        at[:] = offsets[:-1]
        have[:] = False
        if len(known) > 0:
            have[:] = known[i % len(known)]
        count = 0
        while True:
            group, decided[i] = _next_group(X[i], have, at, walk)
            if group < 0:
                break
            count += 1
            turn[i, group] = count
            for k in range(len(have)):
                if walk.group_of[k] == group:
                    have[k] = True
        _add_votes(at, walk.low, votes[i])
