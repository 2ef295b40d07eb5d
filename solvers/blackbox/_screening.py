"""Which of several decisions to evaluate next: a Gaussian process over the numbers that decisions are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from prunopt.core.arrays import Floats
from prunopt.forms.blackbox import BlackBox
from prunopt.solvers.blackbox._trials import losses
from prunopt.solvers.blackbox.random_search import TRIES, fresh

NOISE = 1e-2  # of the losses' variance: rounding, and what the kernel cannot follow
WORST = 1.0  # standard deviations above the median that losses are cut at; what is bad need not be modeled


def screened(
    box: BlackBox, study: Any, known: set[str], draw: Callable[[], dict[str, Any]], count: int
) -> dict[str, Any]:
    """Return the most promising of ``count`` fresh points; the first where decisions are not numbers."""
    points = [fresh(box, known, draw)]
    rows = losses(study) if count > 1 else []
    first = box.decode(points[0])
    if not rows or first is None or as_rows([first]) is None or box.key(first) in known:
        return points[0]
    decisions, seen = [first], {box.key(first)}
    for _ in range(TRIES * count):
        if len(points) == count:
            break
        point = draw()
        decision = box.decode(point)
        if decision is None or (key := box.key(decision)) in seen or key in known:
            continue
        points.append(point)
        decisions.append(decision)
        seen.add(key)
    past = as_rows([box.decode(point) for _, point, _ in rows])
    here = as_rows(decisions)
    if past is None or here is None or past.shape[1] != here.shape[1]:
        return points[0]
    return points[most_promising(past, np.array([loss for loss, _, _ in rows]), here)]


def as_rows(decisions: Sequence[Any]) -> Floats | None:
    """Return decisions as rows of numbers, None where they are something else or differ in shape."""
    try:
        rows = [np.asarray(d, np.float64).ravel() for d in decisions]
    except (TypeError, ValueError):
        return None
    if not rows or any(r.shape != rows[0].shape or not np.isfinite(r).all() for r in rows):
        return None
    return np.stack(rows)


def most_promising(known: Floats, losses: Floats, candidates: Floats, optimism: float = 0.5) -> int:
    r"""Return the candidate of least :math:`\mu(x) - \kappa \sigma(x)`.

    :math:`\mu` and :math:`\sigma` are mean and standard deviation of a Gaussian process on the losses, standardized
    and cut off above, with the kernel :math:`\exp(-\|x - x'\|^2 / 2 l^2)`, :math:`l^2` being the median squared
    distance of what is known.

    Parameters
    ----------
    known : (n, d) float
        Decisions evaluated.
    losses : (n,) float
        What they lost; an infinite loss counts as the greatest finite one.
    candidates : (m, d) float
        Decisions to choose from.
    optimism : float
        :math:`\kappa \ge 0`.
    """
    from scipy.linalg import cho_factor, cho_solve

    finite = np.isfinite(losses)
    losses = np.where(finite, losses, losses[finite].max() if finite.any() else 0.0)
    z = (losses - losses.mean()) / (losses.std() + 1e-12)
    z = np.minimum(z, np.median(z) + WORST)
    among, across = squared_distances(known, known), squared_distances(candidates, known)
    apart = among[among > 0]
    scale = 2 * float(np.median(apart)) if apart.size else 1.0
    factor = cho_factor(np.exp(-among / scale) + NOISE * np.eye(len(known)), lower=True)
    near = np.exp(-across / scale)
    variance = 1 - (near * cho_solve(factor, near.T).T).sum(axis=1)
    return int(np.argmin(near @ cho_solve(factor, z) - optimism * np.sqrt(np.maximum(variance, 0.0))))


def squared_distances(a: Floats, b: Floats) -> Floats:
    """Return the squared distances of all rows of a to all rows of b."""
    found: Floats = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * a @ b.T
    return np.maximum(found, 0.0)
