"""Weights of layers' error curves, learned from what whole allocations cost the model."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import nnls

from prunopt.core.arrays import Floats


def learned_weights(
    errors: ArrayLike, losses: ArrayLike, prior: ArrayLike, *, strength: float = 4.0, searches: ArrayLike | None = None
) -> Floats:
    r"""Return weights with which the sum of the layers' errors explains the losses of whole allocations.

    .. math:: \min_{\gamma \ge 0} \sum_t \Bigl(L_t - b_{s(t)} - \sum_l \gamma_l e_{tl}\Bigr)^2
        + (\rho \sigma)^2 \sum_l \Bigl(\frac{\gamma_l}{\gamma^0_l} - 1\Bigr)^2

    over all trials t that a search has evaluated; :math:`b_s` is an offset for each search (its text has a level of
    its own), :math:`\sigma` the mean norm of the centred columns :math:`\gamma^0_l e_{tl}`. Pruning a layer alone
    tells :math:`\gamma^0` (its divergence over its error), but not what it costs in company; trials tell that, and
    cost nothing more once a search has run. A non-negative least squares problem, solved exactly.

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
    e, y, g = np.asarray(errors, np.float64), np.asarray(losses, np.float64), np.asarray(prior, np.float64)
    if e.ndim != 2 or not e.size or y.shape != e.shape[:1] or g.shape != e.shape[1:]:
        raise ValueError(f"errors: shape {e.shape} given for {y.shape} losses and a prior of {g.shape}")
    if not (np.isfinite(e).all() and np.isfinite(y).all() and np.isfinite(g).all() and (g > 0).all()):
        raise ValueError("errors, losses, prior: finite numbers are needed, the prior's above 0")
    if not strength > 0 or not np.isfinite(strength):
        raise ValueError(f"strength={strength!r}: give a number above 0")
    label = np.zeros(len(y)) if searches is None else np.asarray(searches)
    if label.shape != y.shape:
        raise ValueError(f"searches: shape {label.shape} given for {len(y)} trials")
    x, y = e * g, y.copy()
    for one in np.unique(label):
        mine = label == one
        x[mine] -= x[mine].mean(axis=0)
        y[mine] -= y[mine].mean()
    pull = strength * max(float(np.linalg.norm(x, axis=0).mean()), np.finfo(np.float64).tiny)
    ratio, _ = nnls(np.vstack([x, pull * np.eye(len(g))]), np.concatenate([y, np.full(len(g), pull)]))
    return np.asarray(ratio * g, np.float64)
