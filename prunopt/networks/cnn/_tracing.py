"""The graph of a network, as far as its own code can be traced, and channels as numbers that are tied."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.fx
from torch import nn

from prunopt.core.arrays import Bools, Ints
from prunopt.networks.cnn.dropped_branches import Skipped, Through
from prunopt.networks.cnn.inputs import Batch, Inputs
from prunopt.networks.cnn.watching import CARRIERS, CONVOLUTIONS

OWN = "torch.nn."  # torch's modules are taken as they are
RECURRENT = (nn.MultiheadAttention, nn.RNNBase)


class Tracer(torch.fx.Tracer):
    """A tracer that takes torch's own modules, and layers with weights however subclassed, as they are.

    Modules of ``opaque`` names are not looked into.
    """

    place = ""
    proxy_buffer_attributes = True

    def __init__(
        self, opaque: frozenset[str] = frozenset(), example: Inputs | None = None, numbers: bool = False
    ) -> None:
        super().__init__()
        self.opaque, self.example, self.numbers = opaque, example, numbers
        self._running = False  # a value is asked for: the modules run as they are
        self._values: dict[torch.fx.Node, Any] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one operation."""
        if module_qualified_name in self.opaque or isinstance(m, torch.jit.ScriptModule):
            return True
        if isinstance(m, (*CONVOLUTIONS, nn.Linear, *CARRIERS, *RECURRENT, Skipped, Through)) or is_layer_norm(m):
            return True
        return m.__module__.startswith(OWN) and not any(True for _ in m.children())

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace into a module, and remember where an error came from."""
        if self._running:
            return forward(*args, **kwargs)
        outside, self.place = self.place, self.path_of_module(m)
        out = super().call_module(m, forward, args, kwargs)
        self.place = outside  # after an error the innermost name stays
        return out

    def proxy(self, node: torch.fx.Node) -> torch.fx.Proxy:
        """Return what stands for a value while the network's code runs."""
        if self.example is None:
            return torch.fx.Proxy(node, self)
        return _Shaped(node, self) if self.numbers else _Sized(node, self)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return an attribute of a module, which torch.fx puts a proxy in the place of."""
        return attr_val if self._running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def to_bool(self, obj: Any) -> bool:
        """Return a truth that depends on shapes, not on the numbers of a tensor."""
        value = None if self.example is None else self.value_of(obj.node)
        return bool(value) if isinstance(value, bool | int | float | str | tuple) else super().to_bool(obj)

    def iter(self, obj: Any) -> Any:
        """Return the parts of a shape, or of a tuple of tensors."""
        value = None if self.example is None else self.value_of(obj.node)
        return iter([obj[k] for k in range(len(value))]) if isinstance(value, tuple | list) else super().iter(obj)

    @torch.no_grad()
    def value_of(self, node: torch.fx.Node) -> Any:
        """Return the value of a node for the example."""
        if node not in self._values:
            args, kwargs = (torch.fx.node.map_arg(a, self.value_of) for a in (node.args, node.kwargs))
            self._running = True
            try:
                self._values[node] = self._run(node, args, kwargs)
            finally:
                self._running = False
        return self._values[node]

    def _run(self, node: torch.fx.Node, args: Any, kwargs: Any) -> Any:
        target: Any = node.target
        if node.op == "placeholder":
            given = self.example.arguments if isinstance(self.example, Batch) else (self.example,)
            at = [n for n in self.graph.nodes if n.op == "placeholder"].index(node)
            if str(target).startswith("*"):
                return tuple(given[at:]) if not str(target).startswith("**") else {}
            return given[at] if at < len(given) else node.args[0]
        if node.op == "get_attr":
            return operator.attrgetter(target)(self.root)
        if node.op == "call_module":
            return self.root.get_submodule(target)(*args, **kwargs)
        return getattr(args[0], target)(*args[1:], **kwargs) if node.op == "call_method" else target(*args, **kwargs)


class _Sized(torch.fx.Proxy):
    """A value whose shape the network's code may ask for, as a number."""

    def _number(self) -> Any:
        value = self.tracer.value_of(self.node)  # type: ignore[attr-defined]
        if not isinstance(value, int | float):
            raise torch.fx.proxy.TraceError(f"{self.node} is not a number that depends on shapes alone")
        return value

    def __index__(self) -> int:
        return operator.index(self._number())

    def __int__(self) -> int:
        return int(self._number())

    def __float__(self) -> float:
        return float(self._number())

    def __setitem__(self, at: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, at, value), {})


