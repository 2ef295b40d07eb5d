"""Old names work, and say the new ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from prunopt.core import deprecation
from prunopt.core.deprecation import moved_arguments, renamed_arguments, renamed_attributes, renamed_names, warn


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


@dataclass(frozen=True)
class Shape:
    width: float = 1.0
    height: float = 1.0


@moved_arguments(shape=Shape)
def area(scale: float = 1.0, *, shape: Shape = Shape()) -> float:
    return scale * shape.width * shape.height


def test_keywords_that_went_into_an_object_work_and_name_it() -> None:
    old = {"width": 3.0, "height": 2.0}
    with pytest.warns(DeprecationWarning, match=r"area\(width=\.\.\., height=.*use shape=Shape\(width="):
        assert area(2.0, **old) == 12.0  # type: ignore[arg-type]
    assert area(2.0, shape=Shape(3.0)) == 6.0
    with pytest.raises(TypeError, match="put all into shape"):
        area(shape=Shape(3.0), **old)


def test_a_renamed_field_is_taken_and_shown_under_its_old_name() -> None:
    from dataclasses import dataclass, replace

    @deprecation.renamed_fields(price="penalty")
    @dataclass(frozen=True)
    class Item:
        penalty: int = 1

    with pytest.warns(DeprecationWarning, match=r"use penalty="):
        assert Item(price=2).penalty == 2  # type: ignore[call-arg]
    with pytest.warns(DeprecationWarning, match=r"use penalty="):
        assert replace(Item(2), price=3) == Item(3)  # type: ignore[call-arg]
    with pytest.warns(DeprecationWarning, match=r"use \.penalty"):
        assert Item(4).price == 4  # type: ignore[attr-defined]


def test_old_names_of_forms() -> None:
    import prunopt.forms
    from prunopt.forms import Closure, CoupledKnapsack

    with pytest.warns(DeprecationWarning, match="CoupledKnapsack"):
        assert prunopt.forms.CoupledChoice is CoupledKnapsack
    with pytest.raises(AttributeError, match="NoForm"):
        _ = prunopt.forms.NoForm
    with pytest.warns(DeprecationWarning, match="penalty="):
        assert Closure.of([1], price=2).penalty == 2  # type: ignore[call-arg]


@renamed_attributes(price="penalty", bill="cost")
class Point:
    penalty = 2.0

    def cost(self) -> float:
        return 3.0


def test_old_attributes_and_methods_work_and_name_the_new_ones() -> None:
    point: Any = Point()
    with pytest.warns(DeprecationWarning, match=r"Point\.price.*use \.penalty"):
        assert point.price == 2.0
    with pytest.warns(DeprecationWarning, match=r"Point\.bill.*use \.cost"):
        assert point.bill() == 3.0


def test_old_names_of_a_module() -> None:
    find = renamed_names("prunopt.core.deprecation", tell="warn")
    with pytest.warns(DeprecationWarning, match=r"prunopt\.core\.deprecation\.tell.*use warn"):
        assert find("tell") is warn
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        find("other")
    assert renamed_names("prunopt.core.deprecation", str.upper, tell="warn")("other") == "OTHER"


def test_the_warning_is_about_the_line_of_the_call_whatever_lies_in_between() -> None:
    """Python shows such warnings only where the line is the user's: a frame of ours would hide them."""
    from prunopt.forests import BudgetedForestRegressor

    with pytest.warns(DeprecationWarning, match="scaled") as of_function:
        scaled(2.0, **{"price": 3.0})
    with pytest.warns(DeprecationWarning, match="refit_leaves") as of_estimator:
        BudgetedForestRegressor(refit_leaves="alternate").fit([[0.0], [1.0]] * 20, [0.0, 1.0] * 20)
    assert {w.filename for w in [*of_function, *of_estimator]} == {__file__}
