"""Which sums so many candidates can make, as sets of bits: the check of subset sums of many small whole numbers."""

from __future__ import annotations

import math

import numpy as np

from prunopt.core.arrays import Ints
from prunopt.core.deadline import is_over

WORK = 2**34  # bits that a check may shift in all
WIDTH = 2**31  # and that one set may have


def in_steps(row: Ints, target: int, epsilon: int) -> tuple[list[int], int, int]:
    """Return the candidates in units of their greatest common divisor, and the window of sums that will do."""
    step = math.gcd(*map(int, row)) or 1
    return [int(a) // step for a in row], -((epsilon - target) // step), (target + epsilon) // step


def fits(row: Ints, sizes: int) -> bool:
    """Whether the sums of up to ``sizes`` candidates can be listed."""
    step = math.gcd(*map(int, row)) or 1
    width = int(np.abs(row).sum()) // step
    return width < WIDTH and width * len(row) * max(sizes, 1) <= WORK


def least_size(row: Ints, target: int, epsilon: int, most: int) -> int | None:
    """Return how few candidates come within epsilon of the target; None where ``most`` do not, or time is up.

    ``reach[k]`` is the set of the sums of k candidates, a bit for each sum, from the least possible sum on.
    """
    numbers, low, high = in_steps(row, target, epsilon)
    least = -sum(a for a in numbers if a < 0)
    reach = [1 << least] + [0] * most
    # Where nothing is taken away again, sums beyond the window lead nowhere.
    top = min(high, sum(numbers)) if least == 0 else 0
    within = (1 << max(top + 1, 1)) - 1 if least == 0 else -1
    used = 0
    for a in numbers:
        if a == 0:
            continue
        if is_over():
            return None
        used += 1
        for k in range(min(used, most), 0, -1):
            before = reach[k - 1]
            reach[k] |= (before << a if a > 0 else before >> -a) & within
    window = _window(low + least, high + least, numbers, least)
    return next((k for k, sums in enumerate(reach) if sums & window), None)


def unreached(row: Ints, target: int, epsilon: int) -> bool:
    """Whether no subset at all comes within epsilon of the target; False where time is up."""
    numbers, low, high = in_steps(row, target, epsilon)
    least = -sum(a for a in numbers if a < 0)
    sums = 1 << least
    for a in numbers:
        if is_over():
            return False
        sums |= sums << a if a > 0 else sums >> -a
    return not sums & _window(low + least, high + least, numbers, least)


def _window(low: int, high: int, numbers: list[int], least: int) -> int:
    """Return the bits from ``low`` to ``high``, as far as there are sums."""
    low, high = max(low, 0), min(high, least + sum(a for a in numbers if a > 0))
    return 0 if high < low else ((1 << (high - low + 1)) - 1) << low
