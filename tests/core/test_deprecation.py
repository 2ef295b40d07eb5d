"""Old names work, and say the new ones."""

from __future__ import annotations

import pytest

from prunopt.core.deprecation import renamed_arguments


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
