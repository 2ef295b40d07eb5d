"""Meeting in the middle, integer programs and the golden ratio against enumeration, limits, interrupts."""

from __future__ import annotations

import itertools
import math
import signal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

import prunopt as po
from prunopt.core.arrays import Ints
from prunopt.forms import SubsetSum
from prunopt.forms.random_pools import (
    GAMMA,
    GoldenWidth,
    golden_levels,
    golden_width,
    hyperbolic_samples,
    product_samples,
)
from prunopt.solvers.subset_sum import _meet_in_the_middle as kernel
from prunopt.solvers.subset_sum.golden_ratio import GoldenRatio
from prunopt.solvers.subset_sum.subset_sum_milp import SubsetSumMilp
from prunopt.solvers.subset_sum.subset_sum_mitm import SubsetSumMitm, size_error_fronts, smallest_subsets


def network(seed: int, m: int, n: int, epsilon: float, *, own: bool = False) -> SubsetSum:
    rng = np.random.default_rng(seed)
    return SubsetSum(rng.uniform(-0.5, 0.5, m), rng.uniform(-1, 1, (m, n) if own else n), epsilon)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), own=st.booleans(), grid=st.booleans())
def test_size_error_and_front_against_every_subset(seed: int, own: bool, grid: bool) -> None:
    rng = np.random.default_rng(seed)
    m, n = int(rng.integers(1, 5)), int(rng.integers(0, 10))
    shape = (m, n) if own else (n,)
    candidates = rng.integers(-6, 7, shape) / 4 if grid else rng.normal(size=shape)
    problem = SubsetSum(rng.integers(-9, 10, m) / 4 if grid else rng.normal(size=m), candidates, 0.25)
    every = np.array(list(itertools.product((0.0, 1.0), repeat=n))).reshape(2**n, n)
    smallest, nearest = smallest_subsets(problem), smallest_subsets(problem, objective="error")
    front = size_error_fronts(problem)
    for i, row in enumerate(np.broadcast_to(candidates, (m, n))):
        error, size = np.abs(every @ row - problem.targets[i]), every.sum(axis=1)
        near = 1e-12  # what the sums of this check round
        assert nearest.error[i] == pytest.approx(error.min(), abs=near)
        assert nearest.size[i] == nearest.kept[i].sum() == size[error <= error.min() + near].min()
        assert smallest.settled[i]
        assert smallest.reached[i] == (error.min() <= 0.25)
        if smallest.reached[i]:
            least = size[error <= 0.25].min()
            assert smallest.size[i] == smallest.kept[i].sum() == least
            assert smallest.error[i] == pytest.approx(error[size == least].min(), abs=near)
        else:
            assert smallest.error[i] == pytest.approx(error.min(), abs=near)
        for k in range(n + 1):
            assert front.error[i, k] == pytest.approx(error[size <= k].min(), abs=near)
        assert np.all(np.diff(front.error[i]) <= 0)
    for k in range(n + 1):
        mask = front.mask(np.full(m, k))
        assert np.abs(problem.errors(mask)) == pytest.approx(front.error[:, k], abs=near)
        assert mask.sum(axis=1).tolist() == front.size[:, k].tolist()


def batch_assignment(samples: ArrayLike, width: GoldenWidth, n_weights: int) -> Ints:
    """Deal the samples of one batch out to the weights: entry (j, i) is weight j's sample in interval i, -1 for none.

    The j-th sample that falls into an interval goes to weight j.

    Parameters
    ----------
    samples : (M,) float
        Positive numbers; those outside of all intervals go to nobody.
    width
        The construction, from `golden_width`.
    n_weights
        Number of weights.
    """
    values = np.asarray(samples, np.float64)
    interval = np.floor(np.log(width.high / values) / -math.log(GAMMA)).astype(np.int64)
    interval[values == width.low] = width.levels - 1
    inside = np.flatnonzero((interval >= 0) & (interval < width.levels))
    order = inside[np.argsort(interval[inside], kind="stable")]
    count = np.bincount(interval[inside], minlength=width.levels)
    turn = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
    served = turn < n_weights
    out = np.full((n_weights, width.levels), -1, np.int64)
    out[turn[served], interval[order[served]]] = order[served]
    return out


