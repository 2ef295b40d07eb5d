"""Learned masks: against every mask, resumed, stopped, and in both kinds of logits."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prunopt as po
from prunopt.forms import RelaxedMask
from prunopt.testing.relaxed import brute_force_relaxed, linear_layer

torch = pytest.importorskip("torch")

from prunopt.solvers.relaxed._inclusion import inclusion_in_chunks, inclusion_probabilities  # noqa: E402
from prunopt.solvers.relaxed.maskllm import MaskLLM  # noqa: E402
from prunopt.solvers.relaxed.maskllm_exchange import LearnedExchange  # noqa: E402


@pytest.mark.parametrize(("m", "n"), [(4, 2), (6, 3), (5, 1), (5, 4), (3, 3)])
def test_inclusion_probabilities_are_those_of_the_subsets(m: int, n: int) -> None:
    theta = torch.randn(7, m, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(0))
    subsets = list(combinations(range(m), n))
    weight = torch.stack([theta[:, list(s)].sum(1) for s in subsets], 1).softmax(1)
    expected = torch.stack([sum(weight[:, k] * (j in s) for k, s in enumerate(subsets)) for j in range(m)], 1)
    assert torch.allclose(inclusion_probabilities(theta, n), expected)
    if n < m:
        assert torch.autograd.gradcheck(lambda t: inclusion_probabilities(t, n), theta)


def test_chunks_of_rows_have_the_same_probabilities_and_gradients() -> None:
    theta = torch.randn(11, 5, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(0))
    assert torch.equal(inclusion_in_chunks(theta, 2, rows=4), inclusion_probabilities(theta, 2))
    assert torch.autograd.gradcheck(lambda t: inclusion_in_chunks(t, 2, rows=4), theta)


def test_inclusion_probabilities_survive_extreme_logits() -> None:
    theta = torch.tensor([[500.0, -500.0, 300.0, -900.0]], requires_grad=True)
    p = inclusion_probabilities(theta, 2)
    torch.autograd.backward(p.sum())
    assert torch.allclose(p, torch.tensor([[1.0, 0.0, 1.0, 0.0]]))
    assert theta.grad is not None
    assert torch.isfinite(theta.grad).all()


@pytest.mark.parametrize("options", [{}, {"logits": "entry"}, {"noise": "antithetic"}, {"straight_through": True}])
def test_it_finds_good_masks(options: dict[str, Any]) -> None:
    gaps = []
    for seed in range(6):
        problem = linear_layer(np.random.default_rng(seed), 1, 3)
        best = brute_force_relaxed(problem)
        solver = MaskLLM(steps=150, check=10, **options)
        gaps.append(po.solve(problem, solver, seed=seed).objective / best - 1)
    assert np.mean(np.array(gaps) < 1e-9) >= 0.5
    assert np.mean(gaps) < 0.1


def test_the_expected_loss_is_the_mean_over_all_choices() -> None:
    problem = linear_layer(np.random.default_rng(4), 1, 3, (1, 2))
    assert problem.expected_loss is not None
    p = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).softmax(1)
    chance = {k: float(torch.stack([p[g, c] for g, c in enumerate(k)]).prod()) for k in product(range(2), repeat=3)}
    mean = sum(w * problem.objective([np.array(k)]) for k, w in chance.items())
    assert float(problem.expected_loss([p], 0)) == pytest.approx(mean, rel=1e-9)


def test_descent_on_the_expected_loss_has_no_noise_and_finds_good_masks() -> None:
    gaps = []
    for seed in range(6):
        problem = linear_layer(np.random.default_rng(seed), 1, 3)
        solver = MaskLLM(steps=150, noise="expected", kappa=(10.0, 50.0))
        gaps.append(po.solve(problem, solver, seed=seed).objective / brute_force_relaxed(problem) - 1)
    assert np.mean(gaps) < 0.1
    bare = replace(problem, expected_loss=None)
    with pytest.raises(ValueError, match="expected_loss"):
        po.solve(bare, MaskLLM(noise="expected"))


def test_judging_samples_never_makes_it_worse() -> None:
    for seed in range(4):
        problem = linear_layer(np.random.default_rng(seed), 1, 4)
        without = po.solve(problem, MaskLLM(steps=60, check=1), seed=seed)
        sampled = po.solve(problem, MaskLLM(steps=60, check=1, check_samples=True), seed=seed)
        assert sampled.objective <= without.objective
        assert sampled.stats["final"] == without.stats["final"]


def test_no_exchange_of_one_block_is_left() -> None:
    for seed in range(3):
        problem = linear_layer(np.random.default_rng(seed), 2, 3)
        found = po.solve(problem, LearnedExchange(MaskLLM(steps=20)), seed=seed)
        assert found.stats["one_exchange_minimum"]
        assert found.objective <= found.stats["learned"]
        for g, c in product(range(6), range(6)):
            other = found.value[0].copy()
            other[g] = c
            assert problem.objective([other]) >= found.objective - 1e-9


def test_exchanges_stop_at_the_limit() -> None:
    problem = linear_layer(np.random.default_rng(1), 2, 3)
    found = po.solve(problem, LearnedExchange(MaskLLM(steps=5)), limits=po.Limits(evaluations=8))
    assert not found.stats["one_exchange_minimum"]
    assert problem.violation(found.value) == 0


def test_a_prior_is_where_it_starts() -> None:
    problem = linear_layer(np.random.default_rng(3), 2, 4)
    prior = np.tile([1.0, 0, 0, 1], (8, 1))
    strong = MaskLLM(steps=10, prior_strength=50.0)
    given = replace(problem, prior=[prior])
    none = po.solve(given, strong, limits=po.Limits(evaluations=0))
    assert np.array_equal(given.points(none.value)[0], prior)
    assert none.stats["steps"] == 0
    assert "limit" in none.message


def test_killed_and_resumed_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    problem = linear_layer(np.random.default_rng(5), 2, 3)
    solver = MaskLLM(steps=40, check=5, every=4)
    whole = po.solve(problem, solver, seed=2)
    for stop in (13, 9, 40):
        part = po.solve(problem, replace(solver, folder=str(tmp_path)), seed=2, limits=po.Limits(evaluations=stop))
    assert part.stats["steps"] == 40
    assert part.stats["history"] == whole.stats["history"]
    assert np.array_equal(part.value[0], whole.value[0])
    assert part.objective == whole.objective
    assert sorted(p.name for p in tmp_path.iterdir()) == ["maskllm.safetensors"]


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    problem = linear_layer(np.random.default_rng(5), 1, 2)
    solver = MaskLLM(steps=4, every=2, folder=str(tmp_path))
    po.solve(problem, solver, seed=2)
    with pytest.raises(ValueError, match="must belong to this problem, seed and options, got others"):
        po.solve(problem, solver, seed=3)
    with pytest.raises(ValueError, match="must belong to this problem, seed and options, got others"):
        po.solve(replace(problem, identity="other data"), solver, seed=2)
    (tmp_path / "maskllm.safetensors").write_bytes(b"no such thing")
    with pytest.raises(ValueError, match="cannot be read"):
        po.solve(problem, solver, seed=2)


def test_a_nan_loss_stops_and_keeps_the_last_good_state() -> None:
    sound = linear_layer(np.random.default_rng(6), 1, 2)

    def loss(points: list[Any], step: int) -> Any:
        assert sound.relaxed_loss is not None
        return sound.relaxed_loss(points, step) * (math.nan if step >= 7 else 1.0)

    broken = replace(sound, relaxed_loss=loss)
    answer = po.solve(broken, MaskLLM(steps=30), seed=1)
    seven = po.solve(sound, MaskLLM(steps=30), seed=1, limits=po.Limits(evaluations=7))
    assert answer.stats["steps"] == 7
    assert "nan" in answer.message
    assert np.array_equal(answer.value[0], seven.value[0])


def test_memory_of_entry_logits_does_not_grow_with_the_number_of_masks() -> None:
    rng = np.random.default_rng(0)
    small, large = linear_layer(rng, 1, 4, (2, 4)), linear_layer(rng, 1, 2, (4, 8))
    assert MaskLLM().memory(large) > 4 * MaskLLM().memory(small)
    assert MaskLLM(logits="entry").memory(large) < 2 * MaskLLM(logits="entry").memory(small)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"steps": 0}, "steps must be .* got 0"), ({"noise": "loud"}, "got 'loud'"), ({"logits": "row"}, "got 'row'"),
        ({"tau": (0.0, 1.0)}, "tau"), ({"accumulate": 0}, "accumulate must be .* got 0"),
        ({"straight_through": True, "logits": "entry"}, "straight_through"),
        ({"noise": "expected", "logits": "entry"}, "expected"),
    ],
)  # fmt: skip
def test_bad_options_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        MaskLLM(**options)


def test_problems_it_cannot_take() -> None:
    no_gradient = RelaxedMask([1], [np.eye(3)], lambda points: 0.0)
    with pytest.raises(ValueError, match="relaxed_loss"):
        po.solve(no_gradient, "maskllm")
    uneven = RelaxedMask([1], [np.tril(np.ones((3, 3)))], lambda points: 0.0, lambda points, step: points[0].sum())
    with pytest.raises(ValueError, match=r"logits must be 'candidate' unless every table .* got 'entry' with table"):
        po.solve(uneven, MaskLLM(logits="entry"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (([], []), "groups"), (([0], [np.eye(2)]), "groups"), (([1], [np.eye(2), np.eye(2)]), "candidates"),
        (([1], [[[np.nan]]]), "candidates"),
    ],
)  # fmt: skip
def test_bad_forms_are_named(arguments: tuple[Any, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        RelaxedMask(*arguments, lambda points: 0.0)
    with pytest.raises(ValueError, match="prior"):
        RelaxedMask([2], [np.eye(3)], lambda points: 0.0, prior=[np.ones((1, 3))])
