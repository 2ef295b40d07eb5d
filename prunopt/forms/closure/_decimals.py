"""Ordinary numbers as the integers of a closure: exactly where they fit, else rounded, with the rounding known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunopt.core.validate import invalid

FINE = 60  # rounded numbers add up to at most 2 to this power
INT64_SAFE = 2**62  # totals below this can be added and subtracted in 64 bits without overflow


class Whole(NamedTuple):
    """Profits and costs as integers; ``slack`` is how far the objective may come to lie above the given numbers'."""

    profit: NDArray[Any]
    cost: NDArray[Any]
    penalty: Fraction
    unit: Fraction
    cost_unit: Fraction | None
    slack: Fraction


def fraction(name: str, value: Any) -> Fraction:
    """Return a number as a Fraction; a float means the shortest decimal that reads back as it: 0.1 is 1/10."""
    plain = value.item() if isinstance(value, np.generic) else value
    try:
        return Fraction(repr(plain) if isinstance(plain, float) and math.isfinite(plain) else plain)
    except (TypeError, ValueError, OverflowError):
        raise invalid(name, "be a finite number", value) from None


def whole(profit: Sequence[Any] | NDArray[Any], cost: Sequence[Any] | NDArray[Any], penalty: Any) -> Whole:
    r"""Return profits, costs and penalty as what a `Closure` holds.

    Integers and Fractions stay exact. So do floats that have a common denominator at which their totals stay below
    :math:`2^{62}`. Else the unit is a power of ten, the penalty goes into the costs, profits are rounded down and
    priced costs up. Then for every choice x, :math:`f(x) \le f_{\text{whole}}(x) \le f(x) + \rho`: a value costs no
    more than it says, is within a budget when it says so, and a bound less :math:`\rho` holds for the given numbers.
    """
    a, c = [fraction("profit", v) for v in profit], [fraction("cost", v) for v in cost]
    p = fraction("penalty", penalty)
    denominator = math.lcm(*{v.denominator for v in a + c}, 1)
    gained, spent = sum(map(abs, a)), sum(map(abs, c))
    fits = max(gained * p.denominator, spent * max(p.numerator, 1)) * denominator < INT64_SAFE
    if fits or not any(isinstance(v, (float, np.floating)) for v in (*profit, *cost, penalty)):
        integers = [np.array([int(v * denominator) for v in values], dtype=object) for values in (a, c)]
        return Whole(integers[0], integers[1], p, Fraction(1, denominator), None, Fraction(0))
    factor = p if p > 0 else Fraction(1)
    size = max(gained, spent * factor)
    exponent = math.floor(FINE * math.log10(2) - math.log10(size.numerator) + math.log10(size.denominator))
    unit = Fraction(10) ** -exponent
    gains, prices = [math.floor(v / unit) for v in a], [math.ceil(v * factor / unit) for v in c]
    slack = sum((v - unit * k for v, k in zip(a, gains, strict=True)), Fraction(0))
    slack += sum((unit * k - v * p for v, k in zip(c, prices, strict=True)), Fraction(0)) if p > 0 else 0
    return Whole(
        np.array(gains, dtype=object),
        np.array(prices, dtype=object),
        Fraction(int(p > 0)),
        unit,
        unit / factor,
        slack,
    )
