"""Channels on their way through a traced network.

Every number of a tensor has the label of its channel. Operations that only move numbers are run on the labels
themselves; sums and products tie labels; whatever treats the channels one by one is found out by trying; what is left
pins the channels that it touches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.fx
from torch import nn

from prunopt.core.arrays import Ints
from prunopt.networks.cnn._labels import (
    ELEMENTWISE,
    MOVES,
    REDUCTIONS,
    RESHAPES,
    argument,
    close,
    compact,
    follows,
    name_of,
    spread,
    varying,
)
from prunopt.networks.cnn._tracing import Layout, is_layer_norm
from prunopt.networks.cnn.inputs import Inputs, mapped, tensors_of
from prunopt.networks.cnn.watching import CARRIERS, CONVOLUTIONS, TRANSPOSED

MOVING_MODULES = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Identity)
CONSTANT = "_tensor_constant"  # what torch.fx calls a tensor that belongs to no module
LARGEST = 1 << 18  # numbers of a parameter whose channels are followed one by one


class Unfollowed(Exception):
    """An operation whose channels are not followed: they are pinned."""


def followed(graph: torch.fx.GraphModule, example: Inputs, layout: Layout) -> Follower:
    """Run a network on ``example`` and fill ``layout``; return what knows the labels of every value."""
    run = Follower(graph, layout)
    with torch.no_grad():
        run.run(*(example.arguments if not isinstance(example, torch.Tensor) else (example,)))
    run.finish()
    return run


class Follower(torch.fx.Interpreter):
    """Runs the network once and moves labels along with the tensors."""

    def __init__(self, module: torch.fx.GraphModule, layout: Layout) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.layout = layout
        self.numbers = bool(module.meta.get("numbers"))  # where shapes come from is left to the trial
        self.labels: dict[torch.fx.Node, Any] = {}
        self.shapes: dict[torch.fx.Node, torch.Size] = {}
        self.reduced: dict[torch.fx.Node, int] = {}  # the axis of channels that an operation reduces
        self._parameters: dict[int, tuple[str, torch.Tensor]] = {}
        self._weights: dict[int, str] = {}  # the first layer that has a parameter

    # ---- values

    def run_node(self, n: torch.fx.Node) -> Any:
        out = super().run_node(n)
        if n.op == "output":
            self._fix(n)
            return out
        if not tensors_of(out):
            if out is None and n.op != "placeholder":  # works in place, on a part perhaps
                self._pin(n, out)
            return out
        if isinstance(out, torch.Tensor):
            self.shapes[n] = out.shape
        try:
            self.labels[n] = self._labels(n, out)
        except Unfollowed:
            self.labels[n] = self._pin(n, out)
        return out

    def label(self, n: torch.fx.Node) -> str:
        """Return the name of a node for people."""
        if n.op == "call_module":
            return f"module {n.target!r} ({type(self.module.get_submodule(str(n.target))).__name__})"
        stack = n.meta.get("nn_module_stack") or {}
        inside = f" in module {list(stack)[-1]!r}" if any(stack) else ""
        return f"operation {name_of(n)!r}{inside}"

    def _sources(self, n: torch.fx.Node) -> list[torch.fx.Node]:
        return [m for m in n.all_input_nodes if m in self.labels]

    def _fix(self, n: torch.fx.Node) -> None:
        for m in self._sources(n):
            for labels in tensors_of(self.labels[m]):
                self.layout.fix(np.unique(compact(labels).numpy()))

    def _pin(self, n: torch.fx.Node, out: Any) -> Any:
        for t in [t for m in self._sources(n) for t in tensors_of(self.labels[m])]:
            channels = np.unique(compact(t).numpy())
            if not self.layout.is_fixed(channels):
                self.layout.touched.append((self.label(n), channels))
        self._fix(n)
        return self._constant(out)

    def _constant(self, out: Any) -> Any:
        def fresh(t: torch.Tensor) -> torch.Tensor:
            row = torch.from_numpy(self.layout.fresh(t.shape[1] if t.ndim > 1 else 1, fixed=True))
            return spread(row, 1, t.shape) if t.ndim > 1 else row.expand(t.shape if t.ndim else (1,)).reshape(t.shape)

        return mapped(out, fresh)

    def channels(self, labels: torch.Tensor, axis: int) -> Ints:
        """Return the channel of every place of an axis; where labels differ elsewhere, too, all of them are fixed."""
        rooted = self._rooted(labels)
        others = [d for d in varying(rooted) if d != axis % labels.ndim]
        if others:
            raise Unfollowed
        row = compact(rooted.movedim(axis, 0).flatten(1)[:, :1] if labels.ndim > 1 else rooted[:, None])[:, 0]
        return np.array(row.expand(labels.shape[axis]).numpy(), np.int64)

    def _rooted(self, labels: torch.Tensor) -> torch.Tensor:
        small = compact(labels)
        return torch.from_numpy(self.layout.roots(small.contiguous().numpy())).reshape(small.shape).expand(labels.shape)

    # ---- rules

    def _labels(self, n: torch.fx.Node, out: Any) -> Any:
        sources = self._sources(n)
        if n.op == "get_attr":
            return self._parameter(str(n.target), out)
        if n.op == "placeholder" or not sources:
            return self._constant(out)
        name = name_of(n)
        if n.op == "call_module":
            return self._module(n, str(n.target), sources[0], out)
        if name in ("getitem", "getattr") and not isinstance(self.labels[sources[0]], torch.Tensor):
            which: Any = {"values": 0, "indices": 1}.get(str(n.args[1]), n.args[1])
            return self.labels[sources[0]][which]
        if any(not isinstance(self.labels[m], torch.Tensor) for m in sources):
            raise Unfollowed
        tensors = sum(isinstance(m, torch.fx.Node) and m in self.labels for m in (*n.args, *n.kwargs.values()))
        if name in ELEMENTWISE and not (name in REDUCTIONS and tensors < 2) and isinstance(out, torch.Tensor):
            return self._elementwise(n, sources, out)
        if name in MOVES:
            return self._moved(n, name, sources, out)
        if name in REDUCTIONS and len(sources) == 1:
            return self._reduced(n, sources[0], out)
        if name == "glu":
            dim = int(argument(n, 1, "dim", -1))
            halves = self.channels(self.labels[sources[0]], dim).reshape(2, -1)
            self.layout.tie(halves[0], halves[1])
            return spread(torch.from_numpy(halves[0]), dim, out.shape)
        if name == "pad" and len(sources) == 1:
            return self._padded(n, sources[0], out)
        return self._tried(n, sources, out)

    def _padded(self, n: torch.fx.Node, source: torch.fx.Node, out: torch.Tensor) -> torch.Tensor:
        labels = self._rooted(self.labels[source])
        axes = varying(labels) or [1]
        given: Any = n.args[1] if len(n.args) > 1 else n.kwargs["pad"]
        if len(axes) > 1 or any(not isinstance(p, int) for p in given):
            raise Unfollowed
        row, at = self.channels(labels, axes[0]), 2 * (labels.ndim - 1 - axes[0])
        if len(given) > at:
            ends = [self.layout.fresh(int(p), fixed=True) for p in given[at : at + 2]]
            row = np.concatenate([ends[0], row, ends[1]])
        return spread(torch.from_numpy(row), axes[0], out.shape)

    def _parameter(self, name: str, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and id(value) in self._weights:
            self._whole(self._weights[id(value)], f"parameter {name!r}, which a layer has, too")
            return self._constant(value)
        if not isinstance(value, torch.Tensor) or value.numel() > LARGEST or name.startswith(CONSTANT):
            return self._constant(value)
        if id(value) not in self._parameters:
            labels = torch.from_numpy(self.layout.fresh(max(value.numel(), 1))).reshape(value.shape)
            self._parameters[id(value)] = name, labels
        return self._parameters[id(value)][1]

    def _elementwise(self, n: torch.fx.Node, sources: list[torch.fx.Node], out: torch.Tensor) -> torch.Tensor:
        parts = []
        for m in sources:
            labels = self._rooted(self.labels[m])
            labels = labels.reshape((1,) * (out.ndim - labels.ndim) + tuple(labels.shape))
            parts.append(labels)
        axes = {d for labels in parts for d in varying(labels)}
        full = [p for p in parts if all(p.shape[d] == out.shape[d] for d in axes)]
        if not full:
            raise Unfollowed  # one channel is spread over many on both sides
        wide = [p.expand(out.shape) for p in full]
        for labels in parts:
            if not any(labels is p for p in full):  # one number for many channels
                self.layout.fix(np.unique(compact(labels).numpy()))
        first = wide[0]
        for other in wide[1:]:
            pair = np.broadcast_arrays(compact(first).numpy(), compact(other).numpy())
            self.layout.tie(pair[0].ravel(), pair[1].ravel())
        return self._rooted(first)

    def _moved(self, n: torch.fx.Node, name: str, sources: list[torch.fx.Node], out: Any) -> Any:
        before = [varying(self._rooted(self.labels[m])) for m in sources]
        if name == "getattr" and n.args[1] not in ("T", "mT", "data"):
            raise Unfollowed
        if name == "to" or name == "type_as":
            return self.labels[sources[0]]

        inside = sources[:1] if name == "getitem" else sources  # an index is a number, not something that has channels

        def value(m: torch.fx.Node) -> Any:
            return self.labels[m] if m in inside else self.env[m]

        args, kwargs = (torch.fx.node.map_arg(a, value) for a in (n.args, n.kwargs))
        found = self._apply(n, args, kwargs)
        self._check_sizes(n, name, sources, before, found)
        if name == "channel_shuffle" or name == "native_channel_shuffle":
            self._tie_parts(self.labels[sources[0]], int(argument(n, 1, "groups")))
        joined = argument(n, 1, "dim", 0) if name in ("cat", "concat", "concatenate", "stack") else None
        if isinstance(found, torch.Tensor):
            return self._one_axis(found, name, n, joined)
        return mapped(found, lambda t: t)

    def _apply(self, n: torch.fx.Node, args: Any, kwargs: Any) -> Any:
        target: Any = n.target
        try:
            if n.op == "call_method":
                target = "reshape" if target == "view" else target  # labels are repeated in memory
                return getattr(args[0], target)(*args[1:], **kwargs)
            if target is getattr:
                return getattr(args[0], args[1])
            return target(*args, **kwargs)
        except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError) as error:
            raise Unfollowed from error

    def _check_sizes(self, n: torch.fx.Node, name: str, sources: list[torch.fx.Node], before: Any, found: Any) -> None:
        """Pin what is cut or shaped by numbers that are written down."""
        if name == "getitem":
            index = n.args[1] if isinstance(n.args[1], tuple) else (n.args[1],)
            at = 0
            for i in index:
                if i is None:
                    continue
                if i is Ellipsis:
                    at = self.labels[sources[0]].ndim - sum(k is not None and k is not Ellipsis for k in index) + at
                    continue
                if i != slice(None) and at in before[0]:
                    raise Unfollowed
                at += 1
        elif name in ("split", "narrow", "index_select", "unbind"):
            place = {"split": 2, "unbind": 1}.get(name, 1)
            dim = int(argument(n, place, "dim", 0))
            dim %= self.labels[sources[0]].ndim
            sizes = argument(n, 1, "split_size_or_sections", n.kwargs.get("split_size"))
            known = not isinstance(sizes, torch.fx.Node) and not self.numbers
            if dim in before[0] and (name != "split" or known):
                raise Unfollowed
            if dim in before[0] and isinstance(sizes, int | torch.fx.Node):
                self._alike(found, dim)
        elif name in ("chunk", "tensor_split"):
            dim = int(argument(n, 2, "dim", 0))
            if dim % self.labels[sources[0]].ndim in before[0]:
                self._alike(found, dim)

    def _alike(self, parts: Any, dim: int) -> None:
        """Let parts of one tensor lose the same places."""
        pieces = [self.channels(t, dim) for t in parts]
        if len({len(p) for p in pieces}) != 1:
            raise Unfollowed
        for piece in pieces[1:]:
            self.layout.tie(pieces[0], piece)

    def _tie_parts(self, labels: torch.Tensor, parts: int) -> None:
        rows = self.channels(labels, 1).reshape(parts, -1)
        for row in rows[1:]:
            self.layout.tie(rows[0], row)

    def _one_axis(self, labels: torch.Tensor, name: str, n: torch.fx.Node, joined: Any = None) -> torch.Tensor:
        """Tie labels so that they differ along one axis, the one along which the tensor will be cut."""
        labels = self._rooted(labels)
        axes = varying(labels)
        if name in RESHAPES and axes:
            axes = [d for d in axes if self.numbers or follows(n, name, d, self.env)]
            if not axes:
                raise Unfollowed  # the size is written down
            if name == "expand" and len(axes) < len(varying(labels)):
                raise Unfollowed
        elif len(axes) > 1 and joined is not None:
            axes = [d for d in axes if d != int(joined) % labels.ndim] or axes
        if len(varying(labels)) < 2:
            return labels
        # of (n, parts, channels, height, width) the channels, of (n, channels, height, width) those
        axis = axes[-1] if name in RESHAPES and labels.ndim != 4 else axes[0]
        small = compact(labels).movedim(axis, 0).flatten(1)
        for k in range(1, small.shape[1]):
            self.layout.tie(small[:, 0].numpy(), small[:, k].numpy())
        return self._rooted(labels)

    def _reduced(self, n: torch.fx.Node, source: torch.fx.Node, out: Any) -> Any:
        labels = self._rooted(self.labels[source])
        name = name_of(n)
        given = n.kwargs.get("dim", n.kwargs.get("axis"))
        if given is None and len(n.args) > 1:
            given = n.args[2] if name == "norm" and len(n.args) > 2 else None if name == "norm" else n.args[1]
        dims = [given] if isinstance(given, int) else list(given) if isinstance(given, tuple | list) else None
        if dims is None:
            dims = list(range(labels.ndim))
        if any(not isinstance(d, int) for d in dims):
            raise Unfollowed
        dims = sorted({d % labels.ndim for d in dims})
        axes = varying(labels)
        keep = bool(n.kwargs.get("keepdim", n.args[2] if len(n.args) > 2 and name != "norm" else False))
        if not set(axes) & set(dims):
            kept = compact(labels)
            small = torch.amax(kept, dims, keepdim=keep)
            return mapped(out, lambda t: small.expand(t.shape))
        if len(axes) > 1 or len(set(self.layout.roots(self.channels(labels, axes[0])).tolist())) < 2:
            raise Unfollowed
        if name in ("argmax", "median", "prod", "norm"):
            raise Unfollowed
        self.reduced[n] = axes[0]
        return self._constant(out)

    def _tried(self, n: torch.fx.Node, sources: list[torch.fx.Node], out: Any) -> Any:
        """Find out whether an operation treats channels one by one: with others changed, and with them in turn."""
        if not isinstance(out, torch.Tensor) or not out.is_floating_point():
            raise Unfollowed
        axes = {d for m in sources for d in varying(self._rooted(self.labels[m]))}
        axis = axes.pop() if axes else 1
        if axes or any(axis >= len(self.shapes.get(m, ())) for m in sources):
            raise Unfollowed
        size = self.shapes[sources[0]][axis]
        if size == 1 and len(sources) == 1 and out.ndim > axis and out.shape[axis] == 1:
            return spread(torch.from_numpy(self.channels(self.labels[sources[0]], axis)), axis, out.shape)
        same = all(self.shapes[m][axis] == size for m in sources)
        if not same or out.ndim <= axis or out.shape[axis] != size or out.shape[0] != self.shapes[sources[0]][0]:
            raise Unfollowed
        if size < 2:
            raise Unfollowed
        generator = torch.Generator().manual_seed(0)
        values = {m: torch.randn(self.shapes[m], generator=generator).to(self.env[m]) for m in sources}
        other = {m: torch.randn(self.shapes[m], generator=generator).to(self.env[m]) for m in sources}
        order = torch.randperm(size, generator=generator)
        half = order[: size // 2]
        mixed = {m: v.index_copy(axis, half, other[m].index_select(axis, half)) for m, v in values.items()}
        turned = {m: v.index_select(axis, order) for m, v in values.items()}
        try:
            plain, changed, moved = (self._again(n, v) for v in (values, mixed, turned))
        except Exception as error:
            raise Unfollowed from error
        rest = order[size // 2 :]
        good = isinstance(plain, torch.Tensor) and plain.shape == out.shape
        if not good or not close(plain.index_select(axis, order), moved):
            raise Unfollowed
        if not close(plain.index_select(axis, rest), changed.index_select(axis, rest)):
            raise Unfollowed
        rows = [self.channels(self.labels[m], axis) for m in sources]
        for row in rows[1:]:
            self.layout.tie(rows[0], row)
        return spread(torch.from_numpy(rows[0]), axis, out.shape)

    def _again(self, n: torch.fx.Node, values: dict[torch.fx.Node, torch.Tensor]) -> Any:
        def value(m: torch.fx.Node) -> Any:
            return values[m].clone() if m in values else self.env[m]

        args, kwargs = (torch.fx.node.map_arg(a, value) for a in (n.args, n.kwargs))
        return getattr(self, n.op)(n.target, args, kwargs)

    # ---- modules

    def _module(self, n: torch.fx.Node, name: str, source: torch.fx.Node, out: Any) -> Any:
        module: Any = self.module.get_submodule(name)
        labels = self.labels[source]
        if not isinstance(labels, torch.Tensor):
            raise Unfollowed
        if isinstance(module, MOVING_MODULES):
            return self._moving_module(module, labels, out)
        if isinstance(module, (*CONVOLUTIONS, nn.Linear, *CARRIERS)) or is_layer_norm(module):
            if not _plain(module):
                raise Unfollowed
            if isinstance(module, nn.PReLU) and module.num_parameters == 1:
                return labels
            return self._layer(n, name, module, labels, out)
        if any(True for _ in module.parameters()):
            raise Unfollowed
        return self._tried(n, self._sources(n), out)

    def _moving_module(self, module: nn.Module, labels: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        try:
            found = module(labels.double()).long()
        except (RuntimeError, NotImplementedError) as error:
            raise Unfollowed from error
        if isinstance(module, nn.ChannelShuffle):
            self._tie_parts(labels, module.groups)
        if isinstance(module, nn.Unflatten) and varying(found):
            sizes = [int(s[1]) if isinstance(s, tuple) else int(s) for s in module.unflattened_size]
            if any(sizes[d - module.dim] != -1 for d in varying(found) if 0 <= d - module.dim < len(sizes)):
                raise Unfollowed
        axes = varying(self._rooted(found))
        if len(axes) > 1:
            small = compact(self._rooted(found)).movedim(axes[0], 0).flatten(1)
            for k in range(1, small.shape[1]):
                self.layout.tie(small[:, 0].numpy(), small[:, k].numpy())
        return self._rooted(found)

    def _layer(self, n: torch.fx.Node, name: str, module: Any, labels: torch.Tensor, out: torch.Tensor) -> Any:
        last = isinstance(module, nn.Linear | nn.LayerNorm) or is_layer_norm(module)
        axis = labels.ndim - 1 if isinstance(module, nn.Linear) else 1
        if last and not isinstance(module, nn.Linear):
            axes = varying(self._rooted(labels))
            axis = axes[0] if axes else labels.ndim - 1
            if len(module.normalized_shape) != 1 or module.normalized_shape[0] != labels.shape[axis]:
                raise Unfollowed
        if isinstance(module, CONVOLUTIONS) and labels.ndim != module.weight.ndim:
            raise Unfollowed  # a picture without a batch
        source = self.channels(labels, axis)
        kind, outs = self._ends(module, source)
        places = labels.shape if isinstance(module, TRANSPOSED) else out.shape
        positions = int(np.prod([s for d, s in enumerate(places) if d not in (0, axis)]))
        known = self.layout.slots.get(name)
        if known is not None:
            self.layout.tie(known[1], source)
            self.layout.tie(known[2], outs)
            positions, runs = known[3] + positions, known[4] + 1
            source, outs = known[1], known[2]
        else:
            runs = 1
        self.layout.slots[name] = kind, source, outs, positions, runs
        self._shared(name, module, kind, source, outs)
        return spread(torch.from_numpy(outs), axis, out.shape)

    def _shared(self, name: str, module: Any, kind: str, ins: Ints, outs: Ints) -> None:
        """Tie the ends of layers that share a weight or a bias."""
        for part, value in module.named_parameters(recurse=False):
            if id(value) in self._parameters:
                self._whole(name, f"parameter {self._parameters[id(value)][0]!r}, which a layer has, too")
            first = self._weights.setdefault(id(value), name)
            if first == name:
                continue
            old, alike = self.layout.slots[first], type(self.module.get_submodule(first)) is type(module)
            if old[0] != kind or not alike or len(old[1]) != len(ins):
                for other in (first, name):
                    self._whole(other, f"the {part} that modules {first!r} and {name!r} share")
                continue
            self.layout.tie(old[2], outs)
            if part == "weight":
                self.layout.tie(old[1], ins)

    def _whole(self, name: str, why: str) -> None:
        """Pin both ends of a layer."""
        for channels in self.layout.slots[name][1:3]:
            self.layout.fix(channels)
        self.layout.touched.append((why, self.layout.slots[name][2]))

    def _ends(self, module: Any, source: Ints) -> tuple[str, Ints]:
        layout = self.layout
        if isinstance(module, nn.Linear):
            return "linear", layout.fresh(module.out_features)
        if not isinstance(module, CONVOLUTIONS):
            if isinstance(module, nn.GroupNorm):
                rows = source.reshape(module.num_groups, -1)
                for row in rows[1:] if rows.shape[1] > 1 else ():
                    layout.tie(rows[0], row)
            return "norm", source
        if module.groups == 1:
            return "conv", layout.fresh(module.out_channels)
        each_in, each_out = module.in_channels // module.groups, module.out_channels // module.groups
        if each_in == 1:
            return "depthwise", np.repeat(source, each_out)
        if isinstance(module, TRANSPOSED):
            raise Unfollowed
        outs = layout.fresh(module.out_channels)
        for ends, each in ((source, each_in), (outs, each_out)):
            rows = ends.reshape(module.groups, each)  # every group has to lose the same places
            for row in rows[1:]:
                layout.tie(rows[0], row)
        return "grouped", outs

    def finish(self) -> None:
        """Settle which parameters of their own are cut, and along which axis; the rest is fixed."""
        made = [s[2] for s in self.layout.slots.values()]
        producers = set(self.layout.roots(np.unique(np.concatenate(made))).tolist()) if made else set()
        for why, channels in self.layout.touched:
            if producers & set(self.layout.roots(channels).tolist()):
                self.layout.pinned.append(why)
        for name, labels in self._parameters.values():
            rooted = self._rooted(labels)
            axes = varying(rooted)
            own = set(np.unique(compact(rooted).numpy()).tolist())
            if len(axes) != 1 or not own <= producers:
                self.layout.fix(np.array(sorted(own), np.int64))
            else:
                self.layout.tensors[name] = labels.movedim(axes[0], 0).reshape(labels.shape[axes[0]], -1)[:, 0], axes[0]


def _plain(module: Any) -> bool:
    """Whether a layer's weight is a parameter, not computed before each run or by a parametrization."""
    return getattr(module, "weight", None) is None or "weight" in dict(module.named_parameters(recurse=False))
