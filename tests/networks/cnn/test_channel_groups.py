"""Coupled channels of traced networks: what is removed equals what is masked."""

from __future__ import annotations

import copy
import operator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from prunopt.networks.cnn.channel_groups import ChannelGroups, channel_groups, modules_of  # noqa: E402
from prunopt.networks.cnn.checkpoints import load_cnn, save_cnn  # noqa: E402
from prunopt.networks.cnn.costs import measure  # noqa: E402
from prunopt.networks.cnn.models import read_cnn  # noqa: E402
from prunopt.networks.cnn.surgery import onnx_file, remove_channels  # noqa: E402

torch.set_num_threads(1)


def mask_channels(model: nn.Module, groups: ChannelGroups, keep: Any) -> nn.Module:
    """Return a copy of the same shape in which the layers that read a removed channel have zeros for it."""
    mask = groups.checked(keep)
    masked = copy.deepcopy(model)
    modules = modules_of(masked, groups)
    for slot in groups.slots:
        if not slot.consumes:
            continue
        module: Any = modules[slot.name]
        with torch.no_grad():
            if slot.kind == "grouped":
                per_group = mask[slot.ins].reshape(module.groups, -1)[0]
                module.weight[:, torch.from_numpy(np.flatnonzero(~per_group))] = 0
            else:
                module.weight[:, torch.from_numpy(np.flatnonzero(~mask[slot.ins]))] = 0
    return masked


def conv(ins: int, outs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(ins, outs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outs), nn.ReLU())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv(3, 8), conv(8, 12), conv(12, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        x = F.relu(x + self.b(self.a(x)))
        return self.head(x.mean((2, 3)))


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 6), conv(3, 4, 1), conv(10, 8)
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x: Any) -> Any:
        x = self.c(torch.cat([self.a(x), self.b(x)], dim=1))
        return self.head(torch.flatten(F.max_pool2d(x, 2), 1))


class Excite(nn.Module):
    """Depthwise with squeeze-excite, as in MobileNetV3."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.dw, self.down = conv(3, 12, 1), conv(12, 12, 5, 2, 12), conv(12, 6, 1)
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Any) -> Any:
        x = self.dw(self.up(x))
        s = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        return self.head(self.down(x * s).mean((2, 3)))


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 12, groups=4), conv(12, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Any) -> Any:
        return self.head(self.c(self.b(self.a(x))).mean((2, 3)))


class PaddedShortcut(nn.Module):
    """Option A of CIFAR's residual networks: the shortcut is cut in two and padded with zero channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv(3, 4), conv(4, 8, stride=2), conv(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.head((shortcut + self.b(self.a(x))).mean((2, 3)))


NETWORKS = [Residual, Concat, Excite, Grouped, PaddedShortcut]


