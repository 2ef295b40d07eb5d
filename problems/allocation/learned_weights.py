"""Weights of layers' error curves, learned from what whole allocations cost the model."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import nnls

from prunopt.core.arrays import Floats
from prunopt.core.validate import floats, number, require


def learned_weights(
    errors: ArrayLike, losses: ArrayLike, prior: ArrayLike, *, strength: float = 4.0, searches: ArrayLike | None = None
) -> Floats:
    r"""Return weights with which the sum of the layers' errors explains the losses of whole allocations.

    .. math:: \min_{\gamma \ge 0} \sum_t \Bigl(L_t - b_{s(t)} - \sum_l \gamma_l e_{tl}\Bigr)^2
        + (\rho \sigma)^2 \sum_l \Bigl(\frac{\gamma_l}{\gamma^0_l} - 1\Bigr)^2

    over all trials t that a search has evaluated; :math:`b_s` is an offset for each search (its text has a level of
    its own), :math:`\sigma` the mean norm of the centered columns :math:`\gamma^0_l e_{tl}`. Pruning a layer alone
    tells :math:`\gamma^0` (its divergence over its error), but not what it loses next to other pruned layers; trials
    tell that, and cost nothing more once a search has run. A non-negative least squares problem, solved exactly.

    With ``gamma[:, None] * curves`` as the losses of `LayerAllocation` the exact knapsack is taken again.

    Parameters
    ----------
    errors : (trials, n) float
        Each layer's error at the sparsity that the trial gave it.
    losses : (trials,) float
        The model's loss in each trial.
    prior : (n,) float
        :math:`\gamma^0`, above 0.
    strength
        :math:`\rho`, above 0: large for few or noisy trials. Choose it on data that took no part.
    searches : (trials,) or None
        Which search a trial belongs to; None: all to one.

    Raises
    ------
    ValueError
        If shapes do not fit, or numbers are not finite.
    """
    e = floats("errors", errors, ("trials", "layers"))
    y, g = floats("losses", losses, e.shape[:1]), floats("prior", prior, e.shape[1:])
    require(e.size and g.min() > 0, "prior", "hold numbers > 0", prior)
    number("strength", strength, low=0, open_ends="(")
    label = np.zeros(len(y)) if searches is None else np.asarray(searches)
    require(label.shape == y.shape, "searches", f"name the search of each of {len(y)} trials", label)
    x, y = e * g, y.copy()
    for one in np.unique(label):
        mine = label == one
        x[mine] -= x[mine].mean(axis=0)
        y[mine] -= y[mine].mean()
    pull = strength * max(float(np.linalg.norm(x, axis=0).mean()), np.finfo(np.float64).tiny)
    ratio, _ = nnls(np.vstack([x, pull * np.eye(len(g))]), np.concatenate([y, np.full(len(g), pull)]))
    return np.asarray(ratio * g, np.float64)
