"""Networks of the zoo as strangers write them: several habits at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from tests.networks.cnn.zoo_parts import Of, between, c, entry, head, pooled


@entry(partly=True)
def attention_of_places() -> Any:
    def run(s: Any, x: Any) -> Any:
        t = x.flatten(2).transpose(1, 2)
        out, _ = s.att(t, t, t, need_weights=False)
        return (t + out).transpose(1, 2).reshape(x.shape)

    return between(run, att=nn.MultiheadAttention(16, 4, batch_first=True))


@entry
def joined_with_itself() -> Any:
    return between(lambda s, x: s.k(torch.cat([x, F.relu(x), x], 1)), k=c(48, 16))


@entry
def shared_at_two_resolutions() -> Any:
    def run(s: Any, x: Any) -> Any:
        small = F.avg_pool2d(x, 2)
        up = F.interpolate(s.k(small), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return s.k(x) + up

    return between(run, k=nn.Sequential(c(16, 24), nn.BatchNorm2d(24), nn.ReLU(), c(24, 16)))


@entry
def excited_hard() -> Any:
    def run(s: Any, x: Any) -> Any:
        return x * F.hardsigmoid(s.up(F.relu(s.down(F.adaptive_avg_pool2d(x, 1)))))

    return between(run, down=nn.Conv2d(16, 8, 1), up=nn.Conv2d(8, 16, 1))


@entry(partly=True)
def attended_by_einsum() -> Any:
    def run(s: Any, x: Any) -> Any:
        q, k, v = (m(x).flatten(2) for m in (s.q, s.k, s.v))
        seen = torch.einsum("bcn,bcm->bnm", q, k).softmax(-1)
        return x + s.o(torch.einsum("bnm,bcm->bcn", seen, v).view(x.size(0), -1, x.size(2), x.size(3)))

    return between(run, **{n: nn.Conv2d(16, 16, 1) for n in "qkvo"})


@entry(partly=True)
def halves_by_shape() -> Any:
    def run(s: Any, x: Any) -> Any:
        half = x.shape[1] // 2
        return torch.cat([x[:, half:], s.k(x[:, :half])], 1)

    return between(run, k=c(8, 8))


@entry
def normed_and_shared() -> Any:
    one = parametrizations.spectral_norm(c(16, 16))
    return between(lambda s, x: s.two(F.relu(s.one(x))), one=one, two=parametrizations.weight_norm(c(16, 16)))


class _Centered(nn.Module):
    """Weights without a mean, over all that a filter reads: another one once a channel is gone."""

    def forward(self, w: Any) -> Any:
        return w - w.mean((1, 2, 3), keepdim=True)


@entry
def weight_of_own_parametrization() -> Any:
    k = c(16, 16)
    parametrize.register_parametrization(k, "weight", _Centered())
    return between(lambda s, x: F.relu(s.k(x)), k=k)


@entry
def parallel_kernels_before_fusing() -> Any:
    def run(s: Any, x: Any) -> Any:
        return F.relu(s.n3(s.k3(x)) + s.n1(s.k1(x)) + s.n0(x))

    return between(run, k3=c(16, 16), k1=c(16, 16, 1), **{n: nn.BatchNorm2d(16) for n in ("n3", "n1", "n0")})


@entry(partly=True)
def channels_in_an_order() -> Any:
    order = torch.randperm(16)
    return between(lambda s, x: x[:, s.order] * s.k(x), order=order, k=c(16, 16))


@entry(partly=True)
def strongest_channels() -> Any:
    def run(s: Any, x: Any) -> Any:
        weight, at = x.mean((2, 3)).topk(8, 1)
        return torch.gather(x, 1, at[:, :, None, None].expand(-1, -1, *x.shape[2:])) * weight[:, :, None, None]

    return Of(
        lambda s, x: pooled(s, F.relu(s.b(run(s, s.a(F.relu(s.z(x))))))), z=c(3, 16), a=c(16, 16), b=c(8, 16), f=head()
    )


@entry(partly=True)
def frequencies() -> Any:
    def run(s: Any, x: Any) -> Any:
        return torch.fft.irfft2(torch.fft.rfft2(x) * torch.view_as_complex(s.w), s=x.shape[-2:])

    return between(run, w=nn.Parameter(torch.randn(16, 16, 9, 2)))


@entry
def bfloat16() -> Any:
    return between(lambda s, x: F.relu(x)).bfloat16(), torch.randn(2, 3, 16, 16).bfloat16()


@entry(partly=True)
def pasted_into_zeros() -> Any:
    def run(s: Any, x: Any) -> Any:
        out = torch.zeros(x.shape[0], 24, *x.shape[2:])
        out[:, 4:20] = x
        return s.k(out)

    return between(run, k=c(24, 16))


@entry(partly=True)
def unfolded() -> Any:
    def run(s: Any, x: Any) -> Any:
        columns = F.unfold(x, 2, stride=2)
        return s.k(columns.view(x.size(0), -1, x.size(2) // 2, x.size(3) // 2))

    return between(run, k=nn.Conv2d(64, 16, 1))


@entry
def chosen_by_flag() -> Any:
    def run(s: Any, x: Any) -> Any:
        return s.late(x) if s.training or s.late is not None else x

    return between(run, late=nn.Sequential(c(16, 16), nn.Dropout2d(0.1), nn.Hardswish()))


@entry
def padded_shortcuts() -> Any:
    """Of a ResNet for small pictures: padding stays, however few of the channels in its middle do."""

    def run(s: Any, x: Any) -> Any:
        x = s.a(x)
        for one, two, more in ((s.b, s.d, 4), (s.e, s.g, 8)):
            x = F.relu(two(F.relu(one(x))) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, more, more)))
        return s.f(F.adaptive_avg_pool2d(x, 1).flatten(1))

    return Of(
        run, a=c(3, 8), b=nn.Conv2d(8, 16, 3, 2, 1), d=c(16, 16), e=nn.Conv2d(16, 32, 3, 2, 1), g=c(32, 32), f=head(32)
    )