def build(kind: type[nn.Module], seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = kind()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            module: Any = norm
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def half(groups: ChannelGroups, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    keep = np.ones(groups.n_channels, np.bool_)
    for g in groups.free:
        free = groups.members(g)[~groups.fixed[groups.members(g)]]
        gone = rng.choice(free, len(free) // 2, replace=False)
        keep[gone] = False
    return keep


def hooked(model: nn.Module, groups: ChannelGroups, keep: Any, x: Any) -> Any:
    """The dense network with activations multiplied by the mask wherever a layer reads them: no code is shared."""
    handles = []
    for slot in groups.slots:
        if slot.consumes:
            mask = torch.from_numpy(keep[slot.ins]).float()

            def cut(_: Any, args: Any, mask: Any = mask) -> Any:
                return (args[0] * mask.reshape(1, -1, *[1] * (args[0].ndim - 2)),)

            handles.append(operator.attrgetter(slot.name)(model).register_forward_pre_hook(cut))
    with torch.no_grad():
        out = model(x)
    for handle in handles:
        handle.remove()
    return out


@pytest.mark.parametrize("kind", NETWORKS)
def test_removed_is_masked(kind: type[nn.Module]) -> None:
    model, x = build(kind), torch.randn(2, 3, 8, 8)
    groups = channel_groups(model, x)
    assert groups.free
    keep = half(groups)
    smaller = remove_channels(model, groups, keep)
    with torch.no_grad():
        out, dense = smaller(x), model(x)
        masked = mask_channels(model, groups, keep)(x)
    assert torch.allclose(out, masked, atol=1e-5)
    assert torch.allclose(out, hooked(model, groups, keep, x), atol=1e-5)
    assert not torch.allclose(out, dense, atol=1e-3)
    before, after = (measure(m, x, ("parameters", "macs", "bytes")) for m in (model, smaller))
    assert all(after[k] < before[k] for k in before)


def test_what_is_coupled_is_one_group() -> None:
    groups = channel_groups(build(Residual), torch.randn(1, 3, 8, 8))
    by_name = {slot.name: slot for slot in groups.slots}
    np.testing.assert_array_equal(by_name["stem.0"].outs, by_name["b.0"].outs)
    np.testing.assert_array_equal(by_name["head"].ins, by_name["b.0"].outs)
    sizes = sorted(len(groups.members(g)) for g in groups.free)
    assert sizes == [8, 12]
    assert groups.fixed[by_name["stem.0"].ins].all()
    assert groups.fixed[by_name["head"].outs].all()
    graph = groups.to_networkx()
    assert {d["slot"] for *_, d in graph.edges(data=True)} == {"stem.0", "a.0", "b.0", "head"}


def test_flattening_repeats_channels() -> None:
    groups = channel_groups(build(Concat), torch.randn(1, 3, 8, 8))
    head = next(slot for slot in groups.slots if slot.name == "head")
    assert len(head.ins) == 128
    assert (np.bincount(head.ins)[np.unique(head.ins)] == 16).all()


def test_grouped_convolutions_lose_the_same_places() -> None:
    groups = channel_groups(build(Grouped), torch.randn(1, 3, 8, 8))
    ins = next(slot for slot in groups.slots if slot.name == "b.0").ins
    np.testing.assert_array_equal(ins.reshape(4, 2), np.tile(ins[:2], (4, 1)))


def test_groups_by_hand_are_those_of_the_trace() -> None:
    model, x = build(Residual), torch.randn(2, 3, 8, 8)
    ends = [("a.0", "out"), ("a.1", "out"), ("b.0", "in")]
    groups = channel_groups(model, x, groups=[ends])
    assert len(groups.free) == 1
    keep = half(groups)
    smaller: Any = remove_channels(model, groups, keep)
    assert smaller.a[0].out_channels == 6
    with torch.no_grad():
        assert torch.allclose(smaller(x), mask_channels(model, groups, keep)(x), atol=1e-5)
    with pytest.raises(ValueError, match="name modules that run"):
        channel_groups(model, x, groups=[[("nowhere", "out")]])


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = conv(3, 4)

    def forward(self, x: Any) -> Any:
        return self.inner(x) if x.sum() > 0 else x


class Holder(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Any) -> Any:
        return self.part(x)


def test_what_cannot_be_traced_is_named() -> None:
    x = torch.randn(1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"Branching.*by hand"):
        channel_groups(Branching(), x)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Holder(nn.Sequential(nn.Conv2d(4, 3, 1), Branching())), nn.ReLU())
    groups = channel_groups(model, x)
    assert groups.pinned == ("module '1.part.1' (Branching)",)
    assert len(groups.free) == 1  # what is between the first two layers


def test_bad_masks() -> None:
    groups = channel_groups(build(Residual), torch.randn(1, 3, 8, 8))
    model = build(Residual)
    with pytest.raises(ValueError, match="keep the fixed channels"):
        remove_channels(model, groups, ~groups.fixed)
    with pytest.raises(ValueError, match="a channel of every group"):
        remove_channels(model, groups, groups.fixed)
    with pytest.raises(ValueError, match="shape"):
        remove_channels(model, groups, np.ones(3, np.bool_))


@pytest.mark.parametrize("kind", NETWORKS)
def test_round_trip(kind: type[nn.Module], tmp_path: Path) -> None:
    model, x = build(kind), torch.randn(2, 3, 8, 8)
    groups = channel_groups(model, x)
    smaller = remove_channels(model, groups, half(groups))
    save_cnn(smaller, tmp_path / "cnn")
    again = load_cnn(tmp_path / "cnn", build(kind, seed=1))
    with torch.no_grad():
        assert torch.equal(again(x), smaller(x))
    with pytest.raises(ValueError, match="dense"):
        load_cnn(tmp_path / "cnn")
    (tmp_path / "cnn" / "model.safetensors").write_bytes(b"changed")
    with pytest.raises(ValueError, match="be the file that"):
        load_cnn(tmp_path / "cnn", model)


@pytest.mark.parametrize("kind", [Residual, Excite])
def test_onnx(kind: type[nn.Module], tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    model, x = build(kind), torch.randn(2, 3, 8, 8)
    groups = channel_groups(model, x)
    smaller = remove_channels(model, groups, half(groups))
    onnx_file(smaller, x, tmp_path / "model.onnx")
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, {"input": x.numpy()})[0], smaller(x).numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["mobilenetv2", "efficientnet-lite0"])
def test_real_networks(name: str) -> None:
    try:
        model = read_cnn(name)
    except ImportError as error:
        pytest.skip(str(error))
    x = torch.randn(1, 3, 96, 96)
    groups = channel_groups(model, x)
    keep = half(groups)
    smaller = remove_channels(model, groups, keep)
    with torch.no_grad():
        out, masked = smaller(x), mask_channels(model, groups, keep)(x)
    assert torch.allclose(out, masked, atol=1e-5 * max(1.0, float(masked.abs().max())))
