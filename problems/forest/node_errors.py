"""Errors of the nodes of a forest: what each would contribute, were it a leaf."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prunopt.core.arrays import AnyArray, Floats, Ints, Singles
from prunopt.core.validate import Shown, floats, invalid, one_of, require
from prunopt.problems.forest.tree_ensemble import TreeEnsemble

LOSSES = ("misclassification", "gini", "log", "squared")
ERRORS = ("holdout", "oob", "inbag")
# A class that a node never saw has probability 0; the log loss counts it as this.
LEAST_PROBABILITY = 1e-6
FEW_LEAVES = 4  # below which counts of rows tell little
NO_ROW = 'no row is out of bag: fit with bootstrap=True, or pass held-out rows with errors="holdout"'


def tree_weights(forest: Any, errors: str, n_trees: int, weight: Floats) -> Floats:
    """Return the weight of every row in the error of every tree, shape (T, n) (or (1, n) where all are alike).

    Parameters
    ----------
    forest
        The fitted forest, whose ``estimators_samples_`` say which rows each tree was grown on.
    errors
        ``"holdout"``, ``"oob"`` or ``"inbag"``.
    n_trees
        Number of trees T.
    weight : (n,) float
        Sample weights.
    """
    one_of("errors", errors, ERRORS)
    if errors == "holdout":
        return weight[None, :]
    bootstrap = getattr(forest, "bootstrap", False)
    if errors == "oob" and not bootstrap:
        raise invalid(
            "errors", f"be 'holdout' or 'inbag' for {type(forest).__name__} without bootstrap", errors, NO_ROW
        )
    if not bootstrap and not hasattr(forest, "estimators_samples_"):
        return weight[None, :]
    kind = type(forest).__name__
    mend = 'the forest resamples rows on its own; pass held-out rows with errors="holdout"'
    if hasattr(forest, "samplers_"):  # imbalanced-learn: bootstraps of samples that scikit-learn does not know
        raise invalid("errors", f"be 'holdout' for {kind}", errors, mend)
    try:
        samples = forest.estimators_samples_
    except AttributeError:
        raise invalid("errors", f"be 'holdout' for {kind}", errors, mend) from None
    n = len(weight)
    fitted = getattr(forest, "_n_samples", None)
    least = 1 + max(int(np.max(rows, initial=-1)) for rows in samples)
    same = n == fitted if fitted is not None else n >= least
    mend = "pass the same rows"
    require(same, "X", f'be the rows that the forest was fitted on, for errors="{errors}"', Shown(f"{n} rows"), mend)
    times = np.stack([np.bincount(rows, minlength=n) for rows in samples]).astype(np.float64)
    per_tree = np.where(times == 0, 1.0, 0.0) * weight if errors == "oob" else times * weight
    require(np.any(per_tree), "errors", "leave each tree a row to judge it", errors, NO_ROW)
    return np.asarray(per_tree, np.float64)


def holds_training_rows(forest: Any, ensemble: TreeEnsemble, X: AnyArray) -> bool:
    """Return whether the first rows are those that a forest was fitted on, by how many reach each leaf of a tree."""
    from prunopt.problems.forest._routing import add_leaves

    trees = getattr(forest, "estimators_", None) or [forest]
    tree, rows = trees[0].tree_, np.arange(len(X))
    if tree.n_leaves < FEW_LEAVES or len(X) < tree.n_node_samples[0] or hasattr(forest, "samplers_"):
        return False
    if len(trees) > 1 or getattr(forest, "bootstrap", False):
        try:
            samples = forest.estimators_samples_
        except AttributeError:  # a forest that resamples in a way of its own
            return False
        rows = np.unique(samples[0])
    if len(rows) != tree.n_node_samples[0] or rows[-1] >= len(X):
        return False
    leaves = np.empty((len(rows), 1), np.int32)
    add_leaves(X[rows], ensemble.arrays._replace(offsets=ensemble.offsets[:2]), leaves)
    inside = np.bincount(leaves[:, 0], minlength=tree.node_count)
    return bool(np.all(np.where(tree.children_left < 0, inside == tree.n_node_samples, True)))


def node_errors(
    ensemble: TreeEnsemble, rows: Singles, y: ArrayLike, per_tree: Floats, loss: str
) -> tuple[Floats, Floats]:
    """Return the weighted error of every node on its tree's rows (n_nodes,), and the trees' total weights (T,)."""
    from prunopt.problems.forest._routing import add_losses, add_squares

    one_of("loss", loss, LOSSES)
    code, target = targets(ensemble, y, len(rows))
    out = np.zeros(ensemble.n_nodes)
    e = ensemble
    if e.classes is None:
        mean = np.ascontiguousarray(e.value[:, 0])
        for t in range(e.n_trees):
            add_squares(rows, t, e.arrays, mean, target, per_tree[t % len(per_tree)], out)
    else:
        mend = '"gini" is the squared error of class probabilities'
        require(loss != "squared", "loss", f"be one of {', '.join(LOSSES[:3])} for a classifier", loss, mend)
        labels = Shown(f"{np.asarray(y).ravel()[:3].tolist()}")
        require(np.any(code < len(e.classes)), "y", f"hold classes of the forest, {e.classes[:5].tolist()}", labels)
        table = loss_table(e.value, loss)
        for t in range(e.n_trees):
            add_losses(rows, t, e.arrays, table, code, per_tree[t % len(per_tree)], out)
    totals = per_tree.sum(axis=1)
    return out, np.broadcast_to(totals, (e.n_trees,)).copy() if len(totals) == 1 else totals


def loss_table(probability: Floats, loss: str) -> Floats:
    """Return the loss of every node for every class, shape (n_nodes, C + 1); the last column is an unknown class."""
    n, classes = probability.shape
    table = np.empty((n, classes + 1))
    if loss == "misclassification":
        table[:] = 1.0
        table[np.arange(n), probability.argmax(axis=1)] = 0.0
    elif loss == "gini":
        table[:] = np.square(probability).sum(axis=1, keepdims=True) + 1.0
        table[:, :-1] -= 2.0 * probability
    else:
        table[:, :-1] = -np.log(np.maximum(probability, LEAST_PROBABILITY))
        table[:, -1] = -np.log(LEAST_PROBABILITY)
    return table


def targets(ensemble: TreeEnsemble, y: ArrayLike, n: int) -> tuple[Ints, Floats]:
    """Return the class codes (n,) of the labels ``y``, or an empty array and the numbers ``y`` for regression.

    A label that the forest does not know has the code C: the forest is always wrong about it.
    """
    given = np.asarray(y)
    if given.ndim == 2 and given.shape[1] == 1:
        given = given[:, 0]
    require(given.shape == (n,), "y", f"have shape ({n},)", Shown(f"shape {given.shape}"))
    classes = ensemble.classes
    if classes is not None:
        try:
            place = np.minimum(np.searchsorted(classes, given), len(classes) - 1)
            known = classes[place] == given
        except TypeError:
            raise invalid("y", f"hold labels of {classes.dtype}, as the forest", Shown(f"{given.dtype}")) from None
        return np.where(known, place, len(classes)).astype(np.int64), np.zeros(0)
    return np.zeros(0, np.int64), floats("y", given, mend="drop those rows")
