"""Every refusal names the argument, the value and the mend."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from prunopt.core import validate


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: validate.number("share", 1.5, low=0, high=1), "share must be a finite number >= 0 and <= 1, got 1.5"),
        (lambda: validate.number("x", 0, low=0, open_ends="("), "x must be a finite number > 0, got 0"),
        (lambda: validate.number("x", float("nan")), "x must be a finite number, got nan"),
        (lambda: validate.number("x", "3"), "x must be a finite number, got '3'"),
        (lambda: validate.number("x", True), "x must be a finite number, got True"),
        (lambda: validate.number("x", -1, low=0, mend="pass 0"), "x must be a finite number >= 0, got -1; pass 0"),
        (lambda: validate.whole_number("k", 2.5), "k must be a whole number, got 2.5"),
        (lambda: validate.whole_number("k", True), "k must be a whole number, got True"),
        (lambda: validate.whole_number("k", 0, low=1), "k must be a whole number >= 1, got 0"),
        (
            lambda: validate.one_of("method", "slimgbt", ("slimgpt", "wanda")),
            "method must be one of 'slimgpt', 'wanda', got 'slimgbt'; did you mean \"slimgpt\"?",
        ),
        (lambda: validate.floats("w", [1, 2], ("n", 2)), "w must have shape (n, 2), got shape (2,)"),
        (lambda: validate.floats("w", [1, np.inf]), "w must hold finite numbers, got w[1] = inf"),
        (lambda: validate.floats("w", [[1, -2]], low=0), "w must hold finite numbers >= 0, got w[0][1] = -2.0"),
        (lambda: validate.floats("w", ["a"]), "w must be an array of numbers, got ['a']"),
        (lambda: validate.ints("k", [1.5]), "k must hold whole numbers, got k[0] = 1.5"),
        (lambda: validate.ints("k", [True]), "k must hold whole numbers, got dtype bool"),
        (lambda: validate.bools("m", [0, 2]), "m must hold True and False, got dtype int64"),
        (lambda: validate.sample_weight([0.0, 0.0], 2), "sample_weight must hold a weight above 0, got zeros only"),
        (lambda: validate.unique("features", "aba"), "features must name each entry once, got 'a'; remove"),
        (lambda: validate.require(False, "x", "be y", np.zeros((2, 3))), "x must be y, got an array of shape (2, 3)"),
        (lambda: validate.refuse("x", "be short", "a" * 200), f"x must be short, got '{'a' * 36} ... {'a' * 37}'"),
    ],
)
def test_refusals_in_one_line(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as refused:
        call()
    assert "\n" not in str(refused.value)


def test_what_is_right_comes_back_converted() -> None:
    assert validate.number("x", 2, low=2, high=2) == 2.0
    assert validate.whole_number("k", 3.0, low=3, high=3) == 3
    assert validate.one_of("m", "a", ("a", None)) == "a"
    assert validate.one_of("m", None, ("a", None)) is None
    assert validate.floats("w", [[1, 2]], (1, "n")).dtype == np.float64
    assert validate.floats("w", [np.inf], finite=False).tolist() == [np.inf]
    assert validate.ints("k", [1.0, 2.0]).dtype == np.int64
    assert validate.ints("k", []).size == 0
    assert validate.bools("m", [0, 1]).tolist() == [False, True]
    assert validate.sample_weight(None, 2).tolist() == [1.0, 1.0]
