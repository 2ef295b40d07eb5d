"""How channels run through the operations of a traced network."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.fx
import torch.nn.functional as F
from torch import nn

from prunopt.core.arrays import Bools, Ints
from prunopt.networks.cnn.watching import NORMS


def _named(where: Any, names: str) -> list[Any]:
    return [getattr(where, name) for name in names.split()]


ELEMENTWISE = {
    *_named(operator, "add iadd sub isub mul imul truediv"),
    *_named(torch, "add sub mul div maximum minimum"),
}
ELEMENTWISE_METHODS = {name + end for name in ("add", "sub", "mul", "div") for end in ("", "_")}
ACTIVATIONS = "relu relu6 silu gelu hardswish hardsigmoid hardtanh leaky_relu elu sigmoid dropout dropout2d"
POOLING = "avg_pool2d max_pool2d adaptive_avg_pool2d adaptive_max_pool2d interpolate"
PASSING = {operator.neg, *_named(torch, "relu sigmoid tanh clamp neg"), *_named(F, f"{ACTIVATIONS} {POOLING}")}
METHODS = "relu relu_ sigmoid tanh clamp clamp_ contiguous clone float detach to half"
PASSING_METHODS = set(METHODS.split())
SPATIAL = {torch.mean, torch.sum, torch.amax}
LAYERS = "ReLU ReLU6 SiLU GELU Hardswish Hardsigmoid Hardtanh LeakyReLU ELU Sigmoid Tanh Mish Softplus Identity"
SHAPING = "Dropout Dropout2d AvgPool2d MaxPool2d AdaptiveAvgPool2d AdaptiveMaxPool2d ZeroPad2d Upsample"
PASSING_MODULES = tuple(_named(nn, f"{LAYERS} {SHAPING}"))


class Untraceable(Exception):
    """An operation that nothing is known about."""


class Tracer(torch.fx.Tracer):
    """A tracer that takes modules without children, and every convolution, linear layer and norm, as they are."""

    place = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one operation: it has no children, or is a layer with weights (however subclassed)."""
        return not any(True for _ in m.children()) or isinstance(m, (nn.Conv2d, nn.Linear, *NORMS))

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace into a module, and remember where an error came from."""
        outside, self.place = self.place, self.path_of_module(m)
        out = super().call_module(m, forward, args, kwargs)
        self.place = outside  # after an error the innermost name stays
        return out


class Layout:
    """Channels as numbers, tied to one another; layers with the channels at both of their ends."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._tensor: list[int] = []  # the allocation that a channel comes from
        self._tied: list[tuple[int, int]] = []  # allocations that lie in one group
        self._fixed: set[int] = set()
        self._allocations = 0
        self.slots: list[tuple[str, str, Ints, Ints, int]] = []

    def fresh(self, n: int, *, fixed: bool = False) -> Ints:
        """Return n new channels."""
        start = len(self._parent)
        self._parent += range(start, start + n)
        self._tensor += [self._allocations] * n
        self._allocations += 1
        if fixed:
            self._fixed |= set(range(start, start + n))
        return np.arange(start, start + n)

    def fix(self, channels: Ints) -> None:
        """Forbid the removal of channels."""
        self._fixed |= set(channels.tolist())

    def root(self, i: int) -> int:
        """Return the channel that stands for all that ``i`` is tied to."""
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def tie(self, a: Ints, b: Ints) -> None:
        """Make channels of two tensors one, place by place."""
        for i, j in zip(a.tolist(), b.tolist(), strict=True):
            self._tied.append((self._tensor[i], self._tensor[j]))
            self._parent[self.root(i)] = self.root(j)

    def only(self, free: list[Ints]) -> Layout:
        """Fix all channels that are tied to none of ``free``; returns itself."""
        wanted = {self.root(i) for channels in free for i in channels.tolist()}
        self._fixed |= {i for i in range(len(self._parent)) if self.root(i) not in wanted}
        return self

    def settled(self) -> tuple[Ints, Ints, Bools]:
        """Return the final channel of every number, and the group and fixedness of every final channel."""
        roots = np.array([self.root(i) for i in range(len(self._parent))], np.int64)
        known, channel = np.unique(roots, return_inverse=True)
        group_parent = list(range(self._allocations))

        def group_root(g: int) -> int:
            while group_parent[g] != g:
                g = group_parent[g]
            return g

        for a, b in self._tied:
            group_parent[group_root(a)] = group_root(b)
        raw = np.array([group_root(self._tensor[i]) for i in known.tolist()], np.int64)
        fixed = np.zeros(len(known), np.bool_)
        fixed[channel[sorted(self._fixed)]] = True
        group = np.unique(raw, return_inverse=True)[1] if len(raw) else raw
        return channel.astype(np.int64), group.astype(np.int64), fixed


