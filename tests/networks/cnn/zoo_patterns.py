"""Networks of the zoo: shared and computed weights, branches, inputs and outputs, code of one's own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.nn.utils import prune as pruning

from tests.networks.cnn.zoo_parts import Lambda, Of, X, between, c, entry, head, pooled, simple

prune: Any = pruning  # which has no types


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
    prune.l1_unstructured(model[0], "weight", amount=0.3)
    model(torch.zeros(X))
    return model


@entry
def pruned_structured() -> Any:
    model = simple(nn.ReLU())
    prune.ln_structured(model[2], "weight", amount=0.3, n=2, dim=0)
    prune.l1_unstructured(model[2], "bias", amount=0.3)
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
            out: torch.Tensor = self.k(x)
            return out

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
        one, two = torch.split(s.b(x), [s.p.in_channels, s.q.in_channels], dim=1)
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


@entry(partly=True)
def permuted_by_numbers() -> Any:
    return between(lambda s, x: x[:, torch.arange(15, -1, -1)], p=c(16, 16))


@entry(partly=True)
def attention_over_places() -> Any:
    def run(s: Any, x: Any) -> Any:
        t = s.b(F.relu(s.a(x))).flatten(2).transpose(1, 2)
        return s.f((t + s.m(t, t, t)[0]).mean(1))

    return Of(run, a=c(3, 16), b=c(16, 16), m=nn.MultiheadAttention(16, 4, batch_first=True), f=head(16))
