"""`obc`: exact costs, exchanges that find what obs-swap finds, zeros shared exactly, the same for any threads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import prunopt as po
from prunopt.core.arrays import Floats
from prunopt.core.solver import Limits
from prunopt.forms import MaskBlocks, QuadraticSubset
from prunopt.solvers.layer._obc_allocation import allocate
from prunopt.solvers.layer._obc_kernel import _inverse_columns, _transposed_solve, eliminate, exchange
from prunopt.solvers.layer.mask_descent import MaskDescent
from prunopt.solvers.layer.obc import Obc
from prunopt.solvers.layer.obs_greedy import ObsGreedy
from prunopt.testing.layers import random_layer


def layer(seed: int, rows: int, columns: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(4 * columns, columns // 4)) @ rng.normal(size=(columns // 4, columns))
    X += 0.5 * rng.normal(size=X.shape)
    return rng.normal(size=(rows, columns)), X.T @ X / len(X)


def row_by_row(form: MaskBlocks, solver: str | ObsGreedy) -> Floats:
    """Return what the solver of groups makes of every row, each column a group."""
    rows, d = form.shape
    groups = [[j] for j in range(d)]
    found = []
    for r in range(rows):
        one = QuadraticSubset(form.weight[r : r + 1], form.hessian, groups, form.n_removed, damping=form.damping)
        found.append(po.solve(one, solver).objective)
    return np.array(found)


def row_errors(form: MaskBlocks, weights: Floats) -> Floats:
    change = form.weight - weights
    return np.asarray(np.einsum("ri,ri->r", change @ form.normal, change))


@pytest.mark.parametrize("seed", range(6))
def test_costs_weights_and_diagonal_are_those_of_the_inverse(seed: int) -> None:
    W, H = layer(seed, 1, 40)
    C = np.linalg.inv(H)
    order, costs, R, z, cols, L, v, q = eliminate(W[0], C, np.ones(40, np.bool_), 40, 40, 23, 5, 12, 1.0)
    inner = np.linalg.inv(C[np.ix_(order, order)])
    assert costs.sum() == pytest.approx(W[0, order] @ inner @ W[0, order], rel=1e-9)
    for k in range(1, 23):
        some = order[:k]
        part = W[0, some] @ np.linalg.solve(C[np.ix_(some, some)], W[0, some])
        assert costs[:k].sum() == pytest.approx(part, rel=1e-9)
    np.testing.assert_allclose(R @ R.T, C[np.ix_(order, order)], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(R @ z, W[0, order], rtol=1e-9, atol=1e-12)
    cross = C[np.ix_(cols, order)]
    np.testing.assert_allclose(v, W[0, cols] - cross @ inner @ W[0, order], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(q, np.diag(C)[cols] - np.einsum("ij,jk,ik->i", cross, inner, cross), rtol=1e-8)
    np.testing.assert_allclose(R @ L, C[np.ix_(order, cols)], rtol=1e-8, atol=1e-9)


def test_greedy_is_obs_greedy_and_exchanges_reach_obs_swap() -> None:
    W, H = layer(0, 8, 64)
    form = MaskBlocks(W, H, sparsity=0.5, damping=0.01)
    plain = po.solve(form, Obc(batch=1, swaps=0, reach=1))
    np.testing.assert_allclose(
        row_errors(form, form.refit(plain.value)), row_by_row(form, ObsGreedy(batch=1)), rtol=1e-9
    )
    swapped = po.solve(form, Obc(batch=1, swaps=8, reach=1))
    np.testing.assert_allclose(row_errors(form, form.refit(swapped.value)), row_by_row(form, "obs-swap"), rtol=1e-9)
    assert swapped.objective < plain.objective
    assert swapped.objective < po.solve(form, "mask-descent").objective


def test_triangular_solves_are_those_of_the_inverse() -> None:
    rng = np.random.default_rng(5)
    R = np.tril(rng.standard_normal((150, 150))) + 12 * np.eye(150)
    inner, chosen = np.linalg.inv(R), np.array([3, 149, 64, 0])
    np.testing.assert_allclose(_inverse_columns(R, chosen), inner[:, chosen].T, rtol=1e-9, atol=1e-12)
    z = rng.standard_normal(150)
    np.testing.assert_allclose(_transposed_solve(R, z), inner.T @ z, rtol=1e-9, atol=1e-12)


def test_looking_at_fewer_weights_removes_as_many_and_costs_little() -> None:
    W, H = layer(1, 8, 128)
    form = MaskBlocks(W, H, sparsity=0.5, damping=0.01)
    every = po.solve(form, Obc(reach=1))
    some = po.solve(form, Obc(reach=0.4))
    assert form.violation(some.value) == 0
    assert some.objective <= 1.01 * every.objective
    # with no reach only the cheapest by first costs may go, before exchanges
    first = form.cheapest(W**2 / np.diagonal(form.inverse))
    np.testing.assert_array_equal(po.solve(form, Obc(reach=0, swaps=0)).value, first)


@pytest.mark.parametrize("block", [32, 4])
def test_an_exchange_never_leaves_its_block_and_gains_what_is_measured(block: int) -> None:
    W, H = layer(3, 6, 32)
    form = MaskBlocks(W, H, sparsity=0.5) if block == 32 else MaskBlocks(W, H, pattern=(2, 4))
    C, free = form.inverse, np.ones(32, np.bool_)
    before, after = np.ones(W.shape, np.bool_), np.ones(W.shape, np.bool_)
    moved = 0
    for r in range(6):
        state = eliminate(W[r], C, free, block, block // 2, 16, 1, 32, 1.0)
        before[r, state[0]] = False
        removed, n = exchange(C, *state, block, 32)
        after[r], moved = ~removed, moved + n
    assert moved > 0
    assert form.violation(before) == form.violation(after) == 0
    assert form.objective(after) < form.objective(before)
    assert form.objective(after) == pytest.approx(po.solve(form, Obc(batch=1, swaps=1, reach=1)).objective, rel=1e-9)


def least_total(costs: Floats, count: int) -> float:
    best = np.full(count + 1, np.inf)
    best[0] = 0.0
    for row in costs:
        fresh = np.full(count + 1, np.inf)
        for k, total in enumerate(np.concatenate([[0.0], np.cumsum(row)])[: count + 1]):
            fresh[k:] = np.minimum(fresh[k:], best[: count + 1 - k] + total)
        best = fresh
    return float(best[count])


def test_zeros_are_shared_exactly() -> None:
    rng = np.random.default_rng(0)
    for t in range(600):
        rows, d = int(rng.integers(1, 6)), int(rng.integers(1, 9))
        costs = rng.exponential(size=(rows, d)) if t % 2 else rng.integers(0, 4, (rows, d)) / 2
        count = int(rng.integers(0, rows * d + 1))
        shared = allocate(costs, count)
        assert shared.sum() == count
        found = sum(float(costs[r, :k].sum()) for r, k in enumerate(shared))
        assert found == pytest.approx(least_total(costs, count), rel=1e-12, abs=1e-12)


def test_zeros_shared_over_a_layer_cost_less_than_as_many_in_each_row() -> None:
    W, H = layer(4, 12, 32)
    W *= np.arange(1, 13)[:, None]
    by_row, by_layer = (MaskBlocks(W, H, sparsity=0.5, scope=scope) for scope in ("row", "layer"))
    answer = po.solve(by_layer)
    assert answer.solver == "obc"
    assert by_layer.violation(answer.value) == 0
    assert len(set(np.count_nonzero(answer.value, axis=1).tolist())) > 1
    assert answer.objective < 0.9 * po.solve(by_row).objective


@pytest.mark.parametrize("options", [{"sparsity": 0.6}, {"sparsity": 0.5, "scope": "layer"}, {"pattern": (2, 4)}])
def test_any_number_of_threads_gives_the_same(options: dict[str, object]) -> None:
    W, H = layer(5, 11, 64)
    form = MaskBlocks(W, H, damping=0.01, **options)  # type: ignore[arg-type]
    one, three = po.solve(form, Obc(n_jobs=1)), po.solve(form, Obc(n_jobs=3))
    np.testing.assert_array_equal(one.value, three.value)


def test_it_is_the_default_of_free_masks_and_mask_descent_that_of_patterns() -> None:
    W, H = layer(6, 3, 16)
    assert po.solve(MaskBlocks(W, H, sparsity=0.5)).solver == "obc"
    assert po.solve(MaskBlocks(W, H, pattern=(2, 4))).solver == "mask-descent"
    assert [row.name for row in po.solvers(MaskBlocks(W, H, pattern=(2, 4)))][:2] == ["mask-descent", "obc"]


def test_dependent_columns_and_weights_of_nothing() -> None:
    rng = np.random.default_rng(7)
    W, H = random_layer(rng, 3, 12)
    H[:, 1] = H[0]
    H[1] = H[:, 0]
    H[1, 1] = H[0, 0]
    form = MaskBlocks(W, H, sparsity=0.5, damping=1e-9)
    answer = po.solve(form)
    assert answer.objective <= po.solve(form, "wanda").objective * (1 + 1e-6)
    assert po.solve(MaskBlocks(np.zeros((2, 8)), np.eye(8), sparsity=0.5)).objective == 0


def test_stopped_by_its_limits_it_still_answers() -> None:
    W, H = layer(8, 9, 16)
    for options in ({"sparsity": 0.5}, {"sparsity": 0.5, "scope": "layer"}):
        form = MaskBlocks(W, H, **options)
        for most in (0, 4, 12):
            answer = po.solve(form, limits=Limits(evaluations=most))
            assert form.violation(answer.value) == 0
            assert ("stopped" in answer.message) == (answer.stats["rows"] < 9)


@pytest.mark.parametrize("options", [{"pattern": (2, 4)}, {"sparsity": 0.5}, {"sparsity": 0.5, "scope": "layer"}])
def test_a_bound_comes_with_the_answer_and_more_sweeps_raise_it(options: dict[str, object]) -> None:
    W, H = layer(10, 8, 48)
    form = MaskBlocks(W, H, damping=0.1, **options)  # type: ignore[arg-type]
    none, few, many = (po.solve(form, Obc(proof=sweeps)) for sweeps in (0, 4, 60))
    assert none.bound == -np.inf
    assert 0 < few.bound <= many.bound * (1 + 1e-9)
    assert 0.7 * many.objective < many.bound < many.objective
    po.verify(form, many)
    assert many.bound == form.bound(many.duals)
    forged = {**many.duals, "floor": np.asarray(many.duals["floor"]) * 1.5}
    with pytest.raises(po.CertificateError, match="not below the Hessian"):
        po.verify(form, replace(many, duals=forged))
    with pytest.raises(po.CertificateError, match="its multipliers prove"):
        po.verify(form, replace(many, bound=many.objective))
    shifted = {**many.duals, "changes": 2 * np.asarray(many.duals["changes"])}
    assert form.bound(shifted) < many.bound  # any point proves something, the best one most


def test_mask_descent_takes_exchanges_and_a_proof_when_asked() -> None:
    W, H = layer(11, 8, 48)
    for options in ({"pattern": (2, 4)}, {"sparsity": 0.5}):
        form = MaskBlocks(W, H, damping=0.1, **options)
        plain, more = po.solve(form, MaskDescent()), po.solve(form, MaskDescent(swaps=3, proof=20))
        assert more.objective < plain.objective
        assert more.stats["exchanges"] > 0 == plain.stats["exchanges"]
        assert -np.inf == plain.bound < 0 < more.bound < more.objective


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Obc(swaps=-1), "swaps must be a whole number >= 0, got -1"),
        (lambda: Obc(batch=0), "batch must be a whole number >= 1, got 0"),
        (lambda: Obc(pool=8), "pool must be a whole number >= 32, got 8; pass no less than batch"),
        (lambda: Obc(reach=2), "reach must be a finite number"),
        (lambda: Obc(n_jobs=0), "n_jobs must be a number of threads, or -1 for all processors, got 0"),
    ],
)
def test_bad_options(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
