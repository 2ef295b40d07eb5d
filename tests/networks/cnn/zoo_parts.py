"""Small networks with the operations and patterns that users bring: name, network, input, and what is to be freed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

import torch
import torch.nn.utils.prune
from torch import nn
from torch.nn import functional as F

Net = tuple[nn.Module, Any]
ZOO: dict[str, Callable[[], Net]] = {}
PARTLY: set[str] = set()  # something in it has to be pinned
X = (2, 3, 16, 16)


M = TypeVar("M", bound=Callable[[], Any])


@overload
def entry(make: M) -> M: ...
@overload
def entry(*, partly: bool) -> Callable[[M], M]: ...
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


def entry_of(name: str, make: Callable[[], nn.Module]) -> None:
    """Register a layer in the middle of a simple network."""

    def build() -> Net:
        torch.manual_seed(0)
        return simple(make()).eval(), torch.randn(X)

    ZOO[name] = build


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


def simple(middle: nn.Module) -> Any:
    return nn.Sequential(c(3, 16), middle, c(16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head())


def between(run: Callable[[Any, Any], Any], **parts: Any) -> nn.Module:
    return Of(lambda s, x: pooled(s, F.relu(s.b(run(s, s.a(x))))), a=c(3, 16), b=c(16, 16), f=head(), **parts)


class Lambda(nn.Module):
    def __init__(self, run: Callable[[Any], Any]) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Any) -> Any:
        return self.run(x)
