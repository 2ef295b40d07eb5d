"""Choices coupled along edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prunopt import load_form, save_form, solve, verify
from prunopt.core.solution import Status
from prunopt.core.solver import Limits
from prunopt.forms import CoupledKnapsack
from prunopt.problems.channel_widths import ChannelWidths, LayerCost
from prunopt.solvers.knapsack.coupled_dp import CoupledDp
from prunopt.testing.choices import brute_force_coupled, random_coupled


@pytest.mark.parametrize("shape", ["chain", "star", "forest"])
@pytest.mark.parametrize("seed", range(8))
def test_dynamic_programming_is_brute_force(shape: str, seed: int) -> None:
    problem = random_coupled(np.random.default_rng(seed), shape)
    answer, best = solve(problem, "coupled-dp", throw=False), brute_force_coupled(problem)
    if best is None:
        assert answer.status is Status.INFEASIBLE
        return
    assert answer.status is Status.OPTIMAL
    assert answer.objective == pytest.approx(best, abs=1e-12)
    verify(problem, answer)


@pytest.mark.parametrize("shape", ["chain", "circle"])
@pytest.mark.parametrize("seed", range(4))
def test_the_integer_program_is_brute_force(shape: str, seed: int) -> None:
    problem = random_coupled(np.random.default_rng(50 + seed), shape)
    assert solve(problem, "pulp").objective == pytest.approx(brute_force_coupled(problem), abs=1e-8)


def test_min_marginals_are_what_they_say() -> None:
    rng = np.random.default_rng(3)
    problem = random_coupled(rng, "chain")
    inner, outer = problem.messages(0.3)
    best = np.full(problem.loss.shape, np.inf)
    for x in np.ndindex(*[problem.loss.shape[1]] * problem.n_groups):
        v = np.array(x)
        if np.all(np.isfinite(problem.loss[np.arange(len(v)), v])):
            value = problem.objective(v) + 0.3 * problem.used(v)
            best[np.arange(len(v)), v] = np.minimum(best[np.arange(len(v)), v], value)
    there = np.isfinite(best)
    np.testing.assert_allclose((inner + outer)[there], best[there], rtol=1e-12)


def test_a_circle_has_a_valid_bound_and_no_claim() -> None:
    for seed in range(12):
        problem = random_coupled(np.random.default_rng(seed), "circle")
        answer, best = solve(problem, "coupled-dp", throw=False), brute_force_coupled(problem)
        if best is not None and answer.status.has_value:
            assert answer.bound <= best + 1e-9 <= answer.objective + 1e-6


def large(rng: np.random.Generator, groups: int = 30, options: int = 8) -> CoupledKnapsack:
    widths = np.arange(options, 0, -1) / options
    loss = rng.random((groups, 1)) * (1 - widths) ** 2
    edges = np.array([(i, int(rng.integers(0, i))) for i in range(1, groups)])
    pair = np.rint(rng.integers(50, 2000, (groups - 1, 1, 1)) * widths[:, None] * widths[None, :] * 64)
    whole = pair[:, 0, 0].sum()
    return CoupledKnapsack(loss, np.zeros_like(loss), edges, pair, float(np.floor(0.6 * whole)))


def test_a_network_sized_tree_is_solved_to_the_last_digit() -> None:
    problem = large(np.random.default_rng(0))
    answer = solve(problem, "coupled-dp")
    assert answer.status is Status.OPTIMAL
    assert answer.objective - answer.stats["lagrangian bound"] < 0.02 * answer.objective
    assert problem.used(answer.value) <= problem.budget


def test_too_few_states_are_admitted() -> None:
    answer = solve(large(np.random.default_rng(1)), CoupledDp(max_states=1), limits=Limits(gap=0.0))
    assert answer.status is Status.FEASIBLE
    assert "not proven" in answer.message
    assert answer.bound <= answer.objective


def test_round_trip(tmp_path: Path) -> None:
    problem = random_coupled(np.random.default_rng(2), "star")
    save_form(problem, tmp_path / "form.npz")
    assert load_form(tmp_path / "form.npz").used(np.zeros(problem.n_groups, int)) == problem.used(
        np.zeros(problem.n_groups, int)
    )


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([[1.0]], [[1.0, 2.0]], [], [], 1.0), "loss"),
        (([[np.inf]], [[1.0]], [], [], 1.0), "missing options only"),
        (([[1.0]], [[-1.0]], [], [], 1.0), "cost"),
        (([[1.0]] * 2, [[1.0]] * 2, [(0, 0)], [[[1.0]]], 1.0), "edges"),
        (([[1.0]] * 2, [[1.0]] * 2, [(0, 1), (1, 0)], [[[1.0]], [[1.0]]], 1.0), "name each pair once"),
        (([[1.0]], [[1.0]], [], [], -1.0), "budget"),
    ],
)
def test_bad_input(arguments: tuple[object, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        CoupledKnapsack(*arguments)  # type: ignore[arg-type]


def widths_task(budget: float) -> ChannelWidths:
    """Three layers in a row: in 3 -> a -> b -> out 2, at one multiply-add for each pair of channels."""
    a, b = [4, 2], [6, 3]
    layers = [
        LayerCost(-1, 0, [[3 * w for w in a]]),
        LayerCost(0, 1, [[v * w for w in b] for v in a]),
        LayerCost(1, -1, [[2 * w] for w in b]),
    ]
    return ChannelWidths([a, b], [[0.0, 1.0], [0.0, 0.4]], layers, budget)


def test_widths_of_a_chain() -> None:
    task = widths_task(48)
    assert task.used(np.array([4, 6])) == 12 + 24 + 12
    assert solve(task, "coupled-dp").value.tolist() == [4, 6]
    assert solve(widths_task(47), "coupled-dp").value.tolist() == [4, 3]
    assert solve(widths_task(29), "coupled-dp").value.tolist() == [2, 3]
    with pytest.raises(ValueError, match="18"):
        widths_task(17)
    with pytest.raises(ValueError, match="must be one of 4, 2"):
        task.objective(np.array([5, 6]))


def test_a_file_of_the_old_name_is_read(tmp_path: Path) -> None:
    form = CoupledKnapsack([[1.0, 0.0]], [[0.0, 1.0]], [], [], 1.0)
    save_form(form, tmp_path / "form.npz")
    with np.load(tmp_path / "form.npz") as held:
        arrays = dict(held)
    header = arrays.pop("header").tobytes().replace(b"CoupledKnapsack", b"CoupledChoice")
    np.savez(tmp_path / "old.npz", header=np.frombuffer(header, np.uint8), **arrays)
    assert isinstance(load_form(tmp_path / "old.npz"), CoupledKnapsack)
