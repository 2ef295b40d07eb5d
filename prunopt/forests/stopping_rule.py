"""When to stop asking: the label of a forest's vote is as good as certain long before every tree has voted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from scipy.stats import betabinom

from prunopt.core.arrays import AnyArray, Bools, Floats, Ints
from prunopt.core.jit import njit
from prunopt.core.validate import Shown, invalid, number, require
from prunopt.problems.forest._cost_parsing import of_rows
from prunopt.problems.forest._routing import child, leaves_of
from prunopt.problems.forest.feature_costs import FeatureCosts
from prunopt.problems.forest.node_errors import tree_weights
from prunopt.problems.forest.tree_ensemble import TreeEnsemble, Trees

PSEUDO_ROWS = 0.5  # that every total of votes has beside the rows given (Krichevsky, Trofimov 1981)
SPREAD = 0.02  # of the total of votes, by which the totals that were seen are blurred
TREE_COST = 1e-6  # of a tree, as a share of all features: of two rules that acquire the same, the shorter one
HALVINGS = 60
DISAGREEMENT = 0.001  # where none is named
MOST_ROWS = 2000  # that votes are counted on
GO_ON = -1


@dataclass(frozen=True, eq=False)
class StoppingRule:
    """After how many trees, and how many votes of theirs, which label is answered; made by `probable_stopping`.

    Parameters
    ----------
    answer : (T + 1, T + 1) int8
        After n trees, k of which vote for the second class: 0 or 1 = stop with this class, -1 = go on.
    disagreement
        Expected share of rows whose label differs from that of the whole forest.
    expected_cost, expected_trees
        Expected cost of a row, and how many trees it follows.
    """

    answer: NDArray[np.int8]
    disagreement: float
    expected_cost: float
    expected_trees: float

    def stops(self, votes: AnyArray) -> tuple[Ints, Ints]:
        """Return how many trees rows follow, and the class each is answered (-1 = that of the whole forest).

        ``votes`` (n, T) are the trees' classes, 0 or 1, in the forest's order.
        """
        count = np.concatenate([np.zeros((len(votes), 1), np.int64), np.cumsum(votes, axis=1)], axis=1)
        answers = self.answer[np.arange(count.shape[1]), count]
        answers[:, -1] = np.where(answers[:, -1] < 0, -2, answers[:, -1])  # the end ends
        at = (answers != GO_ON).argmax(axis=1)
        found = answers[np.arange(len(votes)), at].astype(np.int64)
        return at, np.where(found == -2, -1, found)


def probable_stopping(
    forest: Any,
    X: Any,
    *,
    feature_costs: Any = None,
    feature_groups: Any = None,
    known: Any = None,
    disagreement: float = DISAGREEMENT,
) -> StoppingRule:
    r"""Return the cheapest rule that stops a forest of two classes early, and changes few labels.

    .. math:: \min_{\text{rule}} \; \mathbb E[\text{cost of what is acquired}] \quad \text{s.t.} \quad
        \Pr[\text{label differs from that of all trees}] \le \alpha

    over rules that know, after n trees, how many voted for the second class. Trees are exchangeable: given the total of
    votes, which of the trees cast them is left to chance. So the linear program over the states (n, k) of
    arXiv 2606.15237 separates, for a price of disagreement, into a dynamic
    program of :math:`T^2` steps; the price is found by bisection. A tree costs what its features cost that the trees
    before it did not ask for, on average over the rows given: a tree without new ones is nearly free.

    The distribution of the total of votes comes from the rows, blurred, with half a row more for every total: with few
    rows it would promise too much.

    Parameters
    ----------
    forest
        A fitted forest of two classes.
    X : (n, K)
        Rows of which everything is known, labels are not needed. They should not be those that the trees were grown on,
        whose votes are more united than those of new rows.
    feature_costs, feature_groups, known
        As in `predict_on_demand`.
    disagreement
        The share :math:`\alpha` of rows whose label may change.

    Returns
    -------
    StoppingRule
        For ``predict_on_demand(stop_early=)``.

    Raises
    ------
    ValueError
        For a forest of numbers or of more than two classes, and a share outside (0, 1).
    """
    ensemble = _of_two_classes(forest)
    rows = ensemble.rows(X, "X")
    given = of_rows(feature_costs, X)
    costs = FeatureCosts.of(given, ensemble.n_features, ensemble.feature_names, feature_groups, known)
    return VoteTotals.seen(forest, rows, costs.for_rows(len(rows))).rule(disagreement)


@dataclass(frozen=True, eq=False)
class VoteTotals:
    """What is expected of the votes of new rows, and of their costs: what `rule` is computed from.

    Parameters
    ----------
    prior : (T + 1,)
        The distribution of the total of votes for the second class.
    label : (T + 1,)
        The chance that the whole forest says the second class, by the total.
    step : (T,)
        The mean cost that each tree adds.
    """

    prior: Floats
    label: Floats
    step: Floats

    def rule(self, disagreement: float = DISAGREEMENT) -> StoppingRule:
        """Return the cheapest rule that changes at most this share of labels, in expectation."""
        number("disagreement", disagreement, low=0, high=1)
        return _solved(self.prior, self.label, self.step, disagreement)

    @classmethod
    def seen(cls, forest: Any, X: Any, costs: FeatureCosts) -> VoteTotals:
        """Return them from rows that the trees were not grown on."""
        lead, step = _voted(forest, X, costs)
        total, T = (lead > 0).sum(axis=1), lead.shape[1]
        return cls(_prior(total, T), _labels(total, lead.sum(axis=1) > 0, T), step)

    @classmethod
    def out_of_bag(cls, forest: Any, X: Any, costs: FeatureCosts, use: Bools) -> VoteTotals:
        """Return them from the rows that the trees were grown on, each row's votes those of the trees ``use`` (T, n).

        Of a row like one with k of n votes out of bag, the total of T new trees is beta-binomial by Jeffreys's prior.
        """
        lead, step = _voted(forest, X, costs)
        T = lead.shape[1]
        votes = np.stack([((lead > 0) & use.T).sum(axis=1), use.sum(axis=0)])
        judged = votes[1] > 0
        (k, n), times = np.unique(votes[:, judged], axis=1, return_counts=True)
        chance = betabinom.pmf(np.arange(T + 1)[:, None], T, k + PSEUDO_ROWS, n - k + PSEUDO_ROWS)
        seen = chance @ times + PSEUDO_ROWS
        whole = np.rint(T * votes[0, judged] / votes[1, judged]).astype(np.int64)
        says = ((lead * use.T).sum(axis=1) > 0)[judged]
        return cls(np.asarray(seen / seen.sum()), _labels(whole, says, T), step)

    @classmethod
    def unknown(cls, forest: Any, costs: FeatureCosts) -> VoteTotals:
        """Return them where no row is known: every total is as likely; nodes are reached as in growing."""
        _of_two_classes(forest)
        trees = getattr(forest, "estimators_", None) or [forest]
        T, cost = len(trees), costs.component_cost.mean(axis=0)
        lacking, step = np.ones(len(cost)), np.zeros(T)
        for t, tree in enumerate(trees):
            asks = np.zeros(len(cost))
            share = tree.tree_.weighted_n_node_samples / tree.tree_.weighted_n_node_samples[0]
            for feature, reached in zip(tree.tree_.feature.tolist(), share.tolist(), strict=True):
                if feature >= 0:
                    incurred = costs.components_of[costs.group_of[feature]]
                    asks[incurred[incurred >= 0]] += reached
            asks = np.minimum(asks, 1.0)
            step[t] = float((lacking * asks) @ cost)
            lacking = lacking * (1 - asks)
        majority = _labels(np.zeros(0, np.int64), np.zeros(0, np.bool_), T)
        return cls(np.full(T + 1, 1 / (T + 1)), majority, step + TREE_COST * max(costs.total, 1.0))


def votes_of_training(forest: Any, X: Any, costs: FeatureCosts) -> VoteTotals | None:
    """Return the votes, out of bag, of the rows that a forest was fitted on; None where it has no two classes.

    Without bootstrap nothing is known about the votes of new rows.
    """
    if len(getattr(forest, "classes_", ())) != 2:
        return None
    if not getattr(forest, "bootstrap", False) or hasattr(forest, "samplers_"):
        return VoteTotals.unknown(forest, costs)
    n = len(X)
    use = tree_weights(forest, "oob", len(forest.estimators_), np.ones(n)) > 0
    rows = np.unique(np.linspace(0, n - 1, min(n, MOST_ROWS)).astype(np.int64))
    return VoteTotals.out_of_bag(forest, np.asarray(X)[rows], costs.take(rows), use[:, rows])


def rule_for(stop_early: Any, disagreement: float | None, totals: Callable[[], VoteTotals | None]) -> Any:
    """Return what a walk is to do for ``stop_early``: True, False, or a rule, that of the totals for "probable".

    Raises
    ------
    ValueError
        For another text, a disagreement without "probable", and totals that are None.
    """
    probable = isinstance(stop_early, str) and stop_early == "probable"
    mend = 'give it with stop_early="probable"'
    require(probable or disagreement is None, "disagreement", "be None unless labels may change", disagreement, mend)
    if not probable:
        mend = '"probable" changes a small share of the labels'
        known = isinstance(stop_early, bool | StoppingRule)
        require(known, "stop_early", 'be True, False, "probable" or a StoppingRule', stop_early, mend)
        return stop_early
    found = totals()
    if found is None:
        mend = "it stops votes of two classes; True stops where no label can change"
        raise invalid("stop_early", "be True or False for this model", stop_early, mend)
    return found.rule(DISAGREEMENT if disagreement is None else disagreement)


def _of_two_classes(forest: Any) -> TreeEnsemble:
    ensemble = TreeEnsemble.from_sklearn(forest)
    given = Shown("a regressor" if ensemble.classes is None else f"{len(ensemble.classes)} classes")
    two = ensemble.classes is not None and len(ensemble.classes) == 2
    require(two, "forest", "tell two classes apart", given, "stop_early=True stops where no label can change")
    return ensemble


def _voted(forest: Any, X: Any, costs: FeatureCosts) -> tuple[Floats, Floats]:
    """By how much every tree votes for the second class (n, T), and the mean cost that each tree adds (T,)."""
    ensemble = _of_two_classes(forest)
    rows = ensemble.rows(X, "X")
    value = ensemble.value[leaves_of(ensemble, rows)]
    return value[..., 1] - value[..., 0], _steps(ensemble, rows, costs) + TREE_COST * max(costs.total, 1.0)


def _steps(ensemble: TreeEnsemble, rows: AnyArray, costs: FeatureCosts) -> Floats:
    """The mean cost that each tree adds, (T,)."""
    out = np.zeros(ensemble.n_trees)
    known = costs.known_mask
    _add_steps(rows, ensemble.arrays, costs.group_of, costs.components_of, costs.component_cost, known, out)
    return out / len(rows)


@njit
def _add_steps(
    X: AnyArray, trees: Trees, group_of: Ints, components_of: Ints, cost: Floats, known: Bools, out: Floats
) -> None:
    """Add to each tree what the rows pay for the components that no tree before it incurred."""
    made = np.zeros(cost.shape[1], np.bool_)
    for i in range(len(X)):
        made[:] = False
        for t in range(len(out)):
            h = trees.offsets[t]
            while trees.left[h] >= 0:
                k = trees.feature[h]
                if len(known) == 0 or not known[i % len(known), k]:
                    for c in components_of[group_of[k]]:
                        if c >= 0 and not made[c]:
                            made[c] = True
                            out[t] += cost[i % len(cost), c]
                h = child(X[i, k], h, trees)


def _prior(total: Ints, n_trees: int) -> Floats:
    """The distribution of the total of votes, (T + 1,)."""
    values = np.arange(n_trees + 1)
    width = max(SPREAD * n_trees, 0.5)
    kernel = np.exp(-0.5 * np.square((values[:, None] - values[None, :]) / width))
    kernel /= kernel.sum(axis=0)
    seen = kernel @ np.bincount(total, minlength=n_trees + 1) + PSEUDO_ROWS
    return np.asarray(seen / seen.sum())


def _labels(total: Ints, says: Bools, n_trees: int) -> Floats:
    """The chance that the whole forest says the second class, by its total of votes; trees may vote with weights."""
    majority = (np.arange(n_trees + 1) > n_trees / 2).astype(np.float64)
    count = np.bincount(total, minlength=n_trees + 1)
    return np.asarray((majority + np.bincount(total, weights=says, minlength=n_trees + 1)) / (1 + count))


def _solved(prior: Floats, label: Floats, step: Floats, disagreement: float) -> StoppingRule:
    """Bisection for the price of disagreement of the dynamic program."""
    states = _states(prior, label)
    low, high = 0.0, max(float(step.sum()), 1e-9)
    while _rule(states, step, high).disagreement > disagreement and high < 1e15 * max(float(step.sum()), 1e-9):
        low, high = high, high * 8
    best = _rule(states, step, high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        rule = _rule(states, step, middle)
        if rule.disagreement <= disagreement:
            best, high = rule, middle
        else:
            low = middle
    return best


def _states(prior: Floats, label: Floats) -> list[tuple[Floats, Floats]]:
    """For n = 0 .. T trees: the chance of the next vote, and of the label, given k votes, each (n + 1,)."""
    T = len(prior) - 1
    totals = np.arange(T + 1)
    log = gammaln(np.arange(T + 2) + 1.0)
    out = []
    for n in range(T + 1):
        k = np.arange(n + 1)[:, None]
        left = totals[None, :] - k
        fits = (left >= 0) & (left <= T - n)
        rest = np.clip(left, 0, T - n)
        chance = log[T - n] - log[rest] - log[T - n - rest] - (log[T] - log[totals] - log[T - totals])[None, :]
        weight = np.where(fits, np.exp(np.where(fits, chance, 0.0)) * prior, 0.0)  # but for a factor of k alone
        weight /= weight.sum(axis=1, keepdims=True)
        upwards = (weight * left / max(T - n, 1)).sum(axis=1)
        out.append((upwards, weight @ label))
    return out


def _rule(states: list[tuple[Floats, Floats]], step: Floats, price: float) -> StoppingRule:
    """The best rule at a price of disagreement, by backward induction, and what it reaches."""
    T = len(step)
    answer = np.full((T + 1, T + 1), GO_ON, np.int8)
    value, wrong, cost, trees = (np.zeros(T + 1) for _ in range(4))  # at the end the label is that of all trees
    for n in range(T - 1, -1, -1):
        up, label = states[n]
        k = np.arange(n + 1)

        def ahead(x: Floats, up: Floats = up, k: Ints = k) -> Floats:
            return np.asarray(up * x[k + 1] + (1 - up) * x[k])

        doubt = np.minimum(label, 1 - label)
        going = step[n] + ahead(value)
        stop = price * doubt <= going
        value = np.where(stop, price * doubt, going)
        wrong = np.where(stop, doubt, ahead(wrong))
        cost = np.where(stop, 0.0, step[n] + ahead(cost))
        trees = np.where(stop, 0.0, 1 + ahead(trees))
        answer[n, k[stop]] = (label[stop] > 0.5).astype(np.int8)
    return StoppingRule(answer, float(wrong[0]), float(cost[0]), float(trees[0]))


__all__ = ["StoppingRule", "VoteTotals", "probable_stopping", "rule_for", "votes_of_training"]
