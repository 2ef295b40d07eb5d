"""`choice-branch-and-bound` with a gap: a bound that was stated stays proven when a better choice is found later."""

from __future__ import annotations

import numpy as np
import pytest

import prunopt as po
from prunopt.core.solver import Limits
from prunopt.forms import MultipleChoiceKnapsack


@pytest.mark.parametrize(("seed", "gap"), [(0, 1e-2), (41, 1e-2), (43, 1e-3), *((s, 1e-2) for s in range(1, 20))])
def test_the_stated_bound_is_proven(seed: int, gap: float) -> None:
    rng = np.random.default_rng(seed)
    loss = np.sort(rng.exponential(size=(20, 12)), axis=1)
    loss -= loss[:, :1]
    costs = np.sort(rng.integers(1, 1000, (2, 20, 12)), axis=2)[:, :, ::-1].copy()
    limits = (costs[:, :, 0].sum(1) * rng.uniform(0.4, 0.8, 2)).astype(int)
    form = MultipleChoiceKnapsack(loss, costs, limits)
    found = po.solve(form, "choice-branch-and-bound", limits=Limits(gap=gap))  # CertificateError where it is not
    assert found.bound <= po.solve(form, "choice-branch-and-bound").objective <= found.objective
    assert found.gap <= gap
    po.verify(form, found)
