"""Prediction that buys a feature only when a tree asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunopt.core.jit import njit
from prunopt.problems.prices import FeaturePrices
from prunopt.problems.tree_ensemble import TreeEnsemble

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Rows = NDArray[np.float32]
Bools = NDArray[np.bool_]
Acquire = Callable[[int, int], Any]


class OnDemand(NamedTuple):
    """What `predict_on_demand` returns.

    Parameters
    ----------
    predictions : (n,)
        Labels, or numbers for a regressor.
    acquired : (n, K) bool
        The features that were bought for each row; with a feature, its whole group.
    cost : (n,) float64
        What they cost, each group once.
    """

    predictions: NDArray[Any]
    acquired: Bools
    cost: Floats


def predict_on_demand(
    forest: Any,
    acquire_or_X: Acquire | ArrayLike,
    *,
    feature_costs: ArrayLike | Mapping[str, float] | FeaturePrices | None,
    feature_groups: Any = None,
    n_rows: int | None = None,
    stop_early: bool = False,
) -> OnDemand:
    r"""Predict with a forest, and ask for the value of a feature only at the first node that tests it.

    .. math::
        \hat y(x) = \arg\max_c \frac1T \sum_{t=1}^T p_{t, \ell_t(x)}(c), \qquad
        \text{cost}(x) = \sum_g c_g \, [\text{some node on a path of } x \text{ tests a feature of } g]

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
        group. None = every feature costs 1. Free features are asked for like any other.
    feature_groups
        Features that are bought together for one price: lists of indices or names, or a mapping from a group's name
        to such a list. Group g is ``feature_groups[g]``; after the listed groups, every other feature is a group of
        its own, in the order of the columns. None = group k is feature k.
    n_rows
        Number of rows, needed with a function.
    stop_early
        Stop buying for a row as soon as its prediction cannot change. With the trees standing at the nodes v_t that
        the known values lead to, class a is decided when
        :math:`\sum_t \min_{\ell \in v_t} p_{t\ell}(a) > \sum_t \max_{\ell \in v_t} p_{t\ell}(c)` for every other
        class c, minima and maxima over the leaves below; a node whose leaves all agree asks for nothing, which is all
        that can be saved for a regressor. Purchases are a subset of those without it, predictions the same.

    Returns
    -------
    OnDemand
        ``(predictions, acquired, cost)``.

    Raises
    ------
    ValueError
        For a forest that is not fitted or not supported, bad prices or groups, and answers of ``acquire`` that are
        no numbers, infinite, or too few or too many. What ``acquire`` itself raises passes through.
    """
    ensemble = TreeEnsemble.from_sklearn(forest)
    if isinstance(feature_costs, FeaturePrices):
        if feature_groups is not None:
            raise ValueError("feature_groups: the FeaturePrices given as feature_costs have groups; leave this one out")
        prices = feature_costs
    else:
        prices = FeaturePrices.of(feature_costs, ensemble.n_features, ensemble.feature_names, feature_groups)
    if len(prices.group_of) != ensemble.n_features:
        raise ValueError(
            f"feature_costs: prices of {len(prices.group_of)} features, the forest has {ensemble.n_features}"
        )
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
        bought, votes, decided = _interview(walk, acquire_or_X, prices, _checked_count(n_rows))
    else:
        rows = ensemble.rows(acquire_or_X, "acquire_or_X")
        if n_rows is not None and n_rows != len(rows):
            raise ValueError(f"n_rows={n_rows}: {len(rows)} rows given; n_rows is needed with a function only")
        bought = np.zeros((len(rows), len(prices.group_cost)), np.bool_)
        votes = np.zeros((len(rows), low.shape[1]))
        decided = np.full(len(rows), -1, np.int64)
        _walk_rows(rows, bought, votes, decided, *walk.arrays())
    votes /= ensemble.n_trees
    if ensemble.classes is None:
        predictions: NDArray[Any] = votes[:, 0].copy()
    else:
        predictions = ensemble.classes.take(np.where(decided >= 0, decided, votes.argmax(axis=1)))
    return OnDemand(predictions, prices.features(bought), np.asarray(bought @ prices.group_cost, np.float64))


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


def _checked_count(n_rows: int | None) -> int:
    if n_rows is None:
        raise ValueError("n_rows: with a function, the number of rows is needed")
    if isinstance(n_rows, bool) or not isinstance(n_rows, int | np.integer) or n_rows < 1:
        raise ValueError(f"n_rows={n_rows!r}: give a whole number of at least 1")
    return int(n_rows)


def _interview(walk: _Walk, acquire: Acquire, prices: FeaturePrices, n: int) -> tuple[Bools, Floats, Ints]:
    """Ask ``acquire`` for one row after the other."""
    arrays = walk.arrays()
    names = walk.ensemble.feature_names or tuple(f"x{k}" for k in range(walk.ensemble.n_features))
    members = [np.flatnonzero(prices.group_of == g) for g in range(len(prices.group_cost))]
    bought = np.zeros((n, len(members)), np.bool_)
    votes = np.zeros((n, walk.low.shape[1]))
    decided = np.full(n, -1, np.int64)
    for i in range(n):
        row = np.full(len(names), np.nan, np.float32)
        at = walk.ensemble.offsets[:-1].copy()
        while True:
            group, label = _next_group(row, bought[i], at, *arrays)
            if group < 0:
                break
            row[members[group]] = _values(acquire(i, group), f"acquire({i}, {group})", members[group], names)
            bought[i, group] = True
        decided[i] = label
        _add_votes(at, walk.low, votes[i])
    return bought, votes, decided


def _values(answer: Any, call: str, members: Ints, names: tuple[str, ...]) -> Rows:
    """Check what ``acquire`` returned for the features ``members``."""
    wanted = [names[k] for k in members]
    if isinstance(answer, Mapping):
        given = {
            names[key] if isinstance(key, int | np.integer) and 0 <= key < len(names) else key: v
            for key, v in answer.items()
        }
        wrong = [key for key in given if key not in wanted] + [name for name in wanted if name not in given]
        if wrong or len(given) != len(answer):
            raise ValueError(
                f"{call} returned the keys {list(answer)}; return one value for each of {', '.join(wanted)}"
            )
        cells = [given[name] for name in wanted]
    elif hasattr(answer, "__len__") and not isinstance(answer, str | bytes) and np.ndim(answer) > 0:
        cells = list(answer)
    else:
        cells = [answer]
    if len(cells) != len(wanted):
        raise ValueError(f"{call} returned {len(cells)} value(s); return {len(wanted)}, for {', '.join(wanted)}")
    values = np.empty(len(cells), np.float32)
    for j, cell in enumerate(cells):
        try:
            if isinstance(cell, str | bytes):
                raise TypeError
            with np.errstate(over="ignore"):
                values[j] = float(cell)
        except (TypeError, ValueError):
            raise ValueError(f"{call} returned {cell!r} for {wanted[j]!r}; return a number, NaN for unknown") from None
        if np.isinf(values[j]):
            raise ValueError(
                f"{call} returned {cell!r} for {wanted[j]!r}; too large for float32, return a finite number"
            )
    return values


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
    x: Rows, known: Bools, at: Ints,
    offsets: Ints, left: Ints, right: Ints, feature: Ints, threshold: Floats, missing_left: Bools,
    group_of: Ints, final: Bools, low: Floats, high: Floats, may_decide: bool, slack: float,
) -> tuple[int, int]:  # fmt: skip
    """Follow the trees from the nodes ``at`` as far as the ``known`` groups lead.

    Returns the group that the first tree with an open question asks for, and -1; or -1 and the decided class; or
    -1 and -1 when every tree has come to an end.
    """
    group = -1
    for t in range(len(at)):
        h = at[t]
        while not final[h] and known[group_of[feature[h]]]:
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
def _walk_rows(
    X: Rows, bought: Bools, votes: Floats, decided: Ints,
    offsets: Ints, left: Ints, right: Ints, feature: Ints, threshold: Floats, missing_left: Bools,
    group_of: Ints, final: Bools, low: Floats, high: Floats, may_decide: bool, slack: float,
) -> None:  # fmt: skip
    """Do for all rows of ``X`` what a function would be asked for."""
    at = np.empty(len(offsets) - 1, np.int64)
    for i in range(len(X)):
        at[:] = offsets[:-1]
        while True:
            group, decided[i] = _next_group(
                X[i], bought[i], at, offsets, left, right, feature, threshold, missing_left,
                group_of, final, low, high, may_decide, slack,
            )  # fmt: skip
            if group < 0:
                break
            bought[i, group] = True
        _add_votes(at, low, votes[i])
