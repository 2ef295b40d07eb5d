"""The solvers of QuadraticSubset and MaskBlocks: the kernel's identities, the published scores, proofs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import prunopt as po
from prunopt.core.arrays import Floats
from prunopt.core.solver import Limits
from prunopt.forms import MaskBlocks, QuadraticSubset
from prunopt.solvers.layer._mask_descent_kernel import descend, subsets
from prunopt.solvers.layer._obs_exchange import best_exchange
from prunopt.solvers.layer._obs_kernel import Elimination
from prunopt.solvers.layer.mask_descent import MaskDescent
from prunopt.solvers.layer.mask_enumeration import MaskEnumeration
from prunopt.solvers.layer.obs_branch_and_bound import ObsBranchAndBound
from prunopt.solvers.layer.obs_greedy import ObsGreedy
from prunopt.solvers.layer.obs_swap import ObsSwap
from prunopt.solvers.layer.slimgpt import SlimGpt
from prunopt.solvers.layer.sparsegpt import SparseGpt, sparsegpt_weights
from prunopt.testing.layers import brute_force_subset, random_layer


def layer(seed: int, rows: int, columns: int, decay: float = 0.5) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(columns, 6 * columns)) * np.arange(1, columns + 1)[:, None] ** -decay
    X = rng.normal(size=(columns, columns)) @ inputs
    return rng.normal(size=(rows, columns)), X @ X.T / X.shape[1]


@pytest.mark.parametrize("seed", range(4))
def test_blocks_eliminated_in_any_order_cost_the_same_and_leave_the_same(seed: int) -> None:
    W, H = layer(seed, 7, 24)
    form = QuadraticSubset(W, H, [list(range(3 * g, 3 * g + 3)) for g in range(8)], 4)
    chosen = [1, 2, 5, 7]
    for order in (chosen, chosen[::-1], [5, 1, 7, 2]):
        state = Elimination(form.weight, form.inverse)
        for g in order:
            cost = state.costs([form.members[g]])[0]
            assert state.remove(form.members[g]) == pytest.approx(cost, rel=1e-9)
        assert state.cost == pytest.approx(form.objective(chosen), rel=1e-9)
        np.testing.assert_allclose(state.weights(form.shape), form.lift(chosen), rtol=1e-8, atol=1e-9)
        kept = np.setdiff1d(np.arange(24), form.columns(chosen))
        at = state.place[kept]
        fresh = np.linalg.inv(form.normal[np.ix_(kept, kept)])
        np.testing.assert_allclose(state.C[np.ix_(at, at)], fresh, rtol=1e-9, atol=1e-9 * np.abs(fresh).max())


@pytest.mark.parametrize("size", [1, 2])
def test_an_exchange_is_worth_what_it_changes(size: int) -> None:
    W, H = layer(2, 5, 8 * size)
    form = QuadraticSubset(W, H, [list(range(g * size, (g + 1) * size)) for g in range(7)], 3)
    removed = np.zeros(7, np.bool_)
    removed[[4, 5, 6]] = True
    before = form.objective([4, 5, 6])
    values = {}
    for s, t in itertools.product([4, 5, 6], range(4)):
        value = sorted({4, 5, 6} - {s} | {t})
        values[s, t] = form.objective(value) - before
    change, s, t = best_exchange(form, removed)
    assert change == pytest.approx(min(values.values()), rel=1e-9)
    assert values[s, t] == min(values.values())


def test_greedy_one_by_one_takes_the_cheapest_each_time() -> None:
    W, H = layer(5, 6, 20)
    form = QuadraticSubset(W, H, [[j] for j in range(20)], 6)
    chosen: list[int] = []
    for _ in range(6):
        costs = {j: form.objective(sorted([*chosen, j])) for j in range(20) if j not in chosen}
        chosen.append(min(costs, key=lambda j: costs[j]))
    for solver in (ObsGreedy(batch=1), ObsGreedy(batch=6, pool=4)):
        assert po.solve(form, solver).value.tolist() == sorted(chosen)


def test_single_precision_says_the_objective_in_double() -> None:
    W, H = layer(6, 20, 48)
    form = QuadraticSubset(W, H, [[j] for j in range(48)], 20, damping=0.01)
    for solver in (ObsGreedy(precision="single"), SlimGpt(precision="single")):
        answer = po.solve(form, solver)
        assert answer.objective == pytest.approx(form.objective(answer.value), rel=1e-12)


@pytest.mark.parametrize(("remove", "batches"), [(150, [64, 64, 22]), (2752, None)])
def test_dynamic_group_size(remove: int, batches: list[int] | None) -> None:
    if (
        batches is None
    ):  # the published sequence for 11008 columns, a quarter removed: 1024, 304, 64, ...; 25 inversions
        b, left, sizes = (remove - 512) // 2, remove, []
        while left:
            sizes.append(min(left, max(b, 64), 1024))
            b, left = (b - 512) // 2, left - sizes[-1]
        assert sizes[:4] == [1024, 304, 64, 64]
        assert len(sizes) == 25
        return
    W, H = layer(1, 8, 200)
    form = QuadraticSubset(W, H, [[j] for j in range(200)], remove, damping=0.01)
    assert po.solve(form, "slimgpt").stats["batches"] == batches


def test_grouped_cholesky_score_of_slimgpt() -> None:
    W, H = layer(8, 5, 12)
    form = QuadraticSubset(W, H, [list(range(4 * g, 4 * g + 4)) for g in range(3)], 1)
    C = np.linalg.inv(H)
    scores = [
        (W[:, g] ** 2 / np.diagonal(np.linalg.cholesky(C[np.ix_(g, g)])) ** 2).sum()
        for g in np.arange(12).reshape(3, 4)
    ]
    assert po.solve(form, "slimgpt").value.tolist() == [int(np.argmin(scores))]


@pytest.mark.parametrize("seed", range(8))
def test_branch_and_bound_finds_and_proves_the_optimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, size = int(rng.integers(6, 11)), int(rng.integers(1, 3))
    W, H = layer(seed, 4, n * size, decay=0.8)
    groups = [list(range(g * size, (g + 1) * size)) for g in range(n)]
    form = QuadraticSubset(W, H, groups, int(rng.integers(2, n - 1)), damping=0.001)
    answer = po.solve(form)
    assert answer.solver == "obs-branch-and-bound"
    assert answer.status is po.Status.OPTIMAL
    assert answer.objective == pytest.approx(brute_force_subset(form), rel=1e-9)
    po.verify(form, answer)
    assert po.solve(form, "obs-swap").objective >= answer.objective * (1 - 1e-9)


def test_twenty_four_columns_are_proven() -> None:
    W, H = layer(0, 30, 24)
    form = QuadraticSubset(W, H, [[j] for j in range(24)], 5, damping=0.01)
    answer = po.solve(form, "obs-branch-and-bound")
    assert answer.status is po.Status.OPTIMAL
    po.verify(form, answer)


def test_branch_and_bound_stopped_early_states_a_valid_bound() -> None:
    W, H = layer(1, 9, 14, decay=1.0)
    form = QuadraticSubset(1e3 * W, H, [[j] for j in range(14)], 7, damping=0.01)
    optimum = po.solve(form, "obs-branch-and-bound").objective
    for nodes in (1, 5, 20):
        early = po.solve(form, ObsBranchAndBound(nodes=nodes))
        assert 0 < early.bound <= optimum * (1 + 1e-9)
        assert early.objective >= optimum * (1 - 1e-9)
        po.verify(form, early)
    unsearched = po.solve(form, ObsBranchAndBound(largest=3))
    assert unsearched.status is po.Status.FEASIBLE
    assert "14 groups, more than 3" in unsearched.message


def test_sparsegpt_sweep_is_the_column_by_column_update() -> None:
    W, H = layer(3, 6, 20)
    form = MaskBlocks(W, H, sparsity=0.5, damping=0.01)
    mask, weights = sparsegpt_weights(form, block=8)
    # The factor of the whole inverse, upper: U^T U = C.
    U = np.linalg.qr(np.linalg.cholesky(np.linalg.inv(form.normal)).T, mode="r")
    U = U * np.sign(np.diagonal(U))[:, None]
    by_hand = W.copy()
    for j in range(20):
        error = np.where(mask[:, j], 0.0, by_hand[:, j] / U[j, j])
        by_hand[:, j:] -= error[:, None] * U[j, j:]
    np.testing.assert_allclose(weights, np.where(mask, by_hand, 0.0), rtol=1e-8, atol=1e-9)
    assert (np.count_nonzero(~mask, axis=1) == 10).all()
    answer = po.solve(form, SparseGpt(block=8))
    assert answer.objective <= form.error(weights, damped=True)
    assert answer.stats["error without refit"] == pytest.approx(form.error(weights))


def test_enumeration_of_one_block_is_the_best_of_all_patterns() -> None:
    W, H = layer(4, 5, 4)
    form = MaskBlocks(W, H, pattern=(2, 4))
    ways = [np.isin(np.arange(4), c) for c in itertools.combinations(range(4), 2)]
    best = sum(min(MaskBlocks(w[None], H, pattern=(2, 4)).objective(way[None]) for way in ways) for w in W)
    assert po.solve(form, "mask-enumeration").objective == pytest.approx(best, rel=1e-9)
    assert po.solve(form, "mask-descent").objective == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("options", [{"pattern": (2, 4)}, {"sparsity": 0.5}])
def test_descent_never_rises_and_counts_what_it_gains(options: dict[str, object]) -> None:
    W, H = layer(9, 12, 32)
    form = MaskBlocks(W, H, damping=0.01, **options)  # type: ignore[arg-type]
    mask, weights = sparsegpt_weights(form)
    losses = [form.error(weights, damped=True)]
    ways = subsets(4, [2] if "pattern" in options else [0, 1, 2, 3, 4])
    for number in range(5):
        shift = 2 * (number % 2) if "sparsity" in options else 0
        _, gained = descend(form.weight, form.normal, mask, weights, 4, ways, shift, 8)
        losses.append(form.error(weights, damped=True))
        assert losses[-2] - losses[-1] == pytest.approx(gained, rel=1e-6, abs=1e-9)
    assert losses == sorted(losses, reverse=True)
    assert form.violation(mask) == 0
    assert not weights[~mask].any()


def test_descent_is_no_worse_than_sparsegpt_and_restarts_no_worse_than_none() -> None:
    W, H = layer(10, 16, 64)
    form = MaskBlocks(W, H, pattern=(2, 4), damping=0.01)
    one, more = po.solve(form, MaskDescent()), po.solve(form, MaskDescent(restarts=3), seed=4)
    assert one.objective < po.solve(form, "sparsegpt").objective
    assert more.objective <= one.objective * (1 + 1e-4)  # compared before the weights are re-solved together
    assert po.solve(form, MaskDescent(restarts=3), seed=4).objective == more.objective


def test_wanda_and_magnitude_are_the_published_scores() -> None:
    W, H = layer(11, 4, 8)
    form = MaskBlocks(W, H, pattern=(2, 4))
    for name, scale in (("wanda", np.sqrt(np.diagonal(H))), ("magnitude", np.ones(8))):
        ranks = np.argsort(np.argsort((np.abs(W) * scale).reshape(-1, 4), axis=1), axis=1)
        answer = po.solve(form, name)
        np.testing.assert_array_equal(answer.value, (ranks >= 2).reshape(W.shape))
        masked = form.error(np.where(answer.value, W, 0))
        assert answer.stats["error without refit"] == pytest.approx(masked)


def test_damping_is_recorded_by_every_solver() -> None:
    W, H = random_layer(np.random.default_rng(0), 3, 8)
    forms = [
        QuadraticSubset(W, H, [[j] for j in range(8)], 3, damping=0.02),
        MaskBlocks(W, H, pattern=(2, 4), damping=0.02),
    ]
    for form in forms:
        for row in po.solvers(form):
            stats = po.solve(form, row.name).stats
            assert stats["damping"] == 0.02
            assert stats["ridge"] == pytest.approx(0.02 * np.trace(H) / 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ObsGreedy(batch=0), r"batch must be a whole number >= \d, got 0"),
        (lambda: ObsGreedy(precision="half"), "precision must be one of 'double', 'single', got 'half'"),
        (lambda: ObsSwap(exchanges=-1), r"exchanges must be a whole number >= \d, got -1"),
        (lambda: ObsBranchAndBound(nodes=0), r"nodes must be a whole number >= \d, got 0"),
        (lambda: SlimGpt(smallest=0), r"smallest must be a whole number >= \d, got 0"),
        (lambda: SparseGpt(block=0), r"block must be a whole number >= \d, got 0"),
        (lambda: MaskEnumeration(lazy=0), r"lazy must be a whole number >= \d, got 0"),
        (lambda: MaskDescent(sweeps=-1), r"sweeps must be a whole number >= \d, got -1"),
    ],
)
def test_bad_options(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_too_many_patterns_are_refused() -> None:
    W, H = layer(1, 2, 32)
    form = MaskBlocks(W, H, pattern=(16, 32))
    for name in ("mask-enumeration", "mask-descent"):
        with pytest.raises(ValueError, match="at most"):
            po.solve(form, name, limits=Limits())
