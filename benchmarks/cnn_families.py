"""Small networks of the well-known families, written in plain torch: the kinds on which pruners are tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def unit(
    ins: int, outs: int, k: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = nn.ReLU
) -> Any:
    """Return a convolution, its batch norm, and an activation."""
    rest = [act()] if act else []
    return nn.Sequential(
        nn.Conv2d(ins, outs, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(outs), *rest
    )


def headed(*parts: nn.Module, width: int) -> nn.Module:
    """Return the parts with pooling and a classifier of ten classes behind them."""
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


class Sum(nn.Module):
    """``act(shortcut(x) + body(x))``."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, act: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut, self.act = body, shortcut or nn.Identity(), act or nn.Identity()

    def forward(self, x: Any) -> Any:
        """Return the sum."""
        return self.act(self.body(x) + self.shortcut(x))


class Cat(nn.Module):
    """The outputs of branches, side by side."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Any) -> Any:
        """Return the channels of all branches."""
        return torch.cat([b(x) for b in self.branches], 1)


class Excite(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int, gate: nn.Module) -> None:
        super().__init__()
        self.pool, self.gate = nn.AdaptiveAvgPool2d(1), gate
        self.down, self.up = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1)

    def forward(self, x: Any) -> Any:
        """Return the channels times their gates."""
        return x * self.gate(self.up(torch.relu(self.down(self.pool(x)))))


def basic(ins: int, outs: int, stride: int) -> nn.Module:
    """Return ResNet's basic block."""
    short = unit(ins, outs, 1, stride, act=None) if stride > 1 or ins != outs else None
    return Sum(nn.Sequential(unit(ins, outs, 3, stride), unit(outs, outs, act=None)), short, nn.ReLU())


def bottleneck(ins: int, outs: int, stride: int, groups: int = 1, excite: bool = False) -> nn.Module:
    """Return ResNet's bottleneck; RegNet's with ``groups``, its Y form with ``excite``."""
    mid = outs // 2 if groups > 1 else outs // 4
    short = unit(ins, outs, 1, stride, act=None) if stride > 1 or ins != outs else None
    seen = [Excite(mid, nn.Sigmoid())] if excite else []
    body = nn.Sequential(unit(ins, mid, 1), unit(mid, mid, 3, stride, groups), *seen, unit(mid, outs, 1, act=None))
    return Sum(body, short, nn.ReLU())


