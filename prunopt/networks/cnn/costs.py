"""What a network costs: parameters, bytes, multiply-adds, milliseconds; by layer and by the widths at its ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from prunopt.core import validate
from prunopt.core.arrays import Ints
from prunopt.networks.cnn.channel_groups import ChannelGroups, Slot, modules_of
from prunopt.networks.cnn.inputs import Inputs, called
from prunopt.networks.cnn.latency import LatencyTable, LayerShape, network_milliseconds
from prunopt.networks.cnn.watching import CONVOLUTIONS, TRANSPOSED, names_of, watching
from prunopt.problems.channel_widths import LayerCost

Sizes = dict[str, tuple[int, int]]


def measure(
    model: nn.Module,
    example: Inputs,
    resources: Sequence[str] = ("parameters", "macs", "latency_ms"),
    *,
    runtime: str = "torch",
    repeats: int = 15,
) -> dict[str, float]:
    """Return what a network takes: parameters, bytes of parameters, multiply-adds and milliseconds of ``example``.

    Multiply-adds are those of convolutions and linear layers, for one element of the batch.
    """
    kinds: dict[str, Callable[[], float]] = {
        "parameters": lambda: sum(p.numel() for p in model.parameters()),
        "bytes": lambda: sum(p.numel() * p.element_size() for p in model.parameters()),
        "macs": lambda: _macs(model, example),
        "latency_ms": lambda: network_milliseconds({"": model}, example, runtime, repeats=repeats)[""],
    }
    return {name: float(kinds[validate.one_of("resources", name, kinds)]()) for name in resources}


def _macs(model: nn.Module, example: Inputs) -> int:
    total, turned = 0, names_of(model, *TRANSPOSED)

    def add(_: str, module: Any, x: torch.Tensor) -> None:  # what it gives; of a transposed layer what it reads
        nonlocal total
        total += module.weight[0].numel() * x[0].numel()

    with (
        watching(model, [n for n in names_of(model, *CONVOLUTIONS, nn.Linear) if n not in turned], add),
        watching(model, turned, add, inputs=True),
        torch.no_grad(),
    ):
        called(model.eval(), example[:1])
    return total


def input_sizes(model: nn.Module, example: Inputs) -> Sizes:
    """Return height and width of what every convolution reads; (1, 1) for linear layers."""
    sizes: Sizes = {}

    def note(name: str, module: nn.Module, x: torch.Tensor) -> None:
        pictures = x.ndim == 4 and not isinstance(module, nn.Linear)
        sizes[name] = (int(x.shape[2]), int(x.shape[3])) if pictures else (1, int(np.prod(x.shape[2:], dtype=int)))

    with watching(model, names_of(model, *CONVOLUTIONS, nn.Linear), note, inputs=True), torch.no_grad():
        called(model.eval(), example[:1])
    return sizes


def slot_macs(module: Any, slot: Slot, ins: int, outs: int) -> int:
    """Return the multiply-adds of a layer with so many features at its ends."""
    if slot.kind == "norm":
        return 0
    if slot.kind == "linear":
        return ins * outs * slot.positions
    taps = int(np.prod(module.kernel_size)) * slot.positions
    each = 1 if slot.kind == "depthwise" else ins // int(module.groups)
    return taps * outs * each


def shape_of(module: Any, slot: Slot, ins: int, outs: int, sizes: Sizes, batch: int) -> LayerShape | None:
    """Return what a layer's time depends on; None for norms, which are folded, and for layers without channels."""
    if slot.kind == "norm" or ins == 0 or outs == 0:
        return None
    if slot.kind == "linear":
        return LayerShape("linear", ins, outs, 1, (1, 1), (1, 1), (1, 1), batch * slot.positions)
    groups = ins if slot.kind == "depthwise" else module.groups
    if not isinstance(module, nn.Conv2d):  # timed as the layer of two dimensions with as many multiply-adds
        taps = (1, int(np.prod(module.kernel_size)))
        return LayerShape("conv", ins, outs, groups, taps, (1, 1), (1, max(slot.positions, taps[1])), batch)
    (kh, kw), (sh, sw) = module.kernel_size, module.stride
    return LayerShape("conv", ins, outs, groups, (kh, kw), (sh, sw), sizes[slot.name], batch)


