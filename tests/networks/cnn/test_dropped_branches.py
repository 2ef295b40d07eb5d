"""Branches of residual sums that are removed whole: the masked network, cheaper by all of their layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from prunopt.core.solution import Status
from prunopt.networks.cnn.channel_groups import channel_groups
from prunopt.networks.cnn.checkpoints import load_cnn, save_cnn
from prunopt.networks.cnn.costs import measure
from prunopt.networks.cnn.dropped_branches import Constant, Skipped, Through
from prunopt.networks.cnn.profile import Widths
from prunopt.networks.cnn.pruning import prune_cnn
from prunopt.networks.cnn.repair import divergence, logits, repair
from prunopt.networks.cnn.surgery import remove_channels


class Block(nn.Module):
    """A residual block, with a depthwise layer inside where it is inverted."""

    def __init__(self, wide: int, stride: int = 1, inverted: bool = False, bias: bool = False) -> None:
        super().__init__()
        inner = 2 * wide
        middle = [nn.Conv2d(inner, inner, 3, stride, 1, groups=inner), nn.BatchNorm2d(inner), nn.ReLU()]
        self.inner = nn.Sequential(
            nn.Conv2d(wide, inner, 3, 1 if inverted else stride, 1, bias=bias),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            *(middle if inverted else []),
            nn.Conv2d(inner, wide, 3, 1, 1, bias=bias),
        )
        self.norm = nn.BatchNorm2d(wide)
        self.shortcut = nn.Conv2d(wide, wide, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.inner(x)) + self.shortcut(x))


def network(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    blocks = [Block(6), Block(6, inverted=True), Block(6, stride=2), Block(6, stride=2, inverted=True, bias=True)]
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)
    )
    model.train()
    with torch.no_grad():
        for _ in range(5):
            model(torch.randn(16, 3, 13, 11))
    return model.eval()


def test_every_branch_goes_exactly_and_is_saved(tmp_path: Path) -> None:
    model, x = network(), torch.randn(4, 3, 13, 11)
    groups = channel_groups(model, x[:2])
    assert len(groups.branches) == 4
    for number, g in enumerate(groups.branches):
        keep = groups.group != g
        smaller = remove_channels(model, groups, keep)
        block: Any = smaller.get_submodule(str(1 + number))
        last = block.inner[-1]
        assert isinstance(block.inner[0], Skipped)
        assert isinstance(block.inner[1], Through)
        assert isinstance(last, Constant)
        # by hand: what is added is the batch norm of the bias
        bias = torch.zeros(6) if last.bias is None else last.bias
        wanted = model[0](x)
        for i in range(4):
            own = model[1 + i]
            if i == number:
                added = own.norm(bias[None, :, None, None].expand(1, -1, 1, 1))
                wanted = torch.relu(own.shortcut(wanted) + added)
            else:
                wanted = own(wanted)
        wanted = model[5:](wanted)
        torch.testing.assert_close(smaller(x), wanted, rtol=1e-5, atol=1e-6)
        save_cnn(smaller, tmp_path / str(number))
        torch.testing.assert_close(load_cnn(tmp_path / str(number), model)(x), smaller(x), rtol=0, atol=0)


def test_a_gate_is_a_branch_and_streams_and_groups_with_gates_are_none() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
            self.squeeze, self.excite = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
            self.unpadded, self.back = nn.Conv2d(4, 6, 3), nn.Conv2d(6, 4, 3, padding=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.a(x))
            h = h * torch.sigmoid(self.excite(torch.relu(self.squeeze(h.mean((2, 3), keepdim=True)))))
            x = x + self.b(h)
            out: torch.Tensor = x + self.back(torch.relu(self.unpadded(x)))
            return out

    model = Gated().eval()
    groups = channel_groups(model, torch.randn(2, 4, 8, 8))
    assert [groups.name_of(g) for g in groups.branches] == ["squeeze"]
    smaller = remove_channels(model, groups, groups.group != groups.branches[0])
    x = torch.randn(3, 4, 8, 8)
    gate = torch.sigmoid(model.excite.state_dict()["bias"])[:, None, None]
    wanted = x + model.b(torch.relu(model.a(x)) * gate)
    wanted = wanted + model.back(torch.relu(model.unpadded(wanted)))
    torch.testing.assert_close(smaller(x), wanted)
    keep = groups.group != next(g for g in groups.free if g not in groups.branches)
    with pytest.raises(ValueError, match="keep must keep a channel of every group"):
        remove_channels(model, groups, keep)


@pytest.mark.parametrize("resource", ["macs", "parameters"])
def test_dropped_within_the_same_knapsack(resource: str) -> None:
    model, x = network(1), torch.randn(24, 3, 13, 11)
    with torch.no_grad():  # a branch that does nothing
        model[2].norm.weight.mul_(1e-3)
    offered = Widths(loss="measured", round_to=1, levels=4, least=0.5, probe=8)
    result = prune_cnn(model, x, budget=f"{resource}=0.75", widths=replace(offered, branches=True))
    assert result.solution.status is Status.OPTIMAL
    assert [row["group"] for row in result.report if row["after"] == 0] == ["2.inner.0"]
    assert measure(result.model, x, (resource,))[resource] == pytest.approx(result.used)
    without = prune_cnn(model, x, budget=f"{resource}=0.75", widths=offered)
    assert result.solution.objective <= without.solution.objective + 1e-9
    wanted = [logits(model, x)]
    assert divergence(wanted, result.model, x) < 1e-6


def test_a_bias_in_place_of_a_branch_is_its_mean() -> None:
    model, x = network(2), torch.randn(40, 3, 13, 11)
    groups = channel_groups(model, x[:2])
    keep = groups.group != groups.branches[3]  # the last block, whose last layer has a bias
    smaller: Any = remove_channels(model, groups, keep)
    before = smaller[4].inner[-1].bias.detach().clone()
    assert repair(model, smaller, groups, keep, x) >= 1
    given: list[torch.Tensor] = []
    model[4].inner[-1].register_forward_hook(lambda _, __, out: given.append(out))
    model(x)
    mean = given[0].mean((0, 2, 3))
    after = smaller[4].inner[-1].bias.detach()
    assert np.linalg.norm(after - mean.detach()) < 0.2 * np.linalg.norm(before - mean.detach())