def resnet18() -> nn.Module:
    """Return ResNet-18, a quarter as wide."""
    shape = [(16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
    return headed(unit(3, 16, 7, 2), nn.MaxPool2d(3, 2, 1), *[basic(*s) for s in shape], width=128)


def resnet50() -> nn.Module:
    """Return ResNet-50 with half of its blocks, a quarter as wide."""
    blocks, ins = [], 16
    for outs, count, stride in ((64, 2, 1), (128, 2, 2), (256, 2, 2), (512, 2, 2)):
        for k in range(count):
            blocks.append(bottleneck(ins, outs, stride if k == 0 else 1))
            ins = outs
    return headed(unit(3, 16, 7, 2), nn.MaxPool2d(3, 2, 1), *blocks, width=512)


def resnext() -> nn.Module:
    """Return a ResNeXt of four blocks, eight groups each."""
    shape = [(16, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
    return headed(unit(3, 16), *[bottleneck(*s, groups=8) for s in shape], width=128)


def regnet_y() -> nn.Module:
    """Return a RegNetY of four blocks."""
    shape = [(16, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
    return headed(unit(3, 16), *[bottleneck(*s, groups=4, excite=True) for s in shape], width=128)


def densenet() -> nn.Module:
    """Return a DenseNet of two blocks of four layers."""

    def layer(ins: int) -> nn.Module:
        new = nn.Sequential(nn.BatchNorm2d(ins), nn.ReLU(), nn.Conv2d(ins, 32, 1), nn.BatchNorm2d(32), nn.ReLU(),
                            nn.Conv2d(32, 8, 3, 1, 1))  # fmt: skip
        return Cat(nn.Identity(), new)

    first, last = [layer(16 + 8 * k) for k in range(4)], [layer(24 + 8 * k) for k in range(4)]
    between = nn.Sequential(nn.BatchNorm2d(48), nn.ReLU(), nn.Conv2d(48, 24, 1), nn.AvgPool2d(2))
    return headed(unit(3, 16, 3, 2), *first, between, *last, nn.BatchNorm2d(56), nn.ReLU(), width=56)


def googlenet() -> nn.Module:
    """Return a GoogLeNet of three inceptions."""

    def inception(ins: int) -> nn.Module:
        return Cat(unit(ins, 16, 1), nn.Sequential(unit(ins, 16, 1), unit(16, 32)),
                   nn.Sequential(unit(ins, 8, 1), unit(8, 16)),
                   nn.Sequential(nn.MaxPool2d(3, 1, 1), unit(ins, 16, 1)))  # fmt: skip

    return headed(unit(3, 32, 7, 2), inception(32), nn.MaxPool2d(2), inception(80), inception(80), width=80)


def squeezenet() -> nn.Module:
    """Return a SqueezeNet of three fire modules; its classifier is a convolution."""

    def fire(ins: int, mid: int, outs: int) -> nn.Module:
        expand = Cat(*[nn.Sequential(nn.Conv2d(mid, outs, k, padding=k // 2), nn.ReLU()) for k in (1, 3)])
        return nn.Sequential(nn.Conv2d(ins, mid, 1), nn.ReLU(), expand)

    fires = fire(32, 8, 32), fire(64, 8, 32), nn.MaxPool2d(2), fire(64, 16, 64)
    last = nn.Dropout(), nn.Conv2d(128, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(nn.Conv2d(3, 32, 3, 2), nn.ReLU(), *fires, *last)


def vgg(norm: bool) -> nn.Module:
    """Return a VGG of six convolutions and three linear layers."""
    parts: list[nn.Module] = []
    ins = 3
    for outs in (16, 16, 32, 32, 64, 64):
        parts += [nn.Conv2d(ins, outs, 3, 1, 1), *([nn.BatchNorm2d(outs)] if norm else []), nn.ReLU()]
        parts += [nn.MaxPool2d(2)] if ins == outs else []
        ins = outs
    head = nn.Linear(64 * 16, 128), nn.ReLU(), nn.Dropout(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(4), nn.Flatten(), *head)


def inverted(ins: int, outs: int, stride: int, act: type[nn.Module], gate: nn.Module | None = None) -> nn.Module:
    """Return an inverted residual, with squeeze and excitation where a gate is given."""
    mid = ins * 4
    seen = [Excite(mid, gate)] if gate else []
    body = nn.Sequential(unit(ins, mid, 1, act=act), unit(mid, mid, 3, stride, mid, act=act), *seen,
                         unit(mid, outs, 1, act=None))  # fmt: skip
    return Sum(body) if stride == 1 and ins == outs else body


def mobile(act: type[nn.Module], gate: nn.Module | None = None) -> nn.Module:
    """Return six inverted residuals."""
    shape = [(16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 40, 2), (40, 40, 1), (40, 40, 1)]
    blocks = [inverted(*s, act, gate) for s in shape]
    return headed(unit(3, 16, 3, 2, act=act), *blocks, unit(40, 160, 1, act=act), width=160)


class Shuffled(nn.Module):
    """ShuffleNetV2's block: half of the channels pass, the other half is convolved, then both are interleaved."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.body = nn.Sequential(unit(half, half, 1), unit(half, half, 3, 1, half, None), unit(half, half, 1))

    def forward(self, x: Any) -> Any:
        """Return the channels, interleaved."""
        one, two = x.chunk(2, 1)
        y = torch.cat([one, self.body(two)], 1)
        b, c, h, w = y.shape
        return y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, -1, h, w)


def shufflenet() -> nn.Module:
    """Return a ShuffleNetV2 of four blocks."""
    parts = Shuffled(32), Shuffled(32), unit(32, 64, 3, 2), Shuffled(64), Shuffled(64), unit(64, 128, 1)
    return headed(unit(3, 32, 3, 2), *parts, width=128)


class Next(nn.Module):
    """ConvNeXt's block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, 1, 3, groups=width), nn.LayerNorm(width, eps=1e-6)
        self.up, self.act, self.down = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.rand(width, 1, 1))

    def forward(self, x: Any) -> Any:
        """Return the input and what the block adds."""
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.scale * self.down(self.act(self.up(y))).permute(0, 3, 1, 2)


class OverChannels(nn.LayerNorm):
    """A layer norm over the channels of pictures."""

    def forward(self, x: Any) -> Any:
        """Return the normalized channels."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    """Return a ConvNeXt of two stages."""
    down = nn.Sequential(OverChannels(24), nn.Conv2d(24, 48, 2, 2))
    parts = nn.Conv2d(3, 24, 4, 4), OverChannels(24), Next(24), Next(24), down, Next(48), Next(48), OverChannels(48)
    return headed(*parts, width=48)


class Encoder(nn.Module):
    """A vision transformer's layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Any) -> Any:
        """Return the tokens."""
        y = self.n1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.n2(x))


class Transformer(nn.Module):
    """A vision transformer of two layers."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.first = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 17, width))
        self.layers, self.norm = nn.Sequential(Encoder(width), Encoder(width)), nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Any) -> Any:
        """Return the predictions of the first token."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1) + self.places
        return self.head(self.norm(self.layers(x))[:, 0])


def segmenter() -> nn.Module:
    """Return a dilated network with spatial pyramid pooling and a mask as large as the picture."""
    dilated = [nn.Sequential(nn.Conv2d(64, 16, 3, 1, d, d), nn.BatchNorm2d(16), nn.ReLU()) for d in (1, 2, 4)]
    parts = unit(3, 32, 3, 2), basic(32, 64, 2), Cat(*dilated), unit(48, 32)
    return nn.Sequential(*parts, nn.Conv2d(32, 5, 1), nn.Upsample(scale_factor=4, mode="bilinear"))


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "ResNet-18": resnet18,
    "ResNet-50, half as deep": resnet50,
    "ResNeXt": resnext,
    "RegNetY": regnet_y,
    "DenseNet": densenet,
    "GoogLeNet": googlenet,
    "SqueezeNet": squeezenet,
    "VGG, AlexNet": lambda: vgg(norm=False),
    "VGG with batch norms": lambda: vgg(norm=True),
    "MobileNetV2, MnasNet": lambda: mobile(nn.ReLU6),
    "MobileNetV3": lambda: mobile(nn.Hardswish, nn.Hardsigmoid()),
    "EfficientNet": lambda: mobile(nn.SiLU, nn.Sigmoid()),
    "ShuffleNetV2": shufflenet,
    "ConvNeXt": convnext,
    "ViT": Transformer,
    "DeepLab-like": segmenter,
}
