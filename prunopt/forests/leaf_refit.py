r"""Leaf refit: all leaf values of a forest fitted jointly, its trees and hence its costs unchanged.

The trees of a random forest are fitted independently; after pruning, the remaining leaves can do more together. With
the indicator :math:`\phi_l(x) = 1` where x reaches leaf l, and C classes, the refit minimizes

.. math::
    \sum_i s_i \, \ell\Bigl(y_i, \; b + \sum_l \phi_l(x_i) v_l\Bigr) + \frac{\rho}{2} \sum_l \| v_l - v_l^0 \|^2

over the leaf scores v_l and the bias b: multinomial logistic loss for classifiers, half the squared error otherwise.
:math:`v^0` is the forest as it was (for classifiers its votes times the slope that calibrates them best), so a large
ridge :math:`\rho` keeps the forest as it is. The problem is convex. Where only the trees :math:`U_i` judge row i (those
that were not grown on it), the sum is over their leaves and multiplied by :math:`T / |U_i|`.

scikit-learn's classifier forests average class fractions, which cannot express scores directly. The scores become
fractions through one increasing map, the same for all leaves but for a shift per tree and class that adds up to the
same for every class:

.. math:: P_l = b_{t} + s \, (v_l - \bar v_l), \qquad \sum_c P_{lc} = 1, \quad P_{lc} \ge 0,

with the largest s > 0 that the signs allow. Then the averaged fractions are :math:`1/C + (s/T)` times the centered
scores: labels are those of the scores, and ``softmax(predict_proba / temperature)`` with temperature s/T returns the
fitted probabilities.

References
----------
S. Ren, X. Cao, Y. Wei, J. Sun, "Global refinement of random forest", CVPR 2015.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize
from scipy.sparse.linalg import LinearOperator, lsqr
from scipy.special import softmax

from prunopt.core.arrays import AnyArray, Bools, Floats, Ints, Singles
from prunopt.core.jit import njit
from prunopt.core.validate import Shown, invalid, number, require
from prunopt.core.validate import sample_weight as checked_weight
from prunopt.forests._leaf_fit import LeafSums, fit_leaves
from prunopt.forests.sklearn_trees import with_values
from prunopt.problems.forest._routing import leaves_of
from prunopt.problems.forest.node_errors import targets
from prunopt.problems.forest.tree_ensemble import TreeEnsemble

RIDGES = (300.0, 100.0, 30.0, 10.0, 3.0, 1.0)  # tried from the stiffest on, each started from the one before
FOLDS = 4
ENOUGH = 2000  # held-out rows after which no other fold is needed to choose the ridge
ITERATIONS = 200


@dataclass(frozen=True)
class LeafRefit:
    """A forest with refitted leaves.

    Parameters
    ----------
    forest
        A genuine scikit-learn forest with the same trees and other leaf values.
    temperature
        For classifiers, ``softmax(forest.predict_proba(X) / temperature)`` are the fitted class probabilities, while
        ``forest.predict_proba`` itself is drawn towards 1/C (its order, hence ``predict``, is right). None for
        regressors.
    ridge
        The ridge used.
    loss_before, loss_after
        Mean loss (negative log likelihood, or half the squared error) on the rows held out to choose the ridge, of
        the forest as it was (classifiers: calibrated by one slope) and refitted; NaN where the ridge was given.
    """

    forest: Any
    temperature: float | None
    ridge: float
    loss_before: float
    loss_after: float

    def predict_proba(self, X: Any) -> Floats:
        """Return the fitted class probabilities."""
        if self.temperature is None:
            raise AttributeError("predict_proba: the forest is a regressor")
        return np.asarray(softmax(self.forest.predict_proba(X) / self.temperature, axis=1))


def refit_leaves(
    forest: Any,
    X: ArrayLike,
    y: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    ridge: float | None = None,
    judges: Bools | None = None,
    random_state: int = 0,
) -> LeafRefit:
    """Fit all leaf values of a forest jointly; no row costs more than before.

    Parameters
    ----------
    forest
        A fitted (pruned) random forest, extra trees, bagging of trees, or single tree. It is not changed.
    X : (n, K)
        Rows to fit on; best those that the forest was grown and pruned on, all of them.
    y : (n,)
        Labels among the forest's classes, or numbers.
    sample_weight : (n,) or None
        Weights >= 0.
    ridge
        Strength of the pull towards the values before, in units of one row's loss; None chooses it on held-out rows.
    judges : (T or 1, n) bool or None
        Which trees count for each row, such as those that did not see it; None = all. A row without any is left out.
    random_state
        Seed of the split that chooses the ridge.

    Raises
    ------
    ValueError
        For a forest or rows that do not fit together, a label that the forest does not know, a ridge <= 0, or a forest
        with ``monotonic_cst``: leaves fitted jointly need not be monotonic.
    """
    ensemble = TreeEnsemble.from_sklearn(forest)
    refuse_monotonic(forest)
    rows = ensemble.rows(X)
    weight = checked_weight(sample_weight, len(rows))
    if ridge is not None:
        number("ridge", ridge, low=0, open_ends="(", mend="None chooses it on held-out rows")
    sums, place = _leaf_sums(ensemble, rows, judges)
    weight = np.where(sums.share > 0, weight, 0.0)
    votes = ensemble.value[place] / ensemble.n_trees
    code, target = targets(ensemble, y, len(rows))
    if ensemble.classes is not None and np.any(code == len(ensemble.classes)):
        label = np.asarray(y).ravel()[np.argmax(code)]
        raise invalid("y", f"hold classes of the forest, {ensemble.classes[:5].tolist()}", label)
    model = Squares(votes, target) if ensemble.classes is None else Logistic(votes, code)
    used = np.flatnonzero(weight)
    chosen, before, after = ridge, np.nan, np.nan
    if chosen is None:
        chosen, before, after = choose_ridge(model, sums, weight, used, random_state)
    scores, bias = model.fit(sums.take(used), used, weight[used], chosen, None)
    scores = scores + bias / ensemble.n_trees
    return LeafRefit(*with_scores(forest, ensemble, place, scores), chosen, before, after)


def refuse_monotonic(forest: Any) -> None:
    """Refuse to refit the leaves of a forest, fitted or not, that is to be monotonic in some feature."""
    for estimator in (forest, getattr(forest, "estimator", None)):
        signs = getattr(estimator, "monotonic_cst", None)
        if signs is not None and np.any(list(signs.values()) if isinstance(signs, dict) else signs):
            mend = "leaves fitted jointly need not be monotonic; leave the forest without refit"
            raise invalid("monotonic_cst", "be None where leaves are refitted", signs, mend)


@dataclass(frozen=True)
class Refit:
    """Refits forests to the same rows: see `refit_leaves`."""

    X: Any
    y: Any
    sample_weight: Any
    judges: Bools | None
    random_state: int

    def __call__(self, forest: Any) -> tuple[Any, float | None]:
        """Return the forest with refitted leaves, and the temperature of its probabilities."""
        options: dict[str, Any] = {"judges": self.judges, "random_state": self.random_state}
        done = refit_leaves(forest, self.X, self.y, sample_weight=self.sample_weight, **options)
        return done.forest, done.temperature


def with_scores(forest: Any, ensemble: TreeEnsemble, place: Ints, scores: Floats) -> tuple[Any, float | None]:
    """Return the forest with leaves that add up to ``scores`` (L, C), and the temperature of its probabilities."""
    if ensemble.classes is None:
        return with_leaf_values(forest, ensemble, place, scores * ensemble.n_trees), None
    fractions, temperature = as_fractions(scores, ensemble.tree[place], ensemble.n_trees)
    return with_leaf_values(forest, ensemble, place, fractions), temperature


def as_fractions(scores: Floats, tree: Ints, n_trees: int) -> tuple[Floats, float]:
    """Map leaf scores to class fractions whose average over the trees is 1/C + temperature * centered scores.

    Parameters
    ----------
    scores : (L, C)
        Scores of the leaves; those of a row are added over its trees.
    tree : (L,)
        The tree of each leaf.
    n_trees
        Number of trees T.

    Returns
    -------
    fractions : (L, C)
        Rows >= 0 that add up to 1.
    temperature
        The factor of the scores.
    """
    C = scores.shape[1]
    centred = scores - scores.mean(axis=1, keepdims=True)
    # Each tree may move its scores by a shift per class, if the shifts of all trees add up to the same for every
    # class: fractions b[t] + s * centered are >= 0 for some such b when s keeps every row and column sum below.
    least = np.full((n_trees, C), -np.inf)
    np.maximum.at(least, tree, -centred)
    largest = max(float(least.sum(axis=1).max()), float(least.sum(axis=0).max()) * C / n_trees, 0.0)
    scale = 1.0 / largest if largest > 0 else 1.0
    row_slack = np.maximum(1.0 - scale * least.sum(axis=1), 0.0)
    column_slack = np.maximum(n_trees / C - scale * least.sum(axis=0), 0.0)
    spread = np.outer(row_slack, column_slack) / max(column_slack.sum(), 1e-300)
    fractions = (scale * least + spread)[tree] + scale * centred
    fractions = np.maximum(fractions, 0.0)
    return fractions / fractions.sum(axis=1, keepdims=True), scale / n_trees


def _leaf_sums(ensemble: TreeEnsemble, rows: Singles, judges: Bools | None) -> tuple[LeafSums, Ints]:
    """The leaves that the rows reach in the trees that count, and the node id of each leaf (L,)."""
    place = np.flatnonzero(ensemble.left < 0)
    number_of = np.zeros(ensemble.n_nodes, np.int32)
    number_of[place] = np.arange(len(place))
    leaf, share = number_of[leaves_of(ensemble, rows)], np.ones(len(rows))
    if judges is not None:
        counts = np.broadcast_to(judges, (ensemble.n_trees, len(rows))).T
        leaf, voters = np.where(counts, leaf, np.int32(-1)), counts.sum(axis=1)
        share = np.divide(ensemble.n_trees, voters, out=np.zeros(len(rows)), where=voters > 0)
    return LeafSums(leaf, share, len(place)), place


def choose_ridge(
    model: Logistic | Squares, sums: LeafSums, weight: Floats, rows: Ints, random_state: int
) -> tuple[float, float, float]:
    """The ridge of least loss on held-out rows, the forest's loss there before, and after."""
    fold = np.arange(len(rows)) % FOLDS
    np.random.default_rng(random_state).shuffle(fold)
    # As many folds as it takes to hold out enough rows.
    n_folds = min(FOLDS, -(-ENOUGH * FOLDS // len(rows))) if len(rows) >= 2 * FOLDS else 0
    parts = [(rows[fold != f], rows[fold == f]) for f in range(n_folds)]
    if not parts:
        return RIDGES[0], np.nan, np.nan
    tables = [(sums.take(train), sums.take(test)) for train, test in parts]
    mass = sum(weight[test].sum() for _, test in parts)
    before, best, chosen = 0.0, np.inf, RIDGES[0]
    starts = [model.start(Z, train, weight[train]) for (train, _), (Z, _) in zip(parts, tables, strict=True)]
    for (_, test), (_, Z_test), own in zip(parts, tables, starts, strict=True):
        before += weight[test] @ model.losses(own, np.zeros(model.n_outputs), Z_test, test)
    warm: list[tuple[Floats, Floats] | None] = [None] * n_folds
    for ridge in RIDGES:
        after = 0.0
        for f, ((train, test), (Z, Z_test)) in enumerate(zip(parts, tables, strict=True)):
            found = model.fit(Z, train, weight[train], ridge, warm[f], rough=True, anchor=starts[f])
            after += weight[test] @ model.losses(*found, Z_test, test)
            warm[f] = found
        if after >= best:  # the loss falls, then rises with falling ridge
            break
        best, chosen = after, ridge
    return chosen, float(before / mass), float(best / mass)


class Logistic:
    """Multinomial logistic loss of summed leaf scores."""

    def __init__(self, votes: Floats, code: Ints) -> None:
        self.votes, self.code = votes, code
        self.n_outputs = votes.shape[1]

    def start(self, sums: LeafSums, rows: Ints, weight: Floats) -> Floats:
        """Return the forest's own votes, times the slope that makes them the best log odds."""
        votes = sums(self.votes)
        code = self.code[rows]

        def loss(slope: float) -> float:
            return -float(weight @ _log_likelihood(slope * votes, code)[0])

        return np.asarray(optimize.minimize_scalar(loss, bounds=(0.1, 100.0), method="bounded").x * self.votes)

    def losses(self, scores: Floats, bias: Floats, sums: LeafSums, rows: Ints) -> Floats:
        """Return the negative log likelihood of each row."""
        return -_log_likelihood(sums(scores) + bias, self.code[rows])[0]

    def fit(
        self,
        sums: LeafSums,
        rows: Ints,
        weight: Floats,
        ridge: float,
        warm: tuple[Floats, Floats] | None,
        rough: bool = False,
        anchor: Floats | None = None,
    ) -> tuple[Floats, Floats]:
        """Return leaf scores (L, C) and bias (C,); the ridge pulls to ``anchor``, None = what `start` returns."""
        code = self.code[rows]
        anchor = self.start(sums, rows, weight) if anchor is None else anchor

        def loss(scores: Floats) -> tuple[float, Floats]:
            likelihood, slope = _log_likelihood(scores, code)
            return -float(weight @ likelihood), slope * weight[:, None]

        start, bias = (anchor, np.zeros(self.n_outputs)) if warm is None else warm
        stop: Any = {"maxiter": 60, "ftol": 1e-5} if rough else {"maxiter": ITERATIONS, "ftol": 1e-9}
        return fit_leaves(sums, loss, start, ridge, anchor=anchor, bias=bias, **stop)


class Squares:
    """Half the squared error of summed leaf values."""

    def __init__(self, votes: Floats, target: Floats) -> None:
        self.votes, self.target = votes, target
        self.n_outputs = 1

    def start(self, sums: LeafSums, rows: Ints, weight: Floats) -> Floats:
        """Return the forest's own values."""
        return self.votes

    def losses(self, scores: Floats, bias: Floats, sums: LeafSums, rows: Ints) -> Floats:
        """Return half the squared error of each row."""
        return np.asarray(np.square(self.target[rows] - sums(scores)[:, 0] - bias[0]) / 2)

    def fit(
        self,
        sums: LeafSums,
        rows: Ints,
        weight: Floats,
        ridge: float,
        warm: tuple[Floats, Floats] | None,
        rough: bool = False,
        anchor: Floats | None = None,
    ) -> tuple[Floats, Floats]:
        """Return leaf values (L, 1) and bias (1,); the ridge pulls to the forest's own values."""
        residual = self.target[rows] - sums(self.votes)[:, 0]
        # The bias is not penalized: it is the weighted mean of what is left, so everything is centered.
        share, root = weight / weight.sum(), np.sqrt(weight)
        mean = sums.transposed(share[:, None])[:, 0]
        centred = LinearOperator(
            (len(rows), sums.n_leaves),
            matvec=lambda v: root * (sums(v.reshape(-1, 1))[:, 0] - mean @ v.ravel()),
            rmatvec=lambda u: sums.transposed((root * u.ravel())[:, None])[:, 0] - mean * (root @ u.ravel()),
            dtype=np.float64,
        )
        right = root * (residual - share @ residual)
        precision = 1e-4 if rough else 1e-8
        moved = lsqr(centred, right, damp=np.sqrt(ridge), atol=precision, btol=precision, iter_lim=ITERATIONS)[0]
        return self.votes + moved[:, None], np.array([share @ residual - mean @ moved])


def with_leaf_values(forest: Any, ensemble: TreeEnsemble, place: Ints, leaf_values: Floats) -> Any:
    """The forest with new leaf values; a node inside predicts the mean of its leaves, weighted by their samples."""
    trees = getattr(forest, "estimators_", [forest])
    samples = np.concatenate([tree.tree_.weighted_n_node_samples for tree in trees])
    value = np.zeros((ensemble.n_nodes, leaf_values.shape[1]))
    value[place] = leaf_values
    _average_upwards(ensemble.left, ensemble.right, samples, value)
    per_tree = np.split(value[:, None, :], ensemble.offsets[1:-1])
    for tree, values in zip(trees, per_tree, strict=True):
        fits = tree.tree_.value.shape == values.shape
        require(fits, "forest", "have trees grown on all classes", Shown("a tree whose rows lack a class"))
    return with_values(forest, per_tree)


def _log_likelihood(scores: Floats, code: Ints) -> tuple[Floats, Floats]:
    """Return the log likelihood (n,) of the classes of the rows, and its negative's slope by the scores (n, C)."""
    likelihood, slope = np.empty(len(scores)), np.empty_like(scores)
    _softmax_rows(scores, code, likelihood, slope)
    return likelihood, slope


@njit
def _softmax_rows(scores: Floats, code: Ints, likelihood: Floats, slope: Floats) -> None:
    n, C = scores.shape
    for i in range(n):
        top = scores[i, 0]
        for c in range(1, C):
            top = max(top, scores[i, c])
        total = 0.0
        for c in range(C):
            slope[i, c] = np.exp(scores[i, c] - top)
            total += slope[i, c]
        for c in range(C):
            slope[i, c] /= total
        likelihood[i] = scores[i, code[i]] - top - np.log(total)
        slope[i, code[i]] -= 1.0


@njit
def _average_upwards(left: AnyArray, right: AnyArray, mass: Floats, value: Floats) -> None:
    """Set the value of every node inside to the mean of its children's, weighted by their ``mass``."""
    for h in range(len(left) - 1, -1, -1):  # children come after their parents
        a, b = left[h], right[h]
        if a >= 0:
            total = mass[a] + mass[b]
            share = mass[a] / total if total > 0 else 0.5
            for c in range(value.shape[1]):
                value[h, c] = share * value[a, c] + (1.0 - share) * value[b, c]