@pytest.mark.parametrize("own", [False, True])
def test_forty_candidates_by_three_ways(own: bool) -> None:
    """Deep subsets of a pool too large to enumerate: the sizes are proven by the form, the errors by its search."""
    problem = network(3, 4, 40, 1e-8, own=own)
    solution = po.solve(problem, "subset-sum-mitm")
    assert solution.status is po.Status.OPTIMAL
    assert solution.objective >= 20
    assert problem.bound(solution.duals) == solution.objective
    nearest = smallest_subsets(problem, objective="error")
    assert nearest.error == pytest.approx([problem.nearest(i) for i in range(4)], abs=1e-16)


@pytest.mark.parametrize("engine", ["HiGHS", "PULP_CBC_CMD"])
def test_integer_programs_agree(engine: str) -> None:
    problem = network(5, 12, 16, 0.005)
    ours = po.solve(problem, "subset-sum-mitm")
    theirs = po.solve(problem, SubsetSumMilp(engine=engine))
    assert theirs.value.sum(axis=1).tolist() == ours.value.sum(axis=1).tolist()
    assert theirs.status is po.Status.OPTIMAL
    assert theirs.stats["bound"] == "proven by enumeration"


def test_integer_programs_claim_what_enumeration_cannot_check() -> None:
    problem = SubsetSum([4.0], np.full(60, 0.5), 0.1)
    solution = po.solve(problem, "subset-sum-milp")
    assert solution.objective == 8
    far = SubsetSum([10.0], np.r_[np.full(40, 0.5), np.linspace(0.6, 0.601, 20)], 0.05)
    solution = SubsetSumMilp().solve(far, po.Limits(), 0)
    assert solution.objective == 17
    assert solution.bound == 17
    assert not solution.duals
    assert str(solution.stats["bound"]).startswith("claimed by")


def test_an_engine_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"engine must be one that PuLP finds here .*, got 'NONE'"):
        po.solve(network(0, 2, 6, 0.3), SubsetSumMilp(engine="NONE"))


def test_least_error_is_never_worse_and_says_what_it_is() -> None:
    problem = network(7, 30, 14, 0.01)
    small, near = po.solve(problem, "subset-sum-mitm"), po.solve(problem, SubsetSumMitm(objective="error"))
    assert np.all(np.abs(problem.errors(near.value)) <= np.abs(problem.errors(small.value)))
    assert near.objective > small.objective
    assert near.status is po.Status.FEASIBLE
    assert "least error" in near.message
    assert near.bound <= small.objective
    with pytest.raises(ValueError, match="objective must be one of 'size', 'error', got 'x'"):
        SubsetSumMitm(objective="x")
    with pytest.raises(ValueError, match="objective must be 'size' for more than 44 candidates, got 'error' with 50"):
        po.solve(network(0, 2, 50, 0.01), SubsetSumMitm(objective="error"))


def test_many_candidates_are_solved_as_far_as_enumeration_goes() -> None:
    problem = network(2, 50, 100, 0.001)
    solution = po.solve(problem, "subset-sum-mitm")
    assert solution.status is po.Status.OPTIMAL
    by_model = po.solve(SubsetSum(problem.targets[:5], problem.candidates, 0.001), "subset-sum-milp")
    assert by_model.objective == solution.value[:5].sum()
    deep = SubsetSum([30.0], np.full(60, 1.0), 0.5)
    found = po.solve(deep, "subset-sum-mitm")
    assert found.objective == 30
    assert found.bound == 30, "by size alone"
    unsettled = SubsetSum([7.5], np.r_[np.full(60, 0.5), np.full(20, 9.0)], 0.1)
    found = po.solve(unsettled, "subset-sum-mitm")
    assert found.status is po.Status.FEASIBLE
    assert found.objective == 15
    assert found.bound == unsettled.provable_size + 1
    assert "subsets up to" in found.message
    wide = po.solve(network(2, 5, 130, 0.01), "subset-sum-mitm")
    assert wide.status is po.Status.FEASIBLE
    assert "more than 128 candidates" in wide.message


