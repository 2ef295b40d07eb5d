"""The inputs of a network's layers, one after the other, each layer run once however many are asked for."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
import torch.fx
from torch import nn

from prunopt.networks.cnn._tracing import traced
from prunopt.networks.cnn.inputs import Batch, Inputs, called, mapped, tensors_of
from prunopt.networks.cnn.watching import NORMS, in_evaluation, watching

ADDS = {operator.add, operator.iadd, torch.add, "add", "add_"}


def channels_last(x: Any) -> Any:
    """Return pictures with their channels side by side in memory: depthwise layers then take half the time.

    Networks that view them otherwise do not run on such pictures: see `run_last`.
    """
    if isinstance(x, Batch):
        return x.map(channels_last)
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def run_last(model: nn.Module, x: Any) -> Any:
    """Return what a network gives for pictures, laid out with their channels last where the network allows it."""
    if model not in _LAST:
        _LAST[model] = allows_last(model, x)
    return called(model, channels_last(x) if _LAST[model] else x)


def allows_last(model: nn.Module, x: Any, graph: torch.fx.GraphModule | None = None) -> bool:
    """Whether a network runs on pictures with their channels last: views of them in its own code may not."""
    if graph is not None and not any(n.op == "call_method" and n.target == "view" for n in graph.graph.nodes):
        return True
    try:
        with torch.no_grad(), in_evaluation(model):  # a norm that learns its statistics does so from other pictures
            called(model, channels_last(x[:1]))
    except RuntimeError:
        return False
    return True


_LAST: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()


class _Reached(Exception):
    """The layer that was waited for has its input: the rest of the network need not run."""


class Replay:
    """Pictures on their way through a network: `inputs` takes them to a layer and stops in front of it.

    A layer may be changed in place while the activations are before it. Between two calls only what later layers
    need is held. Networks that cannot be traced run from the start at every call.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Inputs], last: bool | None = None) -> None:
        self.model, self.batches = model.eval(), list(batches)
        self.graph: torch.fx.GraphModule | None = None
        self.nodes: list[torch.fx.Node] = []
        first = self.batches[0] if self.batches else None
        with suppress(Exception):  # torch.fx raises whatever a network's code does with a proxy
            self.graph = traced(model, len(first.arguments) if isinstance(first, Batch) else 1)
        self.last_allowed = allows_last(model, first, self.graph) if last is None else last
        if self.last_allowed:
            self.batches = [channels_last(x) for x in batches]
        if self.graph is None:
            return
        self.nodes = list(self.graph.graph.nodes)
        self.inputs_at = [i for i, n in enumerate(self.nodes) if n.op == "placeholder"]
        self.place = {n: i for i, n in enumerate(self.nodes)}
        self.last = {n: max([i, *(self.place[u] for u in n.users)]) for i, n in enumerate(self.nodes)}
        self._restart()

    def _restart(self) -> None:
        self.at = 0
        self.held: list[dict[torch.fx.Node, Any]] = [{} for _ in self.batches]

    def fork(self, model: nn.Module) -> Replay:
        """Return the same pictures at the same place of another network, which is the same up to here."""
        other = Replay(model, self.batches, self.last_allowed)
        if self.graph is not None and len(other.nodes) == len(self.nodes):
            other.at = self.at
            for mine, theirs in zip(self.held, other.held, strict=True):  # copies: operations may work in place
                theirs.update({other.nodes[self.place[n]]: _copied(v) for n, v in mine.items()})
        return other

    def outputs(self) -> list[torch.Tensor]:
        """Return what the network makes of all pictures: all of its outputs."""
        if self.graph is None:
            with torch.inference_mode():
                return joined([called(self.model, x) for x in self.batches])
        self._advance(len(self.nodes) - 1)
        source = self.nodes[-1].args[0]
        return joined([torch.fx.node.map_arg(source, held.__getitem__) for held in self.held])

    def inputs(self, name: str) -> list[torch.Tensor]:
        """Return what the module ``name`` reads, batch by batch."""
        node = self._node(name)
        if node is None:
            return [self._run_to(name, x) for x in self.batches]
        if self.place[node] < self.at:
            self._restart()
        self._advance(self.place[node])
        source = node.args[0]
        assert isinstance(source, torch.fx.Node)
        return [held[source] for held in self.held]

    def shortcuts(self, name: str) -> list[torch.Tensor] | None:
        """Return what is added to the output of the module in front of which `inputs` stopped, None if nothing is.

        A norm may stand between the module and the sum. None, too, where the other summand is not known yet.
        """
        node = self._node(name)
        for _ in range(2):
            if node is None or len(node.users) != 1:
                return None
            reader = next(iter(node.users))
            if reader.target in ADDS and reader.op in ("call_function", "call_method"):
                others = [a for a in reader.args if isinstance(a, torch.fx.Node) and a is not node]
                if len(others) != 1 or reader.kwargs or any(others[0] not in held for held in self.held):
                    return None
                return [held[others[0]] for held in self.held]
            if reader.op != "call_module" or not isinstance(self.model.get_submodule(str(reader.target)), NORMS):
                return None
            node = reader
        return None

    def norm_behind(self, name: str) -> Any:
        """Return the batch norm that reads a layer's output and nothing else does, None where there is none."""
        node = self._node(name)
        if node is None or len(node.users) != 1:
            return None
        reader = next(iter(node.users))
        module = self.model.get_submodule(str(reader.target)) if reader.op == "call_module" else None
        return module if isinstance(module, NORMS) else None

    def _node(self, name: str) -> torch.fx.Node | None:
        return next((n for n in self.nodes if n.op == "call_module" and n.target == name), None)

    @torch.inference_mode()
    def _advance(self, stop: int) -> None:
        assert self.graph is not None
        for k, x in enumerate(self.batches):
            held, runner = self.held[k], torch.fx.Interpreter(self.graph, garbage_collect_values=False)
            runner.env = held
            for i in range(self.at, stop):
                node = self.nodes[i]
                if node.op == "output":
                    continue
                held[node] = self._input(i, x) if node.op == "placeholder" else runner.run_node(node)
                for old in [n for n in held if self.last[n] <= i]:
                    del held[old]
        self.at = stop

    def _input(self, i: int, x: Inputs) -> Any:
        number, node = self.inputs_at.index(i), self.nodes[i]
        arguments = x.arguments if isinstance(x, Batch) else (x,)
        return arguments[number] if number < len(arguments) else node.args[0]

    @torch.inference_mode()
    def _run_to(self, name: str, x: Inputs) -> torch.Tensor:
        got: list[torch.Tensor] = []

        def stop(_: str, __: nn.Module, read: torch.Tensor) -> None:
            got.append(read.clone())
            raise _Reached

        with watching(self.model, [name], stop, inputs=True), suppress(_Reached):
            called(self.model, x)
        return got[0]


def _copied(value: Any) -> Any:
    return mapped(value, torch.Tensor.clone) if tensors_of(value) else value  # sizes, too, are values on the way


def joined(outputs: Sequence[Any]) -> list[torch.Tensor]:
    """Return all floating-point outputs of batches, one tensor for each, pictures along the first axis."""
    rows = [[t for t in tensors_of(out) if t.is_floating_point()] for out in outputs]
    return [torch.cat([t if t.ndim else t[None] for t in parts]) for parts in zip(*rows, strict=True)]
