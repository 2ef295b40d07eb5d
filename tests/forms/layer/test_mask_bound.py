"""The bound of `MaskBlocks` against the best of all masks: above it would be a false proof."""

from __future__ import annotations

import numpy as np
import pytest

import prunopt as po
from prunopt.core.arrays import Floats
from prunopt.core.solver import Limits, Run
from prunopt.forms import MaskBlocks
from prunopt.forms.layer._mask_bound import surely_below
from prunopt.solvers.layer._mask_proof import prove
from prunopt.solvers.layer.mask_branch_and_bound import MaskBranchAndBound
from prunopt.testing.layers import brute_force_mask

KINDS: list[tuple[int, int, dict[str, object]]] = [
    (1, 4, {"pattern": (2, 4)}),
    (2, 3, {"pattern": (1, 3)}),
    (1, 8, {"pattern": (2, 4)}),
    (2, 5, {"sparsity": 0.6}),
    (1, 7, {"sparsity": 0.4}),
    (2, 4, {"sparsity": 0.5, "scope": "layer"}),
    (1, 3, {"sparsity": 0.0}),
    (1, 4, {"sparsity": 0.75}),
]


def hessian(rng: np.random.Generator, d: int, kind: int) -> Floats:
    """Return well conditioned, nearly dependent, badly scaled and low-rank Hessians."""
    X = rng.normal(size=(4 * d, d))
    if kind == 1:
        X[:, -1] = X[:, 0] + 10.0 ** -rng.integers(1, 7) * X[:, -1]
    elif kind == 2:
        X *= 10.0 ** rng.integers(-6, 7, d)
    elif kind == 3:
        X = X[:, : max(d // 2, 1)] @ rng.normal(size=(max(d // 2, 1), d)) + 10.0 ** -rng.integers(1, 7) * X
    return np.asarray(X.T @ X * 10.0 ** rng.integers(-9, 10))


def problem(rng: np.random.Generator, k: int) -> MaskBlocks | None:
    rows, d, options = KINDS[k % len(KINDS)]
    W = rng.normal(size=(rows, d)) * 10.0 ** rng.integers(-3, 4)
    W = np.rint(W) if k % 5 == 0 else W
    try:
        return MaskBlocks(W, hessian(rng, d, k // 7 % 4), damping=float(rng.choice([0.0, 0.01, 1.0])), **options)  # type: ignore[arg-type]
    except ValueError:  # refused as singular
        return None


def edge(rng: np.random.Generator, form: MaskBlocks) -> Floats | None:
    """Return a diagonal of random proportions, as large as the form's own check lets it be."""
    shape = np.diagonal(form.normal) * rng.uniform(0.01, 1.0, form.shape[1])
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if surely_below(middle * shape, form.normal) else (low, middle)
    return low * shape if low > 0 else None


@pytest.mark.parametrize(("seed", "cases"), [(0, 240), pytest.param(1, 3000, marks=pytest.mark.slow)])
def test_no_bound_is_above_the_best_of_all_masks(seed: int, cases: int) -> None:
    rng = np.random.default_rng(seed)
    checked, tight = 0, 0
    for k in range(cases):
        form = problem(rng, k)
        if form is None:
            continue
        optimum = max(brute_force_mask(form), 0.0)
        start = form.refit(form.cheapest(rng.random(form.shape)))
        certificates = [prove(form, start, int(rng.integers(1, 30)), Run(Limits()), 1)]
        delta = edge(rng, form)
        if delta is not None:
            change = form.weight * rng.normal(size=form.shape) * 10.0 ** rng.integers(-3, 2)
            certificates.append({"floor": delta, "changes": change})
            certificates.append({"floor": delta, "changes": form.weight - start})
        if form.pattern is None and form.scope == "row":
            certificates.append(dict(MaskBranchAndBound().solve(form, Limits(), 0).duals))
        for duals in certificates:
            bound = form.bound(duals)
            assert bound <= optimum, (k, bound, optimum)
            checked += bool(duals)
            tight += bound > 0.5 * optimum
    assert checked > 1.5 * cases
    assert tight > 0.5 * cases


def test_a_diagonal_hessian_leaves_no_gap() -> None:
    rng = np.random.default_rng(1)
    W, H = rng.normal(size=(3, 12)), np.diag(rng.uniform(0.5, 2.0, 12))
    for options in ({"pattern": (2, 4)}, {"sparsity": 0.5}, {"sparsity": 0.5, "scope": "layer"}):
        form = MaskBlocks(W, H, **options)
        optimum = form.objective(form.cheapest(W**2 * np.diagonal(H)))
        below = np.diagonal(H) * (1 - 1e-12)
        bound = form.bound({"floor": below, "changes": np.zeros(W.shape)})
        assert optimum * (1 - 1e-9) < bound <= optimum


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"floor": np.ones(3)}, "4 numbers > 0 are needed"),
        ({"floor": np.array([0.1, 0.1, 0.1, np.nan])}, "4 numbers > 0 are needed"),
        ({"floor": np.array([0.1, 0.1, 0.0, 0.1])}, "4 numbers > 0 are needed"),
        ({"floor": np.full(4, 1.0000001)}, "it is not below the Hessian"),
        ({"floor": np.full(4, 1.0)}, "it is not below the Hessian"),
        ({"changes": np.full((2, 4), np.inf)}, r"\(2, 4\) finite numbers are needed"),
        ({"changes": np.zeros((4, 2))}, r"\(2, 4\) finite numbers are needed"),
        ({"changes": None}, r"\(2, 4\) finite numbers are needed"),
    ],
)
def test_what_proves_nothing_is_refused(change: dict[str, Floats], message: str) -> None:
    form = MaskBlocks(np.ones((2, 4)), np.eye(4), sparsity=0.5)
    duals = {"floor": np.full(4, 0.5), "changes": np.zeros((2, 4))} | change
    with pytest.raises(po.CertificateError, match=message):
        form.bound(duals)


def test_a_nearly_singular_hessian_gets_no_bound_rather_than_a_false_one() -> None:
    X = np.random.default_rng(2).normal(size=(40, 6))
    X[:, 5] = X[:, 0] + 1e-6 * X[:, 5]
    form = MaskBlocks(np.ones((1, 6)), X.T @ X, sparsity=0.5)
    duals = prove(form, form.weight, 5, Run(Limits()), 1)
    assert not duals or form.bound(duals) <= brute_force_mask(form)
