"""Labels and numbers that a forest is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunopt.problems.tree_ensemble import TreeEnsemble


def targets(
    ensemble: TreeEnsemble, y: ArrayLike, n: int, name: str = "y"
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the class codes (n,) of the labels ``y``, or an empty array and the numbers ``y`` for regression.

    A label that is no class of the forest has the code C: the forest is always wrong about it.
    """
    given = np.asarray(y)
    if given.ndim == 2 and given.shape[1] == 1:
        given = given[:, 0]
    if given.shape != (n,):
        raise ValueError(f"{name}: shape {given.shape} given for {n} rows")
    if ensemble.classes is not None:
        return _codes(given, ensemble.classes, name), np.zeros(0)
    try:
        numbers = given.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: the forest is a regressor, numbers are needed") from None
    if not np.all(np.isfinite(numbers)):
        raise ValueError(f"{name}: NaN or infinity given; drop those rows")
    return np.zeros(0, np.int64), numbers


def _codes(given: NDArray[Any], classes: NDArray[Any], name: str) -> NDArray[np.int64]:
    try:
        place = np.minimum(np.searchsorted(classes, given), len(classes) - 1)
        known = classes[place] == given
    except TypeError:
        raise ValueError(f"{name}: labels of {given.dtype} given, the forest was fitted on {classes.dtype}") from None
    return np.where(known, place, len(classes)).astype(np.int64)
