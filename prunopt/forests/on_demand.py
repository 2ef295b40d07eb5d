"""Prediction that buys a feature only when a tree asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunopt.core.arrays import Bools, Floats, Ints, Singles
from prunopt.core.jit import njit
from prunopt.forests.purchases import Acquire, OnDemand, Supplier, checked_count
from prunopt.problems.forest.feature_costs import FeaturePrices
from prunopt.problems.forest.tree_ensemble import TreeEnsemble

__all__ = ["OnDemand", "predict_on_demand"]

Turns = NDArray[np.int16]


def predict_on_demand(
    forest: Any,
    acquire_or_X: Acquire | ArrayLike,
    *,
    feature_costs: ArrayLike | Mapping[str, float] | FeaturePrices | Any,
    feature_groups: Any = None,
    known: Any = None,
    known_values: ArrayLike | None = None,
    n_rows: int | None = None,
    stop_early: bool = False,
    batch: bool = False,
) -> OnDemand:
    r"""Predict with a forest, and ask for the value of a feature only at the first node that tests it.

    .. math::
        \hat y(x) = \arg\max_c \frac1T \sum_{t=1}^T p_{t, \ell_t(x)}(c), \qquad
        \text{cost}(x) = \sum_c p_c \, [\text{some node on a path of } x \text{ makes the charge } c]

    with :math:`\ell_t(x)` the leaf that row x reaches in tree t; for a regressor the mean of the leaves' values. The
    trees are followed one after another, so the order of the purchases is that of the nodes.

    Predictions are those of ``forest.predict``, to the last bit: values are compared as float32, NaN goes where the
    tree sends it, and the trees are summed in their order, ties falling to the first class. (With ``n_jobs`` above
    1 scikit-learn itself adds in another order, which can change the last bit.)

    Parameters
    ----------
    forest
        A fitted random forest, extra trees, bagging of decision trees, or a single tree; a pruned one too.
    acquire_or_X
        A function ``acquire(row, group)``, called at most once for each pair, that returns the group's value: a
        number, or a sequence in the order of the group's features, or a mapping from their names or indices. NaN is
        a value: "was asked for, and is not known". Or an (n, K) array or DataFrame: then the same purchases are
        counted on known values.
    feature_costs
        One price for each feature (array, or mapping from names); with ``feature_groups`` alternatively one for each
        group. None = every feature costs 1. Free features are asked for like any other. Discounts, prices per row and
        several currencies: see `prunopt.problems.forest.feature_costs.FeaturePrices.of`.
    feature_groups
        Features that are bought together for one price: lists of indices or names, or a mapping from a group's name
        to such a list. Group g is ``feature_groups[g]``; after the listed groups, every other feature is a group of
        its own, in the order of the columns. None = group k is feature k.
    known
        Features that are known already: a bool for each feature, for each row and feature, or a list of names. They
        cost nothing, and nobody is asked for them.
    known_values : (n, K)
        The values of what is known, needed with a function; other cells are not read.
    n_rows
        Number of rows, needed with a function.
    batch
        ``acquire(rows, group)`` gets an array of rows, all of which need the group next, and returns their values:
        (rows, features of the group), or (rows,) for one feature, or a mapping from names to columns, or a DataFrame.
        Every row buys the same in the same order as alone; there are as many rounds of questions as the longest row
        has.
    stop_early
        Stop buying for a row as soon as its prediction cannot change. With the trees standing at the nodes v_t that
        the known values lead to, class a is decided when
        :math:`\sum_t \min_{\ell \in v_t} p_{t\ell}(a) > \sum_t \max_{\ell \in v_t} p_{t\ell}(c)` for every other
        class c, minima and maxima over the leaves below; a node whose leaves all agree asks for nothing, which is all
        that can be saved for a regressor. Purchases are a subset of those without it, predictions the same.

    Returns
    -------
    OnDemand
        ``(predictions, acquired, cost)``; its ``purchases`` tell for each row what was bought, in which order, at
        which price.

    Raises
    ------
    ValueError
        For a forest that is not fitted or not supported, bad prices or groups, and answers of ``acquire`` that are
        no numbers, infinite, or too few or too many. What ``acquire`` itself raises passes through.
    """
    ensemble = TreeEnsemble.from_sklearn(forest)
    prices = FeaturePrices.of(feature_costs, ensemble.n_features, ensemble.feature_names, feature_groups, known)
    low = high = _tree_values(forest, ensemble)
    # The sums of T numbers, the bounds' and scikit-learn's, err by less than this together.
    slack = 4.0 * ensemble.n_trees**2 * np.finfo(np.float64).eps * float(np.abs(low).max())
    final = ensemble.left < 0
    if stop_early:
        low, high = low.copy(), high.copy()
        _bound_below(ensemble.left, ensemble.right, low, high)
        final = np.all(low == high, axis=1)
    walk = _Walk(ensemble, prices.group_of, final, low, high, stop_early and ensemble.classes is not None, slack)
    if callable(acquire_or_X):
        n = checked_count(n_rows)
        have = _known_cells(prices.for_rows(n), n)
        rows = _known_rows(ensemble, have, known_values)
        names = ensemble.feature_names or tuple(f"x{k}" for k in range(ensemble.n_features))
        supply = Supplier(acquire_or_X, prices, names, batch, np.float32)
        turn, votes, decided = _interviews(walk, supply, rows, have)
    else:
        rows = ensemble.rows(acquire_or_X, "acquire_or_X")
        if n_rows is not None and n_rows != len(rows):
            raise ValueError(f"n_rows={n_rows}: {len(rows)} rows given; n_rows is needed with a function only")
        prices.for_rows(len(rows))
        turn = np.zeros((len(rows), len(prices.group_cost)), np.int16)
        votes = np.zeros((len(rows), low.shape[1]))
        decided = np.full(len(rows), -1, np.int64)
        _walk_rows(rows, prices.known_mask, turn, votes, decided, *walk.arrays())
    votes /= ensemble.n_trees
    if ensemble.classes is None:
        predictions: NDArray[Any] = votes[:, 0].copy()
    else:
        predictions = ensemble.classes.take(np.where(decided >= 0, decided, votes.argmax(axis=1)))
    return OnDemand.of(predictions, turn, prices)


class _Walk(NamedTuple):
    """What the kernels read: the trees, where each walk ends, and what the leaves below every node can vote."""

    ensemble: TreeEnsemble
    group_of: Ints
    final: Bools
    low: Floats
    high: Floats
    may_decide: bool
    slack: float

    def arrays(self) -> tuple[Any, ...]:
        """Return the arguments that all kernels share."""
        e = self.ensemble
        return (
            e.offsets, e.left, e.right, e.feature, e.threshold, e.missing_left,
            self.group_of, self.final, self.low, self.high, self.may_decide, self.slack,
        )  # fmt: skip


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


def _known_cells(prices: FeaturePrices, n: int) -> Bools:
    """Which cells of the rows are known, (n, K)."""
    mask = prices.known_mask
    return np.broadcast_to(mask if len(mask) else False, (n, len(prices.group_of))).copy()


def _known_rows(ensemble: TreeEnsemble, have: Bools, known_values: ArrayLike | None) -> Singles:
    """The rows with their known cells, all others missing."""
    if known_values is None:
        if have.any():
            raise ValueError("known_values: give the (n, K) array that holds the values of what is known")
        return np.full(have.shape, np.nan, np.float32)
    rows = ensemble.rows(known_values, "known_values")
    if rows.shape != have.shape:
        raise ValueError(f"known_values: shape {rows.shape} given, {have.shape} is needed")
    return np.where(have, rows, np.float32(np.nan))


def _interviews(walk: _Walk, supply: Supplier, rows: Singles, have: Bools) -> tuple[Turns, Floats, Ints]:
    """Ask for one row after the other, or, in batches, for all rows round by round."""
    arrays = walk.arrays()
    turn = np.zeros((len(rows), len(supply.members)), np.int16)
    votes = np.zeros((len(rows), walk.low.shape[1]))
    decided = np.full(len(rows), -1, np.int64)
    everyone = np.arange(len(rows))
    for open_rows in [everyone] if supply.batch else everyone[:, None]:
        first = open_rows[0]
        at = np.repeat(walk.ensemble.offsets[None, :-1], len(open_rows), axis=0)
        wanted = np.empty(len(open_rows), np.int64)
        count = 0
        while len(open_rows):
            count += 1
            _next_groups(open_rows, rows, have, at, first, wanted, decided, *arrays)
            for group in np.unique(wanted[wanted >= 0]).tolist():
                asking = open_rows[wanted == group]
                members = supply.members[group]
                rows[np.ix_(asking, members)] = supply(asking, group)
                have[np.ix_(asking, members)] = True
                turn[asking, group] = count
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
def _next_group(
    x: Singles, have: Bools, at: Ints,
    offsets: Ints, left: Ints, right: Ints, feature: Ints, threshold: Floats, missing_left: Bools,
    group_of: Ints, final: Bools, low: Floats, high: Floats, may_decide: bool, slack: float,
) -> tuple[int, int]:  # fmt: skip
    """Follow the trees from the nodes ``at`` as far as the features that one has lead.

    Returns the group that the first tree with an open question asks for, and -1; or -1 and the decided class; or
    -1 and -1 when every tree has come to an end.
    """
    group = -1
    for t in range(len(at)):
        h = at[t]
        while not final[h] and have[feature[h]]:
            value = x[feature[h]]
            go = missing_left[h] if np.isnan(value) else value <= threshold[h]
            h = left[h] if go else right[h]
        at[t] = h
        if group < 0 and not final[h]:
            group = group_of[feature[h]]
            if not may_decide:
                return group, -1
    if group < 0:
        return -1, -1
    least, most = np.zeros(low.shape[1]), np.zeros(low.shape[1])
    for t in range(len(at)):
        for c in range(len(least)):
            least[c] += low[at[t], c]
            most[c] += high[at[t], c]
    lead = int(np.argmax(least))
    for c in range(len(most)):
        if c != lead and least[lead] - most[c] <= slack:
            return group, -1
    return -1, lead


@njit
def _add_votes(at: Ints, value: Floats, votes: Floats) -> None:
    """Add the values of the nodes ``at``, tree after tree: the order in which scikit-learn adds them."""
    for t in range(len(at)):
        for c in range(len(votes)):
            votes[c] += value[at[t], c]


@njit
def _next_groups(
    open_rows: Ints, X: Singles, have: Bools, at: Ints, first: int, wanted: Ints, decided: Ints,
    offsets: Ints, left: Ints, right: Ints, feature: Ints, threshold: Floats, missing_left: Bools,
    group_of: Ints, final: Bools, low: Floats, high: Floats, may_decide: bool, slack: float,
) -> None:  # fmt: skip
    """Write what each of the ``open_rows`` asks for next; ``at[i - first]`` is where row i stands."""
    for j in range(len(open_rows)):
        i = open_rows[j]
        wanted[j], decided[i] = _next_group(
            X[i], have[i], at[i - first], offsets, left, right, feature, threshold, missing_left,
            group_of, final, low, high, may_decide, slack,
        )  # fmt: skip


@njit
def _walk_rows(
    X: Singles, known: Bools, turn: Turns, votes: Floats, decided: Ints,
    offsets: Ints, left: Ints, right: Ints, feature: Ints, threshold: Floats, missing_left: Bools,
    group_of: Ints, final: Bools, low: Floats, high: Floats, may_decide: bool, slack: float,
) -> None:  # fmt: skip
    """Do for all rows of ``X`` what a function would be asked for."""
    at = np.empty(len(offsets) - 1, np.int64)
    have = np.zeros(X.shape[1], np.bool_)
    for i in range(len(X)):
        at[:] = offsets[:-1]
        have[:] = False
        if len(known) > 0:
            have[:] = known[i % len(known)]
        count = 0
        while True:
            group, decided[i] = _next_group(
                X[i], have, at, offsets, left, right, feature, threshold, missing_left,
                group_of, final, low, high, may_decide, slack,
            )  # fmt: skip
            if group < 0:
                break
            count += 1
            turn[i, group] = count
            for k in range(len(have)):
                if group_of[k] == group:
                    have[k] = True
        _add_votes(at, low, votes[i])
