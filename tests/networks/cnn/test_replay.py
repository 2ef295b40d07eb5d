"""Pictures that stop in front of layers, and repairs that start from there."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from prunopt.networks.cnn.channel_groups import channel_groups  # noqa: E402
from prunopt.networks.cnn.repair import logits, repair  # noqa: E402
from prunopt.networks.cnn.replay import Replay  # noqa: E402
from prunopt.networks.cnn.surgery import remove_channels  # noqa: E402


class Residual(nn.Module):
    """A stem, a block whose sum is taken in place, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.widen, self.act = nn.Conv2d(8, 24, 1), nn.ReLU6(inplace=True)
        self.narrow, self.norm = nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        x += self.norm(self.narrow(self.act(self.widen(x))))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    made: Any = Residual()
    for norm in (made.stem[1], made.norm):
        norm.running_var.uniform_(0.5, 2.0)
        norm.running_mean.normal_(0, 0.2)
    return made.eval()


@pytest.fixture
def images() -> Any:
    return torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_layers_get_what_they_get_in_a_run(model: Any, images: Any) -> None:
    replay = Replay(model, images.split(10))
    seen: dict[str, Any] = {}
    hooks = [
        model.get_submodule(n).register_forward_pre_hook(lambda _m, a, n=n: seen.__setitem__(n, a[0].clone()))
        for n in ("widen", "narrow", "head")
    ]
    with torch.no_grad():
        wanted = model(images)
    for hook in hooks:
        hook.remove()
    for name in ("widen", "narrow", "head", "widen"):  # the last one starts again
        torch.testing.assert_close(torch.cat(replay.inputs(name)), seen[name])
    assert replay.shortcuts("widen") is None
    replay.inputs("narrow")
    shortcut = replay.shortcuts("narrow")
    assert shortcut is not None
    torch.testing.assert_close(torch.cat(shortcut), seen["widen"])
    assert replay.norm_behind("narrow") is model.norm
    torch.testing.assert_close(replay.outputs()[0], wanted)


def test_a_fork_does_not_touch_what_it_comes_from(model: Any, images: Any) -> None:
    replay = Replay(model, images.split(10))
    replay.inputs("narrow")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.narrow.weight.zero_()
        wanted = other(images)
    torch.testing.assert_close(replay.fork(other).outputs()[0], wanted)
    torch.testing.assert_close(
        replay.fork(model).outputs()[0], logits(model, images)
    )  # the sum in place changed a copy


def test_networks_without_a_trace_run_from_the_start(images: Any) -> None:
    class Choosy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Any) -> Any:
            return self.b(self.a(x)) if x.sum() > -1e9 else x

    torch.manual_seed(0)
    replay = Replay(choosy := Choosy(), images.split(10))
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(replay.inputs("b")), choosy.a(images))
        torch.testing.assert_close(replay.fork(choosy).outputs()[0], choosy(images))
    assert replay.shortcuts("b") is None


def test_the_repair_makes_the_sum_right_and_not_the_layer_alone(model: Any, images: Any) -> None:
    # What the stem's channels lost goes past the block on its shortcut: only the block's last layer can make up for it.
    groups = channel_groups(model, images[:2])
    hidden = next(g for g in groups.free if len(groups.members(g)) == 24)
    keep = np.ones(groups.n_channels, np.bool_)
    keep[groups.members(hidden)[:4]] = False
    smaller: Any = remove_channels(model, groups, keep)
    with torch.no_grad():
        smaller.stem[0].bias += 0.3 * torch.randn(8, generator=torch.Generator().manual_seed(2))

    def lost(m: Any) -> float:
        ends = [Replay(x, [images]).inputs("head")[0] for x in (model, m)]
        return float(((ends[0] - ends[1]) ** 2).mean())

    before = lost(smaller)
    assert repair(model, smaller, groups, keep, images, damping=1e-8, batch=10) == 1
    assert lost(smaller) < 0.05 * before


def test_a_layer_that_no_damping_makes_better_is_left_alone(model: Any, images: Any) -> None:
    groups = channel_groups(model, images[:2])
    keep = np.ones(groups.n_channels, np.bool_)
    hidden = next(g for g in groups.free if len(groups.members(g)) == 24)
    gone = groups.members(hidden)[:6]
    with torch.no_grad():  # channels that are always 0: their going changes nothing, so nothing is to be repaired
        model.widen.weight[:6], model.widen.bias[:6] = 0, -1
    keep[gone] = False
    smaller: Any = remove_channels(model, groups, keep)
    old = smaller.narrow.weight.clone()
    repair(model, smaller, groups, keep, images, every=True, batch=8)
    torch.testing.assert_close(smaller.narrow.weight, old, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits(smaller, images), logits(model, images), rtol=1e-3, atol=1e-4)
