"""Checks of what users give: every refusal is one line that names the argument, the value and the mend."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    import numpy as np

    from prunopt.core.arrays import AnyArray, Bools, Floats, Ints
else:

    class _Numpy:
        """Loaded when something is asked of it: ``import prunopt`` checks no arrays."""

        def __getattr__(self, name: str) -> Any:
            return getattr(import_module("numpy"), name)

    np = _Numpy()

T = TypeVar("T")
LONGEST = 80  # characters of a value in a message


def refuse(argument: str, must: str, value: Any, mend: str = "") -> NoReturn:
    """Raise the ValueError "``argument`` must ``must``, got ``value``; ``mend``"."""
    raise invalid(argument, must, value, mend)


def invalid(argument: str, must: str, value: Any, mend: str = "") -> ValueError:
    """Return that error, for ``raise ... from`` and where a type checker has to see that the line is the last."""
    return ValueError(f"{argument} must {must}, got {shown(value)}" + (f"; {mend}" if mend else ""))


def require(ok: Any, argument: str, must: str, value: Any, mend: str = "") -> None:
    """Refuse the value unless ``ok``."""
    if not ok:
        raise invalid(argument, must, value, mend)


def shown(value: Any) -> str:
    """Return a value as messages show it: arrays by their shape, long texts without their middle."""
    if isinstance(value, np.ndarray) and value.size != 1:
        return f"an array of shape {value.shape}"
    if isinstance(value, Shown):
        return value
    text = repr(value.item() if isinstance(value, (np.generic, np.ndarray)) else value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2 - 3]} ... {text[-LONGEST // 2 + 2 :]}"


class Shown(str):
    """A description that stands in a message as it is: ``Shown("3 rows")``."""


def number(
    argument: str, value: Any, *, low: float = -math.inf, high: float = math.inf, open_ends: str = "", mend: str = ""
) -> float:
    """Return a finite number of an interval; ``open_ends`` holds ``"("`` or ``")"`` for the ends that don't belong.

    Raises
    ------
    ValueError
        If it is not a number, is NaN, infinite, or outside.
    """
    try:
        x = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError, OverflowError):
        x = math.nan
    inside = (low < x if "(" in open_ends else low <= x) and (x < high if ")" in open_ends else x <= high)
    if not (math.isfinite(x) and inside):
        raise invalid(argument, f"be a finite number{_range(low, high, open_ends)}", value, mend)
    return x


def whole_number(argument: str, value: Any, *, low: float = -math.inf, high: float = math.inf, mend: str = "") -> int:
    """Return a whole number of an interval, ends included; 3.0 is one, True and 3.5 are not."""
    try:
        n = int(value)
        ok = not isinstance(value, (bool, np.bool_, str)) and n == value and low <= n <= high
    except (TypeError, ValueError, OverflowError):
        ok = False
    if not ok:
        raise invalid(argument, f"be a whole number{_range(low, high, '')}", value, mend)
    return n


def one_of(argument: str, value: T, choices: Collection[Any], mend: str = "") -> T:
    """Return the value if it is one of the choices; names the nearest one otherwise."""
    if not any(value is c or (type(value) is type(c) and value == c) for c in choices):
        near = difflib.get_close_matches(str(value), [c for c in choices if isinstance(c, str)], 1)
        hint = f'did you mean "{near[0]}"?' if near else mend
        raise invalid(argument, f"be one of {', '.join(map(repr, choices))}", value, hint)
    return value


def floats(
    argument: str,
    value: Any,
    shape: Sequence[int | str | None] | None = None,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    finite: bool = True,
    mend: str = "",
) -> Floats:
    """Return a float64 array.

    Parameters
    ----------
    shape
        Sizes; None or a letter stands for any size (a letter is how the message calls it). None: any shape.
    low, high
        Every entry is within.
    finite
        Refuse infinities too, not only NaN.
    """
    array = _array(argument, value, np.float64, shape, mend)
    bad = ~np.isfinite(array) if finite else np.isnan(array)
    bad |= (array < low) | (array > high)
    _refuse_entries(argument, array, bad, f"hold {'finite ' if finite else ''}numbers{_range(low, high, '')}", mend)
    return array


def ints(
    argument: str,
    value: Any,
    shape: Sequence[int | str | None] | None = None,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    mend: str = "",
) -> Ints:
    """Return an int64 array; whole floats pass, others are refused rather than cut."""
    given = _array(argument, value, None, shape, mend)
    if given.dtype.kind not in "iuf" and given.size:
        raise invalid(argument, "hold whole numbers", Shown(f"dtype {given.dtype}"), mend)
    bad = (given != np.rint(given)) | ~np.isfinite(given) if given.dtype.kind == "f" else np.zeros(given.shape, bool)
    bad |= (given < max(low, -(2.0**63))) | (given > min(high, 2.0**63 - 1))
    _refuse_entries(argument, given, bad, f"hold whole numbers{_range(low, high, '')}", mend)
    return given.astype(np.int64)


def bools(argument: str, value: Any, shape: Sequence[int | str | None] | None = None, *, mend: str = "") -> Bools:
    """Return a bool array; numbers other than 0 and 1 are refused."""
    given = _array(argument, value, None, shape, mend)
    if given.dtype != np.bool_:
        if given.size and (given.dtype.kind not in "iuf" or not np.isin(given, (0, 1)).all()):
            raise invalid(argument, "hold True and False", Shown(f"dtype {given.dtype}"), mend)
        given = given.astype(np.bool_)
    return given


def sample_weight(value: Any, n: int, argument: str = "sample_weight") -> Floats:
    """Return n weights >= 0, ones for None; all zero is refused, for means over rows would not exist."""
    if value is None:
        return np.ones(n)
    weight = floats(argument, value, (n,), low=0.0)
    require(weight.sum() > 0, argument, "hold a weight above 0", Shown("zeros only"))
    return weight


def unique(argument: str, values: Iterable[Any]) -> None:
    """Refuse a list that names something twice."""
    seen: set[Any] = set()
    for value in values:
        require(value not in seen, argument, "name each entry once", value, "remove the duplicate")
        seen.add(value)


def _array(argument: str, value: Any, dtype: type[Any] | None, shape: Sequence[Any] | None, mend: str) -> AnyArray:
    try:
        array: AnyArray = np.asarray(value) if dtype is None else np.asarray(value, dtype)
    except (TypeError, ValueError) as error:
        raise invalid(argument, "be an array of numbers", value, mend or str(error)) from None
    if shape is not None:
        fits = array.ndim == len(shape) and all(
            want is None or isinstance(want, str) or want == got for want, got in zip(shape, array.shape, strict=True)
        )
        if not fits:
            sizes = ", ".join("any" if s is None else str(s) for s in shape) + ("," if len(shape) == 1 else "")
            raise invalid(argument, f"have shape ({sizes})", Shown(f"shape {array.shape}"), mend)
    return array


def _refuse_entries(argument: str, array: AnyArray, bad: Bools, must: str, mend: str) -> None:
    if bad.any():
        place = np.unravel_index(int(np.argmax(bad)), array.shape)
        where = argument + "".join(f"[{i}]" for i in place)
        raise invalid(argument, must, Shown(f"{where} = {array[place]}"), mend)


def _range(low: float, high: float, open_ends: str) -> str:
    if low == -math.inf and high == math.inf:
        return ""
    above, below = ">" if "(" in open_ends else ">=", "<" if ")" in open_ends else "<="
    parts = [f"{above} {low:g}"] * (low > -math.inf) + [f"{below} {high:g}"] * (high < math.inf)
    return " " + " and ".join(parts)


def of_shape(argument: str, value: Any, shape: Sequence[int | str | None], mend: str = "") -> Floats:
    """Return a float64 array of a shape, whatever its entries: NaN and infinity pass."""
    return _array(argument, value, np.float64, shape, mend)


def mask(argument: str, value: Any, shape: Sequence[int | str | None]) -> Bools:
    """Return a bool array of a shape; numbers are refused, 0 and 1 as well, for they may be places."""
    given = _array(argument, value, None, shape, "")
    require(given.dtype == np.bool_, argument, "hold True and False", Shown(f"dtype {given.dtype}"))
    return given
