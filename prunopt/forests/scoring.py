"""What candidates are chosen by: accuracy, balanced accuracy, area under the curve, log loss, or money."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.utils.class_weight import compute_class_weight

from prunopt.core.arrays import AnyArray, Floats
from prunopt.core.validate import Shown, floats, invalid, number, one_of, require

SCORINGS = ("accuracy", "balanced_accuracy", "roc_auc", "neg_log_loss")
WORDS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "roc_auc": "area under the curve",
    "neg_log_loss": "log loss",
    "misclassification_costs": "cost of features and mistakes",
    "neg_mean_squared_error": "squared error",
}
POINTS = 0.02
RARE = 0.03  # share of rows of the rarest class below which accuracy says nothing
LOSS_SHARE = 0.3  # of the squared error of the probabilities in what is chosen by: accuracy alone is coarse
LEAST_CHANCE = 1e-4  # that probabilities count as, so that one row does not decide a log loss


@dataclass(frozen=True, eq=False)
class Scoring:
    r"""Scores of rows whose mean is the measure.

    .. math:: \frac1n \sum_i s_i = \text{accuracy, balanced accuracy, area under the ROC curve, minus log loss, or
        minus misclassification cost}

    The area under the curve is the mean over the classes' rows of :math:`V_i`, the share of rows of other classes that
    score lower (ties count half), so :math:`s_i = V_i \, n / (C n_{c(i)})`, whose spread gives DeLong's standard error
    (DeLong, DeLong, Clarke-Pearson 1988).

    Parameters
    ----------
    name
        One of `SCORINGS`, ``"misclassification_costs"``, or ``"neg_mean_squared_error"`` for numbers.
    class_weight : (C,)
        Weights of the classes in fits: labels are then those of least expected loss (Breiman et al. 1984).
    costs : (C, C) or None
        Cost of saying the class of the column for a row of the class of the line.
    """

    name: str
    class_weight: Floats
    costs: Floats | None = None

    @property
    def in_money(self) -> bool:
        """Whether a score is in the currency of the features, so that the two can be added."""
        return self.costs is not None

    @property
    def worth(self) -> float | None:
        """What a right label saves, the mean over the classes, where mistakes have costs."""
        return None if self.costs is None else float(self.costs.sum(axis=1).mean() / (len(self.costs) - 1))

    @property
    def tolerance(self) -> float:
        """What the cheapest model may lose to the best: `POINTS` where scores are shares of 1."""
        return POINTS if self.name in ("accuracy", "balanced_accuracy", "roc_auc") else np.inf

    @property
    def words(self) -> str:
        """The measure for people."""
        return WORDS[self.name]

    def of_rows(self, values: Floats, y: AnyArray) -> tuple[Floats, Floats]:
        """Return score and utility of rows by class probabilities (n, C) or predictions (n, 1)."""
        n_classes = len(self.class_weight)
        if not n_classes:
            score = -np.square(values[:, 0] - y)
            return score, score
        if self.name == "neg_log_loss":
            score = np.log(np.clip(values[np.arange(len(y)), y], LEAST_CHANCE, None))
            return score, score
        if self.name == "roc_auc":
            score = _placements(values, y)
            return score, score
        truth = np.eye(n_classes)[y]
        says = values.argmax(axis=1)
        squares = LOSS_SHARE * np.square(values - truth).sum(axis=1)
        if self.costs is not None:
            score = -self.costs[y, says]
            return score, score
        score = (says == y).astype(np.float64)
        scale = _shares(y, n_classes) if self.name == "balanced_accuracy" else np.ones(len(y))
        return score * scale, (score - squares) * scale


def _shares(y: AnyArray, n_classes: int) -> Floats:
    """What rows count so that every class that is there counts the same; 1 on average."""
    count = np.bincount(y, minlength=n_classes)
    return np.asarray((len(y) / (np.count_nonzero(count) * np.maximum(count, 1)))[y])


def _placements(values: Floats, y: AnyArray) -> Floats:
    count = np.bincount(y, minlength=values.shape[1])
    out = np.full(len(y), 0.5)
    for c in np.flatnonzero((count > 0) & (count < len(y))):
        own = y == c
        rank, inside = rankdata(values[:, c]), rankdata(values[own, c])
        out[own] = (rank[own] - inside) / (len(y) - count[c])
    return np.asarray(out * _shares(y, len(count)))


def scoring_of(
    scoring: Any, misclassification_costs: Any, class_weight: Any, classes: AnyArray, y: AnyArray
) -> Scoring:
    """Check what a user gives, for codes ``y`` of ``classes``; None takes accuracy unless a class is rare.

    Raises
    ------
    ValueError
        For unknown names, costs that are not a square of numbers >= 0 with a zero diagonal, pairs of labels without a
        cost, or two that contradict.
    """
    if scoring is not None:
        one_of("scoring", scoring, SCORINGS)
    weight = np.ones(len(classes))
    if class_weight is not None:
        weight = _class_weight(class_weight, classes, y)
    if misclassification_costs is not None:
        require(scoring is None, "scoring", "be None with misclassification_costs", scoring, "money is what counts")
        costs = _matrix(misclassification_costs, classes)
        return Scoring("misclassification_costs", weight * _relative(costs.sum(axis=1)), costs)
    share = np.bincount(y, minlength=len(classes)).min() / len(y)
    name = scoring or ("accuracy" if share >= RARE else "roc_auc")
    if name == "balanced_accuracy" and class_weight is None:
        weight = compute_class_weight("balanced", classes=classes, y=classes[y])
    return Scoring(name, np.asarray(weight, np.float64))


def _class_weight(given: Any, classes: AnyArray, y: AnyArray) -> Floats:
    """Weights of the classes: "balanced", or one for each label of a mapping."""
    if isinstance(given, str) and given == "balanced":
        return np.asarray(compute_class_weight("balanced", classes=classes, y=classes[y]), np.float64)
    name, labels = "class_weight", classes.tolist()
    if not isinstance(given, Mapping):
        raise invalid(name, "be 'balanced' or a mapping from labels to weights", given)
    for label, weight in given.items():
        one_of(f"a label in {name}", label, labels)
        number(f"{name}[{label!r}]", weight, low=0, open_ends="(")
    return np.array([given.get(label, 1.0) for label in labels], np.float64)


def _relative(weight: Floats) -> Floats:
    """Weights with mean 1, none of them 0: a label that costs nothing to miss is still one."""
    return np.asarray(np.maximum(weight / weight.mean(), 1e-3))


def _matrix(given: Any, classes: AnyArray) -> Floats:
    """Costs (C, C) from a matrix in the order of the classes, or a mapping from labels to mappings from labels."""
    name, labels = "misclassification_costs", [str(label) for label in classes.tolist()]
    if isinstance(given, Mapping):
        lines = {str(key): line for key, line in given.items()}
        matrix = np.full((len(labels), len(labels)), np.nan)
        np.fill_diagonal(matrix, 0.0)
        for key, line in lines.items():
            one_of(f"a label in {name}", key, labels)
            require(isinstance(line, Mapping), f"{name}[{key!r}]", "map labels to costs", line)
            for other, cost in line.items():
                one_of(f"a label in {name}[{key!r}]", str(other), labels)
                place = f"{name}[{key!r}][{str(other)!r}]"
                matrix[labels.index(key), labels.index(str(other))] = number(place, cost, low=0)
        for i, j in np.argwhere(np.isnan(matrix))[:1].tolist():
            mend = "a pair that is left out would be free; write 0 if it is"
            raise invalid(name, f"hold the cost of saying {labels[j]!r} for {labels[i]!r}", Shown("none"), mend)
        given = matrix
    costs = floats(name, given, (len(labels), len(labels)), low=0.0)
    diagonal = np.diagonal(costs)
    require(
        not diagonal.any(), name, "have zeros on the diagonal", Shown(f"{diagonal.max():g}"), "a right label is free"
    )
    require(bool(costs.any()), name, "hold a cost above 0", Shown("zeros alone"))
    return costs


__all__ = ["LOSS_SHARE", "SCORINGS", "Scoring", "scoring_of"]
