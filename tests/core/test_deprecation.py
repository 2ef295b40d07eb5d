"""Old names work, and say the new ones."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from prunopt.core.deprecation import moved_arguments, renamed_arguments


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
