"""Weights of error curves, learned from whole allocations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from prunopt.problems.allocation.learned_weights import learned_weights

RNG = np.random.default_rng(4)
TRUE = RNG.uniform(0.5, 3, 6)
ERRORS = RNG.uniform(0.1, 1, (60, 6))
SEARCHES = np.repeat(["a", "b"], 30)
LOSSES = ERRORS @ TRUE + np.where(SEARCHES == "a", 1.0, 5.0)  # each search's text has a level of its own


def test_plenty_of_trials_tell_the_weights() -> None:
    found = learned_weights(ERRORS, LOSSES, np.ones(6), strength=1e-6, searches=SEARCHES)
    np.testing.assert_allclose(found, TRUE, rtol=1e-6)
    mixed = learned_weights(ERRORS, LOSSES, np.ones(6), strength=1e-6)
    assert np.abs(mixed - TRUE).max() > 0.1  # without the searches their levels are taken for errors


def test_between_the_prior_and_the_trials() -> None:
    prior = RNG.uniform(0.5, 3, 6)
    near = learned_weights(ERRORS, LOSSES, prior, strength=1e6, searches=SEARCHES)
    np.testing.assert_allclose(near, prior, rtol=1e-6)
    far = [np.linalg.norm(learned_weights(ERRORS, LOSSES, prior, strength=s, searches=SEARCHES) - TRUE)
           for s in (1e-3, 0.1, 1.0, 10.0)]  # fmt: skip
    assert np.all(np.diff(far) > 0)


def test_weights_are_never_negative() -> None:
    found = learned_weights(ERRORS, -LOSSES, np.ones(6), strength=0.01, searches=SEARCHES)
    assert (found >= 0).all()
    assert (found == 0).any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"losses": LOSSES[:5]}, "losses must have shape"),
        ({"prior": np.zeros(6)}, "prior must hold numbers > 0"),
        ({"strength": 0.0}, "strength must be a finite number > 0, got 0.0"),
        ({"searches": SEARCHES[:3]}, "searches must name the search of each of 60 trials"),
        ({"errors": np.full((60, 6), np.nan)}, "errors must hold finite numbers"),
    ],
)
def test_bad_input(change: dict[str, Any], words: str) -> None:
    given = {"errors": ERRORS, "losses": LOSSES, "prior": np.ones(6), **change}
    with pytest.raises(ValueError, match=words):
        learned_weights(given.pop("errors"), given.pop("losses"), given.pop("prior"), **given)
