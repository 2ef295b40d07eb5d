"""Numbers as people write them in tables: decimal commas, thousands, currencies, per cent; and dates."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from prunopt.core.arrays import Floats

_CURRENCY = r"(?:[$€£¥]|CHF|CAD|USD|EUR|GBP|JPY|AUD)"
_DRESSED = re.compile(rf"(?P<sign>[-+]?)\s*{_CURRENCY}?\s*(?P<body>[-+]?[\d.,' ]*\d)\s*(?:{_CURRENCY}|%)?")
_EXPONENT = r"(?:[eE][-+]?\d+)?"
# Decimal point and decimal comma, each with the marks between thousands that go with it.
_STYLES = {
    "point": (re.compile(rf"[-+]?(?:\d+|\d{{1,3}}(?:[,' ]\d{{3}})+)?(?:\.\d*)?{_EXPONENT}"), ",' ", "."),
    "comma": (re.compile(rf"[-+]?(?:\d+|\d{{1,3}}(?:[.' ]\d{{3}})+)?(?:,\d*)?{_EXPONENT}"), ".' ", ","),
}
_DATES = re.compile(
    r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})(?:[T ]\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?Z?)?"
)
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?)?")


def numbers_in(texts: Sequence[str], prefer: str) -> tuple[Floats, str] | None:
    """Return texts as numbers and the style that they are written in; None if not all of them are numbers.

    Parameters
    ----------
    texts
        Cells that are not missing.
    prefer
        ``"point"`` or ``"comma"``: the style where both fit (``1,234``).
    """
    for style in (prefer, "comma" if prefer == "point" else "point"):
        values = [_number(text, style) for text in texts]
        if values and None not in values:
            return np.array(values, np.float64), style
    return None


def share_of_numbers(texts: Sequence[str]) -> float:
    """Return which share of the texts is a number in some style."""
    return float(np.mean([any(_number(t, s) is not None for s in _STYLES) for t in texts])) if texts else 0.0


def _number(text: str, style: str) -> float | None:
    text = text.replace("\u00a0", " ").replace("\u202f", " ").replace("\u2019", "'").replace("\u2212", "-").strip()
    negative = text.startswith("(") and text.endswith(")")  # as accountants write it
    dressed = _DRESSED.fullmatch(text[1:-1] if negative else text)
    body = dressed["sign"] + dressed["body"] if dressed else text
    pattern, thousands, point = _STYLES[style]
    if not any(c.isdigit() for c in body) or not pattern.fullmatch(body):
        return None
    for mark in thousands:
        body = body.replace(mark, "")
    value = float(body.replace(point, "."))
    return -value if negative else value


def are_dates(texts: Sequence[str]) -> bool:
    """Return whether all texts are dates."""
    return bool(texts) and all(_DATES.fullmatch(text) for text in texts)


def days(texts: Sequence[str]) -> Floats | None:
    """Return ISO dates as days since 1970; None for dates whose order of day and month is unknown."""
    if not all(_ISO.fullmatch(text) for text in texts):
        return None
    try:
        return np.array(list(texts), "datetime64[s]").astype(np.int64) / 86_400.0
    except ValueError:
        return None
