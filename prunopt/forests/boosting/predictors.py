"""Predictors over what a policy has acquired: refitted leaves, boosted and randomized trees without penalty, blends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

from prunopt.core.arrays import Bytes, Floats
from prunopt.forests._leaf_fit import LeafSums, fit_leaves
from prunopt.forests.boosting.acquisition_policy import AcquisitionPolicy
from prunopt.forests.boosting.cost_efficient_boosting import Problem, Shape, boost
from prunopt.forests.boosting.losses import Classification, Loss
from prunopt.forests.boosting.trees import GrownForest

# Weights of the refitted policy trees, of boosted trees, and of extremely randomized trees.
BLENDS: dict[str, tuple[float, float, float]] = {
    "refit": (1.0, 0.0, 0.0),
    "boosted": (0.0, 1.0, 0.0),
    "extra": (0.0, 0.0, 1.0),
    "boosted+extra": (0.0, 0.5, 0.5),
    "refit+boosted": (0.5, 0.5, 0.0),
    "all": (1 / 3, 1 / 3, 1 / 3),
}


@dataclass(frozen=True, eq=False)
class Blend:
    """Predictors trained for one policy, their weighted mean, and a slope that draws it towards the prior.

    Where features tell little, flexible predictors vote against the prior by chance; one slope, fitted to held-out
    rows, takes that back.

    Parameters
    ----------
    loss
        What scores mean.
    weights
        Weights of the three parts.
    refit : GrownForest or None
        The policy's own trees with refitted leaves.
    boosted : GrownForest or None
        Trees grown without penalty on what the policy acquires.
    extra
        Extremely randomized trees of scikit-learn on the same codes, or None.
    prior : (C,) float64
        The predictions of no features at all.
    slope
        1 = the mean as it is, 0 = the prior.
    """

    loss: Loss
    weights: tuple[float, float, float]
    refit: GrownForest | None
    boosted: GrownForest | None
    extra: Any
    prior: Floats
    slope: float = 1.0

    @classmethod
    def trained(
        cls,
        policy: AcquisitionPolicy,
        data: Problem,
        *,
        weights: tuple[float, float, float],
        n_free_trees: int,
        n_extra: int,
        ridge: float,
        seed: int,
        slope: float = 1.0,
    ) -> Blend:
        """Train the parts that have a weight; the rows of ``data`` are masked by the policy here."""
        codes, _ = policy.masked(data.codes, data.feature_costs)
        seen = data.seen(codes)
        refit = refitted(policy.forest, seen, ridge) if weights[0] else None
        boosted = boost(seen, free_shape(data.loss, n_free_trees), 0.0, seed)[0] if weights[1] else None
        extra = extra_trees(seen, n_extra, seed) if weights[2] else None
        prior = data.loss.predictions(data.loss.start(data.target, data.weight)[None, :])[0]
        return cls(data.loss, weights, refit, boosted, extra, prior, slope)

    def predictions(self, codes: Bytes) -> Floats:
        """Return class probabilities (n, C), or predictions (n, 1), for masked ``codes``."""
        total = np.zeros((len(codes), len(self.prior)))
        for weight, forest in zip(self.weights, (self.refit, self.boosted), strict=False):
            if forest is not None:
                total += weight * self.loss.predictions(forest.scores(codes))
        if self.extra is not None:
            total += self.weights[2] * extra_predictions(self.extra, codes, self.loss)
        return total if self.slope == 1.0 else self.loss.shrunk(total, self.prior, self.slope)

    def calibrated(self, codes: Bytes, target: Floats, weight: Floats) -> Blend:
        """Return the blend with the slope in [0, 1] of least loss on other rows."""
        plain = replace(self, slope=1.0).predictions(codes)

        def loss(slope: float) -> float:
            return float(weight @ self.loss.judge(self.loss.shrunk(plain, self.prior, slope), target)[1])

        best = minimize_scalar(loss, bounds=(0.0, 1.0), method="bounded", options={"xatol": 0.01})
        return replace(self, slope=float(best.x) if best.x < 0.99 else 1.0)


def refitted(forest: GrownForest, data: Problem, ridge: float, iterations: int = 30) -> GrownForest:
    """Return the forest with the leaf values that fit ``data`` best; leaves that no row reaches get 0.

    The splits, hence the acquisitions, stay. The problem is convex (see `fit_leaves`, with 0 as anchor); a few steps
    of L-BFGS from the boosted values settle it.

    Parameters
    ----------
    forest
        A pruned forest.
    data
        What the values are fitted to.
    ridge
        The penalty > 0 on the squares of the values.
    iterations
        Most steps of L-BFGS.
    """
    if forest.n_trees == 0:
        return forest
    leaves = forest.leaves(data.codes)
    reached = np.zeros(forest.n_nodes, np.bool_)
    reached[leaves] = True
    place = (np.cumsum(reached, dtype=np.int32) - 1)[leaves]
    start = forest.value[reached]

    def loss(scores: Floats) -> tuple[float, Floats]:
        slope, _ = data.loss.derivatives(scores, data.target)
        return float(data.weight @ data.loss.rows(scores, data.target)), slope * data.weight[:, None]

    sums, total = LeafSums(place, np.ones(len(place)), len(start)), float(data.weight.sum())
    stop: dict[str, Any] = {"maxiter": iterations, "maxcor": 8}
    value = np.zeros_like(forest.value)
    value[reached], _ = fit_leaves(sums, loss, start, ridge, base=forest.base, total=total, **stop)
    return replace(forest, value=value)


def free_shape(loss: Loss, n_trees: int) -> Shape:
    """Return the shape of the trees that are grown without penalty."""
    rate = 0.1 if loss.n_outputs == 1 else 0.15
    return Shape(rate, 40, n_trees, max_depth=12, ridge=1.0, min_rows=3, rows=0.8, features=0.7)


def extra_trees(data: Problem, n_trees: int, seed: int) -> Any:
    """Return extremely randomized trees fitted to the codes of ``data``."""
    if isinstance(data.loss, Classification):
        model: Any = ExtraTreesClassifier(n_trees, min_samples_leaf=1, random_state=seed)
        target: Any = data.target.astype(np.int64)
    else:
        model, target = ExtraTreesRegressor(n_trees, min_samples_leaf=2, random_state=seed), data.target
    return model.fit(data.codes.astype(np.float32), target, data.weight)


def extra_predictions(model: Any, codes: Bytes, loss: Loss) -> Floats:
    """Return class probabilities in the order of the codes, or predictions (n, 1)."""
    rows = codes.astype(np.float32)
    if not isinstance(loss, Classification):
        return np.asarray(model.predict(rows), np.float64)[:, None]
    out = np.zeros((len(codes), loss.n_classes))
    out[:, model.classes_] = model.predict_proba(rows)
    return out