class _Rules(torch.fx.Interpreter):
    """Runs the network once and moves channels along with the tensors."""

    def __init__(self, module: torch.fx.GraphModule, layout: Layout) -> None:
        super().__init__(module)
        self.layout = layout
        self.channels: dict[torch.fx.Node, Ints] = {}
        self.values: dict[torch.fx.Node, Any] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        out = super().run_node(n)
        self.values[n] = out
        if n.op == "output":
            for node in n.all_input_nodes:
                if node in self.channels:
                    self.layout.fix(self.channels[node])
            return out
        if not isinstance(out, torch.Tensor):
            if isinstance(out, tuple | list) and any(isinstance(o, torch.Tensor) for o in out):
                raise Untraceable(f"{self._label(n)} gives several tensors, which is not followed")
            return out
        self.channels[n] = self._channels(n, out)
        if out.ndim > 1 and len(self.channels[n]) != out.shape[1]:
            raise Untraceable(
                f"{self._label(n)}: {out.shape[1]} channels leave it, {len(self.channels[n])} were followed"
            )
        return out

    def _label(self, n: torch.fx.Node) -> str:
        if n.op == "call_module":
            return f"module {n.target!r} ({type(self.module.get_submodule(str(n.target))).__name__})"
        stack = n.meta.get("nn_module_stack") or {}
        inside = f" in module {list(stack)[-1]!r}" if stack else ""
        name = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", str(n.target))
        return f"operation {name!r}{inside}"

    def _channels(self, n: torch.fx.Node, out: torch.Tensor) -> Ints:
        if n.op == "placeholder" or n.op == "get_attr":
            return self.layout.fresh(out.shape[1] if out.ndim > 1 else 1, fixed=True)
        sources = [m for m in n.all_input_nodes if m in self.channels]
        if not sources:
            return self.layout.fresh(out.shape[1] if out.ndim > 1 else 1, fixed=True)
        source, target = self.channels[sources[0]], n.target
        before: torch.Tensor = self.values[sources[0]]
        if n.op == "call_module":
            return self._module(n, str(target), source, before, out)
        name = target if n.op == "call_method" else None
        if target in ELEMENTWISE or name in ELEMENTWISE_METHODS:
            return self._elementwise(n, sources, out)
        if target is torch.cat or target is torch.concat:
            dim = n.kwargs.get("dim", n.args[1] if len(n.args) > 1 else 0)
            if dim not in (1, 1 - out.ndim):
                raise Untraceable(f"{self._label(n)} joins along dimension {dim}; along the channels it is followed")
            parts: Any = n.args[0]
            return np.concatenate([self.channels[m] for m in parts])
        if target in PASSING or name in PASSING_METHODS:
            return source
        if target in SPATIAL or name in ("mean", "sum", "amax"):
            return self._spatial(n, source, before)
        if target is torch.flatten or name in ("flatten", "view", "reshape") or target is torch.reshape:
            return self._flattened(n, source, before, out)
        if target is F.pad or target is operator.getitem:
            return self._cut_or_padded(n, source, before, out)
        raise Untraceable(f"{self._label(n)} is not known to keep channels apart")

    def _elementwise(self, n: torch.fx.Node, sources: list[torch.fx.Node], out: torch.Tensor) -> Ints:
        full = [m for m in sources if self.values[m].ndim == out.ndim and self.values[m].shape[1] == out.shape[1]]
        if not full:
            raise Untraceable(f"{self._label(n)} spreads one channel over many")
        first = self.channels[full[0]]
        for m in sources:
            if m in full:
                self.layout.tie(first, self.channels[m])
            elif self.values[m].ndim > 1 and self.values[m].shape[1] != 1:
                raise Untraceable(f"{self._label(n)}: shapes {tuple(self.values[m].shape)} and {tuple(out.shape)}")
            else:
                self.layout.fix(self.channels[m])
        return first

    def _spatial(self, n: torch.fx.Node, source: Ints, before: torch.Tensor) -> Ints:
        dims = n.kwargs.get("dim", n.args[1] if len(n.args) > 1 else None)
        listed = [dims] if isinstance(dims, int) else list(dims) if isinstance(dims, tuple | list) else []
        if not listed or any(int(d) % before.ndim < 2 for d in listed):
            raise Untraceable(f"{self._label(n)} over dimensions {dims} mixes channels")
        return source

    def _flattened(self, n: torch.fx.Node, source: Ints, before: torch.Tensor, out: torch.Tensor) -> Ints:
        if out.shape == before.shape:
            return source
        if out.ndim == 2 and out.shape[0] == before.shape[0]:
            return np.repeat(source, int(np.prod(before.shape[2:])))
        if out.ndim > 1 and out.shape[:2] == before.shape[:2]:
            return source
        raise Untraceable(f"{self._label(n)} reshapes {tuple(before.shape)} to {tuple(out.shape)}")

    def _cut_or_padded(self, n: torch.fx.Node, source: Ints, before: torch.Tensor, out: torch.Tensor) -> Ints:
        if n.target is operator.getitem:
            index = n.args[1]
            if isinstance(index, tuple) and all(i == slice(None) for i in index[:2]) and out.ndim == before.ndim:
                return source
            raise Untraceable(f"{self._label(n)} takes some of the channels")
        given: Any = n.args[1] if len(n.args) > 1 else n.kwargs["pad"]
        pads = [int(p) for p in given]
        at = 2 * (before.ndim - 2)
        if len(pads) <= at:
            return source
        left, right = pads[at], pads[at + 1]
        parts = [self.layout.fresh(left, fixed=True), source, self.layout.fresh(right, fixed=True)]
        return np.concatenate(parts)

    def _module(self, n: torch.fx.Node, name: str, source: Ints, before: torch.Tensor, out: torch.Tensor) -> Ints:
        module = self.module.get_submodule(name)
        positions = int(np.prod(out.shape[2:])) if out.ndim > 2 else 1
        add = self.layout.slots.append
        if any(slot[0] == name for slot in self.layout.slots) and isinstance(module, (nn.Conv2d, nn.Linear, *NORMS)):
            raise Untraceable(f"{self._label(n)} runs twice; layers used more than once are not followed")
        if isinstance(module, nn.Linear):
            if out.ndim != 2:
                raise Untraceable(f"{self._label(n)} works on {out.ndim} dimensions; (batch, features) are followed")
            outs = self.layout.fresh(module.out_features)
            add((name, "linear", source, outs, 1))
            return outs
        if isinstance(module, nn.Conv2d):
            return self._conv(name, module, source, positions)
        if isinstance(module, NORMS):
            add((name, "norm", source, source, positions))
            return source
        if isinstance(module, nn.Flatten):
            return self._flattened(n, source, before, out)
        if isinstance(module, PASSING_MODULES) or self._is_elementwise(module, before, out):
            return source
        raise Untraceable(f"{self._label(n)} is not known to keep channels apart")

    def _is_elementwise(self, module: nn.Module, before: torch.Tensor, out: torch.Tensor) -> bool:
        """Whether a module without weights treats numbers one by one: turned round in, turned round out."""
        if any(True for _ in module.parameters()) or before.shape != out.shape:
            return False
        turned = module(before.flip(1).contiguous())
        return isinstance(turned, torch.Tensor) and torch.equal(turned, out.flip(1))

    def _conv(self, name: str, module: nn.Conv2d, source: Ints, positions: int) -> Ints:
        add, layout = self.layout.slots.append, self.layout
        if module.groups == 1:
            outs = layout.fresh(module.out_channels)
            add((name, "conv", source, outs, positions))
            return outs
        each_in, each_out = module.in_channels // module.groups, module.out_channels // module.groups
        if each_in == 1:
            outs = np.repeat(source, each_out)
            add((name, "depthwise", source, outs, positions))
            return outs
        outs = layout.fresh(module.out_channels)
        for ends, each in ((source, each_in), (outs, each_out)):
            rows = ends.reshape(module.groups, each)  # every group has to lose the same places
            for row in rows[1:]:
                layout.tie(rows[0], row)
        add((name, "grouped", source, outs, positions))
        return outs


def propagate(module: torch.fx.GraphModule, example: torch.Tensor, layout: Layout) -> None:
    """Run ``module`` on ``example`` and fill ``layout``; `Untraceable` names what is not followed."""
    with torch.no_grad():
        _Rules(module, layout).run(example)