def layer_costs(
    model: nn.Module,
    groups: ChannelGroups,
    chosen: Sequence[int],
    widths: Sequence[Sequence[int]],
    *,
    resource: str = "macs",
    table: LatencyTable | None = None,
    example: Inputs | None = None,
    progress: Callable[[str], None] | None = None,
    features: Callable[[int, Ints, int], int] | None = None,
) -> list[LayerCost]:
    """Return the costs of all layers by the widths of ``chosen`` groups, for `ChannelWidths`.

    A layer that reads several groups (behind a concatenation) has one term for each of them: for multiply-adds and
    parameters their sum is exact; for milliseconds each group's share is measured with the others at full width.

    Parameters
    ----------
    chosen
        The groups whose width is to be chosen.
    widths
        The widths on offer for each of them: all channels that stay, fixed ones included.
    resource
        ``"macs"``, ``"parameters"``, ``"memory"`` (bytes of parameters) or ``"latency_ms"`` (needs ``table`` and
        ``example``).
    features
        ``features(group, channels, width)``: how many of a layer's features, given by their channels, stay at a
        width of their group. None: the same share of every layer.
    """
    modules, place = modules_of(model, groups), {g: i for i, g in enumerate(chosen)}
    full = np.bincount(groups.group)

    def kept(group: int, channels: Ints, width: int, count: int) -> int:
        if features is None or group not in place:
            return _features(width, full[group], count)
        return features(group, channels[groups.group[channels] == group], width)

    parts: list[tuple[Slot, int, int, float, list[list[tuple[int, int] | None]]]] = []
    for slot in groups.slots:
        if slot.kind == "norm" and resource not in ("parameters", "memory"):
            continue
        in_groups, in_counts = np.unique(groups.group[slot.ins], return_counts=True)
        out_groups, out_counts = np.unique(groups.group[slot.outs], return_counts=True)
        if slot.consumes:
            pairs = [
                (a, b, ca, cb)
                for a, ca in zip(in_groups, in_counts, strict=True)
                for b, cb in zip(out_groups, out_counts, strict=True)
            ]
        else:
            pairs = [(b, b, cb, cb) for b, cb in zip(out_groups, out_counts, strict=True)]
        for a, b, ca, cb in pairs:
            share = 1.0 if len(pairs) == 1 else float(ca * cb / sum(p[2] * p[3] for p in pairs))
            rows = [w for w in widths[place[a]]] if a in place else [int(full[a])]
            columns = [w for w in widths[place[b]]] if b in place else [int(full[b])]
            exact = resource != "latency_ms"
            others = (0, 0) if exact else (len(slot.ins) - int(ca), len(slot.outs) - int(cb))
            ends = [kept(a, slot.ins, w, ca) + others[0] for w in rows]
            behind = [kept(b, slot.outs, w, cb) + others[1] for w in columns]
            # of a layer whose ends are one group only the diagonal is possible
            sizes = [[(i, o) if a != b or r == c else None for c, o in enumerate(behind)] for r, i in enumerate(ends)]
            parts.append((slot, place.get(a, -1), place.get(b, -1), 1.0 if exact else share, sizes))
    if resource == "latency_ms":
        cost = _measured(parts, modules, model, table, example, progress)
    else:

        def cost(slot: Slot, ins: int, outs: int) -> float:
            if resource == "macs":
                return float(slot_macs(modules[slot.name], slot, ins, outs))
            module: Any = modules[slot.name]
            weight = getattr(module, "weight", None)
            size = weight.element_size() if resource == "memory" and weight is not None else 1
            return float(size * _parameters(module, slot, ins, outs))

    out = []
    for slot, a, b, share, sizes in parts:
        values = np.array([[0.0 if end is None else share * cost(slot, *end) for end in row] for row in sizes])
        out.append(LayerCost(a, b, values))
    return out


def _features(width: int, full: int, count: int) -> int:
    """How many features of a layer's end a group of ``width`` channels has, at ``count`` features in full."""
    return round(int(width) * int(count) / int(full))


def _measured(
    parts: Any, modules: Any, model: nn.Module, table: LatencyTable | None, example: Any, progress: Any
) -> Callable[[Slot, int, int], float]:
    if table is None or example is None:
        raise validate.invalid("table, example", 'be given for resource="latency_ms"', None)
    sizes, batch = input_sizes(model, example), len(example)

    def shape(slot: Slot, ins: int, outs: int) -> LayerShape | None:
        return shape_of(modules[slot.name], slot, ins, outs, sizes, batch)

    wanted = (shape(slot, *end) for slot, _, _, _, rows in parts for row in rows for end in row if end is not None)
    table.fill((s for s in wanted if s is not None), progress)

    def cost(slot: Slot, ins: int, outs: int) -> float:
        found = shape(slot, ins, outs)
        return 0.0 if found is None else table[found]

    return cost


def _parameters(module: Any, slot: Slot, ins: int, outs: int) -> int:
    if slot.kind == "norm":
        return outs * sum(getattr(module, part, None) is not None for part in ("weight", "bias"))
    bias = outs if module.bias is not None else 0
    if slot.kind == "linear":
        return ins * outs + bias
    taps = int(np.prod(module.kernel_size))
    return bias + taps * outs * (1 if slot.kind == "depthwise" else ins // module.groups)
