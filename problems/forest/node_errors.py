"""Errors of the nodes of a forest: what each would contribute, were it a leaf."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunopt.core.arrays import Floats
from prunopt.problems.forest.tree_ensemble import TreeEnsemble

LOSSES = ("misclassification", "gini", "log", "squared")
ERRORS = ("holdout", "oob", "inbag")
# A class that a node never saw has probability 0; the log loss counts it as this.
LEAST_PROBABILITY = 1e-6


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
    if errors not in ERRORS:
        raise ValueError(f"errors={errors!r}: give one of {', '.join(ERRORS)}")
    if errors == "holdout":
        return weight[None, :]
    bootstrap = getattr(forest, "bootstrap", False)
    if errors == "oob" and not bootstrap:
        raise ValueError(
            f'errors="oob": {type(forest).__name__} was grown without bootstrap, so no row is out of bag; '
            'fit it with bootstrap=True, or give held-out rows with errors="holdout"'
        )
    if not bootstrap and not hasattr(forest, "estimators_samples_"):
        return weight[None, :]
    samples = forest.estimators_samples_
    n = len(weight)
    fitted = getattr(forest, "_n_samples", None)
    if fitted is not None and fitted != n:
        raise ValueError(f'errors="{errors}": X has {n} rows, the forest was fitted on {fitted}; give those very rows')
    if max(int(np.max(rows, initial=-1)) for rows in samples) >= n:
        raise ValueError(
            f'errors="{errors}": X has {n} rows, fewer than the forest was fitted on; give those very rows'
        )
    times = np.stack([np.bincount(rows, minlength=n) for rows in samples]).astype(np.float64)
    per_tree = np.where(times == 0, 1.0, 0.0) * weight if errors == "oob" else times * weight
    if not np.any(per_tree):
        raise ValueError('errors="oob": no row is out of bag in any tree; give held-out rows with errors="holdout"')
    return np.asarray(per_tree, np.float64)


def node_errors(
    ensemble: TreeEnsemble, rows: NDArray[np.float32], y: ArrayLike, per_tree: Floats, loss: str
) -> tuple[Floats, Floats]:
    """Return the weighted error of every node on its tree's rows (n_nodes,), and the trees' total weights (T,)."""
    from prunopt.problems.forest._routing import add_losses, add_squares

    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r}: give one of {', '.join(LOSSES)}")
    code, target = targets(ensemble, y, len(rows))
    out = np.zeros(ensemble.n_nodes)
    e = ensemble
    columns = (e.left, e.right, e.feature, e.threshold, e.missing_left)
    if e.classes is None:
        mean = np.ascontiguousarray(e.value[:, 0])
        for t in range(e.n_trees):
            add_squares(rows, e.offsets[t], *columns, mean, target, per_tree[t % len(per_tree)], out)
    else:
        if loss == "squared":
            raise ValueError('loss="squared" is for regressors; "gini" is the squared error of class probabilities')
        if np.all(code == len(e.classes)):
            raise ValueError(
                f"y: none of its labels ({np.asarray(y).ravel()[:3].tolist()} ...) is a class of the forest "
                f"({e.classes[:5].tolist()})"
            )
        table = loss_table(e.value, loss)
        for t in range(e.n_trees):
            add_losses(rows, e.offsets[t], *columns, table, code, per_tree[t % len(per_tree)], out)
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


def targets(ensemble: TreeEnsemble, y: ArrayLike, n: int) -> tuple[NDArray[np.int64], Floats]:
    """Return the class codes (n,) of the labels ``y``, or an empty array and the numbers ``y`` for regression.

    A label that is no class of the forest has the code C: the forest is always wrong about it.
    """
    given = np.asarray(y)
    if given.ndim == 2 and given.shape[1] == 1:
        given = given[:, 0]
    if given.shape != (n,):
        raise ValueError(f"y: shape {given.shape} given for {n} rows")
    classes = ensemble.classes
    if classes is not None:
        try:
            place = np.minimum(np.searchsorted(classes, given), len(classes) - 1)
            known = classes[place] == given
        except TypeError:
            raise ValueError(f"y: labels of {given.dtype} given, the forest was fitted on {classes.dtype}") from None
        return np.where(known, place, len(classes)).astype(np.int64), np.zeros(0)
    try:
        numbers = given.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError("y: the forest is a regressor, numbers are needed") from None
    if not np.all(np.isfinite(numbers)):
        raise ValueError("y: NaN or infinity given; drop those rows")
    return np.zeros(0, np.int64), numbers