class _Shaped(_Sized):
    """A value whose shape is plain numbers, for code that makes tensors of them."""

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "ndim", "dtype", "device", "size", "dim", "numel"):
            return getattr(self.tracer.value_of(self.node), name)  # type: ignore[attr-defined]
        return super().__getattr__(name)

    def __len__(self) -> int:
        return len(self.tracer.value_of(self.node))  # type: ignore[attr-defined]


def is_layer_norm(module: nn.Module) -> bool:
    """Whether a module is a layer norm over one axis, torch's or one's own with the same attributes."""
    shape = getattr(module, "normalized_shape", None)
    if any(True for _ in module.children()) or not isinstance(shape, tuple | list | torch.Size) or len(shape) != 1:
        return False
    weight = getattr(module, "weight", None)
    return weight is None or tuple(weight.shape) == tuple(shape)


def traced(
    model: nn.Module, given: int | None = None, example: Inputs | None = None, *, numbers: bool = False
) -> torch.fx.GraphModule:
    """Return the graph of a network; a part whose code cannot be traced is one operation in it.

    Parameters
    ----------
    given
        How many inputs the network is called with: the rest keep their defaults. None: all that have no default.
    example
        An input, for code that asks for shapes: the graph is then one for inputs of these shapes.
    numbers
        Shapes are plain numbers: where they come from is not known.

    Raises
    ------
    Exception
        Whatever the code of the network itself does with a proxy; ``place`` of the error says where.
    """
    opaque: set[str] = set()
    defaults = {
        name: p.default
        for k, (name, p) in enumerate(inspect.signature(model.forward).parameters.items())
        if p.default is not p.empty and k >= (given or 0)
    }
    while True:
        tracer = Tracer(frozenset(opaque), example, numbers)
        try:
            graph = tracer.trace(model, concrete_args=defaults or None)
        except Exception as error:
            if not tracer.place or tracer.place in opaque:
                error.add_note(tracer.place)
                raise
            opaque.add(tracer.place)
            continue
        found = torch.fx.GraphModule(tracer.root, graph)  # the same modules, not copies
        found.meta["numbers"] = numbers
        return found


class Layout:
    """Channels as numbers, tied to one another; layers with the channels at both of their ends."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._tensor: list[int] = []  # the allocation that a channel comes from
        self._tied: list[tuple[int, int]] = []  # allocations that lie in one group
        self._fixed: set[int] = set()
        self._allocations = 0
        self.slots: dict[str, tuple[str, Ints, Ints, int, int]] = {}  # kind, ins, outs, positions, runs
        self.tensors: dict[str, tuple[Any, int]] = {}  # the channels of parameters that are used by themselves
        self.touched: list[tuple[str, Ints]] = []  # operations that are not followed, and the channels at them
        self.pinned: list[str] = []  # those of them whose channels layers write

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

    def is_fixed(self, channels: Ints) -> bool:
        """Whether none of the channels may be removed, as far as is known."""
        fixed = {self.root(i) for i in self._fixed}
        return all(self.root(i) in fixed for i in channels.tolist())

    def root(self, i: int) -> int:
        """Return the channel that stands for all that ``i`` is tied to."""
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def tie(self, a: Ints, b: Ints) -> None:
        """Make channels of two tensors one, place by place."""
        pairs = np.unique(np.stack([np.ravel(a), np.ravel(b)], 1), axis=0)
        for i, j in pairs.tolist():
            self._tied.append((self._tensor[i], self._tensor[j]))
            self._parent[self.root(i)] = self.root(j)

    def roots(self, labels: Ints) -> Ints:
        """Return the channels that stand for ``labels``."""
        known, at = np.unique(labels, return_inverse=True)
        return np.asarray(np.array([self.root(i) for i in known.tolist()], np.int64)[at]).reshape(labels.shape)

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