def test_limits_leave_a_valid_bound() -> None:
    problem = network(1, 3000, 24, 0.001)
    assert po.solve(problem, "subset-sum-mitm").status is po.Status.OPTIMAL
    some = SubsetSumMitm().solve(problem, po.Limits(evaluations=300), 0)
    assert some.stats["settled targets"] == 300
    assert some.status is po.Status.FAILED
    assert "stopped by its limits: 300 of 3000 targets are settled" in some.message
    easy = SubsetSum(problem.targets, np.r_[2.0 ** -np.arange(1, 9), -(2.0 ** -np.arange(1, 9))], 0.005)
    some = po.solve(easy, "subset-sum-mitm", limits=po.Limits(evaluations=300))
    whole = po.solve(easy, "subset-sum-mitm")
    assert some.status is po.Status.FEASIBLE
    assert some.bound < whole.objective <= some.objective


@pytest.mark.parametrize("name", ["fewest", "nearest"])
def test_interrupt_keeps_what_is_settled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = SubsetSum(
        np.random.default_rng(0).uniform(-0.4, 0.4, 4000), [s / 2**k for k in range(1, 9) for s in (1, -1)], 0.01
    )
    real, count = getattr(kernel, name), [0]

    def stopping(*arguments: Any) -> Any:
        count[0] += 1
        if count[0] == 2:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(kernel, name, stopping)
    solver = SubsetSumMitm(objective="size" if name == "fewest" else "error")
    solution = solver.solve(problem, po.Limits(), 0)
    assert solution.status is po.Status.FEASIBLE
    assert solution.message.startswith("interrupted")
    assert solution.stats["settled targets"] == 256
    assert problem.violation(solution.value) == 0
    assert problem.bound(solution.duals) == solution.bound < solution.objective


def test_front_of_the_network_falls_between_its_ends() -> None:
    problem = network(9, 60, 12, 1e-3)
    front = size_error_fronts(problem)
    kept, rms = front.trade(np.array([0.0, 1e-6, 1e-4, 1e-2, 10.0]))
    nearest = smallest_subsets(problem, objective="error")
    assert kept[0] == nearest.size.sum()
    assert rms[0] == pytest.approx(np.sqrt(np.mean(nearest.error**2)))
    assert kept[-1] == 0
    assert np.all(np.diff(kept) < 0)
    assert np.all(np.diff(rms) > 0)
    with pytest.raises(ValueError, match="largest must be a whole number >= 0 and <= 12, got 13"):
        size_error_fronts(problem, largest=13)


def test_golden_decomposition_reaches_every_weight_with_any_numbers_in_the_intervals() -> None:
    rng = np.random.default_rng(0)
    width = golden_width(0.01, 0.01)
    k = width.levels
    assert k == golden_levels(0.01) == 10
    edges = width.high * GAMMA ** np.arange(k + 1)
    worst = 0.0
    for trial in range(40):
        inside = bool(trial % 2)
        u = rng.uniform(0.01, 0.99, k) if inside else rng.integers(0, 2, k).astype(float)
        ladder = edges[1:] + u * (edges[:-1] - edges[1:])
        targets = np.r_[rng.uniform(-1, 1, 50), 1.0, -1.0]
        problem = SubsetSum(targets, np.r_[ladder, -ladder], 0.01)
        solver = GoldenRatio(spares=not inside, top=width.high, repair=False)
        solution = po.solve(problem, solver)
        assert solution.stats["decomposed"] == len(targets)
        worst = max(worst, float(np.abs(problem.errors(solution.value)).max()))
    assert 0.007 < worst <= 0.01


