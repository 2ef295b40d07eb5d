"""Operators of allocation expressions, all total: what is outside a domain is mapped by rule, not to NaN."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from prunopt.core.arrays import Floats

Operator = Callable[[Floats], Floats]
LARGEST = 1e150  # numbers beyond are cut off, so that squares stay finite
TINY = 1e-12


def _log(x: Floats) -> Floats:
    return np.log(np.maximum(x, 0.0) + TINY)


def constant(x: Floats) -> bool:
    """Say whether numbers are equal to 12 digits: what differs beyond is rounding, and must not be scaled up."""
    return float(np.ptp(x)) <= 1e-12 * max(1e-300, float(np.abs(x).max()))


def _standard(x: Floats) -> Floats:
    return np.zeros_like(x) if constant(x) else (x - x.mean()) / x.std()


def _minmax(x: Floats) -> Floats:
    return np.zeros_like(x) if constant(x) else (x - x.min()) / np.ptp(x)


def _ranks(x: Floats) -> Floats:
    """Average ranks from 0 to 1, equal values alike."""
    order = np.sort(x)
    left, right = np.searchsorted(order, x, "left"), np.searchsorted(order, x, "right")
    return (left + right - 1) / 2 / max(1, len(x) - 1)


def _sigmoid(x: Floats) -> Floats:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _entropy(x: Floats) -> float:
    """Entropy of the shares of |x|, over its largest value."""
    total = np.abs(x).sum()
    if total == 0 or len(x) < 2:
        return 1.0
    p = np.abs(x) / total
    return float(-(p * np.log(p + TINY)).sum() / np.log(len(x)))


# Element by element (standard and minmax: within the layer), before the reduction.
PRE: dict[str, Operator] = {
    "abs": np.abs,
    "log": _log,
    "abslog": lambda x: np.log(np.abs(x) + TINY),
    "square": np.square,
    "sqrt": lambda x: np.sqrt(np.abs(x)),
    "exp": lambda x: np.exp(np.minimum(x, 300.0)),
    "standard": _standard,
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "minmax": _minmax,
}

# A layer's numbers to one number.
REDUCTIONS: dict[str, Callable[[Floats], float]] = {
    "mean": lambda x: float(x.mean()),
    "l1": lambda x: float(np.abs(x).mean()),
    "l2": lambda x: float(np.sqrt(np.square(x).sum())),
    "var": lambda x: float(x.var()),
    "std": lambda x: float(x.std()),
    "max": lambda x: float(x.max()),
    "min": lambda x: float(x.min()),
    "median": lambda x: float(np.median(x)),
    "geometric": lambda x: float(np.exp(np.log(np.abs(x) + TINY).mean())),
    "entropy": _entropy,
    "kurtosis": lambda x: float((_standard(x) ** 4).mean()),
    "outliers": lambda x: float((np.abs(x) > 5.0 * np.abs(x).mean()).mean()),
}

# Layer scores, number by number.
TRANSFORMS: dict[str, Operator] = {
    "abs": np.abs,
    "sin": np.sin,
    "cos": np.cos,
    "atan": np.arctan,
    "asin": lambda x: np.arcsin(np.clip(x, -1.0, 1.0)),
    "exp": lambda x: np.exp(np.minimum(x, 300.0)),
    "log": lambda x: np.log(np.abs(x) + TINY),
    "sqrt": lambda x: np.sqrt(np.abs(x)),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "softplus": lambda x: np.logaddexp(0.0, x),
}

# Layer scores, all together.
POST: dict[str, Operator] = {
    "standard": _standard,
    "minmax": _minmax,
    "rank": _ranks,
    "negate": np.negative,
    "cumulate": lambda x: np.cumsum(x) / np.arange(1, len(x) + 1),
}


def bounded(values: Floats) -> Floats:
    """Return the numbers cut off at +-1e150; NaN stays."""
    return np.clip(values, -LARGEST, LARGEST)
