"""Lottery tickets: the sub-network computes the target, its weights are the draws, its certificate holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import prunopt as po  # noqa: E402
from prunopt.problems import LotteryTicket  # noqa: E402
from prunopt.problems.lottery.certificate import operator_norm  # noqa: E402
from prunopt.solvers.subset_sum.golden_ratio import GoldenRatio  # noqa: E402

nn = torch.nn


def linear_target(seed: int = 0, *, bias: bool = True) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 6, bias=bias), nn.ReLU(), nn.Linear(6, 3, bias=bias))


def wide_target() -> Any:
    layer = nn.Linear(3, 2, bias=False)
    layer.weight.data = torch.tensor([[0.7, -0.1, 0.2], [0.1, 0.0, -0.3]])
    return nn.Sequential(layer)


def conv_target() -> Any:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU()),
        nn.Conv2d(4, 4, (3, 1), stride=2, padding=(1, 0), groups=2),
        nn.Conv2d(4, 2, 2, dilation=2, bias=False),
        nn.Flatten(),
        nn.ReLU(),
        nn.Linear(2 * 1 * 1, 3),
    )


def ball(shape: tuple[int, ...], count: int = 400, *, nonnegative: bool = False) -> Any:
    x = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x.abs() if nonnegative else x
    return x / x.flatten(1).norm(dim=1).view(-1, *[1] * len(shape))


@pytest.mark.parametrize("construction", ["subset-sum", "golden-ratio"])
@pytest.mark.parametrize("case", ["signed", "nonnegative", "no bias", "convolutions"])
def test_the_sub_network_is_the_target_and_all_its_weights_are_draws(construction: str, case: str) -> None:
    shape = (2, 6, 6) if case == "convolutions" else (5,)
    target = conv_target() if case == "convolutions" else linear_target(bias=case != "no bias")
    target = target.double()
    sign = case == "nonnegative"
    task = LotteryTicket(
        target, 0.02, construction=construction, rescale=True, nonnegative_input=sign, input_shape=shape, seed=3
    )
    solution = po.solve(task)
    assert solution.status is po.Status.OPTIMAL
    po.verify(task, solution)
    x = ball(shape, nonnegative=sign)
    whole = task.random_network()
    for compact in (True, False):
        ticket = task.ticket(solution.value, compact=compact)
        with torch.no_grad():
            far = (target(x) - ticket.module(x)).norm(dim=1).max().item()
        c = ticket.certificate
        assert 0 < far <= c.error_bound <= c.a_priori_bound
        assert c.largest_weight_error <= 0.02 * (1 + 1e-6)
        stays = sum(int((p != 0).sum()) for p in ticket.module.parameters())
        assert stays == ticket.counts["kept"] == ticket.counts["kept_first"] + solution.objective
    for pruned, drawn in zip(ticket.module.parameters(), whole.parameters(), strict=True):
        assert ((pruned == 0) | (pruned == drawn)).all()
    assert sum(p.numel() for p in whole.parameters()) == ticket.counts["sampled"]
    assert all(float(p.detach().abs().min()) > 0 for p in whole.parameters())


def test_signed_inputs_need_both_halves() -> None:
    """The mask of the positive half alone is right for inputs above 0 only, and the task says so."""
    task = LotteryTicket(linear_target(bias=False), 0.02, rescale=True)
    value = po.solve(task).value
    half = tuple(mask & (pair.first > 0)[pair.layer.pool_of] for mask, pair in zip(value, task.pairs, strict=True))
    assert task.violation(value) == 0
    assert task.violation(half) > 1
    behind = LotteryTicket(linear_target(bias=False), 0.02, rescale=True, nonnegative_input=True)
    assert len(behind.blocks) == 2
    assert len(task.blocks) == 3


def test_a_forged_mask_is_refused() -> None:
    task = LotteryTicket(linear_target(), 0.02, rescale=True)
    solution = po.solve(task)
    masks = [mask.copy() for mask in solution.value]
    masks[0][tuple(np.argwhere(masks[0])[0])] = False
    from dataclasses import replace

    with pytest.raises(po.CertificateError, match="breaks the constraints"):
        po.verify(task, replace(solution, value=tuple(masks), objective=solution.objective - 1))


def test_the_papers_decomposition_reaches_every_weight_and_is_never_smaller() -> None:
    task = LotteryTicket(linear_target(), 0.01, construction="golden-ratio", rescale=True)
    paper = po.solve(task, GoldenRatio(repair=False))
    best = po.solve(task)
    assert paper.stats["decomposed"] == task.reduce().form.n_targets
    assert best.objective <= paper.objective


def test_same_seed_same_network_other_seed_other_network() -> None:
    a, b, c = (LotteryTicket(linear_target(), 0.02, rescale=True, seed=s).pairs[0].first for s in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_the_norm_of_a_convolution_is_an_upper_bound() -> None:
    torch.manual_seed(0)
    for options in ({"padding": 1}, {"stride": 2, "padding": 1}, {"dilation": 2}, {"groups": 2}):
        conv = nn.Conv2d(4, 6, 3, bias=False, **options).double()
        task = LotteryTicket(nn.Sequential(conv), 1e-3, rescale=True, input_shape=(4, 7, 7))
        layer = task.target.layers[0]
        unit = torch.eye(4 * 49, dtype=torch.float64).reshape(-1, 4, 7, 7)
        exact = float(torch.linalg.matrix_norm(conv(unit).detach().flatten(1), 2))
        bound = operator_norm(layer, layer.weights.reshape(6, -1, 9))
        assert exact <= bound <= 6 * exact


def test_a_weight_without_a_solution_is_named() -> None:
    with pytest.raises(po.SolveError) as error:
        po.solve(LotteryTicket(linear_target(), 0.001, rescale=True, width=12))
    text = str(error.value)
    assert "layer 0 (Linear).weight[" in text or "(Linear).bias[" in text
    assert "comes no nearer than" in text
    assert "candidates like these" in text


@pytest.mark.parametrize("seed", range(3))
def test_weights_up_to_a_half_need_no_rescaling(seed: int) -> None:
    layer = nn.Linear(4, 3, bias=False)
    layer.weight.data = torch.rand(3, 4, generator=torch.Generator().manual_seed(seed)) - 0.5
    task = LotteryTicket(nn.Sequential(layer), 0.01, seed=seed)
    solution = po.solve(task)
    po.verify(task, solution)
    assert all(float(np.abs(pair.first).max()) <= 1 for pair in task.pairs)
    assert task.ticket(solution.value).certificate.largest_weight_error <= 0.01


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epsilon": 0.0}, "epsilon must be .* got 0.0"),
        ({"epsilon": float("nan")}, "epsilon must be .* got nan"),
        ({"epsilon": 3.0}, "below the largest weight"),
        (
            {"rescale": False, "target_module": wide_target()},
            r"at most 0\.5 .*rescale=True draws",
        ),
        ({"construction": "gold"}, "construction must be one of 'subset-sum', 'golden-ratio', got 'gold'"),
        ({"delta": 1.0}, "delta must be a finite number > 0 and < 1, got 1.0"),
        ({"width": 0}, "width must be a whole number >= 1, got 0"),
        ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
        (
            {"target_module": nn.Sequential(nn.Linear(2, 2), nn.GELU())},
            r"layer 1 \(GELU\) must be one of Linear",
        ),
        ({"target_module": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))}, "BatchNorm1d.*fold it"),
        ({"target_module": nn.Sequential(nn.ReLU())}, "target_module must have a Linear or Conv2d to imitate"),
        ({"target_module": nn.Sequential(nn.Conv2d(1, 1, 3))}, "input_shape"),
        (
            {"target_module": nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2))},
            r"have shape \(3,\), got \(2,\)",
        ),
    ],
    ids=str,
)
def test_bad_input(change: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"target_module": linear_target(), "epsilon": 0.01, "rescale": True, **change}
    with pytest.raises(ValueError, match=words):
        _ = LotteryTicket(**given).pairs


def test_no_sequential_and_no_finite_weights() -> None:
    with pytest.raises(TypeError, match=r"target_module must be a torch.nn.Sequential, got Linear"):
        LotteryTicket(nn.Linear(2, 2), 0.01)
    broken = linear_target()
    with torch.no_grad():
        broken[0].weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match="must hold finite numbers"):
        LotteryTicket(broken, 0.01)
