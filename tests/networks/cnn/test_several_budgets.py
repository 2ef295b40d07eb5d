"""A convolutional network within several budgets at once: bounds hold, budgets are met, prices are duals."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from prunopt.cli import app  # noqa: E402
from prunopt.core.solution import SolveError, Status  # noqa: E402
from prunopt.networks.cnn.costs import measure  # noqa: E402
from prunopt.networks.cnn.pruning import prune_cnn  # noqa: E402
from prunopt.networks.cnn.several_budgets import widths_within  # noqa: E402
from prunopt.problems.channel_widths import ChannelWidths, LayerCost  # noqa: E402

Given = tuple[list[list[int]], list[list[float]], dict[str, list[LayerCost]], dict[str, float]]


def chain(seed: int, groups: int = 4) -> Given:
    """A chain of layers with costs of three kinds that disagree."""
    rng = np.random.default_rng(seed)
    widths = [[8, 6, 4, 2]] * groups
    losses = [[0.0, *np.cumsum(rng.exponential(1.0, 3)).tolist()] for _ in range(groups)]
    sizes = [rng.uniform(1, 10, groups + 1) for _ in range(3)]
    layers: dict[str, list[LayerCost]] = {}
    for name, size in zip(("macs", "parameters", "latency_ms"), sizes, strict=True):
        w, one = np.array(widths[0], float), np.ones((1, 1))
        rows = [LayerCost(-1, 0, size[0] * w[None, :] * one)]
        rows += [LayerCost(g, g + 1, size[g + 1] * np.outer(w, w)) for g in range(groups - 1)]
        layers[name] = [*rows, LayerCost(groups - 1, -1, size[-1] * w[:, None])]
    totals = {r: sum(float(np.asarray(layer.table)[0, 0]) for layer in rows) for r, rows in layers.items()}
    return widths, losses, layers, {r: float(rng.uniform(0.4, 0.8)) * t for r, t in totals.items()}


@pytest.mark.parametrize("seed", range(8))
def test_the_bound_is_one_and_the_answer_is_near_the_best_of_all(seed: int) -> None:
    widths, losses, layers, limits = chain(seed)
    tasks = [ChannelWidths(widths, losses, layers[r], limits[r]) for r in limits]
    every = [np.array(v) for v in itertools.product(*widths)]
    within = [v for v in every if all(t.violation(v) == 0 for t in tasks)]
    least = min(tasks[0].objective(v) for v in within)
    found = widths_within(widths, losses, layers, limits)
    assert all(found.used[r] <= limits[r] * (1 + 1e-12) for r in limits)
    assert found.solution.bound <= least + 1e-9 <= found.solution.objective + 2e-9
    assert found.solution.objective <= 1.25 * least + 1e-9
    if found.solution.status is Status.OPTIMAL:
        assert found.solution.objective == pytest.approx(least, abs=1e-8)
    assert sum(price > 0 for price in found.prices.values()) >= 1


def test_one_binding_budget_is_solved_as_alone() -> None:
    widths, losses, layers, limits = chain(3)
    loose = limits | {"parameters": 1e9, "latency_ms": 1e9}
    found = widths_within(widths, losses, layers, loose).solution
    alone = ChannelWidths(widths, losses, layers["macs"], limits["macs"])
    from prunopt import solve

    best = solve(alone, "coupled-dp")
    assert found.status is Status.OPTIMAL
    assert found.objective == pytest.approx(best.objective, abs=1e-9)


def test_what_cannot_be_met_is_named() -> None:
    widths, losses, layers, limits = chain(0)
    with pytest.raises(ValueError, match="budget"):
        widths_within(widths, losses, layers, limits | {"macs": 1e-3})
    rising = [LayerCost(0, -1, np.array([[1.0], [2.0], [3.0], [4.0]]))]
    falling = [LayerCost(0, -1, np.array([[4.0], [3.0], [2.0], [1.0]]))]
    both = {"macs": rising, "parameters": falling}
    with pytest.raises(SolveError, match=r"macs=1\.5, parameters=1\.5"):
        widths_within(widths[:1], losses[:1], both, {"macs": 1.5, "parameters": 1.5})


def network() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 6),
    ).eval()  # fmt: skip


def test_a_network_meets_every_budget() -> None:
    images = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    budgets: Any = {"parameters": 0.5, "macs": 0.6, "memory": "30kB"}
    result = prune_cnn(network(), images, budget=budgets)
    before, after = (measure(m, images, ("parameters", "macs", "bytes")) for m in (network(), result.model))
    assert after["parameters"] <= 0.5 * before["parameters"]
    assert after["macs"] <= 0.6 * before["macs"]
    assert after["bytes"] <= 30e3
    assert {u.resource: u.used for u in result.budgets} == pytest.approx(
        {"parameters": after["parameters"], "macs": after["macs"], "memory": after["bytes"]}
    )
    assert result.solution.bound <= result.solution.objective
    json.dumps(result.to_dict(), allow_nan=False)


def test_the_command_takes_several_budgets(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(),\n"
        "        nn.Conv2d(16, 24, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4))\n"
    )
    line = [
        "cnn",
        f"{tmp_path / 'nets.py'}:build",
        "--size",
        "16",
        "--budget",
        "parameters=0.6",
        "--budget",
        "macs=0.5",
    ]
    told = CliRunner().invoke(app, [*line, "--budget", "latency_ms=90x"])
    assert told.exit_code == 0, told.output
    for text in ("parameters:", "macs:", "latency_ms:", "used (before:", "one more", "not in the way"):
        assert text in told.output
    refused = CliRunner().invoke(app, [*line, "--method", "windows"])
    assert refused.exit_code != 0
    assert "--budget must be one for the method windows" in refused.output
