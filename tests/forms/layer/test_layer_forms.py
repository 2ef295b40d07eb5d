"""QuadraticSubset and MaskBlocks against plain least squares, and what they refuse."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import prunopt as po
from prunopt.core.arrays import Floats
from prunopt.forms import MaskBlocks, QuadraticSubset
from prunopt.forms.layer._refit import masked_least_squares
from prunopt.forms.layer._subset_bound import exact_costs, least_rest
from prunopt.testing.layers import random_layer


@pytest.fixture
def data() -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(12, 12)) @ rng.normal(size=(12, 50))
    return rng.normal(size=(5, 12)), X, X @ X.T


def by_lstsq(W: Floats, X: Floats, kept: NDArray[np.bool_]) -> Floats:
    out = np.zeros_like(W)
    for i, row in enumerate(kept):
        out[i, row] = np.linalg.lstsq(X[row].T, W[i] @ X, rcond=None)[0]
    return out


@pytest.mark.parametrize("removed", [[0], [1, 3], [0, 2, 5], [0, 1, 2, 3, 4, 5], []])
def test_error_of_groups_is_that_of_least_squares_on_the_kept_columns(
    data: tuple[Floats, Floats, Floats], removed: list[int]
) -> None:
    W, X, H = data
    form = QuadraticSubset(W, H, [[2 * g, 2 * g + 1] for g in range(6)], len(removed))
    kept = np.ones(W.shape, np.bool_)
    kept[:, form.columns(removed)] = False
    best = by_lstsq(W, X, kept)
    np.testing.assert_allclose(form.lift(removed), best, rtol=1e-7, atol=1e-9)
    loss = float(np.sum((W @ X - best @ X) ** 2))
    assert form.objective(removed) == pytest.approx(loss, rel=1e-9, abs=1e-9)
    S = form.columns(removed)
    C = np.linalg.inv(H)
    direct = float(np.trace(W[:, S] @ np.linalg.solve(C[np.ix_(S, S)], W[:, S].T)))
    assert form.objective(removed) == pytest.approx(direct, rel=1e-9, abs=1e-9)


def test_error_of_a_mask_is_that_of_least_squares_in_each_row(data: tuple[Floats, Floats, Floats]) -> None:
    W, X, H = data
    form = MaskBlocks(W, H, pattern=(2, 4))
    mask = form.cheapest(np.random.default_rng(0).random(W.shape))
    best = by_lstsq(W, X, mask)
    np.testing.assert_allclose(form.refit(mask), best, rtol=1e-7, atol=1e-9)
    assert form.objective(mask) == pytest.approx(float(np.sum(((W - best) @ X) ** 2)), rel=1e-9)
    assert form.solved(mask).residual < 1e-12


def test_conjugate_gradients_agree_with_factors() -> None:
    W, H = random_layer(np.random.default_rng(1), 6, 60)
    H = H + 0.05 * np.trace(H) / 60 * np.eye(60)
    mask = np.random.default_rng(2).random(W.shape) < 0.5
    exact, residual = masked_least_squares(W, H, mask)
    iterated, rest = masked_least_squares(W, H, mask, direct=1)
    assert residual < 1e-12 < rest < 1e-6
    np.testing.assert_allclose(iterated, exact, atol=1e-5 * np.abs(exact).max())
    assert not iterated[~mask].any()


def test_damping_is_part_of_the_objective(data: tuple[Floats, Floats, Floats]) -> None:
    W, _, H = data
    form = QuadraticSubset(W, H, [[j] for j in range(12)], 4, damping=0.1)
    lifted = form.lift([0, 3, 4, 9])
    assert form.ridge == pytest.approx(0.1 * np.trace(H) / 12)
    penalty = form.ridge * float(np.sum((W - lifted) ** 2))
    assert form.objective([0, 3, 4, 9]) == pytest.approx(form.error(lifted) + penalty, rel=1e-12)
    plain = QuadraticSubset(W, H, form.groups, 4)
    assert plain.error(plain.lift([0, 3, 4, 9])) < form.error(lifted)


def test_exact_costs_of_one_and_two_groups() -> None:
    rng = np.random.default_rng(5)
    W, H = random_layer(rng, 4, 11)
    for groups in ([[j] for j in range(6)], [[0, 4], [1], [2, 3, 8], [9, 10]]):
        form = QuadraticSubset(W, H, groups, 1)
        costs = exact_costs(form.eliminate(np.zeros(len(groups), np.bool_)))
        for g, h in itertools.product(range(len(groups)), repeat=2):
            assert costs.two[g, h] == pytest.approx(form.objective(sorted({g, h})), rel=1e-9)
        assert costs.one == pytest.approx(np.diagonal(costs.two))


@pytest.mark.parametrize("seed", range(6))
def test_bounds_hold_for_every_choice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = 1 + seed % 3
    W, H = random_layer(rng, 3, 6 * size)
    for remove in range(1, 7):
        form = QuadraticSubset(W, H, [list(range(g * size, (g + 1) * size)) for g in range(6)], remove)
        best = min(form.objective(list(c)) for c in itertools.combinations(range(6), remove))
        none = np.zeros((1, 6), np.bool_)
        assert form.bound({"removed": none, "kept": none}) <= best * (1 + 1e-9)
        assert least_rest(form.eliminate(none[0]), remove) > 0
        largest = np.linalg.eigvalsh(form.inverse)[-1] * (1 + 1e-9)
        assert 0 < form.bound({"diagonal": np.full(6 * size, largest)}) <= best


def test_leaves_that_miss_or_repeat_answers_are_refused(data: tuple[Floats, Floats, Floats]) -> None:
    W, _, H = data
    form = QuadraticSubset(W, H, [[j] for j in range(4)], 2)
    take, leave = np.eye(4, dtype=np.bool_)[:1], np.zeros((1, 4), np.bool_)
    with pytest.raises(po.CertificateError, match="leaves hold 3 of the 6"):
        form.bound({"removed": take, "kept": leave})
    with pytest.raises(po.CertificateError, match="two leaves hold the same"):
        form.bound({"removed": np.vstack([take, take]), "kept": np.vstack([leave, leave])})
    with pytest.raises(po.CertificateError, match="does not dominate"):
        form.bound({"diagonal": np.full(12, 1e-9)})


def test_a_singular_hessian_is_refused_with_the_damping_that_would_do(data: tuple[Floats, Floats, Floats]) -> None:
    W, X, _ = data
    few = X[:, :5] @ X[:, :5].T
    with pytest.raises(ValueError, match=r"not positive definite.*damping=([0-9.e-]+) ") as caught:
        QuadraticSubset(W, few, [[0]], 1)
    damping = float(str(caught.value).split("damping=")[2].split()[0])
    QuadraticSubset(W, few, [[0]], 1, damping=damping)
    dead = np.array(X @ X.T)
    dead[3] = dead[:, 3] = 0
    with pytest.raises(ValueError, match="1 columns are dead"):
        MaskBlocks(W, dead, sparsity=0.5)
    with pytest.raises(ValueError, match="no damping helps"):
        MaskBlocks(W, np.zeros((12, 12)), sparsity=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": [[0], [0, 1]], "remove": 1}, r"groups\[1\].*disjoint"),
        ({"groups": [[0], [12]], "remove": 1}, r"groups\[1\] must hold .* <= 11"),
        ({"groups": [[0], [1]], "remove": 3}, "remove must be .* got 3"),
        ({"groups": [], "remove": 0}, "groups must hold a list"),
        ({"groups": [[0]], "remove": 1, "damping": -1.0}, "damping must be .* got -1.0"),
    ],
)
def test_bad_groups(data: tuple[Floats, Floats, Floats], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuadraticSubset(data[0], data[2], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "given one without the other"),
        ({"pattern": (2, 4), "sparsity": 0.5}, "given one without the other"),
        ({"pattern": (2, 5)}, "divisor of 12"),
        ({"sparsity": 1.0}, "sparsity must be .* got 1.0"),
        ({"sparsity": 0.5, "scope": "column"}, "scope must be one of .*'column'"),
    ],
)
def test_bad_masks(data: tuple[Floats, Floats, Floats], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskBlocks(data[0], data[2], **options)


def test_bad_arrays(data: tuple[Floats, Floats, Floats]) -> None:
    W, _, H = data
    with pytest.raises(ValueError, match=r"got weight\[0\]\[0\] = nan"):
        MaskBlocks(np.where(np.arange(12) == np.arange(5)[:, None] * 100, np.nan, W), H, sparsity=0.5)
    with pytest.raises(ValueError, match=r"got shape \(3, 3\)"):
        MaskBlocks(W, H[:3, :3], sparsity=0.5)
    with pytest.raises(ValueError, match="be symmetric"):
        MaskBlocks(W, np.triu(H), sparsity=0.5)


def test_stored_and_read_again(data: tuple[Floats, Floats, Floats], tmp_path: Path) -> None:
    W, _, H = data
    forms: list[Any] = [
        QuadraticSubset(W, H, [[0, 1], [4], [7, 3]], 2, damping=0.01),
        MaskBlocks(W, H, pattern=(2, 4)),
        MaskBlocks(W, H, sparsity=0.25, scope="layer", damping=0.1),
    ]
    for number, form in enumerate(forms):
        file = tmp_path / f"{number}.npz"
        form.objective([0, 1] if number == 0 else np.ones(W.shape, np.bool_))
        po.save_form(form, file)
        again = po.load_form(file)
        value: Any = [0, 2] if number == 0 else form.cheapest(W**2)
        assert type(again) is type(form)
        assert again.objective(value) == form.objective(value)
        assert again.violation(value) == 0


def test_the_cheapest_answer_of_a_linear_score(data: tuple[Floats, Floats, Floats]) -> None:
    W, _, H = data
    scores = np.random.default_rng(4).random(W.shape)
    layer = MaskBlocks(W, H, sparsity=0.4, scope="layer").cheapest(scores)
    assert np.count_nonzero(~layer) == 24
    assert scores[~layer].max() < scores[layer].min()
    rows = MaskBlocks(W, H, sparsity=0.4).cheapest(scores)
    assert (np.count_nonzero(~rows, axis=1) == 5).all()
    blocks = MaskBlocks(W, H, pattern=(1, 4)).cheapest(scores)
    assert (blocks.reshape(-1, 4).sum(axis=1) == 1).all()
