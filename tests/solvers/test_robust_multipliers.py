"""The worst of several domains: multipliers, their bound, and what one mixture alone would do."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import prunopt as po
from prunopt.forms import QuadraticSubset, RobustQuadraticSubset
from prunopt.solvers.layer.robust_multipliers import RobustMultipliers


def domains(seed: int = 0, columns: int = 8) -> RobustQuadraticSubset:
    """Two domains that use different halves of the columns."""
    rng = np.random.default_rng(seed)
    hessians = []
    for half in range(2):
        scale = np.where(np.arange(columns) // (columns // 2) == half, 1.0, 0.15)[:, None]
        X = scale * rng.normal(size=(columns, 4 * columns))
        hessians.append(X @ X.T / (4 * columns))
    return RobustQuadraticSubset(rng.normal(size=(4, columns)), np.stack(hessians), [[j] for j in range(columns)], 3)


@pytest.mark.parametrize("seed", range(4))
def test_shared_weights_are_the_best_for_the_worst_domain(seed: int) -> None:
    form = domains(seed)
    value = [0, 3, 7]
    weights, multipliers, bound = form.balanced(value)
    worst = float(form.domain_errors(weights).max())
    assert form.objective(value) == worst
    assert form.mixed(multipliers).objective(value) == pytest.approx(bound, rel=1e-9)
    assert bound <= worst * (1 + 1e-12)
    assert worst - bound <= 0.01 * worst
    for p in np.linspace(0, 1, 11):
        assert worst <= form.domain_errors(form.mixed([p, 1 - p]).lift(value)).max() * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_worst_domain_does_better_than_with_one_domain_alone(seed: int) -> None:
    form = domains(seed)
    robust = po.solve(form, RobustMultipliers(swaps=True))
    po.verify(form, robust)
    optimum = min(form.objective(list(c)) for c in itertools.combinations(range(8), 3))
    assert 0 < robust.bound <= optimum * (1 + 1e-9)
    assert robust.objective >= optimum * (1 - 1e-9)
    alone = QuadraticSubset(form.weight, form.hessians[0], form.groups, 3)
    choice = po.solve(alone, "obs-swap").value
    assert robust.objective < form.domain_errors(alone.lift(choice)).max()


def test_stored_and_read_again(tmp_path: Path) -> None:
    form = domains()
    po.save_form(form, tmp_path / "robust.npz")
    assert po.load_form(tmp_path / "robust.npz").objective([1, 2, 5]) == form.objective([1, 2, 5])


def test_bad_domains() -> None:
    form = domains()
    with pytest.raises(ValueError, match="hessians: shape"):
        RobustQuadraticSubset(form.weight, form.hessians[0], form.groups, 4)
    with pytest.raises(ValueError, match="scales"):
        RobustQuadraticSubset(form.weight, form.hessians, form.groups, 4, scales=[1.0, 0.0])
    with pytest.raises(ValueError, match="multipliers"):
        form.mixed([0.5, 0.6])
    with pytest.raises(ValueError, match="rounds=0"):
        RobustMultipliers(rounds=0)