def test_golden_takes_one_of_each_interval_and_spares_help() -> None:
    problem = SubsetSum([0.95, 0.5], [0.5, 0.45], 0.01)  # one interval holds both, the others are empty
    paper = GoldenRatio(spares=False, repair=False)
    with pytest.raises(po.SolveError, match="an interval is empty"):
        po.solve(SubsetSum([0.95, 0.31], [0.5, 0.45, -0.19], 0.01), paper)
    # What the paper's rule misses is taken greedily from all candidates before the solver gives up.
    assert po.solve(problem, paper).stats["answered greedily"] == 1
    assert po.solve(problem, GoldenRatio(repair=False)).stats["decomposed"] == 2
    assert po.solve(problem, GoldenRatio(spares=False)).stats["repaired"] == 1
    with pytest.raises(ValueError, match="top must be a finite number > 0, got 0"):
        GoldenRatio(top=0)


def test_golden_width_is_enough() -> None:
    """Failures among 200 seeds stay near delta, for one weight and for a batch, plain and product weights."""
    delta, seeds = 0.05, 200
    noise = 3 * np.sqrt(delta * (1 - delta) * seeds)
    for n_weights, product in ((1, False), (20, False), (1, True)):
        width = golden_width(0.01, delta, n_weights=n_weights, product=product)
        assert n_weights * width.levels < width.samples <= min(width.closed_form, width.separate)
        failed = 0
        for seed in range(seeds):
            if product:
                u, v = product_samples(width.samples, width.low, width.high, seed=seed)
                samples = u * v
            else:
                samples = hyperbolic_samples(width.samples, width.low, width.high, seed=seed)
            dealt = batch_assignment(samples, width, n_weights)
            assert len(set(dealt[dealt >= 0].tolist())) == np.count_nonzero(dealt >= 0), "a sample serves one weight"
            failed += bool(np.any(dealt < 0))
        assert 0 < failed <= delta * seeds + noise


def test_dealt_samples_lie_in_their_intervals() -> None:
    width = golden_width(0.001, 0.1, n_weights=3)
    samples = hyperbolic_samples(width.samples, width.low / 2, width.high * 2, seed=1)
    dealt = batch_assignment(samples, width, 3)
    for i in range(width.levels):
        mine = samples[dealt[dealt[:, i] >= 0, i]]
        assert np.all(mine <= width.high * GAMMA**i * (1 + 1e-12))
        assert np.all(mine >= width.high * GAMMA ** (i + 1) * (1 - 1e-12))
    assert batch_assignment([width.low, width.high], width, 1)[0, [0, -1]].tolist() == [1, 0]


def test_hyperbolic_samples_have_equal_mass_in_equal_ratios() -> None:
    values = hyperbolic_samples(40_000, 0.01, 1.0, seed=0, signed=True)
    share = np.histogram(np.log(np.abs(values)), np.log([0.01, 0.1, 1.0]))[0] / 40_000
    assert share == pytest.approx([0.5, 0.5], abs=0.01)
    assert np.mean(values > 0) == pytest.approx(0.5, abs=0.01)
    assert np.array_equal(values, hyperbolic_samples(40_000, 0.01, 1.0, seed=0, signed=True))
    u, v = product_samples(40_000, 0.01, 1.0, seed=0)
    inside = np.mean((u * v >= 0.01) & (u * v <= 1.0))
    assert inside == pytest.approx(0.75, abs=0.01), "the middle half of a triangle"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 2.0, "delta": 0.1}, "epsilon must be .* < 1, got 2.0"),
        ({"epsilon": 0.0, "delta": 0.1}, "epsilon must be .* got 0.0"),
        ({"epsilon": 0.1, "delta": 1.0}, "delta must be .* got 1.0"),
        ({"epsilon": 0.1, "delta": 0.1, "n_weights": 0}, "n_weights must be .* got 0"),
    ],
)
def test_bad_widths(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        golden_width(**arguments)


def test_bad_samples() -> None:
    with pytest.raises(ValueError, match=r"low must be .* got 0\.0"):
        hyperbolic_samples(3, 0.0, 1.0, seed=0)
