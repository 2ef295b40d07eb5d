r"""Losses of additive scores F: initial scores, derivatives, and what is reported to the user.

================  =====================================  =====================
task              scores                                 loss of a row
================  =====================================  =====================
two classes       F = log odds of the second class       negative log likelihood
more classes      one score a class, softmax             negative log likelihood
regression        F = prediction (standardized target)   half the squared error
================  =====================================  =====================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_softmax, softmax

from prunopt.core.arrays import Floats

LEAST_CURVATURE = 1e-6


class Loss(ABC):
    """A convex loss of scores (n, C) against targets: class codes, or numbers.

    ``n_outputs`` is the number of scores C.
    """

    n_outputs: int

    @abstractmethod
    def start(self, target: Floats, weight: Floats) -> Floats:
        """Return the best constant scores (C,)."""

    @abstractmethod
    def derivatives(self, scores: Floats, target: Floats) -> tuple[Floats, Floats]:
        """Return the first derivatives and the diagonal second derivatives (n, C) by the scores."""

    @abstractmethod
    def rows(self, scores: Floats, target: Floats) -> Floats:
        """Return the loss of each row."""

    @abstractmethod
    def predictions(self, scores: Floats) -> Floats:
        """Return class probabilities (n, classes), or predictions (n, 1): what models are averaged in."""

    @abstractmethod
    def shrunk(self, predictions: Floats, centre: Floats, slope: float) -> Floats:
        """Return predictions drawn towards the constant ones ``centre``: slope 0 = there, slope 1 = unchanged."""

    @abstractmethod
    def judge(self, predictions: Floats, target: Floats) -> tuple[Floats, Floats]:
        """Return, row by row, the score that the user sees (right or wrong; minus the squared error) and the loss."""


@dataclass(frozen=True)
class Classification(Loss):
    """Negative log likelihood of ``n_classes`` classes."""

    n_classes: int

    @property
    def n_outputs(self) -> int:  # type: ignore[override]
        """One score for two classes, else one a class."""
        return 1 if self.n_classes == 2 else self.n_classes

    def start(self, target: Floats, weight: Floats) -> Floats:
        """Return the log odds, or log probabilities, of the classes."""
        share = np.bincount(target.astype(np.int64), weights=weight, minlength=self.n_classes) / weight.sum()
        share = np.clip(share, 1e-4, 1 - 1e-4)
        return np.asarray(np.log(share[1:] / share[:1] if self.n_classes == 2 else share))

    def derivatives(self, scores: Floats, target: Floats) -> tuple[Floats, Floats]:
        """Return p - y and p (1 - p)."""
        p = expit(scores) if self.n_outputs == 1 else softmax(scores, axis=1)
        curvature = np.maximum(p * (1 - p), LEAST_CURVATURE)
        slope = p.copy()
        if self.n_outputs == 1:
            slope[:, 0] -= target
        else:
            slope[np.arange(len(target)), target.astype(np.int64)] -= 1.0
        return slope, curvature

    def rows(self, scores: Floats, target: Floats) -> Floats:
        """Return the negative log likelihood."""
        if self.n_outputs == 1:
            return np.asarray(np.logaddexp(0.0, np.where(target == 1, -scores[:, 0], scores[:, 0])))
        return -np.asarray(log_softmax(scores, axis=1)[np.arange(len(target)), target.astype(np.int64)])

    def predictions(self, scores: Floats) -> Floats:
        """Return the class probabilities."""
        if self.n_outputs == 1:
            p = expit(scores[:, 0])
            return np.column_stack([1.0 - p, p])
        return np.asarray(softmax(scores, axis=1))

    def shrunk(self, predictions: Floats, centre: Floats, slope: float) -> Floats:
        """Return probabilities whose log odds are those of ``centre`` and ``slope`` times the difference to them."""
        here, there = np.log(np.maximum(predictions, 1e-6)), np.log(np.maximum(centre, 1e-6))
        return np.asarray(softmax(there + slope * (here - there), axis=1))

    def judge(self, predictions: Floats, target: Floats) -> tuple[Floats, Floats]:
        """Return whether the likeliest class is right, and the negative log likelihood."""
        code = target.astype(np.int64)
        right = (predictions.argmax(axis=1) == code).astype(np.float64)
        return right, -np.log(np.clip(predictions[np.arange(len(code)), code], 1e-6, 1.0))


@dataclass(frozen=True)
class Squares(Loss):
    """Half the squared error of the standardized target ``(y - centre) / scale``."""

    centre: float = 0.0
    scale: float = 1.0
    n_outputs: int = 1

    def start(self, target: Floats, weight: Floats) -> Floats:
        """Return the mean."""
        return np.array([(np.average(target, weights=weight) - self.centre) / self.scale])

    def derivatives(self, scores: Floats, target: Floats) -> tuple[Floats, Floats]:
        """Return the residuals and ones."""
        return scores - ((target - self.centre) / self.scale)[:, None], np.ones_like(scores)

    def rows(self, scores: Floats, target: Floats) -> Floats:
        """Return half the squared error of the standardized target."""
        return np.asarray(np.square(scores[:, 0] - (target - self.centre) / self.scale) / 2)

    def predictions(self, scores: Floats) -> Floats:
        """Return the predictions, in the target's unit."""
        return self.centre + self.scale * scores

    def shrunk(self, predictions: Floats, centre: Floats, slope: float) -> Floats:
        """Return ``centre`` and ``slope`` times the difference to it."""
        return centre + slope * (predictions - centre)

    def judge(self, predictions: Floats, target: Floats) -> tuple[Floats, Floats]:
        """Return minus the squared error in the target's unit, and half of it over ``scale`` squared."""
        square = np.square(predictions[:, 0] - target)
        return -square, square / (2 * self.scale**2)
