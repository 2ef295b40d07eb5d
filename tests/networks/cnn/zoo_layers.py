"""Networks of the zoo: layers, reshapes, attention to channels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.utils.prune
from torch import nn
from torch.nn import functional as F

from tests.networks.cnn.zoo_parts import PARTLY, Lambda, Of, between, c, entry, entry_of, head, pooled, simple

for _name, _make in {
    "group_norm": lambda: nn.GroupNorm(4, 16),
    "group_norm_one": lambda: nn.GroupNorm(1, 16),
    "instance_norm": lambda: nn.InstanceNorm2d(16),
    "instance_norm_affine": lambda: nn.InstanceNorm2d(16, affine=True),
    "prelu_all": lambda: nn.PReLU(),
    "prelu_each": lambda: nn.PReLU(16),
    "softplus": lambda: nn.Softplus(),
    "celu": lambda: nn.CELU(),
    "conv_transpose": lambda: nn.ConvTranspose2d(16, 16, 2, 2),
    "conv_transpose_depthwise": lambda: nn.ConvTranspose2d(16, 16, 2, 2, groups=16),
    "depthwise": lambda: c(16, 16, groups=16),
    "depthwise_multiplied": lambda: nn.Sequential(c(16, 32, groups=16), c(32, 16, 1)),
    "grouped": lambda: c(16, 16, groups=4),
    "upsample": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "reflection_pad": lambda: nn.ReflectionPad2d(1),
    "pixel_shuffle": lambda: nn.Sequential(c(16, 64), nn.PixelShuffle(2)),
    "pixel_unshuffle": lambda: nn.Sequential(nn.PixelUnshuffle(2), c(64, 16)),
    "batch_norm_plain": lambda: nn.BatchNorm2d(16, affine=True, track_running_stats=False),
    "identity": lambda: nn.Identity(),
    "threshold": lambda: nn.Threshold(0.1, 0.2),
    "max_pool_indices_off": lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "bilinear_lazy": lambda: nn.LPPool2d(2, 2),
}.items():
    entry_of(_name, _make)

for _name, _make in {
    "local_response": lambda: nn.LocalResponseNorm(3),
    "softmax_channels": lambda: nn.Softmax(1),
    "group_norm_each": lambda: nn.GroupNorm(16, 16),
    "channel_shuffle_module": lambda: nn.ChannelShuffle(4),
    "batch_norm_none": lambda: nn.BatchNorm2d(16, affine=False),
}.items():
    entry_of(_name, _make)
PARTLY |= {"local_response", "softmax_channels"}


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class OwnLayerNorm(nn.Module):
    def __init__(self, n: int, first: bool) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(n)), nn.Parameter(torch.rand(n))
        self.eps, self.first, self.normalized_shape = 1e-6, first, (n,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.first:
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        return self.weight[:, None, None] * ((x - u) / torch.sqrt(s + self.eps)) + self.bias[:, None, None]


def convnext_block(scale: Any) -> nn.Module:
    def run(s: Any, x: Any) -> Any:
        x = s.norm0(s.stem(x))
        y = s.dw(x).permute(0, 2, 3, 1)
        y = s.p2(F.gelu(s.p1(s.norm(y))))
        last = s.scale.ndim == 1
        y = (s.scale * y).permute(0, 3, 1, 2) if last else s.scale * y.permute(0, 3, 1, 2)
        return pooled(s, x + y)

    return Of(
        run, stem=nn.Conv2d(3, 16, 2, 2), norm0=OwnLayerNorm(16, True), dw=c(16, 16, 7, groups=16),
        norm=OwnLayerNorm(16, False), p1=nn.Linear(16, 32), p2=nn.Linear(32, 16), scale=scale, f=head(),
    )  # fmt: skip


@entry
def convnext_scale_last() -> Any:
    return convnext_block(nn.Parameter(torch.rand(16)))


@entry
def convnext_scale_first() -> Any:
    return convnext_block(nn.Parameter(torch.rand(16, 1, 1)))


@entry
def layer_norm_2d() -> Any:
    return simple(LayerNorm2d(16))


@entry
def layer_scale() -> Any:
    return between(lambda s, x: F.relu(s.g * x), g=nn.Parameter(torch.rand(16, 1, 1)))


@entry
def layer_scale_batch() -> Any:
    return between(lambda s, x: F.relu(x.mul(s.g)), g=nn.Parameter(torch.rand(1, 16, 1, 1)))


@entry
def scalar_scale() -> Any:
    return between(lambda s, x: F.relu(s.g * x + s.h), g=nn.Parameter(torch.rand(1)), h=nn.Parameter(torch.tensor(0.3)))


@entry
def frozen_batch_norm() -> Any:
    def run(s: Any, x: Any) -> Any:
        scale = s.w.reshape(1, -1, 1, 1) * (s.v.reshape(1, -1, 1, 1) + 1e-5).rsqrt()
        return x * scale + (s.z.reshape(1, -1, 1, 1) - s.m.reshape(1, -1, 1, 1) * scale)

    return between(run, w=torch.rand(16), z=torch.rand(16), m=torch.rand(16), v=torch.rand(16))


@entry
def position_embedding() -> Any:
    return between(lambda s, x: x + s.p, p=nn.Parameter(torch.rand(1, 16, 16, 16)))


@entry
def in_place() -> Any:
    def run(s: Any, x: Any) -> Any:
        F.relu_(x)
        x += 1
        x.mul_(0.5)
        return F.leaky_relu(x, 0.1, inplace=True)

    return between(run)


@entry
def view_minus_one() -> Any:
    return Of(
        lambda s, x: s.f(F.max_pool2d(F.relu(s.b(F.relu(s.a(x)))), 4).view(x.size(0), -1)),
        a=c(3, 16), b=c(16, 16), f=head(256),
    )  # fmt: skip


@entry(partly=True)
def view_written_down() -> Any:
    return Of(
        lambda s, x: s.f(F.max_pool2d(F.relu(s.b(F.relu(s.a(x)))), 4).view(-1, 256)),
        a=c(3, 16), b=c(16, 16), f=head(256),
    )  # fmt: skip


@entry
def flatten_start() -> Any:
    return Of(
        lambda s, x: s.f(torch.flatten(F.avg_pool2d(s.b(s.a(x)), 8), start_dim=1)), a=c(3, 16), b=c(16, 16), f=head(64)
    )


@entry
def reshape_computed() -> Any:
    def run(s: Any, x: Any) -> Any:
        x = F.avg_pool2d(s.b(s.a(x)), 8)
        n, k, h, w = x.shape
        return s.f(x.reshape(n, k * h * w))

    return Of(run, a=c(3, 16), b=c(16, 16), f=head(64))


def shuffle(x: Any, g: int) -> Any:
    n, k, h, w = x.size()
    return x.view(n, g, k // g, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


@entry
def channel_shuffle() -> Any:
    return between(lambda s, x: shuffle(x, 4))


@entry
def shuffle_net() -> Any:
    def run(s: Any, x: Any) -> Any:
        x = F.relu(s.stem(x))
        one, two = x.chunk(2, dim=1)
        x = shuffle(torch.cat((one, s.p2(s.dw(F.relu(s.p1(two))))), dim=1), 2)
        return pooled(s, s.last(x))

    return Of(run, stem=c(3, 16), p1=c(8, 8, 1), dw=c(8, 8, groups=8), p2=c(8, 8, 1), last=c(16, 16, 1), f=head())


@entry
def yolo_c2f() -> Any:
    def run(s: Any, x: Any) -> Any:
        y = list(s.one(s.stem(x)).chunk(2, 1))
        y.extend(m(y[-1]) for m in s.m)
        return pooled(s, s.two(torch.cat(y, 1)))

    blocks = nn.ModuleList([nn.Sequential(c(8, 8), nn.SiLU()) for _ in range(2)])
    return Of(run, stem=c(3, 16), one=c(16, 16, 1), two=c(32, 16, 1), m=blocks, f=head())


@entry(partly=True)
def split_written_down() -> Any:
    def run(s: Any, x: Any) -> Any:
        a, b = s.one(s.stem(x)).split((8, 8), 1)
        return pooled(s, s.two(torch.cat((a, F.relu(b)), 1)))

    return Of(run, stem=c(3, 16), one=c(16, 16, 1), two=c(16, 16, 1), f=head())


@entry
def split_computed() -> Any:
    def run(s: Any, x: Any) -> Any:
        x = s.one(s.stem(x))
        a, b = torch.split(x, x.shape[1] // 2, dim=1)
        return pooled(s, s.two(a * torch.sigmoid(b)))

    return Of(run, stem=c(3, 16), one=c(16, 16, 1), two=c(8, 16, 1), f=head())


@entry(partly=True)
def slice_written_down() -> Any:
    def run(s: Any, x: Any) -> Any:
        x = s.one(s.stem(x))
        return pooled(s, s.two(x[:, :8] + x[:, 8:]))

    return Of(run, stem=c(3, 16), one=c(16, 16, 1), two=c(8, 16, 1), f=head())


@entry
def permute_linear() -> Any:
    return between(lambda s, x: s.p(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), p=nn.Linear(16, 16))


@entry
def tokens() -> Any:
    def run(s: Any, x: Any) -> Any:
        x = F.relu(s.a(x)).flatten(2).transpose(1, 2)
        x = x + s.p2(F.gelu(s.p1(s.norm(x))))
        return s.f(x.mean(1))

    return Of(run, a=c(3, 16), norm=nn.LayerNorm(16), p1=nn.Linear(16, 32), p2=nn.Linear(32, 16), f=head())


@entry
def squeeze_excite() -> Any:
    def run(s: Any, x: Any) -> Any:
        return x * torch.sigmoid(s.up(F.relu(s.down(F.adaptive_avg_pool2d(x, 1)))))

    return between(run, down=nn.Conv2d(16, 4, 1), up=nn.Conv2d(4, 16, 1))


@entry
def squeeze_excite_linear() -> Any:
    def run(s: Any, x: Any) -> Any:
        n, k, _, _ = x.size()
        y = s.gate(F.adaptive_avg_pool2d(x, 1).view(n, k)).view(n, k, 1, 1)
        return x * y.expand_as(x)

    return between(run, gate=nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 16), nn.Sigmoid()))


@entry(partly=True)
def efficient_channel_attention() -> Any:
    def run(s: Any, x: Any) -> Any:
        y = s.k(x.mean((2, 3)).unsqueeze(1)).squeeze(1)
        return x * torch.sigmoid(y)[:, :, None, None]

    return between(run, k=nn.Conv1d(1, 1, 3, padding=1))


@entry
def cbam_places() -> Any:
    def run(s: Any, x: Any) -> Any:
        y = torch.cat([torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)], dim=1)
        return x * torch.sigmoid(s.k(y))

    return between(run, k=nn.Conv2d(2, 1, 7, padding=3))


@entry
def cbam_keepdim() -> Any:
    def run(s: Any, x: Any) -> Any:
        high, _ = x.max(dim=1, keepdim=True)
        return x * torch.sigmoid(s.k(torch.cat([high, x.mean(dim=1, keepdim=True)], 1)))

    return between(run, k=nn.Conv2d(2, 1, 7, padding=3))


@entry
def lambda_shortcut() -> Any:
    def run(s: Any, x: Any) -> Any:
        x = F.relu(s.stem(x))
        return pooled(s, F.relu(s.b(F.relu(s.a(x))) + s.short(x)))

    short = Lambda(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4), "constant", 0))
    return Of(run, stem=c(3, 8), a=nn.Conv2d(8, 16, 3, 2, 1), b=c(16, 16), short=short, f=head())
