"""Old names work, and say the new ones."""

from __future__ import annotations

from typing import Any

import pytest

from prunopt.core.deprecation import renamed_arguments, renamed_attributes, renamed_names, warn


@renamed_arguments(price="penalty")
def scaled(x: float, *, penalty: float = 1.0) -> float:
    return x * penalty


def test_an_old_keyword_works_and_names_the_new_one() -> None:
    old = {"price": 3.0}
    with pytest.warns(DeprecationWarning, match=r"scaled\(price=\.\.\.\).*use penalty="):
        assert scaled(2.0, **old) == 6.0
    assert scaled(2.0, penalty=3.0) == 6.0


def test_both_names_are_refused() -> None:
    with pytest.raises(TypeError, match="price is the old name of penalty"):
        scaled(2.0, penalty=1.0, **{"price": 3.0})


@renamed_attributes(price="penalty", bill="cost")
class Point:
    penalty = 2.0

    def cost(self) -> float:
        return 3.0


def test_old_attributes_and_methods_work_and_name_the_new_ones() -> None:
    point: Any = Point()
    with pytest.warns(DeprecationWarning, match=r"Point\.price.*use penalty"):
        assert point.price == 2.0
    with pytest.warns(DeprecationWarning, match=r"Point\.bill.*use cost"):
        assert point.bill() == 3.0


def test_old_names_of_a_module() -> None:
    find = renamed_names("prunopt.core.deprecation", tell="warn")
    with pytest.warns(DeprecationWarning, match=r"prunopt\.core\.deprecation\.tell.*use warn"):
        assert find("tell") is warn
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        find("other")
    assert renamed_names("prunopt.core.deprecation", str.upper, tell="warn")("other") == "OTHER"
