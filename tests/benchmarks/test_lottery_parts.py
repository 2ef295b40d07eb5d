"""What only the benchmark of lottery tickets needs: shared neurons, spread tolerances, edge-popup."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks.lottery_edge_popup import edge_popup  # noqa: E402
from benchmarks.lottery_shared_neurons import fewest_neurons  # noqa: E402
from benchmarks.lottery_tolerances import fronts_of, spread_tolerances, uniform_tolerance  # noqa: E402
from prunopt.problems import LotteryTicket  # noqa: E402

nn = torch.nn


def target(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def brute_force_neurons(targets: Any, candidates: Any, epsilon: float) -> int | None:
    n = candidates.shape[1]
    every = np.array(list(itertools.product((False, True), repeat=n)))
    hits = [every[np.abs(every @ row - t) <= epsilon] for t, row in zip(targets, candidates, strict=True)]
    sizes = [s.sum() for s in every if all((~h | s).all(axis=1).any() for h in hits)]
    return min(sizes, default=None)


def test_fewest_neurons_against_every_set() -> None:
    rng = np.random.default_rng(0)
    infeasible = 0
    for _ in range(40):
        m, n = int(rng.integers(1, 5)), int(rng.integers(1, 8))
        t, a = rng.uniform(-0.5, 0.5, m), rng.uniform(-1, 1, (m, n))
        best = brute_force_neurons(t, a, 0.1)
        if best is None:
            infeasible += 1
            with pytest.raises(ValueError, match="no subset of the"):
                fewest_neurons(t, a, 0.1)
            continue
        found = fewest_neurons(t, a, 0.1)
        assert found.n_neurons == best
        assert not (found.kept & ~found.neurons).any()
        assert (np.abs(np.where(found.kept, a, 0.0).sum(axis=1) - t) <= 0.1 + 1e-12).all()
    assert 0 < infeasible < 40


def test_spread_tolerances_keep_fewer_at_the_same_certificate() -> None:
    task = LotteryTicket(target(), 0.01, rescale=True, nonnegative_input=True, width=24)
    fronts = fronts_of(task, 6)
    plain, ours = (f(task, 0.05, fronts=fronts) for f in (uniform_tolerance, spread_tolerances))
    assert plain.certificate.error_bound <= 0.05
    assert ours.certificate.error_bound <= 0.05
    assert ours.kept < plain.kept
    with pytest.raises(ValueError, match="nearest subsets are certified to"):
        spread_tolerances(task, 1e-9, fronts=fronts)


def test_edge_popup_keeps_the_share_and_leaves_the_weights() -> None:
    net = LotteryTicket(target(), 0.01, rescale=True, nonnegative_input=True, width=6).random_network()
    x = torch.rand(120, 6)
    y = (x[:, 0] > x[:, 1]).long() + (x[:, 2] > 0.7).long()
    found = edge_popup(net, x, y, keep=0.5, epochs=10)
    for masked, drawn in zip(found.module.parameters(), net.parameters(), strict=True):
        assert ((masked == 0) | (masked == drawn)).all()
    assert sum(int((p != 0).sum()) for p in found.module.parameters()) == found.kept
    assert abs(found.kept - 0.5 * found.sampled) < 4
    with torch.no_grad():
        right = (found.module(x).argmax(dim=1) == y).double().mean()
        before = (net(x).argmax(dim=1) == y).double().mean()
    assert right > before + 0.1
