"""Small networks with the operations and patterns that users bring: name, network, input, and what is to be freed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.utils.prune
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

Net = tuple[nn.Module, Any]
ZOO: dict[str, Callable[[], Net]] = {}
PARTLY: set[str] = set()  # something in it has to be pinned
X = (2, 3, 16, 16)


def entry(make: Callable[[], Any] | None = None, *, partly: bool = False) -> Any:
    """Register a network: a function that returns it, or it and its input."""

    def register(make: Callable[[], Any]) -> Callable[[], Any]:
        def build() -> Net:
            torch.manual_seed(0)
            made = make()
            model, x = made if isinstance(made, tuple) else (made, torch.randn(X))
            for module in model.modules():
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.uniform_(module.bias, -0.5, 0.5)
                    if module.running_mean is not None:
                        nn.init.uniform_(module.running_mean, -0.5, 0.5)
            return model.eval(), x

        ZOO[make.__name__] = build
        if partly:
            PARTLY.add(make.__name__)
        return make

    return register if make is None else register(make)


class Of(nn.Module):
    """A network whose forward is a function of itself and the input."""

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            if isinstance(part, nn.Module | nn.Parameter) or not isinstance(part, torch.Tensor):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: Any) -> Any:
        return self.run(self, x)


def c(ins: int, outs: int, k: int = 3, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(ins, outs, k, padding=k // 2, **more)


def head(ins: int = 16) -> nn.Linear:
    return nn.Linear(ins, 5)


def pooled(s: Any, x: Any) -> Any:
    return s.f(x.mean((2, 3)))


def simple(middle: nn.Module) -> nn.Module:
    return nn.Sequential(c(3, 16), middle, c(16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head())


def between(run: Callable[[Any, Any], Any], **parts: Any) -> nn.Module:
    return Of(lambda s, x: pooled(s, F.relu(s.b(run(s, s.a(x))))), a=c(3, 16), b=c(16, 16), f=head(), **parts)


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
    ZOO[_name] = lambda make=_make: (torch.manual_seed(0), simple(make()).eval(), torch.randn(X))[1:]

for _name, _make in {
    "local_response": lambda: nn.LocalResponseNorm(3),
    "softmax_channels": lambda: nn.Softmax(1),
    "group_norm_each": lambda: nn.GroupNorm(16, 16),
    "channel_shuffle_module": lambda: nn.ChannelShuffle(4),
    "batch_norm_none": lambda: nn.BatchNorm2d(16, affine=False),
}.items():
    ZOO[_name] = lambda make=_make: (torch.manual_seed(0), simple(make()).eval(), torch.randn(X))[1:]
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


class Lambda(nn.Module):
    def __init__(self, run: Callable[[Any], Any]) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Any) -> Any:
        return self.run(x)


@entry
def lambda_shortcut() -> Any:
    def run(s: Any, x: Any) -> Any:
        x = F.relu(s.stem(x))
        return pooled(s, F.relu(s.b(F.relu(s.a(x))) + s.short(x)))

    short = Lambda(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4), "constant", 0))
    return Of(run, stem=c(3, 8), a=nn.Conv2d(8, 16, 3, 2, 1), b=c(16, 16), short=short, f=head())


@entry
def shared_module() -> Any:
    return between(lambda s, x: s.k(F.relu(s.k(x))), k=c(16, 16))


@entry
def repeated_block() -> Any:
    def run(s: Any, x: Any) -> Any:
        for _ in range(3):
            x = x + s.k(F.relu(x))
        return x

    return between(run, k=nn.Sequential(c(16, 16), nn.BatchNorm2d(16)))


@entry
def tied_weights() -> Any:
    one, two = c(16, 16), c(16, 16)
    two.weight = one.weight
    return between(lambda s, x: s.two(F.relu(s.one(x))), one=one, two=two)


@entry(partly=True)
def tied_auto_encoder() -> Any:
    one, two = nn.Conv2d(16, 8, 2, 2), nn.ConvTranspose2d(8, 16, 2, 2)
    two.weight = one.weight
    return between(lambda s, x: s.two(F.relu(s.one(x))), one=one, two=two)


@entry(partly=True)
def functional_weight() -> Any:
    return between(lambda s, x: F.conv2d(x, s.w, padding=1), w=nn.Parameter(torch.randn(16, 16, 3, 3)))


@entry
def data_parallel() -> Any:
    return nn.DataParallel(simple(nn.ReLU()))


@entry
def pruned_weights() -> Any:
    model = simple(nn.ReLU())
    torch.nn.utils.prune.l1_unstructured(model[0], "weight", amount=0.3)
    model(torch.zeros(X))
    return model


@entry
def pruned_structured() -> Any:
    model = simple(nn.ReLU())
    torch.nn.utils.prune.ln_structured(model[2], "weight", amount=0.3, n=2, dim=0)
    torch.nn.utils.prune.l1_unstructured(model[2], "bias", amount=0.3)
    return model


@entry
def weight_norm() -> Any:
    model = simple(nn.ReLU())
    parametrizations.weight_norm(model[2])
    return model


@entry
def spectral_norm() -> Any:
    model = simple(nn.ReLU())
    parametrizations.spectral_norm(model[0])
    return model


@entry
def old_spectral_norm() -> Any:
    model = simple(nn.ReLU())
    torch.nn.utils.spectral_norm(model[0])
    model(torch.zeros(X))
    return model


@entry(partly=True)
def weight_standardized() -> Any:
    class Standardized(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, w, self.bias, self.stride, self.padding)

    return simple(nn.Sequential(nn.ReLU(), Standardized(16, 16, 3, padding=1)))


@entry
def dense_net() -> Any:
    def run(s: Any, x: Any) -> Any:
        found = [s.stem(x)]
        for norm, conv in zip(s.norms, s.convs, strict=True):
            found.append(conv(F.relu(norm(torch.cat(found, 1)))))
        return s.f(torch.cat(found, 1).mean((2, 3)))

    norms = nn.ModuleList([nn.BatchNorm2d(8 + 8 * k) for k in range(3)])
    convs = nn.ModuleList([c(8 + 8 * k, 8) for k in range(3)])
    return Of(run, stem=c(3, 8), norms=norms, convs=convs, f=head(32))


@entry
def inception() -> Any:
    def run(s: Any, x: Any) -> Any:
        x = s.stem(x)
        return pooled(s, torch.cat([s.a(x), s.b(x), s.d(F.max_pool2d(x, 3, 1, 1))], 1))

    b = nn.Sequential(c(8, 8, 1), nn.ReLU(), c(8, 16, 5))
    return Of(run, stem=c(3, 8), a=c(8, 8, 1), b=b, d=c(8, 8, 1), f=head(32))


@entry
def u_net() -> Any:
    def run(s: Any, x: Any) -> Any:
        one = F.relu(s.d1(x))
        two = F.relu(s.d2(F.max_pool2d(one, 2)))
        up = F.interpolate(two, size=one.shape[2:], mode="nearest")
        return s.out(F.relu(s.u1(torch.cat([up, one, s.t(two)], dim=1))))

    return Of(run, d1=c(3, 8), d2=c(8, 16), t=nn.ConvTranspose2d(16, 8, 2, 2), u1=c(32, 8), out=nn.Conv2d(8, 2, 1))


@entry
def feature_pyramid() -> Any:
    def run(s: Any, x: Any) -> Any:
        a = F.relu(s.a(x))
        b = F.relu(s.b(a))
        top = s.lb(b)
        low = s.la(a) + F.interpolate(top, scale_factor=2.0)
        return {"low": s.ha(low), "top": [s.hb(top), top.mean()]}

    return Of(
        run, a=nn.Conv2d(3, 8, 3, 2, 1), b=nn.Conv2d(8, 16, 3, 2, 1), la=c(8, 8, 1), lb=c(16, 8, 1), ha=c(8, 4),
        hb=c(8, 4),
    )  # fmt: skip


@entry
def several_inputs() -> Any:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.f, self.e = c(3, 16), nn.Linear(4, 16), head(), c(16, 16)

        def forward(self, x: Any, y: Any, mask: Any = None, scale: float = 1.0) -> Any:
            out = self.e(F.relu(self.a(x) + self.b(y)[:, :, None, None]))
            if mask is not None:
                out = out * mask
            return self.f(out.mean((2, 3)) * scale)

    return Two(), (torch.randn(X), torch.randn(2, 4))


@entry
def dict_input() -> Any:
    return (
        Of(
            lambda s, x: s.f(F.relu(s.a(x["picture"]) + s.b(x["other"])).mean((2, 3))), a=c(3, 16), b=c(1, 16), f=head()
        ),
        {"picture": torch.randn(X), "other": torch.randn(2, 1, 16, 16)},
    )


@entry
def tuple_output() -> Any:
    def run(s: Any, x: Any) -> Any:
        x = F.relu(s.a(x))
        return pooled(s, x), s.b(x)

    return Of(run, a=c(3, 16), b=c(16, 4), f=head())


@entry
def one_channel() -> Any:
    return nn.Sequential(c(1, 16), nn.ReLU(), c(16, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(8)), torch.randn(
        2, 1, 16, 16
    )


@entry
def not_square() -> Any:
    return simple(nn.MaxPool2d(2)), torch.randn(2, 3, 12, 20)


@entry
def half_precision() -> Any:
    return simple(nn.BatchNorm2d(16)).bfloat16(), torch.randn(X).bfloat16()


@entry
def conv_1d() -> Any:
    return nn.Sequential(
        nn.Conv1d(4, 16, 5, 2, 2), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 16, 3), nn.AdaptiveMaxPool1d(1),
        nn.Flatten(), head(),
    ), torch.randn(2, 4, 32)  # fmt: skip


@entry
def conv_3d() -> Any:
    return nn.Sequential(
        nn.Conv3d(2, 16, 3, padding=1), nn.BatchNorm3d(16), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(16, 16, 3),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), head(),
    ), torch.randn(2, 2, 8, 8, 8)  # fmt: skip


@entry
def auto_encoder() -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


@entry(partly=True)
def attention() -> Any:
    def run(s: Any, x: Any) -> Any:
        y = x.flatten(2).transpose(1, 2)
        return x + s.m(y, y, y, need_weights=False)[0].transpose(1, 2).view_as(x)

    return between(run, m=nn.MultiheadAttention(16, 2, batch_first=True))


@entry(partly=True)
def own_attention() -> Any:
    def run(s: Any, x: Any) -> Any:
        q, k, v = (t.flatten(2) for t in s.qkv(x).chunk(3, dim=1))
        weights = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(8), -1)
        return x + s.out((v @ weights.transpose(1, 2)).view(x.shape))

    return between(run, qkv=c(16, 48, 1), out=c(16, 16, 1))


@entry(partly=True)
def non_local() -> Any:
    def run(s: Any, x: Any) -> Any:
        n = x.size(0)
        t, p = s.t(x).view(n, 8, -1).permute(0, 2, 1), s.p(x).view(n, 8, -1)
        y = torch.matmul(torch.matmul(t, p).softmax(-1), s.g(x).view(n, 8, -1).permute(0, 2, 1))
        return x + s.o(y.permute(0, 2, 1).contiguous().view(n, 8, *x.size()[2:]))

    return between(run, t=c(16, 8, 1), p=c(16, 8, 1), g=c(16, 8, 1), o=c(8, 16, 1))


class Squares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * x

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


class Mixes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x - x.roll(1, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


@entry
def own_function() -> Any:
    return simple(Lambda(Squares.apply))


@entry(partly=True)
def own_function_mixing() -> Any:
    return simple(Lambda(Mixes.apply))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.k = c(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.k(x) if float(x.abs().sum()) > 0 else x


@entry(partly=True)
def control_flow() -> Any:
    return nn.Sequential(simple(nn.ReLU())[:5], Branching(), nn.Flatten(), head(16))


@entry(partly=True)
def shape_control_flow() -> Any:
    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.k = c(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[1] != 16:
                raise ValueError("16 channels are expected")
            return self.k(x)

    return simple(Checked())


@entry(partly=True)
def l2_normalized() -> Any:
    return between(lambda s, x: F.normalize(x, dim=1))


@entry(partly=True)
def einsum() -> Any:
    return between(lambda s, x: torch.einsum("nchw,cd->ndhw", x, s.w), w=nn.Parameter(torch.randn(16, 16)))


@entry
def maximum_of_branches() -> Any:
    return between(lambda s, x: torch.max(s.p(x), s.q(x)), p=c(16, 16), q=c(16, 16))


@entry
def max_out() -> Any:
    def run(s: Any, x: Any) -> Any:
        x = s.p(x)
        n, k, h, w = x.shape
        return x.view(n, k // 2, 2, h, w).max(2)[0]

    return between(run, p=c(16, 32))


@entry
def stacked_branches() -> Any:
    def run(s: Any, x: Any) -> Any:
        y = torch.stack([s.p(x), s.q(x)], dim=1)
        return (y * s.w.view(1, 2, 1, 1, 1)).sum(dim=1)

    return between(run, p=c(16, 16), q=c(16, 16), w=torch.rand(2))


@entry
def selective_kernel() -> Any:
    def run(s: Any, x: Any) -> Any:
        a, b = s.p(x), s.q(x)
        z = F.relu(s.d((a + b).mean((2, 3), keepdim=True)))
        w = torch.softmax(torch.stack([s.u(z), s.v(z)], dim=1), dim=1)
        return a * w[:, 0] + b * w[:, 1]

    return between(run, p=c(16, 16), q=c(16, 16, 5), d=c(16, 4, 1), u=c(4, 16, 1), v=c(4, 16, 1))


@entry
def residual_stages() -> Any:
    def run(s: Any, x: Any) -> Any:
        x = F.relu(s.n(s.stem(x)))
        x = F.relu(x + s.b1(F.relu(s.a1(x))))
        return pooled(s, F.relu(s.short(x) + s.b2(F.relu(s.a2(x)))))

    return Of(
        run, stem=c(3, 8), n=nn.BatchNorm2d(8), a1=c(8, 8), b1=c(8, 8), a2=c(8, 16), b2=c(16, 16), short=c(8, 16, 1),
        f=head(),
    )  # fmt: skip


@entry
def spatial_softmax() -> Any:
    return between(lambda s, x: x * x.flatten(2).softmax(-1).view(x.shape))


@entry(partly=True)
def assigned_slice() -> Any:
    def run(s: Any, x: Any) -> Any:
        y = x.clone()
        y[:, :4] = 0
        return y

    return between(run)


@entry
def where_masked() -> Any:
    return between(lambda s, x: torch.where(x > 0, x, 0.1 * x).clamp(max=6))


@entry
def global_statistics() -> Any:
    return between(lambda s, x: (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 1e-3))


@entry
def coordinates() -> Any:
    def run(s: Any, x: Any) -> Any:
        grid = torch.linspace(0, 1, 16).view(1, 1, 1, 16).expand(x.shape[0], 1, 16, 16)
        return s.k(torch.cat([x, grid], 1))

    return between(run, k=c(17, 16))


@entry(partly=True)
def recurrent() -> Any:
    return Of(
        lambda s, x: s.f(s.r(F.relu(s.a(x)).mean(2).transpose(1, 2))[0][:, -1]), a=c(3, 16),
        r=nn.GRU(16, 8, batch_first=True), f=head(8),
    )  # fmt: skip


@entry
def scripted_part() -> Any:
    return simple(Lambda(F.mish))


@entry(partly=True)
def blur_pool() -> Any:
    return between(
        lambda s, x: F.conv2d(x, s.k.expand(x.shape[1], 1, 3, 3), stride=2, padding=1, groups=x.shape[1]),
        k=torch.full((1, 1, 3, 3), 1 / 9),
    )


@entry
def ghost_module() -> Any:
    return between(lambda s, x: torch.cat([p := s.p(x), s.d(p)], 1), p=c(16, 8, 1), d=c(8, 8, groups=8))


@entry
def gated_linear_unit() -> Any:
    return between(lambda s, x: F.glu(s.p(x), dim=1), p=c(16, 32))


@entry
def sizes_of_layers() -> Any:
    def run(s: Any, x: Any) -> Any:
        x = F.relu(s.a(x))
        one, two = torch.split(s.b(x), (s.p.in_channels, s.q.in_channels), dim=1)
        return s.f(F.avg_pool2d(s.p(one) + s.q(two), 8).view(-1, s.f.in_features))

    return Of(run, a=c(3, 16), b=c(16, 24), p=c(8, 8), q=c(16, 8), f=head(32))


@entry
def joined_rows() -> Any:
    def run(s: Any, x: Any) -> Any:
        one, two = s.p(x), s.q(x)
        x = s.r(torch.cat([one, two], dim=2))
        one, two = torch.split(x, [one.shape[2], two.shape[2]], dim=2)
        return one + two

    return between(run, p=c(16, 16), q=c(16, 16), r=c(16, 16))
